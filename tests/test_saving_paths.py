"""What `checkpoint(path)` saves: everything, named paths in place of the last save's, files from elsewhere, nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from replicate.errors import InvalidInputError, StorageError
from replicate.saving import Saved
from replicate.session import Session
from tests.projects import SampleProject, paths_of, read_folder, reads_everything

needs_permissions = pytest.mark.skipif(reads_everything(), reason="permissions mean nothing to this user, who is root")


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    """A project with a few files, in which nothing was saved yet."""
    found = SampleProject(tmp_path / "w")
    for name in ("a", "b", "d/c", "d/e/f"):
        found.write(name, "1")
    return found


@pytest.fixture
def session(project: SampleProject) -> Session:
    """A session that saved the project as its root commit; then every file changed, and there is one more."""
    session = project.begin()
    for name in ("a", "b", "d/c", "d/e/f", "d/new"):
        project.write(name, "2")
    return session


def restored(project: SampleProject, saved: Saved) -> dict[str, str]:
    """Return what a checkpoint holds: files with their content, links as `-> target`, empty folders with a slash."""
    target = project.root.parent / f"out-{saved.base.record.commit_id.short}"
    project.restore(saved, target)
    found = read_folder(target)
    shown = {}
    for path, (kind, content) in found.items():
        name = os.fsdecode(path)
        if kind != "folder":
            shown[name] = ("-> " if kind == "link" else "") + content.decode()
        elif not any(other.startswith(path + b"/") for other in found):
            shown[name + "/"] = ""
    return shown


# -- which files ----------------------------------------------------------------------------------------------------


def test_none_saves_the_whole_worktree(project: SampleProject, session: Session) -> None:
    (project.root / "b").unlink()
    assert restored(project, project.save(session)) == {"a": "2", "d/c": "2", "d/e/f": "2", "d/new": "2"}


@pytest.mark.parametrize("nothing", [(), [], {}, set(), frozenset()])
def test_an_empty_selection_keeps_the_files_of_the_last_save(
    project: SampleProject, session: Session, nothing: Any
) -> None:
    saved = project.save(session, nothing, metrics={"loss": 1.0})
    assert restored(project, saved) == {"a": "1", "b": "1", "d/c": "1", "d/e/f": "1"}
    assert saved.base.record.commit.tree == project.experiment().root.commit.tree
    assert saved.new_bytes == 0


@pytest.mark.parametrize("path", ["a", Path("a"), b"a", "./a", "d/../a", "a/"])
def test_a_file_replaces_its_entry_only(project: SampleProject, session: Session, path: Any) -> None:
    assert restored(project, project.save(session, path)) == {"a": "2", "b": "1", "d/c": "1", "d/e/f": "1"}


def test_an_absolute_path_in_the_worktree_is_fine(project: SampleProject, session: Session) -> None:
    assert restored(project, project.save(session, project.root / "d" / "c"))["d/c"] == "2"


@pytest.mark.parametrize("path", ["d", "d/", Path("d")])
def test_a_folder_replaces_its_whole_subtree(project: SampleProject, session: Session, path: Any) -> None:
    (project.root / "d" / "c").unlink()
    saved = project.save(session, path)
    assert restored(project, saved) == {"a": "1", "b": "1", "d/e/f": "2", "d/new": "2"}


@pytest.mark.parametrize("paths", [["a", "d/e"], ("d/e", "a"), {"a", "d/e"}, frozenset(["a", "d/e"])])
def test_several_paths_replace_each_its_own(project: SampleProject, session: Session, paths: Any) -> None:
    assert restored(project, project.save(session, paths)) == {"a": "2", "b": "1", "d/c": "1", "d/e/f": "2"}


@pytest.mark.parametrize("paths", [["d", "d/e/f"], ["d/e/f", "d"], ["d", "d"]])
def test_a_path_inside_another_named_one_changes_nothing(
    project: SampleProject, session: Session, paths: list[str]
) -> None:
    saved = project.save(session, paths)
    assert restored(project, saved) == {"a": "1", "b": "1", "d/c": "2", "d/e/f": "2", "d/new": "2"}


def test_named_paths_build_on_the_last_save_of_the_session(project: SampleProject, session: Session) -> None:
    project.save(session, "a")
    project.write("a", "3")
    assert restored(project, project.save(session, "b"))["a"] == "2"


def test_named_paths_of_a_resumed_session_build_on_the_checkpoint_that_it_continues(
    project: SampleProject, session: Session
) -> None:
    project.save(session, "a")
    session.end("finished")
    project.write("a", "3")
    saved = project.save(project.resume(), "b")
    assert restored(project, saved) == {"a": "2", "b": "2", "d/c": "1", "d/e/f": "1"}


@pytest.mark.parametrize("path", [".", "", "d/.."])
def test_the_worktree_itself_means_everything(project: SampleProject, session: Session, path: str) -> None:
    (project.root / "b").unlink()
    saved = project.save(session, project.root / path)
    assert restored(project, saved) == {"a": "2", "d/c": "2", "d/e/f": "2", "d/new": "2"}


@pytest.mark.parametrize("paths", [[".", "skip.bin"], ["skip.bin", "."]])
def test_an_ignored_path_named_beside_the_worktree_is_saved_too(
    project: SampleProject, session: Session, paths: list[str]
) -> None:
    project.write(".replicateignore", "*.bin\n")
    project.write("skip.bin", "x")
    project.write("other.bin", "x")
    saved = project.save(session, paths)
    assert set(restored(project, saved)) == {".replicateignore", "a", "b", "d/c", "d/e/f", "d/new", "skip.bin"}


# -- where paths begin ----------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_current_folder(project: SampleProject, session: Session) -> None:
    saved = project.save(session, ["c", "../a"], cwd=project.root / "d")
    assert restored(project, saved) == {"a": "2", "b": "1", "d/c": "2", "d/e/f": "1"}


def test_a_path_through_a_link_means_the_file_that_it_leads_to(project: SampleProject, session: Session) -> None:
    (project.root / "link").symlink_to("d")
    assert restored(project, project.save(session, "link/c"))["d/c"] == "2"


def test_a_named_link_is_saved_as_a_link(project: SampleProject, session: Session) -> None:
    (project.root / "link").symlink_to("d")
    saved = restored(project, project.save(session, "link"))
    assert saved == {"a": "1", "b": "1", "d/c": "1", "d/e/f": "1", "link": "-> d"}


def test_a_worktree_below_a_link_is_found_under_its_real_name(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(project.root)
    assert restored(project, project.save(session, tmp_path / "alias" / "a"))["a"] == "2"
    assert restored(project, project.save(session, "b", cwd=tmp_path / "alias"))["b"] == "2"


# -- ignored paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a.log", ".env", "__pycache__/m.pyc", "venv/lib/x"])
def test_a_named_path_is_saved_though_it_is_ignored(project: SampleProject, path: str) -> None:
    project.write(".replicateignore", "*.log\n")
    for name in ("a.log", "b.log", ".env", "__pycache__/m.pyc", "venv/pyvenv.cfg", "venv/lib/x"):
        project.write(name, "x")
    session = project.begin()
    saved = restored(project, project.save(session, path))
    assert saved == {".replicateignore": "*.log\n", "a": "1", "b": "1", "d/c": "1", "d/e/f": "1", path: "x"}


def test_an_ignored_path_that_was_named_stays_through_saves_of_other_paths(project: SampleProject) -> None:
    project.write(".replicateignore", "*.log\n")
    project.write("a.log", "x")
    session = project.begin()
    project.save(session, "a.log")
    assert "a.log" in restored(project, project.save(session, "b"))
    assert "a.log" in restored(project, project.save(session, ()))
    assert "a.log" not in restored(project, project.save(session))


def test_a_folder_that_holds_secrets_says_so_once(project: SampleProject, session: Session) -> None:
    project.write("d/.env", "x")
    project.write("server.pem", "x")
    project.save(session)
    project.save(session)
    assert project.events.notices == [
        "not saved, as they may hold secrets (name them to save them): d/.env, server.pem"
    ]


# -- types that change ----------------------------------------------------------------------------------------------


def test_a_file_becomes_a_folder(project: SampleProject, session: Session) -> None:
    (project.root / "a").unlink()
    project.write("a/x/y", "2")
    assert restored(project, project.save(session, "a/x")) == {"a/x/y": "2", "b": "1", "d/c": "1", "d/e/f": "1"}


def test_a_folder_becomes_a_file(project: SampleProject, session: Session) -> None:
    for name in ("d/c", "d/e/f", "d/new"):
        (project.root / name).unlink()
    (project.root / "d" / "e").rmdir()
    (project.root / "d").rmdir()
    project.write("d", "2")
    assert restored(project, project.save(session, "d")) == {"a": "1", "b": "1", "d": "2"}


def test_a_folder_becomes_an_empty_one(project: SampleProject, session: Session) -> None:
    (project.root / "d" / "e" / "f").unlink()
    assert restored(project, project.save(session, "d/e")) == {"a": "1", "b": "1", "d/c": "1", "d/e/": ""}


def test_a_file_becomes_executable(project: SampleProject, session: Session, tmp_path: Path) -> None:
    (project.root / "a").chmod(0o755)
    project.restore(project.save(session, "a"), tmp_path / "out")
    assert read_folder(tmp_path / "out")[b"a"] == ("executable", b"2")


def test_a_change_of_the_exec_bit_alone_is_saved_by_a_whole_save(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    project.settle()
    project.save(session)
    (project.root / "a").chmod(0o755)
    project.restore(project.save(session), tmp_path / "out")
    assert read_folder(tmp_path / "out")[b"a"] == ("executable", b"1")


# -- files from elsewhere -------------------------------------------------------------------------------------------


def test_a_mapping_stores_a_file_from_elsewhere(project: SampleProject, session: Session, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("weights")
    saved = project.save(session, {"weights/m.pt": tmp_path / "m.pt", "b": "b"})
    assert restored(project, saved) == {"a": "1", "b": "2", "d/c": "1", "d/e/f": "1", "weights/m.pt": "weights"}
    assert "weights" not in paths_of(project.root)


def test_a_mapping_stores_a_folder_from_elsewhere_in_place_of_another(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    for name in ("x", "y/z"):
        (tmp_path / "scratch" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scratch" / name).write_text(name)
    saved = project.save(session, {"d": tmp_path / "scratch"})
    assert restored(project, saved) == {"a": "1", "b": "1", "d/x": "x", "d/y/z": "y/z"}


def test_a_mapping_may_copy_within_the_worktree(project: SampleProject, session: Session) -> None:
    saved = restored(project, project.save(session, {"copy": "d", "a": "b"}))
    assert saved == {"a": "2", "b": "1", "d/c": "1", "d/e/f": "1", "copy/c": "2", "copy/e/f": "2", "copy/new": "2"}


def test_places_of_a_mapping_are_relative_to_the_project_and_sources_to_the_current_folder(
    project: SampleProject, session: Session
) -> None:
    saved = restored(project, project.save(session, {"copy": "c"}, cwd=project.root / "d"))
    assert saved["copy"] == "2"


def test_a_place_below_a_file_makes_that_file_a_folder(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "m.pt").write_text("weights")
    saved = project.save(session, {"a/b/m.pt": tmp_path / "m.pt"})
    assert restored(project, saved) == {"a/b/m.pt": "weights", "b": "1", "d/c": "1", "d/e/f": "1"}


def test_a_file_from_elsewhere_that_did_not_change_is_not_read_again(
    project: SampleProject, session: Session, tmp_path: Path, opened: list[str]
) -> None:
    (tmp_path / "m.pt").write_text("weights")
    project.settle()
    project.save(session, {"m.pt": tmp_path / "m.pt"})
    opened.clear()
    project.save(session, {"m.pt": tmp_path / "m.pt"})
    project.save(session)
    project.save(session, {"m.pt": tmp_path / "m.pt"})
    assert str(tmp_path / "m.pt") not in opened


def test_a_folder_from_elsewhere_may_not_nest_too_deep_below_its_place(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "scratch" / "x" / "y").mkdir(parents=True)
    place = "/".join(["p"] * 998)
    with pytest.raises(InvalidInputError, match="is nested deeper than 1,000 folders"):
        project.save(session, {f"{place}/p/p": tmp_path / "scratch"})
    saved = project.save(session, {f"{place}": tmp_path / "scratch"})
    assert saved.files == 4


# -- what is wrong --------------------------------------------------------------------------------------------------


def test_a_missing_path_is_an_error_and_nothing_is_saved(project: SampleProject, session: Session) -> None:
    with pytest.raises(InvalidInputError) as raised:
        project.save(session, ["a", "missing"])
    assert str(raised.value) == (
        f"cannot save {project.root}/missing: it does not exist (hint: paths are relative to the current folder)"
    )
    assert project.experiment().checkpoints == ()


def test_a_pipe_cannot_be_named(project: SampleProject, session: Session) -> None:
    os.mkfifo(project.root / "pipe")
    with pytest.raises(InvalidInputError) as raised:
        project.save(session, "pipe")
    assert raised.value.message == f"cannot save {project.root}/pipe: it is no file, folder or link"


def test_a_path_outside_of_the_worktree_is_an_error(project: SampleProject, session: Session, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("weights")
    for path in (tmp_path / "m.pt", "../m.pt"):
        with pytest.raises(InvalidInputError) as raised:
            project.save(session, path)
        assert str(raised.value) == (
            f"{tmp_path}/m.pt is outside of the worktree {project.root} "
            f"(hint: say where it goes: checkpoint({{'m.pt': '{tmp_path}/m.pt'}}))"
        )


def test_a_path_through_a_link_out_of_the_worktree_is_outside(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "x").write_text("x")
    (project.root / "link").symlink_to(tmp_path / "scratch")
    with pytest.raises(InvalidInputError) as raised:
        project.save(session, "link/x")
    assert raised.value.message == f"{tmp_path}/scratch/x is outside of the worktree {project.root}"


def test_a_folder_whose_name_begins_like_the_worktrees_is_outside(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "w2").mkdir()
    with pytest.raises(InvalidInputError, match="is outside of the worktree"):
        project.save(session, tmp_path / "w2")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (3, "path is of type int; it must be a path, a list of paths or a mapping"),
        (3.5, "path is of type float; it must be a path, a list of paths or a mapping"),
        (True, "path is of type bool; it must be a path, a list of paths or a mapping"),
        ([None], "a path is of type NoneType: None"),
        ([3], "a path is of type int: 3"),
        ({"a": None}, "'a' is mapped to None, which is no path"),
        ({3: "a"}, "a path is of type int: 3"),
        ("", "'' is no path"),
        (["a", ""], "'' is no path"),
        ({"d": "d", "d/c": "a"}, "'d' and 'd/c' cannot both be saved: one is in the other"),
        ({"a": "a", "./a": "b"}, "'a' and 'a' cannot both be saved: one is in the other"),
        ("a\0b", "'a\\x00b' is no path"),
        ({".": "a"}, "'.' cannot be replaced: it is the whole worktree"),
        ({"": "a"}, "'' is no path"),
    ],
)
def test_what_is_no_path_is_an_error(project: SampleProject, session: Session, path: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        project.save(session, path)
    assert raised.value.message == message


def test_a_place_outside_of_the_worktree_is_an_error(project: SampleProject, session: Session) -> None:
    with pytest.raises(InvalidInputError, match="is outside of the worktree"):
        project.save(session, {"../x": "a"})


def test_a_path_that_is_too_long_is_an_error(project: SampleProject, session: Session) -> None:
    with pytest.raises(StorageError) as raised:
        project.save(session, "x" * 300)
    assert raised.value.message == f"cannot read {project.root}/{'x' * 300}: File name too long"


@pytest.mark.parametrize("name", [".replicate", ".replicate/packs"])
def test_the_store_is_not_saved_into_itself(project: SampleProject, session: Session, name: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        project.save(session, name)
    assert raised.value.message == f"cannot save {project.root}/{name}: it is the store"


def test_the_store_is_not_saved_with_a_folder_that_holds_it(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w", store=tmp_path / "w" / "data" / "store")
    project.write("data/a", "1")
    session = project.begin()
    assert restored(project, project.save(session)) == {"data/a": "1"}
    assert restored(project, project.save(session, "data")) == {"data/a": "1"}
    assert restored(project, project.save(session, {"copy": "data"})) == {"data/a": "1", "copy/a": "1"}


def test_a_worktree_that_is_gone_is_an_error(project: SampleProject, tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "v", store=tmp_path / "store")
    session = project.begin()
    project.root.rmdir()
    with pytest.raises(StorageError) as raised:
        project.save(session)
    assert raised.value.message == f"cannot read {project.root}: No such file or directory"


# -- what cannot be read --------------------------------------------------------------------------------------------


@needs_permissions
def test_a_named_file_that_may_not_be_read_is_an_error(project: SampleProject, session: Session) -> None:
    (project.root / "a").chmod(0)
    with pytest.raises(StorageError) as raised:
        project.save(session, "a")
    assert raised.value.message == f"cannot read {project.root}/a: Permission denied"


@needs_permissions
def test_a_named_folder_with_one_that_may_not_be_listed_is_an_error(project: SampleProject, session: Session) -> None:
    (project.root / "d" / "e").chmod(0)
    with pytest.raises(StorageError) as raised:
        project.save(session, "d")
    (project.root / "d" / "e").chmod(0o755)
    assert raised.value.message == f"cannot read {project.root}/d/e: Permission denied"


@needs_permissions
def test_what_may_not_be_read_is_skipped_by_a_whole_save(project: SampleProject, session: Session) -> None:
    (project.root / "a").chmod(0)
    (project.root / "d" / "e").chmod(0)
    saved = project.save(session)
    (project.root / "d" / "e").chmod(0o755)
    assert restored(project, saved) == {"b": "2", "d/c": "2", "d/new": "2"}
    skipped = saved.base.record.commit.skipped
    assert skipped is not None
    assert skipped.paths == (b"a", b"d/e")
    assert project.events.warnings == ["not saved: a (Permission denied) and 1 more"]


def test_sockets_and_pipes_are_skipped_and_told_once(project: SampleProject, session: Session) -> None:
    os.mkfifo(project.root / "pipe")
    os.mkfifo(project.root / "d" / "pipe")
    assert set(restored(project, project.save(session))) == {"a", "b", "d/c", "d/e/f", "d/new"}
    project.save(session)
    assert project.events.notices == ["not saved, being sockets, pipes or devices: d/pipe, pipe"]
    assert project.events.warnings == []
