"""Many things at a time, but only so many bytes. SPEC §12.

A generator that is left half-way may be closed by the collector of garbage: in any thread, at any moment, also while it
holds the locks of `threading`. Who waited for a thread there would wait for ever, and so would every start of a thread.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from replicate.errors import ReplicateError

DEFAULT_JOBS = 8
MAX_HELD_BYTES = 192 << 20
_AGAIN_SECONDS = 0.1

T = TypeVar("T")
R = TypeVar("R")


_local = threading.local()
_waits: dict[object, tuple[threading.Thread, bool, Callable[[], object]]] = {}


@contextlib.contextmanager
def ended_by(end: Callable[[], object]) -> Iterator[None]:
    """Tell how this thread's wait in a `with` block is ended, where whoever waits for the thread is interrupted."""
    token = object()
    _waits[token] = (threading.current_thread(), getattr(_local, "is_worker", False), end)
    try:
        yield
    finally:
        _waits.pop(token, None)


@contextlib.contextmanager
def worker_pool(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool for a `with` block. At its end nothing is begun any more, and what was begun is waited for.

    Where the block is interrupted, what its threads wait for is ended. Where it ends because the generator that it
    stands in is closed, nothing is waited for.
    """
    threads: set[threading.Thread] = set()

    def begin() -> None:
        _local.is_worker = True
        threads.add(threading.current_thread())

    pool = ThreadPoolExecutor(workers, name, initializer=begin)
    try:
        with ended_by(lambda: _end_waits(threads)):  # it may be used in another pool's thread
            yield pool
    except GeneratorExit:
        pool.shutdown(wait=False, cancel_futures=True)
        _end_waits(threads)  # Python itself waits for threads when it ends
        raise
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        while alive := {one for one in threads if one.is_alive()}:
            _end_waits(None)  # of all pools: one's thread may wait for what another's reads
            next(iter(alive)).join(_AGAIN_SECONDS)  # it may have begun to wait for something else
        raise
    pool.shutdown()


def _end_waits(threads: Collection[threading.Thread] | None) -> None:
    """End what some threads wait for, with None those of all pools."""
    for thread, is_worker, end in list(_waits.values()):
        if is_worker if threads is None else thread in threads:
            end()


def side_by_side(
    tasks: Iterable[tuple[T, int]],
    act: Callable[[T], R],
    jobs: int,
    *,
    in_order: bool = False,
    is_over: Callable[[], bool] = lambda: False,
    most_bytes: int | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> Iterator[tuple[T, R | ReplicateError]]:
    """Do tasks in threads and yield what became of each, in the order in which they end.

    Args:
        tasks: Each with the bytes that it holds in memory, until what became of it was taken.
        act: Does one; a `ReplicateError` that it raises is yielded, anything else ends it all.
        jobs: How many at a time.
        in_order: Yield in the order of the tasks.
        is_over: Once it is true nothing is begun any more; what was begun is yielded.
        most_bytes: How much they may hold together, by default 192 MiB; a task that holds more is done alone.
        pool: Of as many threads, for who has to wait for them also where it is interrupted; else there is one.
    """
    most_bytes = MAX_HELD_BYTES if most_bytes is None else most_bytes
    waiting = deque(tasks)
    running: dict[Future[R], tuple[T, int]] = {}
    held = 0
    with worker_pool(jobs, "replicate-side") if pool is None else contextlib.nullcontext(pool) as workers:
        while waiting or running:
            while waiting and len(running) < jobs and (not running or held + waiting[0][1] <= most_bytes):
                if is_over():
                    waiting.clear()
                    break
                task, size = waiting.popleft()
                running[workers.submit(act, task)] = (task, size)
                held += size
            ended = wait(list(running)[:1] if in_order else running, return_when=FIRST_COMPLETED).done
            while ended:
                future = ended.pop()
                task, size = running.pop(future)
                outcome = _outcome(future)
                yield task, outcome
                del future, outcome
                held -= size


def _outcome(future: Future[R]) -> R | ReplicateError:
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, ReplicateError):
        raise error
    cause: BaseException | None = error
    while cause is not None:  # errors are kept until all is done: not with the packs that their frames hold
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return error
