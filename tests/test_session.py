"""One process writing to an experiment: steps, metrics, heads, ends, and what a failed save leaves behind."""

from __future__ import annotations

import errno
import math
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replicate.errors import (
    ConflictError,
    InvalidInputError,
    ReplicateError,
    SessionError,
    StorageError,
    StorageFullError,
    UnsupportedFormatError,
)
from replicate.host import Host
from replicate.refs import CommitRecord
from replicate.session import Session
from replicate.transport import LocalTransport
from replicate.transport.local import Disk
from tests.projects import CAPTURE, SampleProject, read_folder, store_files
from tests.recorded import DAY_NS, CountingTransport

LOSS = ("loss", "minimize")


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    found = SampleProject(tmp_path / "w")
    found.write("train.py", "1")
    return found


@pytest.fixture
def session(project: SampleProject) -> Session:
    return project.begin()


def steps(project: SampleProject) -> list[int | None]:
    return [record.commit.step for record in project.experiment().checkpoints]


# -- the start ------------------------------------------------------------------------------------------------------


def test_an_experiment_begins_with_its_root(project: SampleProject) -> None:
    session = project.begin({"lr": 0.1}, name="base", tags=["b", "a", "b"], primary_metric=LOSS)
    found = project.experiment()
    commit = found.root.commit
    assert found.experiment_id == session.experiment_id == session.head.commit_id
    assert (commit.params, commit.name, commit.tags, commit.primary_metric) == ({"lr": 0.1}, "base", ("a", "b"), LOSS)
    assert (commit.command, commit.author, commit.seq, commit.step) == ("python train.py", "me@here", 0, None)
    assert commit.parents == ()
    assert len(commit.nonce) == 16


def test_two_equal_starts_are_two_experiments(project: SampleProject, session: Session) -> None:
    project.begin()
    first, second = project.history().experiments
    assert first.root.commit.tree == second.root.commit.tree
    assert first.experiment_id != second.experiment_id


def test_a_session_records_its_start_with_what_was_captured(project: SampleProject, session: Session) -> None:
    (start,) = project.experiment().starts
    assert start.capture == CAPTURE.summary
    assert start.name.session == session.session_id
    assert start.environment is not None
    assert start.locator is not None
    entries = project.open().objects(start.locator).read_tree(start.environment)
    assert [entry.name for entry in entries] == [b"packages.json"]


def test_equal_environments_are_stored_once(project: SampleProject, session: Session) -> None:
    project.begin()
    first, second = project.history().experiments
    assert first.starts[0].environment == second.starts[0].environment


def test_secrets_in_params_are_masked(project: SampleProject) -> None:
    project.begin({"lr": 0.1, "api_key": "abc", "nested": {"hf_token": "abc"}})
    assert project.experiment().root.commit.params == {"lr": 0.1, "api_key": "***", "nested": {"hf_token": "***"}}
    assert all(b"abc" not in path.read_bytes() for path in store_files(project.store))


def test_a_fork_names_the_checkpoint_that_it_came_from(project: SampleProject, session: Session) -> None:
    project.save(session)
    project.begin(parent=session.head)
    first, second = project.history().experiments
    assert second.root.commit.parents == (first.checkpoints[0].commit_id,)


def test_the_time_of_a_commit_is_the_hosts(tmp_path: Path) -> None:
    host = replace(Host(), now_ns=lambda: 1_700_000_000_000_000_007)
    project = SampleProject(tmp_path / "w", host=host)
    project.save(project.begin())
    assert {record.commit.time_ns for record in project.experiment().records} == {1_700_000_000_000_000_007}


# -- steps ----------------------------------------------------------------------------------------------------------


def test_steps_count_from_zero(project: SampleProject, session: Session) -> None:
    for _ in range(3):
        project.save(session)
    assert steps(project) == [0, 1, 2]


@pytest.mark.parametrize("step", [100, -7, 0, np.int64(100), (1 << 63) - 2])
def test_steps_count_on_from_one_that_is_given(project: SampleProject, session: Session, step: Any) -> None:
    project.save(session, step=step)
    project.save(session)
    assert steps(project) == [int(step), int(step) + 1]


def test_steps_may_go_back_and_repeat_and_checkpoints_keep_their_order(
    project: SampleProject, session: Session
) -> None:
    for step in (5, 5, 3, None):
        project.save(session, step=step)
    assert steps(project) == [5, 5, 3, 4]
    assert [record.commit.seq for record in project.experiment().checkpoints] == [1, 2, 3, 4]


