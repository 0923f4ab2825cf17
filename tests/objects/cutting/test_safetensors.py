from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from replicate.objects.cutting import Listing, Piece, Tensor, cut_file, list_tensors
from tests.weights import CountingFile, safetensors, safetensors_of, weights

MIB = 1 << 20


def listing(data: bytes) -> Listing | None:
    return list_tensors(len(data), CountingFile(data))


def test_tensors_are_listed_with_dtype_and_shape() -> None:
    arrays = {
        "b.weight": weights(6).reshape(2, 3),
        "a.bias": weights(3, "float16"),
        "n": np.array(7),
        "none": weights(0),
    }
    data = safetensors(arrays, {"format": "pt"})
    start = len(data) - 24 - 6 - 8
    assert listing(data) == Listing(
        "safetensors",
        [
            Tensor("b.weight", start, 24, 4, "F32", (2, 3)),
            Tensor("a.bias", start + 24, 6, 2, "F16", (3,)),
            Tensor("n", start + 30, 8, 8, "I64", ()),
            Tensor("none", start + 38, 0, 4, "F32", (0,)),
        ],
    )


def test_a_file_is_cut_at_its_tensors() -> None:
    arrays = {"embed": weights(1_500_000), "bias": weights(1000), "norm": weights(2000), "mask": np.ones(500_000, bool)}
    data = safetensors(arrays)
    file = CountingFile(data)
    header = 8 + int.from_bytes(data[:8], "little")
    assert cut_file(len(data), file) == [
        Piece(0, header, None, 0),
        Piece(header, 4 * MIB, "embed", 0, 4, "F32", (1_500_000,), 1),
        Piece(header + 4 * MIB, 6_000_000 - 4 * MIB, "embed", 1, 4, "F32", (1_500_000,), 1),
        Piece(header + 6_000_000, 12_000, "bias", 0, 4, "F32", None, 2),
        Piece(header + 6_012_000, 500_000, "mask", 0, 1, "BOOL", (500_000,), 1),
    ]
    assert file.reads == [(0, 4096), (0, 8), (8, header - 8)]


def test_a_header_of_100_gigabytes_of_weights_is_read_and_nothing_else() -> None:
    layer = 1 << 30
    header = {
        f"layers.{n}.weight": {"dtype": "BF16", "shape": [layer // 2], "data_offsets": [n * layer, (n + 1) * layer]}
        for n in range(100)
    }
    head = safetensors_of(header)
    file = CountingFile(head, len(head) + 100 * layer)
    found = cut_file(file.size_bytes, file)
    assert len(found) == 1 + 100 * 512
    assert found[-1] == Piece(file.size_bytes - 2 * MIB, 2 * MIB, "layers.99.weight", 511, 2, "BF16", (layer // 2,), 1)
    assert file.bytes_read == 4096 + len(head)


def test_tensors_may_lie_in_another_order_than_the_header_and_apart() -> None:
    header = {
        "late": {"shape": [2], "data_offsets": [16, 24], "dtype": "F32"},
        "early": {"data_offsets": [0, 8], "dtype": "F64", "shape": [1]},
    }
    found = listing(safetensors_of(header, bytes(30)))
    assert found is not None
    assert [one.name for one in found.tensors] == ["early", "late"]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I4", "SOMETHING_NEW"])
def test_a_dtype_of_no_or_unknown_item_size_has_items_of_one_byte(dtype: str) -> None:
    found = listing(safetensors_of({"a": {"dtype": dtype, "shape": [16], "data_offsets": [0, 16]}}, bytes(16)))
    assert found is not None
    assert [(one.item_bytes, one.dtype) for one in found.tensors] == [(1, dtype)]


@pytest.mark.parametrize("name", ["ünï 🎈", 'quo"te', "back\\slash", "", "new\nline", "a" * 5000, "__metadata"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_name_is_read_however_it_is_escaped(name: str, ascii_only: bool) -> None:
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    text = json.dumps({name: entry}, ensure_ascii=ascii_only, indent=1).encode()
    found = listing(safetensors_of(None, b"\0", text=text))
    assert found is not None
    assert [one.name for one in found.tensors] == [name]


def test_a_file_without_tensors_is_one_piece() -> None:
    data = safetensors_of({"__metadata__": {"a": "b"}}, b"rest")
    assert cut_file(len(data), CountingFile(data)) == [Piece(0, len(data), None, 0)]
    assert listing(data) == Listing("safetensors", [])
    assert listing(struct.pack("<Q", 2) + b"{}") == Listing("safetensors", [])


def test_a_name_without_end_is_no_name() -> None:
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    assert listing(safetensors_of({"a" * (64 << 10): entry}, b"\0")) is not None
    assert listing(safetensors_of({"a" * (64 << 10) + "a": entry}, b"\0")) is None
