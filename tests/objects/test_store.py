from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, ObjectNotFoundError, UnsupportedFormatError
from replicate.objects.codecs import MAX_RAW_BYTES, Encoding, concat
from replicate.objects.codecs.concat import Chunk
from replicate.objects.ids import Buffer, Kind, blob_id
from replicate.objects.model import encode_tree
from replicate.objects.pack import Place
from replicate.objects.store import ObjectStore
from replicate.transport import MemoryTransport
from tests.builders import (
    BuiltPack,
    Frame,
    Known,
    build_pack,
    concat_frame,
    entry,
    many_entries,
    noise,
    patch_frame,
    store_of,
    tree_frame,
    zstd_frame,
)
from tests.strategies import contents

ABC, DE = b"abc" * 7, b"de" * 5
WHOLE = concat_frame(ABC, DE)


def broken(frame: Frame) -> BuiltPack:
    """Return a pack of one frame in which a bit of the payload is flipped."""
    built = build_pack([frame], b"broken".ljust(16))
    (place,) = built.entries
    data = bytearray(built.data)
    data[place.offset + place.length - 1] ^= 1
    return BuiltPack(built.pack_id, bytes(data), built.entries)


class Reads(MemoryTransport):
    """Notes what is read of packs."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int | None]] = []

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.ranges.append((start, end))
        return super().get(key, start, end)


# -- one object


@given(st.lists(contents, min_size=1, max_size=6, unique=True), st.data())
def test_blobs_come_back_however_they_are_stored(some: list[bytes], data: st.DataObject) -> None:
    frames = []
    for content in some:
        how = data.draw(st.sampled_from(["raw", "zstd", "concat", "patch"]))
        if how == "concat" and len(content) > 1:
            frames += [concat_frame(content[:1], content[1:]), Frame(content[:1]), Frame(content[1:])]
        elif how == "patch":
            frames += [patch_frame(b"base", content, Kind.BLOB), Frame(b"base")]
        else:
            frames.append(Frame(content) if how == "raw" else zstd_frame(content))
    distinct = {(frame.object_id, frame.encoding): frame for frame in frames}
    packs = [build_pack([frame], bytes([number]) * 16) for number, frame in enumerate(distinct.values())]
    objects = store_of(*packs)
    for content in some:
        assert objects.read(blob_id(content)) == content
        assert b"".join(objects.iter_blob(blob_id(content))) == content
    assert dict(objects.read_many([blob_id(content) for content in some])) == {
        blob_id(content): content for content in some
    }


def test_an_object_is_read_with_one_request_for_its_frame_alone() -> None:
    built = build_pack([Frame(ABC), Frame(DE)])
    transport = Reads()
    objects = store_of(built, transport=transport)
    place = next(one for one in built.entries if one.object_id == blob_id(DE))
    objects.read(blob_id(DE))
    assert transport.ranges == [(place.offset, place.offset + place.length)]


def test_an_object_that_is_nowhere_is_told_by_its_id() -> None:
    objects = store_of(build_pack([Frame(ABC)]))
    with pytest.raises(ObjectNotFoundError) as caught:
        objects.read(blob_id(DE))
    assert str(caught.value) == f"blob {blob_id(DE).hex()} is not in the store"
    assert caught.value.object_id == blob_id(DE).hex()
    with pytest.raises(ObjectNotFoundError, match=f"^tree {blob_id(ABC).hex()} is not in the store$"):
        objects.read(blob_id(ABC), Kind.TREE)


def test_an_object_whose_pack_is_missing_is_told_with_the_pack() -> None:
    built = build_pack([Frame(ABC)])
    objects = ObjectStore(MemoryTransport(), Known(built.places))
    message = f"object {blob_id(ABC).hex()} cannot be read: pack {built.pack_id.hex()} is missing"
    with pytest.raises(CorruptionError) as caught:
        objects.read(blob_id(ABC))
    assert (str(caught.value), caught.value.where) == (message, built.key)
    with pytest.raises(CorruptionError, match=message):
        list(objects.read_many([blob_id(ABC)]))


@pytest.mark.parametrize("made", [Frame(ABC, claimed=blob_id(DE)), Frame(ABC, claimed=blob_id(DE), raw_length=10)])
def test_bytes_that_are_not_those_of_the_id_are_never_given_out(made: Frame) -> None:
    built = build_pack([made])
    objects = store_of(built)
    message = f"blob {blob_id(DE).hex()} in pack {built.pack_id.hex()} is damaged: its bytes do not match its id"
    for read in (objects.read, lambda one: list(objects.iter_blob(one)), lambda one: list(objects.read_many([one]))):
        with pytest.raises(CorruptionError) as caught:
            read(blob_id(DE))
        assert str(caught.value) == message


@pytest.mark.parametrize("encoding", [8, 9, 255])
def test_an_unknown_encoding_asks_for_an_upgrade(encoding: int) -> None:
    built = build_pack([Frame(ABC, encoding=encoding)])
    with pytest.raises(UnsupportedFormatError) as caught:
        store_of(built).read(blob_id(ABC))
    assert caught.value.message == (
        f"blob {blob_id(ABC).hex()} in pack {built.pack_id.hex()} is stored in encoding {encoding}, "
        "which this version does not know"
    )
    assert (caught.value.hint, caught.value.exit_code) == ("upgrade replicate", 7)


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.LOCATOR, Kind.PACKSET])
@pytest.mark.parametrize("encoding", [Encoding.FILL, Encoding.PATCH])
def test_commits_and_lists_are_stored_raw_or_as_zstd(kind: Kind, encoding: int) -> None:
    made = Frame(b"aaaa", kind, encoding, b"a" if encoding == Encoding.FILL else bytes(40), int(encoding == 7))
    built = build_pack([made])
    with pytest.raises(CorruptionError) as caught:
        store_of(built).read(made.object_id, kind)
    name = kind.name.lower()
    assert str(caught.value) == (
        f"{name} {made.object_id.hex()} in pack {built.pack_id.hex()} is damaged: a {name} is stored raw or as zstd"
    )


def test_a_huge_length_is_refused_before_anything_is_read() -> None:
    made = Frame(b"a", encoding=Encoding.FILL, raw_length=MAX_RAW_BYTES + 1)
    transport = Reads()
    built = build_pack([made])
    with pytest.raises(CorruptionError) as caught:
        store_of(built, transport=transport).read(made.object_id)
    assert str(caught.value) == (
        f"blob {made.object_id.hex()} in pack {built.pack_id.hex()} is damaged: 67,108,865 bytes are too large"
    )
    assert transport.ranges == []


# -- several places


@pytest.mark.parametrize(
    "first",
    [
        broken(Frame(ABC)),
        broken(zstd_frame(ABC)),
        build_pack([Frame(ABC, encoding=8)]),
        build_pack([patch_frame(b"a base that is not there", ABC, Kind.BLOB)]),
        broken(concat_frame(ABC[:10], ABC[10:])),
    ],
)
def test_when_one_place_fails_the_next_is_tried(first: BuiltPack) -> None:
    objects = store_of(first, build_pack([Frame(ABC)]))
    assert objects.read(blob_id(ABC)) == ABC
    assert b"".join(objects.iter_blob(blob_id(ABC))) == ABC
    assert list(objects.read_many([blob_id(ABC)])) == [(blob_id(ABC), ABC)]


def test_of_several_failures_the_first_is_told() -> None:
    first, second = broken(Frame(ABC)), build_pack([Frame(ABC, encoding=8)])
    with pytest.raises(CorruptionError, match=first.pack_id.hex()):
        store_of(first, second).read(blob_id(ABC))
    with pytest.raises(UnsupportedFormatError, match=second.pack_id.hex()):
        store_of(second, first).read(blob_id(ABC))


def test_a_missing_pack_does_no_harm_when_another_holds_the_object() -> None:
    gone, built = build_pack([Frame(ABC)], b"gone".ljust(16)), build_pack([Frame(ABC)])
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    objects = ObjectStore(transport, Known([*gone.places, *built.places]))
    assert objects.read(blob_id(ABC)) == ABC
    assert list(objects.read_many([blob_id(ABC)])) == [(blob_id(ABC), ABC)]


# -- concat


def test_a_concat_is_given_out_in_pieces() -> None:
    objects = store_of(build_pack([WHOLE, Frame(ABC), Frame(DE)]))
    assert list(objects.iter_blob(WHOLE.object_id)) == [ABC, DE]
    assert objects.read_chunks(WHOLE.object_id) == [Chunk(blob_id(ABC), 21), Chunk(blob_id(DE), 10)]
    assert objects.read_chunks(blob_id(ABC)) == [Chunk(blob_id(ABC), 21)]


def test_a_small_concat_can_be_read_with_others() -> None:
    objects = store_of(build_pack([WHOLE, Frame(ABC), Frame(DE)]))
    wanted = [WHOLE.object_id, blob_id(DE)]
    assert dict(objects.read_many(wanted)) == {WHOLE.object_id: ABC + DE, blob_id(DE): DE}


def test_a_concat_that_is_claimed_to_be_small_is_not_assembled_in_memory() -> None:
    zeros = Frame(bytes(MAX_RAW_BYTES), encoding=Encoding.FILL, payload=b"\0")
    payload = concat.encode([Chunk(zeros.object_id, MAX_RAW_BYTES)] * 1_000)
    bomb = Frame(b"x", encoding=Encoding.CONCAT, payload=payload, raw_length=MAX_RAW_BYTES * 1_000)
    built = build_pack([bomb, zeros])
    with pytest.raises(CorruptionError) as caught:
        list(store_of(built).read_many([bomb.object_id]))
    assert str(caught.value) == (
        f"blob {bomb.object_id.hex()} in pack {built.pack_id.hex()} is damaged: it is larger than its tree says"
    )


@pytest.mark.parametrize("frames", [[WHOLE, Frame(ABC), Frame(DE)], [Frame(ABC + DE)]])
def test_a_blob_of_another_length_than_its_tree_says_is_refused_before_the_first_piece(frames: list[Frame]) -> None:
    objects = store_of(build_pack(frames))
    assert objects.read(WHOLE.object_id, claimed_bytes=31) == ABC + DE
    for claimed in (0, 30, 32):
        with pytest.raises(CorruptionError) as caught:
            next(objects.iter_blob(WHOLE.object_id, claimed_bytes=claimed))
        assert str(caught.value) == (
            f"blob {WHOLE.object_id.hex()} is damaged: it has another length than its tree says"
        )


def test_a_chunk_that_is_missing_is_told_with_its_blob() -> None:
    objects = store_of(build_pack([WHOLE, Frame(ABC)]))
    with pytest.raises(ObjectNotFoundError) as caught:
        objects.read(WHOLE.object_id)
    assert str(caught.value) == f"chunk {blob_id(DE).hex()} of blob {WHOLE.object_id.hex()} is not in the store"
    assert caught.value.object_id == blob_id(DE).hex()


def test_a_chunk_of_another_length_is_refused() -> None:
    payload = concat.encode([Chunk(blob_id(ABC), 20), Chunk(blob_id(DE), 11)])
    made = Frame(ABC + DE, encoding=Encoding.CONCAT, payload=payload)
    with pytest.raises(CorruptionError) as caught:
        store_of(build_pack([made, Frame(ABC), Frame(DE)])).read(made.object_id)
    assert str(caught.value) == (
        f"blob {made.object_id.hex()} is damaged: chunk {blob_id(ABC).hex()} has another length"
    )


def test_chunks_that_are_not_the_blob_are_found_at_the_end() -> None:
    made = Frame(b"x" * 31, encoding=Encoding.CONCAT, payload=WHOLE.stored)
    objects = store_of(build_pack([made, Frame(ABC), Frame(DE)]))
    pieces = objects.iter_blob(made.object_id)
    assert [next(pieces), next(pieces)] == [ABC, DE]
    with pytest.raises(CorruptionError) as caught:
        next(pieces)
    assert str(caught.value) == f"blob {made.object_id.hex()} is damaged: its chunks do not match its id"


# -- copying


SOME = [noise(1_000, str(number)) * 2 for number in range(40)]
LARGE = concat_frame(*SOME)


def copied(objects: ObjectStore, frame: Frame, size: int) -> bytes:
    """Return what copying a blob writes, each byte once."""
    out, done = bytearray(size), []

    def write(offset: int, data: Buffer) -> None:
        out[offset : offset + len(data)] = data
        done.append((offset, len(data)))

    told: list[int] = []
    objects.copy_blob(frame.object_id, write, told.append, claimed_bytes=size)
    ends = [offset + length for offset, length in sorted(done)]
    assert [offset for offset, _ in sorted(done)] == [0, *ends[:-1]]
    assert sum(told) == ends[-1] == size
    return bytes(out)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_blob_is_copied_by_the_threads_that_decode_it(workers: int) -> None:
    objects = store_of(build_pack([LARGE, *map(Frame, SOME)]), workers=workers)
    assert copied(objects, LARGE, 80_000) == b"".join(SOME)
    assert copied(objects, Frame(SOME[3]), 2_000) == SOME[3]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_copying_ends_at_the_first_chunk_that_is_missing(workers: int) -> None:
    objects = store_of(build_pack([LARGE, *map(Frame, SOME[:20]), *map(Frame, SOME[21:])]), workers=workers)
    with pytest.raises(ObjectNotFoundError, match=f"^chunk {blob_id(SOME[20]).hex()} of blob"):
        copied(objects, LARGE, 80_000)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_what_writing_raises_ends_the_copy(workers: int) -> None:
    objects = store_of(build_pack([LARGE, *map(Frame, SOME)]), workers=workers)

    def write(offset: int, data: Buffer) -> None:
        if offset == 24_000:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        objects.copy_blob(LARGE.object_id, write, lambda length: None, claimed_bytes=80_000)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_copy_that_is_not_the_blob_is_an_error(workers: int) -> None:
    swapped = Frame(LARGE.content, encoding=Encoding.CONCAT, payload=concat_frame(*SOME[1:], SOME[0]).stored)
    objects = store_of(build_pack([swapped, *map(Frame, SOME)]), workers=workers)
    with pytest.raises(CorruptionError, match="its chunks do not match its id"):
        copied(objects, swapped, 80_000)


DAMAGED = Frame(SOME[5], payload=b"x" * 2_000)
SHORTER = Frame(SOME[5], payload=b"x" * 1_000, raw_length=1_000)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("damaged", "often"), [(DAMAGED, 2), (SHORTER, 1)])
def test_a_copy_is_read_around_what_is_damaged(workers: int, damaged: Frame, often: int) -> None:
    """The id of the whole tells that something is wrong; then each chunk is verified, wherever it lies."""
    built = build_pack([LARGE, *map(Frame, SOME[:5]), damaged, *map(Frame, SOME[6:])])
    objects = store_of(built, build_pack([Frame(SOME[5])]), workers=workers)
    out, times = bytearray(80_000), defaultdict[int, int](int)

    def write(offset: int, data: Buffer) -> None:
        out[offset : offset + len(data)] = data
        times[offset] += 1

    told: list[int] = []
    objects.copy_blob(LARGE.object_id, write, told.append, claimed_bytes=80_000)
    assert out == b"".join(SOME)
    assert set(times.values()) == {often}
    assert sum(told) == 80_000


@pytest.mark.parametrize("workers", [1, 2])
def test_a_copy_of_what_is_damaged_tells_the_chunk(workers: int) -> None:
    built = build_pack([LARGE, *map(Frame, SOME[:5]), DAMAGED, *map(Frame, SOME[6:])])
    objects = store_of(built, workers=workers)
    with pytest.raises(CorruptionError) as caught:
        objects.copy_blob(LARGE.object_id, lambda offset, data: None, lambda length: None, claimed_bytes=80_000)
    told = f"blob {blob_id(SOME[5]).hex()} in pack {built.pack_id.hex()} is damaged: its bytes do not match its id"
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("claimed", [0, 79_999, 80_001])
def test_a_copy_of_another_length_than_the_tree_says_writes_nothing(claimed: int) -> None:
    objects = store_of(build_pack([LARGE, *map(Frame, SOME)]))
    written: list[int] = []
    with pytest.raises(CorruptionError, match="it has another length than its tree says"):
        objects.copy_blob(
            LARGE.object_id, lambda offset, data: written.append(offset), lambda length: None, claimed_bytes=claimed
        )
    assert not written


def test_a_tree_is_never_a_concat() -> None:
    data = encode_tree(many_entries(3))
    made = Frame(data, Kind.TREE, Encoding.CONCAT, concat_frame(data[:50], data[50:]).stored)
    built = build_pack([made, Frame(data[:50]), Frame(data[50:])])
    with pytest.raises(CorruptionError) as caught:
        store_of(built).read_tree(made.object_id)
    assert str(caught.value) == (
        f"tree {made.object_id.hex()} in pack {built.pack_id.hex()} is damaged: a list of chunks cannot stand here (I7)"
    )


def test_a_concat_has_depth_0() -> None:
    made = Frame(ABC + DE, encoding=Encoding.CONCAT, payload=WHOLE.stored, depth=1)
    built = build_pack([made, Frame(ABC), Frame(DE)])
    with pytest.raises(CorruptionError) as caught:
        store_of(built).read(made.object_id)
    assert str(caught.value).endswith(" is damaged: a concat has depth 0")


# -- patches


def chain(depth: int, kind: Kind = Kind.BLOB) -> list[Frame]:
    """Return patches on patches, the deepest last."""
    frames = [Frame(noise(50, "0"), kind)]
    for number in range(1, depth + 1):
        frames.append(patch_frame(frames[-1].content, noise(50, f"{number}"), kind, number))
    return frames


@pytest.mark.parametrize("depth", [1, 2, 20, 255])
def test_patches_may_be_255_deep(depth: int) -> None:
    frames = chain(depth)
    objects = store_of(build_pack(frames))
    assert objects.read(frames[-1].object_id) == frames[-1].content


def test_a_patch_whose_base_is_missing_is_told_with_the_base() -> None:
    base, made = chain(1)
    built = build_pack([made])
    with pytest.raises(ObjectNotFoundError) as caught:
        store_of(built).read(made.object_id)
    assert str(caught.value) == (
        f"base {base.object_id.hex()} of blob {made.object_id.hex()} in pack {built.pack_id.hex()} is not in the store"
    )
    assert caught.value.object_id == base.object_id.hex()


def test_a_base_that_fails_in_one_place_is_read_from_another() -> None:
    base, middle, top = chain(2)
    packs = [broken(base), broken(middle), build_pack([middle, top]), build_pack([base], bytes(16))]
    assert store_of(*packs).read(top.object_id) == top.content


def test_a_base_is_read_from_where_it_is_least_deep() -> None:
    _, middle, top = chain(2)
    whole = build_pack([Frame(middle.content)], bytes(16))
    transport = Reads()
    objects = store_of(build_pack([middle, top]), whole, transport=transport)
    assert objects.read(top.object_id) == top.content
    assert len(transport.ranges) == 2


@pytest.mark.parametrize("depths", [(1, 1), (2, 1), (1, 2), (5, 5)])
def test_patches_in_a_circle_end(depths: tuple[int, int]) -> None:
    first, second = noise(50, "1"), noise(50, "2")
    circle = [patch_frame(second, first, Kind.BLOB, depths[0]), patch_frame(first, second, Kind.BLOB, depths[1])]
    objects = store_of(build_pack(circle))
    for made in circle:
        with pytest.raises(CorruptionError) as caught:
            objects.read(made.object_id)
        assert str(caught.value).endswith(" does not lie at a smaller depth (I7)")


def test_two_merged_stores_with_patches_on_each_other_stay_readable() -> None:
    first, second = noise(50, "1"), noise(50, "2")
    here = build_pack([Frame(first), patch_frame(first, second, Kind.BLOB)], b"1" * 16)
    there = build_pack([Frame(second), patch_frame(second, first, Kind.BLOB)], b"2" * 16)
    objects = store_of(there, here)
    assert (objects.read(blob_id(first)), objects.read(blob_id(second))) == (first, second)


def test_many_bad_copies_at_every_depth_end_soon() -> None:
    frames = chain(60)
    places = []
    transport = MemoryTransport()
    for copy in range(3):
        spoilt = [Frame(frames[0].content, Kind.BLOB, Encoding.ZSTD, b"no zstd"), *frames[1:]]
        built = build_pack(spoilt, bytes([copy]) * 16)
        transport.put(built.key, built.data)
        places += built.places
    with pytest.raises(CorruptionError) as caught:
        ObjectStore(transport, Known(places)).read(frames[-1].object_id)
    assert str(caught.value).endswith(" is damaged: more than 1,024 frames to decode")
    assert frames[-1].object_id.hex() in str(caught.value)


def test_a_base_is_never_a_concat() -> None:
    made = patch_frame(ABC + DE, b"new", Kind.BLOB)
    objects = store_of(build_pack([made, WHOLE, Frame(ABC), Frame(DE)]))
    with pytest.raises(CorruptionError) as caught:
        objects.read(made.object_id)
    assert str(caught.value).endswith(f"its base {WHOLE.object_id.hex()} does not lie at a smaller depth (I7)")


def test_a_base_has_the_same_kind() -> None:
    tree = encode_tree(many_entries(3))
    made = patch_frame(tree, encode_tree(many_entries(4)))
    with pytest.raises(ObjectNotFoundError):
        store_of(build_pack([made, Frame(tree)])).read(made.object_id, Kind.TREE)
    assert store_of(build_pack([made, Frame(tree, Kind.TREE)])).read(made.object_id, Kind.TREE) == made.content


@pytest.mark.parametrize(
    "made", [Frame(ABC, depth=1), Frame(b"a" * 8, encoding=Encoding.FILL, payload=b"a", depth=1), zstd_frame(ABC)]
)
def test_depth_tells_whether_there_is_a_base(made: Frame) -> None:
    deep = Frame(made.content, made.kind, made.encoding, made.payload, 1)
    with pytest.raises(CorruptionError) as caught:
        store_of(build_pack([deep])).read(deep.object_id)
    assert str(caught.value).endswith(" is damaged: depth 1 does not fit its encoding")


# -- many


def test_neighbours_are_read_at_once() -> None:
    some = [noise(1_000, f"{number}") for number in range(50)]
    transport = Reads()
    objects = store_of(build_pack([Frame(content) for content in some]), transport=transport)
    wanted = [blob_id(content) for content in some]
    found = list(objects.read_many(sorted(wanted)))
    assert [one for one, _ in found] == wanted  # in the order in which they lie
    assert [data for _, data in found] == some
    assert len(transport.ranges) == 1


def test_far_apart_objects_are_not_read_together() -> None:
    some = [noise(1_000, "1"), noise(100_000, "2"), noise(1_000, "3")]
    transport = Reads()
    objects = store_of(build_pack([Frame(content) for content in some]), transport=transport)
    assert dict(objects.read_many([blob_id(some[0]), blob_id(some[2])])) == {blob_id(one): one for one in some[::2]}
    assert len(transport.ranges) == 2


def test_no_more_than_8_mib_is_read_ahead() -> None:
    some = [noise(3 << 20, f"{number}") for number in range(5)]
    transport = Reads()
    objects = store_of(build_pack([Frame(content) for content in some]), transport=transport)
    assert [data for _, data in objects.read_many([blob_id(content) for content in some])] == some
    assert all(end is not None and end - start <= 8 << 20 for start, end in transport.ranges)
    assert len(transport.ranges) == 3


def test_reading_no_object_reads_nothing() -> None:
    transport = Reads()
    assert list(store_of(transport=transport).read_many([])) == []
    assert transport.ranges == []


def test_overlapping_places_are_read_each_for_itself() -> None:
    inner = Frame(DE)
    outer = Frame(inner.encode())
    built = build_pack([outer])
    (place,) = built.entries
    places = [*built.places, Place(built.pack_id, len(built.data), inner.entry(place.offset + 60))]
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    objects = ObjectStore(transport, Known(places))
    wanted = [outer.object_id, inner.object_id]
    assert dict(objects.read_many(wanted)) == {outer.object_id: outer.content, inner.object_id: DE}


# -- trees and commits


def test_a_tree_whose_parent_claims_another_size_is_refused() -> None:
    made = tree_frame([entry("a", b"12345")])
    objects = store_of(build_pack([made]))
    assert objects.read_tree(made.object_id, claimed_bytes=5) == [entry("a", b"12345")]
    with pytest.raises(CorruptionError) as caught:
        objects.read_tree(made.object_id, claimed_bytes=6)
    assert str(caught.value) == f"tree {made.object_id.hex()} is damaged: its parent claims another size"


def test_bytes_with_a_trees_id_that_are_no_tree_are_refused() -> None:
    for kind, read in ((Kind.TREE, ObjectStore.read_tree), (Kind.COMMIT, ObjectStore.read_commit)):
        made = Frame(b"\xc0", kind)
        name = f"{kind.name.lower()} {made.object_id.hex()}"
        with pytest.raises(CorruptionError) as caught:
            read(store_of(build_pack([made])), made.object_id)
        assert str(caught.value) == f"{name} is damaged: not a {kind.name.lower()}"
        assert caught.value.where == name


def patchable(count: int) -> Frame:
    return tree_frame(many_entries(count))


def test_a_tree_that_is_stored_whole_is_its_own_patch_base() -> None:
    made = patchable(200)
    base = store_of(build_pack([made])).read_patch_base(made.object_id, made.content)
    assert base is not None
    assert (base.tree, base.data) == (made.object_id, made.content)


def test_the_patch_base_of_a_patch_is_what_it_lies_on() -> None:
    old, new = patchable(200), patchable(201)
    objects = store_of(build_pack([old, patch_frame(old.content, new.content)]))
    base = objects.read_patch_base(new.object_id, new.content)
    assert base is not None
    assert (base.tree, base.data) == (old.object_id, old.content)


def test_a_patch_on_a_patch_is_no_patch_base() -> None:
    oldest, old, new = patchable(200), patchable(201), patchable(202)
    frames = [oldest, patch_frame(oldest.content, old.content), patch_frame(old.content, new.content, depth=2)]
    assert store_of(build_pack(frames)).read_patch_base(new.object_id, new.content) is None


def test_a_small_tree_is_no_patch_base() -> None:
    made = patchable(10)
    assert store_of(build_pack([made])).read_patch_base(made.object_id, made.content) is None
