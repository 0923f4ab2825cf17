"""One view of this machine's store and the repository elsewhere: what either has is read, and what it costs."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import replicate
from replicate.checkpoints import Checkpoint
from replicate.errors import ReplicateError, StorageUnreachableError
from replicate.history import History
from replicate.host import Host
from replicate.lifecycle import remove_experiment
from replicate.maintenance.folding import DAY_NS, fold
from replicate.objects.ids import ObjectID, blob_id
from replicate.overview import Overview
from replicate.refs import CommitRecord, RefStore
from replicate.refs.cache import ShardCache
from replicate.reporting import SilentReporter
from replicate.restoring import checkout
from replicate.summary import OpenSession
from replicate.transport import KeyInfo, LocalTransport, MemoryTransport, Transport
from replicate.transport.caching import CachingTransport
from replicate.transport.remote import Patience
from replicate.transport.union import UnionTransport
from replicate.united import UnitedRepository, open_united
from tests.conftest import Watch
from tests.elsewhere import URL, CountedStorage, copied
from tests.projects import SampleProject, check_store
from tests.recorded import CountingTransport, RecordedStore, facts, shown

LOST = StorageUnreachableError("no answer", key="", operation="list", hint="check the network")


def unreachable() -> Transport:
    raise LOST


# -- what is told


def reader(transport: Transport) -> RefStore:
    return RefStore(transport, _fail)


def _fail(error: ReplicateError) -> None:
    raise error


def commits(transport: Transport) -> dict[ObjectID, set[ObjectID]]:
    found: dict[ObjectID, set[ObjectID]] = {}
    for record in reader(transport).list():
        if isinstance(record, CommitRecord):
            found.setdefault(record.name.experiment, set()).add(record.commit_id)
    return found


def check(near: MemoryTransport, far: MemoryTransport, cache: Path) -> CountedStorage:
    """Compare what a look at both stores tells with their records read one by one; return the far requests."""
    plain = MemoryTransport()
    for store in (near, far):
        for info in store.list(""):
            plain.put(info.key, store.get(info.key))
    counted = CountedStorage(far)
    caching = CachingTransport(counted, str(cache / "blocks"), 1 << 30)
    union = UnionTransport(near, lambda: caching, _fail)
    history = History(Overview(reader(union), lambda: ShardCache(str(cache / "united.db")), union))
    expected = History.of(reader(plain).list())
    assert facts(history) == facts(expected)
    here, there = commits(near), commits(far)
    only = {one: own - there.get(one, set()) for one, own in here.items()}
    known = {one.experiment_id for one in (*expected.summaries, *expected.hidden)}
    assert history.near_experiments is not None
    assert {*history.near_experiments} & known == {one for one, own in only.items() if own} & known
    assert shown(history) == shown(expected)
    for one in known:
        assert {*(history.near_commits(one) or ())} == only.get(one, set())
    return counted


def fold_away(transport: CountingTransport, scratch: Path) -> None:
    """Fold everything that a store has, and delete what was folded."""
    store = RecordedStore(transport)
    transport.now += 3 * DAY_NS
    fold(store.repository(scratch))
    transport.now += 2 * DAY_NS
    fold(store.repository(scratch))


@pytest.mark.parametrize("seed", range(24))
def test_a_look_at_two_stores_tells_what_their_records_tell(tmp_path: Path, seed: int) -> None:
    """Whatever lies where, and whichever of them is folded; with a cold cache, a warm one, and after changes."""
    chance = random.Random(seed)
    world = RecordedStore(CountingTransport(), seed)
    near, far = CountingTransport(), CountingTransport()
    for round_ in range(3):
        for _ in range(chance.randrange(1, 12)):
            experiment = world.series(chance.randrange(4), name=chance.choice([None, "ada", "bob"]))
            if chance.random() < 0.2:
                world.hide(experiment)
            if chance.random() < 0.2:
                world.checkpoint(experiment, world.session(), 5)  # a fork, or a gap
        keys = world.transport.keys("refs/")  # type: ignore[attr-defined]
        where = {key[8:72]: chance.choice(["near", "far", "both", "some"]) for key in keys}
        for key in keys:
            place = where[key[8:72]]
            data = world.transport.get(key)
            if place in ("near", "both") or (place == "some" and chance.random() < 0.7):
                near.put(key, data)
            if place in ("far", "both") or (place == "some" and chance.random() < 0.7):
                far.put(key, data)
        for store, name in ((near, "near"), (far, "far")):
            if chance.random() < 0.5:
                fold_away(store, tmp_path / name)
        check(near, far, tmp_path / "cache")
        check(near, far, tmp_path / "cache")
        check(near, far, tmp_path / f"cold-{round_}")


def test_an_experiment_is_pushed_when_all_its_commits_are_there(tmp_path: Path) -> None:
    store = RecordedStore(CountingTransport())
    pushed, half, mine = (store.series(3) for _ in range(3))
    far = CountingTransport()
    for info in store.transport.list("refs/"):
        if pushed.hex() in info.key or (half.hex() in info.key and "~00000003~" not in info.key):
            far.put(info.key, store.transport.get(info.key))
    union = UnionTransport(store.transport, lambda: far, _fail)
    history = History(Overview(reader(union), lambda: ShardCache(str(tmp_path / "db")), union))
    assert {*(history.near_experiments or ())} == {half, mine}
    assert [len(history.near_commits(one) or ()) for one in (pushed, half, mine)] == [0, 1, 4]


# -- what it costs


def folded(count: int, scratch: Path, seed: int) -> CountingTransport:
    transport = CountingTransport()
    store = RecordedStore(transport, seed)
    for number in range(count):
        store.series(3, params={"lr": number})
    fold_away(transport, scratch)
    return transport


def look(near: Transport, far: Transport, cache: Path) -> tuple[int, int, int]:
    """Return how many experiments a look finds, how many are not pushed, and the requests of the far store."""
    counted = CountedStorage(far)
    caching = CachingTransport(counted, str(cache / "blocks"), 1 << 30)
    union = UnionTransport(near, lambda: caching, _fail)
    history = History(Overview(reader(union), lambda: ShardCache(str(cache / "united.db")), union))
    return len(history.summaries), len(history.near_experiments or ()), len(counted.requests)


def test_stores_that_are_both_folded_are_listed_with_few_requests(tmp_path: Path) -> None:
    near, far = (folded(400, tmp_path / str(seed), seed) for seed in (1, 2))
    shared = folded(200, tmp_path / "3", 3)
    for store in (near, far):
        for info in shared.list("cat/f"):
            store.put(info.key, shared.get(info.key))
        fold_away(store, tmp_path / "again")
    assert look(near, far, tmp_path / "cache") == (1_000, 400, 2 + len(far.keys("cat/h")))
    assert look(near, far, tmp_path / "cache") == (1_000, 400, 2)


def test_of_records_that_the_far_store_did_not_fold_none_is_read_that_is_here(tmp_path: Path) -> None:
    store = RecordedStore(CountingTransport())
    for _ in range(50):
        store.series(5)
    far = CountingTransport()
    for info in store.transport.list("refs/"):
        far.put(info.key, store.transport.get(info.key))
    assert look(store.transport, far, tmp_path / "one") == (50, 0, 2)
    assert isinstance(store.transport, CountingTransport)
    fold_away(store.transport, tmp_path / "w")
    assert look(store.transport, far, tmp_path / "two") == (50, 0, 2)


# -- a project


@pytest.fixture
def here(tmp_path: Path) -> SampleProject:
    """A project whose first experiment was pushed, and whose second was not."""
    project = SampleProject(tmp_path / "here")
    project.write("data", os.urandom(20_000))
    train(project, "first")
    return project


def train(project: SampleProject, name: str, count: int = 2) -> None:
    session = project.begin(name=name)
    for step in range(count):
        project.write("step", f"{name} {step}\n")
        project.save(session, step=step)
    session.end("finished")


@pytest.fixture
def far(here: SampleProject, tmp_path: Path) -> MemoryTransport:
    """The repository: what was pushed from here before, and what somebody else pushed."""
    storage = copied(here.store)
    other = SampleProject(tmp_path / "there")
    other.write("data", os.urandom(30_000))
    train(other, "theirs")
    source = LocalTransport(other.store)
    for top in ("packs/", "refs/"):
        for info in source.list(top):
            storage.put(info.key, source.get(info.key))
    train(here, "second")
    return storage


def united(project: SampleProject, storage: Transport | None, **given: bool) -> UnitedRepository:
    config = dataclasses.replace(project.config, repository=URL)
    return UnitedRepository(config, project.host, project.events, elsewhere=storage, **given)


def names(history: History) -> list[str | None]:
    return [one.name for one in history.summaries]


def test_what_ran_here_and_what_ran_elsewhere_is_listed(here: SampleProject, far: MemoryTransport) -> None:
    history = united(here, far).history()
    assert names(history) == ["first", "theirs", "second"]
    assert [one.name for one in history.summaries if one.experiment_id in (history.near_experiments or ())] == [
        "second"
    ]
    assert here.events.warnings == []


def test_everything_is_restored_and_only_what_is_not_here_is_read_there(
    here: SampleProject, far: MemoryTransport, tmp_path: Path
) -> None:
    counted = CountedStorage(far)
    repository = united(here, counted)
    history = repository.history()
    for experiment in history.experiments:
        counted.requests.clear()
        target = tmp_path / str(experiment.name)
        checkout(repository, experiment.checkpoints[-1], str(target), SilentReporter())
        assert (target / "step").read_text() == f"{experiment.name} 1\n"
        assert bool(counted.gets("packs/")) == (experiment.name == "theirs")
    again = CountedStorage(far)
    checkpoint = Checkpoint(united(here, again), history.experiments[1].checkpoints[-1], SilentReporter())
    assert checkpoint.open("data").read() == (tmp_path / "there" / "data").read_bytes()
    assert again.gets() == []  # it is kept on this machine


def test_what_is_saved_here_does_not_rely_on_the_repository(here: SampleProject, far: MemoryTransport) -> None:
    repository = united(here, far)
    before = sorted(here.store.rglob("packs/*/*"))
    content = (here.root.parent / "there" / "data").read_bytes()
    blob = blob_id(content)
    objects = repository.all_objects()
    assert [one for one, _ in repository.find_objects(blob.hex()[:12], 2)] == [blob]
    assert b"".join(objects.iter_blob(blob)) == content
    index = here.open().index
    index.refresh()
    assert index.find(blob) == []
    assert sorted(here.store.rglob("packs/*/*")) == before
    here.write("data", content)
    train(here, "third")
    assert check_store(here.store).damage == ()


def test_a_damaged_pack_is_read_from_the_repository(here: SampleProject, far: MemoryTransport, tmp_path: Path) -> None:
    for path in here.store.glob("packs/*/*"):
        if any(info.key.endswith(path.name) for info in far.list("packs/")):
            data = bytearray(path.read_bytes())
            data[40:] = bytes(len(data) - 40)
            path.chmod(0o644)
            path.write_bytes(data)
    repository = united(here, far)
    first = repository.history().experiments[0]
    checkout(repository, first.checkpoints[-1], str(tmp_path / "out"), SilentReporter())
    assert (tmp_path / "out" / "data").read_bytes() == (here.root / "data").read_bytes()


def test_nothing_is_overwritten_that_may_be_unsaved_and_that_costs_no_listing(
    here: SampleProject, far: MemoryTransport
) -> None:
    counted = CountedStorage(far)
    repository = united(here, counted)
    history = repository.history()
    theirs, second = history.experiments[1:]
    counted.requests.clear()
    checkout(repository, theirs.checkpoints[-1], str(here.root), SilentReporter())  # what was there is saved here
    checkout(repository, second.checkpoints[-1], str(here.root), SilentReporter(), force=True)
    assert [one.key for one in counted.requests if one.verb == "list"] == []


def test_what_is_removed_or_tagged_is_written_here(here: SampleProject, far: MemoryTransport) -> None:
    before = sorted(info.key for info in far.list(""))
    repository = united(here, far)
    remove_experiment(repository, repository.history().experiments[1])
    assert names(united(here, far).history()) == ["first", "second"]
    assert sorted(info.key for info in far.list("")) == before
    assert len([info for info in LocalTransport(here.store).list("refs/") if "~x~" in info.key]) == 1
    assert names(here.history()) == ["first", "second"]
    assert here.history().rootless == []


def test_heartbeats_in_the_repository_tell_what_runs(here: SampleProject, tmp_path: Path) -> None:
    now = 10**18
    storage = MemoryTransport(lambda: now)
    other = RecordedStore(storage)
    session = "ab" * 8
    experiment = other.begin(session, name="theirs")
    other.refs.publish(experiment, 0, "cd" * 8, "s", {"time": 9, "capture": {"host": here.host.name}})
    counted = CountedStorage(storage)

    def running() -> list[str]:
        repository = united(here, counted)
        (summary,) = (one for one in repository.history().summaries if one.name == "theirs")
        counted.requests.clear()
        return sorted(one.session for one in repository.liveness.running(summary))

    assert running() == []
    assert [(one.verb, one.key) for one in counted.requests] == [("list", "beats/")]
    for one in (session, "cd" * 8):  # the second on a machine of the same name, but in no project of this one
        storage.put(f"beats/{experiment.hex()}~{one}", b"", replace=True)
    now += 119 * 10**9
    assert running() == [session, "cd" * 8]
    assert len(counted.requests) == 4  # and the storage's time: one request where a transport tells it by a header
    now += 10**9
    assert running() == []


def test_on_its_own_machine_the_lock_decides(here: SampleProject, far: MemoryTransport) -> None:
    session = here.begin(name="third")
    opened = OpenSession(session.session_id, here.host.name, 0, 0)
    far.put(f"beats/{session.experiment_id.hex()}~{session.session_id}", b"", replace=True)
    assert united(here, far).liveness.is_running(session.experiment_id, opened)
    session.close()
    assert not united(here, far).liveness.is_running(session.experiment_id, opened)


# -- when the repository cannot be reached


class Breaking(CountedStorage):
    """Answers so many requests, and no more."""

    def __init__(self, inner: Transport, answers: int) -> None:
        super().__init__(inner)
        self.answers = answers

    def _count(self) -> None:
        self.answers -= 1
        if self.answers < 0:
            raise LOST

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._count()
        return super().get(key, start, end)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        self._count()
        return super().list(prefix, details=details)


def test_a_listing_goes_on_with_what_is_here_wherever_the_repository_fails(
    here: SampleProject, far: MemoryTransport
) -> None:
    for answers in range(100):
        here.events.warnings.clear()
        history = united(here, Breaking(far, answers)).history()
        found = names(history)
        if not here.events.warnings:
            break
        assert found == ["first", "second"]
        assert here.events.warnings == ["no answer; only what is on this machine is shown\nhint: check the network"]
        assert history.near_experiments is None
        assert history.near_commits(history.summaries[0].experiment_id) is None
    assert answers > 5
    assert found == ["first", "theirs", "second"]


def test_offline_nothing_is_tried(here: SampleProject, far: MemoryTransport) -> None:
    counted = CountedStorage(far)
    repository = united(here, counted, is_offline=True)
    history = repository.history()
    assert names(history) == ["first", "second"]
    assert history.near_experiments is None
    assert here.events.notices == [f"offline: what lies only in {URL} is not shown"]
    assert (here.events.warnings, counted.requests) == ([], [])


def test_what_is_not_here_and_cannot_be_read_is_told(here: SampleProject, far: MemoryTransport) -> None:
    theirs = united(here, far).history().experiments[1].checkpoints[-1]
    for storage, is_offline in ((Breaking(far, 0), False), (far, True)):
        checkpoint = Checkpoint(united(here, storage, is_offline=is_offline), theirs, SilentReporter())
        with pytest.raises(StorageUnreachableError, match="is not on this machine: ") as raised:
            checkpoint.files()
        assert raised.value.hint is not None


@pytest.mark.parametrize(
    ("place", "warning"),
    [
        ("memory://nothing-is-here", "there is no store at memory://nothing-is-here; only what is"),
        ("/nonexistent/store", "there is no store at /nonexistent/store; only what is"),
        ("s4://bucket", "only what is on this machine is shown"),
    ],
)
def test_a_repository_that_is_none_is_told_and_left_out(here: SampleProject, place: str, warning: str) -> None:
    config = dataclasses.replace(here.config, repository=place)
    history = open_united(config, here.host, here.events).history()
    assert names(history) == ["first"]
    (told,) = here.events.warnings
    assert warning in told
    assert "\nhint: " in told


def test_a_repository_of_a_newer_format_is_told_and_left_out(here: SampleProject) -> None:
    storage = MemoryTransport()
    storage.put("ctl/v2", b"")
    assert names(united(here, storage).history()) == ["first"]
    assert "has format 2" in here.events.warnings[0]


def test_a_repository_that_hangs_is_waited_for_once_a_minute(
    here: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seconds = 10**18, []
    storage: Transport = Breaking(MemoryTransport(), 0)

    def opened(place: str, options: object, *, patience: Patience, host: Host) -> Transport:
        assert patience.at_first is not None
        seconds.append(patience.at_first.attempts * patience.at_first.timeout)
        return storage

    def told(place: str = URL) -> str:
        here.events.warnings.clear()
        config = dataclasses.replace(here.config, repository=place)
        assert names(open_united(config, Host(now_ns=lambda: now), here.events).history()) == ["first"]
        return here.events.warnings[0]

    monkeypatch.setattr("replicate.transport.remote.open_transport", opened)
    assert told().startswith("no answer; only what")
    now += 20 * 10**9
    assert told().startswith("no answer, asked once as it did not answer 20 s ago; only what")
    now += 39 * 10**9
    assert told("memory://another").startswith("no answer; only what")
    assert told().startswith("no answer; only what")  # one place is kept
    now += 60 * 10**9
    assert told().startswith("no answer; only what")
    now -= 10**9  # the clock was put back
    assert told().startswith("no answer; only what")
    assert seconds == [9.0, 2.0, 9.0, 9.0, 9.0, 9.0]


def test_a_repository_that_answers_again_is_read(here: SampleProject, monkeypatch: pytest.MonkeyPatch) -> None:
    storages: list[Transport] = [Breaking(MemoryTransport(), 0), copied(here.store)]
    config = dataclasses.replace(here.config, repository=URL)
    monkeypatch.setattr("replicate.transport.remote.open_transport", lambda *given, **named: storages.pop(0))
    expected: list[set[ObjectID] | None] = [None, set()]
    for near in expected:
        history = open_united(config, here.host, here.events).history()
        assert names(history) == ["first"]
        assert history.near_experiments == near
    assert len(here.events.warnings) == 1


# -- without a repository


def test_without_a_repository_not_a_file_more_is_opened(here: SampleProject, watch: Watch) -> None:
    touched: list[str] = []
    watch(lambda event, path: touched.append(f"{event} {path}"))
    counts = []
    for open_it in (here.open, lambda: open_united(here.config, here.host, here.events)):
        assert len(open_it().history().summaries) == 1
        touched.clear()
        assert len(open_it().history().summaries) == 1
        counts.append(sorted(touched))
    assert counts[0] == counts[1] != []


def test_python_reads_both(here: SampleProject, far: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalTransport(here.root.parent / "team")
    for info in far.list(""):
        store.put(info.key, far.get(info.key))
    here.write("replicate.yaml", "repository: ../team\n")
    experiments = replicate.ExperimentCollection(here.root)
    assert [one.name for one in experiments] == ["first", "theirs", "second"]
    theirs = experiments.get("theirs")
    assert theirs.open("step").read() == b"theirs 1\n"
    monkeypatch.setenv("REPLICATE_MODE", "offline")
    assert [one.name for one in experiments] == ["first", "second"]
