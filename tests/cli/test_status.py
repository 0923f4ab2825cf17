from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from replicate.background import note_outage
from replicate.config import require_project
from replicate.evicted import EvictedPack, write_evicted
from replicate.host import Host
from tests.builders import some_id
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject


def test_a_worktree_as_saved_has_no_changes(shell: Shell, vision: Vision) -> None:
    result = shell("status")
    assert result.lines == [
        "store     .replicate, 2 experiments",
        f"worktree  {vision.warmup.ids[0][:7]} (step 10 of {vision.warmup.short} warmup), no changes",
    ]
    assert (result.err, result.code) == ("", 0)


def test_changes_are_listed_with_their_letter(shell: Shell, vision: Vision) -> None:
    project = vision.project
    project.write("train.py", "changed\n")
    project.write("new/größe.txt", "x")
    (project.root / "empty").mkdir()
    (project.root / "model.bin").unlink()
    result = shell("status")
    assert result.lines[1].endswith(" warmup), with changes")
    assert result.lines[2:] == [
        "          A  empty",
        "          D  model.bin",
        "          A  new/größe.txt",
        "          M  train.py",
    ]
    assert result.code == 0


def test_a_file_of_equal_size_and_other_content_is_modified(shell: Shell, vision: Vision) -> None:
    vision.project.write("model.bin", "WARMUP\n")
    assert shell("status").lines[2:] == ["          M  model.bin"]


def test_a_changed_exec_bit_and_a_changed_type_are_modifications(shell: Shell, vision: Vision) -> None:
    (vision.project.root / "train.py").chmod(0o755)
    (vision.project.root / "model.bin").unlink()
    os.symlink("train.py", vision.project.root / "model.bin")
    assert shell("status").lines[2:] == ["          M  model.bin", "          M  train.py"]


def test_names_are_quoted_as_git_does(shell: Shell, vision: Vision) -> None:
    vision.project.write(b"\xff\n.txt", "x")
    assert shell("status").lines[2:] == ['          A  "\\377\\n.txt"']


def test_ignored_files_are_no_changes(shell: Shell, vision: Vision) -> None:
    vision.project.write(".replicateignore", "*.log\n")
    vision.project.write("train.log", "x")
    vision.project.write(".env", "TOKEN=1")
    assert shell("status").lines[2:] == ["          A  .replicateignore"]


def test_of_very_many_changes_the_first_are_shown(shell: Shell, vision: Vision) -> None:
    for number in range(53):
        vision.project.write(f"{number:02}.txt", "x")
    lines = shell("status").lines[2:]
    assert (len(lines), lines[-1]) == (51, "          … 3 more, --json lists all")
    assert len(shell("status", "--json").json["changes"]) == 53


def test_a_running_experiment_is_named(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="cosine")
    assert shell("status").lines[1] == f"running   {session.experiment_id.short} cosine"
    session.end("finished")
    assert not any(line.startswith("running") for line in shell("status").lines)


def test_a_project_without_a_save_says_so(shell: Shell, project: SampleProject) -> None:
    result = shell("status")
    assert result.lines == ["store     .replicate, 0 experiments", "worktree  not saved yet"]
    assert not (project.root / ".replicate").exists()


