from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import InvalidInputError
from replicate.objects.ids import Kind, ObjectID, blob_id, object_id, pack_id, record_hash
from tests.strategies import ids

HEX = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_a_blobs_id_is_what_b3sum_prints() -> None:
    assert blob_id(b"").hex() == HEX
    assert blob_id(b"hello\n") == blake3(b"hello\n").digest()


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_has_the_same_id(make: type) -> None:
    for kind in Kind:
        assert object_id(kind, make(b"hello")) == object_id(kind, b"hello")
    assert pack_id(make(b"hello")) == pack_id(b"hello")
    assert record_hash(make(b"hello")) == record_hash(b"hello")


@given(st.binary(max_size=100))
def test_equal_bytes_of_different_kinds_have_different_ids(data: bytes) -> None:
    assert len({*(object_id(kind, data) for kind in Kind), pack_id(data), bytes.fromhex(record_hash(data))}) == 7


@given(st.binary(max_size=100))
def test_ids_do_not_depend_on_what_was_hashed_before(data: bytes) -> None:
    first = [object_id(kind, data) for kind in Kind]
    assert [object_id(kind, data) for kind in Kind] == first


@given(ids)
def test_an_id_comes_back_from_its_text(one: ObjectID) -> None:
    assert ObjectID.parse(str(one)) == one
    assert (str(one), repr(one), one.short) == (one.hex(), f"ObjectID({one.hex()})", one.hex()[:7])


@given(ids, ids)
def test_ids_sort_and_compare_as_their_bytes(first: ObjectID, second: ObjectID) -> None:
    assert (first < second) == (bytes(first) < bytes(second))
    assert first == ObjectID(bytes(first))
    assert hash(first) == hash(bytes(first))


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_an_id_has_32_bytes(size: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ObjectID(bytes(size))
    assert str(caught.value) == f"an object id has 32 bytes, not {size}"


@pytest.mark.parametrize("text", ["", HEX[:-1], HEX + "0", HEX.upper(), HEX[:-1] + "g", HEX + "\n", "٠" * 64])
def test_the_text_of_an_id_is_64_lower_case_digits(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ObjectID.parse(text)
    assert str(caught.value) == f"not an object id: {text!r} (64 lower-case hex digits)"
