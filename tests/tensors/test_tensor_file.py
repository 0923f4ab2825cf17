"""Weight files of every format, whole, lying and random."""

from __future__ import annotations

import importlib.util
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import TensorNotFoundError, WeightsFileError
from replicate.tensors import Tensor, TensorFile
from tests.tensors.pickles import dict_of, pickled, tensor
from tests.weights import (
    Array,
    CountingFile,
    bfloat16,
    gguf,
    npy,
    npz,
    safetensors,
    safetensors_of,
    torch_zip,
    weights,
)

REAL = (Path(__file__).parent / "torch_2_13.pt").read_bytes()
HAS_ML_DTYPES = importlib.util.find_spec("ml_dtypes") is not None


def opened(data: bytes, path: str = "model") -> TensorFile:
    return TensorFile(path, len(data), lambda offset, length: data[offset : offset + length])


def bits(array: Array) -> list[int]:
    """Return the bits of numbers that numpy may not know."""
    found: list[int] = array.view(f"u{array.dtype.itemsize}").tolist()
    return found


def assert_equal(found: Array, expected: Array) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


ARRAYS = {
    "layers.0.weight": weights(12).reshape(3, 4),
    "layers.0.bias": weights(4, "float16"),
    "count": np.array(7, "int64"),
    "empty": np.zeros((0, 3), "float32"),
    "mask": np.array([True, False]),
}