def test_a_resumed_session_counts_on(project: SampleProject, session: Session) -> None:
    project.save(session, step=7)
    session.end("finished")
    project.save(project.resume())
    assert steps(project) == [7, 8]


def test_a_resumed_experiment_without_checkpoints_counts_from_zero(project: SampleProject, session: Session) -> None:
    session.end("finished")
    project.save(project.resume())
    assert steps(project) == [0]


def test_after_the_last_step_there_is_no_next(project: SampleProject, session: Session) -> None:
    project.save(session, step=(1 << 63) - 1)
    with pytest.raises(InvalidInputError) as raised:
        project.save(session)
    assert raised.value.message == "step 9223372036854775808 does not fit into 64 bits"
    project.save(session, step=0)
    assert steps(project) == [(1 << 63) - 1, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 1.5},
        {"metrics": {"loss": b""}},
        {"metrics": [1]},
        {"primary_metric": ("los", "minimize")},
        {"path": "missing"},
        {"metrics": {"text": "x" * 60_000}},
    ],
)
def test_a_save_that_fails_leaves_counter_and_head_as_they_were(
    project: SampleProject, session: Session, wrong: dict[str, Any]
) -> None:
    project.save(session, step=3)
    head = session.head
    with pytest.raises(InvalidInputError):
        project.save(session, wrong.pop("path", None), **{"step": 9, **wrong})
    assert session.head is head
    project.save(session)
    assert steps(project) == [3, 4]


# -- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_are_stored_as_plain_values(project: SampleProject, session: Session) -> None:
    given = {"loss": np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "curve": np.arange(3), "none": None}
    project.save(session, metrics=given)
    (record,) = project.experiment().checkpoints
    assert record.commit.metrics == {"loss": 0.5, "n": 3, "ok": True, "curve": [0, 1, 2], "none": None}


def test_nan_and_infinities_come_back(project: SampleProject, session: Session) -> None:
    project.save(session, metrics={"a": math.nan, "b": math.inf, "c": -math.inf})
    metrics = project.experiment().checkpoints[0].commit.metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)


def test_too_large_metrics_name_the_largest(project: SampleProject, session: Session) -> None:
    with pytest.raises(InvalidInputError) as raised:
        project.save(session, metrics={"small": 1, "large": ["x" * 100] * 500})
    assert raised.value.hint == "save large values as a file of the checkpoint"
    assert raised.value.message.startswith("a commit holds at most 49,152 bytes of params, metrics and the like, ")
    assert raised.value.message.endswith("; the largest is metrics['large'] with 51,003")


def test_too_large_params_name_the_largest_and_nothing_is_listed(project: SampleProject) -> None:
    with pytest.raises(InvalidInputError, match=r"the largest is params\['large'\] with"):
        project.begin({"small": 1, "large": "x" * 60_000})
    assert list(project.history().experiments) == []


def test_a_primary_metric_stays_in_force_where_its_metric_is_given(project: SampleProject) -> None:
    session = project.begin(primary_metric=LOSS)
    project.save(session, metrics={"loss": 3})
    project.save(session, metrics={"other": 3})
    project.save(session, metrics={"loss": 1, "accuracy": 2}, primary_metric=("accuracy", "maximize"))
    project.save(session, metrics={"loss": 1, "accuracy": 1})
    found = [record.commit.primary_metric for record in project.experiment().checkpoints]
    assert found == [LOSS, None, ("accuracy", "maximize"), ("accuracy", "maximize")]


def test_a_primary_metric_stays_in_force_after_resuming(project: SampleProject) -> None:
    session = project.begin()
    project.save(session, metrics={"loss": 3}, primary_metric=LOSS)
    session.end("finished")
    project.save(project.resume(), metrics={"loss": 1})
    assert project.experiment().checkpoints[1].commit.primary_metric == LOSS


def test_a_primary_metric_of_a_failed_save_is_not_in_force(project: SampleProject, session: Session) -> None:
    with pytest.raises(InvalidInputError):
        project.save(session, "missing", metrics={"loss": 3}, primary_metric=LOSS)
    project.save(session, metrics={"loss": 3})
    assert project.experiment().primary_metric is None


# -- heads ----------------------------------------------------------------------------------------------------------


