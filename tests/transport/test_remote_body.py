"""What is put or got is held in memory once: libraries below copy what is asked of them in other ways."""

from __future__ import annotations

import secrets
import tracemalloc

import pytest

from replicate.transport.remote import RemoteTransport, remote_transport
from tests.builders import noise

SIZE = 32 << 20


@pytest.fixture(params=["s3", "gs"])
def transport(request: pytest.FixtureRequest) -> RemoteTransport:
    port = request.getfixturevalue({"s3": "moto_port", "gs": "gcs_port"}[request.param])
    options = {"endpoint": f"http://127.0.0.1:{port}", "anonymous": "true" if request.param == "gs" else "false"}
    transport = remote_transport(f"{request.param}://bodies/{secrets.token_hex(8)}", options)
    transport.create()
    return transport


def test_a_put_makes_no_copy(transport: RemoteTransport) -> None:
    data = noise(SIZE)
    transport.put("packs/aa/first", b"")  # what is loaded and opened once is not counted
    tracemalloc.start()
    try:
        transport.put("packs/aa/one", data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < SIZE // 4
    assert transport.get("packs/aa/one") == data


@pytest.mark.parametrize("transport", ["s3"], indirect=True)
def test_a_get_holds_what_came_once(transport: RemoteTransport) -> None:
    data = noise(SIZE)
    transport.put("packs/aa/one", data)
    tracemalloc.start()
    try:
        got = transport.get("packs/aa/one")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got == data
    assert peak < SIZE * 3 // 2
