"""Which encoding a blob gets, and which earlier version of it as a base: what a sample says is smaller. SPEC §7.

A wrong choice costs bytes and never content: every encoding gives back the same object under the same id.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from replicate.objects.codecs import Encoding, fill, zstd
from replicate.objects.codecs.concat import Chunk
from replicate.objects.cutting import Piece, Read, cut_file
from replicate.objects.ids import Buffer, ObjectID, blob_id
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
        masters: Chunks of 32-bit floats that may round to the 16-bit ones of the later file, by tensor and part.
    """

    pieces: Mapping[PieceKey, Chunk]
    links: int = 0
    read: Callable[[ObjectID, int], bytes | None] = lambda wanted, length: None
    masters: Mapping[PieceKey, Chunk] = MappingProxyType({})


class BaseBlob(NamedTuple):
    """A blob that another may be stored on: its id, its depth, its bytes."""

    object_id: ObjectID
    depth: int
    data: Buffer


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
    """Return the part of a chain, from the last version to one without a base, that begins with the base to take.

    What a 16-bit version is rounded from, which is twice as long, is no base of a later one: nothing is returned where
    only that would do.
    """
    versions = list(itertools.takewhile(lambda place: place.entry.raw_length == chain[0].entry.raw_length, chain))
    number = min(links, len(versions) - 1)
    if chain[number].entry.depth >= MAX_DEPTH:
        number = len(versions) - 1
    return chain[number:] if chain[number].entry.depth < MAX_DEPTH else ()


def is_base(data: Buffer, item_bytes: int, base: Buffer) -> bool:
    """Tell whether weights are worth storing as differences to others of the same length, as a sample says."""
    from replicate.objects.codecs import delta, planes  # load numpy

    return delta.sampled_bits(data, item_bytes, base) < _DELTA_GAIN * planes.sampled_bits(data, item_bytes)


def is_cast(data: Buffer, master: Buffer) -> bool:
    """Tell whether 16-bit floats are, bit for bit, what as many 32-bit ones round to."""
    from replicate.objects.codecs import cast  # loads numpy

    return cast.encode(data, blob_id(b""), master) is not None


def encode(
    data: Buffer,
    piece: Piece | None,
    find_base: Callable[[], BaseBlob | None],
    find_master: Callable[[], BaseBlob | None] = lambda: None,
    *,
    ordered: bool = False,
) -> Encoded:
    """Return the smallest encoding of a blob of at most 4 MiB, as samples tell.

    Args:
        data: The blob.
        piece: What is known of it, if it is a piece of a file with tensors.
        find_base: Returns an earlier version; asked only if it may be of use, and last.
        find_master: Returns what it may be rounded from.
        ordered: Whether to try ordering differences by the base's exponents: smaller, and slow (SPEC §7.2).
    """
    item = fill.encode(data)
    if item is not None:
        return Encoded(Encoding.FILL, 0, item)
    if piece is not None and piece.tensors and len(data) >= _MIN_WEIGHT_BYTES:
        found = _encode_cast(data, find_master()) if piece.item_bytes == 2 else None
        found = found or _encode_weights(data, piece.item_bytes, find_base(), ordered)
        if found is not None:
            return found
    payload = zstd.encode(data)
    return Encoded(Encoding.RAW, 0, data) if payload is None else Encoded(Encoding.ZSTD, 0, payload)


def _encode_cast(data: Buffer, master: BaseBlob | None) -> Encoded | None:
    """Return a cast, or None if the blob is not exactly what the master rounds to."""
    from replicate.objects.codecs import cast  # loads numpy

    payload = cast.encode(data, master.object_id, master.data) if master is not None else None
    if master is None or payload is None:
        return None
    return Encoded(Encoding.CAST, master.depth + 1, payload, master.object_id)


def _encode_weights(data: Buffer, item_bytes: int, base: BaseBlob | None, ordered: bool) -> Encoded | None:
    """Return a delta or planes, or None if zstd is likely to do better, or nothing helps."""
    from replicate.objects.codecs import delta, planes  # load numpy

    if base is not None and len(base.data) == len(data) and is_base(data, item_bytes, base.data):
        payload = delta.encode(data, item_bytes, base.object_id, base.data, ordered=ordered)
        if payload is not None:
            return Encoded(Encoding.DELTA, base.depth + 1, payload, base.object_id)
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
