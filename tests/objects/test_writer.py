from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.errors import InvalidInputError, ObjectNotFoundError, StorageFullError
from replicate.objects import locator as locator_module
from replicate.objects import pack as pack_module
from replicate.objects.codecs import Encoding
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.cutting.pieces import cut_without_tensors
from replicate.objects.ids import Kind, ObjectID, blob_id
from replicate.objects.locator import MAX_OLDER, LocatorView, read_locator
from replicate.objects.model import Mode
from replicate.objects.pack import FLAG_META, HEADER, Entry, is_reproducible, pack_key, read_footer
from replicate.objects.writer import MAX_INLINE_PACKS, Stored
from replicate.transport import MemoryTransport
from tests.builders import (
    BytesSource,
    Folder,
    SavedFiles,
    SmallStore,
    build_pack,
    concat_frame,
    noise,
    publish,
    some_id,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SmallStore]:
    found = SmallStore(tmp_path)
    yield found
    found.index.close()


def entries_of(store: SmallStore, pack: ObjectID) -> list[Entry]:
    return read_footer(store.transport, pack, len(store.transport.get(pack_key(pack))))


def kinds_of(store: SmallStore, pack: ObjectID) -> set[int]:
    return {entry.kind for entry in entries_of(store, pack)}


def packs_of(store: SmallStore) -> list[ObjectID]:
    return [ObjectID.parse(info.key[-64:]) for info in store.transport.list("packs/")]


def is_meta(store: SmallStore, pack: ObjectID) -> bool:
    _, flags, _, _ = HEADER.unpack(store.transport.get(pack_key(pack), 0, HEADER.size))
    return bool(flags & FLAG_META)


def closure(store: SmallStore, saved: SavedFiles) -> set[ObjectID]:
    """Return every object that a commit needs: its trees, blobs, chunks and bases."""
    view = store.locations(saved)
    objects = store.objects(saved)
    found = {saved.record.commit_id}
    trees = [saved.record.commit.tree]
    while trees:
        tree = trees.pop()
        found.add(tree)
        for place in view.find(tree):
            if place.entry.encoding == Encoding.PATCH:
                payload = store.transport.get(
                    pack_key(place.pack), place.entry.offset + 60, place.entry.offset + place.entry.length
                )
                found.add(ObjectID(payload[:32]))
        for one in objects.read_tree(tree):
            if one.mode is Mode.DIRECTORY:
                trees.append(one.object_id)
            else:
                found |= {one.object_id, *(chunk.object_id for chunk in objects.read_chunks(one.object_id))}
    return found


def check_locator(store: SmallStore, saved: SavedFiles) -> None:
    """Check every rule of SPEC §8 and I5 that can be seen from outside."""
    view = store.locations(saved)
    for wanted in closure(store, saved):
        assert view.find(wanted), wanted
    packset = store.refs.read_packset(saved.record.packset)
    assert packset == saved.stored.packset
    assert packset >= {place.pack for place in view}
    assert saved.record.locator.pack in packset
    assert set(saved.record.meta) <= packset
    found = read_locator(store.transport, saved.record.locator)
    assert packset >= {ref.pack for ref in found.older}
    assert len(found.older) <= MAX_OLDER
    listed = len(found.places) + sum(len(read_locator(store.transport, ref).places) for ref in found.older)
    assert listed <= found.total
    assert found.whole <= found.total
    assert (found.older, found.total, found.whole) == (saved.stored.older, saved.stored.total, saved.stored.whole)
    for place in view:
        if place.pack != saved.record.locator.pack:
            assert place.pack_bytes in (0, len(store.transport.get(pack_key(place.pack))))
        if place.entry.kind == Kind.TREE and place.entry.depth:
            assert place.entry.depth == 1


# -- what is written


