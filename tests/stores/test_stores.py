"""Stores that released versions wrote stay readable. What they hold is listed beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.projects import SampleProject, read_folder
from tests.stores.make_stores import describe

HERE = Path(__file__).parent
FORMATS = sorted(path.stem for path in HERE.glob("v*.json"))


def open_golden(tmp_path: Path, store_format: str) -> SampleProject:
    project = SampleProject(tmp_path / "project")
    shutil.copytree(HERE / store_format, project.store)
    return project


@pytest.mark.parametrize("store_format", FORMATS)
def test_every_commit_of_a_golden_store_restores_byte_for_byte(tmp_path: Path, store_format: str) -> None:
    project = open_golden(tmp_path, store_format)
    expected = json.loads((HERE / f"{store_format}.json").read_text())
    commits = project.history().commits
    assert sorted(expected) == sorted(commit.hex() for commit in commits)
    for commit, record in commits.items():
        target = tmp_path / commit.short
        project.restore(record, target)
        assert describe(read_folder(target)) == expected[commit.hex()]
    assert project.events.warnings == []


@pytest.mark.parametrize("store_format", FORMATS)
def test_a_golden_store_can_be_saved_into(tmp_path: Path, store_format: str) -> None:
    project = open_golden(tmp_path, store_format)
    project.write("new.txt", "new")
    session = project.resume()
    saved = project.save(session)
    session.end("finished")
    project.restore(saved, tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(project.root)


def test_there_is_a_golden_store_of_the_current_format() -> None:
    assert "v1" in FORMATS
