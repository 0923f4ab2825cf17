from __future__ import annotations

import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, UnsupportedFormatError
from replicate.objects.codecs import MAX_RAW_BYTES, base_id, cast, delta, planes
from replicate.objects.codecs.delta import MASKED, MAX_ORDERED_ITEMS, ORDERED
from tests.builders import noise, refusal
from tests.objects.codecs.series import BASE, ITEM_BYTES, bfloat16, damages, pairs, stepped, weights

MIB = 1 << 20
OLD = weights(20_000)
DENSE, SPARSE = stepped(OLD, 1e-3), OLD.copy()
SPARSE[::7] += np.float32(1e-4)


def encoded(data: bytes, item_bytes: int, base: bytes, *, ordered: bool = False) -> bytes:
    """Return a payload that must be there."""
    payload = delta.encode(data, item_bytes, BASE, base, ordered=ordered)
    assert payload is not None
    return payload


def flags(payload: bytes) -> int:
    """Return how the differences are listed."""
    return payload[32] & ~15


@given(pairs(), st.booleans())
def test_deltas_give_the_bytes_back_or_are_not_worth_it(pair: tuple[int, bytes, bytes], ordered: bool) -> None:
    item_bytes, old, new = pair
    payload = delta.encode(new, item_bytes, BASE, old, ordered=ordered)
    if payload is not None:
        assert len(payload) < len(new)
        assert base_id(payload, "blob x") == BASE
        assert delta.decode(payload, len(new), old, "blob x") == new
        assert delta.encode(new, item_bytes, BASE, old, ordered=ordered) == payload


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("new", [DENSE, SPARSE, OLD], ids=["dense", "sparse", "equal"])
@pytest.mark.parametrize("item_bytes", ITEM_BYTES)
@pytest.mark.parametrize("size", [57, 63, 64, 65, 1_000, 32_767, 32_768, 65_537, 80_000])
def test_any_length_and_item_comes_back(size: int, item_bytes: int, new: np.ndarray, ordered: bool) -> None:
    old, data = OLD.tobytes()[:size], new.tobytes()[:size]
    payload = delta.encode(data, item_bytes, BASE, old, ordered=ordered)
    if payload is not None:
        assert delta.decode(payload, size, old, "blob x") == data
    assert payload is not None or new is not OLD or size < 80


@pytest.mark.parametrize("item_bytes", ITEM_BYTES)
@pytest.mark.parametrize("size", range(10))
def test_what_is_shorter_than_an_id_is_no_delta(size: int, item_bytes: int) -> None:
    assert delta.encode(bytes(size), item_bytes, BASE, bytes(size)) is None


def test_differences_wrap_around() -> None:
    edges = np.array([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1] * 100, np.uint32)
    for turn in range(6):
        old, new = edges.tobytes(), np.roll(edges, turn).tobytes()
        for item_bytes in ITEM_BYTES:
            payload = encoded(new, item_bytes, old)
            assert delta.decode(payload, len(new), old, "blob x") == new


def test_nan_and_infinities_are_bits_like_others() -> None:
    new = DENSE.copy()
    new[:6] = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0]
    payload = encoded(new.tobytes(), 4, OLD.tobytes(), ordered=True)
    assert delta.decode(payload, new.nbytes, OLD.tobytes(), "blob x") == new.tobytes()


# -- how the differences are listed


def test_few_differences_are_listed_under_a_mask() -> None:
    assert flags(encoded(SPARSE.tobytes(), 4, OLD.tobytes())) == MASKED
    assert flags(encoded(DENSE.tobytes(), 4, OLD.tobytes())) == 0


def test_many_are_listed_under_a_mask_when_that_saves_something() -> None:
    some_equal = np.where(np.arange(OLD.size) % 5, DENSE, OLD)  # four in five differ
    assert flags(encoded(some_equal.tobytes(), 4, OLD.tobytes())) == MASKED
    halves = bfloat16(stepped(OLD, 3e-4))  # most differ, by little
    assert flags(encoded(halves.tobytes(), 2, bfloat16(OLD).tobytes())) == 0


