from __future__ import annotations

import math

import pytest

from replicate.text import columns
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject

KEYS = {
    "id",
    "name",
    "created",
    "params",
    "command",
    "num_checkpoints",
    "latest_checkpoint",
    "best_checkpoint",
    "user",
    "host",
    "running",
    "status",
    "exception",
    "tags",
    "note",
    "python_version",
    "heads",
}


def test_experiments_are_listed_newest_first_with_the_params_that_differ(shell: Shell, vision: Vision) -> None:
    result = shell("ls")
    assert result.lines == [
        "EXPERIMENT  NAME      STARTED      STATUS    LR    BEST     LOSS  LATEST",
        f"{vision.warmup.short}     warmup    2 hours ago  failed    0.01  step 10  0.75  step 10",
        "                                   MemoryError: tried to allocate 2.1 GB",
        f"{vision.baseline.short}     baseline  2 hours ago  finished  0.1   step 1   0.25  step 2",
    ]
    assert result.err == "2 experiments · params that differ are shown, --all shows the rest\n"
    assert result.code == 0


@pytest.mark.parametrize("flag", ["-a", "--all"])
def test_all_shows_params_that_are_equal_too(shell: Shell, vision: Vision, flag: str) -> None:
    result = shell("ls", flag)
    assert result.rows[0] == ["EXPERIMENT", "NAME", "STARTED", "STATUS", "LR", "MODEL", "BEST", "LOSS", "LATEST"]
    assert "resnet" in result.lines[1]
    assert result.err == "2 experiments\n"


def test_a_single_experiment_shows_all_params_but_nested_ones(shell: Shell, project: SampleProject) -> None:
    project.begin({"lr": 0.1, "model": "resnet", "schedule": {"kind": "cosine"}}).end("finished")
    result = shell("ls")
    assert result.rows[0] == ["EXPERIMENT", "STARTED", "STATUS", "LR", "MODEL"]
    assert result.err == "1 experiment\n"


def test_params_that_are_nested_are_shown_with_all(shell: Shell, project: SampleProject) -> None:
    for kind in ("cosine", "linear"):
        project.begin({"schedule": {"kind": kind, "warmup": 500}, "layers": [1, 2]}).end("finished")
    assert "SCHEDULE" not in shell("ls").out
    assert "{kind: linear, warmup: …" in shell("ls", "-a").lines[1]