def test_a_small_save_is_one_meta_pack(store: SmallStore) -> None:
    saved = store.save({"a": b"1", "b": b"2", "sub": {"c": b"3"}})
    (pack,) = packs_of(store)
    assert is_meta(store, pack)
    assert kinds_of(store, pack) == {Kind.BLOB, Kind.TREE, Kind.COMMIT, Kind.LOCATOR}
    assert saved.record.meta == (pack,)
    assert saved.stored.packset == {pack}
    assert store.restore(saved) == {"a": b"1", "b": b"2", "sub": {"c": b"3"}}


def test_from_a_mebibyte_on_blobs_lie_in_a_data_pack(store: SmallStore) -> None:
    saved = store.save({"a": noise(600_000, "a"), "b": noise(600_000, "b")})
    by_role = {is_meta(store, pack): pack for pack in packs_of(store)}
    assert kinds_of(store, by_role[False]) == {Kind.BLOB}
    assert kinds_of(store, by_role[True]) == {Kind.TREE, Kind.COMMIT, Kind.LOCATOR}
    assert saved.record.meta == (by_role[True],)
    assert saved.stored.packset == set(by_role.values())


def test_a_blob_is_stored_once_in_a_save(store: SmallStore) -> None:
    content = noise(1_000)
    store.save({"a": content, "b": content, "sub": {"c": content}})
    (pack,) = packs_of(store)
    assert [entry.object_id for entry in entries_of(store, pack)].count(blob_id(content)) == 1


def test_a_blob_that_the_store_holds_is_not_stored_again(store: SmallStore) -> None:
    content = noise(1_000)
    first = store.save({"a": content})
    second = store.save({"b": content, "c": b"new"})
    (pack,) = second.stored.packset - first.stored.packset
    assert blob_id(content) not in [entry.object_id for entry in entries_of(store, pack)]
    assert second.stored.packset == {pack, first.record.locator.pack}
    check_locator(store, second)
    assert store.restore(second) == {"b": content, "c": b"new"}


def test_new_bytes_are_those_that_the_store_did_not_hold(store: SmallStore) -> None:
    writer = store.writer()
    for content in (noise(1_000, "a"), noise(1_000, "a"), bytes(5_000)):
        writer.write_blob(content)
    assert writer.new_bytes == 6_000
    writer.finish(None, list)
    writer.close()
    writer = store.writer()
    writer.write_blob(noise(1_000, "a"))
    assert writer.new_bytes == 0
    writer.close()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"", Encoding.RAW),
        (noise(1_000), Encoding.RAW),
        (b"text " * 100 + b"end", Encoding.ZSTD),
        (bytes(1_000), Encoding.FILL),
        (b"\0\0\x80?" * 100, Encoding.FILL),
    ],
)
def test_a_blob_is_stored_in_the_smallest_encoding(store: SmallStore, content: bytes, encoding: int) -> None:
    saved = store.save({"a": content})
    (place,) = store.locations(saved).find(blob_id(content))
    assert place.entry.encoding == encoding
    assert store.restore(saved) == {"a": content}


def test_two_equal_saves_are_two_packs(store: SmallStore) -> None:
    store.save({"a": b"1"})
    store.index.close()
    store.save({"a": b"1"})
    assert len(packs_of(store)) == 2


# -- big blobs


def test_a_big_blob_is_cut_at_multiples_of_4_mib(store: SmallStore) -> None:
    content = noise(2 * MAX_PIECE_BYTES + 5)
    saved = store.save({"big": content})
    chunks = store.objects(saved).read_chunks(blob_id(content))
    assert [chunk.length for chunk in chunks] == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 5]
    assert [chunk.object_id for chunk in chunks] == [
        blob_id(content[start : start + MAX_PIECE_BYTES]) for start in range(0, len(content), MAX_PIECE_BYTES)
    ]
    assert store.restore(saved) == {"big": content}
    check_locator(store, saved)


