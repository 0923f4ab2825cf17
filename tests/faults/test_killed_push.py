"""`replicate push` is killed at any request, in bad weather, and begun again: the next one completes it."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.host import Host
from replicate.sync import create_store
from replicate.transport.remote import RemoteTransport, remote_transport
from tests.builders import noise
from tests.faults.machines import check_bucket, sizes
from tests.faults.storm import PASSING, Storm
from tests.projects import SampleProject
from tests.servers.process import HOST
from tests.servers.proxy import Fault, FaultProxy
from tests.sync.stores import Models, local

FIRST_REQUESTS = 12  # a push that finds nothing there makes no fewer


class Pushing:
    """A project whose pushes are processes. The nth request of one is its last, where that is wanted."""

    def __init__(self, folder: Path, upstream: int, seed: int) -> None:
        self.models = Models()
        self.project = SampleProject(folder / "project")
        self.chance = random.Random(f"pushing {seed}")
        place = f"s3://killed/{secrets.token_hex(8)}"
        self.bucket: RemoteTransport = remote_transport(place, {"endpoint": f"http://{HOST}:{upstream}"})
        create_store(self.bucket, Host())
        self._storm = Storm(seed, PASSING, longest=2)
        self._process: subprocess.Popen[str] | None = None
        self._left = 0
        self.proxy = FaultProxy(upstream)
        self.proxy.choose = self._choose
        endpoint = f"http://{HOST}:{self.proxy.port}"
        self.project.write("replicate.yaml", f"durability: fast\nrepository: {place}\nendpoint: {endpoint}\n")

    def _choose(self, request: str) -> Fault | None:
        self._left -= 1
        if self._left == 0 and self._process is not None:
            self._process.kill()
        return self._storm(request)

    def save(self) -> None:
        session = self.project.resume() if self.chance.random() < 0.5 and self.models.of else self.project.begin()
        self.models.keep(self.project, session.head.commit_id)
        for _ in range(2):
            self.project.write("weights.bin", noise(self.chance.randrange(100_000), f"{self.chance.random()}"))
            self.project.save(session)
            self.models.keep(self.project, session.head.commit_id)

    def push(self, kill_at: int = 0) -> int:
        """Run `replicate push` and return its exit code; it says that something failed, or nothing did."""
        self._left = kill_at
        command = [sys.executable, "-m", "replicate", "push", "-D", str(self.project.root)]
        with subprocess.Popen(command, env={**os.environ}, stderr=subprocess.PIPE, text=True) as process:
            self._process = process
            _, errors = process.communicate(timeout=120)
        assert process.returncode in ((0, 6, -9) if kill_at else (0, 6)), errors
        assert ("error: " in errors) == (process.returncode == 6), errors
        assert "Traceback" not in errors
        return process.returncode


def kill_pushes(folder: Path, port: int, seed: int, kills: int) -> None:
    pushing = Pushing(folder, port, seed)
    with pushing.proxy:
        pushing.save()
        killed = 0
        for _ in range(kills):
            killed += pushing.push(pushing.chance.randrange(1, FIRST_REQUESTS)) == -9
            if pushing.chance.random() < 0.5:
                pushing.save()
        assert killed
        assert any(pushing.push() == 0 for _ in range(20))
    assert sizes(local(pushing.project)) == sizes(pushing.bucket)
    check_bucket(folder, pushing.bucket, pushing.models)


def test_a_push_killed_at_any_request_is_completed_by_the_next(tmp_path: Path, port: int) -> None:
    kill_pushes(tmp_path, port, seed=1, kills=4)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_pushes_killed_two_hundred_times_are_completed_by_the_next(tmp_path: Path, port: int, seed: int) -> None:
    kill_pushes(tmp_path, port, seed, kills=10)


@pytest.mark.soak
def test_a_push_waits_for_storage_that_says_nothing_for_half_a_minute(tmp_path: Path, port: int) -> None:
    pushing = Pushing(tmp_path, port, seed=1)
    pauses = iter([Fault("pause", seconds=30.0)])
    pushing.proxy.choose = lambda request: next(pauses, None) if request.startswith("PUT") else None
    with pushing.proxy:
        pushing.save()
        assert pushing.push() == 0
    assert next(pauses, None) is None
    check_bucket(tmp_path, pushing.bucket, pushing.models)
