"""Faults of the network between us and S3, and us and GCS."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from replicate.transport.remote import Patience, RemoteTransport, remote_transport
from tests.servers.proxy import FaultProxy
from tests.transport.faults import FaultContract


def bucket(scheme: str, proxy: FaultProxy, patience: Patience, **options: str) -> RemoteTransport:
    endpoint = {"endpoint": f"http://127.0.0.1:{proxy.port}"} | options
    transport = remote_transport(f"{scheme}://faults/{secrets.token_hex(8)}", endpoint, patience=patience)
    transport.create()
    return transport


class TestS3(FaultContract):
    @pytest.fixture
    def proxy(self, moto_port: int) -> Iterator[FaultProxy]:
        with FaultProxy(moto_port) as proxy:
            yield proxy

    def make(self, proxy: FaultProxy, patience: Patience) -> RemoteTransport:
        return bucket("s3", proxy, patience)


class TestGCS(FaultContract):
    @pytest.fixture
    def proxy(self, gcs_port: int) -> Iterator[FaultProxy]:
        with FaultProxy(gcs_port) as proxy:
            yield proxy

    def make(self, proxy: FaultProxy, patience: Patience) -> RemoteTransport:
        return bucket("gs", proxy, patience, anonymous="true")
