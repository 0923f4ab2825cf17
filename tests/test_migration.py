"""The store looks the same everywhere: a plain copy of its files is a store, and one over another unites them."""

from __future__ import annotations

import os
import secrets
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from replicate.collection import ExperimentCollection
from replicate.config import require_project
from replicate.host import Host
from replicate.maintenance.folding import fold
from replicate.objects.ids import ObjectID
from replicate.reporting import SilentReporter
from replicate.sync import create_store, pull, push
from replicate.transport import LocalTransport
from replicate.united import open_united
from tests.projects import Content, SampleProject, check_store, read_folder
from tests.servers import moto

Saved = dict[str, Mapping[bytes, Content]]


@pytest.fixture(scope="module")
def moto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto.running(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (*moto.ENVIRONMENT.items(), ("XDG_CACHE_HOME", str(tmp_path / "caches"))):
        monkeypatch.setenv(name, value)


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    project = SampleProject(tmp_path / "project")
    project.write("weights", os.urandom(9 << 20))
    project.write("sub/run.sh", "echo\n", executable=True)
    (project.root / "link").symlink_to("sub/run.sh")
    return project


def train(project: SampleProject, saved: Saved, *names: str) -> None:
    """Run experiments, the first half of whose records is folded; note what every checkpoint holds."""
    for name in names:
        session = project.begin({"name": name}, name=name)
        for step in range(3):
            project.write("step", f"{name} {step}\n")
            commit = project.save(session, step=step, metrics={"loss": 1 / (step + 1)}).base.record.commit_id
            saved[commit.hex()] = read_folder(project.root)
        session.end("finished")


@pytest.fixture
def saved(project: SampleProject) -> Saved:
    """What every checkpoint of the project holds, by id; some of its records are in catalogs, and others are not."""
    found: Saved = {}
    train(project, found, "first", "second")
    fold(project.open(), older_than_ns=0, delete_after_ns=0)
    fold(project.open(), older_than_ns=0, delete_after_ns=0)
    train(project, found, "third")
    return found


def check(experiments: ExperimentCollection, saved: Saved, folder: Path) -> None:
    """Restore every checkpoint that is listed: these are those that were saved, byte for byte."""
    found = {}
    for number, checkpoint in enumerate(one for experiment in experiments for one in experiment.checkpoints):
        checkpoint.checkout(folder / str(number))
        found[checkpoint.id] = read_folder(folder / str(number))
    assert found == saved


def fresh(folder: Path, text: str) -> ExperimentCollection:
    """Return what a new project sees that has a repository and nothing else."""
    folder.mkdir()
    (folder / "replicate.yaml").write_text(text, encoding="utf-8")
    return ExperimentCollection(folder)


def uploaded(store: Path, port: int) -> str:
    """Put every file of a store's folder into a bucket, as `aws s3 cp --recursive` does, and return the URL."""
    bucket = f"team-{secrets.token_hex(6)}"
    files = [path for path in sorted(store.rglob("*"), reverse=True) if path.is_file()]
    for key, data in [("", b""), *((f"/some/path/{path.relative_to(store)}", path.read_bytes()) for path in files)]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}{key}", data=data, method="PUT")
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
    return f"s3://{bucket}/some/path"


def test_a_copied_folder_is_a_store(project: SampleProject, saved: Saved, tmp_path: Path) -> None:
    team = tmp_path / "team"
    shutil.copytree(project.store, team)  # as `cp -r` does, with what is of one machine only
    check(ExperimentCollection(repository=str(team)), saved, tmp_path / "one")
    check(fresh(tmp_path / "new", "repository: ../team\n"), saved, tmp_path / "two")
    check_store(team)


def test_files_in_a_bucket_are_a_store(
    project: SampleProject, saved: Saved, tmp_path: Path, moto_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, endpoint = uploaded(project.store, moto_port), f"http://127.0.0.1:{moto_port}"
    check(fresh(tmp_path / "new", f"repository: {url}\nendpoint: {endpoint}\n"), saved, tmp_path / "one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    check(ExperimentCollection(repository=url), saved, tmp_path / "two")


def test_the_project_itself_points_to_its_copy(
    project: SampleProject, saved: Saved, tmp_path: Path, moto_port: int
) -> None:
    """What it saves from then on is what is not pushed; without its own store everything that was copied is there."""
    url = uploaded(project.store, moto_port)
    project.write("replicate.yaml", f"repository: {url}\nendpoint: http://127.0.0.1:{moto_port}\n")
    before = dict(saved)
    train(project, saved, "fourth")
    check(ExperimentCollection(project.root), saved, tmp_path / "one")
    united = open_united(require_project(project.root), Host(), SilentReporter())
    (newest,) = united.history().near_experiments or ()
    assert newest == ObjectID.parse(ExperimentCollection(project.root).get("fourth").id)
    shutil.rmtree(project.store)
    check(ExperimentCollection(project.root), before, tmp_path / "two")


def test_one_store_copied_over_another_unites_them(project: SampleProject, saved: Saved, tmp_path: Path) -> None:
    """Both have an experiment that began before, and went on in both; and each has one of its own."""
    other = SampleProject(tmp_path / "other")
    shutil.copytree(project.root, other.root, symlinks=True, dirs_exist_ok=True)
    for one, name in ((project, "here"), (other, "there")):
        session = one.resume()
        one.write("step", f"on {name}\n")
        commit = one.save(session, step=9).base.record.commit_id
        saved[commit.hex()] = read_folder(one.root)
        session.end("finished")
        train(one, saved, name)
    fold(other.open(), older_than_ns=0, delete_after_ns=0)
    shutil.copytree(other.store, project.store, dirs_exist_ok=True)
    experiments = ExperimentCollection(project.root)
    assert [one.name for one in experiments if one.is_forked] == ["third"]
    check(experiments, saved, tmp_path / "out")
    check_store(project.store)


def test_a_copy_is_pushed_to_a_second_repository(project: SampleProject, saved: Saved, tmp_path: Path) -> None:
    second = LocalTransport(tmp_path / "second")
    create_store(second, project.host)
    shutil.copytree(project.store, tmp_path / "team")
    push(project.open(), second, reporter=SilentReporter())
    check(ExperimentCollection(repository=str(tmp_path / "second")), saved, tmp_path / "one")
    new = SampleProject(tmp_path / "new")
    pull(new.open(), LocalTransport(tmp_path / "team"), reporter=SilentReporter())
    push(new.open(), second, reporter=SilentReporter())  # everything is there: it adds nothing
    check(ExperimentCollection(repository=str(tmp_path / "second")), saved, tmp_path / "two")
    check_store(tmp_path / "second")
