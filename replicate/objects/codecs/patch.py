"""Encoding 7: a zstd frame whose dictionary is another object of the same kind. SPEC §7.

Made for trees: the ids of a large folder do not compress, yet two saves differ in a few of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import zstandard

from replicate.objects.codecs import zstd
from replicate.objects.ids import ID_BYTES, Buffer, ObjectID

MIN_BYTES = 4 << 10


@dataclass(frozen=True, slots=True)
class PatchBase:
    """A tree that is stored whole, in the closure of the commit that it comes with."""

    tree: ObjectID
    data: bytes


def encode(data: bytes, base: PatchBase) -> bytes | None:
    """Return the payload for `data` given its base, or None when it is not below a quarter of it."""
    dictionary = zstandard.ZstdCompressionDict(base.data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window_log = min(27, max(10, (len(data) + len(base.data)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        zstd.LEVEL, window_log=window_log, source_size=len(data), dict_size=len(base.data), write_content_size=1
    )
    frame = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(data)
    return base.tree + frame if ID_BYTES + len(frame) <= len(data) // 4 else None


def decode(payload: Buffer, raw_length: int, base: bytes, where: str) -> bytes:
    """Return the patched bytes."""
    return zstd.decompress(memoryview(payload)[ID_BYTES:], raw_length, where, base)