def test_of_a_changed_big_blob_only_the_changed_pieces_are_stored(store: SmallStore) -> None:
    content = noise(3 * MAX_PIECE_BYTES)
    first = store.save({"big": content})
    changed = content[: MAX_PIECE_BYTES + 10] + b"x" + content[MAX_PIECE_BYTES + 11 :]
    second = store.save({"big": changed}, first)
    new = sum(len(store.transport.get(pack_key(pack))) for pack in second.stored.packset - first.stored.packset)
    assert MAX_PIECE_BYTES < new < MAX_PIECE_BYTES + 10_000
    assert store.restore(second) == {"big": changed}
    assert store.restore(first) == {"big": content}
    check_locator(store, second)


def test_a_blob_of_64_mib_has_packs_of_its_own(store: SmallStore) -> None:
    class Zeros:
        size_bytes = 64 << 20

        def read_into(self, offset: int, buffer: memoryview) -> None:
            buffer[:] = (offset // MAX_PIECE_BYTES).to_bytes(4, "little") * (len(buffer) // 4)

    writer = store.writer()
    before, after = noise(1 << 20, "before"), noise(1 << 20, "after")
    writer.write_blob(before)
    large = writer.write_large(Zeros(), cut_without_tensors(Zeros.size_bytes), lambda size: None)
    writer.write_blob(after)
    stored = writer.finish(None, list)
    writer.close()
    view = LocatorView(store.transport, [stored.locator])
    pack_of = {place.entry.object_id: place.pack for place in view}
    assert pack_of[blob_id(before)] == pack_of[blob_id(after)]
    own = {pack for wanted, pack in pack_of.items() if wanted not in (blob_id(before), blob_id(after), large)}
    assert len(own) == 1
    assert own.isdisjoint({pack_of[blob_id(before)], stored.locator.pack})
    assert pack_of[large] == stored.locator.pack
    data_pack, own_pack = pack_of[blob_id(before)], own.pop()
    assert len(entries_of(store, data_pack)) == 2
    assert len(entries_of(store, own_pack)) == 16


def test_a_full_data_pack_is_followed_by_another(store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "PACK_BYTES", 3 << 20)
    monkeypatch.setattr(pack_module, "TARGET_BYTES", 3 << 20)
    files: Folder = {f"{number}": noise(700_000, f"{number}") for number in range(12)}
    saved = store.save(files)
    packs = saved.stored.packset
    assert len(packs) == 4
    assert all(len(store.transport.get(pack_key(pack))) <= 3 << 20 for pack in packs)
    assert store.restore(saved) == files
    check_locator(store, saved)


@pytest.mark.parametrize("folders", range(20, 30))
def test_full_meta_packs_are_followed_by_others_and_the_locator_still_tells_of_all(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch, folders: int
) -> None:
    monkeypatch.setattr(pack_module, "PACK_BYTES", 30_000)
    monkeypatch.setattr(pack_module, "TARGET_BYTES", 30_000)
    files: Folder = {
        f"folder {number}": {f"{name}": b"%d %d" % (number, name) for name in range(12)} for number in range(folders)
    }
    saved = store.save(files)
    assert len(saved.record.meta) == (1 if folders < 22 else 2)
    assert saved.record.meta[-1] == saved.record.locator.pack
    check_locator(store, saved)
    assert store.restore(saved) == files
    files["folder 0"] = {"other": b"new"}
    again = store.save(files, saved)
    check_locator(store, again)
    assert store.restore(again) == files


# -- failures


class Unreadable(Exception):
    pass


class Failing:
    """A blob of five pieces of which one cannot be read; the first is there only after that was seen."""

    size_bytes = 5 * MAX_PIECE_BYTES

    def __init__(self, number: int) -> None:
        self._offset = number * MAX_PIECE_BYTES
        self._failed = threading.Event()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See `PieceSource`."""
        if offset == self._offset:
            self._failed.set()
            raise Unreadable("it went away")
        if offset == 0:
            assert self._failed.wait(20)
        buffer[:] = bytes(len(buffer))


@pytest.mark.parametrize(("workers", "number"), [(1, 0), (2, 0), (2, 1), (4, 1), (4, 2), (4, 3)])
def test_a_blob_that_cannot_be_read_raises_why_and_nothing_refers_to_it(
    tmp_path: Path, workers: int, number: int
) -> None:
    store = SmallStore(tmp_path)
    writer = store.writer(workers)
    with pytest.raises(Unreadable, match="it went away"):
        writer.write_large(source := Failing(number), cut_without_tensors(source.size_bytes), lambda size: None)
    after = writer.write_blob(b"after")
    stored = writer.finish(None, list)
    writer.close()
    view = LocatorView(store.transport, [stored.locator])
    assert view.find(after)
    assert not any(place.entry.encoding == Encoding.CONCAT for place in view)
    store.index.close()


def test_progress_is_told_in_order_and_adds_up(store: SmallStore) -> None:
    advanced: list[int] = []
    writer = store.writer()
    size = 2 * MAX_PIECE_BYTES + 7
    writer.write_large(BytesSource(bytes(size)), cut_without_tensors(size), advanced.append)
    writer.close()
    assert advanced == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 7]


class FullDisk(MemoryTransport):
    """Has room for so many packs."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        if key.startswith("packs/"):
            self.room -= 1
            if self.room < 0:
                raise StorageFullError("no space left", needed_bytes=len(data), key=key)
        super().put(key, data, replace=replace)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_full_disk_ends_the_save_and_a_later_one_relies_on_nothing_of_it(tmp_path: Path, room: int) -> None:
    transport = FullDisk(room)
    store = SmallStore(tmp_path, transport)
    files: Folder = {"0": noise(2 << 20, "0"), "1": noise(2 << 20, "1"), "big": noise(5 << 20)}
    if room == 2:
        transport.room = 99
    else:
        with pytest.raises(StorageFullError):
            store.save(files)
        assert list(transport.list("refs/")) == []
        transport.room = 99
    saved = store.save(files)
    assert store.restore(saved) == files
    check_locator(store, saved)
    store.index.close()


# -- locators: older ones, merging, writing whole


def test_a_first_locator_is_whole(store: SmallStore) -> None:
    saved = store.save({"a": b"1", "sub": {"b": b"2"}})
    assert saved.stored.older == ()
    assert saved.stored.total == saved.stored.whole == 5  # two blobs, two trees, the commit
    check_locator(store, saved)


def test_a_next_locator_has_what_is_new_and_names_the_older(store: SmallStore) -> None:
    first = store.save({"a": b"1", "b": b"2"})
    second = store.save({"a": b"1", "b": b"3"}, first)
    third = store.save({"a": b"1", "b": b"4"}, second)
    assert second.stored.older == (first.stored.locator,)
    assert third.stored.older == (second.stored.locator, first.stored.locator)
    assert (second.stored.total, third.stored.total) == (7, 10)  # a blob, a tree and a commit more each
    assert second.stored.whole == third.stored.whole == 4
    assert store.restore(third) == {"a": b"1", "b": b"4"}
    check_locator(store, third)


def test_older_locators_are_merged_above_16(store: SmallStore) -> None:
    files: Folder = {f"{number}": noise(10, f"{number}") for number in range(400)}
    saved = store.save(files)
    largest = saved.stored.locator
    counts = []
    for number in range(40):
        files["0"] = b"%d" % number
        saved = store.save(files, saved)
        counts.append(len(saved.stored.older))
        check_locator(store, saved)
    assert counts == [*range(1, 17), 1, *range(2, 17), 1, *range(2, 9)]
    assert saved.stored.whole == 402
    assert largest in saved.stored.older  # the largest is not copied again and again
    assert store.restore(saved) == files


def test_a_locator_is_written_whole_when_a_quarter_may_be_dead(store: SmallStore) -> None:
    saved = store.save({f"{number}": b"0 %d" % number for number in range(100)})
    wholes = []
    for turn in range(1, 12):
        saved = store.save({f"{number}": b"%d %d" % (turn, number) for number in range(100)}, saved)
        check_locator(store, saved)
        if saved.stored.whole == saved.stored.total:
            wholes.append(turn)
            assert saved.stored.older == ()
            assert saved.stored.packset == {saved.record.locator.pack}
            assert len(store.locations(saved)) == 102
    assert wholes == [4, 8]  # 102 new entries a turn; 3 * 510 > 4 * 102 + 1024


def test_a_whole_locator_drops_packs_that_nothing_needs_any_more(store: SmallStore) -> None:
    kept = noise(100, "kept")
    first = store.save({"kept": kept, "other": noise(100)})
    saved = first
    for turn in range(1, 12):
        files: Folder = {f"{number}": b"%d %d" % (turn, number) for number in range(100)}
        saved = store.save({"kept": kept, **files}, saved)
        check_locator(store, saved)
    assert first.record.locator.pack in saved.stored.packset
    assert len(saved.stored.packset) < 8
    assert store.restore(saved)["kept"] == kept


def test_a_locator_is_written_whole_when_the_packset_has_spread(store: SmallStore) -> None:
    saved = store.save({f"{number}": noise(10, f"{number}") for number in range(2_000)})
    files: Folder = {f"{number}": noise(10, f"{number}") for number in range(2_000)}
    sizes = []
    for turn in range(80):
        files["0"] = b"%d" % turn
        saved = store.save(files, saved)
        sizes.append(len(saved.stored.packset))
    assert max(sizes) < 80
    assert saved.stored.spread < 10
    assert store.restore(saved) == files
    check_locator(store, saved)


@settings(max_examples=15)
@given(st.data())
def test_whatever_is_saved_in_a_row_comes_back_from_its_locator_and_packset(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = SmallStore(tmp_path_factory.mktemp("history"))
    names = st.sampled_from([f"{number:03}" for number in range(150)])
    folders = st.sampled_from(["", "sub"])
    files: Folder = {"sub": {}, **{f"{number:03}": b"start %d" % number for number in range(120)}}
    history: list[tuple[SavedFiles, Folder]] = []
    saved: SavedFiles | None = None
    for turn in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(0, 3))):
            name = data.draw(names)
            sub = files["sub"]
            assert isinstance(sub, dict)
            target = sub if data.draw(folders) else files
            if data.draw(st.booleans()):
                target[name] = b"%d" % data.draw(st.integers(0, 3))
            else:
                target.pop(name, None)
        saved = store.save(files, saved, relying=data.draw(st.sampled_from([True, True, True, False])))
        history.append((saved, {**files, "sub": dict(files["sub"])}))  # type: ignore[arg-type]
        assert saved.record.commit.seq == turn
    for one, expected in history:
        check_locator(store, one)
        assert store.restore(one) == expected
        only = SmallStore(tmp_path_factory.mktemp("copy"))  # the packset suffices for copying (I5)
        for pack in one.stored.packset:
            only.transport.put(pack_key(pack), store.transport.get(pack_key(pack)))
        assert only.restore(one) == expected
        only.index.close()
    store.index.close()


