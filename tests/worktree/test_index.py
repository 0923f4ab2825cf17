"""The stat cache: when it is trusted, and that it never outweighs the files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from replicate.objects.ids import ObjectID, blob_id
from replicate.worktree.index import FINE_GRAIN_NS, Index, Stat
from replicate.worktree.times import WorktreeClock
from tests.projects import SampleProject, read_folder

NOW = 1_700_000_000_000_000_000
BLOB = blob_id(b"content")
SETTLED = Stat(7, NOW - 2 * FINE_GRAIN_NS, NOW - 2 * FINE_GRAIN_NS, 12, 34)


def indexed(path: Path | None = None, stat: Stat = SETTLED, name: bytes = b"a") -> Index:
    """Return an index that read one file at NOW."""
    index = Index(None if path is None else str(path))
    index.update(name, stat, BLOB, read_at_ns=NOW, grain_ns=FINE_GRAIN_NS)
    return index


def known(index: Index, stat: Stat, name: bytes = b"a") -> ObjectID | None:
    """Return what the index says of a file with this stat; of a stat result it says the same."""
    seconds = (0, stat.mtime_ns // 10**9, stat.ctime_ns // 10**9)
    result = os.stat_result(
        (0o100644, stat.ino, stat.dev, 1, 0, 0, stat.size, *seconds),
        {"st_mtime_ns": stat.mtime_ns, "st_ctime_ns": stat.ctime_ns},
    )
    assert index.lookup(name, result) == index.lookup_stat(name, stat)
    return index.lookup(name, result)


# -- the trust rule -------------------------------------------------------------------------------------------------


def test_an_equal_stat_proves_the_blob() -> None:
    assert known(indexed(), SETTLED) == BLOB


@pytest.mark.parametrize("field", Stat._fields)
def test_a_stat_that_differs_in_anything_proves_nothing(field: str) -> None:
    other = SETTLED._replace(**{field: getattr(SETTLED, field) + 1})
    assert known(indexed(), other) is None


def test_a_path_that_was_never_read_is_not_known() -> None:
    assert known(indexed(), SETTLED, b"b") is None


# -- the racy rule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["mtime_ns", "ctime_ns"])
@pytest.mark.parametrize("age_ns", [-(10**9), 0, FINE_GRAIN_NS])
def test_a_file_that_changed_within_a_grain_of_its_reading_is_not_trusted(field: str, age_ns: int) -> None:
    stat = SETTLED._replace(**{field: NOW - age_ns})
    assert known(indexed(stat=stat), stat) is None


def test_a_file_that_changed_more_than_a_grain_before_its_reading_is_trusted() -> None:
    stat = SETTLED._replace(mtime_ns=NOW - FINE_GRAIN_NS - 1, ctime_ns=NOW - FINE_GRAIN_NS - 1)
    assert known(indexed(stat=stat), stat) == BLOB


def test_a_racy_entry_is_kept_and_stays_racy_after_reopening(tmp_path: Path) -> None:
    stat = SETTLED._replace(mtime_ns=NOW)
    indexed(tmp_path / "index.db", stat).save()
    again = Index(str(tmp_path / "index.db"))
    assert len(again) == 1
    assert known(again, stat) is None


def test_a_racy_file_is_read_once_more_and_then_trusted(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("old", "1")
    project.settle()
    session = project.begin()
    changed = project.write("new", "2").stat().st_mtime_ns
    with monkeypatch.context() as patched:  # however slow this machine is, the file is read when it has just changed
        patched.setattr(WorktreeClock, "read", lambda clock: (changed, FINE_GRAIN_NS))
        project.save(session)
    project.settle()
    counts = []
    for _ in range(3):
        opened.clear()
        project.save(session)
        counts.append([os.path.basename(path) for path in opened])
    assert counts == [["new"], [], []]


def test_a_rewrite_within_one_tick_of_the_clock_is_detected(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    path = project.write("a", "0000")
    session = project.begin()
    for number in range(1, 60):
        with open(path, "r+b") as file:
            file.write(b"%04d" % number)
        saved = project.save(session)
        assert saved.new_bytes == 4, f"save {number} did not see the change"


def test_a_rewrite_that_restores_size_and_mtime_is_detected(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    path = project.write("a", "before")
    project.settle()
    session = project.begin()
    info = path.stat()
    path.write_bytes(b"behind")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    saved = project.save(session)
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == {b"a": ("file", b"behind")}


def test_a_file_that_another_replaced_is_read_even_if_size_and_mtime_are_equal(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    path = project.write("a", "before")
    project.settle()
    session = project.begin()
    info = path.stat()
    other = project.write("b", "behind")
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.rename(path)
    project.restore(project.save(session), tmp_path / "out")
    assert read_folder(tmp_path / "out") == {b"a": ("file", b"behind")}


# -- the file -------------------------------------------------------------------------------------------------------


def test_what_was_saved_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "index.db"
    index = indexed(path)
    index.update(b"/elsewhere/\xff", SETTLED, BLOB, read_at_ns=NOW, grain_ns=FINE_GRAIN_NS)
    index.save()
    again = Index(str(path))
    assert known(again, SETTLED) == BLOB
    assert known(again, SETTLED, b"/elsewhere/\xff") == BLOB


def test_what_was_forgotten_is_gone_after_reopening(tmp_path: Path) -> None:
    index = indexed(tmp_path / "index.db")
    index.save()
    index.forget(b"a")
    index.save()
    assert len(Index(str(tmp_path / "index.db"))) == 0


def test_keeping_some_paths_drops_the_others_but_not_those_from_elsewhere() -> None:
    index = indexed()
    for name in (b"b", b"/elsewhere/c"):
        index.update(name, SETTLED, BLOB, read_at_ns=NOW, grain_ns=FINE_GRAIN_NS)
    index.keep_only([b"b"])
    assert [known(index, SETTLED, name) for name in (b"a", b"b", b"/elsewhere/c")] == [None, BLOB, BLOB]


def test_an_index_without_a_file_stays_in_memory() -> None:
    index = indexed()
    index.save()
    assert known(index, SETTLED) == BLOB


@pytest.mark.parametrize("inode", [1 << 63, (1 << 64) - 1])
def test_inodes_of_64_bits_are_kept(tmp_path: Path, inode: int) -> None:
    stat = SETTLED._replace(ino=inode, dev=inode)
    indexed(tmp_path / "index.db", stat).save()
    assert known(Index(str(tmp_path / "index.db")), stat) == BLOB


@pytest.mark.parametrize("mtime_ns", [-(10**18), 10**19, 1 << 64])
def test_a_file_dated_before_1970_or_after_2262_does_no_harm(tmp_path: Path, mtime_ns: int) -> None:
    stat = SETTLED._replace(mtime_ns=mtime_ns)
    index = indexed(tmp_path / "index.db", stat)
    index.update(b"b", SETTLED, BLOB, read_at_ns=NOW, grain_ns=FINE_GRAIN_NS)
    index.save()
    again = Index(str(tmp_path / "index.db"))
    assert known(again, SETTLED, b"b") == BLOB
    assert known(again, stat) in (BLOB, None)


def test_a_project_with_a_file_from_the_far_future_is_saved(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    path = project.write("a", "x")
    os.utime(path, ns=(10**19, 10**19))
    saved = project.save(project.begin())
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == {b"a": ("file", b"x")}


# -- damage ---------------------------------------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _page_overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(data)


def _other_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE files (name TEXT)")
        db.execute("INSERT INTO files VALUES ('a')")
        db.execute("PRAGMA user_version = 1")
    db.close()


def _newer_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()


def _other_types(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE files SET id = 'text', ino = 7")
    db.close()


def _short_ids(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE files SET id = x'00'")
    db.close()


DAMAGES = [
    _garbage,
    _cut_short,
    _emptied,
    _page_overwritten,
    _other_schema,
    _newer_version,
    _other_types,
    _short_ids,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_empty_index_and_is_built_again(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "index.db"
    indexed(path).save()
    assert callable(damage)
    damage(path)
    index = Index(str(path))
    assert known(index, SETTLED) is None
    index.update(b"b", SETTLED, BLOB, read_at_ns=NOW, grain_ns=FINE_GRAIN_NS)
    index.save()
    assert known(Index(str(path)), SETTLED, b"b") == BLOB


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_of_a_worktree_costs_time_only(tmp_path: Path, damage: object) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("a", "1")
    project.write("d/b", "2")
    project.begin().end("finished")
    (path,) = (project.store / "local").rglob("index.db")
    assert callable(damage)
    damage(path)
    saved = project.save(project.resume())
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(project.root)
    assert saved.new_bytes == 0


def test_an_index_that_names_a_wrong_blob_for_a_settled_file_is_what_deleting_it_heals(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("a", "1")
    project.settle()
    session = project.begin()
    session.end("finished")
    (path,) = (project.store / "local").rglob("index.db")
    path.unlink()
    saved = project.save(project.resume())
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == {b"a": ("file", b"1")}
