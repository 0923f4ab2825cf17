"""What holds for every format: any bytes are cut, damage is seen, little is read."""

from __future__ import annotations

import ast
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicate.objects import cutting
from replicate.objects.cutting import FORMATS, MAX_PIECE_BYTES, Listing, Piece, cut_file, cut_fixed, list_tensors
from replicate.objects.cutting.header import MAX_HEADER_BYTES, Format
from tests.weights import (
    CountingFile,
    bfloat16,
    gguf,
    gguf_strings,
    gguf_text,
    gguf_value,
    npy,
    npz,
    safetensors,
    safetensors_of,
    torch_zip,
    weights,
    wide_zip,
)

MIB = 1 << 20
ARRAYS = {"large": weights(70_000), "small": weights(2000, "float16"), "steps": np.array([3]), "none": weights(0)}
STORAGES = [array.tobytes() for array in ARRAYS.values()]
FILES = {
    "safetensors": safetensors(ARRAYS, {"format": "pt"}),
    "npy": npy(weights(70_000)),
    "npz": npz(ARRAYS),
    "npz compressed": npz(ARRAYS, np.savez_compressed),
    "torch": torch_zip(STORAGES),
    "torch zip64": torch_zip(STORAGES, zip64=True),
    "torch wide": wide_zip(b"data/0", STORAGES[0]),
    "gguf": gguf(
        [
            ("large", (70_000,), 0, STORAGES[0]),
            ("half", (2000,), 30, bfloat16(weights(2000))),
            ("q", (64,), 8, bytes(68)),
        ],
        [gguf_value(b"general.name", 8, gguf_text(b"x")), gguf_value(b"tokens", 9, gguf_strings([b"a", b"b"]))],
    ),
}
MAGICS = [b"", b"PK\3\4", b"GGUF\3\0\0\0", b"GGUF\2\0\0\0", b"\x93NUMPY\1\0", b"\x20\0\0\0\0\0\0\0{", b"PK\5\6"]


def cut(data: bytes) -> list[Piece]:
    """Cut bytes; check what always holds."""
    file = CountingFile(data)
    found = cut_file(len(data), file)
    at = 0
    for piece in found:
        assert piece.offset == at
        assert 0 < piece.length <= MAX_PIECE_BYTES
        assert piece.length % piece.item_bytes == 0
        at += piece.length
    assert at == len(data)
    assert len({(piece.tensor, piece.part) for piece in found}) == len(found)
    assert file.bytes_read <= MAX_HEADER_BYTES
    return found


def is_fixed(found: list[Piece]) -> bool:
    size = sum(piece.length for piece in found)
    return found == [
        Piece(number * MAX_PIECE_BYTES, length, None, number) for number, length in enumerate(cut_fixed(size))
    ]