# -- patches of trees


def large_folder(changed: int = 0) -> Folder:
    return {f"{number:05}.txt": b"%d" % (number if number != 77 else -changed) for number in range(1_000)}


def trees_of(store: SmallStore, saved: SavedFiles) -> list[Entry]:
    places = store.locations(saved).find(saved.record.commit.tree)
    return [place.entry for place in places]


def test_a_large_tree_is_stored_as_a_patch_on_the_one_before(store: SmallStore) -> None:
    saved = store.save(large_folder())
    (whole,) = trees_of(store, saved)
    assert (whole.encoding, whole.depth) == (Encoding.ZSTD, 0)
    for turn in range(1, 20):
        saved = store.save(large_folder(turn), saved)
        (patched,) = trees_of(store, saved)
        assert (patched.encoding, patched.depth) == (Encoding.PATCH, 1)
        assert patched.length < 500 < whole.length // 50
        check_locator(store, saved)
    assert store.restore(saved) == large_folder(19)


def test_a_tree_is_stored_whole_again_when_the_patch_exceeds_a_quarter(store: SmallStore) -> None:
    first = store.save(large_folder())
    files: Folder = {f"{number:05}.txt": b"other %d" % number for number in range(1_000)}
    second = store.save(files, first)
    (entry,) = trees_of(store, second)
    assert entry.depth == 0
    third = store.save({**files, "00500.txt": b"once more"}, second)
    (entry,) = trees_of(store, third)
    assert entry.depth == 1
    assert store.restore(third) == {**files, "00500.txt": b"once more"}


