from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from replicate import threads
from replicate.errors import (
    CorruptionError,
    StorageMissingError,
    StorageReplacedError,
    UnsupportedFormatError,
)
from replicate.host import Host
from replicate.maintenance.folding import fold
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.sync import create_store
from replicate.transport import LocalTransport, MemoryTransport, Transport
from tests.projects import SampleProject, check_store
from tests.sync.stores import (
    MIB,
    Models,
    Remote,
    check_restores,
    check_transport,
    contents,
    local,
    new_remote,
    push_to,
    sample,
    view_of,
)


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_was_pushed_is_a_copy_that_restores(
    project: SampleProject, models: Models, tmp_path: Path, kind: str
) -> None:
    sample(project.root, models, 2, name="one", size=2 * MIB)
    sample(project.root, models, 1, name="two")
    inner: Transport = MemoryTransport() if kind == "memory" else LocalTransport(tmp_path / "remote")
    remote = new_remote(inner)
    done = push_to(project, remote)
    assert contents(remote.inner) == contents(local(project))
    packs = remote.present("packs/")
    assert (len(done.experiments), done.checkpoints, done.packs, done.left) == (2, 3, len(packs), 0)
    assert done.size_bytes == sum(info.size or 0 for info in remote.inner.list("packs/"))
    assert done.records == len(remote.present("refs/")) == 9
    check_store(project.store)
    check_transport(remote.inner)
    check_restores(view_of(tmp_path / "view", remote), models, models.of)


def test_pushing_again_asks_once_and_puts_nothing(project: SampleProject, models: Models) -> None:
    sample(project.root, models)
    remote = new_remote()
    push_to(project, remote)
    remote.counted()
    done = push_to(project, remote)
    assert (done.records, done.packs, done.failures, done.is_empty) == (0, 0, (), False)
    assert remote.counted() == {"list ctl": 1}


def test_a_project_without_experiments_pushes_nothing(project: SampleProject) -> None:
    project.open().create()
    remote = new_remote()
    done = push_to(project, remote)
    assert done.is_empty
    assert remote.counted() == {"list ctl": 1}


# -- requests


def pushed_once(project: SampleProject, models: Models) -> Remote:
    sample(project.root, models, 1)
    remote = new_remote()
    push_to(project, remote)
    remote.counted()
    return remote


@pytest.mark.parametrize("what", ["metrics only", "a small file"])
def test_a_small_save_takes_three_requests_and_a_listing(project: SampleProject, models: Models, what: str) -> None:
    remote = pushed_once(project, models)
    session = project.resume()
    push_to(project, remote)  # the start of the session
    remote.counted()
    project.write("small.txt", b"hello")
    project.save(session, () if what == "metrics only" else None, metrics={"loss": 0.1})
    push_to(project, remote)
    assert remote.counted() == {"put packs": 1, "put refs": 1, "list ctl": 2}


def test_a_save_of_2000_small_files_takes_four_requests_and_a_listing(project: SampleProject, models: Models) -> None:
    remote = pushed_once(project, models)
    session = project.resume()
    push_to(project, remote)
    remote.counted()
    for number in range(2_000):
        project.write(f"data/{number}.bin", number.to_bytes(4, "big") * 300 + bytes(str(number), "ascii"))
    project.save(session)
    push_to(project, remote)
    counted = remote.counted()
    assert counted["put packs"] <= 2
    assert counted.total() <= 4 + 1


def test_a_save_of_n_packs_takes_n_and_five_requests_and_a_listing(project: SampleProject, models: Models) -> None:
    from tests.builders import noise

    remote = pushed_once(project, models)
    session = project.resume()
    push_to(project, remote)
    remote.counted()
    project.write("large.bin", noise(70 * MIB))
    saved = project.save(session)
    push_to(project, remote)
    packs = len(saved.base.stored.packset) - 2  # what was there: of the start and the first checkpoint
    counted = remote.counted()
    assert packs >= 3
    assert counted["put packs"] == packs + 1 or counted["put packs"] == packs
    assert counted.total() <= packs + 5 + 1


def test_many_saves_share_their_listings(project: SampleProject, models: Models) -> None:
    remote = pushed_once(project, models)
    sample(project.root, models, 20, name="more")
    push_to(project, remote)
    assert remote.counted() == {"put packs": 21, "put refs": 23, "list ctl": 2}


def test_a_store_that_is_not_known_is_listed_once(project: SampleProject, models: Models, tmp_path: Path) -> None:
    sample(project.root, models, 3)
    remote = new_remote()
    push_to(project, remote)
    other = SampleProject(tmp_path / "other")
    shutil.copytree(project.root, other.root, dirs_exist_ok=True)
    shutil.rmtree(other.store / "local")
    remote.counted()
    assert push_to(other, remote).records == 0
    assert remote.counted() == {"list ctl": 1, "list packs": 1, "list refs": 1, "list cat": 1}
    assert push_to(other, remote).records == 0
    assert remote.counted() == {"list ctl": 1}


