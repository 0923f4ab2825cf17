"""`-R URL`: what reads a project reads a store elsewhere alike, where there is no project at all."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import replicate
from replicate.errors import InvalidInputError
from replicate.transport import LocalTransport
from replicate.transport.remote import remote_transport
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, read_folder

READING = (
    ("ls",),
    ("ls", "--json"),
    ("ls", "-f", "loss < 0.3", "-q"),
    ("ps", "--all", "--json"),
    ("log", "baseline"),
    ("log", "-n", "2", "--json"),
    ("show", "baseline"),
    ("show", "warmup@latest", "--json"),
    ("show", "baseline@best:train.py"),
    ("diff", "baseline", "warmup"),
    ("diff", "--json", "baseline@start", "baseline@best"),
    ("diff", "baseline@best", "baseline@latest", "--", "model.bin"),
    ("cat-file", "baseline@best:model.bin"),
    ("cat-file", "warmup@start"),
    ("ls-tree", "-r", "baseline@latest"),
    ("rev-parse", "baseline@best", "warmup"),
    ("rev-list", "baseline@latest"),
    ("show-ref",),
    ("show-ref", "-e", "warmup"),
    ("du",),
    ("du", "baseline", "--json"),
    ("du", "--files", "baseline@best"),
    ("fsck", "--json"),
    ("fsck", "--full", "--json", "warmup"),
)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in no project, which is the current one; caches lie beside it."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def url(vision: Vision, nowhere: Path) -> Iterator[str]:
    """A store elsewhere with everything that the project's has."""
    place = f"memory://{secrets.token_hex(8)}"
    remote, local = remote_transport(place), LocalTransport(vision.project.store)
    for info in local.list(""):
        remote.put(info.key, local.get(info.key))
    yield place
    remote.delete([info.key for info in remote.list("")])


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: " ".join(arguments))
def test_a_store_elsewhere_reads_as_the_project_does(
    shell: Shell, vision: Vision, url: str, nowhere: Path, arguments: tuple[str, ...]
) -> None:
    command, *rest = arguments
    here = shell(command, "-D", str(vision.project.root), *rest)
    for place in (url, url, str(vision.project.store)):  # cold, warm, and as a folder
        there = shell(command, "-R", place, *rest)
        expected = here.out.replace(str(vision.project.store), place) if command == "fsck" else here.out
        assert (there.out, there.code) == (expected, here.code)
    assert list(nowhere.iterdir()) == []


def test_checkout_restores_into_a_folder_that_is_named(
    shell: Shell, vision: Vision, url: str, nowhere: Path, tmp_path: Path
) -> None:
    result = shell("checkout", "-R", url, "baseline@latest", "-o", "out")
    assert result.code == 0
    vision.project.restore(vision.baseline.saves[-1], tmp_path / "expected")
    assert read_folder(nowhere / "out") == read_folder(tmp_path / "expected")
    assert shell("checkout", "-R", url, "baseline@best", "model.bin", "-o", "part").code == 0
    assert (nowhere / "part" / "model.bin").read_text() == "baseline 1\n"


def test_what_needs_a_worktree_asks_for_one(shell: Shell, url: str) -> None:
    result = shell("checkout", "-R", url, "baseline")
    assert (result.code, result.err.splitlines()[0]) == (
        2,
        "error: -R reads a store that has no worktree here: name a folder to restore into with -o DIR",
    )
    for revisions in ((), ("baseline",)):
        result = shell("diff", "-R", url, *revisions)
        assert (result.code, result.err.splitlines()[0]) == (
            2,
            "error: -R reads a store that has no worktree here: name two revisions",
        )


