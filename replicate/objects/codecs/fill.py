"""Encoding 5: one item of 1, 2, 4 or 8 bytes, repeated. SPEC §7."""

from __future__ import annotations

from replicate.errors import CorruptionError
from replicate.objects.ids import Buffer

_SIZES = (1, 2, 4, 8)
_MIN_BYTES = 64


def encode(data: Buffer) -> bytes | None:
    """Return the shortest item that `data` repeats, or None if it does not (or is too short to be worth it)."""
    size = len(data)
    if size < _MIN_BYTES:
        return None
    view = memoryview(data)
    for item_bytes in _SIZES:
        item = bytes(view[:item_bytes])
        if size % item_bytes or view[item_bytes : 2 * item_bytes] != item or view[size - item_bytes :] != item:
            continue
        if bytes(view[:_MIN_BYTES]) == item * (_MIN_BYTES // item_bytes) and bytes(view) == item * (size // item_bytes):
            return item
    return None


def decode(payload: Buffer, raw_length: int, where: str) -> bytes:
    """Return `raw_length` bytes of the repeated item."""
    item_bytes = len(payload)
    if item_bytes not in _SIZES or raw_length % item_bytes:
        raise CorruptionError(f"{where} is damaged: its fill item does not fit", where=where)
    return bytes(payload) * (raw_length // item_bytes)
