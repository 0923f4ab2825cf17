from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from replicate.objects.cutting import Listing, Piece, Tensor, cut_file, list_tensors
from tests.weights import Array, CountingFile, npy, npz, weights

MIB = 1 << 20


def listing(data: bytes) -> Listing:
    found = list_tensors(len(data), CountingFile(data))
    assert found is not None
    return found


def test_an_array_is_cut_after_its_header() -> None:
    array = weights(1_500_000).reshape(3, 500_000)
    data = npy(array)
    file = CountingFile(data)
    assert cut_file(len(data), file) == [
        Piece(0, 128, None, 0),
        Piece(128, 4 * MIB, "", 0, 4, "<f4", (3, 500_000), 1),
        Piece(128 + 4 * MIB, 6_000_000 - 4 * MIB, "", 1, 4, "<f4", (3, 500_000), 1),
    ]
    assert file.reads == [(0, 4096), (0, 128)]


@pytest.mark.parametrize(
    ("array", "item_bytes"),
    [
        (np.zeros(3, "<f4"), 4),
        (np.zeros(3, ">f4"), 4),
        (np.zeros(3, "f2"), 2),
        (np.zeros((), "f8"), 8),
        (np.zeros((0, 4), "i8"), 8),
        (np.zeros((2, 3, 4), "c8"), 4),
        (np.zeros(2, "c16"), 8),
        (np.zeros(2, "?"), 1),
        (np.zeros(2, "U5"), 4),
        (np.zeros(2, "S5"), 1),
        (np.zeros(2, "S4"), 1),
        (np.zeros(2, "V2"), 2),
        (np.zeros(2, "M8[ns]"), 8),
        (np.zeros((3, 2), order="F"), 8),
        (np.zeros(2, np.longdouble), 8),
    ],
)
def test_every_simple_dtype_has_its_item_size(array: Array, item_bytes: int) -> None:
    data = npy(array)
    (found,) = listing(data).tensors
    is_column_major = not array.flags.c_contiguous
    expected = ("", len(data) - array.nbytes, array.nbytes, item_bytes, array.dtype.str, array.shape, is_column_major)
    assert found == Tensor(*expected)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header_is_read(version: tuple[int, int]) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(5), version)
    assert listing(stream.getvalue()).tensors[0].shape == (5,)


@pytest.mark.parametrize("dtype", [[("x", "<f4"), ("y", "<i8", (2,))], object])
def test_what_has_several_fields_or_objects_is_bytes_to_the_end(dtype: Any) -> None:
    data = npy(np.zeros(4, dtype)) + b"more"
    (found,) = listing(data).tensors
    assert (found.item_bytes, found.dtype, found.shape, found.offset + found.length) == (1, None, (4,), len(data))


def test_a_header_of_many_fields_is_read() -> None:
    array = np.zeros(4, [(f"field{number}", "<f4") for number in range(1000)])
    data = npy(array)
    file = CountingFile(data)
    found = list_tensors(len(data), file)
    assert found is not None
    assert len(data) - found.tensors[0].offset == array.nbytes
    assert len(file.reads) == 3


def test_what_follows_an_array_is_bytes() -> None:
    data = npy(np.zeros(300_000)) + npy(np.zeros(300_000))
    assert [piece.tensor for piece in cut_file(len(data), CountingFile(data))] == [None, "", None]


def test_the_arrays_of_an_archive_are_listed_by_name() -> None:
    arrays = {"w": weights(6).reshape(2, 3), "b": weights(3, "float64"), "step": np.array(7), "none": weights(0)}
    data = npz(arrays)
    file = CountingFile(data)
    found = list_tensors(len(data), file)
    assert found is not None
    assert found.format == "npz"
    assert [(one.name, one.dtype, one.shape) for one in found.tensors] == [
        ("w", "<f4", (2, 3)),
        ("b", "<f8", (3,)),
        ("step", "<i8", ()),
        ("none", "<f4", (0,)),
    ]
    for one in found.tensors:
        assert data[one.offset : one.offset + one.length] == arrays[one.name].tobytes()
    assert len(file.reads) == 3 + 2 * len(arrays)


def test_an_archive_is_cut_at_its_arrays() -> None:
    data = npz({"w": weights(1_500_000), "b1": weights(50_000, "float16"), "c1": weights(50_000, "float16")})
    found = cut_file(len(data), CountingFile(data))
    assert [(piece.tensor, piece.part, piece.item_bytes, piece.tensors) for piece in found] == [
        (None, 0, 1, 0),
        ("w", 0, 4, 1),
        ("w", 1, 4, 1),
        (None, 1, 1, 0),
        ("b1", 0, 2, 2),
        (None, 2, 1, 0),
    ]


def test_compressed_arrays_are_spans_of_bytes() -> None:
    rng = np.random.default_rng(0)
    data = npz({"w": rng.integers(0, 255, 5 * MIB, "u1"), "b": weights(100_000)}, np.savez_compressed)
    found = listing(data)
    assert [(one.name, one.item_bytes, one.dtype, one.shape) for one in found.tensors] == [
        ("w", 1, None, None),
        ("b", 1, None, None),
    ]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [one.length for one in found.tensors] == [info.compress_size for info in archive.infolist()]
    assert ("w", 1) in [(piece.tensor, piece.part) for piece in cut_file(len(data), CountingFile(data))]


def test_other_members_of_an_archive_are_gaps() -> None:
    stream = io.BytesIO(npz({"w": weights(5)}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("notes.txt", b"hello")
    assert [one.name for one in listing(stream.getvalue()).tensors] == ["w"]
