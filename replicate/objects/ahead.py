"""Telling a transport which ranges the reading of objects will need, before it is done. SPEC §12.

Only advice: what is read is checked by who reads it. A transport that has no use for advice is not given any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from replicate.errors import KeyNotFoundError
from replicate.objects.codecs import BASED, Encoding
from replicate.objects.ids import ID_BYTES, Kind, ObjectID
from replicate.objects.locator import Locations
from replicate.objects.pack import FRAME, Place, pack_key
from replicate.threads import worker_pool
from replicate.transport import Range, ReadsAhead, Transport

WINDOW_BYTES = 32 << 20
"""So much is asked for at once, without the bases that it lies on, while as much is decoded."""

_T = TypeVar("_T")


class Ahead:
    """Advises one transport. Safe to use from any thread.

    Args:
        transport: The store.
        locations: Where its objects lie.
    """

    def __init__(self, transport: Transport, locations: Locations) -> None:
        self._transport = transport
        self._locations = locations
        self.is_useful = isinstance(transport, ReadsAhead)

    def expect(self, wanted: Iterable[ObjectID], kind: Kind = Kind.BLOB) -> None:
        """Have objects read, and what they build on: as many rounds as the deepest of them is deep (I7)."""
        places = self._first_places(wanted, kind)
        seen = {place.entry.object_id for place in places}
        while places:
            self._read(places)
            bases = []
            for place in places:
                base = self._base_of(place) if place.entry.encoding in BASED else None
                if base is not None and base.entry.object_id not in seen:
                    seen.add(base.entry.object_id)
                    bases.append(base)
            places = bases

    def expect_all(self, places: Iterable[Place]) -> None:
        """Have all trees and lists of chunks read that some places tell of: they are small and lie together."""
        self._read(
            [place for place in places if place.entry.kind == Kind.TREE or place.entry.encoding == Encoding.CONCAT]
        )

    def in_windows(self, items: Sequence[_T], needs: Callable[[_T], Sequence[ObjectID]]) -> Iterator[_T]:
        """Yield items that need some blobs to be read, in this order, while what is needed next is fetched."""
        if not self.is_useful:
            yield from items
            return
        with worker_pool(1, "replicate-ahead") as pool:
            windows = self._windows(items, needs)
            window, needed = next(windows, ([], []))
            coming = pool.submit(self.expect, needed)
            while window:
                coming.result()
                following, needed = next(windows, ([], []))
                coming = pool.submit(self.expect, needed)
                yield from window
                window = following

    def _windows(
        self, items: Sequence[_T], needs: Callable[[_T], Sequence[ObjectID]]
    ) -> Iterator[tuple[list[_T], list[ObjectID]]]:
        window: list[_T] = []
        needed: list[ObjectID] = []
        size = 0
        for item in items:
            own = needs(item)
            size += sum(place.entry.length for place in self._first_places(own, Kind.BLOB))
            window.append(item)
            needed += own
            if size >= WINDOW_BYTES:
                yield window, needed
                window, needed, size = [], [], 0
        if window:
            yield window, needed

    def _first_places(self, wanted: Iterable[ObjectID], kind: Kind) -> list[Place]:
        found = (next((one for one in self._locations.find(each) if one.entry.kind == kind), None) for each in wanted)
        return [place for place in found if place is not None]

    def _base_of(self, place: Place) -> Place | None:
        """Return where the base lies that a reader tries first."""
        begin = place.entry.offset + FRAME.size
        try:
            base = self._transport.get(pack_key(place.pack), begin, begin + ID_BYTES)
        except KeyNotFoundError:
            return None
        if len(base) != ID_BYTES:
            return None
        places = [
            one
            for one in self._locations.find(ObjectID(base))
            if one.entry.kind == place.entry.kind and one.entry.depth < place.entry.depth
        ]
        return min(places, key=lambda one: one.entry.depth, default=None)

    def _read(self, places: Iterable[Place]) -> None:
        if isinstance(self._transport, ReadsAhead):
            self._transport.prefetch(
                [
                    Range(pack_key(place.pack), place.entry.offset, place.entry.offset + place.entry.length)
                    for place in places
                ]
            )
