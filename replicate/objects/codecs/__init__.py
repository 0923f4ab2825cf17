"""Encodings: how one object's bytes are represented in a pack. SPEC §7. One small module each.

Concat, delta, cast and patch refer to other objects, so `objects.store` resolves them; the modules here know their
payloads. `planes`, `delta` and `cast`, which are for weights, load numpy: they are imported in functions.
"""

from __future__ import annotations

import enum

from replicate.errors import CorruptionError
from replicate.objects.ids import ID_BYTES, Buffer, ObjectID

MAX_RAW_BYTES = 64 << 20


class Encoding(enum.IntEnum):
    """The byte that names an encoding in a frame."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3
    CONCAT = 4
    FILL = 5
    CAST = 6
    PATCH = 7


BASED = frozenset({Encoding.DELTA, Encoding.CAST, Encoding.PATCH})
"""Those whose payload begins with the id of a base."""


def base_id(payload: Buffer, where: str) -> ObjectID:
    """Return the base that a payload of one of `BASED` names."""
    if len(payload) <= ID_BYTES:
        raise CorruptionError(f"{where} is damaged: it names no base", where=where)
    return ObjectID(payload[:ID_BYTES])
