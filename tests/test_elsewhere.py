"""Reading a store elsewhere without any project: few requests, many at a time, only what is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from replicate.checkpoints import Checkpoint
from replicate.errors import CorruptionError, StorageMissingError, StorageUnreachableError, WorktreeModifiedError
from replicate.maintenance.folding import DAY_NS, fold
from replicate.objects.codecs import Encoding
from replicate.objects.ids import Kind, blob_id
from replicate.refs import CommitRecord
from replicate.reporting import SilentReporter
from replicate.repository import Repository
from replicate.restoring import Restored, checkout
from replicate.transport import KeyInfo, LocalTransport, MemoryTransport, Transport
from replicate.transport.caching import GAP_BYTES, REQUEST_BYTES
from tests.elsewhere import CountedStorage, Request, coalesced, copied, elsewhere, sizes
from tests.projects import Events, SampleProject, read_folder
from tests.recorded import CountingTransport, RecordedStore, facts
from tests.weights import safetensors


def folded(experiments: int, checkpoints: int, scratch: Path) -> CountingTransport:
    """Return a store whose records are in catalogs, and nowhere else any more."""
    transport = CountingTransport()
    store = RecordedStore(transport)
    for number in range(experiments):
        store.series(checkpoints, params={"lr": number / 7, "optimizer": "adamw"}, name=f"run-{number}")
    transport.now = 3 * DAY_NS
    fold(store.repository(scratch))
    transport.now += 2 * DAY_NS
    fold(store.repository(scratch))
    assert transport.keys("refs/") == []
    return transport


def listed(storage: Transport, caches: Path) -> int:
    return len(elsewhere(storage, caches).history().summaries)


def test_a_folded_store_is_listed_with_few_requests(tmp_path: Path) -> None:
    storage = CountedStorage(folded(1_000, 3, tmp_path / "scratch"))
    assert listed(storage, tmp_path / "caches") == 1_000
    assert len(storage.requests) == 4  # ctl/, refs/, cat/, and a heads catalog
    storage.requests.clear()
    assert listed(storage, tmp_path / "caches") == 1_000
    assert [(one.verb, one.key) for one in storage.requests] == [("list", "ctl/"), ("list", "refs/"), ("list", "cat/")]


def test_who_lists_asks_for_records_before_anything_was_answered(tmp_path: Path) -> None:
    storage = CountedStorage(folded(3, 1, tmp_path / "scratch"))
    repository = elsewhere(storage, tmp_path / "caches", lists=True)
    assert [one.key for one in storage.requests] == ["refs/", "ctl/"]
    assert len(repository.history().summaries) == 3
    assert [one.key for one in storage.requests[:3]] == ["refs/", "ctl/", "cat/"]
    store = RecordedStore(storage.inner)  # type: ignore[arg-type]
    store.series(1)
    assert len(repository.history().summaries) == 4  # what was listed ahead is not told twice


def test_catalogs_that_could_not_be_listed_are_not_taken_for_none(tmp_path: Path) -> None:
    class FailsOnce(CountedStorage):
        is_sound = False

        def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
            return super().list(prefix, details=details) if self.is_sound or prefix != "cat/" else self._fail()

        def _fail(self) -> Iterator[KeyInfo]:
            self.is_sound = True
            yield from ()
            raise StorageUnreachableError("the network is gone", operation="list")

    store = RecordedStore(folded(2, 3, tmp_path / "scratch"))
    (experiment, _) = (one.experiment_id for one in store.plain_history().summaries)
    history = elsewhere(FailsOnce(store.transport), tmp_path / "caches").history()
    with pytest.raises(StorageUnreachableError):
        history.summaries  # noqa: B018
    found = history.experiment(experiment)
    assert found is not None
    assert len(found.checkpoints) == 3


@pytest.mark.soak
def test_a_large_store_is_listed_with_few_requests(tmp_path: Path) -> None:
    storage = CountedStorage(folded(10_000, 10, tmp_path / "scratch"))
    assert listed(storage, tmp_path / "caches") == 10_000
    assert len(storage.requests) <= 12
    storage.requests.clear()
    assert listed(storage, tmp_path / "caches") == 10_000
    assert len(storage.requests) <= 4


def test_records_that_are_not_folded_are_read_32_at_a_time(tmp_path: Path) -> None:
    store = RecordedStore()
    for _ in range(64):
        store.series(1)  # four records each, all over the shards
    storage = CountedStorage(store.transport, at_once=32)
    assert facts(elsewhere(storage, tmp_path).history()) == facts(store.plain_history())
    assert len(storage.gets("refs/")) == 64 * 4
    assert storage.most_at_once == 32


def test_records_of_one_experiment_are_read_32_at_a_time(tmp_path: Path) -> None:
    store = RecordedStore()
    experiment = store.series(29)  # and a root, a start and an end
    (summary,) = elsewhere(store.transport, tmp_path / "one").history().summaries
    storage = CountedStorage(store.transport, at_once=32)
    repository = elsewhere(storage, tmp_path / "two")
    assert len([one for one in repository.refs.list(experiment) if isinstance(one, CommitRecord)]) == summary.count + 1
    assert storage.most_at_once == 32


def test_full_catalogs_are_read_several_at_a_time(tmp_path: Path) -> None:
    transport = folded(200, 1, tmp_path / "scratch")
    transport.delete(transport.keys("cat/h~"))
    storage = CountedStorage(transport)
    assert listed(storage, tmp_path / "caches") == 200
    assert len(storage.gets("cat/f~")) == len(transport.keys("cat/f~")) > 100
    storage.requests.clear()
    assert listed(storage, tmp_path / "caches") == 200
    assert storage.gets() == []


def test_what_was_read_of_an_experiment_is_not_asked_for_again(tmp_path: Path) -> None:
    store = RecordedStore()
    experiment = store.series(20)
    storage = CountedStorage(store.transport)
    for expected in (23, 0):
        storage.requests.clear()
        found = elsewhere(storage, tmp_path).history().experiment(experiment)
        assert found is not None
        assert len(found.checkpoints) == 20
        assert len(storage.gets("refs/")) == expected


# -- restoring


def restore(repository: Repository, record: CommitRecord, target: Path) -> Restored:
    return checkout(repository, record, str(target), SilentReporter())


def newest(repository: Repository) -> CommitRecord:
    (experiment,) = repository.history().experiments
    return experiment.checkpoints[-1]


def needed(storage: MemoryTransport, project: SampleProject, target: Path) -> list[Request]:
    """Return the exact ranges of packs that restoring the newest checkpoint takes."""
    exact = CountedStorage(storage)
    repository = Repository(project.config, project.host, project.events, exact)
    record = newest(repository)
    exact.requests.clear()
    restore(repository, record, target)
    return exact.gets("packs/")


def check_restore(project: SampleProject, tmp_path: Path) -> CountedStorage:
    """Restore the newest checkpoint from elsewhere, and check result, requests and bytes; then once more."""
    storage = copied(project.store)
    ranges = needed(storage, project, tmp_path / "plain")
    counted = CountedStorage(storage)
    repository = elsewhere(counted, tmp_path / "caches")
    record = newest(repository)
    counted.requests.clear()
    restore(repository, record, tmp_path / "target")
    assert read_folder(tmp_path / "target") == read_folder(tmp_path / "plain") == read_folder(project.root)
    most = coalesced(ranges, GAP_BYTES, REQUEST_BYTES)
    assert len(counted.requests) <= most + 16
    lengths = {info.key: info.size or 0 for info in storage.list("packs/")}
    wanted = sum(one.end - one.start for one in set(ranges) if one.end is not None)
    assert sizes(counted.requests, lengths) <= wanted + most * (GAP_BYTES + GAP_BYTES)
    again = CountedStorage(storage)
    repository = elsewhere(again, tmp_path / "caches")
    restore(repository, newest(repository), tmp_path / "again")
    assert again.gets() == []
    assert read_folder(tmp_path / "again") == read_folder(project.root)
    return counted


def test_two_thousand_small_files_are_restored_with_few_requests(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    rng = np.random.default_rng(0)
    for number in range(2_000):
        project.write(f"data/{number % 40:02}/part-{number}", rng.bytes(1_500 + number))
    session = project.begin()
    project.save(session, step=0)
    for step in range(1, 6):  # older packs hold most of it
        for number in range(step, 2_000, 97):
            project.write(f"data/{number % 40:02}/part-{number}", rng.bytes(3_000))
        project.save(session, step=step)
    session.end("finished")
    counted = check_restore(project, tmp_path)
    assert len(counted.requests) < 30


def test_weights_with_deltas_are_restored_with_few_requests(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    rng = np.random.default_rng(0)
    arrays = {f"layer{number}": rng.normal(0, 0.02, 1 << 20).astype(np.float32) for number in range(16)}  # 64 MiB
    session = project.begin()
    for step in range(4):
        project.write("model.safetensors", safetensors(arrays))
        project.save(session, step=step)
        arrays = {name: one + rng.normal(0, 1e-6, one.size).astype(np.float32) for name, one in arrays.items()}
    session.end("finished")
    record = newest(project.open())
    encodings = {place.entry.encoding for place in project.open().view(record.locator)}
    assert Encoding.DELTA in encodings
    check_restore(project, tmp_path)


def test_files_of_a_few_pieces_are_fetched_together(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    for number in range(20):
        project.write(f"part-{number}", os.urandom((17 << 18) + number))
    session = project.begin()
    project.save(session)
    counted = check_restore(project, tmp_path)
    assert len(counted.gets("packs/")) < 20


def test_one_file_is_opened_without_the_others(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("large", os.urandom(20 << 20))
    project.write("sub/small", b"few bytes")
    session = project.begin()
    project.save(session)
    storage = CountedStorage(copied(project.store))
    repository = elsewhere(storage, tmp_path / "caches")
    checkpoint = Checkpoint(repository, newest(repository), SilentReporter())
    with checkpoint.open("sub/small") as file:
        assert file.read() == b"few bytes"
    lengths = {info.key: info.size or 0 for info in storage.inner.list("packs/")}
    assert sizes(storage.gets("packs/"), lengths) <= 2 << 20
    storage.requests.clear()
    with checkpoint.open("large") as file:
        file.seek(10 << 20)
        assert len(file.read(1_000)) == 1_000
    assert sizes(storage.gets("packs/"), lengths) <= 5 << 20


# -- what is kept


def test_a_damaged_cache_heals_itself(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", os.urandom(3 << 20))
    session = project.begin()
    project.save(session)
    storage = copied(project.store)
    first = elsewhere(storage, tmp_path / "caches")
    restore(first, newest(first), tmp_path / "one")
    for number, path in enumerate(path for path in (tmp_path / "caches").rglob("*~*") if path.is_file()):
        data = path.read_bytes()
        path.write_bytes((data[: len(data) // 2], b"", data[:-1] + bytes([data[-1] ^ 1]))[number % 3])
    repository = elsewhere(storage, tmp_path / "caches")
    restore(repository, newest(repository), tmp_path / "two")
    assert read_folder(tmp_path / "two") == read_folder(project.root)


class Lying(MemoryTransport):
    """Answers wrongly until it is told not to, as a broken proxy does."""

    is_lying = True

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        data = super().get(key, start, end)
        return bytes(len(data)) if self.is_lying else data


@pytest.mark.parametrize("prefix", ["packs/", "refs/"])
def test_wrong_answers_that_were_kept_are_forgotten(tmp_path: Path, prefix: str) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", os.urandom(3 << 20))
    project.write("weights", bytes(100) + os.urandom(1 << 20))
    session = project.begin()
    project.save(session)
    good = copied(project.store)
    lying = Lying()
    for info in good.list(""):
        lying.put(info.key, good.get(info.key))
    from replicate.transport.caching import CachingTransport

    repository = elsewhere(lying, tmp_path / "caches")
    caching = repository.transport
    assert isinstance(caching, CachingTransport)
    for info in good.list(prefix):
        assert not any(caching.get(info.key, 0, (info.size or 0) + 1))
    lying.is_lying = False
    repository = elsewhere(lying, tmp_path / "caches")
    restore(repository, newest(repository), tmp_path / "two")
    assert read_folder(tmp_path / "two") == read_folder(project.root)


def test_what_is_damaged_in_the_store_is_told(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", os.urandom(3 << 20))
    session = project.begin()
    saved = project.save(session)
    storage = copied(project.store)
    for info in storage.list("packs/"):
        data = bytearray(storage.get(info.key))
        if len(data) > 1 << 20:
            data[1 << 20] ^= 1
            storage.put(info.key, data)
    repository = elsewhere(storage, tmp_path / "caches")
    with pytest.raises(CorruptionError):
        restore(repository, saved.base.record, tmp_path / "two")


def test_without_a_folder_to_keep_things_in_everything_still_works(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", os.urandom(3 << 20))
    session = project.begin()
    project.save(session)
    (tmp_path / "file").write_bytes(b"")
    counted = CountedStorage(copied(project.store))
    repository = elsewhere(counted, tmp_path / "file" / "caches")
    restore(repository, newest(repository), tmp_path / "two")
    assert read_folder(tmp_path / "two") == read_folder(project.root)
    assert len(counted.gets("packs/")) < 10


# -- opening


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageMissingError, match="there is no store at memory://elsewhere"):
        elsewhere(MemoryTransport(), tmp_path)


def test_stores_that_take_turns_in_one_place_do_not_share_what_is_kept(tmp_path: Path) -> None:
    counts = []
    for number in (1, 2):
        store = RecordedStore(seed=number)
        store.transport.put(f"ctl/store~{number:032x}", b"")
        store.series(number)
        (summary,) = elsewhere(store.transport, tmp_path).history().summaries
        counts.append(summary.count)
    assert counts == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", b"bytes")
    session = project.begin()
    saved = project.save(session)
    before = sorted(project.store.rglob("*"))
    repository = Repository.elsewhere(str(project.store), project.host, Events(), caches=str(tmp_path / "caches"))
    assert isinstance(repository.transport, LocalTransport)
    restore(repository, saved.base.record, tmp_path / "two")
    assert read_folder(tmp_path / "two") == read_folder(project.root)
    assert repository.liveness.running(repository.history().summaries[0]) != []
    assert sorted(project.store.rglob("*")) == before


def test_looking_an_object_up_writes_nothing(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", b"saved")
    project.save(project.begin())
    counted = CountedStorage(copied(project.store))
    repository = elsewhere(counted, tmp_path / "caches")
    blob = blob_id(b"saved")
    objects = repository.all_objects()
    assert repository.find_objects(blob.hex()[:8], 2) == [(blob, Kind.BLOB)]
    assert b"".join(objects.iter_blob(blob)) == b"saved"
    assert {one.verb for one in counted.requests} == {"list", "get"}


def test_nothing_is_overwritten_that_may_be_unsaved(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "w")
    project.write("data", b"saved")
    session = project.begin()
    project.save(session)
    repository = elsewhere(copied(project.store), tmp_path / "caches")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "data").write_bytes(b"mine")
    with pytest.raises(WorktreeModifiedError):
        restore(repository, newest(repository), tmp_path / "two")
    assert (tmp_path / "two" / "data").read_bytes() == b"mine"
