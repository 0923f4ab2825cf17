"""safetensors: the length of a JSON header, the header, tensors.

`{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"key": "text"}}`. The header
is walked entry by entry, so that it costs little more memory than its bytes, whatever they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from replicate.objects.cutting.header import HeaderReader, Surprise, Tensor

NAME = "safetensors"

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_ITEM_BYTES = {dtype: max(1, bits // 8) for dtype, bits in _BITS.items()} | {"C64": 4}

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBERS = r"\[\s*(?:\d{1,19}(?:\s*,\s*\d{1,19}){0,63}\s*)?\]"
_FIELD = rf'\s*"(?:dtype"\s*:\s*"\w{{1,32}}"|shape"\s*:\s*{_NUMBERS}|data_offsets"\s*:\s*{_NUMBERS})\s*'
_ENTRY = re.compile(rf"{{{_FIELD},{_FIELD},{_FIELD}}}", re.ASCII)
_VALUE = re.compile(r'"(dtype|shape|data_offsets)"\s*:\s*("\w+"|\[[^\]]*\])', re.ASCII)
_MAX_TEXTS = 100_000
_decode = json.JSONDecoder().raw_decode


def recognises(head: bytes) -> bool:
    """Tell whether a JSON map follows the length of a header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") >= 2


def find_tensors(file: HeaderReader) -> Iterator[Tensor]:
    """Yield the tensors as the header orders them. Those of unknown dtypes are taken at their word."""
    header = file.read(8, int.from_bytes(file.read(0, 8), "little"))
    data_offset = 8 + len(header)
    walk = _Walk(header)
    walk.expect("{")
    if not walk.takes("}"):
        while True:
            name = walk.string()
            walk.expect(":")
            if name == "__metadata__":
                walk.skip_texts()
            else:
                yield _tensor(name, walk.entry(), data_offset)
            if walk.takes("}"):
                break
            walk.expect(",")
    walk.expect_end()


def _tensor(name: str, entry: str, data_offset: int) -> Tensor:
    values = dict(_VALUE.findall(entry))
    try:
        dtype = values["dtype"].strip('"')
        shape = _integers(values["shape"])
        begin, end = _integers(values["data_offsets"])
    except (KeyError, ValueError) as exc:
        raise Surprise("an entry is not complete") from exc
    if dtype in _BITS and math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise Surprise("a tensor's shape does not fit its length")
    return Tensor(name, data_offset + begin, end - begin, _ITEM_BYTES.get(dtype, 1), dtype, shape)


def _integers(text: str) -> tuple[int, ...]:
    inner = text[1:-1].strip()
    return tuple(map(int, inner.split(","))) if inner else ()


class _Walk:
    """A position in a header. Its text is Latin-1, so that a character is a byte; strings are UTF-8 all the same."""

    def __init__(self, header: bytes) -> None:
        self._bytes = header
        self._text = header.decode("latin-1")
        self._at = 0

    def takes(self, wanted: str) -> bool:
        self._at = self._past_space()
        found = self._text.startswith(wanted, self._at)
        self._at += found
        return found

    def expect(self, wanted: str) -> None:
        if not self.takes(wanted):
            raise Surprise("its header is no map of tensors")

    def expect_end(self) -> None:
        if self._past_space() != len(self._text):
            raise Surprise("its header has something after it")

    def entry(self) -> str:
        found = _ENTRY.match(self._text, self._past_space())
        if found is None:
            raise Surprise("an entry is not one of a tensor")
        self._at = found.end()
        return found[0]

    def string(self) -> str:
        start = self._skip_string()
        try:
            text = json.loads(self._bytes[start : self._at].decode())
            text.encode()  # not half of a surrogate pair
        except ValueError as exc:
            raise Surprise("a name is not text") from exc
        assert isinstance(text, str)
        return text

    def skip_texts(self) -> None:
        self.expect("{")
        if self.takes("}"):
            return
        for _ in range(_MAX_TEXTS):
            self._skip_string()
            self.expect(":")
            self._skip_string()
            if self.takes("}"):
                return
            self.expect(",")
        raise Surprise("it has too much metadata")

    def _skip_string(self) -> int:
        """Pass a string and return where it began."""
        start = self._past_space()
        if not self._text.startswith('"', start):
            raise Surprise("its header lacks a string")
        try:
            _, self._at = _decode(self._text, start)
        except ValueError as exc:
            raise Surprise("its header has a string that does not end") from exc
        return start

    def _past_space(self) -> int:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        return found.end()
