"""Cuts at multiples of 4 MiB."""

from __future__ import annotations

MAX_PIECE_BYTES = 4 << 20


def cut_fixed(size_bytes: int) -> list[int]:
    """Return the lengths of the pieces of a blob: all of 4 MiB but the last. They add up to `size_bytes`."""
    whole, rest = divmod(size_bytes, MAX_PIECE_BYTES)
    return [MAX_PIECE_BYTES] * whole + ([rest] if rest else [])
