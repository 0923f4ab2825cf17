"""The handle on a store: its format, what it refuses, and this machine's part of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from replicate.errors import CorruptionError, StorageError, UnsupportedFormatError
from replicate.host import Host
from replicate.repository import MARKER
from tests.projects import SampleProject, read_folder


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    found = SampleProject(tmp_path / "w")
    found.write("a", "1")
    return found


# -- the format -----------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_empty_and_is_not_created_by_looking(project: SampleProject) -> None:
    repository = project.open()
    assert repository.refs.list() == ()
    assert repository.read_head() is None
    assert not project.store.exists()


def test_a_store_is_created_once(project: SampleProject) -> None:
    assert project.open().create()
    assert not project.open().create()
    names = sorted(os.listdir(project.store / "ctl"))
    assert len(names) == 2
    assert names[0].startswith("store~")
    assert (project.store / "ctl" / "v1").read_bytes() == MARKER
    assert (project.store / ".gitignore").read_text() == "*\n"


def test_a_store_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    project = SampleProject(tmp_path / "w", store=tmp_path / "file" / "store")
    with pytest.raises(StorageError) as raised:
        project.begin()
    assert raised.value.message == f"cannot create {tmp_path}/file/store: Not a directory"


def test_a_store_of_another_format_is_refused(project: SampleProject) -> None:
    (project.store / "ctl").mkdir(parents=True)
    (project.store / "ctl" / "v12").write_text("replicate store, format 12\n")
    with pytest.raises(UnsupportedFormatError) as raised:
        project.open()
    assert str(raised.value) == (
        f"{project.store} has format 12; this version reads format 1 "
        "(hint: upgrade replicate: pip install --upgrade replicate-vc)"
    )


def test_a_store_of_this_format_and_another_is_read(project: SampleProject) -> None:
    project.begin()
    (project.store / "ctl" / "v2").write_text("x")
    assert len(project.history().experiments) == 1


def test_a_feature_that_readers_must_know_is_refused(project: SampleProject) -> None:
    project.begin()
    for name in ("feat~read~sealed", "feat~read~chained", "feat~gc~marked"):
        (project.store / "ctl" / name).write_bytes(b"")
    with pytest.raises(UnsupportedFormatError) as raised:
        project.open()
    assert raised.value.message == f"{project.store} uses chained, sealed, which this version cannot read"


@pytest.mark.parametrize("name", ["feat~write~sealed", "feat~gc~marked", "p~" + "0" * 32, "d~" + "0" * 32])
def test_what_concerns_writers_and_collectors_does_not_stop_readers(project: SampleProject, name: str) -> None:
    project.begin()
    (project.store / "ctl" / name).write_bytes(b"")
    assert len(project.history().experiments) == 1


def test_another_marker_is_damage(project: SampleProject) -> None:
    project.begin()
    (project.store / "ctl" / "v1").unlink()
    (project.store / "ctl" / "v1").write_text("something else\n")
    with pytest.raises(CorruptionError) as raised:
        project.open()
    assert str(raised.value) == (
        f"{project.store}/ctl/v1 is damaged: not the marker of a store "
        "(hint: if the rest is intact, delete that file: the next save writes it again)"
    )
    (project.store / "ctl" / "v1").unlink()
    project.begin()
    assert len(project.history().experiments) == 2


@pytest.mark.parametrize("length", range(len(MARKER)))
def test_a_marker_that_is_cut_short_is_written_again(project: SampleProject, length: int) -> None:
    project.begin()
    (project.store / "ctl" / "v1").unlink()
    (project.store / "ctl" / "v1").write_bytes(MARKER[:length])
    project.begin()
    assert (project.store / "ctl" / "v1").read_bytes() == MARKER
    assert len(project.history().experiments) == 2


# -- what is this machine's only ------------------------------------------------------------------------------------


def test_another_machine_on_the_same_store_does_not_use_this_ones_caches(
    project: SampleProject, opened: list[str]
) -> None:
    project.settle()
    project.begin()
    elsewhere = SampleProject(project.root, host=replace(Host(), name="elsewhere"))
    assert elsewhere.open().read_head() is None
    opened.clear()
    elsewhere.begin()
    assert opened == [str(project.root / "a")]
    opened.clear()
    project.begin()
    assert opened == []


def test_a_copied_store_does_not_use_the_caches_of_the_place_that_it_came_from(
    project: SampleProject, tmp_path: Path
) -> None:
    project.begin()
    shutil.copytree(project.root, tmp_path / "copy")
    copy = SampleProject(tmp_path / "copy")
    assert copy.open().read_head() is None
    for pack in (copy.store / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()
    copy.restore(copy.save(copy.begin()), tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(copy.root)


def test_two_worktrees_on_one_store_have_their_own_heads(tmp_path: Path) -> None:
    first = SampleProject(tmp_path / "a", store=tmp_path / "store")
    second = SampleProject(tmp_path / "b", store=tmp_path / "store")
    heads = [project.begin().head.commit_id for project in (first, second)]
    found = [project.open().read_head() for project in (first, second)]
    assert [head.commit_id for head in found if head] == heads


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff", b"refs/00/" + b"0" * 64])
def test_a_damaged_head_is_none(project: SampleProject, content: bytes) -> None:
    session = project.begin()
    assert project.open().read_head() is not None
    (head,) = (project.store / "local").rglob("head")
    head.write_bytes(content)
    assert project.open().read_head() is None
    session.end("finished")
    project.begin()


def test_a_head_whose_record_is_gone_is_none(project: SampleProject) -> None:
    session = project.begin()
    (project.store / session.head.name.key).unlink()
    assert project.open().read_head() is None


def test_leftovers_of_killed_processes_are_removed_when_they_are_a_day_old(project: SampleProject) -> None:
    folder = project.store / "local" / "tmp"
    folder.mkdir(parents=True)
    for name, age_seconds in (("old", 90_000), ("new", 1_000)):
        (folder / name).write_text("x")
        os.utime(folder / name, ns=(0, project.host.now_ns() - age_seconds * 10**9))
    project.begin()
    assert os.listdir(folder) == ["new"]


@pytest.mark.parametrize(
    ("store", "excluded"),
    [
        ("w/.replicate", (b".replicate",)),
        ("w/data/store", (b"data/store",)),
        ("w/..store", (b"..store",)),
        ("w-store", ()),
        ("..", ()),
        ("store", ()),
        ("w/alias/store", (b"real/store",)),
    ],
)
def test_the_store_is_excluded_where_it_lies_in_the_worktree(
    tmp_path: Path, store: str, excluded: tuple[bytes, ...]
) -> None:
    project = SampleProject(tmp_path / "w", store=tmp_path / store)
    (project.root / "real").mkdir()
    (project.root / "alias").symlink_to("real")
    assert project.open().excluded_paths(str(project.root)) == excluded


@pytest.mark.parametrize(
    ("place", "excluded"),
    [("{root}/shared", (b".replicate", b"shared")), ("/nfs/x", (b".replicate",)), ("s3://b", (b".replicate",))],
)
def test_a_repository_is_excluded_where_it_lies_in_the_worktree(
    tmp_path: Path, place: str, excluded: tuple[bytes, ...]
) -> None:
    project = SampleProject(tmp_path / "w")
    project.config = replace(project.config, repository=place.format(root=project.root))
    assert project.open().excluded_paths(str(project.root)) == excluded


# -- sessions -------------------------------------------------------------------------------------------------------


def test_a_session_is_held_until_it_is_let_go(project: SampleProject) -> None:
    repository = project.open()
    held = repository.hold_session("0" * 16)
    assert held is not None
    assert project.open().is_session_running("0" * 16)
    assert project.open().hold_session("0" * 16) is None
    repository.release_session(held)
    assert not project.open().is_session_running("0" * 16)
    assert not project.open().is_session_running("1" * 16)
