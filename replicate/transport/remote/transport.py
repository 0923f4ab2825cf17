"""A store in a bucket or on a server: five verbs on one driver, with retries, limits of time, and errors that say what.

Tries are counted here and nowhere below: layers that each try again multiply. SPEC §12.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from replicate.errors import (
    KeyNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageMissingError,
    StorageUnreachableError,
)
from replicate.host import Host
from replicate.transport.protocol import KeyInfo, validate_key
from replicate.transport.remote import loop
from replicate.transport.remote.driver import DELETE_BATCH, Driver, Entry, Patience, Trouble
from replicate.transport.remote.location import Location

T = TypeVar("T")
_log = logging.getLogger(__name__)
_COMPARE_LIMIT = 1 << 20
_LARGEST = 256 << 20  # of what one get brings; a limit of time is made from it
_CLOSING_SECONDS = 2.0
_LONG_SECONDS = 10.0
_LONG_RATE = 1 << 20  # bytes per second, with others beside
_LONG_BYTES = 32 << 20  # at most: of a whole key the length is not known
_TOLD_EVERY = 60.0
_UNREACHABLE_HINT = "check the network and repeat; what is saved on this machine is safe"
_LOGIN_HINT = "check the credentials that this process finds"
_DENIED = {
    "write": "ask for permission to write objects",
    "read": "ask for permission to read objects; some storage says this of a key that is not there, unless it may list",
    "list": "ask for permission to list the bucket",
    "delete": "ask for permission to delete objects",
    "create": "ask for permission to create buckets, or let somebody create it",
}


class _Connection:
    """The driver of this process: made with the first request, and again in a forked child."""

    def __init__(self, connect: Callable[[], Awaitable[Driver]]) -> None:
        self._connect = connect
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._driver: Driver | None = None
        self._lock = asyncio.Lock()

    async def driver(self) -> Driver:
        if self._pid != os.getpid():
            self._renew()
        async with self._lock:
            if self._driver is None:
                self._driver = await self._connect()
            return self._driver

    def begin_to_close(self) -> Future[None] | None:
        """Give the connections back, without waiting: the collector of garbage may call this in any thread."""
        if self._driver is None or self._pid != os.getpid():
            return None
        closing = loop.start(self._driver.close())
        self._driver = None
        return closing

    def close(self) -> None:
        """Give the connections back."""
        closing = self.begin_to_close()
        if closing is not None:
            with contextlib.suppress(TimeoutError):
                closing.result(_CLOSING_SECONDS)


_open: weakref.WeakSet[_Connection] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is open at the end, lest libraries complain about it."""
    for connection in list(_open):
        connection.close()


