"""What a save may rely on instead of storing it: the places of an object and of all that decoding it needs. I1, I7."""

from __future__ import annotations

from collections.abc import Sequence

from replicate.objects.codecs import BASED, Encoding, base_id, concat
from replicate.objects.ids import ID_BYTES, ObjectID
from replicate.objects.locator import Locations
from replicate.objects.pack import FRAME, Place, frame_payload, pack_key
from replicate.transport import Transport

_ANY_DEPTH = 256


def reusable(transport: Transport, index: Locations, wanted: ObjectID) -> list[Place] | None:
    """Return sound places of an object and of all that it refers to, or None when one is lacking."""
    for place in sorted(index.find(wanted), key=lambda one: one.entry.depth):
        if place.entry.encoding != Encoding.CONCAT:
            links = chain(transport, index, wanted)
            if links is not None:
                return links
            continue
        needed = {wanted: place}
        for chunk in dict.fromkeys(references(transport, place)):
            links = chain(transport, index, chunk)
            if links is None:
                break
            needed.update((link.entry.object_id, link) for link in links if link.entry.object_id not in needed)
        else:
            return list(needed.values())
    return None


def chain(transport: Transport, index: Locations, wanted: ObjectID) -> list[Place] | None:
    """Return the places of an object, of its base, of the base's base, to one without; None when one is lacking."""
    found: list[Place] = []
    below = _ANY_DEPTH
    while True:
        places = [
            one for one in index.find(wanted) if one.entry.depth < below and one.entry.encoding != Encoding.CONCAT
        ]
        if not places:
            return None
        place = min(places, key=lambda one: one.entry.depth)
        found.append(place)
        if not place.entry.depth:
            return found
        if place.entry.encoding not in BASED:
            return None
        below = place.entry.depth
        wanted = _base_of(transport, place)


def references(transport: Transport, place: Place) -> Sequence[ObjectID]:
    """Return what decoding the frame at `place` needs: the chunks of a concat, the base of what has one."""
    entry = place.entry
    if entry.encoding in BASED:
        return [_base_of(transport, place)]
    if entry.encoding != Encoding.CONCAT:
        return []
    where = f"pack {place.pack.hex()}"
    frame = transport.get(pack_key(place.pack), entry.offset, entry.offset + entry.length)
    return [chunk.object_id for chunk in concat.decode(frame_payload(frame, entry, where), entry.raw_length, where)]


def _base_of(transport: Transport, place: Place) -> ObjectID:
    """Return the base that a frame names. The rest of it, which may be 4 MiB, is not read."""
    start = place.entry.offset + FRAME.size
    end = min(start + ID_BYTES + 1, place.entry.offset + place.entry.length)
    return base_id(transport.get(pack_key(place.pack), start, end), f"pack {place.pack.hex()}")
