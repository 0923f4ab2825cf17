"""What `ctl/` of a store says: is it one, which one, and may this version publish there? SPEC §5.1, §5.2, §12.

One listing tells all of it. It counts as a validate for an hour, as a collector waits a day (I3): so the listing that a
push begins with serves its first records, and the one that confirms them serves the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from blake3 import blake3

from replicate.errors import ConflictError, StorageMissingError, StorageReplacedError
from replicate.host import Host
from replicate.repository import MARKER, MARKER_KEY, check_format, check_writable
from replicate.sync.transfer import place_of
from replicate.transport import LocalTransport, Transport

_VALID_NS = 3600 * 10**9
_STORE = "ctl/store~"
_PART = re.compile(
    r"ctl/v1|ctl/store~.*|packs/../[0-9a-f]{64}|refs/../[0-9a-f]{64}~.*|cat/[hf]~.*|beats/[0-9a-f]{64}~.*|probe/[0-9a-f]{32}.*",
    re.ASCII,
)


@runtime_checkable
class _Creatable(Protocol):
    def create(self) -> None:
        """Create the bucket that the store is to lie in."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which store lies somewhere: the ids of all that were united in it, and the collections that it forgot."""

    stores: frozenset[str]
    dropped: frozenset[str]

    def digest(self, place: str) -> str:
        """Return 32 hex digits that name what is known of this store at this place.

        Copies of a store have the same ids, so the place counts; of a folder also which one it is, as disks come and
        go at one path.
        """
        try:
            info = os.stat(place)
            place += f" {info.st_dev} {info.st_ino}"
        except (OSError, ValueError):  # no folder
            pass
        return blake3("\n".join([place, *sorted(self.stores), "", *sorted(self.dropped)]).encode()).hexdigest(16)


class Control:
    """Looks at the control keys of the store that is copied to. Raises when it may not be written to any more.

    Args:
        transport: The store.
        host: The clock.
    """

    def __init__(self, transport: Transport, host: Host) -> None:
        self._transport = transport
        self._host = host
        self.place = place_of(transport)
        self.identity, self._looked_at = self._look()
        if isinstance(transport, LocalTransport):
            transport.require_store()

    def validate(self) -> None:
        """Look again if the last look is too old to publish by.

        Raises:
            StorageReplacedError: It is another store than at first. UnsupportedFormatError: A newer version was there.
        """
        now = self._clock()
        if max(now[0] - self._looked_at[0], now[1] - self._looked_at[1]) > _VALID_NS:
            self.confirm()

    def confirm(self) -> None:
        """Look again; raises as `validate`."""
        try:
            identity, self._looked_at = self._look()
        except StorageMissingError as exc:
            raise self._replaced() from exc
        if not self.identity.stores <= identity.stores or identity.dropped != self.identity.dropped:
            raise self._replaced()

    def _replaced(self) -> StorageReplacedError:
        return StorageReplacedError(
            f"{self.place} was emptied or replaced meanwhile: what was copied there may be gone",
            key="ctl/",
            operation="list",
            hint="if that was meant, repeat: everything there is looked at anew",
        )

    def _look(self) -> tuple[Identity, tuple[int, int]]:
        looked_at = self._clock()
        names = read_control(self._transport)
        check_writable(names, self.place)
        return identity_of(names), looked_at

    def _clock(self) -> tuple[int, int]:
        """Return two clocks: one stands still while the machine sleeps, the other may be set."""
        return self._host.monotonic_ns(), self._host.now_ns()


def identity_of(names: Collection[str]) -> Identity:
    """Return which store has these control keys, without `ctl/`."""
    return Identity(
        frozenset(name for name in names if name.startswith("store~")),
        frozenset(name for name in names if name.startswith("x~")),
    )


def read_control(transport: Transport) -> Collection[str]:
    """Return the control keys of a store, without `ctl/`, in one request, unless its marker has an odd size.

    Raises:
        StorageMissingError: There is no store. UnsupportedFormatError: It is of a newer format.
        CorruptionError: Its marker is none.
    """
    place = place_of(transport)
    names = check_format(transport, place, by_size=True)
    if "v1" not in names:
        raise StorageMissingError(
            f"there is no store at {place}",
            operation="list",
            hint="correct the place, or make a store there with `replicate push --create`",
        )
    return names


def create_store(transport: Transport, host: Host) -> bool:
    """Make a store in an empty place, and the bucket around it if need be; return whether there was none.

    What a call before this one left half done is completed, and a store that has lost its control keys gets new ones.

    Raises:
        ConflictError: There are other things in that place. UnsupportedFormatError: It is of a newer format.
    """
    place = place_of(transport)
    try:
        is_store = _is_store(transport)
    except StorageMissingError:
        if not isinstance(transport, _Creatable):
            raise
        transport.create()
        is_store = _is_store(transport)
    if is_store:
        transport.put(MARKER_KEY, MARKER)  # it may be cut short, or not be durable yet (I1)
        return False
    for info in transport.list(""):
        if not _PART.fullmatch(info.key):
            raise ConflictError(
                f"{place} holds other things, such as {info.key}: no store is made among them",
                hint=f"name an empty place, such as {place.rstrip('/')}/replicate",
            )
    if not any(True for _ in transport.list(_STORE)):
        transport.put(f"{_STORE}{host.random(16).hex()}", b"")
    transport.put(MARKER_KEY, MARKER)
    return True


def _is_store(transport: Transport) -> bool:
    return "v1" in check_format(transport, place_of(transport))
