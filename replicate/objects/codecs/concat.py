"""Encoding 4: a big blob as a list of chunks. SPEC §7, I7."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from replicate.errors import CorruptionError
from replicate.objects.codecs import MAX_RAW_BYTES
from replicate.objects.ids import Buffer, ObjectID

_ROW = struct.Struct("<32sI")


class Chunk(NamedTuple):
    """A piece of a big blob: its id and its length in bytes."""

    object_id: ObjectID
    length: int


def encode(chunks: Sequence[Chunk]) -> bytes:
    """Return the payload that lists `chunks`, of which there are at least two."""
    return b"".join([_ROW.pack(*chunk) for chunk in chunks])


def decode(payload: Buffer, raw_length: int, where: str) -> list[Chunk]:
    """Return the chunks, checked: at least two, none empty or too large, summing to `raw_length`."""

    def damaged(why: str) -> CorruptionError:
        return CorruptionError(f"{where} is damaged: {why}", where=where)

    if len(payload) % _ROW.size or len(payload) < 2 * _ROW.size or len(payload) > MAX_RAW_BYTES:
        raise damaged("its list of chunks has a wrong length")
    chunks = [Chunk(ObjectID(digest), length) for digest, length in _ROW.iter_unpack(payload)]
    if any(not 0 < chunk.length <= MAX_RAW_BYTES for chunk in chunks):
        raise damaged("a chunk is empty or too large")
    if sum(chunk.length for chunk in chunks) != raw_length:
        raise damaged("its chunks do not add up to its length")
    return chunks
