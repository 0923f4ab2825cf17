from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects.canonical import MAX_DEPTH, decode, encode
from replicate.objects.ids import Kind, ObjectID
from tests.builders import refusal
from tests.strategies import msgpack_values


@given(msgpack_values)
def test_a_value_comes_back(value: Any) -> None:
    data = encode(value)
    again = decode(data, "a value")
    assert encode(again) == data
    if not has_nan(value):
        assert again == value


def has_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    if isinstance(value, list):
        return any(map(has_nan, value))
    return isinstance(value, float) and math.isnan(value)


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=8))
def test_maps_in_any_order_have_one_encoding(value: dict[str, int]) -> None:
    assert encode(dict(reversed(value.items()))) == encode(value)
    keys = [key.encode() for key in decode(encode(value), "a map")]
    assert keys == sorted(keys)


@given(st.binary(max_size=40))
def test_bytes_are_either_canonical_or_refused(data: bytes) -> None:
    error = refusal(lambda: decode(data, "some bytes"))
    if error is None:
        assert encode(decode(data, "some bytes")) == data
    else:
        assert error.where == "some bytes"
        assert error.message.startswith("some bytes is damaged: ")


@given(msgpack_values, st.data())
def test_a_flipped_bit_gives_another_value_or_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    if refusal(lambda: decode(bytes(encoded), "some bytes")) is None:
        assert encode(decode(bytes(encoded), "some bytes")) == encoded != encode(value)


def test_floats_and_integers_stay_apart() -> None:
    assert [type(one) for one in decode(encode([1, 1.0, True]), "a list")] == [int, float, bool]


def test_there_is_one_nan() -> None:
    assert encode(float("nan")) == encode(-float("nan")) == bytes.fromhex("cb7ff8000000000000")


def test_minus_zero_is_kept() -> None:
    assert math.copysign(1, decode(encode(-0.0), "a float")) == -1


def test_ids_are_bytes() -> None:
    assert encode([ObjectID(bytes(32))]) == encode([bytes(32)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2), "a tuple cannot be stored"),
        ({1, 2}, "a set cannot be stored"),
        (object(), "a object cannot be stored"),
        (1j, "a complex cannot be stored"),
        ([Kind.BLOB], "a Kind cannot be stored"),
        ({1: 2}, "map keys must be text"),
        ({b"a": 2}, "map keys must be text"),
        ({"a": {"b": (1,)}}, "a tuple cannot be stored"),
        (1 << 64, "cannot be stored: Integer value out of range"),
        (-(1 << 63) - 1, "cannot be stored: Integer value out of range"),
    ],
)
def test_other_values_cannot_be_stored(value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode(value)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"\ud800": 1}])
def test_text_that_is_not_unicode_cannot_be_stored(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^cannot be stored: 'utf-8' codec can't encode"):
        encode(value)


def nested(depth: int, *, maps: bool) -> Any:
    value: Any = {} if maps else []
    for _ in range(depth - 1):
        value = {"a": value} if maps else [value]
    return value


@pytest.mark.parametrize("maps", [False, True])
def test_values_nest_32_deep_and_no_deeper(maps: bool) -> None:
    assert decode(encode(nested(MAX_DEPTH, maps=maps)), "a value") == nested(MAX_DEPTH, maps=maps)
    with pytest.raises(InvalidInputError) as caught:
        encode(nested(MAX_DEPTH + 1, maps=maps))
    assert str(caught.value) == "nested deeper than 32"


@pytest.mark.parametrize("item", [b"\x91", b"\x81\xa1a"])
@pytest.mark.parametrize("depth", [33, 512, 1_025, 100_000])
def test_deep_bytes_are_refused(item: bytes, depth: int) -> None:
    with pytest.raises(CorruptionError, match=r"^some bytes is damaged: "):
        decode(item * depth + b"\xc0", "some bytes")


@pytest.mark.parametrize("data", ["dd7fffffff", "ddffffffff", "dfffffffff", "c6ffffffff", "dbffffffff", "c9ffffffff00"])
def test_a_claimed_length_is_not_believed(data: str) -> None:
    with pytest.raises(CorruptionError, match=r"^some bytes is damaged: not msgpack \("):
        decode(bytes.fromhex(data), "some bytes")


def test_the_error_names_the_bytes() -> None:
    with pytest.raises(CorruptionError) as caught:
        decode(b"\xcc\x00", "ref record refs/x")
    assert str(caught.value) == "ref record refs/x is damaged: not canonical msgpack"
    assert caught.value.where == "ref record refs/x"