def test_every_checkpoint_follows_the_one_before(project: SampleProject, session: Session) -> None:
    saves = [project.save(session).base.record for _ in range(3)]
    parents = [record.commit.parents for record in saves]
    assert parents == [(session.experiment_id,), (saves[0].commit_id,), (saves[1].commit_id,)]
    assert session.head is saves[-1]


def test_two_sessions_that_continue_one_commit_are_a_visible_fork(project: SampleProject, session: Session) -> None:
    project.save(session)
    other = project.resume()
    project.write("train.py", "other")
    second = project.save(other)
    project.write("train.py", "first")
    first = project.save(session)
    found = project.experiment()
    assert {record.commit_id for record in found.heads} == {
        first.base.record.commit_id,
        second.base.record.commit_id,
    }
    assert [record.commit.seq for record in found.checkpoints] == [1, 2, 2]


def test_resuming_continues_the_newest_head_and_reads_no_file(
    project: SampleProject, session: Session, opened: list[str]
) -> None:
    saved = project.save(session)
    session.end("finished")
    opened.clear()
    again = project.resume()
    assert opened == []
    assert again.head.commit_id == saved.base.record.commit_id
    assert len(project.experiment().starts) == 2


def test_resuming_restores_no_file(project: SampleProject, session: Session) -> None:
    project.save(session)
    project.write("train.py", "2")
    project.resume()
    assert (project.root / "train.py").read_text() == "2"


def test_resuming_what_is_damaged_is_refused(project: SampleProject, session: Session) -> None:
    saved = project.save(session)
    session.end("finished")
    for pack in store_files(project.store, "packs"):
        pack.unlink()
    with pytest.raises(ConflictError) as raised:
        project.resume()
    short, head = session.experiment_id.short, saved.base.record.commit_id.short
    assert str(raised.value) == (
        f"cannot continue {short}: files of {head} are not at hand "
        "(hint: start a new experiment, with parent= to keep the link)"
    )


def test_calls_from_several_threads_are_taken_one_after_the_other(project: SampleProject, session: Session) -> None:
    failures: list[ReplicateError] = []

    def work() -> None:
        try:
            for _ in range(5):
                project.save(session)
        except ReplicateError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = project.experiment()
    assert [record.commit.seq for record in found.checkpoints] == list(range(1, 21))
    assert sorted(steps(project), key=str) == sorted(range(20), key=str)
    assert len(found.heads) == 1


# -- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["finished", "failed", "stopped"])
def test_an_end_is_recorded_once(project: SampleProject, session: Session, status: str) -> None:
    session.end(status)
    session.end("finished")
    (end,) = project.experiment().ends.values()
    assert (end.status, end.exception) == (status, None)
    assert end.duration_ns > 0


def test_an_end_folds_the_old_records_when_there_are_many_and_says_so(tmp_path: Path) -> None:
    transport = CountingTransport()
    project = SampleProject(tmp_path, transport=transport)
    session = project.begin()
    for step in range(98):
        session.checkpoint((), step, {}, None)
    transport.now = 2 * DAY_NS
    session.end("finished")
    assert project.events.notices[-1] == "100 old records folded, so that listings stay fast"
    assert len(transport.keys("cat/")) == 2
    assert len(project.experiment().checkpoints) == 98


def test_a_fold_that_fails_at_the_end_is_a_warning(tmp_path: Path) -> None:
    class Failing(CountingTransport):
        def probe(self) -> int:
            raise StorageError("no clock", operation="write")

    project = SampleProject(tmp_path, transport=Failing())
    project.begin().end("finished")
    assert project.events.warnings == ["old records were not folded: no clock"]
    (end,) = project.experiment().ends.values()
    assert end.status == "finished"


def test_an_exception_is_recorded_with_type_and_message(project: SampleProject, session: Session) -> None:
    session.end("failed", ValueError("a\udcff" + "x" * 5_000))
    (end,) = project.experiment().ends.values()
    assert end.exception is not None
    assert end.exception["type"] == "ValueError"
    assert end.exception["message"] == "a\\udcff" + "x" * 1_993


