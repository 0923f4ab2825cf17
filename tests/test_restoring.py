"""Reading one file of a checkpoint: only what is asked for, always verified."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.assembling import GivenEntry, assembling
from replicate.errors import ConflictError, CorruptionError, PathNotFoundError
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.model import Mode
from replicate.restoring import open_file
from replicate.saving import Saved
from replicate.session import Session
from replicate.transport import KeyInfo, LocalTransport
from tests.projects import CAPTURE, SampleProject, read_folder

MIB = 1 << 20


class Counting(LocalTransport):
    """A store that counts the bytes that are read."""

    bytes_read = 0

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Count what is returned."""
        data = super().get(key, start, end)
        self.bytes_read += len(data)
        return data


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "w")


def reader(project: SampleProject, saved: Saved, path: str) -> io.BufferedReader:
    record = saved.base.record
    return open_file(project.open().objects(record.locator), record.commit.tree, path)


@pytest.mark.parametrize("size", [0, 1, 1000, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1, 3 * MAX_PIECE_BYTES + 7])
def test_a_file_is_read_as_it_was(project: SampleProject, size: int) -> None:
    content = os.urandom(size)
    project.write("d/a", content)
    saved = project.save(project.begin())
    for path in ("d/a", "/d/a", "d/a/"):
        with reader(project, saved, path) as file:
            assert file.read() == content


def test_a_file_is_read_from_anywhere(project: SampleProject) -> None:
    content = os.urandom(3 * MAX_PIECE_BYTES + 7)
    project.write("a", content)
    saved = project.save(project.begin())
    numbers = random.Random(1)
    with reader(project, saved, "a") as file, io.BytesIO(content) as real:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        for _ in range(50):
            offset, length = numbers.randrange(len(content) + 10), numbers.randrange(100_000)
            assert file.seek(offset) == real.seek(offset)
            assert file.read(length) == real.read(length)
            assert file.tell() == real.tell()
        assert file.seek(-5, os.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]
        assert file.seek(-10, os.SEEK_CUR) == len(content) - 10
        with pytest.raises(ValueError, match="negative seek"):
            file.seek(-1)


def test_only_what_is_asked_for_is_read_from_the_store(tmp_path: Path) -> None:
    transport = Counting(tmp_path / "w" / ".replicate", durability="fast")
    project = SampleProject(tmp_path / "w", transport=transport)
    project.write("large", os.urandom(10 * MAX_PIECE_BYTES))
    saved = project.save(project.begin())
    with reader(project, saved, "large") as file:
        transport.bytes_read = 0
        file.seek(5 * MAX_PIECE_BYTES + 10)
        file.read(100)
    assert transport.bytes_read < MAX_PIECE_BYTES + 100_000


def test_text_is_read_line_by_line(project: SampleProject) -> None:
    project.write("a.csv", "step,loss\n0,1\n1,0.5\n")
    saved = project.save(project.begin())
    with io.TextIOWrapper(reader(project, saved, "a.csv"), encoding="utf-8") as file:
        assert list(file) == ["step,loss\n", "0,1\n", "1,0.5\n"]


@pytest.mark.parametrize(
    ("link", "target"),
    [("link", "d/a"), ("d/link", "a"), ("d/link", "../d/a"), ("link", "./d//a"), ("link", "..data"), ("link", "other")],
)
def test_a_link_is_followed_within_the_checkpoint(project: SampleProject, link: str, target: str) -> None:
    project.write("d/a", "content")
    project.write("..data", "content")
    (project.root / "other").symlink_to("d/a")
    (project.root / link).symlink_to(target)
    saved = project.save(project.begin())
    with reader(project, saved, link) as file:
        assert file.read() == b"content"