def test_tensors_of_safetensors() -> None:
    file = opened(safetensors(ARRAYS))
    assert file.format == "safetensors"
    assert file.tensors()[:2] == [
        Tensor("layers.0.weight", "float32", (3, 4), 48),
        Tensor("layers.0.bias", "float16", (4,), 8),
    ]
    for name, array in ARRAYS.items():
        assert_equal(file.array(name), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_npz(save: Any) -> None:
    arrays = ARRAYS | {"column": np.asfortranarray(weights(6).reshape(2, 3)), "big": np.arange(3, dtype=">i4")}
    file = opened(npz(arrays, save))
    assert (file.format, [one.name for one in file.tensors()]) == ("npz", list(arrays))
    for name, array in arrays.items():
        assert_equal(file.array(name), array)


@pytest.mark.parametrize("array", [weights(6).reshape(2, 3), np.asfortranarray(weights(6).reshape(2, 3))])
def test_the_array_of_npy_needs_no_name(array: Array) -> None:
    file = opened(npy(array))
    assert file.tensors() == [Tensor("", "float32", (2, 3), 24)]
    assert_equal(file.array(None), array)
    assert file.array("").flags.writeable


def test_long_compressed_arrays_are_inflated_in_parts() -> None:
    array = weights(3_000_000)
    assert_equal(opened(npz({"a": array, "b": array[:5]}, np.savez_compressed)).array("a"), array)


def test_tensors_of_gguf_and_their_quantised_blocks() -> None:
    values = weights(6)
    blocks = bytes(range(36))
    data = gguf([("a", (2, 3), 0, values.tobytes()), ("q", (64,), 2, blocks), ("odd", (3,), 99, b"12345678")])
    file = opened(data)
    assert file.tensors()[:2] == [Tensor("a", "float32", (2, 3), 24), Tensor("q", "Q4_0", (64,), 36)]
    assert file.tensors()[2].dtype == "type 99"
    assert_equal(file.array("a"), values.reshape(2, 3))
    assert_equal(file.array("q"), np.frombuffer(blocks, np.uint8))


@pytest.mark.parametrize(
    ("dtype", "name", "data", "plain"),
    [
        ("BF16", "bfloat16", bfloat16(np.array([1.5, -2.0], "float32")), np.uint16),
        ("F8_E4M3", "float8_e4m3fn", b"\x3c\xfe", np.uint8),
        ("F8_E5M2", "float8_e5m2", b"\x3c\xfe", np.uint8),
    ],
)
def test_what_numpy_lacks_is_given_as_bits_or_by_ml_dtypes(dtype: str, name: str, data: bytes, plain: Any) -> None:
    header = {"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(data)]}}
    file = opened(safetensors_of(header, data))
    assert file.tensors() == [Tensor("a", name, (2,), len(data))]
    found = file.array("a")
    assert found.dtype.name == name if HAS_ML_DTYPES else found.dtype == plain
    assert bits(found) == np.frombuffer(data, plain).tolist()


def test_ml_dtypes_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        bfloat16 = np.dtype("float16")  # stands for a dtype of 16 bits

    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", Module)
    header = {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
    assert opened(safetensors_of(header, b"\0\x3c")).array("a") == np.array([1], "float16")


def test_complex_numbers_are_read() -> None:
    values = np.array([1 + 2j, 3], "complex64")
    header = {"a": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}}
    assert_equal(opened(safetensors_of(header, values.tobytes())).array("a"), values)


def test_of_compressed_arrays_the_beginning_tells_what_they_are() -> None:
    data = npz({"a": weights(500_000), "b": weights(500_000)}, np.savez_compressed)
    counting = CountingFile(data)
    assert len(TensorFile("model", len(data), counting).tensors()) == 2
    assert counting.bytes_read < 100_000


def test_packed_small_floats_are_bytes() -> None:
    header = {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    file = opened(safetensors_of(header, b"\x12\x34"))
    assert file.tensors()[0].dtype == "float4_e2m1fn_x2"
    assert_equal(file.array("a"), np.array([0x12, 0x34], np.uint8))


def test_what_torch_wrote_is_read_as_torch_reads_it() -> None:
    """The file is that of torch 2.13; what is expected was printed by it."""
    file = opened(REAL)
    base = np.arange(12, dtype="float32").reshape(3, 4)
    assert [(one.name, one.dtype, one.shape) for one in file.tensors()] == [
        ("model.weight", "float32", (3, 4)),
        ("model.bias", "bfloat16", (2,)),
        ("model.count", "int64", ()),
        ("transposed", "float32", (4, 3)),
        ("column", "float32", (3,)),
        ("expanded", "float32", (4,)),
        ("parameter", "float32", (2,)),
        ("f8", "float8_e4m3fn", (2,)),
        ("u16", "uint16", (2,)),
        ("list.0", "bool", (2,)),
    ]
    assert_equal(file.array("model.weight"), base)
    assert_equal(file.array("transposed"), base.T)
    assert_equal(file.array("column"), base[:, 1])
    assert_equal(file.array("expanded"), np.full(4, 3, "float32"))
    assert_equal(file.array("list.0"), np.array([True, False]))
    assert bits(file.array("model.bias")) == [0x3FC0, 0xC000]
    assert bits(file.array("f8")) == [0x30, 0xFE]
    assert_equal(file.array("data/0"), np.frombuffer(base.tobytes(), np.uint8))


BAD_PICKLES = [
    b"junk",
    pickled(b"Pid\n"),
    pickled(tensor("0", (4,), (1,))),  # one more than there are
    pickled(tensor("0", (2,), (3,))),
    pickled(tensor("0", (1,), (1,), offset=3)),
    pickled(tensor("7", (1,), (1,))),
]


@pytest.mark.parametrize("pickle", BAD_PICKLES)
def test_storages_are_listed_by_entry_when_the_pickle_does_not_fit(pickle: bytes) -> None:
    storages = [weights(3).tobytes(), b"xy"]
    file = opened(torch_zip(storages, pickle=pickle))
    assert file.tensors() == [Tensor("data/0", None, None, 12), Tensor("data/1", None, None, 2)]
    assert_equal(file.array("data/0"), np.frombuffer(storages[0], np.uint8))


def test_storages_that_no_tensor_uses_are_listed_too() -> None:
    data = torch_zip([bytes(8), b"xy"], pickle=pickled(dict_of({"a": tensor("0", (2,), (1,))})))
    assert [one.name for one in opened(data).tensors()] == ["a", "data/1"]


def test_an_expanded_tensor_takes_no_memory_for_its_shape() -> None:
    file = opened(torch_zip([bytes(4)], pickle=pickled(tensor("0", (1 << 40, 2), (0, 0)))))
    assert file.array("").shape == (1 << 40, 2)


def test_a_torch_archive_that_was_compressed_again_is_inflated() -> None:
    values = weights(1000)
    pickle = pickled(dict_of({"a": tensor("0", (998,), (1,), offset=2)}))
    data = torch_zip([values.tobytes()], pickle=pickle, compression=zipfile.ZIP_DEFLATED)
    assert_equal(opened(data).array("a"), values[2:])


def test_of_a_torch_archive_only_directory_pickle_and_tensor_are_read() -> None:
    storages = [bytes(1 << 20) for _ in range(8)]
    state = dict_of({f"layer{number}": tensor(str(number), (1 << 18,), (1,)) for number in range(8)})
    data = torch_zip(storages, pickle=pickled(state))
    counting = CountingFile(data)
    file = TensorFile("model", len(data), counting)
    assert len(file.tensors()) == 8
    assert counting.bytes_read < 200_000
    file.array("layer5")
    assert counting.bytes_read < 200_000 + (1 << 20)


# -- refusals


def test_a_missing_tensor_is_told_with_its_like() -> None:
    file = opened(safetensors(ARRAYS), "m.safetensors")
    with pytest.raises(TensorNotFoundError) as caught:
        file.array("layers.0.wieght")
    assert caught.value.message == "'m.safetensors' has no tensor 'layers.0.wieght'"
    assert caught.value.hint == "did you mean 'layers.0.weight' or 'layers.0.bias'?"
    with pytest.raises(TensorNotFoundError) as caught:
        file.array("zzz")
    assert caught.value.hint == "tensors() lists what there is"
    with pytest.raises(TensorNotFoundError) as caught:
        file.array(None)
    assert caught.value.message == "'m.safetensors' has 5 tensors"


@pytest.mark.parametrize("data", [b"", b"x", b"print('training')\n" * 300, b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_another_file_is_no_weight_file(data: bytes) -> None:
    with pytest.raises(WeightsFileError) as caught:
        opened(data, "train.py")
    assert caught.value.message == "'train.py' is no weight file that is known here"


def bomb() -> bytes:
    """Return an archive with an array that claims 1 TB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(4)))
    data = bytearray(stream.getvalue())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFF00)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (safetensors_of({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}, bytes(4)), "fit its length"),
        (
            safetensors_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(4)),
            "not all in the file",
        ),
        (safetensors_of({}, length=1 << 63), "refers to bytes that it does not have"),
        (npy(np.zeros(4))[:-1], "not all there"),
        (npz({"a": np.zeros(4)})[:-9], "no directory"),
        (gguf([], tensor_count=1 << 40), "too many tensors"),
        (bomb(), "claims more than its bytes can hold"),
    ],
)
def test_a_lying_header_is_told(data: bytes, why: str) -> None:
    with pytest.raises(WeightsFileError, match=why):
        opened(data).tensors()


@pytest.mark.parametrize("array", [np.array([object()]), np.zeros(2, [("a", "f4"), ("b", "i2")])])
def test_arrays_of_no_plain_items_are_listed_but_not_read(array: Array) -> None:
    file = opened(npy(array))
    assert file.tensors()[0].dtype is None
    with pytest.raises(WeightsFileError, match="is no array of plain items"):
        file.array(None)


def test_deflated_bytes_that_are_damaged_are_told() -> None:
    data = bytearray(npz({"a": weights(100_000)}, np.savez_compressed))
    data[70:90] = b"\xff" * 20
    with pytest.raises(WeightsFileError):
        opened(bytes(data)).array("a")


FILES = [
    safetensors(ARRAYS),
    npz(ARRAYS),
    npz(ARRAYS, np.savez_compressed),
    npy(ARRAYS["count"]),
    gguf([("a", (2, 3), 0, bytes(24)), ("q", (32,), 2, bytes(18))]),
    REAL,
]


@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=5),
    st.integers(0, 200),
)
def test_a_changed_file_has_arrays_or_is_refused(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(changed)] = value
    del changed[len(changed) - cut % len(changed) :]
    try:
        file = opened(bytes(changed))
        for one in file.tensors():
            found = file.array(one.name)
            assert one.shape is None or found.shape in (one.shape, (one.size_bytes,))
    except (WeightsFileError, TensorNotFoundError):
        return
