"""Arrays of items, and memory that each thread uses again. Loads numpy: import it, and what builds on it, in functions.

An item is a little-endian unsigned integer of 1, 2, 4 or 8 bytes, whatever number its bits stand for, and arithmetic is
modulo 2^bits: NaN, infinities and integers are bits like others. Touching fresh memory costs more than most of what is
done to it, hence `scratch`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from replicate.errors import CorruptionError, UnsupportedFormatError
from replicate.objects.codecs import MAX_RAW_BYTES
from replicate.objects.ids import Buffer

Bytes: TypeAlias = NDArray[np.uint8]
Items: TypeAlias = NDArray[Any]
"""Of dtype uint8, uint16, uint32 or uint64."""

ITEM_BYTES = (1, 2, 4, 8)
SAMPLE_RUNS = 16
SAMPLE_RUN = 256
_BLOCK_BYTES = 1 << 20
_KEPT_BYTES = 4 << 20
_PLACES = 1 << 16
_local = threading.local()


def can_compute() -> bool:
    """Tell whether this machine's integers are little-endian, as items are. Elsewhere nothing here encodes."""
    return sys.byteorder == "little"


def check_decodable(raw_length: int, where: str) -> None:
    """Check what can be known before a payload is looked at.

    Raises:
        UnsupportedFormatError: This machine is big-endian.
        CorruptionError: An object of this length is not one frame.
    """
    if not can_compute():
        raise UnsupportedFormatError(
            f"{where} holds weights in an encoding that this big-endian machine cannot decode",
            hint="check it out on a little-endian machine (x86-64, ARM)",
        )
    if not 0 <= raw_length <= MAX_RAW_BYTES:
        raise damaged(where, f"{raw_length:,} bytes are too large")


def damaged(where: str, why: str) -> CorruptionError:
    """Return the error for a payload that is not what an encoder makes."""
    return CorruptionError(f"{where} is damaged: {why}", where=where)


def scratch(name: str, size: int, item_bytes: int = 1) -> Items:
    """Return memory for so many items, its content undefined. It is this thread's, until the next call with `name`."""
    wanted = size * item_bytes
    if wanted > _KEPT_BYTES:
        return np.empty(size, _dtype(item_bytes))
    kept: Bytes | None = getattr(_local, name, None)
    if kept is None or kept.size < wanted:
        kept = np.empty(max(4096, 1 << (wanted - 1).bit_length()), np.uint8)
        setattr(_local, name, kept)
    return kept[:wanted].view(_dtype(item_bytes))


def output(size: int, item_bytes: int, base: Items | None = None) -> Items:
    """Return memory for what is decoded, as `scratch` does; another one if `base` lies there."""
    found = scratch("output", size, item_bytes)
    is_taken = base is not None and np.may_share_memory(found, base)
    return scratch("other_output", size, item_bytes) if is_taken else found


def with_tail(items: Items, tail: Buffer) -> Buffer:
    """Return the bytes of items, in their memory, and what follows them."""
    content = items.view(np.uint8).data
    return b"".join((content, tail)) if len(tail) else content


def _dtype(item_bytes: int) -> np.dtype[Any]:
    if item_bytes not in ITEM_BYTES:
        raise ValueError(f"an item has 1, 2, 4 or 8 bytes, not {item_bytes}")
    return np.dtype(f"<u{item_bytes}")


