"""Two stores read as one: that of this machine, which is written to, and one elsewhere. SPEC §12.

The union of two stores is a store (I0), so whoever reads one reads both. What is here is never asked for there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from replicate.errors import KeyNotFoundError, ReplicateError, StorageError, StorageUnreachableError
from replicate.transport.protocol import KeyInfo, Range, ReadsAhead, Transport, prefetch

_SHARED = ("packs/", "refs/", "cat/")


class UnionTransport:
    """Packs, records and catalogs of two stores; everything else is the near one's. Safe to use from any thread.

    The far store is connected to when it is first needed. When that fails, or it answers no more, it is lost: from then
    on there is the near store alone. Only reading a pack that the near one lacks is an error then.

    Args:
        near: The store of this machine; what is written goes there.
        connect: Returns the other one.
        on_loss: Hears once why that cannot be read.
    """

    def __init__(
        self, near: Transport, connect: Callable[[], Transport], on_loss: Callable[[ReplicateError], None]
    ) -> None:
        self.near = near
        self._connect = connect
        self._on_loss = on_loss
        self._far: Transport | None = None
        self._loss: ReplicateError | None = None
        self._lock = threading.RLock()
        self._seen_far: set[str] = set()
        self._seen_near: set[str] = set()
        self._doubted: set[str] = set()

    @property
    def far(self) -> Transport | None:
        """The store elsewhere, connected to if it was not yet; None if it is lost."""
        with self._lock:
            if self._far is None and self._loss is None:
                try:
                    self._far = self._connect()
                except ReplicateError as exc:
                    self.lose(exc)
            return None if self._loss else self._far

    @property
    def loss(self) -> ReplicateError | None:
        """Why the far store could not be read, if so: there is the near one alone."""
        return self._loss

    def has_far(self, key: str) -> bool:
        """Tell whether the far store has listed a record or a catalog."""
        return key in self._seen_far

    def lose(self, error: ReplicateError) -> None:
        """Read nothing of the far store any more, for a reason."""
        with self._lock:
            if self._loss is None:
                self._loss = error
                self._on_loss(error)

    # -- the five verbs ------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """See `Transport.put`."""
        self.near.put(key, data, replace=replace)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Transport.get`.

        Raises:
            StorageUnreachableError: It is a pack that is not here, and the far store is lost.
        """
        if key not in self._doubted:
            try:
                return self.near.get(key, start, end)
            except KeyNotFoundError:
                if not key.startswith(_SHARED):
                    raise
                return self._get_far(key, start, end)
        try:
            return self._get_far(key, start, end)
        except (KeyNotFoundError, StorageError):
            return self.near.get(key, start, end)

    def _get_far(self, key: str, start: int, end: int | None) -> bytes:
        is_pack = key.startswith("packs/")
        if far := self.far:
            try:
                return far.get(key, start, end)
            except StorageError as exc:
                if is_pack:
                    raise
                self.lose(exc)  # who lists looks again, and finds what is here
        if is_pack and self._loss:
            raise StorageUnreachableError(
                f"{key} is not on this machine: {self._loss.message}",
                key=key,
                operation="read",
                hint=self._loss.hint,
            )
        raise KeyNotFoundError(f"{key} is not in the store", key=key)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """See `Transport.list`. Of a key that both have, size and time are those here."""
        there = self._list_far(prefix, details)  # asked for now, waited for when what is here was given out
        return self._joined(self.near.list(prefix, details=details), there)

    def _list_far(self, prefix: str, details: bool) -> Iterator[KeyInfo]:
        is_shared = any(prefix.startswith(one) or one.startswith(prefix) for one in _SHARED)
        if is_shared and (far := self.far):
            try:
                return far.list(prefix, details=details)
            except StorageError as exc:
                self.lose(exc)
        return iter(())

    def _joined(self, near: Iterator[KeyInfo], far: Iterator[KeyInfo]) -> Iterator[KeyInfo]:
        here = {info.key: info for info in near}
        yield from here.values()
        try:
            there = [info for info in far if info.key.startswith(_SHARED)]
        except StorageError as exc:
            self.lose(exc)
            return
        self._seen_far.update(info.key for info in there if not info.key.startswith("packs/"))
        yield from (info for info in there if info.key not in here)

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """See `Transport.delete`. Only what is here is deleted."""
        return self.near.delete(keys)

    def probe(self) -> int:
        """See `Transport.probe`. The near store's clock."""
        return self.near.probe()

    # -- reading ahead -------------------------------------------------------------------------------------------

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """See `ReadsAhead.prefetch`. What is here is not read."""
        far: Transport | ReadsAhead | None = self._far
        if self._loss or not (far is None or isinstance(far, ReadsAhead)):
            return
        lacking = [one for one in ranges if one.key.startswith(_SHARED) and not self._is_here(one.key)]
        other = self.far if lacking else None
        if other is not None:
            try:
                prefetch(other, lacking)
            except StorageError as exc:
                if any(one.key.startswith("packs/") for one in lacking):
                    raise
                self.lose(exc)

    def _is_here(self, key: str) -> bool:
        if key in self._doubted:
            return False
        if key not in self._seen_near:
            try:
                self.near.get(key, 0, 0)
            except KeyNotFoundError:
                return False
            self._seen_near.add(key)
        return True

    def forget(self, key: str) -> bool:
        """See `ReadsAhead.forget`. What is damaged here may be whole there: from now on that is read."""
        far: Transport | ReadsAhead | None = self._far
        is_kept = isinstance(far, ReadsAhead) and far.forget(key)
        if key.startswith(_SHARED) and self._is_here(key):
            self._doubted.add(key)
            return True
        self._seen_near.discard(key)
        return is_kept
