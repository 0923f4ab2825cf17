from __future__ import annotations

import pytest

from replicate.objects.ids import blob_id
from tests.cli.conftest import Vision
from tests.cli.shell import Shell


def test_revisions_are_printed_as_whole_ids_in_order(shell: Shell, vision: Vision) -> None:
    first, second, third = vision.baseline.ids
    given = {
        "baseline": vision.baseline.id,
        "baseline@start": vision.baseline.id,
        "baseline@best": second,
        "baseline@latest": third,
        "baseline@latest~": second,
        "baseline@latest~2": first,
        "baseline@latest~3": vision.baseline.id,
        "latest": vision.warmup.ids[0],
        first[:9]: first,
        vision.warmup.id: vision.warmup.id,
        "baseline@best:model.bin": blob_id(b"baseline 1\n").hex(),
    }
    result = shell("rev-parse", *given)
    assert (result.lines, result.err, result.code) == (list(given.values()), "", 0)


def test_best_is_that_of_the_newest_experiment_and_a_better_one_is_told(shell: Shell, vision: Vision) -> None:
    result = shell("rev-parse", "best")
    assert result.lines == vision.warmup.ids
    assert result.err == (
        f"best is that of the newest experiment, {vision.warmup.short} with loss 0.75; "
        f"{vision.baseline.short} has 0.25\n"
    )


def test_short_prints_seven_digits(shell: Shell, vision: Vision) -> None:
    assert shell("rev-parse", "--short", "baseline", "latest").lines == [
        vision.baseline.short,
        vision.warmup.ids[0][:7],
    ]


@pytest.mark.parametrize(
    ("revision", "code", "message"),
    [
        ("nothing", 3, "no experiment or tag is named 'nothing'\nhint: `replicate ls` shows what there is\n"),
        ("abc", 2, "abc is too short: an id needs at least 4 digits\n"),
        ("baseline@newest", 2, "'baseline@newest' is no revision: after @ comes best, latest, start\n"),
        ("baseline~x", 2, "'baseline~x' is no revision: after ~ comes a number\n"),
        ("baseline@latest~9", 3, "'baseline@latest~9' goes back beyond the first commit\n"),
        ("baseline~1", 3, "'baseline~1' goes back beyond the first commit\n"),
    ],
)
def test_what_is_no_revision_is_told(shell: Shell, vision: Vision, revision: str, code: int, message: str) -> None:
    shell.fails(code, f"error: {message}", "rev-parse", revision)


def test_what_came_before_a_wrong_revision_is_printed(shell: Shell, vision: Vision) -> None:
    result = shell("rev-parse", "baseline", "nothing")
    assert (result.lines, result.code) == ([vision.baseline.id], 3)


def test_a_checkpoint_where_an_experiment_is_expected_names_its_experiment(shell: Shell, vision: Vision) -> None:
    checkpoint = vision.baseline.ids[1][:8]
    shell.fails(
        2,
        f"error: {checkpoint} is a checkpoint (step 1) where an experiment is expected\n"
        f"hint: its experiment is {vision.baseline.short}\n",
        *("rev-parse", f"{checkpoint}@latest"),
    )


def test_it_needs_a_revision(shell: Shell, vision: Vision) -> None:
    shell.fails(2, "error: missing argument 'REVISION...'\nhint: see `replicate rev-parse --help`\n", "rev-parse")