def test_without_a_primary_metric_the_latest_metrics_are_shown(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    project.save(session, step=3, metrics={"loss": 0.5, "acc": 0.75})
    session.end("finished")
    assert shell("ls").rows[0] == ["EXPERIMENT", "STARTED", "STATUS", "LATEST", "ACC", "LOSS"]
    assert shell("ls").rows[1][-4:] == ["step", "3", "0.75", "0.5"]


def test_numbers_stand_with_their_points_in_line(shell: Shell, project: SampleProject) -> None:
    for loss in (112.5, 0.5):
        session = project.begin({}, primary_metric=("loss", "minimize"))
        project.save(session, step=0, metrics={"loss": loss})
        session.end("finished")
    first, second = (line.index(text) for line, text in zip(shell("ls").lines[1:], ("0.5", "112.5"), strict=True))
    assert first == second + 2


def test_an_experiment_without_checkpoints_has_no_best(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="empty")
    session.end("finished")
    assert shell("ls").lines[1] == f"{session.experiment_id.short}     empty  2 hours ago  finished"


def test_status_is_running_while_the_session_is_and_stopped_when_it_was_killed(
    shell: Shell, project: SampleProject
) -> None:
    session = project.begin({})
    assert shell("ls").rows[1][4] == "running"
    session.end("stopped")
    assert shell("ls").rows[1][4] == "stopped"


def test_of_an_exception_the_first_line_is_shown_and_more_is_hinted_at(shell: Shell, project: SampleProject) -> None:
    project.begin({}).end("failed", ValueError("two\nlines"))
    assert shell("ls").lines[2].strip() == "ValueError: two …"


def test_host_and_user_are_shown_when_there_are_several(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    session.end("finished")
    assert shell("checkpoint", "-q", "--new").code == 0
    assert shell("ls").rows[0][3:5] == ["HOST", "USER"]


def test_a_fork_is_told_of(shell: Shell, vision: Vision) -> None:
    assert shell("checkpoint", "-q", "-e", vision.baseline.ids[0]).code == 0
    result = shell("ls")
    assert "finished, forked" in result.lines[-1]
    assert result.out.count("forked") == 1
    assert result.err.endswith(f" · 1 forked, see `replicate log {vision.baseline.short}`\n")


def test_names_in_wide_characters_keep_the_columns_in_line(shell: Shell, project: SampleProject) -> None:
    project.begin({}, name="余弦").end("finished")
    project.begin({}, name="größe").end("finished")
    assert {columns(line[: line.index("2 hours")]) for line in shell("ls").lines[1:]} == {19}


def test_what_a_terminal_would_obey_is_not_printed(shell: Shell, project: SampleProject) -> None:
    session = project.begin({"note": "\x1b[31mred\x07", "\x1b]0;title\x07": 1})
    session.end("failed", ValueError("\x1b[2Jgone"))
    result = shell("ls")
    assert result.out.isprintable() or not set(result.out) - {"\n"} & {"\x1b", "\x07"}
    assert "·[31mred·" in result.out
    assert "ValueError: ·[2Jgone" in result.out


@pytest.mark.parametrize("value", ["a text that is much longer than a column", "x" * 100])
def test_a_long_value_is_cut_with_an_ellipsis(shell: Shell, project: SampleProject, value: str) -> None:
    project.begin({"note": value}).end("finished")
    assert f"  {value[:23]}…" in shell("ls").lines[1]


# -- on a terminal ---------------------------------------------------------------------------------------------------


@pytest.fixture
def many_params(project: SampleProject) -> SampleProject:
    """Two experiments with more params than a terminal has room for; one value is long, and one ended badly."""
    for number in (1, 2):
        params = {f"param{letter}": f"value {letter}{number}" for letter in "abcdefgh"} | {"note": f"{number}" * 60}
        project.begin(params).end("failed", ValueError("it did not work at all, " * 9))
    return project


def test_a_table_fits_the_terminal(shell: Shell, many_params: SampleProject) -> None:
    shell.widen(80)
    result = shell("ls")
    assert max(map(columns, result.lines)) <= 80
    assert result.lines[2].endswith("…")


def test_the_widest_params_go_first_and_are_named(shell: Shell, many_params: SampleProject) -> None:
    shell.widen(100)
    result = shell("ls")
    assert "NOTE" not in result.out
    assert "PARAMA" in result.out
    assert result.err.startswith("2 experiments · no room for note, ")
    assert result.err.endswith(": --all shows all\n")


@pytest.fixture
def sweep(project: SampleProject) -> SampleProject:
    """Two experiments with 22 params that all differ, and two metrics."""
    for number in (1, 2):
        params = {f"param{at:02}": f"v{number}" + "0" * at for at in range(22)}
        session = project.begin(params, name=f"number{number}", primary_metric=("loss", "minimize"))
        project.save(session, step=1, metrics={"loss": 0.5, "accuracy": number / 4})
        session.end("finished")
    return project


def test_of_very_many_params_some_are_shown_all_the_same(shell: Shell, sweep: SampleProject) -> None:
    shell.widen(80)
    result = shell("ls")
    assert result.rows[0] == ["EXPERIMENT", "NAME", "STATUS", "PARAM00", "PARAM01", "PARAM02", "BEST", "LOSS"]
    assert result.err.startswith("2 experiments · no room for param21, param20, param19 and 18 more: --all shows all")


def test_what_is_filtered_and_sorted_by_comes_first_and_stays(shell: Shell, sweep: SampleProject) -> None:
    for width in (80, 76):
        shell.widen(width)
        rows = shell("ls", "-s", "accuracy-desc", "-f", "param20 != none", "-f", "step = 1").rows
        at = rows[0].index("STATUS") + 1
        assert rows[0][at : at + 2] == ["ACCURACY", "PARAM20"]
        assert rows[0][-1] == "LATEST"
        assert rows[1][at - 1 : at + 1] == ["finished", "0.5"]


def test_a_param_that_is_equal_everywhere_is_shown_when_it_is_filtered_by(shell: Shell, vision: Vision) -> None:
    assert shell("ls", "-f", "model = resnet").rows[0][4:6] == ["MODEL", "LR"]
    assert shell("ls", "-f", "tag != golden", "-f", "los != 3").rows[0] == shell("ls").rows[0]


def test_wide_params_are_made_narrower_before_any_goes(shell: Shell, project: SampleProject) -> None:
    for text in ("a long value that has to be cut", "another one"):
        project.begin({"note": text}).end("finished")
    shell.widen(50)
    assert "a long valu…" in shell("ls").out


def test_all_drops_no_param(shell: Shell, many_params: SampleProject) -> None:
    shell.widen(80)
    result = shell("ls", "--all")
    assert [name for name in result.rows[0] if name.startswith(("PARAM", "NOTE"))] == [
        "NOTE",
        *(f"PARAM{letter}" for letter in "ABCDEFGH"),
    ]
    assert result.err == "2 experiments\n"


def test_a_very_narrow_terminal_still_gets_ids_and_status(shell: Shell, many_params: SampleProject) -> None:
    shell.widen(20)
    result = shell("ls")
    assert result.rows[0] == ["EXPERIMENT", "STATUS"]
    assert max(map(columns, result.lines)) <= 20


def test_a_pipe_gets_the_whole_table(shell: Shell, many_params: SampleProject) -> None:
    result = shell("ls")
    assert len(result.rows[0]) == 12
    assert result.lines[2].endswith("it did not work at all,")


# -- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_prints_whole_ids_only(shell: Shell, vision: Vision, flag: str) -> None:
    result = shell("ls", flag)
    assert (result.lines, result.err) == ([vision.warmup.id, vision.baseline.id], "")


@pytest.mark.parametrize("flag", ["-f", "--filter"])
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("loss < 0.5", ["baseline"]),
        ("lr = 0.01", ["warmup"]),
        ("lr=0.010", ["warmup"]),
        ("status = failed", ["warmup"]),
        ("name != warmup", ["baseline"]),
        ("step >= 2", ["warmup", "baseline"]),
        ("started > 2020-01-01", ["warmup", "baseline"]),
        ("model = resnet", ["warmup", "baseline"]),
    ],
)
def test_a_filter_keeps_what_fulfils_it(shell: Shell, vision: Vision, flag: str, text: str, names: list[str]) -> None:
    result = shell("ls", flag, text, "--json")
    assert [one["name"] for one in result.json] == names
    assert (result.err, result.code) == ("", 0)