def whole_items(data: Buffer, item_bytes: int) -> Items:
    """Return the items of `data`, which they share; a tail that is no whole item is left out."""
    return np.frombuffer(data, _dtype(item_bytes), len(data) // item_bytes)


def blocks(items: Items) -> Iterator[slice]:
    """Yield slices of so many items as a step is done with at once.

    Each call of numpy gives up the interpreter's lock and takes it again. With blocks that fit a processor's nearest
    cache, threads did little but that: two of them got no more done than one. With those of 1 MiB two restore 8 % more
    than with 512 KiB; larger ones gain nothing.
    """
    step = _BLOCK_BYTES // items.itemsize
    for start in range(0, items.size, step):
        yield slice(start, min(start + step, items.size))


def sample(*arrays: Items) -> list[Items]:
    """Return the same few thousand items of arrays of one length: runs of neighbours, evenly spread, the ends too."""
    size = arrays[0].size
    if size <= SAMPLE_RUNS * SAMPLE_RUN:
        return [array.copy() for array in arrays]
    starts = [number * (size - SAMPLE_RUN) // (SAMPLE_RUNS - 1) for number in range(SAMPLE_RUNS)]
    return [np.concatenate([array[start : start + SAMPLE_RUN] for start in starts]) for array in arrays]


def rotate(items: Items, out: Items) -> None:
    """Set `out` to the items rotated left by one bit: the exponent of a float then fills its topmost byte."""
    spare = scratch("spare", items.size, items.itemsize)
    np.right_shift(items, _count(items, 8 * items.itemsize - 1), out=spare)
    _shift_left(items, 1, out)
    np.bitwise_or(out, spare, out=out)


def rotate_back(items: Items, out: Items) -> None:
    """Undo `rotate`; `out` may be `items`."""
    spare = scratch("spare", items.size, items.itemsize)
    _shift_left(items, 8 * items.itemsize - 1, spare)
    np.right_shift(items, _count(items, 1), out=out)
    np.bitwise_or(out, spare, out=out)


def subtract(items: Items, base: Items, out: Items) -> None:
    """Set `out` to the zigzag of items - base: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    spare = scratch("spare", items.size, items.itemsize)
    signed = np.dtype(f"<i{items.itemsize}")
    np.subtract(items, base, out=out)
    np.right_shift(out.view(signed), signed.type(8 * items.itemsize - 1), out=spare.view(signed))
    _shift_left(out, 1, out)
    np.bitwise_xor(out, spare, out=out)


def add_back(zigzag: Items, base: Items, out: Items) -> None:
    """Undo `subtract`; `out` may be `zigzag`."""
    spare = scratch("spare", zigzag.size, zigzag.itemsize)
    np.bitwise_and(zigzag, _count(zigzag, 1), out=spare)
    np.subtract(_count(zigzag, 0), spare, out=spare)
    np.right_shift(zigzag, _count(zigzag, 1), out=out)
    np.bitwise_xor(out, spare, out=out)
    np.add(out, base, out=out)


def spread(values: Items, chosen: NDArray[np.bool_], out: Items) -> None:
    """Set `out` to the values where a bit is set, one after the other, and to 0 elsewhere.

    By places, several times as fast as by bits; a place takes 8 bytes, hence in parts; `gather` does so too.
    """
    used = 0
    for start in range(0, out.size, _PLACES):
        places = np.flatnonzero(chosen[start : start + _PLACES])
        part = out[start : start + _PLACES]
        part[:] = 0
        part[places] = values[used : used + places.size]
        used += places.size


def gather(items: Items, chosen: NDArray[np.bool_], out: Items) -> Items:
    """Return the items where a bit is set, one after the other, in `out`, which has room for them; undoes `spread`."""
    used = 0
    for start in range(0, items.size, _PLACES):
        kept = items[start : start + _PLACES].take(np.flatnonzero(chosen[start : start + _PLACES]))
        out[used : used + kept.size] = kept
        used += kept.size
    return out[:used]


def exponents(items: Items) -> Bytes:
    """Return the topmost byte of each item rotated left by one bit, in this thread's memory."""
    out = scratch("exponents", items.size)
    if items.itemsize == 1:
        rotate(items, out)
    else:
        np.right_shift(items, _count(items, 8 * items.itemsize - 9), out=out, casting="unsafe")
    return out


def split(items: Items, planes: Bytes) -> None:
    """Set row k of `planes` to byte k of each item, the least significant first. By halves: there is less to move."""
    if items.itemsize == 1:
        np.copyto(planes[0], items)
        return
    half = items.itemsize // 2
    shifted = scratch("spare", items.size, items.itemsize)
    np.right_shift(items, _count(items, 8 * half), out=shifted)
    high = planes[1] if half == 1 else scratch(f"high{half}", items.size, half)
    low = planes[0] if half == 1 else scratch(f"low{half}", items.size, half)
    np.copyto(high, shifted, casting="unsafe")
    np.copyto(low, items, casting="unsafe")
    if half > 1:
        split(low, planes[:half])
        split(high, planes[half:])


def merge(planes: Sequence[Bytes | None], out: Items) -> None:
    """Undo `split`: set `out` to the items of which these are the bytes, of which a row that is None is 0."""
    half = len(planes) // 2
    low, high = (_merged(part, name, out.size) for part, name in ((planes[:half], "low"), (planes[half:], "high")))
    if high is None:
        np.copyto(out, 0 if low is None else low)
        return
    np.copyto(out, high)
    if half:
        _shift_left(out, 8 * half, out)
    if low is not None:
        np.bitwise_or(out, low, out=out)


def _merged(planes: Sequence[Bytes | None], name: str, size: int) -> Items | None:
    """Return items of these bytes, or None if all are 0."""
    if all(plane is None for plane in planes):
        return None
    if len(planes) == 1:
        return planes[0]
    out = scratch(f"{name}{len(planes)}", size, len(planes))
    merge(planes, out)
    return out


def _shift_left(items: Items, count: int, out: Items) -> None:
    """Set `out` to the items times 2^count: numpy multiplies bytes ten times as fast as it shifts them, none slower."""
    np.multiply(items, _count(items, 1 << count), out=out)


def _count(items: Items, value: int) -> Any:
    """Return a scalar of the items' own type, so that no array becomes wider."""
    return items.dtype.type(value)
