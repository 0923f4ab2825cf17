from __future__ import annotations

from replicate.capture import storable
from replicate.config import user
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject


def steps(vision: Vision) -> dict[str | None, list[int | None]]:
    """Return the steps of every listed experiment by its name."""
    return {one.name: [saved.commit.step for saved in one.checkpoints] for one in vision.project.history().experiments}


def test_an_experiment_comes_back(shell: Shell, vision: Vision) -> None:
    shell("rm", "baseline")
    result = shell("undo", vision.baseline.short)
    assert result.err == f"brought back experiment {vision.baseline.short} baseline · 3 checkpoints\n"
    assert (result.out, result.code) == ("", 0)
    assert steps(vision) == {"baseline": [0, 1, 2], "warmup": [10]}


def test_a_checkpoint_comes_back_alone(shell: Shell, vision: Vision) -> None:
    for one in vision.baseline.ids[:2]:
        shell("rm", one)
    short = vision.baseline.ids[1][:7]
    result = shell("undo", short)
    assert result.err == f"brought back {short} (step 1) of {vision.baseline.short}\n"
    assert steps(vision)["baseline"] == [1, 2]


def test_what_was_removed_in_one_go_comes_back_in_one_go_and_it_is_told(shell: Shell, vision: Vision) -> None:
    first, second, _ = vision.baseline.ids
    shell("rm", first, second)
    result = shell("undo", second)
    assert result.err == (
        f"brought back {first[:7]} (step 0), {second[:7]} (step 1) of {vision.baseline.short}"
        " · 1 commit of these had been removed with it\n"
    )
    assert steps(vision)["baseline"] == [0, 1, 2]


def test_a_checkpoint_of_a_removed_experiment_brings_all_of_it_back(shell: Shell, vision: Vision) -> None:
    shell("rm", "baseline")
    result = shell("undo", "--json", vision.baseline.ids[0])
    assert result.json == {"back": [vision.baseline.id, *vision.baseline.ids]}
    assert result.err.endswith(" · 3 commits of these had been removed with it\n")


def test_the_experiment_brings_back_every_checkpoint_that_was_removed(shell: Shell, vision: Vision) -> None:
    for one in vision.baseline.ids:
        shell("rm", one)
    assert steps(vision)["baseline"] == []
    assert shell("undo", "baseline").code == 0
    assert steps(vision)["baseline"] == [0, 1, 2]


def test_what_is_not_removed_is_no_failure(shell: Shell, vision: Vision) -> None:
    result = shell("undo", "--json", "baseline", vision.warmup.ids[0])
    assert result.err == f"baseline is not removed\n{vision.warmup.ids[0]} is not removed\n"
    assert (result.json, result.code) == ({"back": []}, 0)


def test_nothing_comes_back_when_one_of_several_is_not_there(shell: Shell, vision: Vision) -> None:
    shell("rm", "baseline")
    shell.fails(
        3,
        "error: nothing that was removed is named 'nothing'\nhint: `replicate undo` lists what can be brought back\n",
        "undo",
        "baseline",
        "nothing",
    )
    assert steps(vision) == {"warmup": [10]}


def test_what_is_removed_is_listed(shell: Shell, vision: Vision) -> None:
    shell("rm", vision.warmup.ids[0])
    shell("rm", "baseline")
    result = shell("undo")
    by = f"removed just now by {storable(user())}@"
    assert [line.split("  ")[0] for line in result.lines] == [vision.baseline.short, vision.warmup.ids[0][:7]]
    assert all(by in line for line in result.lines)
    assert "experiment, 3 checkpoints  baseline" in result.lines[0]
    assert f"of {vision.warmup.short} warmup" in result.lines[1]
    assert result.err == "`replicate undo ID` brings it back; nothing is freed yet\n"


def test_json_tells_what_when_and_who(shell: Shell, vision: Vision) -> None:
    shell("rm", vision.warmup.ids[0])
    shell("rm", "baseline")
    first, second = shell("undo", "--json").json
    assert set(first) == {"id", "kind", "experiment", "name", "step", "removed", "removed_by"}
    assert (first["kind"], first["id"], first["step"]) == ("experiment", vision.baseline.id, None)
    assert (second["kind"], second["id"], second["step"]) == ("checkpoint", vision.warmup.ids[0], 10)
    assert second["experiment"] == vision.warmup.id


def test_without_anything_removed_the_list_is_empty(shell: Shell, vision: Vision) -> None:
    assert (shell("undo").err, shell("undo").code) == ("nothing is removed\n", 1)
    assert (shell("undo", "--json").json, shell("undo", "--json").code) == ([], 1)


def test_what_a_removed_experiment_saved_later_is_told_apart(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="running")
    project.save(session, step=0)
    assert shell("rm", "-f", "running").code == 0
    project.save(session, step=1)
    session.end("finished")
    (row,) = shell("undo", "--json").json
    assert (row["kind"], row["step"]) == ("checkpoint", 0)
    assert shell("undo", "running").code == 0
    assert shell("undo").code == 1


def test_what_was_removed_comes_back_by_its_tag(shell: Shell, vision: Vision) -> None:
    shell("tag", "baseline", "golden")
    shell("tag", vision.baseline.ids[1], "good")
    shell("rm", vision.baseline.ids[1])
    told = shell("show", "good")
    assert (told.code, told.err.splitlines()[1]) == (3, "hint: it was removed; `replicate undo good` brings it back")
    assert shell("undo", "good").code == 0
    shell("rm", "golden")
    assert steps(vision) == {"warmup": [10]}
    assert shell("undo", "golden").code == 0
    assert steps(vision) == {"baseline": [0, 1, 2], "warmup": [10]}
