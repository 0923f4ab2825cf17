from __future__ import annotations

import zipfile

import numpy as np
import pytest

from replicate.objects.cutting import Listing, Piece, cut_file, list_tensors
from replicate.objects.cutting.torch_zip import guess_item_bytes
from tests.weights import CountingFile, bfloat16, torch_zip, weights, wide_zip

MIB = 1 << 20
STORAGES = [weights(1_500_000).tobytes(), weights(1000).tobytes(), weights(1000).tobytes(), weights(100_000).tobytes()]


def listing(data: bytes) -> Listing:
    found = list_tensors(len(data), CountingFile(data))
    assert found is not None
    return found


def keys(data: bytes) -> list[tuple[str | None, int, int]]:
    return [
        (piece.tensor, piece.part, piece.length) for piece in cut_file(len(data), CountingFile(data)) if piece.tensor
    ]


def test_storages_are_listed_by_the_names_of_their_entries() -> None:
    data = torch_zip(STORAGES)
    found = listing(data)
    assert found.format == "torch"
    assert [one.name for one in found.tensors] == ["data/0", "data/1", "data/2", "data/3"]
    assert {(one.item_bytes, one.dtype, one.shape) for one in found.tensors} == {(4, None, None)}
    for one, storage in zip(found.tensors, STORAGES, strict=True):
        assert one.offset % 64 == 0
        assert data[one.offset : one.offset + one.length] == storage


def test_an_archive_is_cut_at_its_storages() -> None:
    data = torch_zip(STORAGES)
    file = CountingFile(data)
    found = cut_file(len(data), file)
    assert [(piece.tensor, piece.part, piece.item_bytes, piece.tensors) for piece in found] == [
        (None, 0, 1, 0),
        ("data/0", 0, 4, 1),
        ("data/0", 1, 4, 1),
        (None, 1, 1, 0),
        ("data/1", 0, 4, 2),
        (None, 2, 1, 0),
        ("data/3", 0, 4, 1),
        (None, 3, 1, 0),
    ]
    assert found[4].length < 8000 + 200
    assert len(file.reads) == 3 + len(STORAGES) + 2


@pytest.mark.parametrize("stem", ["step-00010", "step-00020-longer", "ünï"])
def test_the_name_of_the_file_does_not_show_in_the_keys(stem: str) -> None:
    assert keys(torch_zip(STORAGES, stem=stem)) == keys(torch_zip(STORAGES))


def test_entries_may_be_in_any_order() -> None:
    data = torch_zip(STORAGES, order=[6, 4, 2, 0, 3, 5, 1, 7])
    assert [one.name for one in listing(data).tensors] == ["data/2", "data/0", "data/1", "data/3"]


def test_fields_of_64_bits_are_read() -> None:
    assert keys(torch_zip(STORAGES, zip64=True)) == keys(torch_zip(STORAGES))
    (found,) = listing(wide_zip(b"data/0", STORAGES[3])).tensors
    assert (found.name, found.length) == ("data/0", 400_000)


def test_a_comment_after_the_directory_is_passed_over() -> None:
    comment = b"PK\5\6" * 5000
    data = torch_zip(STORAGES)[:-2] + len(comment).to_bytes(2, "little") + comment
    assert keys(data) == keys(torch_zip(STORAGES))


def test_compressed_storages_are_spans_of_bytes() -> None:
    found = listing(torch_zip(STORAGES, compression=zipfile.ZIP_DEFLATED))
    assert [(one.name, one.item_bytes) for one in found.tensors] == [(f"data/{number}", 1) for number in range(4)]


def test_a_pickle_is_not_read() -> None:
    pickle = b"cos\nsystem\n(S'exit 1'\ntR." * 1000
    data = torch_zip(STORAGES, pickle=pickle)
    file = CountingFile(data)
    found = cut_file(len(data), file)
    assert found[0] == Piece(0, found[1].offset, None, 0)
    begin = data.index(pickle)
    assert [(at, length) for at, length in file.reads if begin <= at < begin + len(pickle)] == []


@pytest.mark.parametrize(
    "data",
    [
        torch_zip(STORAGES).replace(b"data.pkl", b"data.txt"),
        torch_zip(STORAGES, stem="a").replace(b"a/byteorder", b"bb/data.pkl"),
    ],
    ids=["none", "two"],
)
def test_an_archive_without_a_pickle_or_with_two_is_not_from_torch(data: bytes) -> None:
    assert list_tensors(len(data), CountingFile(data)) is None


@pytest.mark.parametrize(
    ("sample", "item_bytes"),
    [
        (weights(1024, "float32").tobytes(), 4),
        (weights(2048, "float16").tobytes(), 2),
        (bfloat16(weights(2048)), 2),
        (weights(512, "float64").tobytes(), 8),
        ((weights(1024) ** 2).tobytes(), 4),
        (np.arange(512, dtype="int64").tobytes(), 8),
        (np.arange(1024, dtype="int32").tobytes(), 4),
        (np.random.default_rng(0).integers(0, 256, 4096, "uint8").tobytes(), 1),
        (np.random.default_rng(0).integers(-9, 9, 4096, "int8").tobytes(), 1),
        (bytes(4096), 4),
        (np.ones(1024, "float32").tobytes(), 4),
        ((weights(1024) * (np.arange(1024) % 50 == 0)).astype("float32").tobytes(), 4),
    ],
)
def test_the_item_size_is_guessed(sample: bytes, item_bytes: int) -> None:
    assert len(sample) == 4096
    assert guess_item_bytes(sample) == item_bytes


def test_small_storages_have_the_item_size_of_the_one_before() -> None:
    half = bfloat16(weights(100_000))
    found = listing(torch_zip([b"12", half, bytes(10), bytes(7), b"", STORAGES[3], bytes(8)]))
    assert [one.item_bytes for one in found.tensors] == [2, 2, 2, 1, 1, 4, 4]
