"""Two machines, a storm, and a real server that is killed and started again: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.machines import Team
from tests.servers.ceph import Gateway

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_in_a_storm_before_ceph(tmp_path: Path, ceph_gateway: Gateway, seed: int) -> None:
    Team(tmp_path, ceph_gateway.port, seed, on_down=ceph_gateway.restart).play()
