"""A process that saves all the time is killed at any moment, again and again: nothing that it saved is lost."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord
from tests.faults import saving_process
from tests.faults.saving_process import fingerprint
from tests.projects import SampleProject, check_store

LONGEST = 0.5  # seconds that a process lives once it has begun


class Killing:
    """Runs the process again and again on one project, and looks after each kill at what it left."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.project = SampleProject(folder / "project")
        self.log = folder / "log"
        self.verified: set[ObjectID] = set()
        self._chance = random.Random(seed)
        self._target = folder / "restored"

    def kill_one(self) -> None:
        """Start a process and kill it at a random moment."""
        begin = "resume" if self.verified and self._chance.random() < 0.5 else "new"
        seed = str(self._chance.randrange(1 << 30))
        process = subprocess.Popen(
            [sys.executable, saving_process.__file__, str(self.project.root), str(self.log), seed, begin],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            try:
                process.wait(self._chance.random() * LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.returncode == -9, process.stderr.read()

    def check(self, *, everything: bool = False) -> None:
        """What the process says that it saved is listed; what is listed and new (or everything) restores."""
        hashes: dict[int, str] = {}
        saved: dict[int, ObjectID] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            verb, number, text = line.split(" ")
            if verb == "saving":
                assert int(number) not in hashes
                hashes[int(number)] = text
            else:
                saved[int(number)] = ObjectID.parse(text)
        history = self.project.history()
        assert set(saved.values()) <= set(history.commits)
        assert history.rootless == []
        assert self.project.events.warnings == []
        for record in history.records():
            if everything or record.commit_id not in self.verified:
                self.project.restore(record, self._target)
                assert fingerprint(self._target) == hashes[number_of(record)]
                shutil.rmtree(self._target)
                self.verified.add(record.commit_id)
        check_store(self.project.store, 4 if everything else 2)


def number_of(record: CommitRecord) -> int:
    commit = record.commit
    number = commit.params["number"] if commit.is_root else commit.step
    assert isinstance(number, int)
    return number


def kill_many(folder: Path, times: int, seed: int) -> None:
    killing = Killing(folder, seed)
    for _ in range(times):
        killing.kill_one()
        killing.check()
    killing.check(everything=True)
    assert killing.verified  # the processes came to save


def test_a_process_killed_at_any_moment_loses_nothing_that_it_saved(tmp_path: Path) -> None:
    kill_many(tmp_path, 20, seed=1)


@pytest.mark.soak
def test_a_process_killed_two_hundred_times_loses_nothing_that_it_saved(tmp_path: Path) -> None:
    kill_many(tmp_path, 200, seed=2)
