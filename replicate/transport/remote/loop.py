"""One event loop in one thread for each process: asynchronous storage, called from any thread.

A forked child gets a loop of its own: a thread does not live on in a child, and a connection must not be shared.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from replicate.threads import ended_by

T = TypeVar("T")


class _Current:
    """The loop of this process; another one after a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        if self.loop is None:  # who has used the loop never waits for the lock: it may be the collector of garbage
            with self.lock:
                if self.loop is None:
                    loop = asyncio.new_event_loop()
                    loop.set_exception_handler(_hear)
                    threading.Thread(target=loop.run_forever, name="replicate storage", daemon=True).start()
                    self.loop = loop
        return self.loop


def _hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out lost connections of what nobody waits for, as a client's task that was to send the rest of a request.

    Whoever made the request is told otherwise; logging it here would print it.
    """
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


_current = _Current()
_left_behind: list[_Current] = []  # of the parents, never to be closed here: they share their sockets with us


def _forget() -> None:
    global _current
    _left_behind.append(_current)
    _current = _Current()


os.register_at_fork(after_in_child=_forget)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and return what it returns. It is cancelled if the caller is interrupted."""
    return wait(start(work))


def wait(future: Future[T]) -> T:
    """Return what a coroutine that was begun returns. It is cancelled if the caller is interrupted."""
    try:
        with ended_by(future.cancel):
            return future.result()
    except BaseException:
        future.cancel()
        raise


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Begin a coroutine on the loop."""
    return asyncio.run_coroutine_threadsafe(work, _current.get())


async def in_thread(call: Callable[[], T]) -> T:
    """Make a call that blocks in a thread of its own.

    A call that outlives its time is left alone in its thread, which does not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, exc: BaseException | None) -> None:
        if future.done():
            return
        if exc is not None:
            future.set_exception(exc)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            result = call()
        except BaseException as exc:  # noqa: BLE001  (it is raised where the call is awaited)
            loop.call_soon_threadsafe(settle, None, exc)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=work, name="replicate storage call", daemon=True).start()
    return await future
