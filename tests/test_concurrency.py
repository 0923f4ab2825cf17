"""Many processes and threads save into one store at once: nothing is lost, and everything restores."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replicate.experiment import Experiment
from replicate.history import History
from replicate.objects.ids import ObjectID
from tests.projects import SampleProject, paths_of, read_folder

SAVES = 6

# Saves its own folder and a file from elsewhere, again and again; says what it saved.
_SAVING = """
import os, sys
from pathlib import Path

import replicate

root, me, saves, resumed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
own = root / me
own.mkdir()
elsewhere = root.parent / f"{me}.log"
print("ready", flush=True)
sys.stdin.readline()
if resumed:
    replicate.init(root, resume=resumed, quiet=True)
else:
    (own / "model.bin").write_bytes(b"")
    replicate.init(root, name=me, quiet=True)
print("begun", flush=True)
sys.stdin.readline()
for number in range(saves):
    content = f"{me} {number} ".encode() * 20_000
    (own / "model.bin").write_bytes(content)
    (own / "shared.bin").write_bytes(b"%d" % number * 100_000)
    elsewhere.write_bytes(content[:100])
    saved = replicate.checkpoint({f"{me}/model.bin": own / "model.bin", f"{me}/shared.bin": own / "shared.bin",
        f"{me}/log": elsewhere}, metrics={"by": me, "number": number})
    print(saved.id, flush=True)
"""


def save_at_once(project: SampleProject, names: list[str], resumed: str = "") -> dict[str, list[ObjectID]]:
    """Let processes begin at the same time, and then save at the same time; return what each says that it saved."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", _SAVING, str(project.root), name, str(SAVES), resumed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    for word in ("ready", "begun"):
        for process in processes.values():
            assert process.stdout is not None
            if process.stdout.readline() != f"{word}\n":
                raise AssertionError(process.communicate()[1])
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    saved = {}
    for name, process in processes.items():
        output, errors = process.communicate()
        warning = f"warning: {resumed[:7]} is running: what both save from here on forks it\n"
        assert (process.returncode, errors) in ((0, ""), (0, warning) if resumed else (0, ""))
        saved[name] = [ObjectID.parse(line) for line in output.split()]
        assert len(saved[name]) == SAVES
    return saved


def check_restored(project: SampleProject, history: History, saved: dict[str, list[ObjectID]]) -> None:
    """Every checkpoint restores; what its process saved is in it as it was then."""
    for name, commits in saved.items():
        for number, commit in enumerate(commits):
            record = history.commits[commit]
            assert record.commit.metrics == {"by": name, "number": number}
            target = project.root.parent / "restored" / commit.short
            project.restore(record, target)
            content = f"{name} {number} ".encode() * 20_000
            assert (target / name / "model.bin").read_bytes() == content
            assert (target / name / "shared.bin").read_bytes() == b"%d" % number * 100_000
            assert (target / name / "log").read_bytes() == content[:100]
            assert (target / "train.py").read_bytes() == b"the start"


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    project = SampleProject(tmp_path / "project", durability="safe")
    project.write("train.py", "the start")
    project.write("data.bin", bytes(range(256)) * 5_000)
    return project


def names_of(count: int) -> list[str]:
    return [f"process-{number}" for number in range(count)]


@pytest.mark.parametrize("count", [2, 8])
def test_processes_that_resume_one_experiment_at_once_fork_it_and_lose_nothing(
    project: SampleProject, count: int
) -> None:
    begun = project.begin()
    begun.end("finished")
    saved = save_at_once(project, names_of(count), begun.experiment_id.hex())
    experiment = project.experiment()
    assert experiment.experiment_id == begun.experiment_id
    assert {record.commit_id for record in experiment.checkpoints} == {one for ids in saved.values() for one in ids}
    assert len(experiment.checkpoints) == count * SAVES
    assert {head.commit_id for head in experiment.heads} >= {saved[name][-1] for name in saved}
    assert len(experiment.starts) == len(experiment.ends) == count + 1
    check_restored(project, project.history(), saved)


