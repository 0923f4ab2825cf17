"""A store in S3 as moto plays it, read without a project: the requests of HTTP are those that are counted elsewhere."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.host import Host
from replicate.maintenance.doctor import examine
from replicate.reporting import SilentReporter
from replicate.repository import Repository
from replicate.restoring import checkout
from replicate.transport import LocalTransport
from replicate.transport.remote import remote_transport
from tests.elsewhere import CountedStorage, copied, elsewhere
from tests.projects import SampleProject, read_folder
from tests.servers.proxy import FaultProxy


@pytest.fixture
def proxy(moto_port: int) -> Iterator[FaultProxy]:
    with FaultProxy(moto_port) as proxy:
        yield proxy


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    project = SampleProject(tmp_path / "w")
    for number in range(100):
        project.write(f"data/part-{number}", os.urandom(2_000 + number))
    project.write("weights", os.urandom(12 << 20))
    session = project.begin(name="first")
    for step in range(3):
        project.write(f"data/part-{step}", f"changed {step}")
        project.save(session, step=step)
    session.end("finished")
    return project


@pytest.fixture
def url(project: SampleProject, moto_port: int) -> str:
    """The URL of a bucket that holds the project's store."""
    url = f"s3://elsewhere/{secrets.token_hex(8)}"
    remote, local = remote_transport(url, {"endpoint": f"http://127.0.0.1:{moto_port}"}), LocalTransport(project.store)
    remote.create()
    for info in local.list(""):
        remote.put(info.key, local.get(info.key))
    remote.close()
    return url


def use(repository: Repository, target: Path) -> None:
    (experiment,) = repository.history().experiments
    checkout(repository, experiment.checkpoints[-1], str(target), SilentReporter())


def test_requests_are_those_that_are_counted(
    project: SampleProject, proxy: FaultProxy, url: str, tmp_path: Path
) -> None:
    counted = CountedStorage(copied(project.store))
    options = {"endpoint": f"http://127.0.0.1:{proxy.port}"}
    for number in range(2):  # cold, warm
        counted.requests.clear()
        proxy.requests.clear()
        use(elsewhere(counted, tmp_path / "counted"), tmp_path / f"counted-{number}")
        caches = str(tmp_path / "caches")
        use(
            Repository.elsewhere(url, Host(), SilentReporter(), options, caches=caches, limit_bytes=1 << 30),
            tmp_path / f"real-{number}",
        )
        assert read_folder(tmp_path / f"real-{number}") == read_folder(project.root)
        assert len(proxy.requests) == len(counted.requests)
        assert set(proxy.methods) == {"GET"}
    assert len(proxy.requests) == 3


def test_the_time_is_asked_for_without_writing(proxy: FaultProxy, url: str, tmp_path: Path) -> None:
    options = {"endpoint": f"http://127.0.0.1:{proxy.port}"}
    repository = Repository.elsewhere(url, Host(), SilentReporter(), options, caches=str(tmp_path), limit_bytes=1 << 30)
    proxy.requests.clear()
    assert repository.transport.probe() > 0
    assert proxy.methods == ["GET"]


def test_a_bucket_is_tried_out_and_left_as_it_was(proxy: FaultProxy, url: str) -> None:
    transport = remote_transport(url, {"endpoint": f"http://127.0.0.1:{proxy.port}"})
    before = sorted(transport.list(""))
    findings = list(examine(transport, url, Host()))
    assert [one.name for one in findings if not one.is_ok] == []
    assert sorted(transport.list("")) == before
