"""Many processes push to one bucket at once: everything is listed, and restores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.writers import check_copies, check_writers
from tests.servers.process import HOST


@pytest.fixture(autouse=True)
def endpoint(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_eight_writers_lose_nothing_in_one_bucket(tmp_path: Path) -> None:
    check_writers(tmp_path, 8, 10, processes=4)


def test_machines_that_go_on_with_copies_of_an_experiment_lose_nothing(tmp_path: Path) -> None:
    check_copies(tmp_path, 3, 4)