def test_a_whole_locator_keeps_the_base_of_a_patch(store: SmallStore) -> None:
    files = large_folder()
    saved = store.save({"large": files, **{f"{one}": b"0" for one in range(300)}})
    base = saved.folders["/large"][0]
    whole = False
    for turn in range(1, 10):
        saved = store.save(
            {"large": large_folder(turn), **{f"{one}": b"%d %d" % (turn, one) for one in range(300)}}, saved
        )
        whole = whole or not saved.stored.older
        assert store.locations(saved).find(base)
        check_locator(store, saved)
    assert whole
    assert store.restore(saved)["large"] == large_folder(9)


def test_a_save_that_relies_on_nothing_stores_trees_whole(store: SmallStore) -> None:
    first = store.save(large_folder())
    second = store.save(large_folder(1), first, relying=False)
    (entry,) = trees_of(store, second)
    assert entry.depth == 0
    check_locator(store, second)


def test_small_trees_are_never_patches(store: SmallStore) -> None:
    first = store.save({"a": b"1", "b": b"2"})
    second = store.save({"a": b"1", "b": b"3"}, first)
    assert [entry.depth for entry in trees_of(store, second)] == [0]


def test_a_tree_that_went_back_to_what_it_was_is_found(store: SmallStore) -> None:
    first = store.save(large_folder())
    second = store.save(large_folder(1), first)
    third = store.save(large_folder(), second)
    fourth = store.save(large_folder(1), third)
    for saved, expected in ((third, large_folder()), (fourth, large_folder(1))):
        check_locator(store, saved)
        assert store.restore(saved) == expected


