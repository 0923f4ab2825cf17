"""A transport that keeps on this machine what it read of storage elsewhere. SPEC §12.

What keys of packs, records and catalogs hold never changes (I0), so what was read once is right for ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from replicate.errors import KeyNotFoundError, StorageDeniedError
from replicate.threads import worker_pool
from replicate.transport.blocks import BLOCK_BYTES, WHOLE, BlockFolder, cut
from replicate.transport.protocol import KeyInfo, Range, Transport

_T = TypeVar("_T")
REQUEST_BYTES = 8 << 20
"""A request is never for more, so that some are under way at once and memory stays bounded."""
GAP_BYTES = 512 << 10
"""What lies between two ranges is read too if it is not more: it takes no longer than an answer (50 ms, 10 MB/s)."""
_AT_ONCE = 8
_SMALL_AT_ONCE = 32
_SMALL_BYTES = 1 << 20
_HELD_BYTES = 32 << 20
_HELD_WITHOUT_DISK = 128 << 20
_NEAR_BLOCKS = 4


@runtime_checkable
class _Dated(Protocol):
    def date(self) -> int:
        """Return the storage's time in ns; `StorageDeniedError` where only writing tells it."""


class CachingTransport:
    """Reads through a cache in a folder; everything else goes to the transport below. Safe to use from any thread.

    Args:
        inner: The store.
        folder: Where to keep blocks; made when there is one.
        limit_bytes: How large the folder may become, by and large: what was used least recently is deleted.
        begun: Listings that were asked for already, without details, by prefix; each is given out once.
    """

    def __init__(
        self, inner: Transport, folder: str, limit_bytes: int, begun: Mapping[str, Iterator[KeyInfo]] = {}
    ) -> None:
        self.inner = inner
        self._blocks = BlockFolder(folder, limit_bytes)
        self._begun = dict(begun)
        self._held: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    # -- the five verbs ------------------------------------------------------------------------------------------

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Transport.get`."""
        if end is not None and 0 <= start < end:
            if key.startswith("packs/"):
                return self._read_range(key, start, end)
            if start == 0 and key.startswith(("refs/", "cat/")):
                return self._read_whole(key, end)
        return self.inner.get(key, start, end)

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """See `Transport.put`."""
        self.inner.put(key, data, replace=replace)
        self.forget(key)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """See `Transport.list`."""
        begun = None if details else self._begun.pop(prefix, None)
        return begun or self.inner.list(prefix, details=details)

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """See `Transport.delete`."""
        gone = [*keys]
        left = self.inner.delete(gone)
        for key in gone:
            self.forget(key)
        return left

    def probe(self) -> int:
        """See `Transport.probe`. A reader's clock: nothing is written where the storage tells the time otherwise."""
        if isinstance(self.inner, _Dated):
            with contextlib.suppress(StorageDeniedError):
                return self.inner.date()
        return self.inner.probe()

    # -- reading ahead -------------------------------------------------------------------------------------------

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """See `ReadsAhead.prefetch`. At most 64 MiB are in memory at a time."""
        blocks: defaultdict[str, set[int]] = defaultdict(set)
        whole: dict[str, int] = {}
        for key, start, end in ranges:
            if key.startswith("packs/"):
                blocks[key].update(range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)))
            elif key.startswith(("refs/", "cat/")) and not self._has(key, WHOLE):
                whole[key] = end
        missing = {key: [one for one in sorted(found) if not self._has(key, one)] for key, found in blocks.items()}
        runs = [(key, *run) for key, numbers in missing.items() for run in _runs(numbers)]
        _all(lambda run: self._fetch(*run), runs, _AT_ONCE)
        is_small = all(size <= _SMALL_BYTES for size in whole.values())
        _all(lambda item: self._read_whole(*item), [*whole.items()], _SMALL_AT_ONCE if is_small else _AT_ONCE)

    def forget(self, key: str) -> bool:
        """See `ReadsAhead.forget`."""
        with self._lock:
            held = [one for one in self._held if one[0] == key]
            for one in held:
                self._held_bytes -= len(self._held.pop(one))
        return self._blocks.forget(key) or bool(held)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _read_whole(self, key: str, end: int) -> bytes:
        held = self._held_block(key, WHOLE)
        data = held if held is not None else self._blocks.read_whole(key)
        if data is None:
            data = self.inner.get(key, 0, end)
            if len(data) < end:  # that is all of it
                self._blocks.write(key, WHOLE, data)
                self._hold(key, WHOLE, data)
        return data[:end]

    def _read_range(self, key: str, start: int, end: int) -> bytes:
        first, stop = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        found: dict[int, bytes | memoryview] = {}
        for number in range(first, stop):
            held = self._held_block(key, number)
            if held is not None:
                found[number] = held
        if len(found) < stop - first:
            found = {**self._blocks.read(key, first, stop), **found}
        last = min((number for number, data in found.items() if len(data) < BLOCK_BYTES), default=stop)
        missing = [number for number in range(first, min(last, stop)) if number not in found]
        for begin, behind in _runs(missing, gap=0, most=stop):
            found |= self._fetch(key, begin, behind)
        if stop - first <= _NEAR_BLOCKS:  # of small reads the next one is near
            for number, block in found.items():
                self._hold(key, number, bytes(block))
        data = b"".join([found.get(number, b"") for number in range(first, min(last + 1, stop))])
        return data[start - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _fetch(self, key: str, first: int, stop: int) -> Mapping[int, memoryview]:
        """Return the blocks of a pack from `first` to `stop`, read by one request, and keep them."""
        data = memoryview(self.inner.get(key, first * BLOCK_BYTES, stop * BLOCK_BYTES))
        if not data:
            return {}
        self._blocks.write(key, first, data)
        found = dict(enumerate(cut(data), first))
        if not self._blocks.is_usable:
            for number, block in found.items():
                self._hold(key, number, bytes(block))
        return found

    def _has(self, key: str, number: int) -> bool:
        with self._lock:
            return (key, number) in self._held or self._blocks.has(key, number)

    def _held_block(self, key: str, number: int) -> bytes | None:
        with self._lock:
            data = self._held.get((key, number))
            if data is not None:
                self._held.move_to_end((key, number))
            return data

    def _hold(self, key: str, number: int, data: bytes) -> None:
        """Keep a block in memory for a while."""
        most = _HELD_BYTES if self._blocks.is_usable else _HELD_WITHOUT_DISK
        if len(data) > _SMALL_BYTES:
            return
        with self._lock:
            self._held_bytes += len(data) - len(self._held.pop((key, number), b""))
            self._held[key, number] = data
            while self._held_bytes > most:
                self._held_bytes -= len(self._held.popitem(last=False)[1])


def _runs(
    numbers: Sequence[int], *, gap: int = GAP_BYTES // BLOCK_BYTES, most: int = REQUEST_BYTES // BLOCK_BYTES
) -> Iterator[tuple[int, int]]:
    """Yield (first, behind the last) of blocks that are read at once: at most `gap` others lie between two of them."""
    begin = stop = -1
    for number in numbers:
        if stop >= 0 and (number - stop > gap or number + 1 - begin > most):
            yield begin, stop
            begin = stop = -1
        if stop < 0:
            begin = number
        stop = number + 1
    if stop >= 0:
        yield begin, stop


def _all(act: Callable[[_T], object], items: Sequence[_T], at_once: int) -> None:
    """Do something with every item, several at a time; what is not there is passed over."""

    def try_one(item: _T) -> None:
        with contextlib.suppress(KeyNotFoundError):
            act(item)

    if len(items) < 2:
        for item in items:
            try_one(item)
        return
    with worker_pool(min(at_once, len(items)), "replicate-fetch") as pool:
        for _ in pool.map(try_one, items):
            pass
