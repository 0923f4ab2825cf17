from __future__ import annotations

import struct

import pytest

from replicate.objects.cutting import Listing, Piece, Tensor, cut_file, list_tensors
from tests.weights import CountingFile, bfloat16, gguf, gguf_strings, gguf_text, gguf_value, weights

MIB = 1 << 20
NESTED = struct.pack("<IQ", 9, 2) + struct.pack("<IQ3H", 2, 3, 1, 2, 3) + gguf_strings([b"x"])
VALUES = [
    gguf_value(b"general.architecture", 8, gguf_text(b"llama")),
    gguf_value(b"tokenizer.ggml.tokens", 8 + 1, gguf_strings([b"<s>", b"", "ü".encode()])),
    gguf_value(b"scores", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3)),
    gguf_value(b"nested", 9, NESTED),
    gguf_value(b"flag", 7, b"\1"),
    gguf_value(b"count", 10, bytes(8)),
]


def listing(data: bytes) -> Listing:
    found = list_tensors(len(data), CountingFile(data))
    assert found is not None
    return found


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_are_listed_with_type_and_shape(version: int) -> None:
    contents = [weights(6).tobytes(), bfloat16(weights(3)), bytes(2 * 34), bytes(144), b""]
    tensors = [
        ("w", (2, 3), 0, contents[0]),
        ("h", (3,), 30, contents[1]),
        ("q8", (2, 32), 8, contents[2]),
        ("q4k", (256,), 12, contents[3]),
        ("none", (0,), 0, contents[4]),
    ]
    data = gguf(tensors, VALUES, version=version)
    found = listing(data)
    assert found.format == "gguf"
    assert [(one.name, one.shape, one.dtype, one.item_bytes) for one in found.tensors] == [
        ("w", (2, 3), "F32", 4),
        ("h", (3,), "BF16", 2),
        ("q8", (2, 32), "Q8_0", 1),
        ("q4k", (256,), "Q4_K", 1),
        ("none", (0,), "F32", 4),
    ]
    assert [data[one.offset : one.offset + one.length] for one in found.tensors] == contents
    assert found.tensors[0].offset % 32 == 0


def test_a_file_is_cut_at_its_tensors() -> None:
    quantised = (144 * 35_000, (256, 35_000))
    data = gguf([("norm", (1500,), 0, weights(1500).tobytes()), ("w", quantised[1], 12, bytes(quantised[0]))], VALUES)
    file = CountingFile(data)
    start = listing(data).tensors[0].offset
    assert cut_file(len(data), file) == [
        Piece(0, start, None, 0),
        Piece(start, 6000, "norm", 0, 4, "F32", (1500,), 1),
        Piece(start + 6000, 16, None, 1),
        Piece(start + 6016, 4 * MIB, "w", 0, 1, "Q4_K", quantised[1], 1),
        Piece(start + 6016 + 4 * MIB, quantised[0] - 4 * MIB, "w", 1, 1, "Q4_K", quantised[1], 1),
    ]
    assert file.reads == [(0, 4096), (0, MIB)]


def test_the_alignment_that_the_file_gives_counts() -> None:
    values = [gguf_value(b"general.alignment", 4, struct.pack("<I", 256))]
    found = listing(gguf([("a", (1,), 24, b"a"), ("b", (1,), 24, b"b")], values, alignment=256))
    assert [one.offset for one in found.tensors] == [256, 512]


def test_a_tensor_of_an_unknown_type_reaches_to_the_next() -> None:
    data = gguf([("new", (64,), 99, bytes(64)), ("a", (8,), 0, bytes(32)), ("newer", (64,), 98, bytes(32))])
    start = len(data) - 128
    assert listing(data).tensors == [
        Tensor("new", start, 64, 1, "type 99", (64,)),
        Tensor("a", start + 64, 32, 4, "F32", (8,)),
        Tensor("newer", start + 96, 32, 1, "type 98", (64,)),
    ]


def test_a_long_vocabulary_is_read_by_the_mebibyte() -> None:
    values = [gguf_value(b"tokens", 9, gguf_strings(b"token%06d" % number for number in range(150_000)))]
    data = gguf([("a", (MIB,), 0, bytes(4 * MIB))], values)
    file = CountingFile(data)
    assert [piece.tensor for piece in cut_file(len(data), file)] == [None, "a"]
    assert file.reads == [(0, 4096), (0, MIB), (MIB, MIB), (2 * MIB, MIB)]


def test_a_vocabulary_without_tensors_is_bytes() -> None:
    data = gguf([], VALUES)
    assert listing(data) == Listing("gguf", [])
    assert cut_file(len(data), CountingFile(data)) == [Piece(0, len(data), None, 0)]
