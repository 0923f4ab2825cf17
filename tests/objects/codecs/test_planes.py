from __future__ import annotations

import struct
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, UnsupportedFormatError
from replicate.objects.codecs import MAX_RAW_BYTES, planes
from replicate.objects.codecs.items import scratch
from tests.builders import noise, refusal
from tests.objects.codecs.series import ITEM_BYTES, bfloat16, damages, pairs, stepped, weights

MIB = 1 << 20
SOME = weights(30_000).tobytes() + b"abc"


def encoded(data: bytes, item_bytes: int) -> bytes:
    """Return a payload that must be there."""
    payload = planes.encode(data, item_bytes)
    assert payload is not None
    return payload


@given(pairs())
def test_planes_give_the_bytes_back_or_are_not_worth_it(pair: tuple[int, bytes, bytes]) -> None:
    item_bytes, data, _ = pair
    payload = planes.encode(data, item_bytes)
    if payload is not None:
        assert len(payload) < len(data)
        assert planes.decode(payload, len(data), "blob x") == data
        assert planes.encode(data, item_bytes) == payload


@pytest.mark.parametrize("item_bytes", ITEM_BYTES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 8, 9, 63, 1_000, 65_535, 65_537, 131_071, 262_151, 1_000_003])
def test_any_length_and_item_comes_back(item_bytes: int, size: int) -> None:
    data = (bytes(3) + b"\x80?" * 5 + bytes(1_000)) * (size // 1_013 + 1)
    payload = planes.encode(data[:size], item_bytes)
    if payload is not None:
        assert planes.decode(payload, size, "blob x") == data[:size]
    assert (payload is None) == (size < (64 if item_bytes == 8 else 63))


@pytest.mark.parametrize("item_bytes", ITEM_BYTES)
def test_items_that_are_no_numbers_are_bits_like_others(item_bytes: int) -> None:
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1e-45], np.float64)
    data = (odd.tobytes() + odd.astype(np.float32).tobytes() + b"\xff" * 16) * 100
    assert planes.decode(encoded(data, item_bytes), len(data), "blob x") == data


@pytest.mark.parametrize(
    ("data", "item_bytes", "ratio"),
    [
        (weights(MIB).tobytes(), 4, 1.195),
        (bfloat16(weights(MIB)).tobytes(), 2, 1.49),
        (weights(MIB).astype(np.float16).tobytes(), 2, 1.17),
        (weights(MIB).astype(np.float64).tobytes(), 8, 1.9),  # half of its bits are zero
    ],
)
def test_weights_shrink_by_the_entropy_of_their_exponents(data: bytes, item_bytes: int, ratio: float) -> None:
    payload = encoded(data, item_bytes)
    assert len(data) / len(payload) > ratio
    assert planes.sampled_bits(data, item_bytes) == pytest.approx(8 * len(payload) * item_bytes / len(data), rel=0.05)


@pytest.mark.parametrize("item_bytes", ITEM_BYTES)
@pytest.mark.parametrize("size", [1, 100, 4_096, 1_000_000])
def test_noise_is_not_worth_it(item_bytes: int, size: int) -> None:
    assert planes.encode(noise(size), item_bytes) is None


def test_a_sample_sees_what_is_special_at_the_beginning_or_the_end() -> None:
    low = np.random.default_rng(0).integers(0, 1 << 32, MIB, np.uint32)
    low[: MIB // 10] &= 0xFF00
    low[-MIB // 10 :] &= 0xFF00
    assert len(encoded(low.tobytes(), 4)) < 0.89 * low.nbytes


def test_a_plane_of_zeros_takes_no_byte() -> None:
    payload = encoded(struct.pack("<256I", *range(256)), 4)
    first, second, third, fourth = struct.unpack_from("<4I", payload, 1)
    assert 0 not in (first, second)  # the bits of 2x are in bytes 0 and 1
    assert (third, fourth) == (0, 0)


def test_matches_are_found_all_the_same() -> None:
    data = np.arange(MIB).tobytes()
    assert len(encoded(data, 8)) < len(data) / 50


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_used(make: type) -> None:
    payload = encoded(make(SOME), 4)
    assert payload == encoded(SOME, 4)
    assert planes.decode(make(payload), len(SOME), "blob x") == SOME


def test_unaligned_data_comes_back() -> None:
    view = memoryview(b"x" + SOME)[1:]
    assert planes.decode(memoryview(b"x" + encoded(bytes(view), 4))[1:], len(SOME), "blob x") == SOME


@pytest.mark.parametrize("item_bytes", [-1, 0, 3, 16])
def test_another_item_length_is_a_mistake_of_the_caller(item_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"an item has 1, 2, 4 or 8 bytes, not {item_bytes}"):
        planes.encode(SOME, item_bytes)


def test_what_was_coded_before_leaves_no_trace() -> None:
    small, large = weights(777).tobytes() + b"x", stepped(weights(50_000), 1.0).tobytes()
    alone = encoded(small, 4)
    encoded(large, 2)
    assert encoded(small, 4) == alone
    assert planes.decode(encoded(large, 4), len(large), "blob x") == large
    assert planes.decode(alone, len(small), "blob x") == small


def test_what_is_mostly_zero_is_listed_below_what_a_code_of_whole_bits_takes() -> None:
    rng = np.random.default_rng(0)
    plane = np.where(rng.random(MIB) < 0.22, rng.integers(1, 9, MIB), 0).astype(np.uint8)
    data = plane.tobytes()
    assert len(encoded(data, 1)) < 0.19 * MIB  # an entropy of 1.42 bits; a Huffman code alone takes 0.21
    assert planes.decode(encoded(data, 1), MIB, "blob x") == data


@pytest.mark.parametrize("item_bytes", ITEM_BYTES)
@pytest.mark.parametrize("zero", [0b0001, 0b1000, 0b0011, 0b1100, 0b0110, 0b1111])
def test_planes_of_zeros_anywhere_come_back(item_bytes: int, zero: int) -> None:
    columns = np.random.default_rng(1).integers(1, 99, (5_000, item_bytes)).astype(np.uint8)
    for index in range(item_bytes):
        if zero >> index % 4 & 1:
            columns[:, index] = 0
    rotated = columns.reshape(-1).view(f"<u{item_bytes}")
    data = ((rotated >> 1) | (rotated << (8 * item_bytes - 1))).astype(rotated.dtype).tobytes()
    assert planes.decode(encoded(data, item_bytes), len(data), "blob x") == data


def test_threads_do_not_disturb_each_other() -> None:
    some = [weights(20_000, seed).tobytes() for seed in range(40)]
    expected = [encoded(one, 4) for one in some]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: encoded(one, 4), some)) == expected
        lengths = [len(one) for one in some]
        assert list(pool.map(planes.decode, expected, lengths, ["blob x"] * 40)) == some