@pytest.mark.parametrize("count", [2, 8])
def test_processes_that_each_begin_an_experiment_at_once_lose_nothing(project: SampleProject, count: int) -> None:
    saved = save_at_once(project, names_of(count))
    history = project.history()
    assert sorted(one.root.commit.name or "" for one in history.experiments) == names_of(count)
    for experiment in history.experiments:
        assert [record.commit_id for record in experiment.checkpoints] == saved[experiment.root.commit.name or ""]
        assert len(experiment.heads) == 1
        assert [end.status for end in experiment.ends.values()] == ["finished"]
    check_restored(project, history, saved)
    assert len(list((project.store / "ctl").glob("v1"))) == 1


def test_processes_at_once_leave_a_store_that_the_next_save_continues(project: SampleProject) -> None:
    save_at_once(project, names_of(4))
    session = project.begin()
    project.write("train.py", "the end")
    saved = project.save(session)
    project.restore(saved, project.root.parent / "restored")
    assert read_folder(project.root.parent / "restored") == read_folder(project.root)
    assert paths_of(project.store / "local" / "tmp") == set()


# -- threads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def experiment(project: SampleProject) -> Experiment:
    session = project.begin()
    return Experiment(session.repository, project.experiment(), project.events, session)


@pytest.mark.usefixtures("switching")
def test_threads_that_save_at_once_are_taken_one_after_the_other(
    project: SampleProject, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    threads = 8
    together = threading.Barrier(threads)

    def save(thread: int) -> list[str]:
        together.wait()
        saved = []
        for number in range(SAVES):
            project.write(f"thread-{thread}/model.bin", f"{thread} {number} " * 10_000)
            metrics = {"thread": thread, "number": number}
            saved.append(experiment.checkpoint(f"thread-{thread}", metrics=metrics).id)
        return saved

    with ThreadPoolExecutor(threads) as pool:
        saved = [one for ids in pool.map(save, range(threads)) for one in ids]
    history = project.experiment()
    assert len(history.heads) == 1
    assert [record.commit.seq for record in history.checkpoints] == list(range(1, threads * SAVES + 1))
    assert [record.commit.step for record in history.checkpoints] == list(range(threads * SAVES))
    assert {record.commit_id.hex() for record in history.checkpoints} == set(saved)
    assert {one.id for one in experiment.checkpoints} == set(saved)
    assert [one.step for one in experiment.checkpoints] == list(range(threads * SAVES))
    known: dict[int, int] = {}
    for record in history.checkpoints:
        known[record.commit.metrics["thread"]] = record.commit.metrics["number"]
        target = project.root.parent / "restored" / record.commit_id.short
        project.restore(record, target)
        for thread, number in known.items():
            assert (target / f"thread-{thread}" / "model.bin").read_text() == f"{thread} {number} " * 10_000
    experiment.stop()


@pytest.mark.usefixtures("switching")
def test_threads_with_a_session_each_save_into_one_store_at_once(project: SampleProject) -> None:
    sessions = [project.begin() for _ in range(4)]
    together = threading.Barrier(len(sessions))

    def save(number: int) -> list[ObjectID]:
        together.wait()
        saved = []
        for turn in range(SAVES):
            project.write(f"own-{number}", f"{number} {turn}")
            saved.append(project.save(sessions[number], f"own-{number}").base.record.commit_id)
        return saved

    with ThreadPoolExecutor(len(sessions)) as pool:
        saved = list(pool.map(save, range(len(sessions))))
    history = project.history()
    for number, session in enumerate(sessions):
        found = history.experiment(session.experiment_id)
        assert found is not None
        assert [record.commit_id for record in found.checkpoints] == saved[number]
        for turn, commit in enumerate(saved[number]):
            target = project.root.parent / "restored" / commit.short
            project.restore(history.commits[commit], target)
            assert (target / f"own-{number}").read_text() == f"{number} {turn}"
        session.end("finished")