def test_a_link_to_a_folder_is_followed_on_the_way(project: SampleProject) -> None:
    project.write("versions/1/a", "content")
    (project.root / "current").symlink_to("versions/1")
    saved = project.save(project.begin())
    with reader(project, saved, "current/a") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "the checkpoint has no file 'missing'"),
        ("a/below", "the checkpoint has no file 'a/below'"),
        ("d", "'d' is a folder in the checkpoint"),
        ("", "'' is a folder in the checkpoint"),
        ("absolute", "'absolute' is a link that leads out of the checkpoint, to '/etc/passwd'"),
        ("out", "'out' is a link that leads out of the checkpoint, to '../x'"),
        ("d/out", "'d/out' is a link that leads out of the checkpoint, to '../../x'"),
        ("circle", "'circle' is a link that leads in a circle"),
        ("dangling", "the checkpoint has no file 'dangling'"),
    ],
)
def test_what_is_no_file_cannot_be_opened(project: SampleProject, path: str, message: str) -> None:
    project.write("a", "1")
    project.write("d/b", "1")
    for name, target in [
        ("absolute", "/etc/passwd"),
        ("out", "../x"),
        ("d/out", "../../x"),
        ("circle", "circle"),
        ("dangling", "nowhere"),
    ]:
        (project.root / name).symlink_to(target)
    saved = project.save(project.begin())
    with pytest.raises(PathNotFoundError) as raised:
        reader(project, saved, path)
    assert raised.value.message == message


def test_damage_is_an_error_while_reading(project: SampleProject) -> None:
    project.write("a", os.urandom(3 * MAX_PIECE_BYTES))
    saved = project.save(project.begin())
    pack = max(
        (path for path in (project.store / "packs").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    with reader(project, saved, "a") as file, pytest.raises(CorruptionError):
        file.read()


def test_the_store_is_listed_for_nothing_when_a_file_is_read(tmp_path: Path) -> None:
    listed: list[str] = []

    class Listing(LocalTransport):
        def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
            listed.append(prefix)
            return super().list(prefix)

    project = SampleProject(tmp_path / "w", transport=Listing(tmp_path / "w" / ".replicate", durability="fast"))
    project.write("a", "1")
    saved = project.save(project.begin())
    repository = project.open()
    listed.clear()
    with open_file(repository.objects(saved.base.record.locator), saved.base.record.commit.tree, "a") as file:
        file.read()
    assert listed == []


@pytest.mark.parametrize("force", [False, True])
def test_a_commit_that_has_files_where_the_store_lies_is_not_restored_there(
    project: SampleProject, tmp_path: Path, force: bool
) -> None:
    repository = project.open()
    with assembling(repository) as assembly:
        blob = assembly.add_stream(io.BytesIO(b"evil"))
    with assembling(repository) as assembly:
        paths = (b".replicate/ctl/feat~write~evil", b"good")
        tree = assembly.add_tree(GivenEntry(path, Mode.FILE, None, blob) for path in paths)
    session = Session(repository, project.events, CAPTURE)
    saved = session.begin({}, None, (), None, None, tree=tree)
    before = read_folder(project.root)
    with pytest.raises(ConflictError, match="where the store of this project lies"):
        project.restore(saved, project.root, force=force)
    assert read_folder(project.root).keys() == before.keys()
    project.restore(saved, project.root, paths=[b"good"], force=force)
    assert (project.root / "good").read_bytes() == b"evil"
    project.restore(saved, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / ".replicate" / "ctl" / "feat~write~evil").exists()


@pytest.mark.parametrize("name", [".git/hooks/post-commit", "sub/.GIT/config", ".Git"])
def test_what_git_would_obey_is_not_restored_unless_forced(tmp_path: Path, name: str) -> None:
    project = SampleProject(tmp_path / "w")
    project.write(name, "#!/bin/sh", executable=True)
    project.write("good", "1")
    session = project.begin()
    saved = project.save(session, [name, "good"])
    target = tmp_path / "out"
    with pytest.raises(ConflictError, match="which git would obey; nothing was written"):
        project.restore(saved, target)
    assert not target.exists()
    project.restore(saved, target, paths=[b"good"])
    assert [path.name for path in target.iterdir()] == ["good"]
    project.restore(saved, target, force=True)
    assert (target / name).read_text() == "#!/bin/sh"