# -- reuse


def test_a_concat_is_reused_only_with_all_its_chunks(store: SmallStore) -> None:
    content = noise(MAX_PIECE_BYTES + 100)
    first = store.save({"big": content})
    (data_pack,) = first.stored.packset - set(first.record.meta)
    store.transport.delete([pack_key(data_pack)])
    second = store.save({"big": content})
    assert store.restore(second) == {"big": content}
    assert data_pack not in second.stored.packset
    check_locator(store, second)


def test_a_patch_is_reused_only_with_its_base(store: SmallStore) -> None:
    first = store.save(large_folder())
    second = store.save(large_folder(1), first)
    store.transport.delete([pack_key(first.record.locator.pack)])
    third = store.save(large_folder(1))
    assert store.restore(third) == large_folder(1)
    assert first.record.locator.pack not in third.stored.packset
    check_locator(store, third)
    assert second.record.commit.tree == third.record.commit.tree


def test_a_concat_of_another_store_that_names_a_concat_is_not_relied_on(store: SmallStore) -> None:
    inner = concat_frame(b"abc", b"de")
    outer = concat_frame(inner.content, b"more")
    built = build_pack([inner, outer])
    store.transport.put(built.key, built.data)
    store.index.refresh()
    writer = store.writer()
    assert not writer.holds(outer.object_id)
    writer.close()


def test_what_a_save_should_keep_but_is_nowhere_is_told(store: SmallStore) -> None:
    first = store.save({f"{number}": b"%d" % number for number in range(2_000)})
    writer = store.writer()
    for number in range(2_000):
        writer.write_blob(b"new %d" % number)
    lost = some_id("lost")
    with pytest.raises(ObjectNotFoundError) as caught:
        writer.finish(first.stored, lambda: [lost])
    writer.close()
    assert str(caught.value) == f"object {lost.hex()} of the commit to be saved is not in the store"


