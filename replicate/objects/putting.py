"""Putting packs while the next ones fill. SPEC §6, §12."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from replicate.errors import KeyNotFoundError
from replicate.objects.ids import ObjectID
from replicate.objects.pack import NO_NONCE, Entry, PackBuffer, pack_key
from replicate.transport import Transport

_PUTS = 3
_SLICE_BYTES = 1 << 20


class PackPuts:
    """Seals full buffers and puts them, three at a time, in threads of its own.

    Called by one thread at a time. Three packs and the one that fills are in memory: buffers are used again.

    Args:
        transport: The store.
        random: Returns so many random bytes.

    Attributes:
        sealed: Id, length and entries of every pack that was put.
        meta: Of these, the meta packs.
    """

    def __init__(self, transport: Transport, random: Callable[[int], bytes]) -> None:
        self._transport = transport
        self._random = random
        self._spare: list[PackBuffer] = []
        self._putting: deque[Future[PackBuffer]] = deque()
        self._pool = ThreadPoolExecutor(_PUTS, "replicate-put")
        self.sealed: list[tuple[ObjectID, int, list[Entry]]] = []
        self.meta: list[ObjectID] = []

    def take_buffer(self) -> PackBuffer:
        """Return an empty buffer; waits for one if need be."""
        if not self._spare and len(self._putting) >= _PUTS:
            self._wait_first()
        return self._spare.pop() if self._spare else PackBuffer()

    def start(self, buffer: PackBuffer, *, is_meta: bool = False, is_own: bool = False) -> None:
        """Begin to put what a buffer holds, and take the buffer; an empty one is only taken.

        `is_own` tells that it holds pieces of one file alone, in the order of the file.
        """
        if buffer.is_empty:
            self._spare.append(buffer)
            return
        if len(self._putting) >= _PUTS:
            self._wait_first()
        self._putting.append(self._pool.submit(self._put, buffer, is_meta, is_own))

    def wait(self) -> None:
        """Return when every pack is durable; raise what a put raised."""
        while self._putting:
            self._wait_first()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _wait_first(self) -> None:
        self._spare.append(self._putting.popleft().result())

    def _put(self, buffer: PackBuffer, is_meta: bool, is_own: bool) -> PackBuffer:
        # Nothing but the file decides what its own packs hold, unless there are bases: so whoever saves the file makes
        # the same packs, and a store that two machines push to holds them once.
        is_reproducible = is_own and not any(entry.depth for entry in buffer.entries)
        pack, view = buffer.seal(NO_NONCE if is_reproducible else self._random(16), is_meta=is_meta)
        self._transport.put(pack_key(pack), view, replace=is_reproducible and self._is_torn(pack_key(pack), view))
        self.sealed.append((pack, len(view), buffer.entries))
        if is_meta:
            self.meta.append(pack)
        buffer.clear()
        return buffer

    def _is_torn(self, key: str, view: memoryview) -> bool:
        """Tell whether something else than this pack lies at its key. A put compares lengths: lost blocks escape it."""
        try:
            return any(
                self._transport.get(key, start, start + _SLICE_BYTES) != view[start : start + _SLICE_BYTES]
                for start in range(0, len(view), _SLICE_BYTES)
            )
        except KeyNotFoundError:
            return False