def test_several_filters_all_hold(shell: Shell, vision: Vision) -> None:
    assert shell("ls", "-q", "-f", "model = resnet", "-f", "lr < 0.05").lines == [vision.warmup.id]


@pytest.mark.parametrize("flag", ["-s", "--sort"])
@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("loss", ["baseline", "warmup"]),
        ("loss-asc", ["baseline", "warmup"]),
        ("loss-desc", ["warmup", "baseline"]),
        ("created", ["baseline", "warmup"]),
        ("lr", ["warmup", "baseline"]),
        ("name", ["baseline", "warmup"]),
    ],
)
def test_sort_orders_by_a_name(shell: Shell, vision: Vision, flag: str, key: str, names: list[str]) -> None:
    assert [one["name"] for one in shell("ls", flag, key, "--json").json] == names


@pytest.mark.parametrize("flag", ["-n", "--number"])
def test_number_limits_after_sorting(shell: Shell, vision: Vision, flag: str) -> None:
    assert shell("ls", "-q", "-s", "loss", flag, "1").lines == [vision.baseline.id]


def test_a_filter_by_a_name_that_no_experiment_has_is_told(shell: Shell, vision: Vision) -> None:
    result = shell("ls", "-q", "-f", "los != 3")
    assert (len(result.lines), result.err) == (2, "no experiment has 'los'; did you mean 'loss'?\n")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("los", "did you mean 'loss'?"),
        ("los-desc", "did you mean 'loss'?"),
        ("modle-asc", "did you mean 'model'?"),
        ("xyz", "-s takes a metric, a param, or created; add -desc to turn it round"),
    ],
)
def test_a_sort_by_a_name_that_no_experiment_has_is_refused(shell: Shell, vision: Vision, key: str, hint: str) -> None:
    name = key.removesuffix("-desc").removesuffix("-asc")
    shell.fails(2, f"error: cannot sort by '{name}': no experiment has it\nhint: {hint}\n", "ls", "-s", key)


