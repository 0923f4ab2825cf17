"""Reading commands where `replicate.yaml` has a `repository` elsewhere: one view of both stores."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from replicate.transport import LocalTransport
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, read_folder


@pytest.fixture
def team(shell: Shell, vision: Vision, tmp_path: Path) -> Path:
    """The repository of the project: `baseline` was pushed to it, `warmup` was not, and another machine's `theirs`."""
    team = tmp_path / "team"
    vision.project.write("replicate.yaml", f"durability: fast\nrepository: {team}\n")
    assert shell("push", "--create", "baseline").code == 0
    other = SampleProject(tmp_path / "other")
    other.write("model.bin", os.urandom(5_000))
    session = other.begin({"lr": 0.5}, name="theirs", primary_metric=("loss", "minimize"))
    other.save(session, step=7, metrics={"loss": 0.125})
    session.end("finished")
    other.write("replicate.yaml", f"repository: {team}\n")
    assert shell("push", "-D", str(other.root)).code == 0
    return team


def names(shell: Shell, *arguments: str) -> set[str]:
    return {one["name"] for one in shell("ls", "--json", *arguments).json}


def test_ls_shows_both_and_marks_what_is_not_pushed(shell: Shell, vision: Vision, team: Path) -> None:
    result = shell("ls", "-s", "name")
    ids = {row[1]: row[0] for row in result.rows[1:] if row[0] != "MemoryError:"}
    assert (ids["baseline"], ids["warmup"]) == (vision.baseline.short, f"{vision.warmup.short}*")
    assert set(ids) == {"baseline", "warmup", "theirs"}
    assert "*" not in ids["theirs"]
    assert result.err.startswith("* not pushed yet · 3 experiments")
    assert {one["name"]: one["pushed"] for one in shell("ls", "--json").json} == {
        "baseline": True,
        "warmup": False,
        "theirs": True,
    }
    assert len(shell("ls", "-q").lines) == 3
    assert shell("push").code == 0
    result = shell("ls")
    assert "*" not in result.out + result.err
    assert [one["pushed"] for one in shell("ls", "--json").json] == [True] * 3


def test_log_marks_what_is_not_pushed(shell: Shell, vision: Vision, team: Path) -> None:
    session = vision.project.resume(vision.baseline.session.experiment_id)
    saved = vision.project.save(session, step=9, metrics={"loss": 0.75})
    session.end("finished")
    newest = saved.base.record.commit_id
    result = shell("log", "baseline")
    assert [row[0] for row in result.rows if "step" in row] == [
        f"{newest.short}*",
        *(one[:7] for one in reversed(vision.baseline.ids)),
    ]
    assert result.err == "* not pushed yet\n"
    assert shell("log", "theirs").err == ""
    result = shell("log")
    (theirs,) = (one["id"] for one in shell("log", "theirs", "--json").json)
    assert [row[0] for row in result.rows] == [
        theirs[:7],
        f"{newest.short}*",
        f"{vision.warmup.ids[0][:7]}*",
        *(one[:7] for one in reversed(vision.baseline.ids)),
    ]
    assert {one["id"]: one["pushed"] for one in shell("log", "--json").json} == {
        newest.hex(): False,
        theirs: True,
        vision.warmup.ids[0]: False,
        **dict.fromkeys(vision.baseline.ids, True),
    }
    assert shell("ls", "--json", "-f", "name = baseline").json[0]["pushed"] is False


def test_without_a_repository_nothing_is_told_of_it(shell: Shell, vision: Vision, team: Path) -> None:
    vision.project.write("replicate.yaml", "durability: fast\n")
    for command in ("ls", "log"):
        assert "*" not in shell(command).out
        assert all("pushed" not in one for one in shell(command, "--json").json)
    assert names(shell, "-R", str(team)) == {"baseline", "theirs"}
    assert all("pushed" not in one for one in shell("ls", "-R", str(team), "--json").json)


