"""GGUF versions 2 and 3: metadata, descriptions of tensors, then the tensors, aligned. Little-endian files only.

Quantised tensors are blocks of scales and small numbers; their item size is 1.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from replicate.objects.cutting.header import MAX_TENSORS, HeaderReader, Surprise, Tensor

NAME = "gguf"

_HEAD = struct.Struct("<4sIQQ")
_MAGIC = b"GGUF"
_READ_BYTES = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_TENSOR_END = struct.Struct("<IQ")
_SHAPES = [struct.Struct(f"<{dimensions}Q") for dimensions in range(9)]
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_MAX_NESTING = 8
_MAX_VALUES = 2_000_000
_ALIGNMENT_KEY = b"general.alignment"
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20


class _Type(NamedTuple):
    name: str
    block_items: int
    block_bytes: int


_TYPES = {
    0: _Type("F32", 1, 4),
    1: _Type("F16", 1, 2),
    2: _Type("Q4_0", 32, 18),
    3: _Type("Q4_1", 32, 20),
    6: _Type("Q5_0", 32, 22),
    7: _Type("Q5_1", 32, 24),
    8: _Type("Q8_0", 32, 34),
    9: _Type("Q8_1", 32, 40),
    10: _Type("Q2_K", 256, 84),
    11: _Type("Q3_K", 256, 110),
    12: _Type("Q4_K", 256, 144),
    13: _Type("Q5_K", 256, 176),
    14: _Type("Q6_K", 256, 210),
    15: _Type("Q8_K", 256, 292),
    16: _Type("IQ2_XXS", 256, 66),
    17: _Type("IQ2_XS", 256, 74),
    18: _Type("IQ3_XXS", 256, 98),
    19: _Type("IQ1_S", 256, 50),
    20: _Type("IQ4_NL", 32, 18),
    21: _Type("IQ3_S", 256, 110),
    22: _Type("IQ2_S", 256, 82),
    23: _Type("IQ4_XS", 256, 136),
    24: _Type("I8", 1, 1),
    25: _Type("I16", 1, 2),
    26: _Type("I32", 1, 4),
    27: _Type("I64", 1, 8),
    28: _Type("F64", 1, 8),
    29: _Type("IQ1_M", 256, 56),
    30: _Type("BF16", 1, 2),
    34: _Type("TQ1_0", 256, 54),
    35: _Type("TQ2_0", 256, 66),
    39: _Type("MXFP4", 32, 17),
}


def recognises(head: bytes) -> bool:
    """Tell whether it begins with the magic number and a version whose numbers have 64 bits."""
    return len(head) >= _HEAD.size and head.startswith(_MAGIC) and _HEAD.unpack_from(head)[1] in (2, 3)


def find_tensors(file: HeaderReader) -> list[Tensor]:
    """Return the tensors. One of a type that is not known reaches to the next, or to the end of the file."""
    cursor = _Cursor(file)
    _, _, tensor_count, value_count = cursor.unpack(_HEAD)
    if tensor_count > MAX_TENSORS:
        raise Surprise("it has too many tensors")
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(value_count):
        key = cursor.take_string()
        (kind,) = cursor.unpack(_U32)
        if key == _ALIGNMENT_KEY and kind == _UINT32:
            (alignment,) = cursor.unpack(_U32)
        else:
            cursor.skip_value(kind, 0)
    if not 0 < alignment <= _MAX_ALIGNMENT:
        raise Surprise("its alignment is out of bounds")
    found = [_read_description(cursor) for _ in range(tensor_count)]
    data_offset = -(-cursor.at // alignment) * alignment
    return list(_place(found, data_offset, file.size_bytes))


class _Description(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


def _read_description(cursor: _Cursor) -> _Description:
    try:
        name = cursor.take_string().decode()
    except UnicodeDecodeError as exc:
        raise Surprise("a name is not text") from exc
    (dimensions,) = cursor.unpack(_U32)
    if dimensions >= len(_SHAPES):
        raise Surprise("a tensor has too many dimensions")
    fastest_first = cursor.unpack(_SHAPES[dimensions])
    type_number, offset = cursor.unpack(_TENSOR_END)
    return _Description(name, fastest_first[::-1], type_number, offset)


def _place(found: list[_Description], data_offset: int, size_bytes: int) -> Iterator[Tensor]:
    found.sort(key=lambda one: one.offset)
    starts = [data_offset + one.offset for one in found]
    for one, begin, limit in zip(found, starts, [*starts[1:], size_bytes], strict=False):
        kind = _TYPES.get(one.type_number)
        if kind is None:
            yield Tensor(one.name, begin, limit - begin, 1, f"type {one.type_number}", one.shape)
            continue
        blocks, rest = divmod(math.prod(one.shape), kind.block_items)
        if rest:
            raise Surprise("a tensor is not made of blocks")
        item_bytes = kind.block_bytes if kind.block_items == 1 else 1
        yield Tensor(one.name, begin, blocks * kind.block_bytes, item_bytes, kind.name, one.shape)


class _Cursor:
    """A position in the header, which is read by the MiB as far as needed."""

    def __init__(self, file: HeaderReader) -> None:
        self._file = file
        self._data = bytearray()
        self.at = 0
        self._values = 0

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        begin = self._pass(form.size)
        return form.unpack_from(self._data, begin)

    def take_string(self) -> bytes:
        (length,) = self.unpack(_U64)
        begin = self._pass(length)
        return bytes(self._data[begin : self.at])

    def skip_value(self, kind: int, nesting: int) -> None:
        self._values += 1
        if self._values > _MAX_VALUES:
            raise Surprise("it has too many values")
        if kind in _VALUE_BYTES:
            self._pass(_VALUE_BYTES[kind])
        elif kind == _STRING:
            self._pass(self.unpack(_U64)[0])
        elif kind == _ARRAY and nesting < _MAX_NESTING:
            (inner,) = self.unpack(_U32)
            (count,) = self.unpack(_U64)
            if inner in _VALUE_BYTES:
                self._pass(count * _VALUE_BYTES[inner])
            else:
                for _ in range(count):
                    self.skip_value(inner, nesting + 1)
        else:
            raise Surprise("a value is of an unknown kind")

    def _pass(self, length: int) -> int:
        """Go forward, have the bytes passed at hand, and return where they begin."""
        begin = self.at
        self.at += length
        if self.at > self._file.size_bytes:
            raise Surprise("its header is not all there")
        while len(self._data) < self.at:
            have = len(self._data)
            self._data += self._file.read(have, min(_READ_BYTES, self._file.size_bytes - have))
        return begin