def test_a_commit_of_too_many_objects_is_refused_before_it_is_published(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locator_module, "MAX_RAW_BYTES", 600)
    with pytest.raises(InvalidInputError) as caught:
        store.save({f"{number}": b"%d" % number for number in range(9)})
    assert str(caught.value) == "a commit of 11 objects is too large to be saved"
    assert list(store.transport.list("refs/")) == []
    store.save({f"{number}": b"%d" % number for number in range(8)})


# -- long packsets


def with_packs(saved: SavedFiles, count: int) -> SavedFiles:
    """Return a commit as if its closure lay in so many more packs."""
    more = {some_id(f"{number}") for number in range(count)}
    stored = saved.stored
    return SavedFiles(
        saved.record,
        Stored(
            stored.locator,
            stored.older,
            stored.total,
            stored.whole,
            stored.packset | more,
            None,
            stored.meta,
            10_000,
        ),
        saved.folders,
    )


@pytest.mark.parametrize(("others", "listed"), [(398, True), (399, False), (1_000, False)])
def test_a_packset_of_more_than_400_packs_lies_in_a_frame(store: SmallStore, others: int, listed: bool) -> None:
    first = store.save({"a": b"1"})
    second = store.save({"a": b"2"}, with_packs(first, others))
    packset = second.record.packset
    assert len(second.stored.packset) == others + 2
    assert (len(second.stored.packset) <= MAX_INLINE_PACKS) == listed
    if listed:
        assert packset.at is None
        assert packset.packs == second.stored.packset
    else:
        assert packset.at is not None
        assert packset.at.pack == second.record.locator.pack
        assert packset.packs == frozenset()
        places = [entry for entry in entries_of(store, packset.at.pack) if entry.kind == Kind.PACKSET]
        assert [(entry.offset, entry.length) for entry in places] == [(packset.at.offset, packset.at.length)]
    assert store.refs.read_packset(packset) == second.stored.packset
    assert store.restore(second) == {"a": b"2"}


def test_a_published_commit_is_what_was_stored(store: SmallStore) -> None:
    saved = store.save({"a": b"1"})
    objects = store.objects(saved)
    assert objects.read_commit(saved.record.commit_id) == saved.record.commit
    encoded = objects.read(saved.record.commit_id, Kind.COMMIT)
    assert publish(store.refs, encoded, saved.stored) == saved.record  # again: nothing changes (I0)
    assert len(list(store.transport.list("refs/"))) == 1


class _OutOfOrder(BytesSource):
    """A blob whose first piece is read only after its third."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._third = threading.Event()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if not offset:
            assert self._third.wait(30)
        super().read_into(offset, buffer)
        if offset == 2 * MAX_PIECE_BYTES:
            self._third.set()


def test_frames_are_in_the_order_of_the_file_whoever_reads_faster(tmp_path: Path) -> None:
    data = noise(MAX_PIECE_BYTES) * 2 + noise(MAX_PIECE_BYTES, "b") + bytes(MAX_PIECE_BYTES) + noise(54 << 20, "c")
    found = []
    for number, source in enumerate((BytesSource(data), _OutOfOrder(data))):
        store = SmallStore(tmp_path / f"{number}")
        writer = store.writer(1 + 3 * number)
        writer.write_large(source, cut_without_tensors(len(data)), lambda size: None)
        writer.finish_loose()
        writer.close()
        store.index.close()
        found.append({pack for pack in packs_of(store) if is_reproducible(store.transport.get(pack_key(pack), 0, 32))})
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_a_large_blob_that_cannot_be_stored_ends_the_save(tmp_path: Path) -> None:
    class Full(MemoryTransport):
        def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
            raise StorageFullError("no space", needed_bytes=len(data))

    store = SmallStore(tmp_path, Full())
    writer = store.writer(3)
    with pytest.raises(StorageFullError):
        writer.write_large(BytesSource(noise(200 << 20)), cut_without_tensors(200 << 20), lambda size: None)
    writer.close()
    store.index.close()
