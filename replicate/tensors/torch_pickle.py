"""The names of tensors in what `torch.save` pickled, without unpickling: no object is made, nothing is imported.

Opcodes are read by `pickletools.genops` and followed on a stack of plain values. Of the things that a pickle may call a
few are understood, by name: what makes tensors, parameters, sizes and ordered dicts. Anything else stands for itself,
opaque; one may still look into what it was given as state. Bytes that surprise have no names.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from replicate.objects.cutting.header import MAX_TENSORS, Surprise

MAX_PICKLE_BYTES = 32 << 20
_MAX_OPCODES = 3_000_000
_MAX_VALUES = 2_000_000
_MAX_NAME_CHARS = 32 << 20
_MAX_NESTING = 64
_MAX_NUMBER = 1 << 63

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_DTYPES = frozenset(_STORAGES.values()) | {
    *("uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
}


class View(NamedTuple):
    """A tensor as a pickle describes it: items of a storage. Its numbers are not checked against the storage.

    Attributes:
        storage: The key of the storage: its entry is `data/KEY`.
        dtype: The field's name, or None if it is not known.
        offset: Of the first item, in items.
        shape: At most 64 dimensions, none negative.
        strides: In items, as many as dimensions, none negative.
    """

    storage: str
    dtype: str | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    module: str
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: str | None


@dataclass(eq=False)
class _Opaque:
    """A value that is not looked at, but for what it was given."""

    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


class _Mark:
    pass


_MARK = _Mark()


def read_views(data: bytes) -> dict[str, View]:
    """Return the tensors that a pickle holds by their names: the keys that lead to them, joined by dots.

    At most 32 MiB of pickle are read, in time and memory linear in their length.

    Raises:
        Surprise: It is no pickle, or uses an opcode that is not known, or has too much in it.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise Surprise("its pickle is too long")
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            follow = _OPCODES.get(opcode.name)
            if follow is None or number >= _MAX_OPCODES:
                raise Surprise(f"its pickle uses {opcode.name}" if follow is None else "its pickle is too long")
            follow(machine, argument)
        root = machine.pop()
    # what genops, and a stack that is too short, raise; escapes in strings of Python 2 warn
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, Warning) as exc:
        raise Surprise("its pickle is damaged") from exc
    return _name_views(root)


def _name_views(root: Any) -> dict[str, View]:
    views: dict[str, View] = {}
    left, chars = _MAX_VALUES, _MAX_NAME_CHARS
    pending: list[tuple[str, Any, int]] = [("", root, 0)]
    while pending:
        name, value, nesting = pending.pop()
        if isinstance(value, View):
            if name in views or len(views) >= MAX_TENSORS:
                raise Surprise("two tensors have one name, or there are too many")
            if not _is_text(name):
                raise Surprise("a name is not text")
            views[name] = value
            continue
        children = _children(value)
        left -= len(children)
        if left < 0 or nesting >= _MAX_NESTING:
            raise Surprise("its pickle has too much in it")
        for key, child in reversed(children):
            if isinstance(child, (View, dict, list, tuple, _Opaque)) and not isinstance(child, (_Global, _Storage)):
                path = f"{name}.{key}" if name and key else name or key
                chars -= len(path)
                if chars < 0:
                    raise Surprise("its names are too long")
                pending.append((path, child, nesting + 1))
    return views


