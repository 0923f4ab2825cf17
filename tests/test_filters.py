from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import InvalidInputError
from replicate.experiment import Experiment
from replicate.filters import Filter, parse_value, remarks, sort_experiments, value_of
from replicate.host import Host
from tests.projects import SampleProject

FIRST = int(datetime.datetime(2026, 3, 1, 12).timestamp()) * 10**9
DAY_NS = 86_400 * 10**9


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Experiment]:
    """Experiments by name, one per day from 1 March 2026 at noon, each with something of its own."""
    now = [FIRST]
    project = SampleProject(tmp_path_factory.mktemp("filters"), host=Host(now_ns=lambda: now[0]))

    def run(
        name: str, params: dict[str, Any], *checkpoints: dict[str, Any], goal: Any = None, status: str = "finished"
    ) -> None:
        tags = ["paper", "draft"] if name == "low" else []
        session = project.begin(params, name=name, primary_metric=goal, tags=tags)
        for step, metrics in enumerate(checkpoints):
            project.save(session, (), step=step, metrics=metrics)
        session.end(status)
        now[0] += DAY_NS

    minimize = ("loss", "minimize")
    run("low", {"lr": 0.1, "layers": 2, "model": "resnet"}, {"loss": 0.1}, {"loss": 0.9}, goal=minimize)
    run("high", {"lr": 1, "layers": 10, "model": "vit"}, {"loss": 0.5, "lr": 7}, goal=minimize)
    run("diverged", {"lr": "0.1", "layers": None}, {"loss": math.nan})
    run("huge", {"lr": 10**15, "layers": [1, 2], "flag": True}, {"loss": math.inf}, status="failed")
    run("empty", {"note": "a b = c < d", "flag": False})
    repository = project.open()
    history = project.history()
    return {one.root.commit.name or "": Experiment(repository, one, project.events) for one in history.experiments}


Matching = Callable[[str], list[str]]


@pytest.fixture
def matching(experiments: dict[str, Experiment]) -> Matching:
    """The names of the experiments that fulfil a filter."""
    return lambda text: [name for name, one in experiments.items() if Filter.parse(text).matches(one)]


# -- reading


@pytest.mark.parametrize(
    ("text", "name", "operator", "value"),
    [
        ("loss<0.2", "loss", "<", 0.2),
        ("  loss  <=  0.2  ", "loss", "<=", 0.2),
        ("lr = 1", "lr", "=", 1),
        ("lr == 1", "lr", "=", 1),
        ("lr != none", "lr", "!=", None),
        ("val loss > -1e-3", "val loss", ">", -0.001),
        ("flag = true", "flag", "=", True),
        ("layers = [1, 2]", "layers", "=", [1, 2]),
        ('model = "1"', "model", "=", "1"),
        ("note = a b = c < d", "note", "=", "a b = c < d"),
        ("größe>=2", "größe", ">=", 2),
        ("name = train.py --lr 1", "name", "=", "train.py --lr 1"),
    ],
)
def test_a_filter_is_name_operator_value(text: str, name: str, operator: str, value: object) -> None:
    assert Filter.parse(text) == Filter(name, operator, value)


@pytest.mark.parametrize(
    "text", ["", "loss", "< 3", "loss <", "loss <=", "loss ==", "loss ~ 3", "=", "   ", "loss ! 3"]
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Filter.parse(text)
    assert caught.value.message == f"{text!r} is no filter: it must be NAME OPERATOR VALUE"
    assert caught.value.hint == 'for example -f "loss < 0.2"'


@pytest.mark.parametrize("text", ["loss << 3", "loss <> 3", "loss === 3", "loss <!= 3", "loss >=< 3", "name = =x"])
def test_two_operators_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Filter.parse(text)
    assert caught.value.message == f"{text!r} is no filter: it has two operators"
    assert caught.value.hint == "quote a text that begins so: NAME = '<text>'"
    assert Filter.parse("name = '<text>'") == Filter("name", "=", "<text>")


@given(st.text())
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        found = Filter.parse(text)
    except InvalidInputError:
        return
    assert found.name == found.name.strip()
    assert found.operator in ("<", "<=", ">", ">=", "=", "!=")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", None),
        ("NULL", None),
        ("True", True),
        ("false", False),
        ("7", 7),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("[1, {}]", [1, {}]),
        ('{"a": null}', {"a": None}),
        ('"7"', "7"),
        ("[1,", "[1,"),
        ('"', '"'),
        ("adamw", "adamw"),
        ("", ""),
        ("2026-03-01", "2026-03-01"),
    ],
)
def test_a_typed_value_means_what_it_looks_like(text: str, value: object) -> None:
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