def test_an_exception_that_cannot_be_shown_is_recorded_by_type(project: SampleProject, session: Session) -> None:
    class Strange(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    session.end("failed", Strange())
    (end,) = project.experiment().ends.values()
    assert (end.status, end.exception) == ("failed", {"type": "Strange", "message": ""})


def test_an_ended_session_saves_no_more(project: SampleProject, session: Session) -> None:
    session.end("finished")
    with pytest.raises(SessionError) as raised:
        project.save(session)
    short = session.experiment_id.short
    assert str(raised.value) == (
        f'the session of experiment {short} has ended (hint: continue it with replicate.init(resume="{short}"))'
    )


def test_a_session_is_running_until_it_ends(project: SampleProject, session: Session) -> None:
    assert project.open().is_session_running(session.session_id)
    session.end("finished")
    assert not project.open().is_session_running(session.session_id)


# -- what stands in the way -----------------------------------------------------------------------------------------


class FullDisk(Disk):
    """A disk that has no room while `is_full`."""

    def __init__(self) -> None:
        self.is_full = False

    def write(self, path: str, data: bytes | bytearray | memoryview, *, sync: bool) -> None:
        """Write nothing when it is full."""
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        super().write(path, data, sync=sync)


def test_a_full_disk_where_there_is_a_repository_elsewhere_is_told_what_frees_space(tmp_path: Path) -> None:
    disk = FullDisk()
    store = tmp_path / "w" / ".replicate"
    project = SampleProject(tmp_path / "w", transport=LocalTransport(store, durability="fast", disk=disk))
    project.config = replace(project.config, repository="s3://bucket/team")
    session = project.begin()
    disk.is_full = True
    project.write("a", "2")
    with pytest.raises(StorageFullError) as raised:
        project.save(session)
    assert raised.value.hint == (
        "free some space: with `cache: 0` in replicate.yaml `replicate push` does; and save again"
    )


def test_a_full_disk_fails_the_save_and_the_next_one_is_fine_again(tmp_path: Path) -> None:
    disk = FullDisk()
    store = tmp_path / "w" / ".replicate"
    project = SampleProject(tmp_path / "w", transport=LocalTransport(store, durability="fast", disk=disk))
    project.write("a", "1")
    session = project.begin()
    first = project.save(session)
    disk.is_full = True
    project.write("a", "2")
    with pytest.raises(StorageFullError) as raised:
        project.save(session)
    assert raised.value.hint == f"free some space on the disk of {store}, and repeat"
    assert session.head is first.base.record
    disk.is_full = False
    saved = project.save(session)
    assert [record.commit.step for record in project.experiment().checkpoints] == [0, 1]
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == {b"a": ("file", b"2")}


@pytest.mark.parametrize("name", ["feat~write~encryption", "p~" + "0" * 32])
def test_a_store_that_asks_for_more_than_this_version_knows_is_not_saved_into(
    project: SampleProject, session: Session, name: str
) -> None:
    (project.store / "ctl" / name).write_bytes(b"")
    with pytest.raises(UnsupportedFormatError) as raised:
        project.save(session)
    assert str(raised.value) == (
        f"{project.store} was changed by a newer version ({name}); this one cannot save into it "
        "(hint: upgrade replicate: pip install --upgrade replicate-vc)"
    )
    assert project.experiment().checkpoints == ()


def test_the_caches_may_vanish_between_two_saves(project: SampleProject, session: Session, tmp_path: Path) -> None:
    project.write("a", "1" * 1000)
    project.save(session)
    shutil.rmtree(project.store / "local")
    project.write("b", "2")
    for path in (None, "b", ()):
        saved = project.save(session, path)
        assert isinstance(saved.base.record, CommitRecord)
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(project.root)
    assert saved.new_bytes == 0


def test_a_store_that_vanishes_between_two_saves_is_no_base(
    project: SampleProject, session: Session, tmp_path: Path
) -> None:
    project.write("a", "1" * 1000)
    project.save(session)
    shutil.rmtree(project.store / "packs")
    saved = project.save(session)
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(project.root)


def test_what_changed_since_the_head_is_told_without_reading_large_files(tmp_path: Path, opened: list[str]) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("train.py", "one")
    project.write("weights", bytes(2 << 20))
    project.begin().end("finished")
    shutil.rmtree(project.store / "local" / "cache")
    session = project.resume()
    project.write("train.py", "two")
    opened.clear()
    assert [(change.letter, change.path) for change in session.changes()] == [("M", b"train.py")]
    assert [os.path.basename(path) for path in opened] == ["train.py"]
    project.write("weights", bytes(3 << 20))
    assert [change.path for change in session.changes()] == [b"train.py", b"weights"]
    session.end("finished")
