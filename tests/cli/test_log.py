from __future__ import annotations

import math

import pytest

from replicate.text import columns
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject

TITLE = "experiment {}  baseline  finished, started 2 hours ago by me on here, python 3.11.0"


def fork(shell: Shell, vision: Vision) -> str:
    """Continue `baseline` after its first checkpoint, and return the id of the new one."""
    result = shell("checkpoint", "-q", "-e", vision.baseline.ids[0], "-m", "loss=0.125", "--json")
    assert result.code == 0
    return str(result.json["id"])


@pytest.mark.parametrize("given", ["baseline", "id", "prefix"])
def test_an_experiment_is_shown_newest_first_down_to_its_start(shell: Shell, vision: Vision, given: str) -> None:
    baseline = vision.baseline
    first, second, third = (one[:7] for one in baseline.ids)
    result = shell("log", {"baseline": "baseline", "id": baseline.id, "prefix": baseline.id[:5]}[given])
    assert result.lines == [
        TITLE.format(baseline.short),
        "python train.py",
        "",
        f"  {third}  step 2  loss 0.5   acc 0.5   2 hours ago  46 B  11 B new",
        f"  {second}  step 1  loss 0.25  acc 0.75  2 hours ago  46 B  11 B new  best",
        f"  {first}  step 0  loss 1     acc 0     2 hours ago  46 B  11 B new",
        f"  {baseline.short}  start                        2 hours ago  35 B   2 files",
    ]
    assert (result.err, result.code) == ("", 0)


def test_from_a_checkpoint_the_log_goes_back(shell: Shell, vision: Vision) -> None:
    result = shell("log", vision.baseline.ids[1])
    assert [row[0] for row in result.rows[3:]] == [
        vision.baseline.ids[1][:7],
        vision.baseline.ids[0][:7],
        vision.baseline.short,
    ]


def test_without_a_revision_all_checkpoints_are_shown_by_time(shell: Shell, vision: Vision) -> None:
    result = shell("log")
    (only,) = vision.warmup.ids
    assert result.lines[0] == (
        f"{only[:7]}  step 10  of {vision.warmup.short} warmup    loss 0.75  acc 0.25  2 hours ago  42 B   7 B new"
    )
    assert [row[0] for row in result.rows[1:]] == [one[:7] for one in reversed(vision.baseline.ids)]
    assert (result.err, result.code) == ("", 0)


def test_a_failed_experiment_shows_why(shell: Shell, vision: Vision) -> None:
    lines = shell("log", "warmup").lines
    assert (
        lines[0]
        == f"experiment {vision.warmup.short}  warmup  failed, started 2 hours ago by me on here, python 3.11.0"
    )
    assert lines[1] == "MemoryError: tried to allocate 2.1 GB"


@pytest.mark.parametrize("flag", ["-n", "--number"])
def test_number_limits_and_says_that_there_is_more(shell: Shell, vision: Vision, flag: str) -> None:
    result = shell("log", "baseline", flag, "2")
    assert [row[0] for row in result.rows[3:]] == [*(one[:7] for one in vision.baseline.ids[:0:-1]), "…"]


def test_number_limits_the_log_of_all(shell: Shell, vision: Vision) -> None:
    assert len(shell("log", "-n", "3").lines) == 3


def test_a_fork_shows_its_heads_and_where_the_lines_part(shell: Shell, vision: Vision) -> None:
    forked = fork(shell, vision)
    first, second, third = (one[:7] for one in vision.baseline.ids)
    result = shell("log", "baseline")
    rows = {row[0]: row for row in result.rows[4:]}
    assert result.lines[2] == f"forked: 2 heads, {forked[:7]}, {third}"
    assert rows[forked[:7]][-3:] == ["best", "after", first]
    assert [row[0] for row in result.rows[4:]] == [third, forked[:7], second, first, vision.baseline.short]
    assert rows[third][-2:] == ["after", second]
    assert "after" not in rows[second] + rows[first]


def test_from_a_head_the_log_shows_only_its_line(shell: Shell, vision: Vision) -> None:
    forked = fork(shell, vision)
    rows = shell("log", forked).rows[4:]
    assert [row[0] for row in rows] == [forked[:7], vision.baseline.ids[0][:7], vision.baseline.short]
    assert "after" not in rows[0]