def test_hints_name_commands_that_read_the_same_store(shell: Shell, vision: Vision, url: str) -> None:
    latest = shell("rev-parse", "-R", url, "baseline@latest").lines[0][:7]
    for place in (url, "../team of two"):
        if place != url:
            assert shell("push", "-D", str(vision.project.root), "-R", place, "--create").code == 0
        quoted = f"'{place}'" if " " in place else place
        message = (
            f"error: {latest} has no 'nothing'\nhint: `replicate ls-tree -R {quoted} -r {latest}` lists its files\n"
        )
        shell.fails(3, message, "checkout", "-R", place, "baseline@latest", "nothing", "-o", "out")


def test_a_place_without_a_store_is_told(shell: Shell, vision: Vision, nowhere: Path) -> None:
    for command in ("ls", "fsck"):
        shell.fails(
            6,
            f"error: there is no store at {vision.project.root}\nhint: did you mean {vision.project.store}?\n",
            command,
            "-R",
            str(vision.project.root),
        )
    shell.fails(
        6,
        "error: there is no store at memory://nothing\nhint: correct the URL or the path\n",
        "ls",
        "-R",
        "memory://nothing",
    )
    shell.fails(2, "error: -R '': there is no such store\nhint: name a URL, or a folder\n", "ls", "-R", "")
    assert shell("ls", "-R", "s4://bucket").code == 2


def test_caches_lie_in_the_users_cache_folder(shell: Shell, url: str, tmp_path: Path) -> None:
    assert shell("ls", "-R", url).code == 0
    (own,) = (tmp_path / "caches" / "replicate").iterdir()
    assert (own / "refs.db").exists()
    assert list((own / "blocks").rglob("*~*")) != []


def test_the_projects_storage_options_are_for_its_kind_of_storage(
    shell: Shell, url: str, project: SampleProject
) -> None:
    project.write("replicate.yaml", "repository: s3://bucket/path\nregion: eu-west-1\n")
    assert shell("ls", "-R", url, "-D", str(project.root)).code == 0


def test_experiments_are_read_in_python(vision: Vision, url: str, tmp_path: Path) -> None:
    for place in (url, str(vision.project.store)):
        experiments = replicate.ExperimentCollection(repository=place)
        assert [one.name for one in experiments] == ["baseline", "warmup"]
        best = experiments.get("baseline").best()
        assert best is not None
        assert best.open("model.bin").read() == b"baseline 1\n"
        best.checkout(tmp_path / "out", force=True)
        assert (tmp_path / "out" / "model.bin").read_bytes() == b"baseline 1\n"


def test_a_store_elsewhere_is_only_read(vision: Vision, url: str, nowhere: Path) -> None:
    experiment = replicate.ExperimentCollection(repository=url).get("baseline")
    changes: list[Callable[[], object]] = [
        experiment.delete,
        functools.partial(experiment.tag, "golden"),
        functools.partial(experiment.start.tag, "golden"),
    ]
    for change in changes:
        with pytest.raises(InvalidInputError, match="is only read: it is no project's own store"):
            change()
    assert list(nowhere.iterdir()) == []


def test_doctor_tries_out_the_repository(shell: Shell, vision: Vision, url: str) -> None:
    for arguments, place in ((("-R", url), url), (("-D", str(vision.project.root)), str(vision.project.store))):
        result = shell("doctor", *arguments)
        assert (result.code, result.err) == (0, "all is in order\n")
        assert result.lines[0] == place
        assert result.rows[1] == ["reach", "ok", "a", "store", "of", "format", "1"]
    vision.project.write("replicate.yaml", f"repository: {url}\n")
    result = shell("doctor", "--json", "-D", str(vision.project.root))
    assert (result.json["repository"], result.json["ok"]) == (url, True)
    assert {one["name"]: one["value"] for one in result.json["findings"]}["upload"] > 0


def test_doctor_says_what_is_wrong(shell: Shell, nowhere: Path) -> None:
    result = shell("doctor", "-R", str(nowhere))
    assert (result.code, result.err) == (6, "1 thing is wrong\n")
    assert result.lines == [
        str(nowhere),
        f"reach  wrong  there is no store at {nowhere}",
        "              do: correct the path, or `replicate push --create`",
    ]
