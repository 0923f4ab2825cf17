from __future__ import annotations

import re

import pytest

from tests.builders import noise
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files

MB = 10**6


@pytest.fixture
def sizes(project: SampleProject) -> SampleProject:
    """Two experiments: `large` with 3 MB in two checkpoints, `small` with 1 MB."""
    for name, megabytes in (("large", (2, 1)), ("small", (1,))):
        session = project.begin({}, name=name)
        for step, size in enumerate(megabytes):
            project.write("model.bin", noise(size * MB, f"{name} {step}"))
            project.save(session, "model.bin", step=step)
        session.end("finished")
    return project


def packs(project: SampleProject) -> int:
    """Return what all packs take."""
    return sum(path.stat().st_size for path in store_files(project.store, "packs"))


def test_experiments_are_listed_largest_first_with_a_total(shell: Shell, sizes: SampleProject) -> None:
    result = shell("du")
    small, large = sorted(sizes.history().summaries, key=lambda one: one.name or "", reverse=True)
    assert result.lines[:3] == [
        "EXPERIMENT  NAME   CHECKPOINTS  LOGICAL  STORED",
        f"{large.experiment_id.short}     large            2   3.0 MB  3.0 MB",
        f"{small.experiment_id.short}     small            1   2.0 MB  1.0 MB",
    ]
    assert re.fullmatch(r"records +[\d.]+ KB", result.lines[3])
    assert re.fullmatch(r"total +5.0 MB +4.0 MB", result.lines[4])
    assert (len(result.lines), result.err, result.code) == (5, "", 0)


def test_of_an_experiment_its_checkpoints_are_listed(shell: Shell, sizes: SampleProject) -> None:
    result = shell("du", "large")
    assert [row[1:] for row in result.rows[1:4]] == [
        ["0", "2.0", "MB", "2.0", "MB"],
        ["1", "1.0", "MB", "1.0", "MB"],
        ["start", "35", "B", *result.rows[3][4:]],
    ]
    assert result.rows[0] == ["CHECKPOINT", "STEP", "LOGICAL", "STORED"]
    assert result.rows[4] == ["total", "3.0", "MB", "3.0", "MB"]
    assert len(result.rows) == 5


def test_of_several_the_experiment_is_told(shell: Shell, sizes: SampleProject) -> None:
    result = shell("du", "small", "large@latest")
    assert len([line for line in result.lines if "  of " in line]) == 3


def test_a_checkpoint_alone_is_one_line(shell: Shell, sizes: SampleProject) -> None:
    assert len(shell("du", "large@latest").lines) == 3
    (row,) = shell("du", "--json", "large@latest").json
    assert (row["step"], row["removed"]) == (1, False)
    assert MB < row["stored_bytes"] < MB + 10_000


def test_json_adds_up_to_the_packs(shell: Shell, sizes: SampleProject) -> None:
    found = shell("du", "--json").json
    assert found["packs_bytes"] == packs(sizes)
    assert found["in_none_bytes"] + sum(one["stored_bytes"] for one in found["experiments"]) == packs(sizes)
    assert [one["name"] for one in found["experiments"]] == ["large", "small"]
    assert (found["removed_bytes"], found["missing_packs"]) == (0, [])


def test_what_was_removed_is_told_and_still_counts(shell: Shell, sizes: SampleProject) -> None:
    before = shell("du", "--json").json
    shell("rm", "small")
    result = shell("du")
    assert result.lines[2].endswith("  removed")
    assert result.err == "1.0 MB are in packs that only removed checkpoints need; nothing is freed before gc\n"
    found = shell("du", "--json").json
    assert found["packs_bytes"] == before["packs_bytes"]
    assert [one["removed"] for one in found["experiments"]] == [False, True]
    assert [line.split()[-1] for line in shell("du", "small").lines[1:3]] == ["removed"] * 2


def test_a_missing_pack_is_told(shell: Shell, sizes: SampleProject) -> None:
    max(store_files(sizes.store, "packs"), key=lambda path: path.stat().st_size).unlink()
    assert shell("du").err == "warning: 1 pack is missing, see `replicate fsck`\n"


def test_without_experiments_it_exits_with_1(shell: Shell, project: SampleProject) -> None:
    project.open().create()
    assert (shell("du").err, shell("du").code) == ("no experiments yet\n", 1)
    assert shell("du", "--json").json["experiments"] == []


def test_what_is_not_there_or_a_file_is_refused(shell: Shell, vision: Vision) -> None:
    assert shell("du", "nothing").code == 3
    assert shell("du", "baseline@best:model.bin").code == 2