class RemoteTransport:
    """The five verbs over fsspec.

    Beyond what `Transport` says: `put` makes one request for a new key, `get` one, `list` one for each 1,000 keys,
    `delete` one for each 1,000 on S3, `probe` three. `put` and `get` are given up after `patience`.

    A request that takes longer than 10 s, and a second more for each MiB that it moves, is logged (`logging`, level
    INFO), once a minute.

    Errors, beside `KeyNotFoundError` and `StorageFullError`: `StorageDeniedError` (credentials, permissions),
    `StorageMissingError` (no such bucket), `StorageUnreachableError` (no answer, or not to the end), and
    `StorageError` for what the storage refuses otherwise.

    Args:
        location: Where the store lies.
        connect: Makes the driver, on the loop.
        patience: How often and how long is tried.
        host: Randomness, for waits and probes.
    """

    def __init__(
        self,
        location: Location,
        connect: Callable[[], Awaitable[Driver]],
        *,
        patience: Patience | None = None,
        host: Host | None = None,
    ) -> None:
        self.location = location
        self.url = location.url
        self._above = f"{location.root}/" if location.root else ""
        self._patience = patience or Patience()
        self._has_answered = False
        self._told_at = -_TOLD_EVERY
        self._host = host or Host()
        self._connection = _Connection(connect)
        _open.add(self._connection)
        weakref.finalize(self, self._connection.begin_to_close).atexit = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Close connections, which otherwise happens when nobody holds the transport any more. It stays usable."""
        self._connection.close()

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """See `Transport.put`."""
        path = self._path(key)
        loop.run(self._put(key, path, bytes(data), replace))  # bytes: a request given up may still read them

    async def _put(self, key: str, path: str, data: bytes, replace: bool) -> None:
        async def put(driver: Driver) -> bool:
            try:
                await driver.put(path, data, only_new=not replace)
            except Trouble as exc:
                if exc.kind != "exists":
                    raise
                return False
            return True

        if await self._try("write", key, put, len(data)):
            return
        if not await self._holds(key, path, data):
            await self._try("write", key, lambda driver: driver.put(path, data, only_new=False), len(data))

    async def _holds(self, key: str, path: str, data: bytes) -> bool:
        """Tell whether a key holds `data`: by size, and by bytes up to 1 MiB."""
        is_small = len(data) <= _COMPARE_LIMIT
        try:
            held = await self._try("read", key, lambda driver: driver.get(path, 0, len(data) + 1 if is_small else 1))
        except KeyNotFoundError:
            return False
        return held.total == len(data) and (not is_small or held.data == data)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Transport.get`."""
        path = self._path(key)
        is_empty = end is not None and start >= 0 and 0 <= end <= start
        asked = (0, 1) if is_empty else (start, None if end is not None and end < 0 else end)
        size = _LARGEST if end is None or start < 0 or end < 0 else end - start
        found = loop.run(self._try("read", key, lambda driver: driver.get(path, *asked), size))
        if is_empty:
            return b""
        first, last, _ = slice(start, end).indices(found.total)
        if first == found.start and last - first == len(found.data):
            return found.data
        return found.data[max(0, first - found.start) : max(0, last - found.start)]

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """See `Transport.list`. A page that cannot be fetched raises when it is needed.

        The first page is asked for at once, and each following one while that before it is given out.
        """
        folder = prefix.rpartition("/")[0]
        if folder:
            validate_key(folder)
        if prefix.startswith("local/"):
            return iter(())
        return self._pages(prefix, loop.start(self._page(prefix, None)))

    def _pages(self, prefix: str, asked: Future[tuple[Sequence[Entry], str | None]]) -> Iterator[KeyInfo]:
        token: str | None = ""
        try:
            while token is not None:
                page, token = loop.wait(asked)
                if token is not None:
                    asked = loop.start(self._page(prefix, token))
                for entry in page:
                    key = entry.path.removeprefix(self._above)
                    if key and not key.endswith("/") and not key.startswith("local/"):
                        yield KeyInfo(key, entry.size, entry.time_ns)
        finally:
            asked.cancel()

    async def _page(self, prefix: str, token: str | None) -> tuple[Sequence[Entry], str | None]:
        return await self._try("list", prefix, lambda driver: driver.page(self._above + prefix, token))

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """See `Transport.delete`."""
        left: list[str] = []
        names = iter(keys)
        while batch := [self._path(key) for key in itertools.islice(names, DELETE_BATCH)]:
            left += loop.run(self._delete(batch))
        return [path.removeprefix(self._above) for path in left]

    async def _delete(self, paths: Sequence[str]) -> Sequence[str]:
        return await self._try("delete", "", lambda driver: driver.delete(paths))

    def probe(self) -> int:
        """See `Transport.probe`. Where writing is not allowed, it is the time of an answer, in whole seconds."""
        return loop.run(self._probe())

    async def _probe(self) -> int:
        path = f"{self._above}probe/{self._host.random(16).hex()}"
        try:
            time_ns = await self._try("write", "probe", lambda driver: driver.stamp(path))
        except StorageDeniedError:
            return await self._try("read", "probe", lambda driver: driver.date())
        with contextlib.suppress(StorageDeniedError):  # who may not delete leaves an empty key
            await self._try("delete", "probe", lambda driver: driver.delete([path]))
        return time_ns

    def date(self) -> int:
        """Return the storage's time in ns by one request that writes nothing, in whole seconds.

        Raises:
            StorageDeniedError: Only writing tells the time of this storage.
        """
        return loop.run(self._try("read", "probe", lambda driver: driver.date()))

    def create(self) -> None:
        """Create the bucket. One that exists and is ours is fine."""
        loop.run(self._try("create", "", lambda driver: driver.create_place()))

    def _path(self, key: str) -> str:
        return self._above + validate_key(key)

    async def _try(self, operation: str, key: str, act: Callable[[Driver], Awaitable[T]], size: int = 0) -> T:
        """Make a request until it succeeds, is refused, or was tried often enough; log when that takes long."""
        running = asyncio.get_running_loop()
        started = running.time()
        timer: asyncio.TimerHandle

        def tell() -> None:
            nonlocal timer
            self._tell_of_wait(running.time(), started)
            timer = running.call_later(_TOLD_EVERY, tell)

        timer = running.call_later(_LONG_SECONDS + min(size, _LONG_BYTES) / _LONG_RATE, tell)
        try:
            return await self._try_often(operation, key, act, size)
        finally:
            timer.cancel()

    def _tell_of_wait(self, now: float, started: float) -> None:
        """Log how long a request takes, once in a while: many may wait for the same."""
        if now - self._told_at >= _TOLD_EVERY:
            self._told_at = now
            _log.info("waiting for %s: a request has taken %d s so far", self.url, now - started)

    async def _try_often(self, operation: str, key: str, act: Callable[[Driver], Awaitable[T]], size: int) -> T:
        for attempt in itertools.count(1):
            limit = self._patience.limit(0)
            try:
                async with asyncio.timeout(limit):  # a person may have to log in
                    driver = await self._connection.driver()
                limit = self._present_patience.limit(size)
                async with asyncio.timeout(limit):
                    found = await act(driver)
                    self._has_answered = True
                    return found
            except TimeoutError:
                trouble = Trouble("unreachable", f"no answer within {limit:,.0f} s")
            except Trouble as exc:
                trouble = exc.with_traceback(None)  # which holds this frame, and what is to be put
                self._has_answered |= exc.kind != "unreachable"
            patience = self._present_patience
            if not trouble.is_passing or attempt >= patience.attempts:
                raise self._error(trouble, operation, key, attempt) from None  # it tells what there is to know
            await asyncio.sleep(self._wait(patience, attempt, trouble.wait))
        raise AssertionError("unreachable")

    @property
    def _present_patience(self) -> Patience:
        return (None if self._has_answered else self._patience.at_first) or self._patience

    def _wait(self, patience: Patience, attempt: int, asked: float) -> float:
        """Return seconds: twice as long each time, less a random part, so that many do not come back at once."""
        longest = min(patience.longest_wait, patience.first_wait * float(2 ** (attempt - 1)))
        part = int.from_bytes(self._host.random(2)) / 0xFFFF
        return max(longest * (0.5 + part / 2), min(asked, patience.longest_wait))

    def _error(self, trouble: Trouble, operation: str, key: str, attempts: int) -> Exception:
        where = f"{self.url}/{key}" if key else self.url
        said = f": {trouble.detail}" if trouble.detail else ""
        if trouble.kind == "absent" and operation in ("read", "write"):
            return KeyNotFoundError(f"{key} is not in the store", key=key)
        if trouble.kind in ("no place", "absent"):
            place = f"{self.location.scheme}://{self.location.place}"
            hint = "correct the URL, or `replicate push --create` makes it"
            return StorageMissingError(f"there is no {place}", key=key, operation=operation, hint=hint)
        if trouble.kind == "login":
            hint = trouble.hint or _LOGIN_HINT
            return StorageDeniedError(f"cannot log in to {self.url}{said}", key=key, operation=operation, hint=hint)
        if trouble.kind == "denied":
            hint = trouble.hint or _DENIED[operation]
            return StorageDeniedError(
                f"no permission to {operation} {where}{said}", key=key, operation=operation, hint=hint
            )
        if trouble.kind == "full":
            return StorageFullError(
                f"no space left to {operation} {where}{said}; the store is intact",
                needed_bytes=0,
                key=key,
                operation=operation,
                hint="free some space or raise the quota, and repeat",
            )
        if trouble.is_passing:
            often = f" ({attempts} tries)" if attempts > 1 else ""
            hint = trouble.hint or _UNREACHABLE_HINT
            return StorageUnreachableError(
                f"cannot {operation} {where}{said}{often}", key=key, operation=operation, hint=hint
            )
        hint = "set this machine's clock" if trouble.kind == "clock" else trouble.hint
        return StorageError(f"cannot {operation} {where}{said}", key=key, operation=operation, hint=hint or None)
