"""The shell script of `docs/plumbing.md` builds an experiment from plumbing alone; the other commands know it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate
from replicate.checkpoints import Checkpoint
from replicate.objects.ids import blob_id
from replicate.reporting import SilentReporter
from tests.builders import noise
from tests.cli.shell import Shell
from tests.projects import SampleProject, read_folder

DOCUMENT = Path(replicate.__file__).parent.parent / "docs" / "plumbing.md"
(SCRIPT,) = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    """Run a script of sh in which `replicate` is a function."""
    script = f'replicate() {{ {sys.executable} -W error -m replicate "$@"; }}\n{text}'
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


def make_workshop(folder: Path) -> SampleProject:
    """Return a project with files to build from and no store yet."""
    project = SampleProject(folder)
    project.write("replicate.yaml", "durability: fast\n")
    project.write("code/train.py", "print('training')\n")
    project.write("weights.bin", noise(9_000_000))
    return project


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SampleProject:
    """A project with files to build from; the current folder."""
    project = make_workshop(tmp_path / "workshop")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the script once: the store that it made, and what it printed."""
    project = make_workshop(tmp_path_factory.mktemp("ran"))
    result = run_script(f"cd {project.root}\n{SCRIPT}")
    assert (result.stderr, result.returncode) == ("", 0)
    return project.store, result.stdout


@pytest.fixture
def built(ran: tuple[Path, str], workshop: SampleProject) -> tuple[str, str, str]:
    """What the script makes, in the project: the ids of a root and of two checkpoints."""
    shutil.copytree(ran[0], workshop.store)
    root, one, two = ran[1].split()
    return root, one, two


def test_what_a_script_built_is_restored_byte_for_byte(
    workshop: SampleProject, built: tuple[str, str, str], tmp_path: Path
) -> None:
    assert run_script(f"replicate checkout -q {built[2]} -o {tmp_path}/out").returncode == 0
    assert read_folder(tmp_path / "out") == {
        b"code": ("folder", b""),
        b"code/train.py": ("executable", b"print('training')\n"),
        b"code/latest.py": ("link", b"train.py"),
        b"out": ("folder", b""),
        b"out/deep": ("folder", b""),
        b"out/deep/weights.bin": ("file", noise(9_000_000)),
        b"out/log": ("file", b"step 6\n"),
    }


def test_every_command_knows_what_a_script_built(
    built: tuple[str, str, str], shell: Shell, workshop: SampleProject
) -> None:
    root, one, two = built
    (listed,) = shell("ls", "--json").json
    assert (listed["id"], listed["name"], listed["params"]) == (root, "made", {"lr": 0.1})
    assert (listed["status"], listed["tags"], listed["heads"]) == ("finished", ["hand"], [two])
    assert listed["best_checkpoint"]["id"] == one
    assert [(row["id"], row["step"]) for row in shell("log", "made", "--json").json] == [(two, 6), (one, 5)]
    assert shell("show", "made@best", "--json").json["metrics"] == {"loss": 0.5, "note": "fine"}
    assert shell("show", "made@latest:out/log").out == "step 6\n"
    assert shell("rev-list", "made").lines == [two, one, root]
    assert [row[0] for row in shell("show-ref").rows if row[0] == "c"] == ["c"] * 3
    assert shell("checkpoint", "-q").code == 0  # an experiment of the worktree: it is at no commit of the other
    assert len(workshop.history().experiments) == 2


def test_what_a_script_built_is_whole(built: tuple[str, str, str], workshop: SampleProject, shell: Shell) -> None:
    """Every object is found by the locator of its own commit, and read and verified."""
    assert shell("fsck", "--full").code == 0
    repository = workshop.open()
    (experiment,) = workshop.history().experiments
    assert [record.commit_id.hex() for record in experiment.records] == list(built)
    for record in experiment.records:
        checkpoint = Checkpoint(repository, record, SilentReporter())
        packs = {place.pack for place in repository.view(record.locator)}
        assert packs <= repository.refs.read_packset(record.packset)
        for file in checkpoint.files():
            if file.kind != "symlink":
                assert blob_id(checkpoint.open(file.path).read()).hex() == file.object_id
        assert checkpoint.size_bytes == sum(file.size_bytes for file in checkpoint.files() if file.kind != "symlink")


def test_an_experiment_begun_by_a_script_is_continued_from_python(
    built: tuple[str, str, str], workshop: SampleProject
) -> None:
    session = workshop.resume()
    saved = workshop.save(session, ["weights.bin"], metrics={"loss": 0.25})
    session.end("finished")
    assert saved.base.record.commit.parents[0].hex() == built[2]
    assert saved.base.record.commit.step == 7
    assert saved.new_bytes == 0
    assert saved.files == 4


def test_what_was_stored_and_not_committed_harms_nothing(workshop: SampleProject, shell: Shell) -> None:
    blob = shell("hash-object", "-w", "weights.bin").lines[0]
    assert shell("ls").code == 1  # there is no experiment
    assert shell("cat-file", "-s", blob).out == "9000000\n"
    assert shell("fsck", "--full").code == 0
    before = {path: path.stat().st_size for path in (workshop.store / "packs").rglob("*") if path.is_file()}
    assert shell("checkpoint", "-q").code == 0
    after = {path: path.stat().st_size for path in (workshop.store / "packs").rglob("*") if path.is_file()}
    assert sum(after.values()) - sum(before.values()) < 100_000  # the save relied on it


@pytest.mark.parametrize("cache", ["kept", "lost"])
def test_another_process_finds_what_one_stored(workshop: SampleProject, shell: Shell, cache: str) -> None:
    blob = shell("hash-object", "-w", "weights.bin").lines[0]
    if cache == "lost":
        for path in (workshop.store / "local").rglob("objects.db"):
            path.unlink()
    tree = _piped(f"file - {blob}\tw.bin\n", "write-tree")
    commit = _piped("", "commit-tree", tree)
    assert _piped("", "cat-file", "-s", f"{commit}:w.bin") == "9000000"


def _piped(text: str, *arguments: str) -> str:
    """Return what a command prints for text on its standard input."""
    command = [sys.executable, "-m", "replicate", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout.strip()


def test_answers_come_one_by_one(built: tuple[str, str, str], ask: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A program may ask, wait for the answer, and ask again."""
    with ask("cat-file", "--batch-check") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name, kind in ((b"made", b"commit"), (b"made:code", b"tree")):
            process.stdin.write(name + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().split()[1] == kind
        process.stdin.close()
        assert process.wait() == 0


@pytest.fixture
def ask(workshop: SampleProject) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command with pipes for its streams."""

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "replicate", *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)

    return start
