"""The invariants of SPEC §2, one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.errors import CorruptionError, StorageError, UnsupportedFormatError
from replicate.objects.codecs import Encoding
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, ObjectID, pack_id, record_hash
from replicate.objects.locator import Locator, LocatorView, read_locator
from replicate.objects.pack import FRAME, HEADER, pack_key, read_footer
from replicate.objects.store import ObjectStore
from replicate.refs import CommitRecord, RefStore
from replicate.refs.names import RecordName
from replicate.transport import KeyInfo, MemoryTransport, Transport
from tests.builders import (
    Folder,
    Frame,
    SavedFiles,
    SmallStore,
    build_pack,
    concat_frame,
    entry,
    noise,
    patch_frame,
    read_folder,
    store_of,
    tree_frame,
)
from tests.hostile.readers import keys_of, read_everything
from tests.projects import SampleProject
from tests.projects import read_folder as read_disk

TOPS = ("packs/", "refs/", "cat/", "ctl/")
LARGE: Folder = {f"{number:04}": b"%d" % number for number in range(300)}


def some_history(store: SmallStore) -> list[tuple[SavedFiles, Folder]]:
    """Save in a row: small files, a data pack, a file in pieces, a patched tree, and a file that comes back."""
    steps: list[Folder] = [
        {"a": b"1", "large": LARGE},
        {"a": noise(1 << 20), "b": noise(1 << 20, "b"), "large": LARGE},
        {"a": b"1", "big": noise(5 << 20), "large": {**LARGE, "0077": b"other"}},
        {"a": b"1", "big": noise(5 << 20), "sub": {"deep": {"c": b"3"}}},
    ]
    history: list[tuple[SavedFiles, Folder]] = []
    for files in steps:
        history.append((store.save(files, history[-1][0] if history else None), files))
    return history


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SmallStore]:
    found = SmallStore(tmp_path / "index")
    yield found
    found.index.close()


# -- I0 write-once: a key's bytes are a function of its name


class WriteOnce(MemoryTransport):
    """Fails when a key would get other bytes."""

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        before = {info.key for info in self.list(key)}
        assert not replace
        assert key not in before or self.get(key) == data
        super().put(key, data)


class PutsTwice(MemoryTransport):
    """Every put is repeated, as after a reply that was lost."""

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        super().put(key, data, replace=replace)
        super().put(key, data, replace=replace)


def test_i0_nothing_is_overwritten(tmp_path: Path) -> None:
    store = SmallStore(tmp_path, WriteOnce())
    history = some_history(store)
    some_history(store)
    assert len(history) == 4
    store.index.close()


def test_i0_names_are_functions_of_bytes(store: SmallStore) -> None:
    some_history(store)
    for key, data in keys_of(store.transport).items():
        if key.startswith("packs/"):
            assert key == pack_key(pack_id(data))
        else:
            assert RecordName.parse(key).record_hash == record_hash(data)


def test_i0_a_put_may_be_repeated(tmp_path: Path) -> None:
    store = SmallStore(tmp_path, PutsTwice())
    history = some_history(store)
    found = read_everything(store.transport)
    assert found.files == {saved.record.name.key: files for saved, files in history}
    assert found.damage == []
    store.index.close()


def test_i0_the_union_of_two_stores_is_a_store(tmp_path: Path) -> None:
    here, there = SmallStore(tmp_path / "1"), SmallStore(tmp_path / "2")
    there.random(1)  # another machine has another randomness
    expected: dict[str, Folder] = {}
    union = MemoryTransport()
    for store in (here, there):
        expected |= {saved.record.name.key: files for saved, files in some_history(store)}
        for key, data in keys_of(store.transport).items():
            union.put(key, data)
        store.index.close()
    found = read_everything(union)
    assert len(found.files) == 8
    assert found.files == expected
    assert found.damage == []


# -- I1 order: a key is written only after every key that it names


class InOrder(MemoryTransport):
    """Fails when a key is put before one that it names."""

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        for pack in self._named(key, bytes(data)):
            super().get(pack_key(pack), 0, 1)
        super().put(key, data, replace=replace)

    def _named(self, key: str, data: bytes) -> Iterator[ObjectID]:
        alone = MemoryTransport()
        alone.put(key, data)
        if key.startswith("refs/"):
            (record,) = RefStore(alone, lambda error: None).list()
            assert isinstance(record, CommitRecord)
            refs = RefStore(self, lambda error: None)
            yield from (*refs.read_packset(record.packset), *record.meta, record.locator.pack)
        elif key.startswith("packs/"):
            own = ObjectID.parse(key[-64:])
            for one in read_footer(alone, own, len(data)):
                if one.kind == Kind.LOCATOR:
                    found: Locator = read_locator(alone, FrameRef(own, one.offset, one.length))
                    yield from (place.pack for place in found.places if place.pack != own)
                    yield from (ref.pack for ref in found.older)


def test_i1_a_key_is_written_only_after_every_key_that_it_names(tmp_path: Path) -> None:
    store = SmallStore(tmp_path, InOrder())
    saved, files = some_history(store)[-1]
    for number in range(20):
        saved = store.save({**files, "a": b"%d" % number}, saved)
    assert len(store.refs.list()) == 24
    store.index.close()


class Interrupted(MemoryTransport):
    """Fails at one put, before or after it was done."""

    def __init__(self, number: int, *, done: bool) -> None:
        super().__init__()
        self.left = number
        self.done = done

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        self.left -= 1
        if self.left == 0 and not self.done:
            raise StorageError("the network is gone", key=key, operation="write")
        super().put(key, data, replace=replace)
        if self.left == 0:
            raise StorageError("the answer is lost", key=key, operation="write")


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", range(1, 12))
def test_i1_what_is_published_is_whole_wherever_a_save_stops(tmp_path: Path, number: int, done: bool) -> None:
    transport = Interrupted(number, done=done)
    store = SmallStore(tmp_path, transport)
    stopped = False
    try:
        some_history(store)
    except StorageError:
        stopped = True
    assert stopped == (number < 11)  # there are 10 puts
    found = read_everything(transport)
    assert all(isinstance(files, dict) for files in found.files.values())
    assert found.damage == []
    transport.left = 0
    (saved, files), *_ = some_history(store)  # and the next save goes on from there
    assert store.restore(saved) == files
    store.index.close()


# -- I2 reading order


class Ordered(MemoryTransport):
    """Notes what is asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.asked.append(key)
        return super().get(key, start, end)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        self.asked.append(prefix)
        return super().list(prefix)


