"""Pickles as `torch.save` writes them, opcode by opcode: no torch is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping

Pickled = bytes
"""Opcodes that leave one value on the stack."""


def text(value: str) -> Pickled:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> Pickled:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + data


def known(name: str) -> Pickled:
    """Return what is called by its module and name: `torch FloatStorage`."""
    module, _, rest = name.partition(" ")
    return f"c{module}\n{rest}\n".encode()


def tuple_of(*values: Pickled) -> Pickled:
    return b"(" + b"".join(values) + b"t"


def numbers(values: tuple[int, ...]) -> Pickled:
    return tuple_of(*map(number, values))


def dict_of(values: Mapping[str, Pickled]) -> Pickled:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def call(name: str, *arguments: Pickled) -> Pickled:
    return known(name) + tuple_of(*arguments) + b"R"


def storage(key: str, kind: str = "torch FloatStorage", count: int = 0) -> Pickled:
    return tuple_of(text("storage"), known(kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    key: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    kind: str = "torch FloatStorage",
) -> Pickled:
    hooks = call("collections OrderedDict")
    parts = (storage(key, kind), number(offset), numbers(shape), numbers(strides), b"\x89", hooks)
    return call("torch._utils _rebuild_tensor_v2", *parts)


def pickled(value: Pickled) -> bytes:
    """Return a whole pickle of a value."""
    return b"\x80\x02" + value + b"."
