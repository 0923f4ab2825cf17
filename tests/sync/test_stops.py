"""Push and pull are stopped at every operation on the storage; what is listed restores, and repeating completes it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.sync import Copied
from replicate.transport import LocalTransport, Transport
from tests.faults.fault_transport import FaultTransport, Mode, Stopped
from tests.projects import SampleProject, check_store
from tests.sync.stores import MIB, Models, check_restores, contents, local, new_remote, pull_from, push_to, sample

Sync = Callable[[SampleProject, Transport], Copied]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleProject, Models]:
    """A project with data packs, meta packs and records of two experiments."""
    models = Models()
    project = SampleProject(tmp_path_factory.mktemp("sampled") / "project")
    sample(project.root, models, 1, name="one", size=2 * MIB)
    sample(project.root, models, 1, name="two")
    return project, models


def fresh(project: SampleProject) -> SampleProject:
    """Return the project as another process sees it."""
    return SampleProject(project.root)


def forget(project: SampleProject) -> None:
    shutil.rmtree(project.store / "local" / "journal", ignore_errors=True)


def check_remote(folder: Path, remote: Path, models: Models) -> SampleProject:
    """What is listed in the remote restores from it, and it has no damage."""
    view = SampleProject(folder / "view", store=remote)
    check_store(remote)
    check_restores(view, models)
    assert view.history().rootless == []
    return view


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
@pytest.mark.parametrize("is_journal_lost", [False, True])
def test_a_push_may_stop_anywhere(
    sampled: tuple[SampleProject, Models], tmp_path: Path, mode: Mode, is_journal_lost: bool
) -> None:
    project, models = sampled
    whole = contents(local(project))
    for stop_at in itertools.count(1):
        forget(project)
        folder = tmp_path / f"{stop_at}"
        store = LocalTransport(folder / "remote", durability="fast")
        new_remote(store)
        remote = FaultTransport(store, stop_at, mode)
        is_done = stopped(lambda remote=remote: push_to(fresh(project), remote, jobs=1))  # type: ignore[misc]
        check_remote(folder, folder / "remote", models)
        if is_done:
            assert stop_at > len(whole) + 4
            break
        if is_journal_lost:
            forget(project)
        assert push_to(fresh(project), store).left == 0
        assert contents(store) == whole
        check_remote(folder, folder / "remote", models)
        shutil.rmtree(folder)


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_a_pull_may_stop_anywhere(sampled: tuple[SampleProject, Models], tmp_path: Path, mode: Mode, side: str) -> None:
    project, models = sampled
    whole = contents(local(project))
    for stop_at in itertools.count(1):
        root = tmp_path / f"{stop_at}" / "project"
        store = LocalTransport(root / ".replicate", durability="fast")
        faults = FaultTransport(store if side == "here" else local(project), stop_at, mode)
        puller = SampleProject(root, transport=faults if side == "here" else store)
        source = local(project) if side == "here" else faults
        is_done = stopped(lambda puller=puller, source=source: pull_from(puller, source, jobs=1))  # type: ignore[misc]
        check_remote(tmp_path / f"{stop_at}", root / ".replicate", models)
        if is_done:
            assert stop_at > len(whole)
            break
        again = SampleProject(root)
        assert pull_from(again, local(project)).left == 0
        assert contents(local(again)) == whole
        check_store(again.store)
        check_restores(again, models, models.of)
        shutil.rmtree(root.parent)


def stopped(sync: Callable[[], Copied]) -> bool:
    """Return whether it came to its end."""
    try:
        sync()
    except Stopped:
        return False
    return True


def test_a_push_by_many_threads_may_stop_anywhere(sampled: tuple[SampleProject, Models], tmp_path: Path) -> None:
    project, models = sampled
    whole = contents(local(project))
    for stop_at in range(1, len(whole) + 5):
        forget(project)
        folder = tmp_path / f"{stop_at}"
        store = LocalTransport(folder / "remote", durability="fast")
        new_remote(store)
        stopped(lambda store=store, at=stop_at: push_to(fresh(project), FaultTransport(store, at, "torn")))  # type: ignore[misc]
        check_remote(folder, folder / "remote", models)
        assert push_to(fresh(project), store).left == 0
        assert contents(store) == whole
        shutil.rmtree(folder)
