"""Encoding 6: 16-bit floats that are the 32-bit floats of a base, rounded. SPEC §7.3.

A model is often exported so, and its bytes need not be stored twice. Loads numpy: import it in functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replicate.objects.codecs import base_id
from replicate.objects.codecs.items import (
    Items,
    blocks,
    can_compute,
    check_decodable,
    damaged,
    output,
    whole_items,
    with_tail,
)
from replicate.objects.ids import ID_BYTES, Buffer, ObjectID

BFLOAT16 = 1
FLOAT16 = 2


def encode(data: Buffer, base: ObjectID, base_data: Buffer) -> bytes | None:
    """Return the payload, or None when `data` is not, bit for bit, what its base rounds to, or too small to gain.

    Looks no further than to the first difference. `base_data` are 32-bit floats, as many as `data` has 16-bit ones.
    """
    if not can_compute() or len(base_data) != 2 * len(data) or len(data) % 2 or len(data) <= ID_BYTES + 1:
        return None
    new, old = whole_items(data, 2), whole_items(base_data, 4)
    for target, rounded in _ROUNDED.items():
        if all(np.array_equal(new[block], rounded(old[block])) for block in blocks(old)):
            return base + bytes([target])
    return None


def decode(payload: Buffer, raw_length: int, base_data: Buffer, where: str) -> bytes:
    """Return the `raw_length` bytes that the base rounds to.

    Raises:
        CorruptionError: The payload, or the length of the base, does not fit; names the object and the base.
        UnsupportedFormatError: This machine is big-endian.
    """
    return bytes(decode_view(payload, raw_length, base_data, where))


def decode_view(payload: Buffer, raw_length: int, base_data: Buffer, where: str) -> Buffer:
    """Return as `decode` does, in this thread's memory: valid until the thread decodes something else."""
    check_decodable(raw_length, where)
    base = base_id(payload, where)
    rounded = _ROUNDED.get(payload[ID_BYTES]) if len(payload) == ID_BYTES + 1 else None
    if rounded is None:
        raise damaged(where, f"it names no type to round to (its base is blob {base.hex()})")
    if raw_length % 2 or len(base_data) != 2 * raw_length:
        raise damaged(where, f"its base has another number of items (its base is blob {base.hex()})")
    old = whole_items(base_data, 4)
    out = output(old.size, 2, old)
    for block in blocks(old):
        out[block] = rounded(old[block])
    return with_tail(out, b"")


def _bfloat16(items: Items) -> Items:
    """Round to the nearest, ties to even; each NaN becomes 7FC0."""
    found = items >> np.uint32(16)
    found &= np.uint32(1)
    found += np.uint32(0x7FFF)
    found += items
    found >>= np.uint32(16)
    found[items & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000)] = 0x7FC0
    return found.astype(np.uint16)


def _float16(items: Items) -> Items:
    """Round to the nearest, ties to even; each NaN becomes 7E00 with its sign."""
    floats: NDArray[Any] = items.view(np.float32)
    with np.errstate(all="ignore"):
        found = floats.astype(np.float16).view(np.uint16)
    lost = np.isnan(floats)
    if lost.any():
        found[lost] = (items[lost] >> np.uint32(16)).astype(np.uint16) & np.uint16(0x8000) | np.uint16(0x7E00)
    return found


_ROUNDED: dict[int, Callable[[Items], Items]] = {BFLOAT16: _bfloat16, FLOAT16: _float16}
