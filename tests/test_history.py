"""Experiments as the ref records tell them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from replicate.experiment_history import ExperimentHistory, number
from replicate.refs import CommitRecord, UnknownRecord
from tests.histories import checkpoint, end, history, padded, root, start

LOSS = ("loss", "minimize")


def only(*records: Any) -> ExperimentHistory:
    """Return the only experiment of some records."""
    (found,) = history(*records).experiments
    return found


def digits(records: Any) -> list[str]:
    """Return the first two digits of the commits' ids."""
    return [record.commit_id.hex()[:2] for record in records]


def test_no_record_is_no_experiment() -> None:
    assert list(history().experiments) == []
    assert list(history().records()) == []


def test_experiments_are_ordered_by_the_time_of_their_roots() -> None:
    found = history(root("aa", time=3), root("bb", time=1), root("cc", time=2))
    assert digits(experiment.root for experiment in found.experiments) == ["bb", "cc", "aa"]


def test_experiments_of_one_time_are_ordered_by_id() -> None:
    found = history(root("bb"), root("aa"))
    assert digits(experiment.root for experiment in found.experiments) == ["aa", "bb"]


def test_checkpoints_are_ordered_by_seq_whatever_their_time_and_step() -> None:
    records = [
        root("aa"),
        checkpoint("aa", "01", 1, time=9, step=50),
        checkpoint("aa", "02", 2, parent="01", time=5, step=7),
        checkpoint("aa", "03", 3, parent="02", time=7, step=6),
    ]
    for order in itertools.permutations(records):
        found = only(*order)
        assert digits(found.records) == ["aa", "01", "02", "03"]
        assert digits(found.heads) == ["03"]
        assert found.latest is records[3]


def test_an_experiment_without_checkpoints_has_its_root_as_head() -> None:
    found = only(root("aa"))
    assert digits(found.heads) == ["aa"]
    assert (found.latest, found.best, found.primary_metric) == (None, None, None)


def test_two_that_continue_the_same_commit_are_two_heads() -> None:
    found = only(
        root("aa"),
        checkpoint("aa", "01", 1),
        checkpoint("aa", "02", 2, parent="01", time=5),
        checkpoint("aa", "03", 2, parent="01", time=4),
        checkpoint("aa", "04", 3, parent="03"),
    )
    assert digits(found.checkpoints) == ["01", "03", "02", "04"]
    assert digits(found.heads) == ["02", "04"]
    assert found.latest is found.checkpoints[-1]


def test_of_two_heads_with_one_seq_the_later_is_the_latest() -> None:
    found = only(root("aa"), checkpoint("aa", "01", 1, time=9), checkpoint("aa", "02", 1, time=8))
    assert digits([found.latest, *found.heads]) == ["01", "02", "01"]


def test_a_second_record_of_a_commit_is_an_alternative() -> None:
    found = only(root("aa"), checkpoint("aa", "01", 1), checkpoint("aa", "01", 1, session="f" * 16))
    assert digits(found.checkpoints) == ["01"]


def test_checkpoints_without_their_root_are_no_experiment_and_are_named() -> None:
    found = history(checkpoint("aa", "01", 1), root("bb"))
    assert digits(experiment.root for experiment in found.experiments) == ["bb"]
    assert found.rootless == [padded("aa")]


def test_a_checkpoint_whose_parent_is_missing_is_still_listed() -> None:
    found = only(root("aa"), checkpoint("aa", "03", 3, parent="02"))
    assert digits(found.checkpoints) == ["03"]
    assert digits(found.heads) == ["03"]


def test_a_gap_is_no_fork() -> None:
    """As when only some checkpoints were copied; a session that goes on follows the last of the others."""
    found = only(
        root("aa"),
        checkpoint("aa", "02", 2, parent="01"),
        checkpoint("aa", "05", 5, parent="04"),
        checkpoint("aa", "08", 8, parent="07", session="1" * 16),
        checkpoint("aa", "09", 9, parent="08", session="1" * 16),
    )
    assert digits(found.heads) == ["09"]
    assert digits(found.checkpoints) == ["02", "05", "08", "09"]


def test_a_gap_in_one_line_of_a_fork_leaves_it_a_fork() -> None:
    other = "1" * 16
    found = only(
        root("aa"),
        checkpoint("aa", "01", 1),
        checkpoint("aa", "02", 2, parent="01"),
        checkpoint("aa", "03", 3, parent="02"),
        checkpoint("aa", "12", 2, parent="01", session=other),
        checkpoint("aa", "14", 4, parent="13", session=other),
    )
    assert digits(found.heads) == ["03", "14"]


