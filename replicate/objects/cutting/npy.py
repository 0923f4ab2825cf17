"""npy: a magic number, the text of a Python dict that is never evaluated, the items of one numpy array."""

from __future__ import annotations

import math
import re

from replicate.objects.cutting.header import HeaderReader, Surprise, Tensor

NAME = "npy"

_MAGIC = b"\x93NUMPY"
_MAX_TEXT_BYTES = 1 << 20
_TYPICAL_BYTES = 128
_SHAPE = re.compile(r"'shape':\s*\(\s*((?:\d{1,19}\s*,\s*){0,63}(?:\d{1,19}\s*)?)\)", re.ASCII)
_COLUMN_MAJOR = re.compile(r"'fortran_order':\s*True")
_DESCR = re.compile(r"'descr':\s*'([^']{1,64})'")
_SIMPLE = re.compile(r"[<>|=]?([?biufcmMSUV])(\d{1,9})(?:\[[^\]]*\])?", re.ASCII)


def recognises(head: bytes) -> bool:
    """Tell whether it begins with numpy's magic number."""
    return head.startswith(_MAGIC)


def find_tensors(file: HeaderReader) -> list[Tensor]:
    """Return one tensor, which has no name."""
    return [read_array(file, "", 0, file.size_bytes)]


def read_array(file: HeaderReader, name: str, offset: int, length: int) -> Tensor:
    """Return the array whose npy file lies in `length` bytes at `offset`, in one read, or two if its text is long.

    What has a dtype of several fields, or Python objects, is one span of bytes up to the end.
    """
    data = file.read(offset, min(length, _TYPICAL_BYTES))
    if not recognises(data) or len(data) < 12:
        raise Surprise("it is no array")
    wide = data[6] != 1
    if data[6] not in (1, 2, 3):
        raise Surprise("its version is not known")
    begin = 12 if wide else 10
    text_bytes = int.from_bytes(data[8:begin], "little")
    if text_bytes > min(_MAX_TEXT_BYTES, length - begin):
        raise Surprise("its header is too long")
    if begin + text_bytes > len(data):
        data = file.read(offset, begin + text_bytes)
    text = data[begin : begin + text_bytes].decode("latin-1")
    shapes = _SHAPE.findall(text)
    if len(shapes) != 1:
        raise Surprise("its shape is not clear")
    shape = tuple(int(number) for number in shapes[0].split(",") if number.strip())
    left = length - begin - text_bytes
    dtypes = _DESCR.findall(text)
    size = _item_size(dtypes[0]) if len(dtypes) == 1 else None
    if size is None:
        return Tensor(name, offset + begin + text_bytes, left, 1, None, shape)
    item_bytes, array_bytes = size[0], math.prod(shape) * size[1]
    if array_bytes > left:
        raise Surprise("its array is not all there")
    is_column_major = _COLUMN_MAJOR.search(text) is not None
    return Tensor(name, offset + begin + text_bytes, array_bytes, item_bytes, dtypes[0], shape, is_column_major)


def _item_size(dtype: str) -> tuple[int, int] | None:
    """Return the bytes of a number and of an item, which may have several, or None if the dtype is not a simple one."""
    found = _SIMPLE.fullmatch(dtype)
    if found is None:
        return None
    kind, size = found[1], int(found[2])
    if kind == "U":
        return 4, 4 * size
    number = size // 2 if kind == "c" else size
    if kind == "S" or number not in (1, 2, 4, 8):
        number = 8 if kind in "fc" and number == 16 else 1
    return number, size
