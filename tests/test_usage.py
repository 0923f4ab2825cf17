"""What experiments and checkpoints take: every pack is counted once, and together they are what the packs take."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from replicate.experiment_history import ExperimentHistory
from replicate.host import Host
from replicate.lifecycle import remove_checkpoints, remove_experiment
from replicate.objects.ids import ObjectID
from replicate.session import Session
from replicate.transport import LocalTransport
from replicate.usage import ExperimentUsage, Usage, measure
from tests.builders import noise
from tests.projects import SampleProject, store_bytes, store_files

LARGE = 2 << 20


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    """A project with one file."""
    project = SampleProject(tmp_path / "project")
    project.write("train.py", "print('training')\n")
    return project


def train(project: SampleProject, *contents: bytes) -> Session:
    """Run an experiment whose checkpoints hold these files."""
    session = project.begin({})
    for content in contents:
        project.write("model.bin", content)
        project.save(session)
    session.end("finished")
    return session


def known(project: SampleProject, session: Session) -> ExperimentHistory:
    """Return an experiment as a fresh look shows it, hidden or not."""
    found = project.history().experiment(session.experiment_id, hidden=True)
    assert found is not None
    return found


def measured(project: SampleProject) -> Usage:
    """Measure, and check that everything was counted once."""
    usage = measure(project.open())
    packs = sum(path.stat().st_size for path in store_files(project.store, "packs"))
    assert usage.packs == packs
    assert usage.total == packs + sum(path.stat().st_size for path in store_files(project.store, "refs", "cat"))
    assert usage.removed <= packs
    return usage


def of(usage: Usage, session: Session) -> ExperimentUsage:
    """Return what an experiment takes."""
    return next(one for one in usage.experiments if one.experiment_id == session.experiment_id)


def test_an_empty_store_takes_nothing(project: SampleProject) -> None:
    project.open().create()
    usage = measured(project)
    assert (usage.experiments, usage.total, usage.unreferred, usage.removed) == ((), 0, 0, 0)


def test_a_checkpoint_takes_what_it_added(project: SampleProject) -> None:
    session = train(project, noise(LARGE, "a"), noise(LARGE, "a"), noise(LARGE, "b"))
    experiment = of(measured(project), session)
    start, first, same, other = experiment.commits
    assert first.logical == same.logical == other.logical == LARGE + start.logical
    assert LARGE < first.stored < LARGE + 10_000
    assert LARGE < other.stored < LARGE + 10_000
    assert 0 < same.stored < 10_000
    assert experiment.logical == 3 * LARGE + 4 * start.logical
    assert [one.step for one in experiment.commits] == [None, 0, 1, 2]


def test_what_two_experiments_hold_is_counted_for_the_first(project: SampleProject) -> None:
    first = train(project, noise(LARGE))
    second = train(project, noise(LARGE))
    usage = measured(project)
    assert of(usage, first).stored > LARGE
    assert of(usage, second).stored < 20_000
    assert of(usage, second).logical > LARGE


def test_who_wrote_a_pack_is_told_by_the_record_though_clocks_differ(tmp_path: Path) -> None:
    times = iter([*range(2 * 10**18, 2 * 10**18 + 100)])
    project = SampleProject(tmp_path / "project", host=Host(now_ns=times.__next__))
    project.write("model.bin", noise(200_000))
    first = train(project)
    late = SampleProject(project.root, host=Host(now_ns=iter(range(10**18, 10**18 + 100)).__next__))
    second = train(late)
    usage = measured(project)
    assert of(usage, first).stored > 200_000
    assert of(usage, second).stored < 20_000


def test_the_start_of_a_resumed_session_is_counted_for_the_experiment(project: SampleProject) -> None:
    session = train(project, b"one")
    project.resume(session.experiment_id).end("finished")
    experiment = of(measured(project), session)
    assert experiment.sessions > 0
    assert experiment.stored == experiment.sessions + sum(one.stored for one in experiment.commits)


def test_packs_that_nothing_needs_are_told(project: SampleProject) -> None:
    train(project, b"one")
    repository = project.open()
    repository.index.begin_save()
    writer = repository.writer()
    writer.write_blob(noise(LARGE))
    writer.finish_loose()
    writer.close()
    usage = measured(project)
    assert LARGE < usage.unreferred < LARGE + 10_000


def test_what_was_removed_counts_and_what_it_has_alone_is_told(project: SampleProject) -> None:
    kept = train(project, noise(LARGE, "shared"))
    removed = train(project, noise(LARGE, "shared"), noise(LARGE, "alone"))
    before = measured(project)
    assert before.removed == 0
    remove_experiment(project.open(), known(project, removed))
    usage = measured(project)
    assert of(usage, removed).is_hidden
    assert not of(usage, kept).is_hidden
    assert of(usage, removed).stored == of(before, removed).stored
    assert LARGE < usage.removed <= of(usage, removed).stored
    remove_experiment(project.open(), known(project, kept))
    assert measured(project).removed == usage.packs


def test_of_a_removed_checkpoint_only_its_own_packs_are_told(project: SampleProject) -> None:
    session = train(project, noise(LARGE, "a"), noise(LARGE, "b"), noise(LARGE, "c"))
    experiment = known(project, session)
    remove_checkpoints(project.open(), experiment, experiment.checkpoints[2:])
    usage = measured(project)
    assert [one.is_hidden for one in of(usage, session).commits] == [False, False, False, True]
    assert LARGE < usage.removed < LARGE + 10_000


def test_a_pack_that_is_missing_is_named(project: SampleProject) -> None:
    train(project, noise(LARGE))
    largest = max(store_files(project.store, "packs"), key=lambda path: path.stat().st_size)
    largest.unlink()
    assert measured(project).missing == (ObjectID.parse(largest.name),)


def test_an_experiment_without_its_start_counts(project: SampleProject) -> None:
    session = train(project, noise(LARGE))
    (start,) = [one for one in store_files(project.store, "refs") if f"~c~{session.experiment_id.hex()}" in one.name]
    start.unlink()
    experiment = of(measured(project), session)
    assert [one.seq for one in experiment.commits] == [1]
    assert experiment.stored > LARGE


def test_no_pack_is_read(project: SampleProject, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        train(project, noise(1000, f"{number}"), noise(1000, f"{number} again"))
    read: Counter[str] = Counter()
    original = LocalTransport.get

    def count(self: LocalTransport, key: str, start: int = 0, end: int | None = None) -> bytes:
        read[key.split("/")[0]] += 1
        return original(self, key, start, end)

    monkeypatch.setattr(LocalTransport, "get", count)
    project.history().summaries  # noqa: B018 - so that the cache of records is there
    read.clear()
    measure(project.open())
    assert read["packs"] == 0
    assert read["refs"] == len(store_files(project.store, "refs"))
    assert store_bytes(project.store) > 0
