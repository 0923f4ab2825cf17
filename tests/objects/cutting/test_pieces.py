from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.objects.cutting import MAX_PIECE_BYTES, Piece, Tensor, pieces
from replicate.objects.cutting.header import Surprise
from replicate.objects.cutting.pieces import (
    CRUMB_BYTES,
    MAX_PACKED_BYTES,
    SMALL_BYTES,
    check_tensors,
    cut_at_tensors,
    cut_without_tensors,
)

KIB = 1 << 10
MIB = 1 << 20

lengths = st.one_of(
    st.integers(0, 3), st.integers(0, 2 * CRUMB_BYTES), st.integers(0, 2 * SMALL_BYTES), st.integers(0, 9 * MIB)
)
gaps = st.sampled_from([0, 0, 0, 1, 64, 100, CRUMB_BYTES - 1, CRUMB_BYTES, 5 * MIB])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Tensor], int]:
    """Return tensors in order, and the size of a file that holds them."""
    tensors = []
    at = draw(gaps)
    for number, (length, gap) in enumerate(draw(st.lists(st.tuples(lengths, gaps), max_size=40))):
        item_bytes = draw(st.sampled_from([1, 2, 4, 8]))
        tensors.append(Tensor(f"t{number}", at, length // item_bytes * item_bytes, item_bytes, f"i{item_bytes}"))
        at += tensors[-1].length + gap
    return tensors, at + draw(gaps)


def row(*lengths: int, item_bytes: int = 4, gap: int = 0, start: int = 0) -> list[Tensor]:
    """Return tensors behind each other."""
    found = []
    for number, length in enumerate(lengths):
        found.append(Tensor(f"t{number}", start, length, item_bytes, "F32", (length // item_bytes,)))
        start += length + gap
    return found


def brief(found: list[Piece]) -> list[tuple[str | None, int, int]]:
    return [(piece.tensor, piece.part, piece.length) for piece in found]


def check_cover(found: list[Piece], size_bytes: int) -> None:
    at = 0
    for piece in found:
        assert piece.offset == at
        assert 0 < piece.length <= MAX_PIECE_BYTES
        assert piece.item_bytes in (1, 2, 4, 8)
        assert piece.length % piece.item_bytes == 0
        at += piece.length
    assert at == size_bytes
    keys = [(piece.tensor, piece.part) for piece in found]
    assert len(set(keys)) == len(keys)


@given(layouts())
def test_pieces_cover_the_file_exactly_and_have_keys_of_their_own(layout: tuple[list[Tensor], int]) -> None:
    check_cover(cut_at_tensors(*layout), layout[1])


@given(layouts())
def test_every_large_tensor_begins_a_piece_and_ends_one(layout: tuple[list[Tensor], int]) -> None:
    starts = {piece.offset: piece.tensor for piece in cut_at_tensors(*layout)} | {layout[1]: None}
    for tensor in layout[0]:
        if tensor.length >= SMALL_BYTES:
            assert starts[tensor.offset] == tensor.name
            assert tensor.offset + tensor.length in starts


@given(layouts())
def test_the_items_of_a_piece_are_those_of_its_tensors(layout: tuple[list[Tensor], int]) -> None:
    found = cut_at_tensors(*layout)
    for tensor in layout[0]:
        if tensor.length >= CRUMB_BYTES:
            piece = next(piece for piece in found if piece.offset <= tensor.offset < piece.offset + piece.length)
            assert piece.item_bytes == tensor.item_bytes
            assert (tensor.offset - piece.offset) % tensor.item_bytes == 0


@given(layouts())
def test_there_are_few_small_pieces(layout: tuple[list[Tensor], int]) -> None:
    found = cut_at_tensors(*layout)
    named = [piece for piece in found if piece.tensor is not None]
    assert all(piece.length > CRUMB_BYTES - 8 for piece in named if not piece.part)
    assert len(found) <= 2 * len(named) + 1 + layout[1] // MAX_PIECE_BYTES
    assert all(piece.length <= MAX_PACKED_BYTES for piece in found if piece.tensors > 1)


def test_a_large_tensor_is_cut_every_4_mib() -> None:
    found = cut_at_tensors(row(9 * MIB), 9 * MIB)
    assert brief(found) == [("t0", 0, 4 * MIB), ("t0", 1, 4 * MIB), ("t0", 2, MIB)]
    assert {(piece.item_bytes, piece.dtype, piece.shape, piece.tensors) for piece in found} == {
        (4, "F32", (9 * MIB // 4,), 1)
    }


def test_small_neighbours_share_a_piece_of_at_most_1_mib() -> None:
    tensors = row(*[200 * KIB] * 12)
    found = cut_at_tensors(tensors, 2400 * KIB)
    assert brief(found) == [("t0", 0, 1000 * KIB), ("t5", 0, 1000 * KIB), ("t10", 0, 400 * KIB)]
    assert [piece.tensors for piece in found] == [5, 5, 2]
    assert {(piece.item_bytes, piece.dtype, piece.shape) for piece in found} == {(4, "F32", None)}


def test_the_gaps_between_small_neighbours_are_packed_with_them_and_others_are_not() -> None:
    found = cut_at_tensors(row(6 * KIB, 6 * KIB, 512 * KIB, gap=64, start=64), 530 * KIB)
    assert brief(found) == [
        (None, 0, 64),
        ("t0", 0, 12 * KIB + 64),
        (None, 1, 64),
        ("t2", 0, 512 * KIB),
        (None, 2, 5952),
    ]


def test_small_neighbours_of_two_item_sizes_have_pieces_of_their_own() -> None:
    tensors = [Tensor("a", 0, 8 * KIB, 4, "F32"), Tensor("b", 8 * KIB, 8 * KIB, 2, "F16")]
    assert [piece.item_bytes for piece in cut_at_tensors(tensors, 16 * KIB)] == [4, 2]


def test_a_crumb_is_packed_with_tensors_of_another_item_size() -> None:
    tensors = [
        Tensor("steps", 0, 8, 8, "I64"),
        Tensor("a", 8, 8 * KIB, 4, "F32"),
        Tensor("mask", 8 + 8 * KIB, 3, 1, "BOOL"),
    ]
    found = cut_at_tensors(tensors, 8 + 8 * KIB + 3)
    assert found == [Piece(0, 8 + 8 * KIB, "steps", 0, 4, None, None, 3), Piece(8 + 8 * KIB, 3, None, 0)]


def test_empty_tensors_have_no_piece() -> None:
    assert brief(cut_at_tensors(row(0, 8 * KIB, 0), 8 * KIB)) == [("t1", 0, 8 * KIB)]


def test_lone_crumbs_and_what_lies_around_them_are_one_piece() -> None:
    found = cut_at_tensors(row(MIB, 4, 4, MIB, gap=60), 2 * MIB + 188 + 60)
    assert brief(found) == [("t0", 0, MIB), (None, 0, 188), ("t3", 0, MIB), (None, 1, 60)]


@pytest.mark.parametrize("size", [0, 1, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1])
def test_a_file_without_tensors_is_cut_every_4_mib(size: int) -> None:
    found = cut_without_tensors(size)
    check_cover(found, size)
    assert len(found) == -(-size // MAX_PIECE_BYTES)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ([Tensor("a", 0, 8), Tensor("b", 7, 1)], "tensors overlap"),
        ([Tensor("a", -1, 8)], "tensors overlap"),
        ([Tensor("a", 0, 8), Tensor("a", 8, 8)], "two tensors have one name"),
        ([Tensor("a", 93, 8)], "a tensor is not all in the file"),
        ([Tensor("a", 101, 0)], "a tensor is not all in the file"),
        ([Tensor("a", 0, -4)], "a tensor is not made of items"),
        ([Tensor("a", 0, 7, 2)], "a tensor is not made of items"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tensors: list[Tensor], why: str) -> None:
    with pytest.raises(Surprise, match=f"^{why}$"):
        check_tensors(tensors, 100)


def test_too_many_tensors_are_refused_before_all_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_TENSORS", 10)
    left = iter(row(*[1] * 100, item_bytes=1))
    with pytest.raises(Surprise, match=r"^it has too many tensors$"):
        check_tensors(left, 100)
    assert len(list(left)) == 89


def test_tensors_are_put_in_the_order_of_the_file() -> None:
    tensors = row(8, 0, 16)
    assert check_tensors(reversed(tensors), 24) == tensors


@given(st.lists(st.integers(1, 3 * MIB), max_size=30))
def test_tensors_of_16_bits_are_cut_at_the_items_where_those_of_32_are(counts: list[int]) -> None:
    counts = [count for count in counts if count >= CRUMB_BYTES]
    total = sum(counts)
    whole = cut_at_tensors(row(*(4 * count for count in counts)), 4 * total)
    half = cut_at_tensors(row(*(2 * count for count in counts), item_bytes=2), 2 * total)
    assert [(one.tensor, one.part, 2 * one.length) for one in half] == brief(whole)
