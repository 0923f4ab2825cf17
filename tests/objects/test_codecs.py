from __future__ import annotations

import contextlib
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError
from replicate.objects.codecs import MAX_RAW_BYTES, base_id, concat, fill, patch, zstd
from replicate.objects.codecs.concat import Chunk
from replicate.objects.codecs.patch import PatchBase
from replicate.objects.cutting import MAX_PIECE_BYTES, cut_fixed
from replicate.objects.ids import Kind, object_id
from replicate.objects.model import encode_tree
from tests.builders import many_entries, noise, refusal, some_id
from tests.strategies import contents, ids


def refused(why: str) -> pytest.RaisesExc[CorruptionError]:
    return pytest.raises(CorruptionError, match=rf"^blob x is damaged: {why}$")


# -- zstd


@given(contents)
def test_zstd_gives_the_bytes_back_or_is_not_worth_it(data: bytes) -> None:
    payload = zstd.encode(data)
    if payload is not None:
        assert len(payload) < len(data)
        assert zstd.decompress(payload, len(data), "blob x") == data


def test_a_zstd_frame_declares_its_content_size() -> None:
    payload = zstd.encode(bytes(100_000))
    assert payload is not None
    assert zstandard.get_frame_parameters(payload).content_size == 100_000


@pytest.mark.parametrize("size", [0, 1, 1_000, 100_000])
def test_noise_is_not_compressed(size: int) -> None:
    assert zstd.encode(noise(size)) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_large_data_is_compressed_if_its_beginning_middle_or_end_is_worth_it(place: int) -> None:
    parts = [noise(40_000, f"{number}") for number in range(3)]
    parts[place] = bytes(40_000)
    assert zstd.encode(b"".join(parts)) is not None


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_compressed(make: type) -> None:
    payload = zstd.encode(make(bytes(1_000)))
    assert payload is not None
    assert zstd.decompress(make(payload), 1_000, "blob x") == bytes(1_000)


