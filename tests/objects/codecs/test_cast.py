from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, UnsupportedFormatError
from replicate.objects.codecs import base_id, cast
from replicate.objects.codecs.cast import BFLOAT16, FLOAT16
from tests.builders import refusal
from tests.objects.codecs.series import BASE, bfloat16, weights

OLD = weights(50_000)
HALF = OLD.astype(np.float16)


def test_a_rounded_file_takes_33_bytes() -> None:
    for data, target in ((bfloat16(OLD).tobytes(), BFLOAT16), (HALF.tobytes(), FLOAT16)):
        payload = cast.encode(data, BASE, OLD.tobytes())
        assert payload == BASE + bytes([target])
        assert base_id(payload, "blob x") == BASE
        assert cast.decode(payload, len(data), OLD.tobytes(), "blob x") == data


@pytest.mark.parametrize("place", [0, 1, 49_999])
@pytest.mark.parametrize("rounded", [bfloat16(OLD), HALF.view(np.uint16)])
def test_one_other_item_anywhere_makes_it_no_cast(rounded: np.ndarray, place: int) -> None:
    other = rounded.copy()
    other[place] ^= 1
    assert cast.encode(other.tobytes(), BASE, OLD.tobytes()) is None


@given(st.lists(st.floats(width=32) | st.integers(0, (1 << 32) - 1), min_size=17, max_size=40))
def test_every_bit_pattern_rounds_the_same_when_it_is_decoded(values: list[float | int]) -> None:
    base = b"".join(struct.pack("<I" if isinstance(value, int) else "<f", value) for value in values)
    for target in (BFLOAT16, FLOAT16):
        data = cast.decode(BASE + bytes([target]), len(base) // 2, base, "blob x")
        assert len(data) == len(base) // 2
        payload = cast.encode(data, BASE, base)
        assert payload is not None
        assert cast.decode(payload, len(data), base, "blob x") == data


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_halves_are_those_of_the_standard_library(values: list[float]) -> None:
    base = struct.pack(f"<{len(values)}f", *values)
    found = struct.unpack(f"<{len(values)}e", cast.decode(BASE + b"\2", 2 * len(values), base, "blob x"))
    for value, half in zip(values, found, strict=True):
        try:
            (expected,) = struct.unpack("<e", struct.pack("<e", value))
        except OverflowError:
            expected = float("inf") if value > 0 else float("-inf")
        assert struct.pack("<d", half) == struct.pack("<d", expected)


@pytest.mark.parametrize(
    ("bits", "target", "expected"),
    [
        (0x3F808000, BFLOAT16, 0x3F80),  # a tie, to the even one below
        (0x3F818000, BFLOAT16, 0x3F82),  # and above
        (0x7F7FFFFF, BFLOAT16, 0x7F80),
        (0x7F800001, BFLOAT16, 0x7FC0),
        (0xFFFFFFFF, BFLOAT16, 0x7FC0),
        (0x7F800001, FLOAT16, 0x7E00),
        (0xFFC00000, FLOAT16, 0xFE00),
        (0x477FF000, FLOAT16, 0x7C00),
        (0x33000001, FLOAT16, 0x0001),
    ],
)
def test_rounding_is_the_one_of_the_specification(bits: int, target: int, expected: int) -> None:
    found = cast.decode(BASE + bytes([target]), 2, struct.pack("<I", bits), "blob x")
    assert found == struct.pack("<H", expected)


def test_little_data_is_no_cast() -> None:
    for count in range(17):
        assert cast.encode(HALF[:count].tobytes(), BASE, OLD[:count].tobytes()) is None
    assert cast.encode(HALF[:17].tobytes(), BASE, OLD[:17].tobytes()) is not None


def test_a_base_has_twice_the_length() -> None:
    data = HALF.tobytes()
    for base in (b"", OLD.tobytes()[:-1], OLD.tobytes() + bytes(4), data):
        assert cast.encode(data, BASE, base) is None
        message = f"^blob x is damaged: its base has another number of items .its base is blob {BASE.hex()}.$"
        with pytest.raises(CorruptionError, match=message):
            cast.decode(BASE + b"\2", len(data), base, "blob x")
    assert cast.encode(data + b"x", BASE, OLD.tobytes() + b"xx") is None
    assert refusal(lambda: cast.decode(BASE + b"\1", 41, bytes(82), "blob x")) is not None


@pytest.mark.parametrize("payload", [b"", BASE[:31], BASE, BASE + b"\0", BASE + b"\3", BASE + b"\1\0"])
def test_a_payload_that_names_no_rounding_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptionError, match=r"^blob x is damaged: it names no "):
        cast.decode(payload, 100, bytes(200), "blob x")


def test_a_big_endian_machine_says_so_and_stores_nothing_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert cast.encode(HALF.tobytes(), BASE, OLD.tobytes()) is None
    with pytest.raises(UnsupportedFormatError, match=r"^blob x holds weights in an encoding that this big-endian"):
        cast.decode(BASE + b"\2", HALF.nbytes, OLD.tobytes(), "blob x")