# -- what is pushed


def test_only_the_experiments_that_are_named_are_pushed(project: SampleProject, models: Models, tmp_path: Path) -> None:
    one = sample(project.root, models, 2, name="one")
    two = sample(project.root, models, 1, name="two")
    remote = new_remote()
    done = push_to(project, remote, {one.experiment_id: None})
    assert done.experiments == (one.experiment_id,)
    assert {key[8:72] for key in remote.present("refs/")} == {one.experiment_id.hex()}
    check_transport(remote.inner)
    push_to(project, remote, {two.experiment_id: None})
    assert contents(remote.inner) == contents(local(project))


def test_a_checkpoint_is_pushed_with_its_root_and_sessions(
    project: SampleProject, models: Models, tmp_path: Path
) -> None:
    session = sample(project.root, models, 3)
    chosen = session.head.commit_id
    remote = new_remote()
    done = push_to(project, remote, {session.experiment_id: frozenset({chosen})})
    assert done.checkpoints == 1
    assert sorted(key.split("~")[3] for key in remote.present("refs/")) == ["c", "c", "e", "s"]
    check_transport(remote.inner)
    check_restores(view_of(tmp_path / "view", remote), models, {session.experiment_id, chosen})
    assert push_to(project, remote).checkpoints == 2
    assert contents(remote.inner) == contents(local(project))


def test_records_of_kinds_that_are_not_known_go_with_their_packs(project: SampleProject, models: Models) -> None:
    session = sample(project.root, models, 1)
    repository = project.open()
    with_pack = project.begin()
    (pack, *_) = with_pack.head.meta
    fields = {"packset": [bytes(pack)], "values": []}
    repository.refs.publish(session.experiment_id, 1, session.session_id, "m", fields, session.head.commit_id.hex())
    repository.refs.publish(session.experiment_id, 0, session.session_id, "q", {"anything": [1, 2]})
    remote = new_remote()
    push_to(project, remote, {session.experiment_id: None})
    assert sorted(key.split("~")[3] for key in remote.present("refs/")) == ["c", "c", "e", "m", "q", "s"]
    assert pack_key(pack) in remote.present("packs/")


def test_what_is_folded_and_deleted_here_is_pushed_as_records(
    project: SampleProject, models: Models, tmp_path: Path
) -> None:
    sample(project.root, models, 2)
    before = contents(local(project))
    fold(project.open(), older_than_ns=0, delete_after_ns=0)
    fold(project.open(), older_than_ns=0, delete_after_ns=0)
    assert not list(local(project).list("refs/"))
    remote = new_remote()
    push_to(project, remote)
    assert contents(remote.inner) == before
    assert push_to(project, remote).records == 0
    check_restores(view_of(tmp_path / "view", remote), models, models.of)


def test_what_the_other_store_has_in_catalogs_only_is_there(
    project: SampleProject, models: Models, tmp_path: Path
) -> None:
    sample(project.root, models, 2)
    remote = new_remote()
    push_to(project, remote)
    view = view_of(tmp_path / "view", remote)
    for _ in range(2):
        fold(view.open(), older_than_ns=0, delete_after_ns=0)
    assert not remote.present("refs/")
    remote.counted()
    assert push_to(project, remote, afresh=True).records == 0
    assert not [verb for verb in remote.counted() if verb.startswith("put")]


def test_a_dry_run_tells_what_would_be_pushed_and_writes_nothing(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 2)
    remote = new_remote()
    told = push_to(project, remote, dry_run=True)
    assert not remote.present()
    assert not (project.store / "local" / "journal").exists()
    assert not [verb for verb in remote.counted() if not verb.startswith("list")]
    assert push_to(project, remote) == told


def test_a_torn_record_here_is_told_of_and_left_out(project: SampleProject, models: Models) -> None:
    session = sample(project.root, models, 2)
    path = project.store / session.head.name.key
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:50])
    remote = new_remote()
    done = push_to(project, remote)
    assert done.checkpoints == 1
    assert session.head.name.key not in remote.present("refs/")
    assert [warning.endswith("; it is not pushed") for warning in project.events.warnings] == [True]


# -- damage, and stores that change


def pack_path(project: SampleProject, pack: ObjectID) -> Path:
    return project.store / pack_key(pack)


