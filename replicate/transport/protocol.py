"""The seam to storage: what a store needs of a disk or a bucket, and no more.

There is no conditional write, rename, lock or copy: SPEC I0 makes them unnecessary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from replicate.errors import CorruptionError, InvalidInputError

_T = TypeVar("_T")
_KEY = re.compile(r"[a-z0-9_~.\-]{1,255}(/[a-z0-9_~.\-]{1,255})*", re.ASCII)


class KeyInfo(NamedTuple):
    """One key of a listing. Size in bytes and storage time in ns since 1970; None where the storage does not tell."""

    key: str
    size: int | None
    time_ns: int | None


class Transport(Protocol):
    """Moves whole keys. Every method may be called from any thread.

    Errors: `KeyNotFoundError` for a key that is not there, `StorageFullError` and `StorageError` for the rest. After
    any error the caller may repeat the call.
    """

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """Make `key` hold `data`, durable on return.

        Write-once: a key that holds the same bytes already is left alone; one that holds others is a torn write and
        is replaced. `replace` is for heartbeats only. A reader sees nothing or everything, never a part.
        """

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` to `end` (exclusive; None: to the end). A negative start counts from the end.

        What lies beyond the end is left out, as in a slice.
        """

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """Yield the keys that begin with `prefix`, in no order. `local/` is never listed (SPEC §5).

        Without `details` size and time may be None where asking for them would cost more than the names.
        """

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """Delete keys and return those that are still there afterwards. A key that was not there counts as deleted."""

    def probe(self) -> int:
        """Return the storage's own time in ns since 1970."""


class Range(NamedTuple):
    """Bytes of a key that are going to be read; see `Transport.get`."""

    key: str
    start: int
    end: int


@runtime_checkable
class ReadsAhead(Protocol):
    """What a transport can do beside the five verbs that keeps what it read, as storage elsewhere is slow to answer."""

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Read ranges that `get` will be asked for soon: those near to one another at once, several at a time.

        Keys that are not there are passed over. Raises `StorageError` as `get` does.
        """

    def forget(self, key: str) -> bool:
        """Keep nothing of a key any more; tell whether anything of it was kept."""


def prefetch(transport: Transport, ranges: Sequence[Range]) -> None:
    """Tell a transport what will be read, if that is any use to it."""
    if ranges and isinstance(transport, ReadsAhead):
        transport.prefetch(ranges)


def read_sound(transport: Transport, key: str, read: Callable[[], _T]) -> _T:
    """Return what `read` makes of a key. When that is damaged, it is read once more without what was kept of it."""
    try:
        return read()
    except CorruptionError:
        if not (isinstance(transport, ReadsAhead) and transport.forget(key)):
            raise
    return read()


def is_url(place: str) -> bool:
    """Tell whether a store's place is a URL, not the path of a folder."""
    return "://" in place


def validate_key(key: str) -> str:
    """Return `key` if it is a key that every storage can hold (SPEC §5), else raise `InvalidInputError`."""
    if not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
        raise InvalidInputError(f"not a storage key: {key!r}")
    return key
