"""Two machines that save, push and pull through a storm, and what has to be true of their bucket whatever happens."""

from __future__ import annotations

import errno
import itertools
import os
import random
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replicate.errors import StorageError, StorageMissingError, StorageReplacedError
from replicate.host import Host
from replicate.refs import CommitRecord
from replicate.restoring import checkout
from replicate.session import Session
from replicate.sync import Copied, create_store
from replicate.transport import LocalTransport, Transport
from replicate.transport.remote import Patience, RemoteTransport, remote_transport
from tests.builders import noise
from tests.elsewhere import elsewhere
from tests.faults.power import FaultDisk
from tests.faults.storm import Storm
from tests.projects import Events, SampleProject, check_store, read_folder
from tests.servers.process import HOST
from tests.servers.proxy import FaultProxy
from tests.sync.stores import SYNCED, Models, check_restores, contents, local, pull_from, push_to

BRIEF = Patience(attempts=3, first_wait=0.0, longest_wait=0.0, timeout=0.5, slowest_rate=1 << 40)
MOST_TRIES = 300
ROUNDS = 3


def check_bucket(folder: Path, bucket: Transport, models: Models) -> SampleProject:
    """Everything that was ever saved is in a bucket: a new machine gets all of it, and restores it byte for byte."""
    fresh = SampleProject(folder / "fresh")
    done = pull_from(fresh, bucket)
    assert (done.left, done.failures, fresh.events.warnings) == (0, (), [])
    check_store(fresh.store)
    check_restores(fresh, models, models.of)
    assert fresh.history().rootless == []
    return fresh


class Machine:
    """One project, whose disk is full now and then while it pulls."""

    def __init__(self, folder: Path, models: Models, seed: str) -> None:
        self._chance = random.Random(seed)
        self._models = models
        self._names = (f"{folder.name}-{number}" for number in itertools.count())
        self._is_full = False
        disk = FaultDisk(before=self._fill)
        transport = LocalTransport(folder / ".replicate", durability="fast", disk=disk)
        self.project = SampleProject(folder, transport=transport)

    def _fill(self, call: str, path: str) -> None:
        if self._is_full and call == "write" and self._chance.random() < 0.03:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(self) -> None:
        """Begin an experiment, or go on with one, whoever began it."""
        session = self._session()
        for _ in range(self._chance.randrange(1, 4)):
            size = self._chance.choice((10, 5_000, 200_000))
            self.project.write("weights.bin", noise(size, f"{self._chance.random()}"))
            self.project.save(session, metrics={"loss": self._chance.random()})
            self._models.keep(self.project, session.head.commit_id)
        if self._chance.random() < 0.5:
            session.end("finished")

    def _session(self) -> Session:
        experiments = self.project.history().experiments if self.project.store.exists() else []
        if experiments and self._chance.random() < 0.5:
            return self.project.resume(self._chance.choice(experiments).experiment_id)
        self.project.write("train.py", f"{self._chance.random()}\n")
        session = self.project.begin(name=next(self._names))
        self._models.keep(self.project, session.head.commit_id)
        return session

    def push(self, remote: RemoteTransport) -> Copied:
        return push_to(self.project, remote, jobs=self._chance.choice((1, 2, 8)))

    def pull(self, remote: RemoteTransport) -> Copied:
        self._is_full = True
        try:
            return pull_from(self.project, remote, jobs=self._chance.choice((1, 2, 8)))
        finally:
            self._is_full = False

    def records(self) -> list[CommitRecord]:
        return list(self.project.history().records())

    def held(self) -> dict[str, int | None]:
        return sizes(local(self.project))


def sizes(transport: Transport) -> dict[str, int | None]:
    """Return every record and pack of a store, with its length: what they hold is for the end."""
    return {info.key: info.size for top in SYNCED for info in transport.list(top)}