def test_every_reading_command_reads_what_is_only_there(
    shell: Shell, vision: Vision, team: Path, tmp_path: Path
) -> None:
    before = sorted(vision.project.store.rglob("packs/*/*"))
    expected = (tmp_path / "other" / "model.bin").read_bytes()
    (experiment,) = (one for one in shell("ls", "--json").json if one["name"] == "theirs")
    checkpoint = experiment["latest_checkpoint"]["id"]
    assert shell("rev-parse", "theirs", "theirs@best").lines == [experiment["id"], checkpoint]
    assert shell("rev-list", "theirs@latest").lines == [checkpoint, experiment["id"]]
    assert len(shell("show-ref", "-e", "theirs").lines) == 4
    assert shell("show", "theirs", "--json").json["checkpoints"][0]["id"] == checkpoint
    (blob,) = (row[2] for row in shell("ls-tree", "-r", "theirs").rows if row[3] == "model.bin")
    for name in (f"{checkpoint[:9]}:model.bin", blob, blob[:10]):
        assert shell("cat-file", name).raw == expected
    assert shell("diff", "baseline", "theirs", "--json").json["params"] != []
    assert shell("checkout", "theirs", "-o", str(tmp_path / "out")).code == 0
    assert read_folder(tmp_path / "out") == {
        path: content for path, content in read_folder(tmp_path / "other").items() if path != b"replicate.yaml"
    }
    assert sorted(vision.project.store.rglob("packs/*/*")) == before


def test_what_is_only_there_is_removed_and_tagged_by_what_is_pushed(shell: Shell, vision: Vision, team: Path) -> None:
    assert shell("tag", "theirs", "golden").code == 0
    assert shell("rm", "theirs").code == 0
    assert names(shell) == {"baseline", "warmup"}
    assert names(shell, "-R", str(team)) == {"baseline", "theirs"}
    assert shell("push").code == 0
    assert names(shell, "-R", str(team)) == {"baseline", "warmup"}
    assert shell("undo", "theirs").code == 0
    assert shell("rev-parse", "golden").code == 0


def test_ps_tells_what_runs_on_other_machines(shell: Shell, vision: Vision, team: Path, tmp_path: Path) -> None:
    other = SampleProject(tmp_path / "other")
    session = other.begin(name="running")
    other.save(session, step=3)
    assert shell("push", "-D", str(other.root), "-R", str(team)).code == 0
    assert shell("ps").code == 1
    LocalTransport(team).put(f"beats/{session.experiment_id.hex()}~{session.session_id}", b"", replace=True)
    result = shell("ps", "--json")
    assert [(one["name"], one["status"], one["step"]) for one in result.json] == [("running", "running", 3)]
    assert shell("ls", "--json", "-f", "status = running").json[0]["name"] == "running"


def test_a_repository_that_cannot_be_reached_is_told_once(
    shell: Shell, vision: Vision, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs,) = (one["id"] for one in shell("ls", "--json").json if one["name"] == "theirs")
    shutil.move(team, team.with_name("away"))
    for command in ("ls", "log", "ps", "show-ref"):
        result = shell(command)
        assert result.code == (1 if command == "ps" else 0)
        assert result.err.splitlines()[:2] == [
            f"warning: there is no store at {team}; only what is on this machine is shown",
            "hint: `replicate push --create` makes one",
        ]
        assert result.err.count("warning") == 1
    for revision in (theirs, "theirs"):
        result = shell("rev-parse", revision)
        assert result.code == 3
        assert result.err.splitlines()[-1] == "hint: `replicate ls` shows what there is"
    monkeypatch.setenv("REPLICATE_MODE", "offline")
    assert names(shell) == {"baseline", "warmup"}
    result = shell("ls")
    assert result.code == 0
    assert result.err.splitlines()[0] == f"offline: what lies only in {team} is not shown"