def test_a_damaged_pack_is_never_pushed_and_the_rest_is(project: SampleProject, models: Models, tmp_path: Path) -> None:
    other = sample(project.root, models, 1, name="other")
    session = sample(project.root, models, 3)
    (pack,) = next(
        one
        for one in project.history().records()
        if one.name.experiment == session.experiment_id and one.commit.seq == 2
    ).meta
    path = pack_path(project, pack)
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    remote = new_remote()
    done = push_to(project, remote)
    (failure,) = done.failures
    assert failure.key == pack_key(pack)
    assert isinstance(failure.error, CorruptionError)
    assert failure.error.message == (
        f"pack {pack.hex()} is damaged in {project.store}: its bytes do not match its name"
    )
    assert pack_key(pack) not in remote.present()
    check_transport(remote.inner)
    assert other.experiment_id in done.experiments
    assert done.left >= 1
    listed = {record.commit_id for record in view_of(tmp_path / "view", remote).history().records()}
    assert set(models.of) - listed
    check_restores(view_of(tmp_path / "view", remote), models)
    path.write_bytes(whole)
    again = push_to(project, remote)
    assert (again.failures, again.left, again.packs) == ((), 0, 1)
    assert contents(remote.inner) == contents(local(project))


def test_a_pack_that_is_gone_is_told_of(project: SampleProject, models: Models) -> None:
    session = sample(project.root, models, 1)
    (pack,) = session.head.meta
    pack_path(project, pack).unlink()
    remote = new_remote()
    (failure,) = push_to(project, remote).failures
    assert failure.error.message == f"pack {pack.hex()} is not in {project.store}"


def test_a_pack_that_was_cut_short_there_is_put_again(project: SampleProject, models: Models) -> None:
    session = sample(project.root, models, 1)
    (pack,) = session.head.meta
    remote = new_remote()
    remote.inner.put(pack_key(pack), pack_path(project, pack).read_bytes()[:100])
    push_to(project, remote)
    assert contents(remote.inner) == contents(local(project))
    check_transport(remote.inner)


def test_records_whose_packs_were_not_copied_there_are_completed(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 2)
    remote = new_remote()
    for info in local(project).list("refs/"):
        remote.inner.put(info.key, local(project).get(info.key))
    push_to(project, remote)
    assert contents(remote.inner) == contents(local(project))
    check_transport(remote.inner)


def test_a_place_without_a_store_is_an_error(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 1)
    remote = Remote()
    with pytest.raises(StorageMissingError) as raised:
        push_to(project, remote)
    assert str(raised.value) == (
        "there is no store at memory://remote "
        "(hint: correct the place, or make a store there with `replicate push --create`)"
    )
    assert not remote.present("")


