"""What a push does when the storage fails: the rest goes on where that makes sense, and the next push completes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.errors import (
    ReplicateError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageMissingError,
    StorageUnreachableError,
)
from replicate.sync import push
from tests.projects import Events, SampleProject
from tests.sync.stores import (
    Models,
    Remote,
    check_restores,
    check_transport,
    contents,
    local,
    new_remote,
    pull_from,
    push_to,
    sample,
    view_of,
)


@pytest.fixture
def project(tmp_path: Path, models: Models) -> SampleProject:
    """Three experiments that share no pack."""
    for name in ("a", "b", "c"):
        part = SampleProject(tmp_path / name)
        sample(part.root, models, 2, name=name)
        pull_from(SampleProject(tmp_path / "project"), local(part))
    return SampleProject(tmp_path / "project")


def failing(error: Callable[[str], ReplicateError], is_bad: Callable[[str, str], bool]) -> Remote:
    remote = new_remote()

    def before(verb: str, key: str) -> None:
        if is_bad(verb, key):
            raise error(key)

    remote.before = before
    return remote


def check_completes(project: SampleProject, remote: Remote, models: Models, tmp_path: Path) -> None:
    check_transport(remote.inner)
    check_restores(view_of(tmp_path / "part", remote), models)
    assert view_of(tmp_path / "part", remote).history().rootless == []
    remote.before = lambda verb, key: None
    assert push_to(project, remote).left == 0
    assert contents(remote.inner) == contents(local(project))


def first(project: SampleProject, top: str) -> str:
    return min(key for key in contents(local(project)) if key.startswith(top))


def test_who_interrupts_a_push_can_rely_on_its_end(project: SampleProject, models: Models, tmp_path: Path) -> None:
    """Whoever waits for the lock may remove packs from then on: no thread may put a record any more."""
    interrupted = threading.Event()
    remote = new_remote()
    count = sum(key.startswith("refs/") for key in contents(local(project)))
    records: list[str] = []

    def before(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("refs/"):
            records.append(key)
            if key[:72] != records[0][:72]:  # those of one experiment are put at once; others take longer
                interrupted.wait(30)

    told: list[str] = []

    class Interrupting(Events):
        def notice(self, message: str) -> None:
            told.append(message)

        def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
            if files:
                threading.Timer(0.1, interrupted.set).start()
                raise KeyboardInterrupt

    remote.before = before
    with pytest.raises(KeyboardInterrupt):
        push(project.open(), remote, reporter=Interrupting())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("replicate-copy")]
    assert len(records) < count
    packs = sum(key.startswith("packs/") for key in contents(local(project)))
    (stop,) = told
    assert stop.startswith("stopped: ")
    end = f" in {packs} of {packs} packs and 0 of {count} records are copied; the same command goes on from there"
    assert stop.endswith(end)
    check_completes(project, remote, models, tmp_path)


@pytest.mark.parametrize("top", ["packs/", "refs/"])
def test_what_fails_leaves_the_rest_going(project: SampleProject, models: Models, tmp_path: Path, top: str) -> None:
    bad = first(project, top)
    remote = failing(lambda key: StorageError("it failed"), lambda verb, key: verb == "put" and key == bad)
    done = push_to(project, remote)
    assert [one.key for one in done.failures] == [bad]
    assert bad not in remote.present()
    assert len(done.experiments) >= 2
    assert done.left
    check_completes(project, remote, models, tmp_path)


def test_a_pack_that_fails_is_tried_once(project: SampleProject, models: Models) -> None:
    bad = first(project, "packs/")
    remote = failing(lambda key: StorageError("it failed"), lambda verb, key: verb == "put" and key == bad)
    push_to(project, remote)
    assert remote.requests.count(("put", bad)) == 1


@pytest.mark.parametrize("kind", [StorageDeniedError, StorageMissingError])
def test_what_will_fail_for_all_ends_the_push(
    project: SampleProject, models: Models, tmp_path: Path, kind: type[StorageError]
) -> None:
    remote = failing(lambda key: kind("no"), lambda verb, key: verb == "put")
    done = push_to(project, remote, jobs=1)
    assert [one.error.message for one in done.failures] == ["no"]
    assert remote.counted()["put packs"] == 1
    assert done.left == len([key for key in contents(local(project)) if key.startswith("refs/")])
    check_completes(project, remote, models, tmp_path)


def test_a_full_disk_ends_the_push(project: SampleProject, models: Models, tmp_path: Path) -> None:
    puts = iter(range(10))
    remote = failing(
        lambda key: StorageFullError("full", needed_bytes=1), lambda verb, key: verb == "put" and next(puts) >= 2
    )
    done = push_to(project, remote, jobs=1)
    assert (done.packs, len(done.failures)) == (2, 1)
    check_completes(project, remote, models, tmp_path)


def test_storage_that_cannot_be_reached_three_times_ends_the_push(
    project: SampleProject, models: Models, tmp_path: Path
) -> None:
    remote = failing(lambda key: StorageUnreachableError("gone"), lambda verb, key: verb == "put")
    done = push_to(project, remote, jobs=1)
    assert len(done.failures) == 3
    check_completes(project, remote, models, tmp_path)


@pytest.mark.parametrize("when", ["records", "confirm"])
def test_records_that_could_not_be_confirmed_are_left(
    project: SampleProject, models: Models, tmp_path: Path, when: str
) -> None:
    looks = iter(range(10))
    remote = failing(
        lambda key: StorageUnreachableError("gone"),
        (lambda verb, key: key == "ctl/" and next(looks) >= 1)
        if when == "confirm"
        else (lambda verb, key: key.startswith("refs/") and verb == "put"),
    )
    done = push_to(project, remote)
    assert (done.records, done.packs) == (0, len(remote.present("packs/")))
    assert done.left
    assert {one.key.partition("/")[0] for one in done.failures} == {"ctl" if when == "confirm" else "refs"}
    check_completes(project, remote, models, tmp_path)


def test_an_experiment_whose_root_cannot_be_put_is_left_out(
    project: SampleProject, models: Models, tmp_path: Path
) -> None:
    root = min(key for key in contents(local(project)) if "~00000000~" in key and "~c~" in key)
    remote = failing(lambda key: StorageError("no"), lambda verb, key: (verb, key) == ("put", root))
    push_to(project, remote)
    assert not [key for key in remote.present("refs/") if key.startswith(root[:72])]
    check_completes(project, remote, models, tmp_path)


# -- damage in the store that is copied from


def alter(project: SampleProject, key: str) -> None:
    path = project.store / key
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def keys_of(project: SampleProject, kind: str) -> list[str]:
    """Return the keys of records of a kind of one experiment, by seq."""
    (experiment, *_) = project.history().experiments
    keys = [key for key in contents(local(project)) if f"/{experiment.experiment_id.hex()}~" in key]
    return sorted(key for key in keys if key.split("~")[3] == kind)


@pytest.mark.parametrize("what", ["pack", "record"])
def test_an_experiment_whose_root_is_damaged_is_left_out(project: SampleProject, models: Models, what: str) -> None:
    root = keys_of(project, "c")[0]
    packs = project.history().experiments[0].root.meta
    alter(project, root if what == "record" else f"packs/{packs[0].hex()[:2]}/{packs[0].hex()}")
    remote = new_remote()
    done = push_to(project, remote)
    assert len(done.experiments) == 2
    assert done.left
    assert not [key for key in remote.present("refs/") if key.startswith(root[:72])]
    check_transport(remote.inner)


def test_a_session_whose_last_checkpoint_is_damaged_does_not_end_there(project: SampleProject, models: Models) -> None:
    last, end = keys_of(project, "c")[-1], keys_of(project, "e")[-1]
    (pack,) = project.history().experiments[0].checkpoints[-1].meta
    alter(project, f"packs/{pack.hex()[:2]}/{pack.hex()}")
    remote = new_remote()
    done = push_to(project, remote)
    assert done.left == 2
    assert remote.present("refs/") == {key for key in contents(local(project)) if "refs/" in key} - {last, end}


def test_a_record_whose_list_of_packs_cannot_be_read_is_left(project: SampleProject, models: Models) -> None:
    experiment = project.history().experiments[0]
    fields = {"packset_at": [bytes(experiment.root.meta[0]), 40, 100]}
    record = project.open().refs.publish(experiment.experiment_id, 1, "0" * 16, "q", fields)
    remote = new_remote()
    done = push_to(project, remote)
    assert [one.key for one in done.failures] == [record.name.key]
    assert done.left == 1
    assert record.name.key not in remote.present("refs/")
