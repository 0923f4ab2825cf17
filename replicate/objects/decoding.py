"""What one frame stands for, given its payload and its base. SPEC §7, I6, I7.

Bytes may lie in memory that their thread uses again when it decodes something else.
"""

from __future__ import annotations

from replicate.errors import CorruptionError, UnsupportedFormatError
from replicate.objects.codecs import BASED, MAX_RAW_BYTES, Encoding, fill, patch, zstd
from replicate.objects.ids import Buffer, Kind, object_id
from replicate.objects.pack import Entry, Place

_WHOLE = frozenset(Encoding) - BASED - {Encoding.CONCAT}
_WEIGHTS = (Encoding.PLANES, Encoding.DELTA, Encoding.CAST)
_PATCHABLE = (Kind.BLOB, Kind.TREE)


def check_entry(entry: Entry, kind: Kind, where: str) -> None:
    """Check that a frame with this entry may hold a whole object of a kind, by what the entry alone tells (I7).

    Raises:
        CorruptionError, UnsupportedFormatError: It may not, or its encoding is one of a later version.
    """
    if entry.kind != kind:
        raise CorruptionError(f"{where} is damaged: it is not a {kind.name.lower()}", where=where)
    if entry.encoding == Encoding.CONCAT:
        raise CorruptionError(f"{where} is damaged: a list of chunks cannot stand here (I7)", where=where)
    if entry.encoding not in _WHOLE and entry.encoding not in BASED:
        raise UnsupportedFormatError(
            f"{where} is stored in encoding {entry.encoding}, which this version does not know",
            hint="upgrade replicate",
        )
    if (entry.depth == 0) != (entry.encoding in _WHOLE):
        raise CorruptionError(f"{where} is damaged: depth {entry.depth} does not fit its encoding", where=where)
    if entry.encoding not in (Encoding.RAW, Encoding.ZSTD) and kind not in _PATCHABLE:
        raise CorruptionError(f"{where} is damaged: a {kind.name.lower()} is stored raw or as zstd", where=where)
    if entry.encoding in _WEIGHTS and kind is not Kind.BLOB:
        raise CorruptionError(f"{where} is damaged: only blobs are stored as weights are", where=where)
    if entry.raw_length > MAX_RAW_BYTES:
        raise CorruptionError(f"{where} is damaged: {entry.raw_length:,} bytes are too large", where=where)


def apply(place: Place, payload: memoryview, base: Buffer) -> Buffer:
    """Return what the payload of a frame with a base stands for, given the base."""
    raw_length, where = place.entry.raw_length, place_name(place)
    if place.entry.encoding == Encoding.PATCH:
        return patch.decode(payload, raw_length, bytes(base), where)
    from replicate.objects.codecs import cast, delta  # load numpy

    decode = delta.decode_view if place.entry.encoding == Encoding.DELTA else cast.decode_view
    return decode(payload, raw_length, base, where)


def decode_whole(place: Place, payload: memoryview) -> Buffer:
    """Return what the payload of a frame without a base stands for."""
    entry, where = place.entry, place_name(place)
    if entry.encoding == Encoding.RAW:
        return payload
    if entry.encoding == Encoding.ZSTD:
        return zstd.decompress(payload, entry.raw_length, where)
    if entry.encoding == Encoding.FILL:
        return fill.decode(payload, entry.raw_length, where)
    from replicate.objects.codecs import planes  # loads numpy

    return planes.decode_view(payload, entry.raw_length, where)


def is_right(data: Buffer, place: Place, kind: Kind) -> bool:
    """Tell whether these bytes are the object that lies at a place."""
    return len(data) == place.entry.raw_length and object_id(kind, data) == place.entry.object_id


def verified(data: Buffer, place: Place, kind: Kind) -> Buffer:
    """Return an object's bytes, which are those that its id names, or raise (I6)."""
    if not is_right(data, place, kind):
        where = place_name(place)
        raise CorruptionError(f"{where} is damaged: its bytes do not match its id", where=where)
    return data


def place_name(place: Place) -> str:
    """Return how a place is called in errors: the kind, the object and the pack."""
    kind = Kind(place.entry.kind).name.lower()
    return f"{kind} {place.entry.object_id.hex()} in pack {place.pack.hex()}"
