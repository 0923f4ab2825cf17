"""What is stopped at every step: a project that is saved three times. And what must hold afterwards."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from replicate.errors import CorruptionError
from replicate.history import History
from replicate.host import Host
from replicate.maintenance.fsck import fsck
from replicate.objects.ids import ObjectID
from replicate.reporting import SilentReporter
from replicate.session import Session
from replicate.transport import LocalTransport
from tests.faults.fault_transport import Stopped
from tests.projects import CAPTURE, Content, SampleProject, check_store, read_folder

MIB = 1 << 20
VERSIONS = 3  # the experiment's start and two checkpoints
Model = dict[bytes, Content]

HASTY = Host(sleep=lambda seconds: None)  # does not wait until files are settled: the next save reads them again

_NOISE = random.Random(1).randbytes(MIB + MIB // 8)  # more than what a meta pack takes
_TEXT = b"".join(b"%d, " % number for number in range(750_000))  # compresses, and is more than one chunk


def write_version(project: SampleProject, version: int, *, is_large: bool = True) -> Model:
    """Write a version of the project's files; each differs from the one before. Return what there is now."""
    project.write("train.py", f"version = {version}\n")
    project.write("lib/net.py", "layers = 3\n")
    project.write("run.sh", "true\n", executable=True)
    project.write("empty")
    if version:
        project.write("weights/noise.bin", bytes([version]) + _NOISE)
    if version and is_large:
        project.write("weights/text.bin", _TEXT + b"%d" % version)
    return read_folder(project.root)


class Scenario:
    """Saves every version of a project until it is through or stopped.

    Attributes:
        models: What the worktree held at the commit of each seq, saved or about to be.
        returned: The commits whose call returned.
    """

    def __init__(self, project: SampleProject, *, is_large: bool = True) -> None:
        self.project = project
        self.models: list[Model] = []
        self.returned: list[ObjectID] = []
        self._is_large = is_large

    def run(self) -> bool:
        """Return whether it came to its end."""
        session: Session | None = None
        try:
            self.models.append(write_version(self.project, 0, is_large=self._is_large))
            repository = self.project.open()
            repository.create()
            session = Session(repository, self.project.events, CAPTURE)
            self.returned.append(session.begin({}, None, (), None, None).base.record.commit_id)
            for version in range(1, VERSIONS):
                self.models.append(write_version(self.project, version, is_large=self._is_large))
                self.returned.append(self.project.save(session).base.record.commit_id)
        except Stopped:
            return False
        finally:
            if session is not None:
                abandon(session)
        return True


def abandon(session: Session) -> None:
    """Close what the system closes for a process that dies. The session's end is not recorded."""
    if session._held is not None:
        session.repository.release_session(session._held)
        session._held = None
    session.is_ended = True
    session.repository.index.close()


@contextlib.contextmanager
def restored(project: SampleProject, commit: ObjectID) -> Iterator[Path]:
    """Give the folder that a listed commit is restored to, by a fresh look at the store."""
    target = project.root.parent / "restored"
    try:
        project.restore(project.history().commits[commit], target)
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def check_listed(
    project: SampleProject, models: list[Model], returned: list[ObjectID], *, may_be_damaged: bool = False
) -> History:
    """Every commit whose call returned is listed, every one that is listed restores byte for byte, and fsck agrees.

    Args:
        project: A fresh one.
        models: By seq.
        returned: What must be listed.
        may_be_damaged: A commit may instead be gone, or fail with a typed error, as fsck says; never with other bytes.
    """
    history = project.history()
    if not may_be_damaged:
        assert set(returned) <= set(history.commits)
        assert history.rootless == []
    if not may_be_damaged:
        check_store(project.store)
    harmed = harmed_commits(project)
    for record in history.records():
        try:
            with restored(project, record.commit_id) as target:
                assert read_folder(target) == models[record.commit.seq]
        except CorruptionError:
            assert record.commit_id in harmed
    return history


def harmed_commits(project: SampleProject) -> set[ObjectID]:
    """Return the commits that fsck says are affected by damage."""
    report = fsck(LocalTransport(project.store), str(project.store), SilentReporter(), level=4)
    return {one.commit_id for damage in report.damage for affected in damage.affects for one in affected.commits}


def check_next_saves(project: SampleProject, *, resume: bool = False, is_large: bool = True) -> dict[ObjectID, Model]:
    """The files as they are can be saved again, and after a change once more; both restore byte for byte.

    Args:
        project: A fresh one.
        resume: Continue the newest experiment, if there is one.
        is_large: As for the scenario.
    """
    models: dict[ObjectID, Model] = {}
    if resume and project.history().experiments:
        session = project.resume()
        models[project.save(session).base.record.commit_id] = read_folder(project.root)
    else:
        session = project.begin()
        models[session.head.commit_id] = read_folder(project.root)
    model = write_version(project, VERSIONS, is_large=is_large)
    models[project.save(session).base.record.commit_id] = model
    session.end("finished")
    check_models(project, models)
    return models


def check_models(project: SampleProject, models: Mapping[ObjectID, Model]) -> None:
    """These commits are listed and restore byte for byte."""
    for commit, model in models.items():
        with restored(project, commit) as target:
            assert read_folder(target) == model
