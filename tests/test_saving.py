"""Saves, and the invariants of SPEC §2 that they keep: what is written, in which order, and what it relies on."""

from __future__ import annotations

import gc
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.errors import CorruptionError, InvalidInputError, StorageError
from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.refs import CommitRecord
from replicate.repository import MARKER_KEY
from replicate.saving import Saved
from replicate.transport import KeyInfo, LocalTransport
from tests.projects import Content, SampleProject, check_store, read_folder, reads_everything, store_files

MIB = 1 << 20


class Recording(LocalTransport):
    """A store that remembers what was put, and which prefixes were listed, in order."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, durability="fast")
        self.done: list[tuple[str, str]] = []
        self.put_bytes: dict[str, bytes] = {}

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """Remember the key; its bytes may not differ from those that it had (I0)."""
        assert not replace
        assert self.put_bytes.setdefault(key, bytes(data)) == data
        self.done.append(("put", key))
        super().put(key, data)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """Remember the prefix."""
        self.done.append(("list", prefix))
        return super().list(prefix)


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    found = SampleProject(tmp_path / "w")
    found.write("train.py", "1")
    found.write("data/a", "a" * 1_000)
    return found


def write_version(project: SampleProject, version: int) -> dict[bytes, Content]:
    """Change some files, small and large, and return what there is now."""
    project.write("train.py", f"{version}")
    project.write(f"data/new-{version}", f"{version}" * 100)
    project.write("weights", os.urandom(6 * MIB) if version % 2 else os.urandom(100))
    (project.root / "data" / "link").unlink(missing_ok=True)
    (project.root / "data" / "link").symlink_to(f"new-{version}")
    return read_folder(project.root)


def saved_versions(project: SampleProject, count: int) -> list[tuple[CommitRecord, dict[bytes, Content]]]:
    """Save so many versions; return their records with what the worktree held."""
    session = project.begin()
    found = []
    for version in range(count):
        content = write_version(project, version)
        found.append((project.save(session).base.record, content))
    session.end("finished")
    return found


def check(project: SampleProject, record: CommitRecord, content: dict[bytes, Content]) -> None:
    target = project.root.parent / "out"
    project.restore(record, target)
    assert read_folder(target) == content
    shutil.rmtree(target)


# -- what a save tells ----------------------------------------------------------------------------------------------


def test_a_save_counts_its_files_and_bytes(project: SampleProject) -> None:
    session = project.begin()
    project.write("new", "12345")
    (project.root / "link").symlink_to("new")
    saved = project.save(session)
    assert (saved.files, saved.size_bytes) == (3, 1_006)
    assert 5 <= saved.new_bytes <= 10
    assert saved.duration_ns > 0
    record = saved.base.record
    assert (record.files, record.bytes, record.new_bytes) == (3, 1_006, saved.new_bytes)


def test_content_that_the_store_holds_is_not_new(project: SampleProject) -> None:
    session = project.begin()
    project.write("copy", "a" * 1_000)
    assert project.save(session).new_bytes == 0


def test_progress_is_told_for_what_is_read(project: SampleProject) -> None:
    session = project.begin()
    project.settle()
    project.save(session)
    project.events.tasks.clear()
    project.write("new", "x" * 10)
    project.save(session)
    project.save(session, ())
    assert [task for task, _, _ in project.events.tasks].count("saving") >= 1
    assert project.events.tasks[0] == ("saving", 1, 10)


# -- I0, I1: write once, in order -----------------------------------------------------------------------------------


def test_i0_a_key_is_never_put_with_other_bytes(tmp_path: Path) -> None:
    transport = Recording(tmp_path / "w" / ".replicate")
    project = SampleProject(tmp_path / "w", transport=transport)
    saved_versions(project, 5)
    saved_versions(project, 3)
    keys = [key for verb, key in transport.done if verb == "put"]
    keys.remove(MARKER_KEY)  # every session makes sure that it is durable; `Recording` compares the bytes
    assert len(keys) == len(set(keys))


def test_i1_a_key_is_put_after_every_key_that_it_names(tmp_path: Path) -> None:
    transport = Recording(tmp_path / "w" / ".replicate")
    project = SampleProject(tmp_path / "w", transport=transport)
    saved_versions(project, 5)
    put: set[str] = set()
    records = {record.name.key: record for record in project.open().refs.list()}
    for verb, key in transport.done:
        if verb != "put":
            continue
        record = records.get(key)
        if isinstance(record, CommitRecord):
            needed = {pack_key(pack) for pack in project.open().refs.read_packset(record.packset)}
            assert needed <= put
            assert set(map(pack_key, record.meta)) <= needed
        put.add(key)


def test_i1_the_meta_pack_is_the_last_pack_of_a_save(tmp_path: Path) -> None:
    transport = Recording(tmp_path / "w" / ".replicate")
    project = SampleProject(tmp_path / "w", transport=transport)
    session = project.begin()
    project.write("weights", os.urandom(80 * MIB))
    transport.done.clear()
    record = project.save(session).base.record
    keys = [key for verb, key in transport.done if verb == "put"]
    assert keys[-1] == record.name.key
    assert keys[-2] == pack_key(record.locator.pack)
    assert len(keys) == 5
    assert all(key.startswith("packs/") for key in keys[:-1])


def test_i3_plans_are_looked_for_right_before_the_record_is_put(tmp_path: Path) -> None:
    transport = Recording(tmp_path / "w" / ".replicate")
    project = SampleProject(tmp_path / "w", transport=transport)
    session = project.begin()
    project.write("train.py", "2")
    transport.done.clear()
    record = project.save(session).base.record
    at = transport.done.index(("put", record.name.key))
    assert transport.done[at - 1] == ("list", "ctl/")


# -- I4, I5: what is derived, and what suffices ---------------------------------------------------------------------


def test_i4_everything_else_may_be_deleted(project: SampleProject) -> None:
    versions = saved_versions(project, 3)
    for name in os.listdir(project.store):
        if name not in ("packs", "refs", "ctl"):
            path = project.store / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for record, content in versions:
        check(project, record, content)
    session = project.resume()
    content = write_version(project, 3)
    check(project, project.save(session).base.record, content)


def test_i4_unknown_top_level_names_are_ignored_and_kept(project: SampleProject) -> None:
    (project.store / "future").mkdir(parents=True)
    (project.store / "future" / "file").write_text("x")
    (project.store / "note.txt").write_text("x")
    for record, content in saved_versions(project, 2):
        check(project, record, content)
    assert (project.store / "future" / "file").read_text() == "x"
    assert (project.store / "note.txt").read_text() == "x"


def test_i5_the_packset_of_a_commit_suffices_to_restore_it(project: SampleProject, tmp_path: Path) -> None:
    versions = saved_versions(project, 25)
    for number, (record, content) in enumerate(versions):
        copy = SampleProject(tmp_path / f"copy-{number}" / "w")
        for key in [pack_key(pack) for pack in project.open().refs.read_packset(record.packset)] + [record.name.key]:
            (copy.store / key).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project.store / key, copy.store / key)
        (copy.store / "ctl").mkdir()
        shutil.copy(project.store / "ctl" / "v1", copy.store / "ctl" / "v1")
        (found,) = copy.open().refs.list()
        assert isinstance(found, CommitRecord)
        check(copy, found, content)
        shutil.rmtree(tmp_path / f"copy-{number}")


def test_a_store_that_was_copied_is_the_same_store(project: SampleProject, tmp_path: Path) -> None:
    versions = saved_versions(project, 3)
    copy = SampleProject(tmp_path / "elsewhere" / "w")
    shutil.copytree(project.root, copy.root, symlinks=True, dirs_exist_ok=True)
    for record, content in versions:
        check(copy, record, content)
    session = copy.resume()
    content = write_version(copy, 3)
    check(copy, copy.save(session).base.record, content)


def test_the_union_of_two_stores_is_a_store(project: SampleProject, tmp_path: Path) -> None:
    other = SampleProject(tmp_path / "other" / "w")
    versions = saved_versions(project, 3) + saved_versions(other, 3)
    for path in store_files(other.store):
        target = project.store / path.relative_to(other.store)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(path, target)
    assert len(project.history().experiments) == 2
    for record, content in versions:
        check(project, record, content)
    session = project.resume()
    content = write_version(project, 3)
    check(project, project.save(session).base.record, content)


def test_a_long_history_restores_at_every_point(project: SampleProject) -> None:
    project.write(".replicateignore", "weights\n")
    for number in range(150):
        project.write(f"many/f{number:03}", f"{number}")
    session = project.begin()
    versions: list[tuple[Saved, dict[bytes, Content]]] = []
    for number in range(60):
        project.write(f"many/f{number * 7 % 150:03}", f"changed {number}")
        if number % 9 == 0:
            (project.root / "many" / f"f{number:03}").unlink(missing_ok=True)
        versions.append((project.save(session), read_folder(project.root)))
        if number % 20 == 19:
            session.end("finished")
            session = project.resume()
    for saved, content in versions:
        check(project, saved.base.record, content)


# -- damage to what a save relies on --------------------------------------------------------------------------------


def packs_of(project: SampleProject) -> list[Path]:
    return sorted(store_files(project.store, "packs"), key=lambda path: path.stat().st_size)


def test_what_is_damaged_is_stored_again_by_a_save_of_the_whole_worktree(project: SampleProject) -> None:
    project.write("weights", os.urandom(6 * MIB))
    session = project.begin()
    project.settle()
    pack = packs_of(project)[-1]
    data = pack.read_bytes()
    pack.unlink()
    pack.write_bytes(data[:-1000])
    saved = project.save(session)
    assert saved.new_bytes >= 6 * MIB
    check(project, saved.base.record, read_folder(project.root))


def test_what_is_gone_is_stored_again_by_a_save_of_the_whole_worktree(project: SampleProject) -> None:
    project.write("weights", os.urandom(6 * MIB))
    session = project.begin()
    project.settle()
    for pack in packs_of(project):
        pack.unlink()
    check(project, project.save(session).base.record, read_folder(project.root))


def test_what_is_gone_cannot_be_kept_and_nothing_is_saved(project: SampleProject) -> None:
    weights = os.urandom(6 * MIB)
    project.write("weights", weights)
    session = project.begin()
    packs_of(project)[-1].unlink()
    for path in ("train.py", ()):
        with pytest.raises(CorruptionError) as raised:
            project.save(session, path)
        told = r"(weights|data/a|train\.py) cannot be kept from the last save: [0-9a-f]{64} is damaged or gone"
        assert re.fullmatch(told, raised.value.message)
        assert raised.value.hint == "save the whole worktree: checkpoint() without a path"
    assert project.experiment().checkpoints == ()
    check(project, project.save(session).base.record, read_folder(project.root))


def test_a_named_path_replaces_what_is_gone(project: SampleProject) -> None:
    project.write("weights", os.urandom(6 * MIB))
    session = project.begin()
    packs_of(project)[-1].unlink()
    check(project, project.save(session, ["weights", "data", "train.py"]).base.record, read_folder(project.root))


def test_objects_of_an_abandoned_save_are_not_relied_on_unchecked(project: SampleProject) -> None:
    session = project.begin()
    project.write("weights", os.urandom(6 * MIB))
    refs = project.store / "refs"
    refs.rename(project.store / "refs-before")
    refs.write_text("in the way")
    with pytest.raises(StorageError):
        project.save(session)
    refs.unlink()
    (project.store / "refs-before").rename(refs)
    packs = packs_of(project)
    saved = project.save(session)
    assert saved.new_bytes < MIB, "what the failed save stored is used"
    assert packs[-1].name in {pack.hex() for pack in saved.base.stored.packset}
    check(project, saved.base.record, read_folder(project.root))


def test_a_record_that_cannot_be_read_is_left_out_and_saving_goes_on(project: SampleProject) -> None:
    session = project.begin()
    record = project.save(session).base.record
    session.end("finished")
    path = project.store / record.name.key
    path.unlink()
    path.write_bytes(b"torn")
    assert project.history().experiments[0].checkpoints == ()
    session = project.resume()
    content = write_version(project, 1)
    check(project, project.save(session).base.record, content)
    assert [one.commit.seq for one in project.history().experiments[0].checkpoints] == [1]


# -- places ---------------------------------------------------------------------------------------------------------


def test_a_project_may_lie_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / os.fsdecode(b"\xff\n") / "w")
    for record, content in saved_versions(project, 2):
        check(project, record, content)
    assert project.open().read_head() is not None
    session = project.resume()
    assert project.save(session, project.root / "weights").new_bytes == 0


@pytest.mark.skipif(reads_everything(), reason="permissions mean nothing to this user, who is root")
def test_a_store_that_may_not_be_written_is_still_read(project: SampleProject, tmp_path: Path) -> None:
    ((record, content),) = saved_versions(project, 1)
    folders = [path for path in [project.store, *project.store.rglob("*")] if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert len(project.experiment().checkpoints) == 1
        check(project, record, content)
        with pytest.raises(StorageError, match="Permission denied"):
            project.begin()
    finally:
        for folder in folders:
            folder.chmod(0o755)


def open_files() -> int:
    """Return how many files this process has open, or 0 where nothing tells."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_saving_leaves_no_thread_and_no_open_file(project: SampleProject) -> None:
    session = project.begin()
    write_version(project, 1)
    project.save(session)
    threads, files = threading.active_count(), open_files()
    for version in range(5):
        write_version(project, version)
        project.save(session)
        with pytest.raises(InvalidInputError):
            project.save(session, "missing")
    assert threading.active_count() <= threads
    assert open_files() <= files


def test_ids_depend_on_content_only(project: SampleProject, tmp_path: Path) -> None:
    other = SampleProject(tmp_path / "other")
    for name in ("train.py", "data/a"):
        other.write(name, (project.root / name).read_bytes())
    trees: list[ObjectID] = []
    for one in (project, other):
        session = one.begin()
        trees.append(one.save(session).base.record.commit.tree)
    assert trees[0] == trees[1]
    assert isinstance(project.history(), History)


def test_caches_that_are_deleted_while_a_session_runs_are_made_again(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    session = project.begin()

    def delete() -> None:
        for path in (project.store / "local/cache").rglob("*.db"):
            path.unlink()

    delete()
    project.write("a", "1")
    project.save(session)
    delete()
    saved = project.save(session, (), metrics={"loss": 0.5})
    assert saved.files == 1
    delete()
    project.write("b", "2")
    project.save(session)
    check_store(project.store)
