"""Every captured field, however the process is started: script, -m, -c, stdin, pytest, notebook."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import replicate
from replicate.capture.git import Git, GitFacts
from replicate.cli import run
from replicate.collection import ExperimentCollection
from replicate.environment import Environment
from replicate.experiment import Experiment
from tests.projects import git

TRAIN = """\
import sys
sys.modules["psutil"] = None  # not installed, as far as anyone can tell
import yaml
import replicate
replicate.init(params={"lr": 0.1})
replicate.checkpoint(step=0)
"""
ALWAYS = {"user", "host", "command", "cwd", "pid", "python", "platform", "cpu", "memory"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in a Git worktree, with a script, a package, and a test."""
    folder = Path(os.path.realpath(tmp_path)) / "project"
    (folder / "pkg").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "__main__.py").write_text(TRAIN)
    (folder / "test_it.py").write_text("def test_it():\n    import train\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    (folder / "train.py").write_text(TRAIN + "# changed\n")
    return folder


def start(folder: Path, *arguments: str, text: str = "", **variables: str) -> None:
    """Run Python in a folder and expect that it ends well."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "LOGNAME": "ada", **variables},
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def only(folder: Path) -> Experiment:
    (found,) = ExperimentCollection(folder).list()
    return found


def check_facts(
    folder: Path, command: str, *more: str, without: frozenset[str] = frozenset(), code: int | None = 0
) -> Environment:
    """Check every field of the only experiment in a folder."""
    found = only(folder)
    capture = dict(found._history.starts[0].capture)
    assert set(capture) - {"gpus"} == (ALWAYS | {"git", *more}) - without
    assert (found.command, capture["command"]) == (command, command)
    assert (capture["user"], capture["host"], capture["cwd"]) == ("ada", platform.node(), str(folder))
    assert (capture["python"], capture["platform"]) == (platform.python_version(), platform.platform())
    assert capture["pid"] != os.getpid()
    assert capture["cpu"]["count"] == os.cpu_count()
    assert capture["memory"] > 1 << 20
    if "git" not in without:
        assert capture["git"] == {"commit": git(folder, "rev-parse", "HEAD"), "branch": "main", "dirty": True}
    environment = Environment(found._repository, found._history.starts[0])
    assert {"pyyaml", "replicate-vc"} <= {name.lower() for name in found.imported_packages}
    assert "pytest" in found.packages
    assert found.packages["PyYAML"] == found.imported_packages["PyYAML"]
    assert environment.machine["cpu"]["model"] == capture["cpu"]["model"]
    assert environment.python["version"] == sys.version
    assert (b"+# changed" in environment.patch) is ("git" not in without)
    (end,) = found._history.ends.values()
    assert (found.status, end.exit_code) == ("finished", code)
    return environment


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train.py", "--lr", "0.1"], "python train.py --lr 0.1"),
        (["-m", "pkg", "a"], "python -m pkg a"),
        (["-c", TRAIN, "a"], "python -c … a"),
        (["-"], "python -"),
        ([], "python"),
        (["-m", "pytest", "-q", "-p", "no:cacheprovider"], "python -m pytest -q -p no:cacheprovider"),
        ([os.path.join(os.path.dirname(sys.executable), "pytest"), "-q"], "pytest -q"),
    ],
)
def test_every_field_is_captured_however_it_is_started(root: Path, arguments: list[str], command: str) -> None:
    start(root, *arguments, text=TRAIN)
    is_test = "pytest" in command  # which ends by sys.exit(main()): that is not told, see replicate.ending
    environment = check_facts(root, command, code=None if is_test else 0)
    assert any(one.name == "pytest" and one.is_imported for one in environment.packages) is is_test


def test_without_git_there_is_less_and_nothing_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    start(root, "train.py", PATH=str(tmp_path / "empty"))
    check_facts(root, "python train.py", without=frozenset({"git"}))


@pytest.mark.parametrize("script", ["exit 1", "echo garbage", "kill -9 $$"])
def test_with_a_broken_git_there_is_less(root: Path, tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    start(root, "train.py", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    check_facts(root, "python train.py", without=frozenset({"git"}))


KERNEL = """\
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(cwd=sys.argv[1])
cells = (sys.stdin.read(), "raise ValueError('in a cell')", "sys.exit(3)", "assert replicate.checkpoint().step == 1")
for cell in cells:
    print(client.execute_interactive(cell, timeout=60)["content"]["status"])
manager.shutdown_kernel()
"""


@pytest.mark.parametrize(("notebook", "command"), [("", "jupyter"), ("train.ipynb", "jupyter train.ipynb")])
def test_every_field_is_captured_in_a_notebook(root: Path, tmp_path: Path, notebook: str, command: str) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[dev]'")
    told = {"JPY_SESSION_NAME": str(root / notebook)} if notebook else {}
    start(
        root, "-c", KERNEL, str(root), text=TRAIN, IPYTHONDIR=str(tmp_path), JUPYTER_RUNTIME_DIR=str(tmp_path), **told
    )
    check_facts(root, command, "notebook", code=None)
    found = only(root)
    assert found._history.starts[0].capture["notebook"] == (str(root / notebook) if notebook else True)
    assert found.checkpoints.step == [0, 1]


def test_equal_processes_share_their_environment(root: Path) -> None:
    for _ in range(2):
        start(root, "train.py")
    first, second = (one._history.starts[0] for one in ExperimentCollection(root).list())
    assert first.environment == second.environment


def test_what_git_could_not_tell_is_said_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notice = "git did not answer in 5 s: the commit is not recorded"

    def late(git: Git, remaining: object) -> GitFacts:
        git.kill()
        return GitFacts(notices=(notice,))

    monkeypatch.setattr("replicate.capture.git.Git.collect", late)
    monkeypatch.chdir(root)
    assert run(["checkpoint", "--name", "late"]) == 0
    assert capsys.readouterr().err.count(notice) == 1
    assert "git" not in only(root)._history.starts[0].capture


def test_show_tells_where_it_ran(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git(root, "remote", "add", "origin", "https://ada:abc@example.org/x.git")
    start(root, "train.py")
    monkeypatch.chdir(root)
    commit, machine = git(root, "rev-parse", "HEAD"), Environment(only(root)._repository, only(root)._history.starts[0])
    assert run(["show", only(root).short_id]) == 0
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    facts = {one[0]: one[1] for one in shown if len(one) == 2}
    assert facts["git"] == f"{commit[:7]} on main (dirty)"
    assert facts["remote"] == "https://example.org/x.git"
    assert facts["machine"].startswith(f"{os.cpu_count()} × {machine.machine['cpu']['model']}, ")
    assert f"PyYAML {only(root).packages['PyYAML']}" in facts["packages"]
    assert facts["packages"].endswith(" others installed")
    assert run(["show", only(root).short_id, "-p"]) == 0
    assert "+# changed\n" in capsys.readouterr().out
    assert run(["show", only(root).short_id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["end"] == {"status": "finished", "exit": 0, "exception": None}
    assert "PyYAML" in found["imported"]
    assert found["capture"]["git"]["commit"] == commit
    assert found["machine"]["cpu"] == machine.machine["cpu"]
    assert "+# changed\n" in found["git_patch"]
    assert replicate.__version__