def test_nan_can_be_typed() -> None:
    assert math.isnan(parse_value("nan"))


@pytest.mark.parametrize("text", ["2026_03_01", "1_000", "٣", " 7", "7 "])
def test_what_only_python_calls_a_number_is_text(text: str) -> None:
    assert parse_value(text) == text


# -- matching


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("loss < 0.2", ["low"]),
        ("loss <= 0.5", ["low", "high"]),
        ("loss < inf", ["low", "high"]),
        ("layers > 2", ["high"]),
        ("layers > 1.5", ["low", "high"]),
        ("layers = 2", ["low"]),
        ("layers = 2.0", ["low"]),
        ("layers = [1, 2]", ["huge"]),
        ("layers != 2", ["high", "diverged", "huge", "empty"]),
        ("layers = none", ["diverged", "empty"]),
        ("layers != none", ["low", "high", "huge"]),
        ("lr = 1000000000000000", ["huge"]),
        ("lr > 1e14", ["huge"]),
        ("model = resnet", ["low"]),
        ("model < s", ["low"]),
        ("model > 3", []),
        ("layers < none", []),
        ("flag = true", ["huge"]),
        ("flag = false", ["empty"]),
        ("flag != true", ["low", "high", "diverged", "empty"]),
        ("flag = 1", []),
        ("note = a b = c < d", ["empty"]),
        ("status = failed", ["huge"]),
        ("status != finished", ["huge"]),
        ("name = low", ["low"]),
        ("user = me", ["low", "high", "diverged", "huge", "empty"]),
        ("host != here", []),
        ("command = python train.py", ["low", "high", "diverged", "huge", "empty"]),
        ("step >= 1", ["low"]),
        ("step = 0", ["high", "diverged", "huge"]),
        ("step = none", ["empty"]),
        ("tag = paper", ["low"]),
        ("tag != paper", ["high", "diverged", "huge", "empty"]),
        ("model = 'resnet'", ["low"]),
        ("nothing = none", ["low", "high", "diverged", "huge", "empty"]),
        ("nothing > 0", []),
    ],
)
def test_a_filter_matches(matching: Matching, text: str, names: list[str]) -> None:
    assert matching(text) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("started < 2026-03-02", ["low"]),
        ("started >= 2026-03-04", ["huge", "empty"]),
        ("created > 2026-03-04T11:59", ["huge", "empty"]),
        ("started = 2026-03-01T12:00:00", ["low"]),
    ],
)
def test_dates_are_those_of_the_local_clock(matching: Matching, text: str, names: list[str]) -> None:
    assert matching(text) == names


def test_a_date_may_have_a_zone(experiments: dict[str, Experiment]) -> None:
    at = experiments["low"].created.isoformat()
    assert Filter.parse(f"started = {at}").matches(experiments["low"])


def test_what_is_no_date_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        Filter.parse("started > last week")
    assert (caught.value.message, caught.value.hint) == (
        "'last week' is no date",
        "write 2026-11-23 or 2026-11-23T14:30",
    )


# -- what a name means


def test_a_metric_is_that_of_the_best_checkpoint(experiments: dict[str, Experiment]) -> None:
    assert value_of(experiments["low"], "loss") == 0.1


def test_without_a_best_checkpoint_it_is_that_of_the_latest(tmp_path: Path) -> None:
    project = SampleProject(tmp_path)
    session = project.begin({})
    for loss in (0.1, 0.9):
        project.save(session, (), metrics={"loss": loss})
    session.end("finished")
    assert value_of(Experiment(project.open(), project.experiment(), project.events), "loss") == 0.9


def test_a_metric_comes_before_a_param_of_its_name(experiments: dict[str, Experiment]) -> None:
    assert value_of(experiments["high"], "lr") == 7
    assert value_of(experiments["low"], "lr") == 0.1


def test_a_field_comes_before_a_param_of_its_name(tmp_path: Path) -> None:
    project = SampleProject(tmp_path)
    project.begin({"name": "param", "step": 3}, name="given").end("finished")
    experiment = Experiment(project.open(), project.experiment(), project.events)
    assert value_of(experiment, "name") == "given"
    assert value_of(experiment, "step") is None