def test_memory_is_used_again_unless_it_is_very_large() -> None:
    first = scratch("a test", 1_000)
    assert np.shares_memory(first, scratch("a test", 250, 4))
    assert not np.shares_memory(scratch("a test", 32 << 20), scratch("a test", 32 << 20))


def test_encoding_again_takes_little_fresh_memory() -> None:
    data = weights(MIB).tobytes()
    payload = encoded(data, 4)
    tracemalloc.start()
    try:
        payload = encoded(data, 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(payload) + 1.5 * MIB  # and one plane


# -- damage


@given(st.data(), st.sampled_from(ITEM_BYTES))
def test_a_damaged_payload_is_refused_or_gives_as_many_bytes(data: st.DataObject, item_bytes: int) -> None:
    payload = encoded(SOME, item_bytes)
    spoilt = data.draw(damages(payload))
    error = refusal(lambda: planes.decode(spoilt, len(SOME), "blob x"))
    if error is None:
        assert len(planes.decode(spoilt, len(SOME), "blob x")) == len(SOME)
    else:
        assert error.message.startswith("blob x is damaged: ")
        assert error.where == "blob x"


@given(st.binary(max_size=60), st.integers(0, 2 * MAX_RAW_BYTES))
def test_any_bytes_are_refused_or_decode_to_the_length_that_was_asked_for(payload: bytes, raw_length: int) -> None:
    if refusal(lambda: planes.decode(payload, raw_length, "blob x")) is None:
        assert len(planes.decode(payload, raw_length, "blob x")) == raw_length


def bomb(size: int) -> bytes:
    """Return a frame of some bytes that holds very many."""
    return zstandard.ZstdCompressor(level=1).compress(bytes(size))


def is_refused(payload: bytes) -> bool:
    """Tell whether a payload is refused for the largest object."""
    return refusal(lambda: planes.decode(payload, MAX_RAW_BYTES, "blob x")) is not None


@pytest.mark.parametrize("claimed", [1_000, 4 * MIB, MAX_RAW_BYTES])
def test_a_frame_that_holds_more_than_its_plane_is_refused_before_memory_is_taken(claimed: int) -> None:
    frame = bomb(MAX_RAW_BYTES * 2)
    payload = b"\4" + struct.pack("<4I", len(frame), 0, 0, 0) + frame
    tracemalloc.start()
    try:
        error = refusal(lambda: planes.decode(payload, claimed, "blob x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error is not None
    assert peak < claimed + MIB


def test_lengths_that_lie_take_no_memory() -> None:
    tracemalloc.start()
    try:
        for lie in (1, 1 << 20, (1 << 32) - 1):
            payload = b"\1" + struct.pack("<I", lie) + b"x"
            assert lie == 1 or is_refused(payload)
        with pytest.raises(CorruptionError, match=r"^blob x is damaged: 67,108,865 bytes are too large$"):
            planes.decode(b"\1\0\0\0\0", MAX_RAW_BYTES + 1, "blob x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB


# -- machines


def test_a_big_endian_machine_says_so_and_stores_nothing_so(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encoded(SOME, 4)
    monkeypatch.setattr(sys, "byteorder", "big")
    assert planes.encode(SOME, 4) is None
    with pytest.raises(
        UnsupportedFormatError, match=r"^blob x holds weights in an encoding that this big-endian"
    ) as caught:
        planes.decode(payload, len(SOME), "blob x")
    assert caught.value.exit_code == 7
