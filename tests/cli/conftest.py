"""What the tests of commands have: a project, experiments in it, and a shell that stands in it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicate.host import Host
from replicate.saving import Saved
from replicate.session import Session
from tests.cli.shell import Shell
from tests.projects import SampleProject

HOUR_NS = 3600 * 10**9


@pytest.fixture
def shell(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Run commands in the current folder."""
    return Shell(capsysbinary, monkeypatch)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SampleProject:
    """A project with one file, which is the current folder. Its sessions begin two hours ago, a second apart."""
    seconds = itertools.count(time.time_ns() - 2 * HOUR_NS, 10**9)
    project = SampleProject(tmp_path / "project", host=Host(now_ns=lambda: next(seconds)))
    project.write("replicate.yaml", "durability: fast\n")
    project.write("train.py", "print('training')\n")
    monkeypatch.chdir(project.root)
    return project


@dataclass(frozen=True)
class Ran:
    """An experiment that ended, and its checkpoints."""

    session: Session
    saves: tuple[Saved, ...]

    @property
    def id(self) -> str:
        """The experiment's id in hex."""
        return self.session.experiment_id.hex()

    @property
    def short(self) -> str:
        """Its first 7 digits."""
        return self.id[:7]

    @property
    def ids(self) -> list[str]:
        """The checkpoints' ids in hex, oldest first."""
        return [saved.base.record.commit_id.hex() for saved in self.saves]


@dataclass(frozen=True)
class Vision:
    """A project with two experiments: `baseline` got better and worse again, `warmup` failed."""

    project: SampleProject
    baseline: Ran
    warmup: Ran


@pytest.fixture
def vision(project: SampleProject) -> Vision:
    """Two experiments that differ in `lr`; model.bin is another in every checkpoint."""
    baseline = project.begin({"lr": 0.1, "model": "resnet"}, name="baseline", primary_metric=("loss", "minimize"))
    saves = []
    for step, loss in enumerate((1.0, 0.25, 0.5)):
        project.write("model.bin", f"baseline {step}\n")
        saves.append(project.save(baseline, step=step, metrics={"loss": loss, "acc": 1 - loss}))
    baseline.end("finished")
    warmup = project.begin({"lr": 0.01, "model": "resnet"}, name="warmup", primary_metric=("loss", "minimize"))
    project.write("model.bin", "warmup\n")
    saved = project.save(warmup, step=10, metrics={"loss": 0.75, "acc": 0.25})
    warmup.end("failed", MemoryError("tried to allocate 2.1 GB"))
    return Vision(project, Ran(baseline, tuple(saves)), Ran(warmup, (saved,)))
