from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicate.errors import CorruptionError, StorageMissingError, UnsupportedFormatError
from replicate.host import Host
from replicate.maintenance.folding import fold
from replicate.reporting import SilentReporter
from replicate.sync import create_store, remote_history
from replicate.transport import LocalTransport
from tests.projects import SampleProject, check_store
from tests.sync.stores import (
    MIB,
    Models,
    Remote,
    check_restores,
    contents,
    local,
    new_remote,
    pull_from,
    push_to,
    sample,
    view_of,
)


@pytest.fixture
def remote(project: SampleProject, models: Models) -> Remote:
    """A store to which two experiments were pushed."""
    sample(project.root, models, 2, name="one", size=2 * MIB)
    sample(project.root, models, 1, name="two")
    remote = new_remote()
    push_to(project, remote)
    remote.counted()
    return remote


def test_what_was_pulled_lists_and_restores_without_the_network(
    remote: Remote, other: SampleProject, project: SampleProject, models: Models
) -> None:
    done = pull_from(other, remote)
    assert contents(local(other)) == contents(remote.inner)
    assert (len(done.experiments), done.checkpoints, done.records, done.left) == (2, 3, 9, 0)
    assert {verb.split()[0] for verb in remote.counted()} == {"list", "get"}
    remote.empty()
    check_store(other.store)
    check_restores(other, models, models.of)
    check_store(project.store)


def test_pulling_again_reads_no_record_and_no_pack(remote: Remote, other: SampleProject) -> None:
    pull_from(other, remote)
    remote.counted()
    done = pull_from(other, remote)
    assert (done.records, done.packs, done.is_empty) == (0, 0, False)
    assert remote.counted() == {"list ctl": 1, "list refs": 1, "list cat": 1}


def test_what_was_pulled_is_not_pushed_back(remote: Remote, other: SampleProject) -> None:
    pull_from(other, remote)
    remote.counted()
    assert push_to(other, remote).records == 0
    assert remote.counted() == {"list ctl": 1}


def test_only_the_experiments_that_are_named_are_pulled(remote: Remote, other: SampleProject, models: Models) -> None:
    history = remote_history(other.open(), remote, SilentReporter())
    one, two = history.experiments
    pull_from(other, remote, {two.experiment_id: None})
    assert [one.experiment_id for one in other.history().experiments] == [two.experiment_id]
    check_store(other.store)
    check_restores(other, models)
    pull_from(other, remote, {one.experiment_id: frozenset({one.checkpoints[-1].commit_id})})
    wanted = {one.experiment_id, one.checkpoints[-1].commit_id, *two.commits}
    check_store(other.store)
    check_restores(other, models, wanted)


def test_an_experiment_that_was_pulled_can_be_continued(remote: Remote, other: SampleProject, models: Models) -> None:
    pull_from(other, remote)
    check_restores(other, models)
    (experiment,) = [one for one in other.history().experiments if one.summary.name == "two"]
    other.restore(experiment.heads[-1], other.root)
    session = other.resume(experiment.experiment_id)
    other.write("more.txt", "more")
    other.save(session)
    session.end("finished")
    assert push_to(other, remote).checkpoints == 1
    check_store(other.store)


def test_packs_that_are_gone_here_are_pulled_again(remote: Remote, other: SampleProject, models: Models) -> None:
    pull_from(other, remote)
    path = next(path for path in (other.store / "packs").rglob("*") if path.is_file())
    path.unlink()
    assert pull_from(other, remote).packs == 1
    assert contents(local(other)) == contents(remote.inner)


def test_a_dry_run_writes_nothing(remote: Remote, other: SampleProject) -> None:
    told = pull_from(other, remote, dry_run=True)
    assert not other.store.exists()
    assert pull_from(other, remote) == told


def test_folded_records_are_pulled(remote: Remote, other: SampleProject, models: Models, tmp_path: Path) -> None:
    before = contents(remote.inner)
    view = view_of(tmp_path / "view", remote)
    for _ in range(2):
        fold(view.open(), older_than_ns=0, delete_after_ns=0)
    assert not remote.present("refs/")
    pull_from(other, remote)
    assert contents(local(other)) == before
    assert not [key for verb, key in remote.requests if verb == "get" and key.startswith("refs/")]


def test_records_that_are_folded_while_they_are_pulled_are_found(
    remote: Remote, other: SampleProject, models: Models, tmp_path: Path
) -> None:
    before = contents(remote.inner)

    def fold_now(verb: str, key: str) -> None:
        if verb == "get" and key.startswith("refs/"):
            remote.before = lambda verb, key: None
            view = view_of(tmp_path / "view", remote)
            for _ in range(2):
                fold(view.open(), older_than_ns=0, delete_after_ns=0)

    remote.before = fold_now
    pull_from(other, remote, jobs=1)
    assert contents(local(other)) == before
    check_restores(other, models, models.of)