class Team:
    """Two machines and a bucket behind a storm.

    Args:
        folder: For projects.
        upstream: The port of the storage.
        seed: Of the storm, and of what the machines do.
        on_down: Called when the storage is to be killed and started again.

    Attributes:
        refusals: The kinds of errors that commands ended with.
    """

    def __init__(self, folder: Path, upstream: int, seed: int, on_down: Callable[[], object] = lambda: None) -> None:
        self._folder = folder
        self._chance = random.Random(f"team {seed}")
        self._models = Models()
        self._machines = [Machine(folder / name, self._models, f"{name} {seed}") for name in ("one", "two")]
        self._place = f"s3://storm/{secrets.token_hex(8)}"
        self._direct = remote_transport(self._place, {"endpoint": f"http://{HOST}:{upstream}"})
        self._proxy = FaultProxy(upstream)
        self._proxy.choose = self.storm = Storm(seed)
        self._proxy.on_down = on_down
        self.refusals: Counter[str] = Counter()

    def play(self) -> None:
        """Save, push and pull until everything is everywhere; check all that was promised on the way, and the end."""
        with self._proxy:
            remote = self._open()
            self._repeat(lambda: create_store(remote, Host()))
            for _ in range(ROUNDS):
                for machine in self._machines:
                    machine.save()
                if self._chance.random() < 0.5:
                    remote = self._open()
                self._push(remote)
                if self._chance.random() < 0.5:
                    self._pull(self._chance.choice(self._machines), remote)
            for machine in self._machines:
                self._pull(machine, remote)
            self._read(remote)
        self._check()

    def _open(self) -> RemoteTransport:
        return remote_transport(self._place, {"endpoint": f"http://{HOST}:{self._proxy.port}"}, patience=BRIEF)

    def _try(self, act: Callable[[], object]) -> bool:
        """Return whether something was done; if not, an error about storage said so."""
        try:
            done = act()
        except StorageError as exc:
            errors = [exc]
        else:
            failures = done.failures if isinstance(done, Copied) else ()
            errors = [one.error for one in failures if isinstance(one.error, StorageError)]
            assert len(errors) == len(failures), failures
            assert not isinstance(done, Copied) or bool(done.left) == bool(failures)
        assert not any(isinstance(one, StorageReplacedError | StorageMissingError) for one in errors), errors
        assert all(one.hint for one in errors), errors
        self.refusals.update(one.kind for one in errors)
        if errors and self._chance.random() < 0.8:
            self._proxy.is_up.wait(30)
        return not errors

    def _repeat(self, act: Callable[[], object]) -> None:
        assert any(self._try(act) for _ in range(MOST_TRIES)), "it came to no end"

    def _push(self, remote: RemoteTransport) -> None:
        """Both push at once. Once that is said to be done, all that they have is there."""
        with ThreadPoolExecutor() as pool:
            for one in [pool.submit(self._repeat, lambda m=m: m.push(remote)) for m in self._machines]:  # type: ignore[misc]
                one.result()
        there = sizes(self._direct)
        for machine in self._machines:
            assert machine.held().items() <= there.items()

    def _pull(self, machine: Machine, remote: RemoteTransport) -> None:
        self._repeat(lambda: machine.pull(remote))
        assert machine.held() == sizes(self._direct)

    def _read(self, remote: RemoteTransport) -> None:
        """Who has no project lists all of it and restores some, and what is kept of it on the way is right."""
        events = Events()

        def read() -> None:
            records = list(elsewhere(remote, self._folder / "caches", events).history().records())
            assert {record.commit_id for record in records} == set(self._models.of)

        def restore() -> None:
            repository = elsewhere(remote, self._folder / "caches", events)
            checkout(repository, record, str(target), events, force=True, exact=True)

        self._repeat(read)
        for number, record in enumerate(self._chance.sample(self._machines[0].records(), 2)):
            target = self._folder / f"read-{number}"
            self._repeat(restore)
            assert read_folder(target) == self._models.of[record.commit_id]
        assert events.warnings == []

    def _check(self) -> None:
        fresh = check_bucket(self._folder, self._direct, self._models)
        for project in (machine.project for machine in self._machines):
            assert project.events.warnings == []
            assert contents(local(project)) == contents(local(fresh))
