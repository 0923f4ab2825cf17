"""What tests of copying have: two projects, and what their checkpoints hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.projects import SampleProject
from tests.sync.stores import Models


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "project")


@pytest.fixture
def other(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "other")
