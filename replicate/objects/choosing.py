"""Which encoding a blob gets, and which earlier version of it as a base: what a sample says is smaller. SPEC §7.

A wrong choice costs bytes and never content: every encoding gives back the same object under the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from replicate.objects.codecs import Encoding, fill, zstd
from replicate.objects.codecs.concat import Chunk
from replicate.objects.cutting import Piece, Read, cut_file
from replicate.objects.ids import Buffer, ObjectID
from replicate.objects.pack import Place

MAX_DEPTH = 8
"""Of what is written here. A dense delta of 1 GB takes most of a second to apply; readers take 255 (I7)."""
MIN_CUT_BYTES = 64 << 10
"""Smaller files are stored whole, and no base is looked for."""
_MIN_WEIGHT_BYTES = 4 << 10
_DELTA_GAIN = 0.98
_ZSTD_GAIN = 0.95
_SAMPLE_BYTES = 16 << 10

PieceKey = tuple[str | None, int]


class Earlier(NamedTuple):
    """An earlier version of a file, on which a later one may be stored as differences.

    Attributes:
        pieces: Its chunks, by tensor and part.
        links: How many links of a chunk's chain of bases to climb before one is taken, see `links_of`.
        read: Returns a chunk's bytes, verified, where they are at hand without decoding; None elsewhere. Any thread
            may call it.
    """

    pieces: Mapping[PieceKey, Chunk]
    links: int = 0
    read: Callable[[ObjectID, int], bytes | None] = lambda wanted, length: None


class Encoded(NamedTuple):
    """A frame's encoding, depth and payload; and its base, if it has one."""

    encoding: Encoding
    depth: int
    payload: Buffer
    base: ObjectID | None = None


def cut(size_bytes: int, read: Read) -> Sequence[Piece]:
    """Return the pieces that a file is stored in: none for a small one, which is stored whole. Reads as `cut_file`."""
    return cut_file(size_bytes, read) if size_bytes >= MIN_CUT_BYTES else ()


def links_of(generation: int) -> int:
    """Return how many links to climb for the base of the n-th version of something.

    Version g is stored on version g & (g - 1), which clears the lowest bit that is set, so no chain is longer than
    log2(g) + 1. That version is in the chain of version g - 1, as many links up as g - 1 ends in ones. So the number of
    the save is all that has to be known, and where versions are left out, as nothing changed, chains stay short.
    """
    before = generation - 1
    return (~before & (before + 1)).bit_length() - 1 if before >= 0 else 0


def climb(chain: Sequence[Place], links: int) -> Sequence[Place]:
    """Return the part of a chain, from the last version to one without a base, that begins with the base to take."""
    number = min(links, len(chain) - 1)
    return chain[number:] if chain[number].entry.depth < MAX_DEPTH else chain[-1:]


def is_base(data: Buffer, item_bytes: int, base: Buffer) -> bool:
    """Tell whether weights are worth storing as differences to others of the same length, as a sample says."""
    from replicate.objects.codecs import delta, planes  # load numpy

    return delta.sampled_bits(data, item_bytes, base) < _DELTA_GAIN * planes.sampled_bits(data, item_bytes)


def encode(
    data: Buffer,
    piece: Piece | None,
    find_base: Callable[[], tuple[Place, Buffer] | None],
    *,
    ordered: bool = False,
) -> Encoded:
    """Return the smallest encoding of a blob of at most 4 MiB, as samples tell.

    Args:
        data: The blob.
        piece: What is known of it, if it is a piece of a file with tensors.
        find_base: Returns an earlier version and its bytes; asked only if it may be of use.
        ordered: Whether to try ordering differences by the base's exponents: smaller, and slow (SPEC §7.2).
    """
    item = fill.encode(data)
    if item is not None:
        return Encoded(Encoding.FILL, 0, item)
    if piece is not None and piece.tensors and len(data) >= _MIN_WEIGHT_BYTES:
        found = _encode_weights(data, piece.item_bytes, find_base(), ordered)
        if found is not None:
            return found
    payload = zstd.encode(data)
    return Encoded(Encoding.RAW, 0, data) if payload is None else Encoded(Encoding.ZSTD, 0, payload)


def _encode_weights(data: Buffer, item_bytes: int, base: tuple[Place, Buffer] | None, ordered: bool) -> Encoded | None:
    """Return a delta or planes, or None if zstd is likely to do better, or nothing helps."""
    from replicate.objects.codecs import delta, planes  # load numpy

    if base is not None and len(base[1]) == len(data) and is_base(data, item_bytes, base[1]):
        place, base_data = base
        payload = delta.encode(data, item_bytes, place.entry.object_id, base_data, ordered=ordered)
        if payload is not None:
            return Encoded(Encoding.DELTA, place.entry.depth + 1, payload, place.entry.object_id)
    if _zstd_share(data) < _ZSTD_GAIN * planes.sampled_bits(data, item_bytes) / (8 * item_bytes):
        return None
    payload = planes.encode(data, item_bytes)
    return None if payload is None else Encoded(Encoding.PLANES, 0, payload)


def _zstd_share(data: Buffer) -> float:
    """Return what share of its bytes a blob takes as zstd, as a sample from its middle tells."""
    view = memoryview(data)
    start = max(0, (len(view) - _SAMPLE_BYTES) // 2)
    sample = view[start : start + _SAMPLE_BYTES]
    payload = zstd.encode(sample)
    return 1.0 if payload is None else len(payload) / len(sample)
