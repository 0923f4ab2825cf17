"""Servers that come as Debian packages, one of each for all tests here, and the credentials of S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ceph, moto, openssh


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        moto.ENVIRONMENT | {"AWS_ACCESS_KEY_ID": ceph.KEY, "AWS_SECRET_ACCESS_KEY": ceph.SECRET}
    ).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def ceph_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph.Gateway]:
    if lacking := ceph.missing():
        pytest.skip(f"not installed: {', '.join(lacking)}")
    with ceph.running(tmp_path_factory.mktemp("ceph")) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def gateway(ceph_gateway: ceph.Gateway) -> int:
    return ceph_gateway.port


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    if lacking := openssh.missing():
        pytest.skip(f"not installed: {', '.join(lacking)}")
    folder = tmp_path_factory.mktemp("sshd")
    with openssh.running(folder) as port:
        yield port, folder