def test_a_text_that_is_no_filter_is_refused(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: 'loss' is no filter: it must be NAME OPERATOR VALUE\nhint: for example -f \"loss < 0.2\"\n",
        *("ls", "-f", "loss"),
    )


def test_a_date_that_is_none_is_refused(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: 'yesterday' is no date\nhint: write 2026-11-23 or 2026-11-23T14:30\n",
        *("ls", "-f", "started > yesterday"),
    )


@pytest.mark.parametrize("flag", ["--json", "--all"])
def test_quiet_goes_with_nothing_that_prints_more(shell: Shell, vision: Vision, flag: str) -> None:
    shell.fails(
        2,
        "error: -q prints ids only; it goes with neither --json nor --all\nhint: see `replicate ls --help`\n",
        *("ls", "-q", flag),
    )


def test_number_is_at_least_one(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: invalid value for '-n' / '--number': 0 is not in the range x>=1\nhint: see `replicate ls --help`\n",
        *("ls", "-n", "0"),
    )


# -- none ------------------------------------------------------------------------------------------------------------


def test_no_experiment_is_told_with_exit_code_1(shell: Shell, project: SampleProject) -> None:
    shell.fails(1, "no experiments yet\n", "ls")


def test_no_match_is_told_with_exit_code_1(shell: Shell, vision: Vision) -> None:
    shell.fails(1, "no experiments match\n", "ls", "-f", "loss < 0")


def test_none_is_an_empty_list_in_json(shell: Shell, project: SampleProject) -> None:
    result = shell("ls", "--json")
    assert (result.json, result.err, result.code) == ([], "", 1)


# -- json ------------------------------------------------------------------------------------------------------------


def test_json_has_every_key(shell: Shell, vision: Vision) -> None:
    warmup, baseline = shell("ls", "--json").json
    assert set(warmup) == set(baseline) == KEYS
    assert (baseline["id"], baseline["name"], baseline["num_checkpoints"]) == (vision.baseline.id, "baseline", 3)
    assert baseline["params"] == {"lr": 0.1, "model": "resnet"}
    assert baseline["best_checkpoint"]["id"] == vision.baseline.ids[1]
    assert baseline["best_checkpoint"]["primary_metric"] == {"name": "loss", "goal": "minimize"}
    assert baseline["latest_checkpoint"]["metrics"] == {"loss": 0.5, "acc": 0.5}
    assert baseline["heads"] == [vision.baseline.ids[2]]
    assert (baseline["status"], baseline["exception"]) == ("finished", None)
    assert (warmup["status"], warmup["exception"]) == ("failed", "MemoryError: tried to allocate 2.1 GB")
    assert (warmup["user"], warmup["host"], warmup["python_version"]) == ("me", "here", "3.11.0")


def test_nan_and_infinities_are_text_in_json(shell: Shell, project: SampleProject) -> None:
    session = project.begin({"clip": math.inf, "nested": [{"low": -math.inf}]})
    project.save(session, step=0, metrics={"loss": math.nan})
    session.end("finished")
    (one,) = shell("ls", "--json").json
    assert one["params"] == {"clip": "Infinity", "nested": [{"low": "-Infinity"}]}
    assert one["latest_checkpoint"]["metrics"] == {"loss": "NaN"}


def test_a_checkpoint_without_a_number_is_never_best(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, primary_metric=("loss", "minimize"))
    for step, loss in enumerate((0.5, math.nan, "low")):
        project.save(session, step=step, metrics={"loss": loss})
    session.end("finished")
    (one,) = shell("ls", "--json").json
    assert one["best_checkpoint"]["step"] == 0
