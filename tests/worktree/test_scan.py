"""Walking a worktree: every kind of entry, and what cannot be saved."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from replicate.objects.model import Mode
from replicate.worktree.scan import Scan, Scanner
from tests.conftest import Watch
from tests.projects import make_deep, reads_everything

PATH_MAX = 4096
not_as_root = pytest.mark.skipif(reads_everything(), reason="permissions mean nothing to this user, who is root")


def modes(found: Scan) -> dict[bytes, Mode]:
    """Return what a scan found, by path."""
    return {
        os.path.join(folder, name): mode
        for folder, listing in found.directories.items()
        for name, (mode, _) in listing.items()
    }


def scan(root: Path) -> Scan:
    return Scanner(str(root)).scan()


def test_every_kind_of_entry_has_its_mode(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "run").write_text("x")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "d").mkdir()
    assert modes(scan(tmp_path)) == {
        b"file": Mode.FILE,
        b"run": Mode.EXECUTABLE,
        b"link": Mode.SYMLINK,
        b"d": Mode.DIRECTORY,
    }


@pytest.mark.parametrize(("bits", "mode"), [(0o644, Mode.FILE), (0o655, Mode.FILE), (0o744, Mode.EXECUTABLE)])
def test_the_owners_bit_tells_whether_a_file_is_executable(tmp_path: Path, bits: int, mode: Mode) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(bits)
    assert modes(scan(tmp_path)) == {b"a": mode}


def test_empty_folders_are_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = scan(tmp_path)
    assert modes(found) == {b"a": Mode.DIRECTORY, b"a/b": Mode.DIRECTORY}
    assert found.directories[b"a/b"] == {}


def test_an_empty_worktree_is_one_empty_directory(tmp_path: Path) -> None:
    assert scan(tmp_path).directories == {b"": {}}


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b" ", b'"', b"\\", b"\x01", "\u00e9".encode(), b"x" * 255])
def test_a_name_may_be_any_bytes(tmp_path: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass
    assert modes(scan(tmp_path)) == {name: Mode.FILE}


def test_sockets_and_pipes_are_left_out_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    found = scan(tmp_path)
    assert modes(found) == {b"d": Mode.DIRECTORY}
    assert sorted(found.special) == [b"d/pipe", b"socket"]


def test_an_ignored_pipe_is_not_worth_a_word(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".replicateignore").write_text("pipe\n")
    assert scan(tmp_path).special == []


def test_a_named_pipe_cannot_be_saved(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = Scan()
    assert not Scanner(str(tmp_path)).scan_named(b"pipe", found)
    assert found.special == [b"pipe"]


@pytest.mark.parametrize("path", [b"missing", b"file/below", b"missing/below"])
def test_a_named_path_that_is_not_there_is_not_found(tmp_path: Path, path: bytes) -> None:
    (tmp_path / "file").write_text("x")
    found = Scan()
    assert not Scanner(str(tmp_path)).scan_named(path, found)
    assert found.special == []


def test_links_are_found_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "w"
    (root / "d").mkdir(parents=True)
    for name, target in [
        ("folder", "d"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("up", ".."),
        ("self", "."),
        ("outside", str(outside)),
    ]:
        (root / name).symlink_to(target)
    found = modes(scan(root))
    assert found.pop(b"d") == Mode.DIRECTORY
    assert found == dict.fromkeys([b"folder", b"dangling", b"loop", b"up", b"self", b"outside"], Mode.SYMLINK)


def test_a_named_link_to_a_folder_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    found = Scan()
    assert Scanner(str(tmp_path)).scan_named(b"link", found)
    assert modes(found) == {b"link": Mode.SYMLINK}


def test_excluded_paths_are_left_out_and_their_names_elsewhere_are_not(tmp_path: Path) -> None:
    for path in ("d/store/a", "e/store/a"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
    found = Scanner(str(tmp_path), [b"d/store"]).scan()
    assert set(modes(found)) == {b"d", b"e", b"e/store", b"e/store/a"}


def test_a_worktree_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "missing")


def test_a_folder_whose_path_is_too_long_is_left_out_and_listed(tmp_path: Path) -> None:
    make_deep(tmp_path, "d" * 250, 20)
    (tmp_path / "a").write_text("x")
    found = scan(tmp_path)
    assert [why for _, why in found.unreadable] == ["File name too long"]
    (path,) = [path for path, _ in found.unreadable]
    assert path not in modes(found)
    assert modes(found)[b"a"] == Mode.FILE


def test_a_file_whose_path_is_too_long_is_left_out_and_listed(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    depth = (PATH_MAX - len(root) - 200) // 201
    make_deep(tmp_path, "d" * 200, depth)
    folder = b"/".join([b"d" * 200] * depth)
    above = os.open(os.path.join(root, folder), os.O_RDONLY)
    for name in (b"short", b"x" * 250):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=above))
    os.close(above)
    found = scan(tmp_path)
    assert found.unreadable == [(folder + b"/" + b"x" * 250, "File name too long")]
    assert set(found.directories[folder]) == {b"short"}


def test_a_folder_that_is_removed_while_it_is_found_is_left_out_without_a_word(tmp_path: Path, watch: Watch) -> None:
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)

    def remove(event: str, path: str) -> None:
        if event == "os.scandir" and path.endswith("/b"):
            shutil.rmtree(path)

    watch(remove)
    found = scan(tmp_path)
    assert set(modes(found)) == {b"d", b"d/a"}
    assert found.unreadable == []


@not_as_root
def test_a_folder_that_may_not_be_listed_is_left_out_and_listed(tmp_path: Path) -> None:
    (tmp_path / "d" / "closed").mkdir(parents=True)
    (tmp_path / "d" / "closed").chmod(0)
    found = scan(tmp_path)
    (tmp_path / "d" / "closed").chmod(0o700)
    assert set(modes(found)) == {b"d"}
    assert found.unreadable == [(b"d/closed", "Permission denied")]


@not_as_root
def test_a_folder_whose_entries_may_not_be_looked_at_does_not_end_the_scan(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("x")
    (tmp_path / "d").chmod(0o444)
    found = scan(tmp_path)
    (tmp_path / "d").chmod(0o700)
    assert modes(found) == {b"d": Mode.DIRECTORY}
    assert found.unreadable == [(b"d/a", "Permission denied")]