def _is_text(name: str) -> bool:
    """Tell whether a name is one that can be written: it has no halves of surrogate pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key), child) for key, child in value.items() if isinstance(key, str) or type(key) is int]
    if isinstance(value, (list, tuple)):
        return [(str(number), child) for number, child in enumerate(value)]
    if isinstance(value, _Opaque):
        return [*_children(value.items), ("", value.state)]
    return []


class _Machine:
    """The stack and the memo of a pickle that is followed."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise Surprise("its pickle is damaged")
        return value

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            if not at:
                raise Surprise("its pickle lacks a mark")
            at -= 1
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def pop_tuple(self, count: int) -> None:
        values = tuple(self.pop() for _ in range(count))
        self.push(values[::-1])

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def name_global(self, module: Any, name: Any) -> None:
        self.push(_Global(module, name) if isinstance(module, str) and isinstance(name, str) else _Opaque())

    def name_two(self) -> None:
        name, module = self.pop(), self.pop()
        self.name_global(module, name)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        into = target if isinstance(target, dict) else target.items if isinstance(target, _Opaque) else None
        for key, value in zip(values[::2], values[1::2], strict=True):
            if into is not None and (isinstance(key, str) or (type(key) is int and abs(key) < _MAX_NUMBER)):
                into[str(key)] = value  # numbers, whose hashes are known, could be made to collide

    def append(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append_one(self) -> None:
        value = self.pop()
        self.append([value])

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], _Opaque):
            self.stack[-1].state = state

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        self.push(_call(called, arguments))

    def make(self, count: int) -> None:
        for _ in range(count):
            self.pop()
        self.push(_Opaque())

    def make_dict(self) -> None:
        values = self.pop_to_mark()
        self.push({})
        self.set_items(values)

    def make_set(self) -> None:
        self.pop_to_mark()
        self.push(_Opaque())

    def load_persistent(self) -> None:
        found = self.pop()
        is_storage = type(found) is tuple and len(found) == 5 and found[0] == "storage" and isinstance(found[2], str)
        self.push(_Storage(found[2], _storage_dtype(found[1])) if is_storage else _Opaque())


def _storage_dtype(kind: Any) -> str | None:
    return _STORAGES.get(kind.name) if isinstance(kind, _Global) and kind.module == "torch" else None


def _call(called: Any, arguments: Any) -> Any:
    if not isinstance(called, _Global) or type(arguments) is not tuple:
        return _Opaque()
    if called == ("collections", "OrderedDict") and not arguments:
        return {}
    if called == ("torch", "Size") and len(arguments) == 1:
        return arguments[0]
    if called.module == "torch._tensor" and called.name == "_rebuild_from_type_v2" and len(arguments) == 4:
        called, _, arguments, _ = arguments
        if not isinstance(called, _Global) or type(arguments) is not tuple:
            return _Opaque()
    if called.module == "torch._utils":
        if called.name in ("_rebuild_tensor", "_rebuild_tensor_v2") and len(arguments) >= 4:
            storage, offset, shape, strides = arguments[:4]
            return _view(storage, offset, shape, strides)
        if called.name == "_rebuild_tensor_v3" and len(arguments) >= 7:
            storage, offset, shape, strides, _, _, dtype = arguments[:7]
            return _view(storage, offset, shape, strides, dtype)
        if called.name in ("_rebuild_parameter", "_rebuild_parameter_with_state") and arguments:
            return arguments[0]
    return _Opaque()


def _view(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> Any:
    if not isinstance(storage, _Storage) or not _are_numbers((offset,)):
        return _Opaque()
    if not _are_numbers(shape) or not _are_numbers(strides) or len(shape) != len(strides):
        return _Opaque()
    name = storage.dtype
    if dtype is not None:
        known = isinstance(dtype, _Global) and dtype.module == "torch" and dtype.name in _DTYPES
        name = dtype.name if known else None
    return View(storage.key, name, offset, shape, strides)


def _are_numbers(values: Any) -> bool:
    return (
        type(values) is tuple
        and len(values) <= 64
        and all(type(one) is int and 0 <= one < _MAX_NUMBER for one in values)
    )


_Follow = Callable[[_Machine, Any], object]
_LITERALS = (
    "BININT BININT1 BININT2 LONG1 LONG4 INT LONG BINFLOAT FLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE"
    " BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINSTRING SHORT_BINSTRING STRING"
)
_OPCODES: dict[str, _Follow] = {
    **dict.fromkeys(_LITERALS.split(), lambda machine, value: machine.push(value)),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, value: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_SET": lambda machine, _: machine.push(_Opaque()),
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.pop_tuple(1),
    "TUPLE2": lambda machine, _: machine.pop_tuple(2),
    "TUPLE3": lambda machine, _: machine.pop_tuple(3),
    "DICT": lambda machine, _: machine.make_dict(),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.make_set(),
    "APPEND": lambda machine, _: machine.append_one(),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.pop_to_mark(),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, number: machine.put(number)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, number: machine.push(machine.memo[number])),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": lambda machine, text: machine.name_global(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_two(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.make(2),
    "NEWOBJ_EX": lambda machine, _: machine.make(3),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.load_persistent(),
}
