"""Encodings: how one object's bytes are represented in a pack. SPEC §7. One small module each.

Concat and patch refer to other objects, so `objects.store` resolves them; the modules here know their payloads.
"""

from __future__ import annotations

import enum

MAX_RAW_BYTES = 64 << 20


class Encoding(enum.IntEnum):
    """The byte that names an encoding in a frame. 2, 3 and 6 are reserved for weights."""

    RAW = 0
    ZSTD = 1
    CONCAT = 4
    FILL = 5
    PATCH = 7


__all__ = ["MAX_RAW_BYTES", "Encoding"]
