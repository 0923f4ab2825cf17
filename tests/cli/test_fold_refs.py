"""`replicate fold-refs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicate.maintenance import folding
from tests.cli.shell import Shell
from tests.projects import SampleProject


def test_young_records_are_left_alone(shell: Shell, project: SampleProject) -> None:
    project.begin().end("finished")
    assert shell("fold-refs").out == "0 records folded into 0 catalogs, 0 keys deleted that catalogs hold\n"


def test_everything_shows_the_same_after_a_fold(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding.fold, "__kwdefaults__", {"older_than_ns": 0, "delete_after_ns": 0})
    project.write("a", "1")
    session = project.begin({"lr": 0.1}, name="run")
    checkpoint = project.save(session, step=3, metrics={"loss": 0.5}).base.record.commit_id.hex()
    session.end("finished")
    commands = (["ls"], ["ls", "--json"], ["log", "run"], ["show", checkpoint], ["rev-parse", checkpoint[:8]])
    before = [shell(*command).raw for command in commands]
    assert shell("fold-refs", "--json").json["records"] == 4
    assert shell("fold-refs", "--json").json["deleted"] == 4
    assert not any(path.is_file() for path in (project.store / "refs").rglob("*"))
    assert [shell(*command).raw for command in commands] == before
    shell("checkout", "run", "-o", "out")
    assert (project.root / "out" / "a").read_text() == "1"


def test_another_store_is_folded_with_its_url(
    shell: Shell, project: SampleProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding.fold, "__kwdefaults__", {"older_than_ns": 0, "delete_after_ns": 0})
    team = tmp_path / "team"
    project.begin().end("finished")
    shell("push", "-R", str(team), "--create")
    before = shell("ls", "-R", str(team)).raw
    for key in ("records", "deleted"):
        assert shell("fold-refs", "-R", str(team), "--json").json[key] == 3
    assert not any(path.is_file() for path in (team / "refs").rglob("*"))
    assert shell("ls", "-R", str(team)).raw == before
    assert len(list((project.store / "refs").rglob("*~*"))) == 3  # nothing is done here
    message = f"error: there is no store at {tmp_path}/nothing\nhint: correct the URL or the path\n"
    shell.fails(6, message, "fold-refs", "-R", f"{tmp_path}/nothing")