def test_i2_refs_are_listed_before_packs_are_read(store: SmallStore) -> None:
    some_history(store)
    transport = Ordered()
    for key, data in keys_of(store.transport).items():
        transport.put(key, data)
    read_everything(transport)
    assert transport.asked[:2] == ["refs/", "cat/"]
    tops = [key.split("/")[0] for key in transport.asked[2:]]
    assert tops == sorted(tops, reverse=True)  # records, then packs
    assert transport.asked.count("refs/") == 1


def test_i2_a_pack_that_is_missing_is_reported_by_its_name(store: SmallStore) -> None:
    saved = store.save({"a": b"1"})
    (pack,) = saved.stored.packset
    store.transport.delete([pack_key(pack)])
    with pytest.raises(CorruptionError, match=pack.hex()):
        store.restore(saved)


# -- I3 reliance


def test_i3_nothing_is_published_while_a_collection_plan_exists(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    project.write("a", b"1")
    session = project.begin()
    before = sorted(path.name for path in (project.store / "refs").rglob("*"))
    plan = project.store / "ctl" / ("p~" + "0" * 32)
    plan.write_bytes(b"")
    project.write("a", b"2")
    with pytest.raises(UnsupportedFormatError, match=plan.name):
        project.save(session)
    assert sorted(path.name for path in (project.store / "refs").rglob("*")) == before
    plan.unlink()
    project.restore(project.save(session), tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"2"


# -- I4 derived


def test_i4_everything_else_can_be_deleted_and_unknown_names_stay(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    project.write("a", b"1")
    project.write("sub/b", b"2")
    session = project.begin()
    saved = project.save(session)
    session.end("finished")
    unknown = project.store / "later" / "thing"
    unknown.parent.mkdir()
    unknown.write_bytes(b"?")
    for name in os.listdir(project.store):
        if name not in ("packs", "refs", "cat", "ctl", "later"):
            path = project.store / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    project.restore(saved, tmp_path / "out")
    assert read_disk(tmp_path / "out") == read_disk(project.root)
    project.write("a", b"3")
    again = project.save(project.resume())
    project.restore(again, tmp_path / "again")
    assert (tmp_path / "again" / "a").read_bytes() == b"3"
    assert unknown.read_bytes() == b"?"


# -- I5 packset


def test_i5_the_packset_suffices_for_copying_a_commit(store: SmallStore, tmp_path: Path) -> None:
    for saved, files in some_history(store):
        copy = MemoryTransport()
        for pack in store.refs.read_packset(saved.record.packset):
            copy.put(pack_key(pack), store.transport.get(pack_key(pack)))
        objects = ObjectStore(copy, LocatorView(copy, [saved.record.locator]))
        assert objects.read_commit(saved.record.commit_id) == saved.record.commit
        assert read_folder(objects, saved.record.commit.tree) == files


# -- I6 bytes back


def test_i6_what_was_saved_is_restored_byte_for_byte(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    project.write("empty", b"")
    project.write("text", b"a\r\nb\n")
    project.write("noise", noise(100_000))
    project.write("big", noise((4 << 20) + 1))
    project.write("zeros", bytes(9 << 20))
    project.write("run.sh", b"#!/bin/sh\n", executable=True)
    project.write(b"\xff\xfe not utf-8", b"x")
    project.write("deep/er/file", b"y")
    (project.root / "nothing").mkdir()
    (project.root / "link").symlink_to("deep/er")
    (project.root / "broken").symlink_to("no/such/file")
    saved = project.save(project.begin())
    project.restore(saved, tmp_path / "out")
    assert read_disk(tmp_path / "out") == read_disk(project.root)


def test_i6_every_object_is_verified_by_its_id_before_it_is_given_out(store: SmallStore) -> None:
    lie = Frame(b"other bytes", claimed=Frame(b"right bytes").object_id)
    objects = store_of(build_pack([lie]))
    for read in (objects.read, lambda one: list(objects.iter_blob(one)), lambda one: list(objects.read_many([one]))):
        with pytest.raises(CorruptionError, match=lie.object_id.hex()):
            read(lie.object_id)


# -- I7 decoding ends


def test_i7_stored_depths_are_those_of_the_encodings(store: SmallStore) -> None:
    deepest = 0
    for saved, _ in some_history(store):
        for place in store.locations(saved):
            assert (place.entry.depth > 0) == (place.entry.encoding == Encoding.PATCH)
            deepest = max(deepest, place.entry.depth)
    assert deepest == 1


def test_i7_a_base_is_read_only_from_a_frame_of_smaller_depth() -> None:
    first, second = tree_frame([entry("a")]).content, tree_frame([entry("b")]).content
    for depths in ((1, 1), (2, 1), (255, 255)):
        made = [patch_frame(second, first, depth=depths[0]), patch_frame(first, second, depth=depths[1])]
        objects = store_of(build_pack(made))
        for one in made:
            with pytest.raises(CorruptionError, match=r"does not lie at a smaller depth \(I7\)$"):
                objects.read_tree(one.object_id)


def test_i7_no_chunk_is_a_concat_and_no_base_is_one() -> None:
    inner = concat_frame(b"abc", b"de")
    outer = concat_frame(inner.content, b"more")
    based = patch_frame(inner.content, b"new", Kind.BLOB)
    objects = store_of(build_pack([inner, outer, based, Frame(b"abc"), Frame(b"de"), Frame(b"more")]))
    for one in (outer, based):
        with pytest.raises(CorruptionError, match=r"\(I7\)$"):
            objects.read(one.object_id)
    assert objects.read(inner.object_id) == b"abcde"


def test_headers_of_stored_frames_are_those_of_the_spec(store: SmallStore) -> None:
    saved = store.save({"a": b"1"})
    transport: Transport = store.transport
    data = transport.get(pack_key(saved.record.locator.pack))
    assert data[: HEADER.size][:8] == b"RPLPACK\x01"
    for place in store.locations(saved):
        assert data[place.entry.offset :][:4] == b"OBJ1"
        assert place.entry.length >= FRAME.size