def test_without_the_repository_marks_tell_what_was_last_known(
    shell: Shell, vision: Vision, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = vision.project.resume(vision.baseline.session.experiment_id)
    newest = vision.project.save(session, step=9, metrics={"loss": 0.75}).base.record.commit_id
    session.end("finished")
    expected = {one: shell(*one).out for one in (("log",), ("log", "baseline"), ("log", "warmup"))}
    shutil.move(team, team.with_name("away"))
    for mode in ("online", "offline"):
        monkeypatch.setenv("REPLICATE_MODE", mode)
        result = shell("ls", "-s", "name")
        ids = {row[1]: row[0] for row in result.rows[1:] if row[0] != "MemoryError:"}
        assert ids == {"baseline": f"{vision.baseline.short}*", "warmup": f"{vision.warmup.short}*"}
        assert "* not pushed yet, as far as is known here · 2 experiments" in result.err
        for command in (("log", "baseline"), ("log", "warmup")):
            assert shell(*command).out == expected[command]
        result = shell("log")
        assert [row[0] for row in result.rows] == [
            f"{newest.short}*",
            f"{vision.warmup.ids[0][:7]}*",
            *(one[:7] for one in reversed(vision.baseline.ids)),
        ]
        assert result.err.splitlines()[-1] == "* not pushed yet, as far as is known here"
        assert {one["name"]: one["pushed"] for one in shell("ls", "--json").json} == {
            "baseline": False,
            "warmup": False,
        }
        assert [one["pushed"] for one in shell("log", "--json").json] == [False, False, True, True, True]


def test_without_the_repository_all_is_marked_where_nothing_is_known(
    shell: Shell, vision: Vision, tmp_path: Path
) -> None:
    """As `status` says: all of it is to be pushed. There may be no store there yet."""
    vision.project.write("replicate.yaml", f"durability: fast\nrepository: {tmp_path}/nowhere\n")
    for command, count in (("ls", 2), ("log", 4)):
        result = shell(command)
        assert result.err.splitlines()[-1].startswith("* not pushed yet, as far as is known here")
        assert sum(row[0].endswith("*") for row in result.rows) == count
        assert [one["pushed"] for one in shell(command, "--json").json] == [False] * count


def test_what_measures_and_checks_the_store_looks_at_this_machines(shell: Shell, vision: Vision, team: Path) -> None:
    assert len(shell("du", "--json").json["experiments"]) == 2
    assert shell("fsck").code == 0


def test_part_of_an_experiment_is_no_fork(shell: Shell, vision: Vision, team: Path, tmp_path: Path) -> None:
    """Only the first and the last checkpoint are pulled: nothing tells that there are two lines."""
    first, _, last = vision.baseline.ids
    new = tmp_path / "new"
    new.mkdir()
    assert shell("pull", "-R", str(team), first, last, "-D", str(new)).code == 0
    result = shell("log", "baseline", "-D", str(new))
    assert [row[0] for row in result.rows if "step" in row] == [last[:7], first[:7]]
    assert "fork" not in result.out + shell("ls", "-D", str(new)).out


def test_a_checkout_in_place_of_what_is_only_there_is_continued_after_a_pull(
    shell: Shell, vision: Vision, team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "third"
    other.mkdir()
    (other / "replicate.yaml").write_text(f"repository: {team}\n")
    monkeypatch.chdir(other)
    assert shell("checkout", vision.baseline.short).code == 0
    shell.fails(
        4,
        f"error: the worktree was checked out from experiment {vision.baseline.short}, which is not on this machine\n"
        f"hint: `replicate pull {vision.baseline.short}` it to continue it, or start another with --new\n",
        "checkpoint",
        "-q",
    )
    assert shell("pull", vision.baseline.short).code == 0
    result = shell("checkpoint", "-m", "loss=0.1")
    assert (result.code, f"continuing {vision.baseline.short}" in result.err) == (0, True)