# -- damage


def test_an_answer_that_is_cut_short_once_is_asked_for_again(
    remote: Remote, other: SampleProject, models: Models
) -> None:
    short: set[str] = set()

    def cut(key: str, data: bytes) -> bytes:
        if key.startswith("packs/") and key not in short:
            short.add(key)
            return data[:-1]
        return data

    remote.change = cut
    assert pull_from(other, remote).failures == ()
    assert contents(local(other)) == contents(remote.inner)


def test_a_pack_that_is_damaged_there_is_never_stored(remote: Remote, other: SampleProject, models: Models) -> None:
    bad = sorted(remote.present("packs/"))[0]
    remote.change = lambda key, data: data[:-1] if key == bad else data
    done = pull_from(other, remote)
    (failure,) = done.failures
    assert failure.key == bad
    assert isinstance(failure.error, CorruptionError)
    assert failure.error.message == f"pack {bad[9:]} is damaged in memory://remote: its bytes do not match its name"
    assert not (other.store / bad).exists()
    assert done.left
    check_store(other.store)
    remote.change = lambda key, data: data
    assert pull_from(other, remote).left == 0
    check_restores(other, models, models.of)


def test_a_record_that_is_damaged_there_is_told_of_and_left_out(remote: Remote, other: SampleProject) -> None:
    bad = max(key for key in remote.present("refs/") if "~c~" in key)
    remote.change = lambda key, data: data[:-1] + b"?" if key == bad else data
    done = pull_from(other, remote)
    assert done.records == 8
    assert [warning.endswith("; it is not pulled") for warning in other.events.warnings] == [True]


def test_a_record_that_is_torn_here_is_pulled_again(remote: Remote, other: SampleProject, models: Models) -> None:
    pull_from(other, remote)
    path = next(path for path in (other.store / "refs").rglob("*") if "~c~" in path.name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:40])
    pull_from(other, remote)
    assert contents(local(other)) == contents(remote.inner)


def test_a_place_without_a_store_is_an_error_and_nothing_is_made(other: SampleProject) -> None:
    with pytest.raises(StorageMissingError):
        pull_from(other, Remote())
    assert not other.store.exists()


def test_a_store_of_a_newer_version_is_refused(remote: Remote, other: SampleProject) -> None:
    remote.inner.put("ctl/feat~read~new", b"")
    with pytest.raises(UnsupportedFormatError):
        pull_from(other, remote)
    assert not other.store.exists()


def test_a_store_that_a_newer_version_collects_from_can_be_pulled_from(remote: Remote, other: SampleProject) -> None:
    remote.inner.put("ctl/p~" + "0" * 32, b"")
    assert pull_from(other, remote).left == 0


# -- merging


def test_two_stores_that_are_merged_both_ways_are_their_union(
    models: Models, tmp_path: Path, project: SampleProject, other: SampleProject
) -> None:
    sample(project.root, models, 2, name="mine")
    sample(other.root, models, 2, name="yours")
    union = {**contents(local(project)), **contents(local(other))}
    folder = LocalTransport(other.store, durability="fast")
    push_to(project, folder)
    pull_from(project, folder)
    assert contents(local(project)) == contents(local(other)) == union
    for one in (project, other):
        check_store(one.store)
        check_restores(one, models, models.of)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_part_of_a_store_was_copied_a_push_or_pull_completes_it(
    tmp_path_factory: pytest.TempPathFactory, sampled: tuple[SampleProject, Models], data: st.DataObject
) -> None:
    project, models = sampled
    whole = contents(local(project))
    keys = data.draw(st.sets(st.sampled_from(sorted(whole))))
    remote = Remote()
    for key in keys:
        remote.inner.put(key, whole[key])
    create_store(remote, Host())
    folder = tmp_path_factory.mktemp("part")
    if data.draw(st.booleans()):
        shutil.rmtree(project.store / "local" / "journal", ignore_errors=True)
        assert push_to(project, remote, afresh=True).left == 0
        assert contents(remote.inner) == whole
    else:
        push_to(project, remote, afresh=True)
        part = SampleProject(folder / "project")
        part.open().create()
        for key in keys:
            local(part).put(key, whole[key])
        assert pull_from(part, remote).left == 0
        assert contents(local(part)) == whole
        check_restores(part, models, models.of)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleProject, Models]:
    models = Models()
    project = SampleProject(tmp_path_factory.mktemp("sampled") / "project")
    sample(project.root, models, 2, name="one", size=2 * MIB)
    sample(project.root, models, 1, name="two")
    return project, models
