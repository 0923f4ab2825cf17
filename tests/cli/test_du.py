from __future__ import annotations

import re

import pytest

from replicate.text import format_bytes
from tests.builders import noise
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files
from tests.weights import safetensors, weights

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
        ["start", "35", "B", *result.rows[1][4:]],
        ["0", "2.0", "MB", "2.0", "MB"],
        ["1", "1.0", "MB", "1.0", "MB"],
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
    assert result.err == "1.0 MB are in packs that only removed checkpoints need; nothing is freed yet\n"
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


def test_what_is_not_there_is_refused(shell: Shell, vision: Vision) -> None:
    assert shell("du", "nothing").code == 3
    assert shell("du", "baseline@best:nothing").code == 3
    shell.fails(
        2,
        "error: files are listed of one checkpoint\nhint: `replicate du ID --files`, or ID:PATH\n",
        *("du", "--files"),
    )


def test_encodings_are_told_of_experiments_and_add_up(shell: Shell, sizes: SampleProject) -> None:
    result = shell("du", "--encodings")
    assert result.lines[0].endswith("STORED    HELD BY")
    assert "raw 3.0 MB, " in result.lines[1]
    found = shell("du", "--encodings", "--json").json["experiments"]
    for one in found:
        raw = one["encodings"]["raw"]
        assert MB <= raw["bytes"] <= one["stored_bytes"]
        assert sum(held["stored_bytes"] for held in one["encodings"].values()) <= one["stored_bytes"]
    assert "encodings" not in shell("du", "--json").json["experiments"][0]


def test_encodings_are_told_of_checkpoints(shell: Shell, sizes: SampleProject) -> None:
    assert shell("du", "large", "--encodings").lines[2].split("    ")[-1].startswith("raw 2.0 MB, ")
    (row,) = shell("du", "large@latest", "--encodings", "--json").json
    assert MB <= row["encodings"]["raw"]["bytes"] < MB + 1000


def test_an_export_is_held_by_casts(shell: Shell, project: SampleProject) -> None:
    values = weights(MB // 4)
    project.write("model.safetensors", safetensors({"a": values}))
    project.write("export.safetensors", safetensors({"a": values.astype("float16")}))
    project.begin({}, name="export")
    (found,) = shell("du", "--encodings", "--json").json["experiments"]
    assert found["encodings"]["cast"]["bytes"] == MB // 2
    assert found["encodings"]["cast"]["stored_bytes"] < 200
    assert "cast" in shell("du", "--encodings").lines[1]


@pytest.fixture
def layers(project: SampleProject) -> SampleProject:
    """Two checkpoints of a weight file in a folder, of which half changes, beside files that do not."""
    session = project.begin({}, name="layers")
    project.write("large.bin", noise(5 * MB))
    project.write("same.bin", noise(100_000, "same"))
    project.write("copy.bin", noise(100_000, "same"))
    for step in range(2):
        arrays = {"a": weights(MB // 4), "b": weights(MB // 4, seed=step)}
        project.write("out/model.safetensors", safetensors(arrays))
        project.save(session, step=step)
    return project


def test_files_of_a_checkpoint_are_listed_with_what_holds_them(shell: Shell, layers: SampleProject) -> None:
    files = {one["path"]: one for one in shell("du", "latest", "--files", "--json").json}
    model, same, copy, large = (files[name] for name in ("out/model.safetensors", "same.bin", "copy.bin", "large.bin"))
    assert (same["stored_bytes"], large["stored_bytes"]) == (0, 0)  # an earlier checkpoint's
    assert same["encodings"] == {}  # counted with the first of the two
    assert (same["same_as"], copy["same_as"]) == ({"path": "copy.bin"}, None)
    assert copy["encodings"] == {"raw": {"objects": 1, "bytes": 100_000, "stored_bytes": 100_060}}
    assert (large["encodings"]["concat"]["bytes"], large["encodings"]["raw"]["objects"]) == (0, 2)
    held = model["encodings"].values()
    assert 0 < model["stored_bytes"] < sum(one["stored_bytes"] for one in held)
    pieces = sum(one["bytes"] for one in held)
    assert pieces == model["bytes"]


def test_files_add_up_to_what_was_stored_for_the_checkpoint(shell: Shell, layers: SampleProject) -> None:
    result = shell("du", "latest~1", "--files")
    assert result.rows[0] == ["FILE", "LOGICAL", "STORED", "HELD", "BY"]
    assert result.lines[1].startswith("large.bin ")
    assert result.lines[-2].startswith("folders, commit, lists ")
    assert [line.split()[0] for line in result.lines if line.endswith("  = copy.bin")] == ["same.bin"]
    (row,) = shell("du", "latest~1", "--json").json
    (total,) = (line for line in result.lines if line.startswith("total"))
    assert total.split()[3:5] == format_bytes(row["stored_bytes"]).split()


def test_a_path_limits_the_files(shell: Shell, layers: SampleProject) -> None:
    assert [row[0] for row in shell("du", "latest:out").rows] == ["FILE", "out/model.safetensors", "total"]
    assert [one["path"] for one in shell("du", "--json", "latest:copy.bin").json] == ["copy.bin"]
