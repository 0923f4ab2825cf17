from __future__ import annotations

import itertools

import pytest

from replicate.transport import MemoryTransport, Transport
from tests.transport.contract import TransportContract


class TestMemoryTransport(TransportContract):
    @pytest.fixture
    def transport(self) -> Transport:
        return MemoryTransport(itertools.count(1).__next__)


def test_storage_time_is_the_clocks() -> None:
    transport = MemoryTransport(lambda: 42)
    transport.put("ctl/a", b"")
    assert [info.time_ns for info in transport.list("")] == [42]
    assert transport.probe() == 42
