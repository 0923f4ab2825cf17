"""Sixteen processes push to one bucket of a real server at once: everything is listed, and restores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.writers import check_copies, check_writers
from tests.servers.process import HOST

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def endpoint(tmp_path: Path, gateway: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{gateway}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_sixteen_writers_of_fifty_checkpoints_lose_nothing_in_one_bucket(tmp_path: Path) -> None:
    check_writers(tmp_path, 16, 50, processes=16)


def test_machines_that_go_on_with_copies_of_an_experiment_lose_nothing(tmp_path: Path) -> None:
    check_copies(tmp_path, 4, 6)
