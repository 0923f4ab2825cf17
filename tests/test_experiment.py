"""Experiments and checkpoints as users meet them, and the lists of them."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicate.checkpoints import Checkpoint, CheckpointList
from replicate.collection import ExperimentCollection
from replicate.errors import (
    InvalidInputError,
    NotFoundError,
    PathNotFoundError,
    ProjectNotFoundError,
    RevisionNotFoundError,
    SessionError,
    WorktreeModifiedError,
)
from replicate.experiment import Experiment, ExperimentList
from replicate.host import Host
from replicate.objects.ids import blob_id
from replicate.presenting import File, json_time, json_value, to_datetime
from replicate.session import Session
from tests.projects import SampleProject, paths_of, read_folder

LOSS = ("loss", "minimize")
START = 1_700_000_000_000_000_000


class Ticking:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        self.now += 1_000_000_000
        return self.now


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SampleProject:
    found = SampleProject(tmp_path / "w", host=replace(Host(), now_ns=Ticking()))
    found.write("train.py", "1")
    monkeypatch.chdir(found.root)
    return found


def written(project: SampleProject, session: Session) -> Experiment:
    """Return an experiment that this process writes to."""
    repository = session.repository
    found = repository.history().experiment(session.experiment_id)
    assert found is not None
    return Experiment(repository, found, project.events, session)


@pytest.fixture
def experiment(project: SampleProject) -> Experiment:
    """An experiment with three checkpoints; the second is the best."""
    session = project.begin({"lr": 0.1, "layers": [1, 2]}, name="base", tags=["a"], primary_metric=LOSS)
    found = written(project, session)
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        project.write("weights", f"{loss}")
        found.checkpoint(step=step * 10, metrics={"loss": loss})
    return found


def seen(project: SampleProject) -> Experiment:
    """Return the only experiment as another process sees it."""
    (found,) = ExperimentCollection(project.root).list()
    return found


# -- experiments ----------------------------------------------------------------------------------------------------


def test_an_experiment_shows_what_was_recorded(project: SampleProject, experiment: Experiment) -> None:
    found = seen(project)
    assert found.id == experiment.id
    assert found.short_id == experiment.id[:7]
    assert (found.name, found.tags, found.params) == ("base", ["a"], {"lr": 0.1, "layers": [1, 2]})
    assert (found.command, found.user, found.host, found.python_version) == ("python train.py", "me", "here", "3.11.0")
    assert found.primary_metric == LOSS
    assert found.created == datetime.datetime.fromtimestamp(START // 10**9 + 1, datetime.UTC)
    assert found.duration is not None
    assert 0 < found.duration.total_seconds() < 100


def test_checkpoints_are_listed_in_order(project: SampleProject, experiment: Experiment) -> None:
    for one in (experiment, seen(project)):
        assert one.checkpoints.step == [0, 10, 20]
        assert one.checkpoints.metrics == {"loss": [3.0, 1.0, 2.0]}
        assert [checkpoint.seq for checkpoint in one.checkpoints] == [1, 2, 3]


def test_best_and_latest(project: SampleProject, experiment: Experiment) -> None:
    best, latest = seen(project).best(), seen(project).latest()
    assert best is not None
    assert latest is not None
    assert (best.step, latest.step) == (10, 20)


def test_an_experiment_without_checkpoints_has_neither_best_nor_latest_nor_duration(project: SampleProject) -> None:
    found = written(project, project.begin())
    assert (found.best(), found.latest(), found.duration, list(found.checkpoints)) == (None, None, None, [])
    assert [file.path for file in found.start.files()] == ["train.py"]


def test_an_experiment_is_opened_and_checked_out_at_its_best(experiment: Experiment, tmp_path: Path) -> None:
    with experiment.open("weights") as file:
        assert file.read() == b"1.0"
    experiment.checkout(tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "1.0"


def test_without_a_best_it_is_the_latest_and_without_any_the_start(project: SampleProject, tmp_path: Path) -> None:
    found = written(project, project.begin())
    found.checkout(tmp_path / "start")
    assert paths_of(tmp_path / "start") == {"train.py"}
    for content in "12":
        project.write("weights", content)
        found.checkpoint()
    found.checkout(tmp_path / "latest")
    assert (tmp_path / "latest" / "weights").read_text() == "2"


def test_what_another_process_saves_shows_after_a_refresh(project: SampleProject, experiment: Experiment) -> None:
    found = seen(project)
    assert found.checkpoints.step == [0, 10, 20]
    experiment.checkpoint(step=30)
    assert found.checkpoints.step == [0, 10, 20]
    found.refresh()
    assert found.checkpoints.step == [0, 10, 20, 30]


def test_an_experiment_that_is_gone_says_so(project: SampleProject, experiment: Experiment) -> None:
    found = seen(project)
    for path in (project.store / "refs").rglob("*~*"):
        path.unlink()
    with pytest.raises(NotFoundError) as raised:
        found.refresh()
    assert raised.value.message == f"experiment {found.short_id} is not in the store any more"


def test_status_follows_the_session(project: SampleProject, experiment: Experiment) -> None:
    assert (experiment.status, seen(project).status) == ("running", "running")
    assert seen(project).is_running()
    experiment.stop()
    assert (experiment.status, seen(project).status) == ("finished", "finished")
    experiment.stop()
    with pytest.raises(SessionError):
        experiment.checkpoint()


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (None, "finished", None),
        (ValueError("no data"), "failed", "ValueError: no data"),
        (ValueError(), "failed", "ValueError"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (SystemExit(0), "finished", None),
        (SystemExit(None), "finished", None),
        (SystemExit(2), "failed", "SystemExit: 2"),
        (SystemExit("wrong"), "failed", "SystemExit: wrong"),
    ],
)
def test_a_block_that_ends_is_an_end(
    project: SampleProject, experiment: Experiment, error: BaseException | None, status: str, text: str | None
) -> None:
    if error is None:
        with experiment:
            pass
    else:
        with pytest.raises(type(error)), experiment:
            raise error
    for one in (experiment, seen(project)):
        assert (one.status, one.exception) == (status, text)


def test_the_newest_session_decides_how_an_experiment_ended(project: SampleProject, experiment: Experiment) -> None:
    experiment._end("failed", ValueError("no data"))
    session = project.resume()
    assert seen(project).status == "running"
    session.end("finished")
    assert (seen(project).status, seen(project).exception) == ("finished", None)


def test_a_fork_is_told(project: SampleProject, experiment: Experiment) -> None:
    other = project.resume()
    assert not seen(project).is_forked
    project.save(other)
    project.write("train.py", "2")
    experiment.checkpoint()
    assert seen(project).is_forked


def test_an_experiment_that_was_opened_for_reading_saves_nothing(
    project: SampleProject, experiment: Experiment
) -> None:
    found = seen(project)
    with pytest.raises(InvalidInputError) as raised:
        found.checkpoint()
    assert str(raised.value) == (
        f"experiment {found.short_id} was opened for reading "
        f'(hint: continue it with replicate.init(resume="{found.short_id}"))'
    )
    found.stop()
    assert experiment.is_running()


def test_json_holds_everything_that_lists_show(project: SampleProject, experiment: Experiment) -> None:
    project.write("weights", "4")
    experiment.checkpoint(step=30, metrics={"loss": math.nan, "extra": [math.inf]})
    shown = seen(project).to_json()
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["num_checkpoints"] == 4
    assert shown["best_checkpoint"]["step"] == 10
    assert shown["latest_checkpoint"]["metrics"] == {"loss": "NaN", "extra": ["Infinity"]}
    assert shown["heads"] == [shown["latest_checkpoint"]["id"]]
    assert shown["params"] == {"lr": 0.1, "layers": [1, 2]}
    assert (shown["status"], shown["running"], shown["exception"]) == ("running", True, None)


def test_experiments_show_in_notebooks_with_their_names_escaped(project: SampleProject) -> None:
    session = project.begin({"<b>": "<i>"}, name="a<b>&c")
    found = written(project, session)
    found.checkpoint(metrics={"<u>": 1})
    for shown in (found._repr_html_(), ExperimentList([found])._repr_html_(), found.checkpoints._repr_html_()):
        assert "<table>" in shown
        assert not any(tag in shown for tag in ("<b>&", "<i>", "<u>", "a<b>"))
    assert repr(found) == f"<Experiment {found.short_id} a<b>&c checkpoints=1>"


# -- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_shows_what_was_saved(project: SampleProject, experiment: Experiment) -> None:
    saved = experiment.checkpoints[1]
    assert (saved.step, saved.metrics, saved.primary_metric, saved.seq) == (10, {"loss": 1.0}, LOSS, 2)
    assert (saved.file_count, saved.size_bytes, saved.new_bytes) == (2, 4, 3)
    assert (saved.is_saved, saved.experiment_id, saved.short_id) == (True, experiment.id, saved.id[:7])
    assert (saved.unstable, saved.skipped) == ([], [])
    assert repr(saved) == f"<Checkpoint {saved.short_id} step=10 loss=1>"


def test_files_are_listed_with_kind_size_and_id(project: SampleProject) -> None:
    project.write("d/run", "#!", executable=True)
    project.write(b"\xff", "x")
    (project.root / "link").symlink_to("d")
    (project.root / "empty").mkdir()
    found = written(project, project.begin()).start
    assert found.files() == [
        File("d/run", 2, "executable", blob_id(b"#!").hex()),
        File("link", 1, "symlink", blob_id(b"d").hex()),
        File("train.py", 1, "file", blob_id(b"1").hex()),
        File("\udcff", 1, "file", blob_id(b"x").hex()),
    ]


def test_a_checkpoint_is_checked_out_in_whole_or_in_part(experiment: Experiment, tmp_path: Path) -> None:
    saved = experiment.checkpoints[0]
    assert saved.checkout(tmp_path / "whole").written == 2
    assert saved.checkout(str(tmp_path / "part"), paths=["/weights/"]).written == 1
    assert read_folder(tmp_path / "part") == {b"weights": ("file", b"3.0")}
    (tmp_path / "part" / "weights").write_text("mine")
    with pytest.raises(WorktreeModifiedError):
        saved.checkout(tmp_path / "part")
    saved.checkout(tmp_path / "part", force=True)
    assert read_folder(tmp_path / "part") == read_folder(tmp_path / "whole")


def test_one_path_alone_is_not_taken_for_its_letters(experiment: Experiment, tmp_path: Path) -> None:
    experiment.checkpoints[0].checkout(tmp_path / "out", paths="weights")
    assert paths_of(tmp_path / "out") == {"weights"}


def test_what_a_checkpoint_lacks_cannot_be_opened(experiment: Experiment) -> None:
    with pytest.raises(PathNotFoundError) as raised:
        experiment.checkpoints[0].open("missing")
    assert str(raised.value) == ("the checkpoint has no file 'missing' (hint: checkpoint.files() lists its files)")


# -- lists ----------------------------------------------------------------------------------------------------------


def test_slices_of_lists_are_lists_of_the_same_type(project: SampleProject, experiment: Experiment) -> None:
    checkpoints = experiment.checkpoints
    assert type(checkpoints[1:]) is CheckpointList
    assert type(checkpoints[0]) is Checkpoint
    assert checkpoints[1:].step == [10, 20]
    assert checkpoints[::-1].metrics == {"loss": [2.0, 1.0, 3.0]}
    experiments = ExperimentCollection(project.root).list()
    assert type(experiments[:1]) is ExperimentList
    assert type(experiments[0]) is Experiment


def test_metrics_that_some_checkpoints_lack_are_none_there(project: SampleProject, experiment: Experiment) -> None:
    project.write("weights", "4")
    experiment.checkpoint(metrics={"accuracy": 0.5})
    assert experiment.checkpoints.metrics == {
        "loss": [3.0, 1.0, 2.0, None],
        "accuracy": [None, None, None, 0.5],
    }


# -- the collection -------------------------------------------------------------------------------------------------


def test_experiments_are_listed_oldest_first_and_filtered(project: SampleProject) -> None:
    for number in range(3):
        project.begin({"n": number}, name=f"e{number}").end("finished")
    found = ExperimentCollection()
    assert [one.name for one in found.list()] == ["e0", "e1", "e2"]
    assert [one.name for one in found.list(lambda one: one.params["n"] > 0)] == ["e1", "e2"]
    assert [one.name for one in found.list("n > 1")] == ["e2"]
    assert found.latest().name == "e2"
    assert found.get("e1").params == {"n": 1}
    assert found.get(found.latest().id[:4]).name == "e2"


def test_a_checkpoint_is_found_by_a_revision(project: SampleProject, experiment: Experiment) -> None:
    found = ExperimentCollection()
    assert found.checkpoint("base@best").step == 10
    assert found.checkpoint("latest").step == 20
    assert found.checkpoint("base@start").step is None


def test_a_project_without_experiments_has_no_latest(project: SampleProject) -> None:
    project.open().create()
    assert list(ExperimentCollection().list()) == []
    with pytest.raises(RevisionNotFoundError) as raised:
        ExperimentCollection().latest()
    assert str(raised.value) == "there is no experiment yet (hint: replicate.init() starts one)"


def test_outside_of_a_project_there_is_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(ProjectNotFoundError):
        ExperimentCollection(tmp_path).list()


def test_a_damaged_record_is_left_out_and_told(project: SampleProject, experiment: Experiment) -> None:
    record = next(path for path in (project.store / "refs").rglob("*~c~*") if "~00000002~" in path.name)
    data = record.read_bytes()
    record.chmod(0o644)
    record.write_bytes(data[:-1])
    found = ExperimentCollection(project.root, project.events).list()[0]
    assert found.checkpoints.step == [0, 20]
    assert project.events.warnings == [
        f"ref record {record.relative_to(project.store)} is damaged: its bytes do not match its name; it is left out"
    ]


# -- presenting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456Z"),
        (-1_000_000_000, "1969-12-31T23:59:59.000000Z"),
        (1 << 63, "2262-04-11T23:47:16.854775Z"),
        (-(1 << 63), "1677-09-21T00:12:43.145224Z"),
        ((1 << 64) - 1, "2554-07-21T23:34:33.709551Z"),
    ],
)
def test_times_are_shown_in_utc(time_ns: int, text: str) -> None:
    assert json_time(to_datetime(time_ns)) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ([math.nan, {"a": math.inf}], ["NaN", {"a": "Infinity"}]),
        ({"a": 1, "b": None, "c": "text", "d": True}, {"a": 1, "b": None, "c": "text", "d": True}),
    ],
)
def test_json_has_nan_and_infinities_as_text(value: Any, shown: Any) -> None:
    assert json_value(value) == shown


def test_a_filter_that_nothing_can_match_is_told(project: SampleProject, experiment: Experiment) -> None:
    assert list(ExperimentCollection(project.root, project.events).list("lss < 3")) == []
    assert project.events.notices[-1] == "no experiment has 'lss'; did you mean 'loss'?"


def test_what_cannot_be_compared_or_filtered_by_says_so(project: SampleProject, experiment: Experiment) -> None:
    latest = experiment.latest()
    assert latest is not None
    with pytest.raises(InvalidInputError, match="cannot be compared with a value of type str"):
        latest.diff("best")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="filter is of type int"):
        ExperimentCollection(project.root).list(filter=3)  # type: ignore[arg-type]
