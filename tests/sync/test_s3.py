"""Push and pull over the S3 protocol, to a server that comes with pip."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.errors import StorageMissingError
from replicate.host import Host
from replicate.sync import create_store
from replicate.transport import LocalTransport
from replicate.transport.remote import open_transport
from tests.projects import SampleProject, check_store
from tests.servers import moto
from tests.sync.stores import MIB, Models, check_restores, contents, local, pull_from, push_to, sample


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto.running(tmp_path_factory.mktemp("moto")) as port:
        yield port


def test_a_project_goes_through_a_bucket_to_another_machine(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    models = Models()
    project, other = SampleProject(tmp_path / "project"), SampleProject(tmp_path / "other")
    sample(project.root, models, 3, size=2 * MIB)
    remote = open_transport("s3://new-bucket/team", {"endpoint": f"http://127.0.0.1:{port}"})
    with pytest.raises(StorageMissingError):
        push_to(project, remote)
    assert create_store(remote, Host())
    assert not create_store(remote, Host())
    assert push_to(project, remote).left == 0
    assert push_to(project, remote).records == 0
    assert pull_from(other, remote).left == 0
    assert contents(local(other)) == contents(local(project)) == contents(remote)
    check_store(other.store)
    check_restores(other, models, models.of)


def test_what_a_program_saves_is_pushed_into_a_bucket_in_the_background(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    url, endpoint = "s3://background/team", f"http://127.0.0.1:{port}"
    (tmp_path / "replicate.yaml").write_text(f"repository: {url}\nendpoint: {endpoint}\n")
    (tmp_path / "train.py").write_text(
        "import replicate\n"
        "replicate.init()\n"
        "for step in range(3):\n"
        "    open('weights.bin', 'w').write(str(step) * 1000)\n"
        "    replicate.checkpoint(step=step)\n"
    )

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "there is no s3://background" in run(sys.executable, "train.py")  # told, and no more than that
    run(sys.executable, "-m", "replicate", "push", "--create")
    assert "warning" not in run(sys.executable, "train.py")
    remote = open_transport(url, {"endpoint": endpoint})
    assert contents(remote).keys() == contents(LocalTransport(str(tmp_path / ".replicate"))).keys()
    assert list(remote.list("beats/")) == []