def test_of_two_lines_whose_beginnings_are_missing_neither_follows_the_other() -> None:
    found = only(
        root("aa"),
        checkpoint("aa", "02", 2, parent="01"),
        checkpoint("aa", "12", 2, parent="11", session="1" * 16),
    )
    assert digits(found.heads) == ["02", "12"]


def test_a_gap_behind_a_hidden_checkpoint_is_no_fork() -> None:
    visible = (checkpoint("aa", "01", 1), checkpoint("aa", "04", 4, parent="03"))
    found = ExperimentHistory(root("aa"), visible, hidden=(checkpoint("aa", "03", 3, parent="02"),))
    assert digits(found.heads) == ["04"]


def test_records_of_unknown_kinds_change_nothing() -> None:
    found = history(UnknownRecord(root("aa").name), root("aa"))
    assert len(found.experiments) == 1


def test_sessions_are_ordered_by_their_start() -> None:
    found = only(root("aa"), start("aa", "b" * 16, 2), start("aa", "a" * 16, 5), end("aa", "b" * 16))
    assert [one.name.session[0] for one in found.starts] == ["b", "a"]
    assert found.newest_session is found.starts[-1]
    assert set(found.ends) == {"b" * 16}


def test_a_commit_leads_to_its_parent_also_across_experiments() -> None:
    found = history(root("aa"), checkpoint("aa", "01", 1), root("bb", parent="01"), checkpoint("bb", "02", 1))

    def parent(prefix: str) -> CommitRecord | None:
        return found.parent_of(found.commits[padded(prefix)])

    assert parent("02") is found.commits[padded("bb")]
    assert parent("bb") is found.commits[padded("01")]
    assert parent("aa") is None


def test_a_parent_that_is_not_listed_is_none() -> None:
    found = history(root("bb", parent="01"))
    assert found.parent_of(found.commits[padded("bb")]) is None


# -- best -----------------------------------------------------------------------------------------------------------


def trained(goal: str, *values: Any) -> ExperimentHistory:
    """Return an experiment whose checkpoints 01, 02, … have these losses; `...` means none."""
    records = [root("aa", primary=("loss", goal))]
    for seq, value in enumerate(values, 1):
        metrics = {} if value is ... else {"loss": value}
        parent = f"{seq - 1:02}" if seq > 1 else None
        records.append(checkpoint("aa", f"{seq:02}", seq, parent=parent, metrics=metrics))
    return only(*records)


@pytest.mark.parametrize(
    ("goal", "values", "best"),
    [
        ("minimize", [3, 1, 2], "02"),
        ("maximize", [3, 1, 2], "01"),
        ("minimize", [1, 1.0, 1], "01"),
        ("maximize", [1, 2, 2], "02"),
        ("minimize", [math.nan, 2, math.nan], "02"),
        ("minimize", [math.inf, 5], "02"),
        ("minimize", [-math.inf, 5], "01"),
        ("maximize", [math.inf, 5], "01"),
        ("minimize", [..., 4, ...], "02"),
        ("minimize", ["0", True, None, [0], 9], "05"),
        ("maximize", [1 << 63, float(1 << 62)], "01"),
        ("minimize", [(1 << 64) - 1, (1 << 64) - 2], "02"),
    ],
)
def test_the_best_checkpoint_is_the_earliest_with_the_best_number(goal: str, values: list[Any], best: str) -> None:
    assert digits([trained(goal, *values).best]) == [best]


@pytest.mark.parametrize("values", [[], [math.nan], ["text"], [True], [..., ...]])
def test_without_a_number_there_is_no_best(values: list[Any]) -> None:
    assert trained("minimize", *values).best is None


def test_the_primary_metric_given_last_decides() -> None:
    found = only(
        root("aa", primary=LOSS),
        checkpoint("aa", "01", 1, metrics={"loss": 1, "accuracy": 5}, primary=LOSS),
        checkpoint("aa", "02", 2, parent="01", metrics={"loss": 2, "accuracy": 7}, primary=("accuracy", "maximize")),
        checkpoint("aa", "03", 3, parent="02", metrics={"loss": 0}),
    )
    assert found.primary_metric == ("accuracy", "maximize")
    assert digits([found.best]) == ["02"]


def test_a_metric_that_is_not_primary_makes_no_best() -> None:
    assert only(root("aa"), checkpoint("aa", "01", 1, metrics={"loss": 1})).best is None


@pytest.mark.parametrize(
    ("value", "wanted"), [(1, 1.0), (1.5, 1.5), (math.nan, None), (True, None), ("1", None), (None, None), ([1], None)]
)
def test_only_numbers_compare(value: object, wanted: float | None) -> None:
    assert number(value) == wanted
