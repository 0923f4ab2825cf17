"""Many worktrees that share one store and save at once: nothing is lost, and everything restores."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicate.config import Project
from replicate.errors import ReplicateError
from replicate.history import History
from replicate.host import Host
from replicate.objects.ids import ObjectID
from replicate.reporting import SilentReporter
from replicate.repository import Repository
from replicate.restoring import checkout
from tests.projects import SampleProject, read_folder

WORKER = """
import json, os, random, sys
import replicate

me, count, resume = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
numbers = random.Random(me)
experiment = replicate.init(quiet=True, resume=resume) if resume else None
print("ready", flush=True)
sys.stdin.readline()
experiment = experiment or replicate.init(quiet=True)
folder = f"worker-{me}"
os.makedirs(folder, exist_ok=True)
for step in range(count):
    with open(f"{folder}/own", "wb") as file:
        file.write(numbers.randbytes(200_000))
    with open(f"{folder}/shared-{step}", "wb") as file:
        file.write(random.Random(step).randbytes(300_000))
    with open(f"{folder}/log", "a") as file:
        file.write(f"step {step}\\n")
    saved = experiment.checkpoint(step=step, metrics={"worker": me})
    print(json.dumps({"id": saved.id, "experiment": saved.experiment_id}), flush=True)
"""


def expected(worker: int, steps: int) -> dict[bytes, bytes]:
    """Return what a worker's folder holds after so many steps."""
    numbers = random.Random(worker)
    own = [numbers.randbytes(200_000) for _ in range(steps)][-1]
    files = {b"own": own, b"log": b"".join(b"step %d\n" % step for step in range(steps))}
    for step in range(steps):
        files[b"shared-%d" % step] = random.Random(step).randbytes(300_000)
    return files


@dataclass(frozen=True)
class Reported:
    """A checkpoint that a worker reported as saved."""

    commit: ObjectID
    experiment: ObjectID
    worker: int
    step: int


def run_workers(folders: Sequence[Path], count: int, *, resume: str = "") -> list[Reported]:
    """Start a worker in every folder, let all go at once, and return what they reported.

    Those that resume an experiment have all done so before the first one saves.
    """
    workers = []
    for number, folder in enumerate(folders):
        command = [sys.executable, "-W", "error", "-c", WORKER, str(number), str(count), resume]
        pipe = subprocess.PIPE
        workers.append(subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    reported = []
    for number, worker in enumerate(workers):
        output, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
        assert not errors or (
            resume and re.fullmatch(r"warning: \w{7} is running: what both save .* forks it\n", errors)
        )
        for step, line in enumerate(output.splitlines()):
            told = json.loads(line)
            ids = ObjectID.parse(told["id"]), ObjectID.parse(told["experiment"])
            reported.append(Reported(*ids, number, step))
    assert len(reported) == len(folders) * count
    return reported


def worktrees(place: Path, count: int) -> list[Path]:
    """Return so many projects that share one store."""
    found = []
    for number in range(count):
        folder = place / f"w{number}"
        folder.mkdir()
        (folder / "replicate.yaml").write_text("store: ../store\ndurability: fast\n")
        found.append(folder)
    return found


def open_store(place: Path) -> Repository:
    return Repository(Project(str(place), str(place / "store")), Host(), SilentReporter())


def check_all(repository: Repository, reported: list[Reported], place: Path) -> History:
    """Every reported checkpoint is listed where it belongs and restores what its worker had."""
    history = repository.history()
    assert set(history.commits) >= {one.commit for one in reported}
    assert len({one.commit for one in reported}) == len(reported)
    for one in reported:
        record = history.commits[one.commit]
        assert record.name.experiment == one.experiment
        assert (record.commit.step, record.commit.metrics) == (one.step, {"worker": one.worker})
        target = place / f"out-{one.commit.short}"
        checkout(repository, record, str(target), SilentReporter())
        found = {path: content for path, (_, content) in read_folder(target / f"worker-{one.worker}").items()}
        assert found == expected(one.worker, one.step + 1)
    return history


@pytest.mark.parametrize(("processes", "count"), [(2, 10), (8, 4)])
def test_worktrees_with_experiments_of_their_own_lose_nothing(tmp_path: Path, processes: int, count: int) -> None:
    reported = run_workers(worktrees(tmp_path, processes), count)
    history = check_all(open_store(tmp_path), reported, tmp_path)
    assert len(history.experiments) == processes
    for experiment in history.experiments:
        assert [record.commit.seq for record in experiment.checkpoints] == list(range(1, count + 1))
        assert len(experiment.heads) == 1
        assert [end.status for end in experiment.ends.values()] == ["finished"]


@pytest.mark.parametrize(("processes", "count"), [(2, 10), (8, 4)])
def test_worktrees_that_continue_one_experiment_are_visible_forks(tmp_path: Path, processes: int, count: int) -> None:
    folders = worktrees(tmp_path, processes)
    project = SampleProject(folders[0], store=tmp_path / "store")
    session = project.begin(name="shared")
    session.end("finished")
    reported = run_workers(folders, count, resume="shared")
    (experiment,) = check_all(open_store(tmp_path), reported, tmp_path).experiments
    assert {one.experiment for one in reported} == {experiment.experiment_id}
    assert len(experiment.checkpoints) == processes * count
    last = {one.commit for one in reported if one.step == count - 1}
    assert {head.commit_id for head in experiment.heads} == last
    assert len(experiment.starts) == processes + 1
    seqs = {record.commit_id: record.commit.seq for record in experiment.records}
    for record in experiment.checkpoints:
        assert record.commit.seq == seqs[record.commit.parents[0]] + 1


def test_worktrees_that_begin_a_store_at_once_begin_one(tmp_path: Path) -> None:
    reported = run_workers(worktrees(tmp_path, 8), 1)
    repository = open_store(tmp_path)
    check_all(repository, reported, tmp_path)
    names = sorted(os.listdir(tmp_path / "store" / "ctl"))
    assert names[-1] == "v1"
    assert all(name.startswith("store~") for name in names[:-1])


def test_a_reader_sees_whole_checkpoints_only_while_others_save(tmp_path: Path) -> None:
    folders = worktrees(tmp_path, 2)
    command = [sys.executable, "-W", "error", "-c", WORKER]
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen([*command, str(number), "15", ""], cwd=folder, stdin=pipe, stdout=pipe, text=True)
        for number, folder in enumerate(folders)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    seen: set[ObjectID] = set()
    failures: list[ReplicateError] = []
    while any(worker.poll() is None for worker in workers) or not seen:
        repository = open_store(tmp_path)
        for record in repository.history().records():
            if record.commit_id in seen or record.commit.is_root:
                continue
            seen.add(record.commit_id)
            try:
                target = tmp_path / f"out-{record.commit_id.short}"
                checkout(repository, record, str(target), SilentReporter())
            except ReplicateError as exc:
                failures.append(exc)
                continue
            number, step = record.commit.metrics["worker"], record.commit.step
            assert step is not None
            found = {path: content for path, (_, content) in read_folder(target / f"worker-{number}").items()}
            assert found == expected(number, step + 1)
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    assert failures == []
    assert len(seen) > 0
