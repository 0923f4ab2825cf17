"""Cuts at multiples of 4 MiB, or less."""

from __future__ import annotations

MAX_PIECE_BYTES = 4 << 20


def cut_fixed(size_bytes: int, piece_bytes: int = MAX_PIECE_BYTES) -> list[int]:
    """Return the lengths of the pieces of a blob: all of `piece_bytes` but the last. They add up to `size_bytes`."""
    whole, rest = divmod(size_bytes, piece_bytes)
    return [piece_bytes] * whole + ([rest] if rest else [])
