"""Two machines push and pull through a network and a server that fail in every way: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.machines import Team


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_in_a_storm(tmp_path: Path, port: int, seed: int) -> None:
    Team(tmp_path, port, seed).play()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20, 220))
def test_nothing_is_lost_in_two_hundred_storms(tmp_path: Path, port: int, seed: int) -> None:
    Team(tmp_path, port, seed).play()
