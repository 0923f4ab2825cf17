from __future__ import annotations

import pytest

from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject


def test_a_commit_is_listed_with_all_that_it_follows(shell: Shell, vision: Vision) -> None:
    first, second, _ = vision.baseline.ids
    result = shell("rev-list", second)
    assert (result.lines, result.err, result.code) == ([second, first, vision.baseline.id], "", 0)


def test_an_experiment_is_listed_whole(shell: Shell, vision: Vision) -> None:
    first, second, third = vision.baseline.ids
    assert shell("rev-list", "baseline").lines == [third, second, first, vision.baseline.id]
    assert shell("commit-tree", "latest:", "-p", first).code == 0
    assert len(shell("rev-list", "baseline").lines) == 5  # both heads


def test_all_lists_every_experiment_by_time(shell: Shell, vision: Vision) -> None:
    own = [*vision.baseline.ids[::-1], vision.baseline.id]
    assert shell("rev-list", "--all").lines == [*vision.warmup.ids, vision.warmup.id, *own]


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        (("baseline@start..baseline@latest",), [2, 1, 0]),
        (("baseline@latest~2..baseline",), [2, 1]),
        (("^baseline@latest~2", "baseline"), [2, 1]),
        (("baseline", "^baseline@latest~2"), [2, 1]),
        (("baseline@latest..baseline@start",), []),
        (("baseline..baseline",), []),
        (("--all", "^baseline@latest~", "^warmup"), [2]),
        (("-n", "1", "baseline"), [2]),
        (("-n", "0", "baseline"), []),
        (("baseline@best", "baseline@best~", "^baseline@start"), [1, 0]),
    ],
)
def test_ranges(shell: Shell, vision: Vision, arguments: tuple[str, ...], listed: list[int]) -> None:
    result = shell("rev-list", *arguments)
    assert (result.lines, result.code) == ([vision.baseline.ids[number] for number in listed], 0)


def test_parents_stand_after_their_commit(shell: Shell, vision: Vision) -> None:
    first, second, _ = vision.baseline.ids
    assert shell("rev-list", "--parents", second).rows == [
        [second, first],
        [first, vision.baseline.id],
        [vision.baseline.id],
    ]


def test_a_fork_leads_to_what_it_was_forked_from(shell: Shell, vision: Vision) -> None:
    first = vision.baseline.ids[0]
    (root,) = shell("commit-tree", "latest:", "--new", "-p", first).lines
    assert shell("rev-list", "--parents", root).rows == [
        [root, first],
        [first, vision.baseline.id],
        [vision.baseline.id],
    ]


def test_json(shell: Shell, vision: Vision) -> None:
    first = vision.baseline.ids[0]
    newest, root = shell("rev-list", "--json", first).json
    commit = vision.baseline.saves[0].base.record.commit
    assert newest == {
        "id": first,
        "parent": vision.baseline.id,
        "experiment": vision.baseline.id,
        "seq": 1,
        "step": 0,
        "time_ns": commit.time_ns,
    }
    assert (root["parent"], root["step"], root["seq"]) == (None, None, 0)


def test_an_empty_store_has_no_commits(shell: Shell, project: SampleProject) -> None:
    assert (shell("rev-list", "--all").lines, shell("rev-list", "--all", "--json").json) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name a REVISION, or use --all\nhint: see `replicate rev-list --help`\n"),
        (("..latest",), 2, "'..latest' is no range: it must be X..Y\n"),
        (("latest..",), 2, "'latest..' is no range: it must be X..Y\n"),
        (("abc",), 2, "abc is too short: an id needs at least 4 digits\n"),
        (("latest~9",), 3, "'latest~9' goes back beyond the first commit\n"),
        (
            ("latest:train.py",),
            2,
            "latest:train.py names a path, not a commit\nhint: leave out what follows the colon\n",
        ),
    ],
)
def test_what_is_no_revision_is_told(
    shell: Shell, vision: Vision, arguments: tuple[str, ...], code: int, message: str
) -> None:
    shell.fails(code, f"error: {message}", "rev-list", *arguments)
