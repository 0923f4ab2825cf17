from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.objects.ids import Kind, ObjectID, blob_id
from replicate.objects.index import ObjectIndex
from replicate.objects.pack import FRAME, Place
from replicate.transport import KeyInfo, MemoryTransport
from tests.builders import BuiltPack, Frame, build_pack, concat_frame, some_id, tree_frame

ABC, DE = b"abc" * 7, b"de" * 5
PACK = build_pack([Frame(ABC), Frame(DE)])


class Listings(MemoryTransport):
    """Counts listings, whole reads and puts."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []
        self.whole = 0
        self.puts: list[str] = []

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        self.puts.append(key)
        super().put(key, data, replace=replace)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        self.listed.append(prefix)
        return super().list(prefix)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        data = super().get(key, start, end)
        self.whole += len(data) > FRAME.size
        return data


@pytest.fixture
def transport() -> Listings:
    found = Listings()
    found.put(PACK.key, PACK.data)
    return found


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "local" / "objects.db")


@pytest.fixture
def index(path: str, transport: Listings) -> Iterator[ObjectIndex]:
    found = ObjectIndex(path, transport, "boot 1")
    yield found
    found.close()


def add(index: ObjectIndex, pack: BuiltPack = PACK, *, durable: bool = True) -> None:
    index.add(pack.pack_id, len(pack.data), pack.entries, durable=durable)


def places(pack: BuiltPack, wanted: ObjectID) -> list[Place]:
    return [place for place in pack.places if place.entry.object_id == wanted]


def damage(transport: MemoryTransport, pack: BuiltPack, at: int) -> None:
    data = bytearray(pack.data)
    data[at] ^= 1
    transport.put(pack.key, data)


# -- hits


def test_an_object_is_found_where_it_lies(index: ObjectIndex) -> None:
    add(index)
    assert index.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    assert index.find(some_id("other")) == []
    assert index.pack_bytes(PACK.pack_id) == len(PACK.data)
    assert index.pack_bytes(some_id("other")) == 0
    assert index.is_sound(PACK.pack_id)
    assert not index.is_sound(some_id("other"))


def test_an_object_in_two_packs_has_two_places(index: ObjectIndex, transport: Listings) -> None:
    other = build_pack([Frame(ABC)], b"other".ljust(16))
    transport.put(other.key, other.data)
    add(index)
    add(index, other)
    assert {place.pack for place in index.find(blob_id(ABC))} == {PACK.pack_id, other.pack_id}


def test_an_empty_index_finds_nothing_and_asks_nothing(index: ObjectIndex, transport: Listings) -> None:
    index.begin_save()
    assert index.find(blob_id(ABC)) == []
    assert transport.listed == []
    add(index)
    assert len(index.find(blob_id(ABC))) == 1


def test_a_pack_is_looked_up_once_per_save(index: ObjectIndex, transport: Listings) -> None:
    add(index)
    index.begin_save()
    for _ in range(5):
        index.find(blob_id(ABC))
        index.find(blob_id(DE))
    assert transport.listed == [PACK.key]
    index.begin_save()
    index.find(blob_id(ABC))
    assert transport.listed == [PACK.key] * 2


def test_a_durable_pack_is_not_read(index: ObjectIndex, transport: Listings) -> None:
    add(index)
    index.find(blob_id(ABC))
    assert transport.whole == 0


def test_what_was_added_is_there_for_the_next_process(index: ObjectIndex, path: str, transport: Listings) -> None:
    add(index)
    index.close()
    again = ObjectIndex(path, transport, "boot 1")
    assert again.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    again.close()


def test_two_processes_may_share_the_file(index: ObjectIndex, path: str, transport: Listings) -> None:
    other = ObjectIndex(path, transport, "boot 1")
    add(index)
    assert other.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    add(other)
    assert index.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    other.close()


def test_threads_may_ask_at_once(index: ObjectIndex) -> None:
    add(index)
    index.begin_save()
    found: list[int] = []

    def ask() -> None:
        for _ in range(20):
            found.append(len(index.find(blob_id(ABC))))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 80


# -- hits that are ignored


def test_a_hit_in_a_missing_pack_is_ignored(index: ObjectIndex, transport: Listings) -> None:
    add(index)
    transport.delete([PACK.key])
    assert index.find(blob_id(ABC)) == []
    assert not index.is_sound(PACK.pack_id)


def test_a_hit_in_a_pack_that_vanishes_during_a_save_is_ignored(index: ObjectIndex, transport: Listings) -> None:
    add(index)
    assert index.is_sound(PACK.pack_id)
    transport.delete([PACK.key])
    assert index.find(blob_id(ABC)) == []


@pytest.mark.parametrize("data", [b"", PACK.data[:-1], PACK.data + b"\0"])
def test_a_hit_in_a_pack_of_another_size_is_ignored(index: ObjectIndex, transport: Listings, data: bytes) -> None:
    add(index)
    transport.put(PACK.key, data)
    assert index.find(blob_id(ABC)) == []
    assert not index.is_sound(PACK.pack_id)


@pytest.mark.parametrize("at", [0, 4, 5, 6, 7, 8, 16, 24])
def test_a_hit_whose_frame_header_names_another_object_is_ignored(
    index: ObjectIndex, transport: Listings, at: int
) -> None:
    add(index)
    (place,) = places(PACK, blob_id(ABC))
    damage(transport, PACK, place.entry.offset + at)
    assert index.find(blob_id(ABC)) == []
    assert index.find(blob_id(DE)) == places(PACK, blob_id(DE))


def test_in_this_boot_a_pack_that_was_not_synced_is_relied_on(index: ObjectIndex, transport: Listings) -> None:
    add(index, durable=False)
    assert len(index.find(blob_id(ABC))) == 1
    assert transport.whole == 0


def test_where_saves_are_durable_a_pack_that_was_not_synced_is_verified_and_synced_once(
    index: ObjectIndex, path: str, transport: Listings
) -> None:
    add(index, durable=False)
    index.close()
    careful = ObjectIndex(path, transport, "boot 1", durable=True)
    assert len(careful.find(blob_id(ABC))) == 1
    assert transport.puts == [PACK.key] * 2  # when it was written, and now
    read = transport.whole
    careful.begin_save()
    assert len(careful.find(blob_id(ABC))) == 1
    assert (len(transport.puts), transport.whole) == (2, read)
    careful.close()


@pytest.mark.parametrize("boot", ["boot 2", ""])
def test_after_a_boot_a_pack_that_was_not_synced_is_verified_first(
    index: ObjectIndex, path: str, transport: Listings, boot: str
) -> None:
    add(index, durable=False)
    index.close()
    later = ObjectIndex(path, transport, boot)
    assert len(later.find(blob_id(ABC))) == 1
    assert transport.whole > 0
    later.close()


@pytest.mark.parametrize("at", range(0, len(PACK.data), 7))
def test_after_a_boot_a_hit_in_a_damaged_pack_is_ignored(
    index: ObjectIndex, path: str, transport: Listings, at: int
) -> None:
    add(index, durable=False)
    index.close()
    damage(transport, PACK, at)
    later = ObjectIndex(path, transport, "boot 2")
    assert later.find(blob_id(ABC)) == later.find(blob_id(DE)) == []
    assert not later.is_sound(PACK.pack_id)
    later.close()


def test_a_pack_is_verified_once_per_boot(index: ObjectIndex, path: str, transport: Listings) -> None:
    add(index, durable=False)
    index.close()
    later = ObjectIndex(path, transport, "boot 2")
    later.find(blob_id(ABC))
    read = transport.whole
    later.begin_save()
    later.find(blob_id(ABC))
    assert transport.whole == read
    later.close()


def test_where_boots_have_no_name_a_pack_is_verified_in_every_save(path: str, transport: Listings) -> None:
    index = ObjectIndex(path, transport, "")
    add(index, durable=False)
    for number in (1, 2):
        index.begin_save()
        index.find(blob_id(ABC))
        assert transport.whole == 2 * number  # footer and frames
    index.close()


# -- agreeing with the store


def test_a_refresh_adds_the_packs_of_the_store_and_verifies_them_before_use(
    index: ObjectIndex, transport: Listings
) -> None:
    index.refresh()
    read = transport.whole
    assert index.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    assert transport.whole > read


def test_a_refresh_drops_packs_that_are_gone_or_changed(index: ObjectIndex, transport: Listings) -> None:
    other = build_pack([Frame(DE)], b"other".ljust(16))
    transport.put(other.key, other.data)
    index.refresh()
    transport.delete([PACK.key])
    transport.put(other.key, other.data[:-1])
    index.refresh()
    assert index.find(blob_id(ABC)) == index.find(blob_id(DE)) == []
    assert index.pack_bytes(PACK.pack_id) == index.pack_bytes(other.pack_id) == 0


def test_a_refresh_of_an_index_that_agrees_reads_nothing(index: ObjectIndex, transport: Listings) -> None:
    index.refresh()
    read = transport.whole
    index.refresh()
    assert transport.whole == read
    assert transport.listed == ["packs/"] * 2


def test_a_refresh_leaves_out_what_is_no_pack(index: ObjectIndex, transport: Listings) -> None:
    for key in ("packs/aa/readme", "packs/zz/" + some_id("x").hex(), "packs/" + some_id("y").hex()):
        transport.put(key, b"not a pack")
    torn = build_pack([Frame(b"torn")], b"torn".ljust(16))
    transport.put(torn.key, torn.data[:-10])
    index.refresh()
    assert index.find(blob_id(b"torn")) == []
    assert len(index.find(blob_id(ABC))) == 1


def test_an_object_that_claims_to_be_larger_than_any_is_left_out(index: ObjectIndex, transport: Listings) -> None:
    huge = Frame(b"a", encoding=4, raw_length=(1 << 64) - 1)
    built = build_pack([huge, Frame(b"small")], b"huge".ljust(16))
    transport.put(built.key, built.data)
    index.refresh()
    assert index.find(huge.object_id) == []
    assert len(index.find(blob_id(b"small"))) == 1


def test_a_concat_of_a_file_of_terabytes_is_kept(index: ObjectIndex, transport: Listings) -> None:
    large = Frame(b"a", encoding=4, payload=concat_frame(ABC, DE).stored, raw_length=7 << 40)
    built = build_pack([large], b"large".ljust(16))
    transport.put(built.key, built.data)
    index.refresh()
    assert index.find(large.object_id) == built.places


# -- the file


def spoil(path: str, how: str) -> None:
    if how == "garbage":
        Path(path).write_bytes(os.urandom(10_000))
    elif how == "truncated":
        os.truncate(path, 5_000)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "another schema":
        os.unlink(path)
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE packs (other INTEGER)")
            db.execute("PRAGMA user_version = 1")
        db.close()
    elif how == "a newer schema":
        os.unlink(path)
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 2")
        db.close()
    else:
        data = bytearray(Path(path).read_bytes())
        for at in range(100, len(data), 50):
            data[at] ^= 0xFF
        Path(path).write_bytes(data)


SPOILT = ("garbage", "truncated", "empty", "another schema", "a newer schema", "flipped bits")


@pytest.mark.parametrize("how", SPOILT)
def test_a_corrupt_file_is_dropped_and_rebuilt(index: ObjectIndex, path: str, transport: Listings, how: str) -> None:
    add(index)
    index.close()
    spoil(path, how)
    again = ObjectIndex(path, transport, "boot 1")
    again.begin_save()
    is_new = how in ("empty", "another schema")  # nothing tells that there was more
    assert again.find(blob_id(ABC)) == ([] if is_new else places(PACK, blob_id(ABC)))
    again.refresh()
    assert again.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    again.close()
    once_more = ObjectIndex(path, transport, "boot 1")
    assert once_more.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    once_more.close()


@given(st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=3))
def test_a_flipped_bit_of_the_file_never_gives_a_wrong_place(
    tmp_path_factory: pytest.TempPathFactory, flips: list[int]
) -> None:
    path = str(tmp_path_factory.mktemp("index") / "objects.db")
    transport = MemoryTransport()
    transport.put(PACK.key, PACK.data)
    index = ObjectIndex(path, transport, "boot 1")
    add(index)
    index.close()
    data = bytearray(Path(path).read_bytes())
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    Path(path).write_bytes(data)
    index.begin_save()
    for wanted in (blob_id(ABC), blob_id(DE)):
        assert [place.entry for place in index.find(wanted)] in ([], [places(PACK, wanted)[0].entry])
        index.find_prefix(wanted.hex()[:4])
    index.is_sound(PACK.pack_id)
    index.pack_bytes(PACK.pack_id)
    index.refresh()
    index.close()


def test_a_file_that_is_corrupted_while_it_is_open_is_rebuilt(
    index: ObjectIndex, path: str, transport: Listings
) -> None:
    add(index)
    spoil(path, "garbage")
    assert index.find(blob_id(ABC)) == places(PACK, blob_id(ABC))


def test_a_file_that_was_deleted_is_made_again(index: ObjectIndex, path: str, transport: Listings) -> None:
    add(index)
    index.close()
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    assert index.find(blob_id(ABC)) == []
    index.refresh()
    assert len(index.find(blob_id(ABC))) == 1


def test_where_no_file_can_be_written_the_index_lives_in_memory(tmp_path: Path, transport: Listings) -> None:
    (tmp_path / "file").write_bytes(b"")
    index = ObjectIndex(str(tmp_path / "file" / "objects.db"), transport, "boot 1")
    index.begin_save()
    assert index.find(blob_id(ABC)) == places(PACK, blob_id(ABC))
    add(index)
    assert index.is_sound(PACK.pack_id)
    index.close()
    assert os.listdir(tmp_path) == ["file"]


# -- prefixes


def test_a_prefix_finds_blobs_trees_and_commits_of_that_beginning(index: ObjectIndex, transport: Listings) -> None:
    frames = [Frame(b"%d" % number) for number in range(300)]
    others = [
        tree_frame([]),
        Frame(b"c", Kind.COMMIT),
        Frame(b"l", Kind.LOCATOR),
        Frame(b"?", 9, claimed=some_id("strange")),
    ]
    built = build_pack([*frames, *others])
    transport.put(built.key, built.data)
    add(index, built)
    for frame in frames[:20]:
        digits = frame.object_id.hex()
        assert index.find_prefix(digits) == [(frame.object_id, Kind.BLOB)]
        for length in (2, 3):
            expected = {one.object_id for one in frames if one.object_id.hex().startswith(digits[:length])}
            found = {one for one, _ in index.find_prefix(digits[:length], 400)}
            assert found & {one.object_id for one in frames} == expected
    assert len(index.find_prefix("", 400)) == 302
    assert len(index.find_prefix("", 5)) == 5
    for hidden in others[2:]:
        assert index.find_prefix(hidden.object_id.hex()) == []
