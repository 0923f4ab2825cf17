"""The contract over fsspec: in memory, on files, on S3 as moto plays it, on GCS as fake-gcs-server does."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from replicate.transport import Transport
from replicate.transport.remote import RemoteTransport, remote_transport
from replicate.transport.remote.driver import Driver
from replicate.transport.remote.location import parse_location
from tests.transport.contract import TransportContract


class TestMemoryFileSystem(TransportContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        transport = remote_transport(f"memory://{secrets.token_hex(8)}")
        yield transport
        transport.delete(info.key for info in transport.list(""))


class TestLocalFileSystem(TransportContract):
    """`open_transport` uses our own transport for files; fsspec's serves as a stand-in for what is like files."""

    @pytest.fixture
    def transport(self, tmp_path: Path) -> Transport:
        return remote_transport(f"file://{tmp_path}/store")


class TestS3(TransportContract):
    @pytest.fixture
    def transport(self, moto_port: int) -> Transport:
        return below(bucket("s3", moto_port))


class TestGCS(TransportContract):
    @pytest.fixture
    def transport(self, gcs_port: int) -> Transport:
        return below(bucket("gs", gcs_port, anonymous="true"))


@functools.cache
def bucket(scheme: str, port: int, **options: str) -> RemoteTransport:
    """Return a bucket that exists."""
    transport = remote_transport(f"{scheme}://contract", {"endpoint": f"http://127.0.0.1:{port}"} | options)
    transport.create()
    return transport


def below(transport: RemoteTransport) -> RemoteTransport:
    """Return a folder of its own in a bucket, over the bucket's connection."""

    async def borrow() -> Driver:
        driver = mock.Mock(wraps=await transport._connection.driver())
        driver.close = mock.AsyncMock()
        return cast(Driver, driver)

    return RemoteTransport(parse_location(f"{transport.url}/{secrets.token_hex(8)}"), borrow)
