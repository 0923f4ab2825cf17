from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.experiment_history import ExperimentHistory
from replicate.transport.local import Disk
from tests.builders import noise
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, paths_of, store_files

FULL = re.compile(
    r"error: no space left to write \S+: (?P<needed>[\d,]+) bytes needed, (?P<free>[\d,]+) free; the store is intact\n"
    r"hint: free some space, or move the store with `store:` in replicate.yaml, and save again\n"
)


def newest(project: SampleProject) -> ExperimentHistory:
    """The experiment that began last."""
    return project.history().experiments[-1]


# -- the first save --------------------------------------------------------------------------------------------------


def test_the_first_checkpoint_begins_an_experiment(shell: Shell, project: SampleProject) -> None:
    result = shell("checkpoint", "-m", "loss=0.5")
    experiment = newest(project)
    assert experiment.root.commit.command == "replicate checkpoint -m loss=0.5"
    (checkpoint,) = experiment.checkpoints
    assert (checkpoint.commit.step, checkpoint.commit.metrics) == (0, {"loss": 0.5})
    begun, saved = result.err.splitlines()
    assert begun.startswith(f"experiment {experiment.experiment_id.short} · 2 files, 35 B · ")
    assert saved.startswith(f"checkpoint {checkpoint.commit_id.short} · step 0 · loss 0.5 · 35 B, 0 B new · ")
    assert (result.out, result.code) == ("", 0)
    (end,) = experiment.ends.values()
    assert end.status == "finished"