def test_a_store_that_was_copied_holds_nothing_of_this_worktree_yet(
    shell: Shell, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(vision.project.root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert shell("status").lines == [
        "store     .replicate, 2 experiments",
        "worktree  not saved or checked out here yet",
    ]
    assert shell("checkout", "-q", "latest").code == 0
    assert shell("status").lines[1].endswith(" warmup), no changes")


def test_an_experiment_that_has_only_begun_shows_its_start(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    session.end("finished")
    short = session.experiment_id.short
    assert shell("status").lines[1] == f"worktree  {short} (start of {short}), no changes"


def test_that_what_the_worktree_holds_was_removed_is_told(shell: Shell, vision: Vision) -> None:
    checkpoint, experiment = vision.warmup.ids[0][:7], vision.warmup.short
    assert shell("rm", "-q", checkpoint).code == 0
    assert shell("status").lines[1:] == [
        f"worktree  {checkpoint} (step 10 of {experiment} warmup), no changes",
        f"          the checkpoint was removed, `replicate undo {checkpoint}` brings it back",
    ]
    assert shell("rm", "-q", experiment).code == 0
    assert shell("status").lines[2] == (
        f"          the experiment was removed, `replicate undo {experiment}` brings it back"
    )
    assert shell("undo", "-q", experiment).code == 0


def test_the_store_is_shown_from_where_one_stands(
    shell: Shell, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("-D", "project", "status").lines[0].startswith("store     project/.replicate, ")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert shell("status", "-D", "../project").lines[0].startswith(f"store     {vision.project.store}, ")


def test_json_has_every_key(shell: Shell, vision: Vision) -> None:
    running = vision.project.resume()
    vision.project.write(b"\xff", "x")
    result = shell("status", "--json")
    assert result.json == {
        "project": str(vision.project.root),
        "store": str(vision.project.store),
        "repository": str(vision.project.store),
        "pending": None,
        "outage": None,
        "evicted": {"packs": 0, "bytes": 0},
        "experiments": 2,
        "running": [vision.warmup.id],
        "head": vision.warmup.ids[0],
        "changes": [{"change": "A", "path": "\\xff", "path_hex": "ff"}],
    }
    assert (result.err, result.code) == ("", 0)
    running.end("finished")


def test_with_a_repository_elsewhere_it_tells_what_is_not_pushed(shell: Shell, vision: Vision, tmp_path: Path) -> None:
    team = tmp_path / "team"
    (vision.project.root / "replicate.yaml").write_text(f"repository: {team}\n")
    rows = shell("status").rows
    assert [row[0] for row in rows[:2]] == ["store", "repository"]
    assert " ".join(rows[1][1:]).startswith(f"{team}, to push: 2 experiments, ")
    shown = shell("status", "--json").json
    assert (shown["repository"], shown["pending"]["experiments"], shown["outage"]) == (str(team), 2, None)
    assert shown["pending"]["bytes"] > 0
    note_outage(require_project(vision.project.root), Host(now_ns=lambda: 5 * 10**9), ("it is gone", "look for it"))
    said = shell("status").out
    assert "push fails, first " in said
    assert "it is gone" in said
    assert "hint: look for it" in said
    outage = shell("status", "--json").json["outage"]
    assert outage == {"since": "1970-01-01T00:00:05.000000Z", "message": "it is gone", "hint": "look for it"}
    pack = some_id("pack")
    write_evicted(str(vision.project.store), [EvictedPack(pack, 5_000_000, str(team))])
    assert "this machine's store is partial: 5.0 MB in 1 pack lie only there" in shell("status").out
    assert shell("status", "--json").json["evicted"] == {"packs": 1, "bytes": 5_000_000}
    write_evicted(str(vision.project.store), [])
    assert shell("push", "--create", "-q").code == 0
    told = f"repository {team}, everything pushed, as far as is known here"
    assert " ".join(shell("status").rows[1]) == told
    assert shell("status", "--json").json["pending"] == {"experiments": 0, "checkpoints": 0, "records": 0, "bytes": 0}


def test_offline_nothing_is_pushed(
    shell: Shell, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_MODE", "offline")
    assert not any("offline" in line for line in shell("status").lines)
    vision.project.write("replicate.yaml", f"durability: fast\nrepository: {tmp_path}/team\n")
    lines = shell("status").lines
    assert [line.split()[0] for line in lines[:2]] == ["store", "repository"]
    assert lines[2] == "            offline: nothing is pushed until REPLICATE_MODE is unset"


def test_what_the_repository_lacks_is_told_without_it(shell: Shell, vision: Vision, tmp_path: Path) -> None:
    team = tmp_path / "team"
    vision.project.write("replicate.yaml", f"durability: fast\nrepository: {team}\n")
    assert shell("push", "--create", "baseline").code == 0
    team.rename(tmp_path / "away")
    lines = shell("status").lines
    assert lines[:2] == ["store       .replicate, 2 experiments", lines[1]]
    assert lines[1].startswith(f"repository  {team}, to push: 1 experiment, 1 checkpoint (")


def test_json_of_a_project_without_a_save(shell: Shell, project: SampleProject) -> None:
    shown = shell("status", "--json").json
    assert (shown["experiments"], shown["head"], shown["changes"]) == (0, None, [])


def test_status_takes_no_argument(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: got unexpected extra argument (train.py)\nhint: see `replicate status --help`\n",
        *("status", "train.py"),
    )