# -- sorting


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("name", ["diverged", "empty", "high", "huge", "low"]),
        ("name-desc", ["low", "huge", "high", "empty", "diverged"]),
        ("created-desc", ["empty", "huge", "diverged", "high", "low"]),
        ("started-asc", ["low", "high", "diverged", "huge", "empty"]),
        ("layers", ["low", "high", "huge", "diverged", "empty"]),
        ("nothing", ["low", "high", "diverged", "huge", "empty"]),
    ],
)
def test_experiments_are_sorted_and_those_without_a_value_come_last(
    experiments: dict[str, Experiment], key: str, names: list[str]
) -> None:
    assert [one.name for one in sort_experiments(list(experiments.values()), key)] == names


def test_numbers_come_before_text(experiments: dict[str, Experiment]) -> None:
    assert [one.name for one in sort_experiments(list(experiments.values()), "lr")] == [
        "low",
        "high",
        "huge",
        "diverged",
        "empty",
    ]


def test_a_name_may_end_like_a_direction(tmp_path: Path) -> None:
    project = SampleProject(tmp_path)
    for value in (2, 1):
        project.begin({"weight-decay": value, "x-desc": -value}).end("finished")
    experiments = [Experiment(project.open(), one, project.events) for one in project.history().experiments]
    assert [one.params["weight-decay"] for one in sort_experiments(experiments, "weight-decay")] == [1, 2]
    assert [one.params["x-desc"] for one in sort_experiments(experiments, "x-desc-asc")] == [-2, -1]


@pytest.mark.parametrize(
    ("key", "names"),
    [("loss", ["low", "high", "huge", "diverged"]), ("loss-desc", ["huge", "high", "low", "diverged"])],
)
def test_a_run_that_diverged_comes_after_those_that_did_not(
    experiments: dict[str, Experiment], key: str, names: list[str]
) -> None:
    assert [one.name for one in sort_experiments(list(experiments.values()), key)][:4] == names


@pytest.mark.parametrize("text", ["loss >= 0.5", "loss > 0", "loss >= inf"])
def test_nan_is_neither_more_nor_less(matching: Matching, text: str) -> None:
    assert "diverged" not in matching(text)


def test_a_run_that_diverged_can_be_found(matching: Matching) -> None:
    assert matching("loss = nan") == ["diverged"]


@pytest.mark.parametrize("text", ["loss < 1 and acc > 2", "loss < 1 or acc > 2", "loss < 1 && acc > 2"])
def test_several_conditions_in_one_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Filter.parse(text)
    assert caught.value.message == f"{text!r} is no filter: it holds several conditions"
    assert caught.value.hint == "repeat -f; all must hold"


def test_a_dotted_name_leads_into_maps(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    session = project.begin({"optimizer": {"lr": 0.1, "betas": {"first": 0.9}}, "a.b": 3}, name="nested")
    project.save(session, (), metrics={"val": {"loss": 0.5}})
    session.end("finished")
    (summary,) = project.history().summaries
    found = Experiment(project.open(), summary, project.events)
    for text in ("optimizer.lr = 0.1", "optimizer.betas.first > 0.5", "val.loss < 1", "a.b = 3", "optimizer.x = none"):
        assert Filter.parse(text).matches(found)
    for text in ("optimizer.lr.x = 1", "val.lr = 0.1", "val. = 1"):
        assert not Filter.parse(text).matches(found)


def test_what_is_no_status_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        Filter.parse("status = killed")
    assert caught.value.message == "'killed' is no status"
    assert caught.value.hint == "a status is running, finished, failed, stopped"


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("loss < O.5", "'loss' is a number in all experiments that have it, and 'O.5' is not"),
        ("loss = 0,5", "'loss' is a number in all experiments that have it, and '0,5' is not"),
        ("stauts = finished", "no experiment has 'stauts'; did you mean 'status'?"),
        ("los < 3", "no experiment has 'los'; did you mean 'loss'?"),
        ("xyz < 3", "no experiment has 'xyz'"),
        ("lss < 3", "no experiment has 'lss'; did you mean 'loss'?"),
        ("usre = ann", "no experiment has 'usre'; did you mean 'user'?"),
        ("loss != O.5", None),
        ("loss = '0.1'", None),  # text equals what it shows
        ("note = nothing", None),
        ("loss < 0.5", None),
        ("lr < O.5", None),  # text in one of them
        ("flag = yes", None),
        ("layers = x", None),  # a list in one of them
        ("tag = nothing", None),
        ("name = nobody", None),
    ],
)
def test_what_nothing_can_match_is_told(experiments: dict[str, Experiment], text: str, remark: str | None) -> None:
    assert list(remarks([Filter.parse(text)], [*experiments.values()])) == ([remark] if remark else [])
    assert list(remarks([Filter.parse(text)], [])) == []