def test_they_are_ordered_only_when_that_is_wanted_and_pays() -> None:
    old, dense = weights(MIB), stepped(weights(MIB), 1e-4)
    plain, ordered = (encoded(dense.tobytes(), 4, old.tobytes(), ordered=wanted) for wanted in (False, True))
    assert (flags(plain), flags(ordered)) == (0, ORDERED)
    assert len(ordered) < 0.98 * len(plain)
    integers = np.arange(MIB, dtype=np.uint32)
    noisy = integers + np.random.default_rng(0).integers(0, 1_000, MIB, np.uint32)
    assert flags(encoded(noisy.tobytes(), 4, integers.tobytes(), ordered=True)) == 0


def test_what_lies_in_this_threads_memory_can_be_a_base() -> None:
    first = weights(300_000)
    second, third = stepped(first, 1e-4, 1), stepped(first, 1e-4, 2)
    one, two, three = first.tobytes(), second.tobytes(), third.tobytes()
    payloads = [planes.encode(one, 4), delta.encode(two, 4, BASE, one), delta.encode(three, 4, BASE, two)]
    assert None not in payloads
    found = planes.decode_view(payloads[0] or b"", len(one), "blob x")
    for payload in payloads[1:]:
        found = delta.decode_view(payload or b"", len(one), found, "blob x")
    assert found == three
    export = cast.decode_view(BASE + bytes([cast.BFLOAT16]), len(one) // 2, found, "blob x")
    assert export == bfloat16(third).tobytes()


def test_sparse_differences_are_ordered_too() -> None:
    old = weights(MIB)
    new = stepped(old, 3e-6)
    payload = encoded(bfloat16(new).tobytes(), 2, bfloat16(old).tobytes(), ordered=True)
    assert flags(payload) == MASKED | ORDERED
    assert delta.decode(payload, 2 * MIB, bfloat16(old).tobytes(), "blob x") == bfloat16(new).tobytes()


def test_more_items_than_can_be_sorted_in_bounded_memory_are_not_ordered() -> None:
    old = weights((MAX_ORDERED_ITEMS + 4) // 4)
    new = stepped(old, 1e-4)
    payload = encoded(new.tobytes(), 1, old.tobytes(), ordered=True)
    assert flags(payload) == 0
    forged = payload[:32] + bytes([payload[32] | ORDERED]) + payload[33:]
    with pytest.raises(CorruptionError, match="it has too many items to be ordered"):
        delta.decode(forged, new.nbytes, old.tobytes(), "blob x")


@pytest.mark.parametrize(
    ("old", "new", "item_bytes", "below"),
    [
        (weights(MIB), stepped(weights(MIB), 1e-4), 4, 0.83),
        (bfloat16(weights(MIB)), bfloat16(stepped(weights(MIB), 1e-4)), 2, 0.40),
        (bfloat16(weights(MIB)), bfloat16(stepped(weights(MIB), 3e-6)), 2, 0.07),
    ],
)
def test_a_delta_is_smaller_than_planes_as_the_sample_foretells(
    old: np.ndarray, new: np.ndarray, item_bytes: int, below: float
) -> None:
    data, base = new.tobytes(), old.tobytes()
    payload, whole = encoded(data, item_bytes, base), planes.encode(data, item_bytes)
    assert whole is not None
    assert len(payload) < below * len(whole)
    foretold = delta.sampled_bits(data, item_bytes, base)
    assert foretold == pytest.approx(8 * len(payload) * item_bytes / len(data), rel=0.2)
    assert foretold < below * planes.sampled_bits(data, item_bytes)


def test_a_base_that_does_not_resemble_gives_nothing_or_more_than_planes() -> None:
    data, other = weights(MIB).tobytes(), weights(MIB, 5).tobytes()
    assert delta.encode(noise(MIB), 4, BASE, noise(MIB, "other")) is None
    assert delta.sampled_bits(data, 4, other) > 0.98 * planes.sampled_bits(data, 4)


@pytest.mark.parametrize("size", [0, 79_999, 80_001])
def test_a_base_of_another_length_is_no_base(size: int) -> None:
    assert delta.encode(DENSE.tobytes(), 4, BASE, bytes(size)) is None
    payload = encoded(DENSE.tobytes(), 4, OLD.tobytes())
    message = f"^blob x is damaged: its base has {size:,} bytes where it has 80,000 .its base is blob {BASE.hex()}.$"
    with pytest.raises(CorruptionError, match=message):
        delta.decode(payload, DENSE.nbytes, bytes(size), "blob x")


def test_what_was_coded_before_leaves_no_trace() -> None:
    pieces = [(DENSE.tobytes(), 4, False), (SPARSE.tobytes(), 2, True), (DENSE.tobytes()[:777], 8, True)]
    alone = [encoded(data, item, OLD.tobytes()[: len(data)], ordered=ordered) for data, item, ordered in pieces]
    for (data, item, ordered), expected in zip(pieces[::-1], alone[::-1], strict=True):
        assert encoded(data, item, OLD.tobytes()[: len(data)], ordered=ordered) == expected
        assert delta.decode(expected, len(data), OLD.tobytes()[: len(data)], "blob x") == data


# -- damage


@given(
    st.data(), st.sampled_from(ITEM_BYTES), st.sampled_from([DENSE.tobytes(), SPARSE.tobytes() + b"abc"]), st.booleans()
)
def test_a_damaged_payload_is_refused_with_its_base_or_gives_as_many_bytes(
    data: st.DataObject, item_bytes: int, new: bytes, ordered: bool
) -> None:
    old = OLD.tobytes() + b"xyz"[: len(new) - OLD.nbytes]
    payload = encoded(new, item_bytes, old, ordered=ordered)
    spoilt = data.draw(damages(payload))
    error = refusal(lambda: delta.decode(spoilt, len(new), old, "blob x"))
    if error is None:
        assert len(delta.decode(spoilt, len(new), old, "blob x")) == len(new)
    else:
        assert error.message.startswith("blob x is damaged: ")
        assert len(spoilt) <= 32 or f"its base is blob {spoilt[:32].hex()}" in error.message


def test_a_base_that_is_altered_gives_other_bytes_that_the_id_will_tell_from_the_right_ones() -> None:
    payload = encoded(DENSE.tobytes(), 4, OLD.tobytes())
    altered = bytearray(OLD.tobytes())
    altered[100] ^= 1
    assert delta.decode(payload, DENSE.nbytes, altered, "blob x") != DENSE.tobytes()


@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_bytes_are_refused_or_decode_to_the_length_that_was_asked_for(body: bytes, raw_length: int) -> None:
    base = noise(raw_length)
    if refusal(lambda: delta.decode(BASE + body, raw_length, base, "blob x")) is None:
        assert len(delta.decode(BASE + body, raw_length, base, "blob x")) == raw_length


def test_lengths_that_lie_take_no_memory() -> None:
    base = bytes(MAX_RAW_BYTES)
    tracemalloc.start()
    try:
        for first, lies in ((1, [1 << 31]), (33, [1 << 31, 0, 0]), (33, [1 << 26, 1 << 31, 0]), (36, [9, 9, 9, 9])):
            payload = BASE + bytes([first]) + struct.pack(f"<{len(lies)}I", *lies)
            with pytest.raises(CorruptionError):
                delta.decode(payload, MAX_RAW_BYTES, base, "blob x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB


def test_a_big_endian_machine_says_so_and_stores_nothing_so(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encoded(DENSE.tobytes(), 4, OLD.tobytes())
    monkeypatch.setattr(sys, "byteorder", "big")
    assert delta.encode(DENSE.tobytes(), 4, BASE, OLD.tobytes()) is None
    with pytest.raises(UnsupportedFormatError, match=r"^blob x holds weights in an encoding that this big-endian"):
        delta.decode(payload, DENSE.nbytes, OLD.tobytes(), "blob x")
