"""What differs between a worktree and a commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicate.comparing import compare_worktree
from replicate.session import Session
from tests.projects import SampleProject


class Compared:
    """A project with every kind of entry, saved once."""

    def __init__(self, root: Path) -> None:
        self.project = SampleProject(root)
        self.root = self.project.root
        self.project.write("train.py", "train\n")
        self.project.write("data/a.txt", "a")
        self.project.write("data/deep/b.txt", "b")
        self.project.write("run.sh", "run", executable=True)
        os.symlink("train.py", self.root / "link")
        (self.root / "empty").mkdir()
        self.session: Session = self.project.begin()

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What a fresh look finds: letter and path."""
        found = compare_worktree(self.project.open(), self.session.head)
        return [(change.letter, os.fsdecode(change.path)) for change in found]


@pytest.fixture
def saved(tmp_path: Path) -> Compared:
    return Compared(tmp_path / "project")


def test_a_worktree_as_saved_differs_in_nothing(saved: Compared) -> None:
    assert saved.changes == []


def test_a_changed_file_is_modified(saved: Compared) -> None:
    saved.project.write("train.py", "TRAIN\n")
    saved.project.write("data/a.txt", "longer")
    assert saved.changes == [("M", "data/a.txt"), ("M", "train.py")]


def test_a_file_that_was_touched_only_is_not_modified(saved: Compared) -> None:
    os.utime(saved.root / "train.py", (1, 1))
    saved.project.write("data/a.txt", "a")
    assert saved.changes == []


def test_exec_bit_and_link_target_count(saved: Compared) -> None:
    (saved.root / "run.sh").chmod(0o644)
    (saved.root / "link").unlink()
    os.symlink("run.sh", saved.root / "link")
    assert saved.changes == [("M", "link"), ("M", "run.sh")]


def test_other_permissions_do_not_count(saved: Compared) -> None:
    (saved.root / "train.py").chmod(0o600)
    assert saved.changes == []


def test_a_changed_type_is_a_modification(saved: Compared) -> None:
    (saved.root / "train.py").unlink()
    os.symlink("run.sh", saved.root / "train.py")
    (saved.root / "link").unlink()
    saved.project.write("link", "train.py")
    assert saved.changes == [("M", "link"), ("M", "train.py")]


def test_a_file_in_the_place_of_a_folder_deletes_what_was_in_it(saved: Compared) -> None:
    (saved.root / "data" / "deep" / "b.txt").unlink()
    (saved.root / "data" / "deep").rmdir()
    saved.project.write("data/deep", "x")
    assert saved.changes == [("M", "data/deep"), ("D", "data/deep/b.txt")]


def test_a_folder_in_the_place_of_a_file_adds_what_is_in_it(saved: Compared) -> None:
    (saved.root / "train.py").unlink()
    saved.project.write("train.py/x", "x")
    assert saved.changes == [("M", "train.py"), ("A", "train.py/x")]


def test_deleted_files_and_empty_folders_are_told(saved: Compared) -> None:
    (saved.root / "data" / "a.txt").unlink()
    (saved.root / "link").unlink()
    (saved.root / "empty").rmdir()
    assert saved.changes == [("D", "data/a.txt"), ("D", "empty"), ("D", "link")]


def test_of_a_deleted_folder_its_files_are_told(saved: Compared) -> None:
    (saved.root / "data" / "deep" / "b.txt").unlink()
    (saved.root / "data" / "deep").rmdir()
    assert saved.changes == [("D", "data/deep/b.txt")]


def test_of_a_deleted_folder_with_an_empty_file_the_file_is_told(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    path = project.write("folder/empty.txt")
    session = project.begin()
    path.unlink()
    path.parent.rmdir()
    found = compare_worktree(project.open(), session.head)
    assert [(change.letter, change.path) for change in found] == [("D", b"folder/empty.txt")]


def test_new_files_and_empty_folders_are_added(saved: Compared) -> None:
    saved.project.write("new/file.txt", "x")
    (saved.root / "blank").mkdir()
    saved.project.write(b"\xff", "x")
    assert saved.changes == [("A", "blank"), ("A", "new/file.txt"), ("A", "\udcff")]


def test_a_file_in_an_empty_folder_is_added(saved: Compared) -> None:
    saved.project.write("empty/file.txt", "x")
    assert saved.changes == [("A", "empty/file.txt")]


def test_ignored_files_secrets_and_the_store_do_not_count(saved: Compared) -> None:
    saved.project.write(".replicateignore", "*.log\n/out/\n")
    for name in ("train.log", "out/x", ".env", "__pycache__/x.pyc", ".git/HEAD"):
        saved.project.write(name, "x")
    assert saved.changes == [("A", ".replicateignore")]


def test_ignored_files_that_were_saved_by_name_do_count(tmp_path: Path) -> None:
    saved = Compared(tmp_path / "project")
    saved.project.write(".replicateignore", "*.bin\n")
    saved.project.save(saved.session)
    saved.project.write("model.bin", "x")
    saved.project.save(saved.session, "model.bin")
    assert saved.changes == []
    saved.project.write("model.bin", "y")
    assert saved.changes == [("M", "model.bin")]
    (saved.root / "model.bin").unlink()
    assert saved.changes == [("D", "model.bin")]


def test_what_the_index_vouches_for_is_not_opened(saved: Compared, opened: list[str]) -> None:
    saved.project.settle()
    saved.project.save(saved.session)
    saved.project.write("train.py", "TRAIN\n")
    opened.clear()
    assert saved.changes == [("M", "train.py")]
    assert [os.path.basename(path) for path in opened] == ["train.py"]


def test_what_differs_in_size_is_not_opened(saved: Compared, opened: list[str]) -> None:
    saved.project.settle()
    saved.project.save(saved.session)
    saved.project.write("train.py", "of another size\n")
    opened.clear()
    assert saved.changes == [("M", "train.py")]
    assert opened == []


def test_a_file_that_cannot_be_read_is_taken_as_modified(saved: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    saved.project.write("train.py", "TRAIN\n")
    monkeypatch.setattr("replicate.comparing.hash_file", refuse)
    assert ("M", "train.py") in saved.changes


def test_a_saved_path_that_cannot_be_looked_at_is_taken_as_modified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Compared(tmp_path / "project")
    saved.project.write(".replicateignore", "/data/\n")
    look = os.lstat

    def refuse(path: str | bytes, *, dir_fd: int | None = None) -> os.stat_result:
        if os.fsencode(path).endswith(b"/data/a.txt"):
            raise PermissionError(13, "Permission denied", path)
        return look(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "lstat", refuse)
    assert saved.changes == [("A", ".replicateignore"), ("M", "data/a.txt")]
