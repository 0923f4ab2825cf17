from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, KeyNotFoundError
from replicate.objects.codecs import Encoding
from replicate.objects.frames import MAX_PACK_BYTES
from replicate.objects.ids import Kind, ObjectID, object_id, pack_id
from replicate.objects.pack import (
    END_MAGIC,
    ENTRY,
    FRAME,
    HEADER,
    PACK_BYTES,
    TARGET_BYTES,
    TRAILER,
    Entry,
    PackBuffer,
    decode_entries,
    encode_entries,
    frame_payload,
    names_object,
    pack_key,
    read_footer,
    verify_pack,
)
from replicate.transport import MemoryTransport
from tests.builders import (
    NONCE,
    Frame,
    build_pack,
    concat_frame,
    entry,
    noise,
    patch_frame,
    some_id,
    store_of,
    tree_frame,
    zstd_frame,
)
from tests.strategies import contents, entries

frames = st.one_of(
    contents.map(Frame),
    contents.map(zstd_frame),
    st.builds(Frame, contents, st.sampled_from([Kind.TREE, Kind.COMMIT, Kind.LOCATOR, Kind.PACKSET])),
)
frame_lists = st.lists(frames, max_size=8, unique_by=lambda frame: (frame.object_id, frame.kind))


class CountingTransport(MemoryTransport):
    """Notes which ranges were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int | None]] = []

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.ranges.append((start, end))
        return super().get(key, start, end)


def fill_buffer(buffer: PackBuffer, some: list[Frame]) -> None:
    for one in some:
        made = one.entry(0)
        buffer.add(made.kind, made.encoding, made.depth, made.raw_length, made.object_id, one.stored)


# -- writing and reading whole packs


@given(frame_lists, st.booleans())
def test_a_pack_gives_its_objects_back(some: list[Frame], is_meta: bool) -> None:
    buffer = PackBuffer()
    fill_buffer(buffer, some)
    pack, view = buffer.seal(NONCE, is_meta=is_meta)
    transport = MemoryTransport()
    transport.put(pack_key(pack), view)
    found = verify_pack(transport, pack, len(view))
    assert found == read_footer(transport, pack, len(view))
    assert [(one.object_id, one.kind) for one in found] == sorted((one.object_id, one.kind) for one in some)
    by_id = {(one.object_id, one.kind): one for one in some}
    for one in found:
        payload = frame_payload(view[one.offset : one.offset + one.length], one, "a pack")
        assert payload == by_id[one.object_id, one.kind].stored


@given(frame_lists)
def test_a_pack_is_the_same_bytes_as_one_built_by_the_spec(some: list[Frame]) -> None:
    buffer = PackBuffer()
    fill_buffer(buffer, some)
    _, view = buffer.seal(NONCE, is_meta=True)
    built = build_pack(some, is_meta=True)
    end = HEADER.size + sum(one.length for one in built.entries)
    assert bytes(view[:end]) == built.data[:end]
    assert encode_entries(buffer.entries) == encode_entries(built.entries)


def test_equal_objects_make_packs_of_different_names() -> None:
    names = set()
    for nonce in (bytes(16), b"\1" * 16):
        buffer = PackBuffer()
        fill_buffer(buffer, [Frame(b"hello")])
        pack, view = buffer.seal(nonce, is_meta=False)
        assert pack == pack_id(view)
        names.add(pack)
    assert len(names) == 2


@given(frame_lists, frame_lists)
def test_frames_do_not_depend_on_their_position(first: list[Frame], second: list[Frame]) -> None:
    taken = [one for one in second if one.object_id not in {other.object_id for other in first}]
    buffer, other = PackBuffer(), PackBuffer()
    fill_buffer(buffer, first)
    fill_buffer(other, taken)
    buffer.take_frames(other)
    pack, view = buffer.seal(NONCE, is_meta=True)
    transport = MemoryTransport()
    transport.put(pack_key(pack), view)
    assert len(verify_pack(transport, pack, len(view))) == len(first) + len(taken)


def test_a_buffer_can_be_used_again() -> None:
    buffer = PackBuffer()
    fill_buffer(buffer, [Frame(noise(10_000))])
    first, _ = buffer.seal(NONCE, is_meta=False)
    buffer.clear()
    assert buffer.is_empty
    fill_buffer(buffer, [Frame(b"hello")])
    second, view = buffer.seal(NONCE, is_meta=False)
    assert pack_id(view) == second == build_with_buffer([Frame(b"hello")])
    assert first != second


def build_with_buffer(some: list[Frame]) -> ObjectID:
    buffer = PackBuffer()
    fill_buffer(buffer, some)
    return buffer.seal(NONCE, is_meta=False)[0]


def test_what_does_not_fit_with_its_footer_is_told_before() -> None:
    buffer = PackBuffer()
    assert buffer.fits(64 << 20)
    assert not buffer.fits(PACK_BYTES)
    piece = bytes(4 << 20)
    count = 0
    while buffer.fits(len(piece)):
        buffer.add(Kind.BLOB, Encoding.RAW, 0, len(piece), some_id(f"{count}"), piece)
        count += 1
    assert count == 8
    _, view = buffer.seal(NONCE, is_meta=False)
    assert len(view) <= TARGET_BYTES


# -- reading little


def test_a_small_packs_footer_is_read_at_once() -> None:
    built = build_pack([Frame(b"a"), Frame(b"b")])
    transport = CountingTransport()
    transport.put(built.key, built.data)
    read_footer(transport, built.pack_id, len(built.data))
    assert transport.ranges == [(0, len(built.data))]


def test_a_large_packs_footer_is_read_with_a_second_request() -> None:
    built = build_pack([Frame(noise(8, f"{number}")) for number in range(3_000)])
    transport = CountingTransport()
    transport.put(built.key, built.data)
    found = read_footer(transport, built.pack_id, len(built.data))
    assert sorted(found) == sorted(built.entries)
    (footer, *_) = TRAILER.unpack_from(built.data, len(built.data) - TRAILER.size)
    assert len(built.data) - footer > 64 << 10
    assert transport.ranges == [(len(built.data) - (64 << 10), len(built.data)), (footer, len(built.data))]


def test_a_missing_pack_is_told_by_its_key() -> None:
    with pytest.raises(KeyNotFoundError) as caught:
        read_footer(MemoryTransport(), some_id("pack"), 1_000)
    assert str(caught.value) == f"{pack_key(some_id('pack'))} is not in the store"


@pytest.mark.parametrize("size", [0, 95, MAX_PACK_BYTES + 1])
def test_a_pack_of_an_impossible_size_is_not_read(size: int) -> None:
    transport = CountingTransport()
    with pytest.raises(CorruptionError) as caught:
        read_footer(transport, some_id("pack"), size)
    assert str(caught.value) == f"pack {some_id('pack').hex()} is damaged: {size:,} bytes is no size of a pack"
    assert transport.ranges == []


def test_a_footer_that_claims_more_entries_than_frames_fit_is_refused_before_it_is_decoded() -> None:
    built = build_pack([Frame(b"a")])
    (offset, stored, *_, digest, _) = TRAILER.unpack(built.data[-TRAILER.size :])
    for count in (2, 4_000_000, (1 << 32) // ENTRY.size):
        trailer = TRAILER.pack(offset, stored, count * ENTRY.size, count, 0, digest, END_MAGIC)
        data = built.data[: -TRAILER.size] + trailer
        transport = MemoryTransport()
        transport.put(pack_key(pack_id(data)), data)
        with pytest.raises(CorruptionError) as caught:
            read_footer(transport, pack_id(data), len(data))
        assert str(caught.value) == (
            f"pack {pack_id(data).hex()} is damaged: its trailer lies about the number of entries"
        )


# -- damage


@pytest.mark.parametrize(
    "some",
    [
        [],
        [Frame(b"hello\n"), zstd_frame(bytes(1_000))],
        [tree_frame([entry("a")]), concat_frame(b"abc", b"de"), Frame(b"abc"), Frame(b"de")],
    ],
)
def test_every_flipped_bit_of_a_pack_is_found(some: list[Frame]) -> None:
    built = build_pack(some)
    for bit in range(len(built.data) * 8):
        data = bytearray(built.data)
        data[bit // 8] ^= 1 << bit % 8
        transport = MemoryTransport()
        transport.put(built.key, data)
        with pytest.raises(CorruptionError) as caught:
            verify_pack(transport, built.pack_id, len(data))
        assert built.pack_id.hex() in caught.value.where


@given(st.integers(0, 300))
def test_a_truncated_pack_is_found(size: int) -> None:
    built = build_pack([Frame(b"hello\n"), Frame(noise(100))])
    transport = MemoryTransport()
    transport.put(built.key, built.data[:size])
    with pytest.raises(CorruptionError, match=f"^pack {built.pack_id.hex()} is damaged: "):
        verify_pack(transport, built.pack_id, min(size, len(built.data)) if size < len(built.data) else 0)


def test_a_pack_under_another_name_is_found() -> None:
    built = build_pack([Frame(b"hello\n")])
    other = some_id("other")
    transport = MemoryTransport()
    transport.put(pack_key(other), built.data)
    with pytest.raises(CorruptionError) as caught:
        verify_pack(transport, other, len(built.data))
    assert str(caught.value) == f"pack {other.hex()} is damaged: its bytes do not match its name"
    assert caught.value.where == pack_key(other)


@pytest.mark.parametrize("made", [Frame(noise(50)), zstd_frame(bytes(500)), patch_frame(b"", noise(9), Kind.BLOB)])
def test_a_frame_that_is_not_what_its_entry_names_is_refused(made: Frame) -> None:
    data = made.encode()
    right = made.entry(0)
    assert frame_payload(data, right, "pack x") == made.stored
    assert names_object(data[: FRAME.size], right)
    others = [
        right._replace(object_id=some_id("other")),
        right._replace(kind=right.kind + 1),
        right._replace(encoding=right.encoding + 1),
        right._replace(depth=right.depth + 1),
        right._replace(raw_length=right.raw_length + 1),
    ]
    for wrong in others:
        with pytest.raises(CorruptionError) as caught:
            frame_payload(data, wrong, "pack x")
        assert str(caught.value) == (
            f"object {wrong.object_id.hex()} in pack x is damaged: the frame is not the one that its entry names"
        )
        assert caught.value.where == "pack x"
        assert not names_object(data[: FRAME.size], wrong)
    assert not names_object(data[: FRAME.size], right._replace(length=right.length + 1))
    assert not names_object(data[: FRAME.size - 1], right)


@pytest.mark.parametrize("size", [0, 59, 60, 109])
def test_a_frame_that_is_cut_short_is_refused(size: int) -> None:
    made = Frame(noise(50))
    with pytest.raises(CorruptionError) as caught:
        frame_payload(made.encode()[:size], made.entry(0), "pack x")
    assert str(caught.value) == f"object {made.object_id.hex()} in pack x is damaged: the frame is cut short"


def test_a_frame_whose_payload_was_altered_is_refused() -> None:
    made = zstd_frame(bytes(500))
    data = bytearray(made.encode())
    data[-1] ^= 1
    with pytest.raises(CorruptionError) as caught:
        frame_payload(data, made.entry(0), "pack x")
    assert str(caught.value) == f"object {made.object_id.hex()} in pack x is damaged: its checksum does not match"


# -- entry tables


@given(st.lists(entries, max_size=20, unique_by=lambda one: one.object_id))
def test_an_entry_table_comes_back_in_the_order_of_ids(some: list[Entry]) -> None:
    table = encode_entries(some)
    assert len(table) == len(some) * ENTRY.size
    found = decode_entries(table, "a table")
    assert found == sorted(some)
    assert all(first.object_id < second.object_id for first, second in pairwise(found))


ROW = Entry(some_id("a"), Kind.BLOB, Encoding.RAW, 0, HEADER.size, FRAME.size, 0)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"\0", "the entry table has a wrong length"),
        (encode_entries([ROW]) * 2, "the entry table is not in order"),
        (encode_entries([ROW._replace(kind=2)]) + encode_entries([ROW]), "the entry table is not in order"),
        (encode_entries([ROW])[:35] + b"\1" + encode_entries([ROW])[36:], "a reserved byte of an entry is not zero"),
        (encode_entries([ROW._replace(offset=31)]), "an entry lies outside of the pack"),
        (encode_entries([ROW._replace(length=59)]), "an entry lies outside of the pack"),
        (encode_entries([ROW._replace(offset=(1 << 32) - 1)]), "an entry lies outside of the pack"),
        (encode_entries([ROW._replace(offset=941)]), "an entry lies outside of the pack"),
    ],
)  # fmt: skip
def test_a_table_that_breaks_a_rule_is_refused(table: bytes, why: str) -> None:
    with pytest.raises(CorruptionError) as caught:
        decode_entries(table, "pack x", limit=1_000)
    assert str(caught.value) == f"pack x is damaged: {why}"


def test_unknown_kinds_and_encodings_spoil_their_object_only() -> None:
    strange = [Frame(b"k", kind=9, claimed=some_id("k")), Frame(b"e", encoding=99), Frame(b"d", encoding=98, depth=7)]
    built = build_pack([Frame(b"hello\n"), *strange])
    objects = store_of(built)
    assert objects.read(object_id(Kind.BLOB, b"hello\n")) == b"hello\n"
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    assert len(verify_pack(transport, built.pack_id, len(built.data))) == 4


def test_the_key_of_a_pack_begins_with_its_first_two_digits() -> None:
    name = some_id("pack").hex()
    assert pack_key(some_id("pack")) == f"packs/{name[:2]}/{name}"


def test_structures_have_the_sizes_of_the_spec() -> None:
    assert (HEADER.size, FRAME.size, ENTRY.size, TRAILER.size) == (32, 60, 52, 64)
    assert struct.calcsize("<Q") == 8