def test_a_folder_that_is_no_project_becomes_one(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "fresh"
    root.mkdir()
    (root / "train.py").write_text("x")
    monkeypatch.chdir(root)
    result = shell("checkpoint")
    assert result.err.splitlines()[0] == f"new project: checkpoints are stored in {root}/.replicate"
    assert shell("ls").code == 0
    assert (root / ".replicate" / ".gitignore").read_text() == "*\n"


def test_the_home_folder_becomes_no_project(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shell.fails(
        2,
        f"error: {tmp_path} is no place for a project: everything in it would be saved\n"
        "hint: run in the project's folder, or put a replicate.yaml here if you mean it\n",
        "checkpoint",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["-D", "--project-directory"])
def test_another_project_can_be_named(
    shell: Shell, project: SampleProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("checkpoint", "-q", flag, "project").code == 0
    assert shell(flag, "project", "checkpoint", "-q").code == 0
    assert len(project.experiment().checkpoints) == 2


# -- continuing ------------------------------------------------------------------------------------------------------


def test_a_second_checkpoint_continues_the_experiment(shell: Shell, project: SampleProject) -> None:
    assert shell("checkpoint", "-q").code == 0
    project.write("train.py", "changed\n")
    result = shell("checkpoint", "--step", "7")
    experiment = project.experiment()
    assert [one.commit.step for one in experiment.checkpoints] == [0, 7]
    continuing, saved = result.err.splitlines()
    assert continuing == f"continuing {experiment.experiment_id.short}, --new starts another"
    assert saved.startswith(f"checkpoint {experiment.checkpoints[1].commit_id.short} · step 7 · 25 B, 8 B new · ")


def test_it_continues_from_what_was_checked_out(shell: Shell, vision: Vision) -> None:
    assert shell("checkout", "-q", "baseline@latest").code == 0
    assert shell("checkpoint", "-q").code == 0
    baseline = vision.project.history().experiments[0]
    assert [one.commit.step for one in baseline.checkpoints] == [0, 1, 2, 3]
    assert len(baseline.heads) == 1


@pytest.mark.parametrize("flag", ["-e", "--experiment"])
def test_an_experiment_to_be_continued_can_be_named(shell: Shell, vision: Vision, flag: str) -> None:
    assert shell("checkpoint", "-q", flag, "baseline", "--metrics-only", "-m", "loss=0.1").code == 0
    baseline = vision.project.history().experiments[0]
    assert baseline.checkpoints[-1].commit.step == 3
    assert baseline.best is baseline.checkpoints[-1]
    assert len(baseline.heads) == 1


def test_a_checkpoint_can_be_continued_which_forks_and_is_told(shell: Shell, vision: Vision) -> None:
    first = vision.baseline.ids[0]
    result = shell("checkpoint", "-e", first)
    assert result.err.splitlines()[0] == (
        f"continuing {vision.baseline.short} baseline after {first[:7]} (step 0), which forks it, --new starts another"
    )
    assert len(vision.project.history().experiments[0].heads) == 2


def test_what_was_checked_out_is_forked_when_others_went_on_from_it(shell: Shell, vision: Vision) -> None:
    assert shell("checkout", "-q", "baseline@best").code == 0
    best = vision.baseline.ids[1][:7]
    assert f" after {best} (step 1), which forks it, " in shell("checkpoint").err
    assert len(vision.project.history().experiments[0].heads) == 2


def test_a_revision_that_is_none_begins_nothing_in_a_new_folder(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    assert shell("checkpoint", "-q", "-e", "nothing").code == 3
    assert list((tmp_path / "fresh").iterdir()) == []


def test_a_running_experiment_is_not_forked_by_accident(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    short = session.experiment_id.short
    shell.fails(
        4,
        f"error: experiment {short} is running; a checkpoint from here would fork it\n"
        f"hint: start another with --new, or fork it with -e {short}\n",
        "checkpoint",
    )
    assert shell("checkpoint", "-q", "-e", short).code == 0
    session.end("finished")


@pytest.mark.parametrize(
    "arguments", [("--new",), ("--name", "other"), ("-p", "lr=1"), ("--param", "lr=1"), ("--tag", "paper")]
)
def test_a_new_experiment_is_begun_on_request(shell: Shell, vision: Vision, arguments: tuple[str, ...]) -> None:
    assert shell("checkpoint", "-q", *arguments).code == 0
    assert len(vision.project.history().experiments) == 3


def test_a_new_experiment_has_name_params_and_tags(shell: Shell, project: SampleProject) -> None:
    arguments = ("--name", "base", "-p", "lr=0.01", "-p", "layers=[1, 2]", "--tag", "b", "--tag", "a", "-p", "note=x=y")
    result = shell("checkpoint", *arguments)
    root = project.experiment().root
    assert result.err.startswith(f"experiment {root.commit_id.short} base · ")
    assert root.commit.name == "base"
    assert root.commit.params == {"lr": 0.01, "layers": [1, 2], "note": "x=y"}
    assert root.commit.tags == ("a", "b")


def test_continuing_does_not_go_with_beginning(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: -e continues an experiment; it does not go with --new, --name, --param or --tag\n"
        "hint: see `replicate checkpoint --help`\n",
        *("checkpoint", "-e", "baseline", "--new"),
    )


# -- what is saved ---------------------------------------------------------------------------------------------------


def test_only_named_paths_replace_those_of_the_last_save(shell: Shell, vision: Vision, tmp_path: Path) -> None:
    vision.project.write("train.py", "changed\n")
    vision.project.write("model.bin", "changed\n")
    assert shell("checkpoint", "-q", "model.bin").code == 0
    assert shell("checkout", "-q", "latest", "-o", str(tmp_path / "out")).code == 0
    assert (tmp_path / "out" / "train.py").read_text() == "print('training')\n"
    assert (tmp_path / "out" / "model.bin").read_text() == "changed\n"


def test_paths_are_relative_to_the_current_folder(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("sub/a.txt", "x")
    assert shell("checkpoint", "-q").code == 0
    project.write("sub/b.txt", "x")
    monkeypatch.chdir(project.root / "sub")
    assert shell("checkpoint", "-q", "b.txt").code == 0
    assert shell("ls-tree", "-r", "--name-only", "latest").lines == [
        "replicate.yaml",
        "sub/a.txt",
        "sub/b.txt",
        "train.py",
    ]


def test_metrics_only_saves_no_file(shell: Shell, vision: Vision) -> None:
    vision.project.write("model.bin", "changed\n")
    assert shell("checkpoint", "-q", "--metrics-only", "-m", "loss=0.1").code == 0
    assert shell("show", "latest:model.bin").out == "warmup\n"
    assert shell("status").lines[-1] == "          M  model.bin"


def test_metrics_only_does_not_go_with_paths(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: --metrics-only saves no file; it does not go with PATHs\nhint: see `replicate checkpoint --help`\n",
        *("checkpoint", "--metrics-only", "train.py"),
    )


def test_secrets_are_left_out_and_told(shell: Shell, project: SampleProject) -> None:
    project.write(".env", "TOKEN=1")
    result = shell("checkpoint")
    assert result.err.splitlines()[0] == "not saved, as they may hold secrets (name them to save them): .env"
    assert ".env" not in shell("ls-tree", "-r", "latest").out


def test_secret_params_and_arguments_are_masked(shell: Shell, project: SampleProject) -> None:
    assert shell("checkpoint", "-q", "-p", "api_key=hunter2").code == 0
    assert project.experiment().root.commit.params == {"api_key": "***"}
    assert b"hunter2" not in b"".join(path.read_bytes() for path in store_files(project.store, "refs"))


@pytest.mark.parametrize("flag", ["-m", "--metric"])
def test_metrics_are_numbers_text_and_json(shell: Shell, project: SampleProject, flag: str) -> None:
    given = ("a=1", "b=0.5", "c=1e-3", "d=true", "e=none", "f=text", "g=[1, 2]", 'h={"i": 1}', "j=nan", "k=-inf", "l=")
    result = shell("checkpoint", "--json", *(word for one in given for word in (flag, one)))
    assert result.json["metrics"] == {
        "a": 1,
        "b": 0.5,
        "c": 0.001,
        "d": True,
        "e": None,
        "f": "text",
        "g": [1, 2],
        "h": {"i": 1},
        "j": "NaN",
        "k": "-Infinity",
        "l": "",
    }


def test_the_primary_metric_is_told_and_stays(shell: Shell, project: SampleProject) -> None:
    result = shell("checkpoint", "-m", "acc=0.5", "--primary-metric", "acc:maximize")
    assert " · step 0 · acc 0.5 · " in result.err
    assert shell("checkpoint", "-q", "-m", "acc=0.25").code == 0
    best = project.experiment().best
    assert best is not None
    assert best.commit.step == 0


def test_quiet_tells_nothing(shell: Shell, project: SampleProject) -> None:
    for flag in ("-q", "--quiet"):
        result = shell("checkpoint", flag)
        assert (result.out, result.err, result.code) == ("", "", 0)


def test_json_prints_the_checkpoint(shell: Shell, project: SampleProject) -> None:
    result = shell("checkpoint", "--json", "-q")
    saved = project.experiment().checkpoints[0]
    assert (result.json["id"], result.json["step"], result.json["files"]) == (saved.commit_id.hex(), 0, 2)
    assert result.json["experiment"] == project.experiment().experiment_id.hex()
    assert result.err == ""


# -- wrong arguments: nothing is written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "loss"), "--metric loss: it must be NAME=VALUE\n"),
        (("-m", "=1"), "--metric =1: it must be NAME=VALUE\n"),
        (("-p", "lr"), "--param lr: it must be NAME=VALUE\n"),
        (
            ("-m", "loss=99999999999999999999"),
            "metrics['loss'] is 99999999999999999999, which does not fit into 64 bits\nhint: pass it as text\n",
        ),
        (
            ("-p", "big=[-9223372036854775809]"),
            "params['big'][0] is -9223372036854775809, which does not fit into 64 bits\nhint: pass it as text\n",
        ),
        (("--primary-metric", "loss"), "--primary-metric loss: it must be NAME:minimize or NAME:maximize\n"),
        (
            ("-m", "loss=1", "--primary-metric", "loss:min"),
            "the goal of primary metric 'loss' is 'min'; it must be minimize or maximize\n",
        ),
        (
            ("-m", "loss=1", "-m", "acc=1", "--primary-metric", "f1:maximize"),
            "primary metric 'f1' is not in metrics (given: loss, acc)\n",
        ),
        (("--primary-metric", "f1:maximize"), "primary metric 'f1' is not in metrics (given: none)\n"),
        (("--name", "a/b"), "'a/b' is no name: it must not hold @ ~ : / or control characters\n"),
        (("--name", "cafe"), "'cafe' is no name: it looks like an id\n"),
        (("--name", "best"), "'best' is no name: it has a meaning as a revision\n"),
        (("--tag", "a:b"), "'a:b' is no name: it must not hold @ ~ : / or control characters\n"),
        (("--step", "9223372036854775808"), "step 9223372036854775808 does not fit into 64 bits\n"),
        (("-e", "nothing"), "no experiment or tag is named 'nothing'\nhint: `replicate ls` shows what there is\n"),
    ],
)
def test_a_wrong_argument_begins_nothing(
    shell: Shell, project: SampleProject, arguments: tuple[str, ...], message: str
) -> None:
    code = 3 if "no experiment" in message else 2
    shell.fails(code, f"error: {message}", "checkpoint", *arguments)
    assert project.history().experiments == []


@pytest.mark.parametrize("step", ["one", "1.5"])
def test_a_step_is_a_whole_number(shell: Shell, project: SampleProject, step: str) -> None:
    shell.fails(
        2,
        f"error: invalid value for '--step': '{step}' is not a valid integer\n"
        "hint: see `replicate checkpoint --help`\n",
        *("checkpoint", "--step", step),
    )


def test_a_path_that_does_not_exist_begins_nothing(shell: Shell, project: SampleProject) -> None:
    shell.fails(
        2,
        f"error: cannot save {project.root}/nope.txt: it does not exist\n"
        "hint: paths are relative to the current folder\n",
        *("checkpoint", "train.py", "nope.txt"),
    )
    assert not project.store.exists()


def test_a_path_outside_of_the_worktree_is_refused(shell: Shell, project: SampleProject, tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("x")
    result = shell("checkpoint", "../out.txt")
    assert result.err.splitlines()[0] == (f"error: {tmp_path}/out.txt is outside of the worktree {project.root}")
    assert (result.out, result.code) == ("", 2)
    assert not project.store.exists()


# -- what goes wrong while saving ------------------------------------------------------------------------------------


class FullDisk:
    """A disk that takes so many bytes and no more. `refused` is the length of the first write that it refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.refused: int | None = None
        write = Disk.write

        def limited(disk: Disk, path: str, data: bytes | bytearray | memoryview, *, sync: bool) -> None:
            self.room -= len(data)
            if self.room < 0:
                self.refused = self.refused or len(data)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(disk, path, data, sync=sync)

        monkeypatch.setattr(Disk, "write", limited)


@pytest.mark.parametrize("room", [0, 3_000, 100_000])
def test_a_full_disk_is_told_with_what_is_needed_and_the_store_stays_intact(
    shell: Shell, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    content = noise(9_000_000)
    vision.project.write("model.bin", content)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, room)
        result = shell("checkpoint", "-q")
    told = FULL.fullmatch(result.err)
    assert told is not None
    assert int(told["needed"].replace(",", "")) == disk.refused
    assert (result.out, result.code) == ("", 6)
    assert [one["num_checkpoints"] for one in shell("ls", "--json").json] == [1, 3]
    for number, checkpoint in enumerate(vision.baseline.ids):
        assert shell("checkout", "-q", checkpoint, "-o", str(tmp_path / f"{number}")).code == 0
        assert (tmp_path / f"{number}" / "model.bin").read_text() == f"baseline {number}\n"
    assert shell("checkpoint", "-q").code == 0
    assert shell("checkout", "-q", "latest", "-o", str(tmp_path / "after")).code == 0
    assert (tmp_path / "after" / "model.bin").read_bytes() == content


def test_a_full_disk_at_the_first_save_leaves_nothing_half(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("model.bin", bytes(range(256)) * 40)
    with monkeypatch.context() as patch:
        FullDisk(patch, 100)
        assert shell("checkpoint", "-q").code == 6
    assert shell("ls").err == "no experiments yet\n"
    assert shell("checkpoint", "-q").code == 0
    assert len(project.experiment().checkpoints) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_the_store_intact(
    shell: Shell, project: SampleProject, tmp_path: Path, small_disk: Path
) -> None:
    project.write("replicate.yaml", f"store: {small_disk}/store\ndurability: fast\n")
    assert shell("checkpoint", "-q").code == 0
    project.write("model.bin", noise(4_000_000))
    result = shell("checkpoint", "-q")
    told = FULL.fullmatch(result.err)
    assert told is not None
    assert int(told["free"].replace(",", "")) < int(told["needed"].replace(",", ""))
    assert result.code == 6
    assert len(shell("log", "--json").json) == 1
    assert shell("checkout", "-q", "latest", "-o", str(tmp_path / "out")).code == 0
    (project.root / "model.bin").unlink()
    assert shell("checkpoint", "-q").code == 0
    assert len(shell("log", "--json").json) == 2


def test_an_interrupted_save_is_told_and_ends_as_stopped(
    shell: Shell, vision: Vision, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(save: object, listings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("replicate.saving.Save._store_items", interrupt)
        result = shell("checkpoint", "-q")
    assert (result.out, result.err.strip(), result.code) == ("", "error: interrupted", 130)
    warmup = vision.project.history().experiments[1]
    assert [end.status for end in warmup.ends.values()].count("stopped") == 1


def test_a_bug_is_told_as_one_and_ends_as_failed(shell: Shell, vision: Vision, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(save: object, listings: object) -> None:
        raise ZeroDivisionError("oops")

    with monkeypatch.context() as patch:
        patch.setattr("replicate.saving.Save._store_items", stumble)
        result = shell("checkpoint", "-q")
    lines = result.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3:] == [
        "ZeroDivisionError: oops",
        "error: this is a bug in replicate",
        "hint: please report it with the lines above",
    ]
    assert (result.out, result.code) == ("", 70)
    assert shell("ls", "--json").json[0]["exception"] == "ZeroDivisionError: oops"


def test_an_unreadable_store_folder_is_told(shell: Shell, project: SampleProject) -> None:
    project.write(".replicate", "a file where the store should be")
    result = shell("checkpoint")
    assert result.code == 6
    assert result.err.startswith(f"error: cannot create {project.root}/.replicate: ")
    assert paths_of(project.root) == {"replicate.yaml", "train.py"}