def test_a_store_that_was_emptied_and_made_anew_gets_everything(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 2)
    remote = new_remote()
    push_to(project, remote)
    remote.empty()
    with pytest.raises(StorageMissingError):
        push_to(project, remote)
    create_store(remote, Host())
    push_to(project, remote)
    assert contents(remote.inner) == contents(local(project))
    assert project.events.warnings == [
        "memory://remote holds another store than before: everything there is looked at anew"
    ]
    assert len(list((project.store / "local" / "journal").iterdir())) == 1


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_store_that_is_emptied_during_a_push_is_noticed(
    project: SampleProject, models: Models, is_made_anew: bool
) -> None:
    sample(project.root, models, 2)
    remote = new_remote()

    def empty_before_a_record(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("packs/"):
            remote.before = lambda verb, key: None
            remote.empty()
            if is_made_anew:
                create_store(remote.inner, Host())

    remote.before = empty_before_a_record
    with pytest.raises(StorageReplacedError, match="was emptied or replaced meanwhile"):
        push_to(project, remote)
    if not is_made_anew:
        create_store(remote, Host())
    push_to(project, remote)
    assert contents(remote.inner) == contents(local(project))


def test_what_was_lost_there_is_found_when_everything_is_looked_at(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 2)
    remote = new_remote()
    push_to(project, remote)
    remote.inner.delete(sorted(remote.present())[:3])
    assert push_to(project, remote).records == 0
    push_to(project, remote, afresh=True)
    assert contents(remote.inner) == contents(local(project))


@pytest.mark.parametrize("name", ["ctl/p~" + "0" * 32, "ctl/feat~write~new", "ctl/feat~read~new"])
def test_a_store_that_a_newer_version_changed_is_not_written_to(
    project: SampleProject, models: Models, name: str
) -> None:
    sample(project.root, models, 1)
    remote = new_remote()
    remote.inner.put(name, b"")
    with pytest.raises(UnsupportedFormatError):
        push_to(project, remote)
    assert not remote.present()


def test_a_store_that_a_newer_version_changes_meanwhile_gets_no_record_that_is_not_confirmed(
    project: SampleProject, models: Models
) -> None:
    sample(project.root, models, 1)
    remote = new_remote()

    def add_plan(verb: str, key: str) -> None:
        if verb == "put":
            remote.inner.put("ctl/p~" + "0" * 32, b"")

    remote.before = add_plan
    with pytest.raises(UnsupportedFormatError):
        push_to(project, remote)
    (journal,) = (project.store / "local" / "journal").iterdir()
    assert "\nrefs/" not in journal.read_text()


def test_collections_that_are_over_make_what_was_known_void(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 1)
    remote = new_remote()
    push_to(project, remote)
    remote.inner.delete(sorted(remote.present("packs/"))[:1])
    remote.inner.put("ctl/x~" + "0" * 32, b"")
    push_to(project, remote)
    assert contents(remote.inner) == contents(local(project))


def test_a_validate_is_good_for_an_hour(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 1)
    times = iter(range(0, 10**18, 3_601 * 10**9))
    slow = SampleProject(project.root, host=Host(monotonic_ns=lambda: next(times)))
    remote = new_remote()
    push_to(slow, remote)
    verbs = [(verb, key) for verb, key in remote.requests if verb == "put" or key == "ctl/"]
    assert [key.partition("/")[0] for _, key in verbs] == ["ctl", *["packs"] * 2, "ctl", *["refs"] * 4, "ctl"]


# -- several at once


def test_two_projects_push_into_one_store_at_once(models: Models, tmp_path: Path) -> None:
    remote = new_remote()
    projects = [SampleProject(tmp_path / name) for name in ("a", "b")]
    for project in projects:
        sample(project.root, models, 5, size=2 * MIB)
    run_at_once([lambda project=project: push_to(project, remote) for project in projects])
    assert contents(remote.inner) == {**contents(local(projects[0])), **contents(local(projects[1]))}
    check_transport(remote.inner)


def test_one_project_is_pushed_twice_at_once(project: SampleProject, models: Models) -> None:
    sample(project.root, models, 8)
    remote = new_remote()
    run_at_once([lambda: push_to(SampleProject(project.root), remote)] * 2)
    assert contents(remote.inner) == contents(local(project))
    remote.counted()
    assert push_to(project, remote).records == 0
    assert remote.counted() == {"list ctl": 1}


def test_sixteen_writers_lose_nothing(models: Models, tmp_path: Path) -> None:
    remote = new_remote()

    def write(number: int) -> None:
        project = SampleProject(tmp_path / f"writer{number}")
        project.write("train.py", str(number))
        session = project.begin()
        models.keep(project, session.head.commit_id)
        for step in range(3):
            project.write("weights.bin", f"{number} {step}")
            models.keep(project, project.save(session).base.record.commit_id)
            assert push_to(project, remote, jobs=2).left == 0
        session.end("finished")
        push_to(project, remote)

    run_at_once([lambda number=number: write(number) for number in range(16)])
    assert len(models.of) == 64
    check_transport(remote.inner)
    check_restores(view_of(tmp_path / "view", remote), models, models.of)


def run_at_once(calls: list[object]) -> None:
    failures: list[BaseException] = []

    def run(call: object) -> None:
        try:
            call()  # type: ignore[operator]
        except BaseException as exc:  # noqa: BLE001
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_folder_that_is_away_for_a_moment_is_not_made_again(tmp_path: Path) -> None:
    """A disk that is not mounted: what was put into the folder in its place would count as pushed."""
    models = Models()
    project = SampleProject(tmp_path / "project")
    sample(project.root, models, 4, size=2 * MIB)
    team, away = tmp_path / "team", tmp_path / "away"

    class Unmounted(LocalTransport):
        puts = 0

        def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
            self.puts += key.startswith("packs/")
            if self.puts == 2:
                team.rename(away)
                team.mkdir()  # where it was mounted
            super().put(key, data, replace=replace)

    create_store(LocalTransport(str(team)), Host())
    done = push_to(project, Unmounted(str(team)), jobs=1)
    assert done.left
    assert isinstance(done.failures[0].error, StorageMissingError)
    assert list(team.iterdir()) == []
    team.rmdir()
    away.rename(team)
    assert push_to(project, LocalTransport(str(team))).left == 0
    check_store(team)
    check_restores(view_of(tmp_path / "view", LocalTransport(str(team))), models)


class InFlight(MemoryTransport):
    """Counts the bytes of packs that are put at the same time. Two large ones wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._lock = threading.Lock()
        self._pair = threading.Barrier(2)

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        size = len(data) if key.startswith("packs/") else 0
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)
        if size >= MIB:
            self._pair.wait(10)
        super().put(key, data, replace=replace)
        with self._lock:
            self.now -= size


def test_packs_in_flight_are_bounded_by_their_bytes(
    project: SampleProject, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MAX_HELD_BYTES", 5 * MIB)
    sample(project.root, models, 4, size=2 * MIB)
    store = InFlight()
    assert push_to(project, new_remote(store), jobs=8).left == 0
    assert 4 * MIB < store.most <= 5 * MIB
    assert contents(store) == contents(local(project))
