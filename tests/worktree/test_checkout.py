"""Writing a commit's files into a folder: what is written, what is refused, what is left alone."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    ObjectNotFoundError,
    PathNotFoundError,
    StorageError,
    WorktreeModifiedError,
)
from replicate.saving import Saved
from tests.projects import SampleProject, make_deep, paths_of, read_folder, reads_everything, remove_deep

needs_permissions = pytest.mark.skipif(reads_everything(), reason="permissions mean nothing to this user, who is root")


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "w")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


def saved_once(project: SampleProject) -> Saved:
    """Save the project as one checkpoint."""
    return project.save(project.begin())


def temporary_files(folder: Path) -> list[str]:
    return [path for path in paths_of(folder) if ".replicate-tmp-" in path]


# -- what comes back ------------------------------------------------------------------------------------------------


def test_types_exec_bits_links_and_empty_folders_come_back(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    project.write("d/run.sh", "#!/bin/sh\n", executable=True)
    project.write(b"\xff\xfe/\n", "bytes")
    (project.root / "empty" / "below").mkdir(parents=True)
    (project.root / "link").symlink_to("d/run.sh")
    (project.root / "d" / "up").symlink_to("..")
    (project.root / "dangling").symlink_to(os.fsdecode(b"no\xffwhere"))
    project.restore(saved_once(project), target)
    assert read_folder(target) == read_folder(project.root)
    assert os.access(target / "d" / "run.sh", os.X_OK)


def test_an_empty_worktree_comes_back_as_an_empty_folder(project: SampleProject, target: Path) -> None:
    project.restore(saved_once(project), target)
    assert read_folder(target) == {}


def test_the_target_and_the_folders_above_it_are_created(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    project.restore(saved_once(project), target / "x" / "y")
    assert read_folder(target) == {
        b"x": ("folder", b""),
        b"x/y": ("folder", b""),
        b"x/y/a": ("file", b"1"),
    }


def test_equal_files_in_many_places_come_back_everywhere(project: SampleProject, target: Path) -> None:
    for name in ("a", "b", "d/c"):
        project.write(name, "same")
    for name in ("large-1", "large-2"):
        project.write(name, b"x" * (5 << 20))
    project.restore(saved_once(project), target)
    assert read_folder(target) == read_folder(project.root)


@pytest.fixture
def deep(project: SampleProject, target: Path) -> Iterator[None]:
    """Remove what pytest could not."""
    yield
    for folder in (project.root, target):
        if folder.exists():
            remove_deep(folder)


@pytest.mark.usefixtures("deep")
def test_folders_nested_to_the_limit_come_back(project: SampleProject, target: Path) -> None:
    for name in ("d", "e"):
        make_deep(project.root, name, 999)
        (project.root / "/".join([name] * 999) / "a").write_text(name)
    saved = saved_once(project)
    project.save(project.resume())
    project.restore(saved, target)
    assert read_folder(target) == read_folder(project.root)
    assert len(read_folder(target)) == 2_000


@pytest.mark.usefixtures("deep")
def test_folders_nested_beyond_the_limit_are_refused(project: SampleProject) -> None:
    make_deep(project.root, "d", 1_001)
    with pytest.raises(InvalidInputError) as raised:
        saved_once(project)
    assert raised.value.message == f"{'d/' * 50}… is nested deeper than 1,000 folders"


def test_the_users_mask_decides_who_may_read(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    project.write("run", "1", executable=True)
    saved = saved_once(project)
    before = os.umask(0o027)
    try:
        project.restore(saved, target)
    finally:
        os.umask(before)
    assert (target / "a").stat().st_mode & 0o777 == 0o640
    assert (target / "run").stat().st_mode & 0o777 == 0o750


# -- what is left alone ---------------------------------------------------------------------------------------------


def test_equal_files_are_not_touched(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    project.write("run", "1", executable=True)
    (project.root / "link").symlink_to("a")
    saved = saved_once(project)
    project.restore(saved, target)
    for name in ("a", "run", "link"):
        os.utime(target / name, ns=(10**18, 10**18), follow_symlinks=False)
    before = {name: (target / name).lstat() for name in ("a", "run", "link")}
    assert project.restore(saved, target).written == 0
    after = {name: (target / name).lstat() for name in before}
    assert [info.st_mtime_ns for info in after.values()] == [10**18] * 3
    assert [info.st_ino for info in after.values()] == [info.st_ino for info in before.values()]


def test_equal_files_are_not_touched_when_others_are_written(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    project.write("b", "1")
    session = project.begin()
    first = project.save(session)
    project.write("b", "2")
    second = project.save(session)
    project.restore(first, target)
    os.utime(target / "a", ns=(10**18, 10**18))
    assert project.restore(second, target).written == 1
    assert (target / "a").stat().st_mtime_ns == 10**18
    assert (target / "b").read_text() == "2"


def test_other_files_of_the_target_stay(project: SampleProject, target: Path) -> None:
    project.write("d/a", "1")
    saved = saved_once(project)
    (target / "d").mkdir(parents=True)
    (target / "d" / "mine").write_text("x")
    project.restore(saved, target)
    assert paths_of(target) == {"d", "d/a", "d/mine"}


def test_a_file_of_another_exec_bit_gets_the_saved_one(project: SampleProject, target: Path) -> None:
    project.write("a", "1", executable=True)
    saved = saved_once(project)
    project.restore(saved, target)
    (target / "a").chmod(0o644)
    project.restore(saved, target)
    assert read_folder(target) == {b"a": ("executable", b"1")}


def test_another_name_of_a_file_that_is_replaced_keeps_its_bytes(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("a", "2")
    project.save(session)
    os.link(project.root / "a", project.root / "b")
    project.restore(first, project.root)
    assert (project.root / "a").read_text() == "1"
    assert (project.root / "b").read_text() == "2"


# -- what is refused ------------------------------------------------------------------------------------------------


def test_unsaved_bytes_are_not_overwritten_and_nothing_is_written(project: SampleProject) -> None:
    for name in ("a", "b", "c"):
        project.write(name, "1")
    session = project.begin()
    first = project.save(session)
    for name in ("a", "b", "c"):
        project.write(name, "2")
    project.save(session)
    project.write("b", "not saved")
    with pytest.raises(WorktreeModifiedError) as raised:
        project.restore(first, project.root)
    assert str(raised.value) == (
        "b has changes that are in no checkpoint; nothing was written "
        "(hint: save them with `replicate checkpoint --name before`, "
        "restore elsewhere with -o DIR, or overwrite with -f)"
    )
    assert raised.value.paths == ("b",)
    assert {name: (project.root / name).read_text() for name in "abc"} == {"a": "2", "b": "not saved", "c": "2"}


def test_of_many_unsaved_files_three_are_told(project: SampleProject) -> None:
    for number in range(5):
        project.write(f"f{number}", "1")
    saved = saved_once(project)
    for number in range(5):
        project.write(f"f{number}", "not saved")
    with pytest.raises(WorktreeModifiedError) as raised:
        project.restore(saved, project.root)
    assert raised.value.message == ("f0, f1, f2 and 2 more have changes that are in no checkpoint; nothing was written")
    assert raised.value.paths == ("f0", "f1", "f2", "f3", "f4")


def test_bytes_that_are_in_another_checkpoint_are_overwritten(project: SampleProject) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("a", "2")
    project.save(session)
    project.restore(first, project.root)
    assert (project.root / "a").read_text() == "1"


def test_bytes_that_only_a_save_that_failed_stored_are_not_overwritten(project: SampleProject) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("a", "2")
    with pytest.raises(ValueError, match="params, metrics and the like"):
        project.save(session, metrics={"text": "x" * 60_000})
    with pytest.raises(WorktreeModifiedError):
        project.restore(first, project.root)
    assert (project.root / "a").read_text() == "2"


def test_force_overwrites_unsaved_bytes(project: SampleProject) -> None:
    project.write("a", "1")
    saved = saved_once(project)
    project.write("a", "not saved")
    project.restore(saved, project.root, force=True)
    assert (project.root / "a").read_text() == "1"


def test_an_unsaved_link_is_not_overwritten(project: SampleProject) -> None:
    project.write("a", "1")
    saved = saved_once(project)
    (project.root / "a").unlink()
    (project.root / "a").symlink_to("elsewhere")
    with pytest.raises(WorktreeModifiedError):
        project.restore(saved, project.root)
    project.restore(saved, project.root, force=True)
    assert read_folder(project.root) == {b"a": ("file", b"1")}


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_where_a_file_is_wanted_is_never_replaced(project: SampleProject, target: Path, force: bool) -> None:
    project.write("a", "1")
    project.write("z", "1")
    saved = saved_once(project)
    (target / "z").mkdir(parents=True)
    with pytest.raises(ConflictError) as raised:
        project.restore(saved, target, force=force)
    assert str(raised.value) == (
        f"{target}/z is a folder where the checkpoint has a file; nothing was written "
        "(hint: move it away, or restore elsewhere with -o DIR)"
    )
    assert paths_of(target) == {"z"}


def test_a_socket_where_a_file_is_wanted_is_never_replaced(
    project: SampleProject, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("a", "1")
    saved = saved_once(project)
    target.mkdir()
    monkeypatch.chdir(target)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("a")
    with pytest.raises(ConflictError) as raised:
        project.restore(saved, target, force=True)
    assert raised.value.message == (
        f"{target}/a is a device, pipe or socket where the checkpoint has a file; nothing was written"
    )


def test_a_target_that_is_a_file_is_refused(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    saved = saved_once(project)
    target.write_text("x")
    with pytest.raises(StorageError) as raised:
        project.restore(saved, target)
    assert raised.value.message == f"cannot write into {target}: File exists"
    assert target.read_text() == "x"


def test_a_target_below_which_paths_are_too_long_is_refused_and_nothing_is_written(
    project: SampleProject, target: Path
) -> None:
    project.write("/".join(["d" * 200] * 12), "1")
    saved = saved_once(project)
    deep = target / "/".join(["t" * 200] * 10)
    deep.mkdir(parents=True)
    with pytest.raises(StorageError) as raised:
        project.restore(saved, deep)
    assert raised.value.message.startswith(f"cannot look at {target}/ttt")
    assert raised.value.message.endswith(": File name too long")
    assert list(deep.iterdir()) == []


# -- files where folders are wanted, and the reverse ----------------------------------------------------------------


def test_a_saved_file_where_a_folder_is_wanted_makes_room(project: SampleProject) -> None:
    project.write("x/a", "1")
    session = project.begin()
    first = project.save(session)
    (project.root / "x" / "a").unlink()
    (project.root / "x").rmdir()
    project.write("x", "a file now")
    project.save(session)
    project.restore(first, project.root)
    assert read_folder(project.root) == {b"x": ("folder", b""), b"x/a": ("file", b"1")}


def test_an_unsaved_file_where_a_folder_is_wanted_is_kept(project: SampleProject) -> None:
    project.write("x/a", "1")
    saved = saved_once(project)
    (project.root / "x" / "a").unlink()
    (project.root / "x").rmdir()
    project.write("x", "not saved")
    with pytest.raises(WorktreeModifiedError):
        project.restore(saved, project.root)
    assert (project.root / "x").read_text() == "not saved"


@pytest.mark.parametrize("elsewhere", ["1", "other", None])
def test_a_link_where_a_folder_is_wanted_is_replaced_and_what_it_leads_to_is_left_alone(
    project: SampleProject, tmp_path: Path, elsewhere: str | None
) -> None:
    project.write("x/a", "1")
    saved = saved_once(project)
    (tmp_path / "elsewhere").mkdir()
    if elsewhere is not None:
        (tmp_path / "elsewhere" / "a").write_text(elsewhere)
    (project.root / "x" / "a").unlink()
    (project.root / "x").rmdir()
    (project.root / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorktreeModifiedError) as raised:
        project.restore(saved, project.root)
    assert raised.value.paths == ("x",)
    project.restore(saved, project.root, force=True)
    assert read_folder(project.root) == {b"x": ("folder", b""), b"x/a": ("file", b"1")}
    left = {b"a": ("file", elsewhere.encode())} if elsewhere is not None else {}
    assert read_folder(tmp_path / "elsewhere") == left


def test_a_link_above_the_target_is_followed(project: SampleProject, tmp_path: Path) -> None:
    project.write("a", "1")
    saved = saved_once(project)
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    project.restore(saved, tmp_path / "alias")
    assert read_folder(tmp_path / "real") == {b"a": ("file", b"1")}


def test_a_saved_link_to_a_folder_comes_back_in_place_of_nothing_that_it_leads_to(
    project: SampleProject, target: Path
) -> None:
    project.write("d/a", "1")
    (project.root / "link").symlink_to("d")
    saved = saved_once(project)
    project.restore(saved, target)
    (target / "d" / "a").unlink()
    project.restore(saved, target)
    assert read_folder(target) == read_folder(project.root)


# -- exact ----------------------------------------------------------------------------------------------------------


def test_exact_removes_saved_extras_and_emptied_folders(project: SampleProject) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("extra/deep/b", "2")
    (project.root / "extra" / "link").symlink_to("b")
    project.save(session)
    assert project.restore(first, project.root, exact=True).removed == 4
    assert read_folder(project.root) == {b"a": ("file", b"1")}


def test_exact_refuses_to_remove_unsaved_extras_and_removes_nothing(project: SampleProject) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("b", "saved")
    project.save(session)
    project.write("c", "not saved")
    with pytest.raises(WorktreeModifiedError) as raised:
        project.restore(first, project.root, exact=True)
    assert raised.value.paths == ("c",)
    assert paths_of(project.root) == {"a", "b", "c"}
    project.restore(first, project.root, exact=True, force=True)
    assert paths_of(project.root) == {"a"}


def test_exact_keeps_what_is_ignored_and_the_folders_that_hold_it(project: SampleProject) -> None:
    project.write(".replicateignore", "*.log\n")
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("extra/b", "2")
    project.save(session)
    project.write("extra/c.log", "")
    project.write(".env", "secret")
    project.write("__pycache__/m.pyc", "")
    project.restore(first, project.root, exact=True)
    assert paths_of(project.root) == {
        ".replicateignore",
        "a",
        "extra",
        "extra/c.log",
        ".env",
        "__pycache__",
        "__pycache__/m.pyc",
    }


def test_exact_never_follows_links_out_of_the_target(project: SampleProject, tmp_path: Path) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    (project.root / "link").symlink_to(outside)
    project.save(session)
    project.restore(first, project.root, exact=True)
    assert paths_of(project.root) == {"a"}
    assert (outside / "keep").read_text() == "x"


def test_exact_never_removes_the_store(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w", store=tmp_path / "w" / "data" / "store")
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("data/b", "2")
    project.save(session)
    project.restore(first, project.root, exact=True)
    assert not (project.root / "data" / "b").exists()
    assert project.store.is_dir()
    project.restore(first, tmp_path / "again")


# -- paths ----------------------------------------------------------------------------------------------------------


def test_only_the_named_paths_and_what_is_below_them_are_restored(project: SampleProject, target: Path) -> None:
    for name in ("a", "d/b", "d/e/c", "f/g"):
        project.write(name, name)
    (project.root / "d" / "empty").mkdir()
    project.restore(saved_once(project), target, paths=[b"d", b"f/g"])
    assert paths_of(target) == {"d", "d/b", "d/e", "d/e/c", "d/empty", "f", "f/g"}


def test_a_named_path_that_the_checkpoint_lacks_is_an_error_and_nothing_is_written(
    project: SampleProject, target: Path
) -> None:
    project.write("d/a", "1")
    saved = saved_once(project)
    for missing in (b"b", b"d/a/x", b"d/b"):
        with pytest.raises(PathNotFoundError) as raised:
            project.restore(saved, target, paths=[b"d/a", missing])
        assert str(raised.value) == (
            f"the checkpoint has no {missing.decode()!r} (hint: checkpoint.files() lists its files)"
        )
    assert not target.exists()


def test_restoring_one_path_needs_no_other_unsaved_file(project: SampleProject) -> None:
    project.write("a", "1")
    project.write("b", "1")
    saved = saved_once(project)
    (project.root / "a").unlink()
    project.write("b", "not saved")
    project.restore(saved, project.root, paths=[b"a"])
    assert read_folder(project.root) == {b"a": ("file", b"1"), b"b": ("file", b"not saved")}


# -- failure --------------------------------------------------------------------------------------------------------


def damage_largest_pack(project: SampleProject, *, keep: float) -> None:
    """Cut the largest pack short."""
    pack = max((project.store / "packs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = pack.read_bytes()
    pack.unlink()
    pack.write_bytes(data[: int(len(data) * keep)])


def test_damage_is_an_error_and_leaves_no_torn_or_temporary_file(project: SampleProject, target: Path) -> None:
    project.write("a", "small")
    content = os.urandom(30 << 20)
    project.write("d/large", content)
    saved = saved_once(project)
    damage_largest_pack(project, keep=0.5)
    with pytest.raises(CorruptionError, match=r"^d/large cannot be restored: ") as raised:
        project.restore(saved, target)
    message, hint = raised.value.message, raised.value.hint or ""
    assert message.endswith("; files written so far are whole")
    assert re.search(r"[0-9a-f]{7} ", message)
    assert not re.search(r"[0-9a-f]{8}", message)
    assert hint.endswith(f"`replicate fsck` tells what else is damaged; this is {raised.value.where}")
    assert re.search(r"[0-9a-f]{64}", raised.value.where)
    assert temporary_files(target) == []
    assert b"d/large" not in read_folder(target)


def test_of_many_small_files_the_damaged_one_is_named(project: SampleProject, target: Path) -> None:
    contents = {f"d/{number}": os.urandom(100_000) for number in range(5)}
    for path, content in contents.items():
        project.write(path, content)
    saved = saved_once(project)
    pack = max((project.store / "packs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(pack.read_bytes())
    at = data.find(contents["d/2"])
    data[at + 500] ^= 1
    pack.unlink()
    pack.write_bytes(data)
    with pytest.raises(
        CorruptionError, match=r"^d/2 cannot be restored: blob [0-9a-f]{7} in pack [0-9a-f]{7} is damaged"
    ):
        project.restore(saved, target)
    assert temporary_files(target) == []
    for one in target.rglob("d/*"):
        assert one.read_bytes() == contents[f"d/{one.name}"]


def test_a_file_whose_pack_is_missing_is_named(project: SampleProject, target: Path) -> None:
    project.write("d/a", os.urandom(10_000_000))
    saved = saved_once(project)
    max((project.store / "packs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0).unlink()
    with pytest.raises((CorruptionError, ObjectNotFoundError), match=r"^d/a cannot be restored: "):
        project.restore(saved, target)


def test_a_failed_checkout_leaves_the_old_file_whole(project: SampleProject) -> None:
    project.write("large", os.urandom(30 << 20))
    session = project.begin()
    first = project.save(session)
    damage_largest_pack(project, keep=0.5)
    project.write("large", "now small")
    project.save(session)
    with pytest.raises(CorruptionError):
        project.restore(first, project.root)
    assert read_folder(project.root) == {b"large": ("file", b"now small")}


@needs_permissions
def test_a_target_that_may_not_be_written_is_an_error(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    saved = saved_once(project)
    target.mkdir(mode=0o555)
    with pytest.raises(StorageError) as raised:
        project.restore(saved, target)
    assert raised.value.message == f"cannot write into {target}: Permission denied"
    assert paths_of(target) == set()


@needs_permissions
def test_an_extra_that_may_not_be_removed_is_an_error(project: SampleProject) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("closed/b", "2")
    project.save(session)
    (project.root / "closed").chmod(0o555)
    try:
        with pytest.raises(StorageError) as raised:
            project.restore(first, project.root, exact=True)
    finally:
        (project.root / "closed").chmod(0o755)
    assert raised.value.message == f"cannot write into {project.root}: Permission denied"


# -- the worktree afterwards ----------------------------------------------------------------------------------------


def test_a_checked_out_worktree_is_saved_without_reading_a_file(project: SampleProject, opened: list[str]) -> None:
    project.write("a", "1")
    project.write("d/b", "1")
    project.settle()
    session = project.begin()
    first = project.save(session)
    project.write("a", "2")
    project.save(session)
    session.end("finished")
    project.restore(first, project.root)
    project.settle()
    session = project.resume()
    opened.clear()
    saved = project.save(session)
    assert opened == []
    assert saved.base.record.commit.tree == first.base.record.commit.tree


def test_a_change_right_after_a_checkout_is_seen(project: SampleProject, tmp_path: Path) -> None:
    project.write("a", "0000")
    session = project.begin()
    first = project.save(session)
    project.write("a", "1111")
    second = project.save(session)
    for number, wanted in enumerate([first, second] * 10):
        project.restore(wanted, project.root, force=True)
        with open(project.root / "a", "r+b") as file:
            file.write(b"x%03d" % number)
        assert project.save(project.resume()).new_bytes == 4


def test_a_checkout_of_the_whole_worktree_is_what_it_is_compared_with(project: SampleProject, target: Path) -> None:
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    project.write("a", "2")
    second = project.save(session)

    def head() -> str | None:
        found = project.open().read_head()
        return found.commit_id.hex() if found else None

    assert head() == second.base.record.commit_id.hex()
    project.restore(first, target)
    project.restore(first, project.root, paths=[b"a"])
    assert head() == second.base.record.commit_id.hex()
    project.restore(first, project.root)
    assert head() == first.base.record.commit_id.hex()