def frame(data: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(data)


def test_a_frame_of_another_length_is_refused_before_it_is_decoded() -> None:
    payload = frame(bytes(1_000))
    for claimed in (0, 999, 1_001, MAX_RAW_BYTES):
        with refused("its zstd frame is of another length"):
            zstd.decompress(payload, claimed, "blob x")


def test_a_frame_without_content_size_is_refused() -> None:
    with refused("its zstd frame is of another length"):
        zstd.decompress(frame(b"abc", sized=False), 3, "blob x")


def header(size: int, window: int) -> bytes:
    """Return a frame's header that declares a size and a window of 2^(10 + window), and an empty last block."""
    return b"\x28\xb5\x2f\xfd\x80" + bytes([window << 3]) + struct.pack("<I", size) + b"\1\0\0"


def test_a_frame_that_wants_a_huge_window_is_refused_before_memory_is_taken() -> None:
    with refused("its zstd frame wants too much memory"):
        zstd.decompress(header(1_000, 18), 1_000, "blob x")
    with refused("zstd says .*requires too much memory.*"):
        zstd.decompress(header(1_000, 31), 1_000, "blob x")
    with refused("zstd says .*"):  # 128 MiB is the most; but this frame is empty
        zstd.decompress(header(1_000, 17), 1_000, "blob x")


@pytest.mark.parametrize("more", [b"\0", b"x", frame(b""), frame(b"abc")])
def test_nothing_may_follow_a_frame(more: bytes) -> None:
    with refused("zstd says .*"):
        zstd.decompress(frame(b"abc") + more, 3, "blob x")


@pytest.mark.parametrize("payload", [b"", b"\0", b"abc" * 10, frame(b"abc")[:-1], frame(bytes(100_000))[:10]])
def test_what_is_no_frame_is_refused(payload: bytes) -> None:
    for claimed in (3, 100_000):
        with refused("(zstd says .*|its zstd frame is of another length)"):
            zstd.decompress(payload, claimed, "blob x")


def into(payload: bytes, size: int) -> bytes:
    """Return what `decompress_into` fills."""
    out = bytearray(size)
    zstd.check_frame(payload, size, "blob x")
    zstd.decompress_into(payload, memoryview(out), "blob x")
    return bytes(out)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("data", [b"", b"a", b"a" * 300_000, noise(300_000), bytes(200_000) + noise(200_000)])
def test_a_frame_can_be_decoded_into_memory_that_is_there(data: bytes, checksum: bool) -> None:
    payload = zstandard.ZstdCompressor(write_checksum=checksum).compress(data)
    assert into(payload, len(data)) == data
    for more in (b"\0", b"x", b"abcd", frame(b""), frame(b"abc"), b"\x50\x2a\x4d\x18\0\0\0\0"):
        with refused("something lies after its zstd frame"):
            into(payload + more, len(data))


@given(st.data())
def test_damaged_frames_are_decoded_alike_in_both_ways(data: st.DataObject) -> None:
    payload = bytearray(frame(noise(500) + bytes(150_000) + noise(500)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    spoilt = bytes(payload[: data.draw(st.integers(0, len(payload)))] if data.draw(st.booleans()) else payload)
    expected = found = b""
    with contextlib.suppress(CorruptionError):
        expected = zstd.decompress(spoilt, 151_000, "blob x")
    with contextlib.suppress(CorruptionError):
        found = into(spoilt, 151_000)
    assert found == expected


# -- fill


@given(
    st.sampled_from([1, 2, 4, 8]).flatmap(lambda size: st.binary(min_size=size, max_size=size)), st.integers(64, 300)
)
def test_a_repeated_item_is_a_fill(item: bytes, count: int) -> None:
    data = item * count
    payload = fill.encode(data)
    assert payload is not None
    assert len(payload) <= len(item)
    assert fill.decode(payload, len(data), "blob x") == data


@given(st.binary(max_size=200))
def test_other_bytes_are_no_fill(data: bytes) -> None:
    payload = fill.encode(data)
    assert payload is None or payload * (len(data) // len(payload)) == data


@pytest.mark.parametrize("place", [0, 1, 8, 63, 64, 500, 998, 999])
def test_one_other_byte_anywhere_makes_it_no_fill(place: int) -> None:
    data = bytearray(1_000)
    data[place] = 1
    assert fill.encode(data) is None


def test_little_data_is_no_fill() -> None:
    assert fill.encode(bytes(63)) is None
    assert fill.encode(bytes(64)) == b"\0"
    assert fill.encode(b"") is None


@pytest.mark.parametrize("item", [b"", b"abc", b"12345678a", bytes(16)])
def test_a_fill_of_another_item_length_is_refused(item: bytes) -> None:
    with refused("its fill item does not fit"):
        fill.decode(item, 144, "blob x")


def test_a_fill_ends_with_a_whole_item() -> None:
    with refused("its fill item does not fit"):
        fill.decode(b"ab", 5, "blob x")


# -- concat


@given(st.lists(st.builds(Chunk, ids, st.integers(1, MAX_RAW_BYTES)), min_size=2, max_size=8))
def test_a_list_of_chunks_comes_back(chunks: list[Chunk]) -> None:
    payload = concat.encode(chunks)
    assert concat.decode(payload, sum(chunk.length for chunk in chunks), "blob x") == chunks


ONE, TWO = Chunk(some_id("1"), 10), Chunk(some_id("2"), 20)


@pytest.mark.parametrize(
    ("payload", "length", "why"),
    [
        (b"", 0, "its list of chunks has a wrong length"),
        (concat.encode([ONE]), 10, "its list of chunks has a wrong length"),
        (concat.encode([ONE, TWO]) + b"\0", 30, "its list of chunks has a wrong length"),
        (concat.encode([ONE, TWO])[:-1], 30, "its list of chunks has a wrong length"),
        (concat.encode([ONE, TWO]), 31, "its chunks do not add up to its length"),
        (concat.encode([ONE, TWO]), 29, "its chunks do not add up to its length"),
        (concat.encode([ONE, TWO, Chunk(some_id("3"), 0)]), 30, "a chunk is empty or too large"),
        (
            concat.encode([ONE, Chunk(some_id("3"), MAX_RAW_BYTES + 1)]),
            MAX_RAW_BYTES + 11,
            "a chunk is empty or too large",
        ),
    ],
)
def test_a_list_of_chunks_that_breaks_a_rule_is_refused(payload: bytes, length: int, why: str) -> None:
    with refused(why):
        concat.decode(payload, length, "blob x")


@given(st.integers(0, 100 << 20))
def test_cuts_add_up_and_only_the_last_piece_is_smaller(size: int) -> None:
    lengths = cut_fixed(size)
    assert sum(lengths) == size
    assert all(length == MAX_PIECE_BYTES for length in lengths[:-1])
    assert all(0 < length <= MAX_PIECE_BYTES for length in lengths)


# -- patch

OLD = encode_tree(many_entries(500))
NEW = encode_tree(many_entries(500, {123: b"changed"}))
BASE = PatchBase(object_id(Kind.TREE, OLD), OLD)


def test_a_patch_on_the_tree_before_is_small_and_gives_the_bytes_back() -> None:
    payload = patch.encode(NEW, BASE)
    assert payload is not None
    assert len(payload) < 300 < len(NEW) // 50
    assert base_id(payload, "tree x") == BASE.tree
    assert patch.decode(payload, len(NEW), OLD, "tree x") == NEW


def test_a_patch_above_a_quarter_is_not_worth_it() -> None:
    half = encode_tree(many_entries(500, {number: b"changed %d" % number for number in range(0, 500, 2)}))
    assert patch.encode(half, BASE) is None
    assert patch.encode(NEW, PatchBase(some_id("other"), noise(1_000))) is None


@pytest.mark.parametrize("magic", [bytes.fromhex("37a430ec"), b""])
def test_a_base_is_raw_content_even_if_it_looks_like_a_trained_dictionary(magic: bytes) -> None:
    old, new = magic + noise(5_000) + b"1", magic + noise(5_000) + b"22"
    payload = patch.encode(new, PatchBase(some_id("old"), old))
    assert payload is not None
    assert patch.decode(payload, len(new), old, "blob x") == new


def test_a_patch_on_other_bytes_is_refused_or_gives_other_bytes() -> None:
    payload = patch.encode(NEW, BASE)
    assert payload is not None
    other = b"x" * len(OLD)
    error = refusal(lambda: patch.decode(payload, len(NEW), other, "tree x"))
    if error is None:
        assert patch.decode(payload, len(NEW), other, "tree x") != NEW


@pytest.mark.parametrize("size", [0, 31, 32])
def test_a_payload_without_a_base_or_a_patch_is_refused(size: int) -> None:
    with refused("it names no base"):
        base_id(bytes(size), "blob x")
