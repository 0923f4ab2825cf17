"""I6: whatever was saved is restored byte for byte, with type, exec bit and link target."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.worktree.ignore import IGNORE_FILE, is_built_in, is_environment, is_secret
from tests.projects import Content, SampleProject, read_folder

KIB = 1 << 10
BORDERS = [0, 1, 64 * KIB, 1 << 20, MAX_PIECE_BYTES, 2 * MAX_PIECE_BYTES]


@dataclass(frozen=True)
class File:
    content: bytes
    executable: bool


@dataclass(frozen=True)
class Link:
    target: bytes


Folder = dict[bytes, "File | Link | Folder"]


def is_saved(name: bytes) -> bool:
    """Tell whether a path of this name is saved as what it is."""
    return not (name in (b".", b"..", IGNORE_FILE) or is_built_in(name) or is_secret(name) or is_environment([name]))


def stretched(seed: bytes, size: int) -> bytes:
    """Return `size` bytes that begin with `seed` and do not repeat from piece to piece."""
    counted = b"".join(seed + number.to_bytes(8, "big") for number in range(size // (len(seed) + 8) + 1))
    return counted[:size]


NAMES = (
    st.one_of(
        st.sampled_from([b"a", b"b", b"d", b"A", b"a.b", b"-", b" ", b"\n", b"\xff", "\u00e9".encode()]),
        st.binary(min_size=1, max_size=255),
        st.text(min_size=1, max_size=20).map(os.fsencode),
    )
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")[:255])
    .filter(is_saved)
)
SIZES = st.one_of(st.sampled_from(BORDERS), st.sampled_from(BORDERS).map(lambda size: abs(size - 1)))
SMALL = st.binary(max_size=200)
SIZED = st.builds(stretched, st.binary(min_size=1, max_size=8), SIZES)
FILES = st.builds(File, st.one_of(SMALL, SMALL, SMALL, SMALL, SMALL, SMALL, SMALL, SIZED), st.booleans())
TARGETS = st.binary(min_size=1, max_size=300).filter(lambda target: b"\0" not in target)
LINKS = st.builds(Link, TARGETS)
FOLDERS: st.SearchStrategy[Folder] = st.recursive(
    st.dictionaries(NAMES, st.one_of(FILES, FILES, FILES, LINKS), max_size=6),
    lambda below: st.dictionaries(NAMES, st.one_of(FILES, LINKS, below), max_size=4),
    max_leaves=8,
)


def write_folder(path: bytes, folder: Folder) -> None:
    for name, entry in folder.items():
        full = os.path.join(path, name)
        if isinstance(entry, File):
            fd = os.open(full, os.O_WRONLY | os.O_CREAT, 0o755 if entry.executable else 0o644)
            with open(fd, "wb") as file:
                file.write(entry.content)
        elif isinstance(entry, Link):
            os.symlink(entry.target, full)
        else:
            os.mkdir(full)
            write_folder(full, entry)


def clear(root: Path) -> None:
    """Remove everything but the store."""
    with os.scandir(os.fsencode(root)) as listing:
        for entry in listing:
            if entry.name == b".replicate":
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(folders=st.lists(FOLDERS, min_size=1, max_size=3))
def test_every_saved_folder_is_restored_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, folders: list[Folder]
) -> None:
    place = tmp_path_factory.mktemp("roundtrip")
    project = SampleProject(place / "w")
    session = None
    wanted = []
    for folder in folders:
        clear(project.root)
        write_folder(os.fsencode(project.root), folder)
        if session is None:
            session = project.begin()
        wanted.append((project.save(session), read_folder(project.root)))
    for number, (saved, content) in enumerate(wanted):
        project.restore(saved, place / f"out-{number}")
        assert read_folder(place / f"out-{number}") == content
        clear(project.root)
        project.restore(saved, project.root, force=True, exact=True)
        assert read_folder(project.root) == content
    shutil.rmtree(place)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(first=FOLDERS, second=FOLDERS)
def test_an_exact_checkout_leaves_nothing_of_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, first: Folder, second: Folder
) -> None:
    place = tmp_path_factory.mktemp("exact")
    project = SampleProject(place / "w")
    write_folder(os.fsencode(project.root), first)
    session = project.begin()
    before = read_folder(project.root)
    clear(project.root)
    write_folder(os.fsencode(project.root), second)
    project.save(session)
    root = project.experiment().root
    stands_in_the_way = any(
        kind != "folder" and read_folder(project.root).get(path, ("file", b""))[0] == "folder"
        for path, (kind, _) in before.items()
    )
    if not stands_in_the_way:
        project.restore(root, project.root, exact=True)
        assert read_folder(project.root) == before
    shutil.rmtree(place)


def replaced(before: dict[bytes, Content], now: dict[bytes, Content], named: Iterable[bytes]) -> dict[bytes, Content]:
    """Return what a save of some named paths holds: the last save, with these as they are now."""
    found = dict(before)
    for path in named:
        found = {one: entry for one, entry in found.items() if one != path and not one.startswith(path + b"/")}
        names = path.split(b"/")
        for depth in range(1, len(names)):
            found[b"/".join(names[:depth])] = ("folder", b"")
        found |= {one: entry for one, entry in now.items() if one == path or one.startswith(path + b"/")}
    return found


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(first=FOLDERS, second=FOLDERS, data=st.data())
def test_named_paths_replace_exactly_their_entries(
    tmp_path_factory: pytest.TempPathFactory, first: Folder, second: Folder, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("named")
    project = SampleProject(place / "w")
    write_folder(os.fsencode(project.root), first)
    session = project.begin()
    wanted = read_folder(project.root)
    clear(project.root)
    write_folder(os.fsencode(project.root), second)
    now = read_folder(project.root)
    for number in range(2 if now else 0):
        named = data.draw(st.lists(st.sampled_from(sorted(now)), min_size=1, max_size=3))
        wanted = replaced(wanted, now, named)
        saved = project.save(session, named)
        project.restore(saved, place / f"out-{number}")
        assert read_folder(place / f"out-{number}") == wanted
    shutil.rmtree(place)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("distance", [-1, 0, 1])
def test_files_around_every_border_come_back(tmp_path: Path, border: int, distance: int) -> None:
    size = abs(border + distance)
    project = SampleProject(tmp_path / "w")
    project.write("noise", os.urandom(size))
    project.write("zeros", bytes(size))
    project.write("text", stretched(b"line\n", size))
    project.restore(project.save(project.begin()), tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(project.root)


def test_a_sparse_file_comes_back(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    with open(project.root / "sparse", "wb") as file:
        file.truncate(100 << 20)
        file.seek(50 << 20)
        file.write(b"x")
    saved = project.save(project.begin())
    project.restore(saved, tmp_path / "out")
    assert (tmp_path / "out" / "sparse").read_bytes() == (project.root / "sparse").read_bytes()
    assert sum(path.stat().st_size for path in (project.store / "packs").rglob("*") if path.is_file()) < 1 << 16