def test_an_experiment_without_checkpoints_shows_its_start(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    session.end("finished")
    result = shell("log", session.experiment_id.short)
    assert result.lines[3] == f"  {session.experiment_id.short}  start  2 hours ago  35 B  2 files"
    assert result.code == 0


def test_a_metric_that_a_checkpoint_lacks_leaves_its_column_empty(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="sparse")
    project.save(session, step=0, metrics={"acc": 0.5, "loss": 1.0})
    project.save(session, step=1, metrics={"loss": 0.5})
    session.end("finished")
    newer, older = shell("log", "sparse").lines[3:5]
    assert newer.index("loss") == older.index("loss")


def test_files_that_changed_while_they_were_saved_are_told(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = project.begin({}, name="busy")
    monkeypatch.setattr("replicate.saving.Save._store_items", _mark_unstable)
    project.save(session, step=0)
    session.end("finished")
    assert shell("log", "busy").lines[3].endswith("changed while saved: 1 file")


def _mark_unstable(save: object, listings: object) -> None:
    save._unstable.append(b"train.py")  # type: ignore[attr-defined]


def test_of_many_metrics_six_are_shown_the_primary_first(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="many", primary_metric=("m7", "minimize"))
    project.save(session, step=0, metrics={f"m{number}": number for number in range(9)})
    session.end("finished")
    row = shell("log", "many").rows[3]
    assert row[3:16] == ["m7", "7", "m0", "0", "m1", "1", "m2", "2", "m3", "3", "m4", "4", "…"]


def test_on_a_terminal_rows_fit_and_metrics_make_room(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="many")
    project.save(session, step=0, metrics={f"metric{number}": number for number in range(5)})
    session.end("finished")
    shell.widen(80)
    result = shell("log", "many")
    assert max(map(columns, result.lines)) <= 80
    assert result.rows[3][3:] == [
        "metric0",
        "0",
        "metric1",
        "1",
        "metric2",
        "2",
        "metric3",
        "3",
        "…",
        "2",
        "hours",
        "ago",
    ]


def test_on_a_terminal_sizes_go_before_metrics_and_one_metric_stays(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="a-name-that-is-quite-long", primary_metric=("loss", "minimize"))
    project.save(session, step=0, metrics={"loss": 0.5, "accuracy": 0.25})
    session.end("finished")
    shell.widen(110)
    assert shell("log").rows[0][-8:] == ["2", "hours", "ago", "35", "B", "0", "B", "new"]
    shell.widen(95)
    assert shell("log").rows[0][6:] == ["loss", "0.5", "accuracy", "0.25", "2", "hours", "ago"]
    shell.widen(80)
    assert shell("log").rows[0][6:] == ["loss", "0.5", "…", "2", "hours", "ago"]
    shell.widen(70)
    assert shell("log").rows[0][6:] == ["loss", "0.5", "…"]


def test_on_a_terminal_long_lines_of_the_title_are_cut(shell: Shell, project: SampleProject) -> None:
    project.begin({}, name="long").end("failed", ValueError("very " * 40))
    shell.widen(60)
    result = shell("log", "long")
    assert max(map(columns, result.lines)) <= 60
    assert result.lines[1].endswith("…")
    assert result.lines[0].endswith("…")


def test_what_a_terminal_would_obey_is_not_printed(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    project.save(session, step=0, metrics={"\x1b[31mloss": "\x1b[2J"})
    session.end("failed", ValueError("\x1b[2Jgone"))
    for arguments in ((), (session.experiment_id.short,)):
        assert "\x1b" not in shell("log", *arguments).out


# -- json ------------------------------------------------------------------------------------------------------------


def test_json_lists_checkpoints_newest_first(shell: Shell, vision: Vision) -> None:
    result = shell("log", "baseline", "--json")
    assert [one["id"] for one in result.json] == vision.baseline.ids[::-1]
    assert set(result.json[0]) == {
        "id",
        "experiment",
        "created",
        "seq",
        "step",
        "metrics",
        "primary_metric",
        "files",
        "bytes",
        "new_bytes",
        "unstable",
        "skipped",
        "tags",
    }
    assert (result.json[0]["seq"], result.json[0]["step"], result.json[0]["files"]) == (3, 2, 3)
    assert (result.err, result.code) == ("", 0)


def test_json_of_all_is_by_time(shell: Shell, vision: Vision) -> None:
    assert [one["id"] for one in shell("log", "--json", "-n", "2").json] == [
        vision.warmup.ids[0],
        vision.baseline.ids[2],
    ]


def test_json_has_nan_as_text(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="broken")
    project.save(session, step=0, metrics={"loss": math.nan, "gap": [math.inf]})
    session.end("finished")
    assert shell("log", "broken", "--json").json[0]["metrics"] == {"loss": "NaN", "gap": ["Infinity"]}


# -- none, and wrong -------------------------------------------------------------------------------------------------


def test_no_checkpoint_is_told_with_exit_code_1(shell: Shell, project: SampleProject) -> None:
    shell.fails(1, "no checkpoints yet\n", "log")
    result = shell("log", "--json")
    assert (result.json, result.err, result.code) == ([], "", 1)


def test_of_several_of_a_name_the_newest_is_taken_and_told(shell: Shell, vision: Vision) -> None:
    session = vision.project.begin({}, name="baseline")
    session.end("finished")
    result = shell("log", "baseline")
    assert result.lines[0].startswith(f"experiment {session.experiment_id.short}  baseline  ")
    assert result.err == f"2 experiments are named baseline; taking the newest, {session.experiment_id.short}\n"


def test_a_path_is_refused(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: baseline:train.py names a file; log shows checkpoints\nhint: leave out what follows the colon\n",
        *("log", "baseline:train.py"),
    )


def test_an_unknown_name_is_refused(shell: Shell, vision: Vision) -> None:
    shell.fails(
        3,
        "error: no experiment or tag is named 'basline'\nhint: `replicate ls` shows what there is\n",
        "log",
        "basline",
    )
