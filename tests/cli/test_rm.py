from __future__ import annotations

import sys

import pytest

from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files


def visible(project: SampleProject) -> dict[str | None, list[int | None]]:
    """Return the steps of every listed experiment by its name."""
    return {one.name: [saved.commit.step for saved in one.checkpoints] for one in project.history().experiments}


def test_an_experiment_is_removed_as_a_whole(shell: Shell, vision: Vision) -> None:
    result = shell("rm", "baseline")
    short = vision.baseline.short
    assert result.err == (
        f"removed experiment {short} baseline · 3 checkpoints · undo with `replicate undo {short}`\n"
        "nothing is freed yet\n"
    )
    assert (result.out, result.code) == ("", 0)
    assert visible(vision.project) == {"warmup": [10]}
    shell.fails(
        3,
        f"error: no experiment or checkpoint has an id that begins with {short}\n"
        f"hint: it was removed; `replicate undo {short}` brings it back\n",
        "show",
        short,
    )


@pytest.mark.parametrize(("revision", "step"), [("baseline@best", 1), ("baseline@latest", 2), ("baseline~2", 0)])
def test_a_checkpoint_is_removed_alone(shell: Shell, vision: Vision, revision: str, step: int) -> None:
    result = shell("rm", revision)
    short = vision.baseline.ids[step][:7]
    assert result.err == (
        f"removed checkpoint {short} (step {step}) of {vision.baseline.short} · undo with `replicate undo {short}`\n"
        "nothing is freed yet\n"
    )
    assert visible(vision.project)["baseline"] == [one for one in (0, 1, 2) if one != step]


@pytest.mark.parametrize("revision", ["baseline~0", "baseline~"])
def test_a_revision_with_steps_is_never_the_whole_experiment(shell: Shell, vision: Vision, revision: str) -> None:
    assert shell("rm", revision).code == 0
    assert len(visible(vision.project)["baseline"]) == 2


def test_nothing_in_packs_changes(shell: Shell, vision: Vision) -> None:
    before = store_files(vision.project.store, "packs")
    assert shell("rm", "baseline", "warmup").code == 0
    assert store_files(vision.project.store, "packs") == before
    assert shell("ls").code == 1


def test_a_checkpoint_goes_with_its_experiment_when_both_are_named(shell: Shell, vision: Vision) -> None:
    result = shell("rm", "--json", "-q", vision.baseline.ids[0], "baseline", vision.baseline.ids[0][:9])
    assert result.json == {"experiments": [vision.baseline.id], "checkpoints": [], "already": []}
    assert result.err == ""


def test_several_checkpoints_are_removed_at_once(shell: Shell, vision: Vision) -> None:
    result = shell("rm", "--json", *vision.baseline.ids[:2], vision.warmup.ids[0])
    assert result.json["checkpoints"] == [*vision.baseline.ids[:2], vision.warmup.ids[0]]
    assert visible(vision.project) == {"baseline": [2], "warmup": []}


def test_what_is_removed_already_is_no_failure(shell: Shell, vision: Vision) -> None:
    assert shell("rm", "baseline").code == 0
    result = shell("rm", "--json", "baseline", vision.baseline.ids[0])
    assert result.code == 0
    assert result.err.splitlines()[0] == "baseline is removed already; `replicate undo baseline` brings it back"
    assert result.json == {
        "experiments": [],
        "checkpoints": [],
        "already": [vision.baseline.id, vision.baseline.ids[0]],
    }


def test_nothing_is_removed_when_one_of_several_is_not_there(shell: Shell, vision: Vision) -> None:
    assert shell("rm", "baseline", "nothing").code == 3
    assert shell("rm", "baseline", "warmup@start").code == 2
    assert set(visible(vision.project)) == {"baseline", "warmup"}


def test_the_start_alone_cannot_be_removed(shell: Shell, vision: Vision) -> None:
    short = vision.baseline.short
    shell.fails(
        2,
        f"error: {short} is the start of an experiment, which cannot be removed alone\n"
        f"hint: `replicate rm {short}` removes the experiment\n",
        "rm",
        "baseline@start",
    )


def test_a_file_cannot_be_removed(shell: Shell, vision: Vision) -> None:
    assert shell("rm", "baseline@best:model.bin").code == 2
    assert visible(vision.project)["baseline"] == [0, 1, 2]


def test_without_a_revision_nothing_is_removed(shell: Shell, vision: Vision) -> None:
    assert shell("rm").code == 2


# -- what runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(project: SampleProject) -> SampleProject:
    """An experiment that this process runs."""
    session = project.begin({}, name="running")
    project.save(session, step=0)
    return project


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Let somebody sit before it who gives this answer."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: answer)


def test_what_runs_is_not_removed_where_nobody_can_answer(shell: Shell, running: SampleProject) -> None:
    (experiment,) = running.history().summaries
    shell.fails(
        4,
        f"error: experiment {experiment.experiment_id.short} is running; nothing was removed\n"
        "hint: remove it all the same with -f; what it saves from then on stays visible\n",
        "rm",
        "running",
    )
    assert visible(running) == {"running": [0]}


@pytest.mark.parametrize("answer", ["n", ""])
def test_what_runs_stays_when_the_answer_is_no(
    shell: Shell, running: SampleProject, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    on_a_terminal(monkeypatch, answer)
    assert shell("rm", "running").code == 4
    assert visible(running) == {"running": [0]}


def test_what_runs_is_removed_when_the_answer_is_yes(
    shell: Shell, running: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, "y")
    assert shell("rm", "running").code == 0
    assert visible(running) == {}


def test_what_runs_is_removed_by_force(shell: Shell, running: SampleProject) -> None:
    assert shell("rm", "-f", "running").code == 0
    assert visible(running) == {}


def test_a_checkpoint_of_what_runs_is_removed_without_asking(shell: Shell, running: SampleProject) -> None:
    assert shell("rm", "running@latest").code == 0
    assert visible(running) == {"running": []}