EMPTY = [
    safetensors({}),
    npy(weights(0)),
    npz({"none": weights(0)}),
    torch_zip([]),
    gguf([]),
    gguf([("none", (0,), 0, b"")]),
]
numbers = st.sampled_from([0, 1, 7, 0xFF, 0xFFFF, 0xFFFFFFFF, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a sound file that is changed in one to four places, mostly where its header or directory is."""
    data = bytearray(draw(st.sampled_from([*FILES.values(), *EMPTY])))
    for _ in range(draw(st.integers(1, 4))):
        near = min(draw(st.integers(0, 600)), len(data))
        at = near if draw(st.booleans()) else len(data) - near
        match draw(st.sampled_from(["byte", "number", "cut out", "put in", "end", "twice"])):
            case "byte":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                width = draw(st.sampled_from([2, 4, 8]))
                data[at : at + width] = draw(numbers).to_bytes(8, "little")[:width]
            case "cut out":
                del data[at : at + draw(st.integers(1, 300))]
            case "put in":
                data[at:at] = draw(st.binary(max_size=20))
            case "end":
                del data[at:]
            case "twice":
                data[at:at] = data[at : at + draw(st.integers(1, 300))]
    return bytes(data)


@given(st.sampled_from(MAGICS), st.binary(max_size=2000))
@example(b"", b"")
def test_any_bytes_are_cut(magic: bytes, rest: bytes) -> None:
    cut(magic + rest)


@given(damaged())
def test_any_damage_gives_cuts_that_cover_the_file(data: bytes) -> None:
    assert cut(data) == cut(data)


@pytest.mark.parametrize("name", FILES)
def test_every_beginning_of_a_file_is_cut(name: str) -> None:
    data = FILES[name]
    for size in {*range(700), *range(len(data) - 700, len(data))}:
        found = cut(data[:size])
        if size < len(data) - 100 and not name.startswith("gguf"):
            assert is_fixed(found)


@pytest.mark.parametrize("data", EMPTY, ids=range(len(EMPTY)))
def test_a_file_of_empty_tensors_is_bytes(data: bytes) -> None:
    assert is_fixed(cut(data))
    found = list_tensors(len(data), CountingFile(data))
    assert found is not None
    assert [one for one in found.tensors if one.length] == []


@pytest.mark.parametrize("name", FILES)
def test_equal_bytes_give_equal_pieces_and_tensors(name: str) -> None:
    data = FILES[name]
    assert cut(data) == cut(bytes(data))
    assert not is_fixed(cut(data))
    found = list_tensors(len(data), CountingFile(data))
    assert isinstance(found, Listing)
    assert found == list_tensors(len(data), CountingFile(data))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_becomes_shorter_while_it_is_read_is_cut_by_the_size_it_had(name: str) -> None:
    data = FILES[name]

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length][:-1]

    found = cut_file(len(data), read)
    assert is_fixed(found)
    assert sum(piece.length for piece in found) == len(data)


def test_what_reading_raises_passes() -> None:
    def read(offset: int, length: int) -> bytes:
        raise OSError("gone")

    with pytest.raises(OSError, match=r"^gone$"):
        cut_file(10, read)


# -- bad input


def entry(begin: int = 0, end: int = 8, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def one_tensor(text: str) -> bytes:
    """Return a file of 8 bytes of data whose header has this text."""
    return safetensors_of(None, bytes(8), text=text.encode("utf-8", "surrogatepass"))


SOUND = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
PLAIN = torch_zip([STORAGES[0]])
DIRECTORY = PLAIN.index(b"PK\1\2")
STORED = PLAIN.rindex(b"PK\1\2", 0, PLAIN.index(b"archive/data/0", DIRECTORY))
LOCAL = PLAIN.rindex(b"PK\3\4", 0, PLAIN.index(b"archive/data/0"))


def changed(data: bytes, at: int, new: bytes) -> bytes:
    """Return data with some bytes in place of others."""
    return data[:at] + new + data[at + len(new) :]


def number(value: int, width: int = 4) -> bytes:
    return value.to_bytes(width, "little")


def npy_of(text: str, data: bytes = bytes(64)) -> bytes:
    return b"\x93NUMPY\1\0" + number(len(text), 2) + text.encode() + data


BAD: dict[str, bytes] = {
    "safetensors: header of 2^63": safetensors_of({"a": entry()}, bytes(8), length=1 << 63),
    "safetensors: header of 2^64-1": safetensors_of({"a": entry()}, bytes(8), length=(1 << 64) - 1),
    "safetensors: header longer than the file": safetensors_of({"a": entry()}, bytes(8), length=200),
    "safetensors: header too short": safetensors_of({"a": entry()}, bytes(8), length=20),
    "safetensors: overlapping tensors": safetensors_of({"a": entry(), "b": entry(4, 12)}, bytes(12)),
    "safetensors: the same bytes twice": safetensors_of({"a": entry(), "b": entry()}, bytes(8)),
    "safetensors: end before beginning": safetensors_of({"a": entry(8, 0)}, bytes(8)),
    "safetensors: negative offset": safetensors_of({"a": entry(-8, 0)}, bytes(8)),
    "safetensors: beyond the file": safetensors_of({"a": entry(8, 16)}, bytes(8)),
    "safetensors: offset 2^63": safetensors_of({"a": entry(1 << 63, (1 << 63) + 8)}, bytes(8)),
    "safetensors: shape too large": safetensors_of({"a": entry(shape=[1 << 62, 1 << 62])}, bytes(8)),
    "safetensors: shape that does not fit": safetensors_of({"a": entry(shape=[3])}, bytes(8)),
    "safetensors: shape of floats": safetensors_of({"a": entry(shape=[2.0])}, bytes(8)),
    "safetensors: shape 1e999": one_tensor('{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}'),
    "safetensors: shape NaN": one_tensor('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "safetensors: shape of 10,000 digits": one_tensor(SOUND.replace("[2]", f"[{'1' * 10_000}]").join(('{"a":', "}"))),
    "safetensors: shape of 1,000 dimensions": safetensors_of({"a": entry(shape=[1] * 999 + [2])}, bytes(8)),
    "safetensors: no dtype": safetensors_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "safetensors: dtype twice": one_tensor('{"a":{"dtype":"F32","dtype":"F32","data_offsets":[0,8]}}'),
    "safetensors: dtype is a number": safetensors_of({"a": entry(dtype=4)}, bytes(8)),
    "safetensors: one offset": one_tensor('{"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}}'),
    "safetensors: a name twice": one_tensor(f'{{"a":{SOUND},"a":{SOUND}}}'),
    "safetensors: a name twice, once empty": one_tensor(
        f'{{"a":{SOUND},"a":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}'
    ),
    "safetensors: a name of half a character": one_tensor(f'{{"\\ud800":{SOUND}}}'),
    "safetensors: a name that is not UTF-8": one_tensor(f'{{"\ud800":{SOUND}}}'),
    "safetensors: a name without an end": one_tensor('{"a'),
    "safetensors: deep lists": one_tensor('{"a":' + "[" * 100_000),
    "safetensors: deep maps": one_tensor('{"a":' * 100_000),
    "safetensors: deep metadata": one_tensor('{"__metadata__":' + '{"a":' * 100_000),
    "safetensors: metadata that is a list": safetensors_of({"__metadata__": ["a"], "a": entry()}, bytes(8)),
    "safetensors: no comma": one_tensor(f'{{"a":{SOUND} "b":{SOUND}}}'),
    "safetensors: comma at the end": one_tensor(f'{{"a":{SOUND},}}'),
    "safetensors: something after the map": one_tensor(f'{{"a":{SOUND}}}{{}}'),
    "npy: ends in its header": npy(weights(70_000))[:40],
    "npy: ends in its array": npy(weights(70_000))[:1000],
    "npy: version 9": changed(npy(weights(5)), 6, b"\x09"),
    "npy: header of 4 GiB": b"\x93NUMPY\2\0" + number(0xFFFFFFFF) + bytes(500),
    "npy: no shape": npy_of("{'descr': '<f4', 'fortran_order': False}"),
    "npy: two shapes": npy_of("{'descr': '<f4', 'shape': (1,), 'shape': (2,)}"),
    "npy: negative shape": npy_of("{'descr': '<f4', 'shape': (-1,)}"),
    "npy: shape of 2^63": npy_of("{'descr': '<f4', 'shape': (9223372036854775808,)}"),
    "npy: shape too large": npy_of(f"{{'descr': '<f4', 'shape': ({'99999999999999,' * 60})}}"),
    "npy: code": npy_of("__import__('os').system('exit 1')"),
    "npz: an array that is none": npz(ARRAYS).replace(b"\x93NUMPY", b"\x93NUMPI", 1),
    "zip: no directory": PLAIN[:DIRECTORY],
    "zip: ends in its directory": PLAIN[:-30],
    "zip: directory at 2^32-2": changed(PLAIN, len(PLAIN) - 6, number((1 << 32) - 2)),
    "zip: directory of another length": changed(PLAIN, len(PLAIN) - 10, number(len(PLAIN) - DIRECTORY - 50)),
    "zip: more entries than there are": changed(PLAIN, len(PLAIN) - 14, number(60_000, 2) * 2),
    "zip: fewer entries than there are": changed(PLAIN, len(PLAIN) - 14, number(2, 2) * 2),
    "zip: several disks": changed(PLAIN, len(PLAIN) - 18, number(1, 2)),
    "zip: wide without a locator": changed(PLAIN, len(PLAIN) - 6, number(0xFFFFFFFF)),
    "zip: entry at another place": changed(PLAIN, STORED + 42, number(1)),
    "zip: entry beyond the file": changed(PLAIN, STORED + 42, number(0xFFFFFFFE)),
    "zip: entry without its wide offset": changed(PLAIN, STORED + 42, number(0xFFFFFFFF)),
    "zip: entry longer than the file": changed(PLAIN, STORED + 20, number(0x7FFFFFFF) * 2),
    "zip: entry into the directory": changed(PLAIN, STORED + 20, number(280_500) * 2),
    "zip: stored entry of two lengths": changed(PLAIN, STORED + 20, number(5)),
    "zip: bomb": changed(PLAIN, STORED + 24, number(0xFFFFFFFE)),
    "zip: two entries of one name": torch_zip([b"", b"", STORAGES[0]]).replace(b"archive/data/1", b"archive/data/0"),
    "zip: entries that overlap": changed(
        torch_zip([STORAGES[0], b"x"]),
        torch_zip([STORAGES[0], b"x"]).rindex(b"archive/data/1") - 4,
        number(LOCAL),
    ),
    "zip: local header of another name": changed(PLAIN, LOCAL + 38, b"X"),
    "zip: local header with a long extra field": changed(PLAIN, LOCAL + 28, b"\xff\xff"),
    "zip: wide entry of 2^63": wide_zip(b"data/0", STORAGES[0]).replace(number(280_000, 8), number(1 << 63, 8)),
    "zip: wide directory at 2^63": changed(wide_zip(b"data/0", STORAGES[0]), -50 + len(FILES["torch wide"]), b"\x80"),
    "gguf: big-endian": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(100),
    "gguf: version 1": gguf([("a", (8,), 0, bytes(32))], version=1),
    "gguf: 2^63 tensors": gguf([("a", (8,), 0, bytes(32))], tensor_count=1 << 63),
    "gguf: 2^63 values": gguf([("a", (8,), 0, bytes(32))], value_count=1 << 63),
    "gguf: more tensors than there are": gguf([("a", (8,), 0, bytes(32))], tensor_count=1000),
    "gguf: string of 2^63": gguf([], [number(1 << 63, 8)]) + bytes(100),
    "gguf: array of 2^63 numbers": gguf([], [gguf_value(b"a", 9, struct.pack("<IQ", 0, 1 << 63))]) + bytes(100),
    "gguf: array of 2^63 strings": gguf([], [gguf_value(b"a", 9, struct.pack("<IQ", 8, 1 << 63))]) + bytes(100),
    "gguf: value of an unknown kind": gguf([("a", (8,), 0, bytes(32))], [gguf_value(b"a", 77, b"")]),
    "gguf: deep arrays": gguf([], [gguf_value(b"a", 9, struct.pack("<IQ", 9, 1) * 100_000)]),
    "gguf: alignment 0": gguf([("a", (8,), 0, bytes(32))], [gguf_value(b"general.alignment", 4, number(0))]),
    "gguf: alignment 2^31": gguf([("a", (8,), 0, bytes(32))], [gguf_value(b"general.alignment", 4, number(1 << 31))]),
    "gguf: 1,000 dimensions": gguf([("a", (1,) * 1000, 0, bytes(4))]),
    "gguf: shape too large": gguf([("a", (1 << 63, 1 << 63), 0, bytes(32))]),
    "gguf: half a block": gguf([("a", (33,), 8, bytes(64))]),
    "gguf: a name twice": gguf([("a", (8,), 0, bytes(32)), ("a", (8,), 0, bytes(32))]),
    "gguf: a name that is not UTF-8": gguf([("a", (8,), 0, bytes(32))]).replace(gguf_text(b"a"), gguf_text(b"\xff")),
    "gguf: overlapping tensors": gguf([("a", (16,), 0, bytes(32)), ("b", (8,), 0, bytes(32))]),
    "gguf: beyond the file": gguf([("a", (800,), 0, bytes(32))]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_cut_every_4_mib_and_lists_no_tensors(what: str) -> None:
    data = BAD[what]
    assert is_fixed(cut(data))
    assert list_tensors(len(data), CountingFile(data)) is None


def test_bad_input_is_large_too() -> None:
    data = safetensors_of({"a": entry(), "b": entry(4, 12)}, bytes(9 * MIB))
    assert len(cut(data)) == 3
    assert is_fixed(cut(data))


# -- bounds


def hostile_safetensors(unit: str) -> bytes:
    return safetensors_of(None, text=('{"a":' + unit * (4 * MIB // len(unit))).encode())


ENTRY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'


@pytest.mark.parametrize(
    "data",
    [
        hostile_safetensors("[],"),
        hostile_safetensors("["),
        hostile_safetensors(" "),
        hostile_safetensors('{"dtype":'),
        hostile_safetensors('"\\u1234'),
        safetensors_of(None, text=b'{"__metadata__":{' + b'"":"",' * 700_000),
        safetensors_of(None, text=b'{"a":{"dtype":"F32","shape":[' + b"1," * 2_000_000),
        gguf([], [bytes(13)] * 300_000, value_count=1 << 60),
        gguf([], [gguf_value(b"a", 9, struct.pack("<IQ", 8, 1 << 60) + bytes(4 * MIB))]),
        gguf([], [gguf_value(b"a", 9, struct.pack("<IQ", 9, 1 << 60) + bytes(4 * MIB))]),
        npy_of("{'shape': (" + " " * 60_000),
        PLAIN[:-22] + b"PK\5\6" * 20_000,
    ],
    ids=range(12),
)
def test_hostile_headers_take_little_more_memory_than_their_bytes(data: bytes) -> None:
    tracemalloc.start()
    found = cut(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert is_fixed(found)
    assert peak <= 4 * len(data) + MIB


@pytest.mark.parametrize(
    "head",
    [
        safetensors_of(None, length=MAX_HEADER_BYTES + 1, text=b"{"),
        safetensors_of(None, length=1 << 39, text=b"{"),
        gguf([], [gguf_value(b"a", 9, struct.pack("<IQ", 0, 1 << 39))]),
        gguf([], [], tensor_count=1_000_000),
        gguf([], [], value_count=1 << 40),
        b"\x93NUMPY\2\0" + number(1 << 31),
        b"PK\3\4" + bytes(26),
    ],
    ids=range(7),
)
def test_of_a_terabyte_at_most_64_mib_are_read(head: bytes) -> None:
    file = CountingFile(head, 1 << 40)
    assert list_tensors(file.size_bytes, file) is None
    assert file.bytes_read <= MAX_HEADER_BYTES
    assert len(file.reads) <= 2 + 64


def steps_of(data: bytes) -> int:
    """Return how many function calls cutting takes, those of built-in functions included."""
    steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += event.endswith("call")

    file = CountingFile(data)
    sys.setprofile(count)
    try:
        list_tensors(len(data), file)
    finally:
        sys.setprofile(None)
    return steps


@pytest.mark.parametrize(
    "make",
    [
        lambda count: safetensors({f"t{number}": weights(1) for number in range(count)}),
        lambda count: gguf([(f"t{number}", (1,), 0, bytes(4)) for number in range(count)]),
        lambda count: torch_zip([bytes(4)] * count),
        lambda count: npz({f"t{number}": weights(1) for number in range(count)}),
        lambda count: safetensors_of(None, text=b'{"__metadata__":{' + b'"a":"b",' * count),
    ],
    ids=["safetensors", "gguf", "torch", "npz", "metadata"],
)
def test_ten_times_as_many_tensors_take_ten_times_as_many_steps(make: Callable[[int], bytes]) -> None:
    assert steps_of(make(1000)) <= 11 * steps_of(make(100))


# -- formats


def test_every_module_of_a_format_is_registered() -> None:
    folder = Path(cutting.__file__).parent
    with_names = {
        path.stem
        for path in folder.glob("*.py")
        if any(
            isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "NAME"
            for node in ast.parse(path.read_text()).body
        )
    }
    assert {getattr(one, "__name__", "").rpartition(".")[2] for one in FORMATS} == with_names


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.NAME)
def test_only_its_own_files_are_recognised(one: Format) -> None:
    assert {name.partition(" ")[0] for name, data in FILES.items() if one.recognises(data[:4096])} == {one.NAME}
