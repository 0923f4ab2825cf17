"""Folding old records into catalogs: nothing is lost, nothing is deleted early, a listing takes few requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicate.errors import CorruptionError, StorageMissingError, UnsupportedFormatError
from replicate.maintenance.folding import DAY_NS, Folded, StoreElsewhere, fold, fold_when_due
from replicate.objects.ids import ObjectID
from replicate.refs.catalogs import decode_full, decode_heads, encode_full, encode_heads
from replicate.refs.names import CatalogName
from replicate.reporting import SilentReporter
from replicate.repository import MARKER, MARKER_KEY
from replicate.transport import MemoryTransport
from replicate.transport.caching import CachingTransport
from tests.elsewhere import CountedStorage
from tests.recorded import CountingTransport, RecordedStore, facts, shown


@pytest.fixture
def transport() -> CountingTransport:
    return CountingTransport()


@pytest.fixture
def store(transport: CountingTransport) -> RecordedStore:
    return RecordedStore(transport)


def catalogs(transport: CountingTransport) -> tuple[list[str], list[str]]:
    """Return the keys of heads and of full catalogs."""
    keys = transport.keys("cat/")
    return [key for key in keys if key.startswith("cat/h~")], [key for key in keys if key.startswith("cat/f~")]


def test_only_records_that_are_a_day_old_are_folded(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    store.series(2)
    transport.now = 1
    young = store.series(2)
    transport.now = DAY_NS - 1
    assert fold(store.repository(tmp_path)) == Folded()
    assert transport.keys("cat/") == []
    transport.now = DAY_NS
    done = fold(store.repository(tmp_path))
    assert (done.records, done.deleted) == (5, 0)
    assert sorted(done.catalogs) == transport.keys("cat/")
    heads, full = catalogs(transport)
    assert (len(heads), len(full)) == (1, 1)
    assert young.hex() not in "".join(decode_full(CatalogName.parse(full[0]), transport.get(full[0])).records)


def test_folded_records_are_deleted_a_day_after_their_catalog(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    store.series(2)
    right = shown(store.plain_history())
    keys = transport.keys("refs/")
    transport.now = 2 * DAY_NS
    assert fold(store.repository(tmp_path)).deleted == 0
    for now, left in ((3 * DAY_NS - 1, keys), (3 * DAY_NS, [])):
        transport.now = now
        fold(store.repository(tmp_path))
        assert transport.keys("refs/") == left
        assert shown(store.plain_history()) == right


def test_a_fold_with_nothing_new_writes_and_deletes_nothing(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    for _ in range(20):
        store.series(2)
    for day in range(1, 4):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    before = transport.infos("")
    transport.now = 9 * DAY_NS
    assert fold(store.repository(tmp_path)) == Folded()
    assert transport.infos("") == before


def test_years_of_daily_folds_leave_few_catalogs(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    session = store.session()
    parent = experiment = store.begin(session)
    for day in range(1, 120):
        transport.now = day * DAY_NS
        parent = store.checkpoint(experiment, session, day, parent)
        fold(store.repository(tmp_path))
    heads, full = catalogs(transport)
    assert len(heads) <= 2
    assert len(full) <= 8
    assert len(transport.keys("refs/")) <= 2
    assert len(store.plain_history().commits) == 120
    (summary,) = store.history(tmp_path / "cache").summaries
    assert summary.count == 119


def test_a_store_is_folded_by_itself_when_a_shard_has_a_hundred_old_records(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiment = store.series(96)  # with root, start and end 99 records, in one shard
    repository = store.repository(tmp_path)
    transport.now = 2 * DAY_NS
    transport.forget()
    assert fold_when_due(repository, experiment) is None
    assert (transport.listed, transport.read) == ([f"refs/{experiment.hex()[:2]}/"], [])
    transport.now = 0
    store.tag(experiment, experiment, add=["a"])
    transport.now = 2 * DAY_NS - 1
    assert fold_when_due(repository, experiment) is None
    transport.now = 2 * DAY_NS
    done = fold_when_due(repository, experiment)
    assert done is not None
    assert (done.records, done.deleted) == (100, 0)
    transport.now += DAY_NS - 1
    assert fold_when_due(repository, experiment) is None
    transport.now += 1
    done = fold_when_due(repository, experiment)
    assert done is not None
    assert (done.records, done.deleted) == (0, 100)
    assert fold_when_due(repository, experiment) is None


def test_two_that_fold_at_once_lose_nothing(store: RecordedStore, tmp_path: Path) -> None:
    for _ in range(10):
        store.series(2)
    right = shown(store.plain_history())
    left, other = CountingTransport(), CountingTransport()
    for side in (left, other):
        for info in store.transport.list(""):
            side.put(info.key, store.transport.get(info.key))
        side.now = 2 * DAY_NS
    fold(RecordedStore(left).repository(tmp_path))
    one_more = RecordedStore(other, seed=1)
    one_more.series(1)
    other.now = 3 * DAY_NS
    fold(one_more.repository(tmp_path))
    merged = CountingTransport()
    for side in (left, other):
        for info in side.infos(""):
            merged.put(info.key, side.get(info.key))
    for day in range(5, 9):
        merged.now = day * DAY_NS
        assert len(RecordedStore(merged).plain_history().commits) == 32
        fold(RecordedStore(merged).repository(tmp_path))
    both = RecordedStore(merged)
    assert merged.keys("refs/") == []
    assert [one for one in shown(both.plain_history()) if one in right] == right
    assert facts(both.history(tmp_path / "c")) == facts(both.plain_history())


class Stops(CountingTransport):
    """Fails at the n-th operation that changes or lists the store."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.left = stop_at

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        super().put(key, data, replace=replace)
        if key.startswith("cat/"):
            self._count()

    def delete(self, keys: object) -> list[str]:
        for key in list(keys):  # type: ignore[call-overload]
            self._count()
            super().delete([key])
        return []


@pytest.mark.parametrize("first_day", [2, 3])
def test_a_fold_that_is_stopped_anywhere_loses_nothing(tmp_path: Path, first_day: int) -> None:
    stops = 0
    for stop_at in range(1, 100):
        transport = Stops(0)
        store = RecordedStore(transport)
        for _ in range(3):
            store.series(2)
        right = shown(store.plain_history())
        for day in range(2, first_day):
            transport.now = day * DAY_NS
            fold(store.repository(tmp_path))
        transport.now = first_day * DAY_NS
        transport.left = stop_at
        try:
            fold(store.repository(tmp_path))
        except KeyboardInterrupt:
            stops += 1
        else:
            break
        assert shown(store.plain_history()) == right
        assert facts(store.history(tmp_path / f"c{stop_at}")) == facts(store.plain_history())
        transport.left = 0
        for day in range(4, 7):
            transport.now = day * DAY_NS
            fold(store.repository(tmp_path))
        assert shown(store.plain_history()) == right
        assert transport.keys("refs/") == []
    assert stops >= 3


def test_a_catalog_that_claims_to_replace_another_but_lacks_its_records_deletes_nothing(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiment = store.series(2)
    right = shown(store.plain_history())
    for day in (2, 3):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    _, (full,) = catalogs(transport)
    records = dict(decode_full(CatalogName.parse(full), transport.get(full)).records)
    del records[sorted(records)[-1]]
    liar, data = encode_full(experiment.hex()[:2], records, [full])
    transport.put(liar.key, data)
    for day in range(4, 9):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
        assert full in transport.keys("cat/")
        assert shown(store.plain_history()) == right
        assert facts(store.history(tmp_path / f"c{day}")) == facts(store.plain_history())


def put_liar(transport: CountingTransport, experiment: ObjectID) -> tuple[str, str]:
    """Put a full catalog of all records, with other bytes under one key; return that key and the catalog's."""
    bodies = {info.key: transport.get(info.key) for info in transport.infos("refs/")}
    key = next(key for key in bodies if "~00000002~" in key and "~c~" in key)
    name, data = encode_full(experiment.hex()[:2], bodies | {key: b"junk"})
    transport.put(name.key, data)
    return key, name.key


def test_a_catalog_that_holds_other_bytes_under_a_key_hides_and_deletes_no_record(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiment = store.series(3)
    right = shown(store.plain_history())
    _, liar = put_liar(transport, experiment)
    for day in range(1, 7):
        assert shown(store.plain_history()) == right
        assert facts(store.history(tmp_path / f"c{day}")) == facts(store.plain_history())
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
        assert liar in transport.keys("cat/")
    assert transport.keys("refs/") == []
    assert store.damage == []


def test_a_record_that_only_a_catalog_holds_and_not_whole_is_told_and_the_rest_is_folded(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiment = store.series(3)
    key, _ = put_liar(transport, experiment)
    transport.delete([key])
    other = store.series(1)
    for day in range(1, 5):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    history = store.history(tmp_path / "c")
    assert {one.experiment_id: one.count for one in history.summaries} == {experiment: 2, other: 1}
    assert [one for one in store.damage if key in one] == [f"ref record {key} is damaged: it is not a ref record"]


def test_a_record_that_was_torn_when_those_after_it_were_folded_is_seen_when_it_is_whole(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiment = store.series(1)
    session = store.session()
    store.start(experiment, session, 1)
    parent = experiment
    for seq in (2, 3, 4):
        parent = store.checkpoint(experiment, session, seq, parent)
    torn = next(key for key in transport.keys("refs/") if "~00000002~" in key and "~c~" in key)
    whole = transport.get(torn)
    transport.put(torn, whole[:-3])
    transport.now = DAY_NS
    fold(store.repository(tmp_path))
    transport.put(torn, whole)
    assert facts(store.history(tmp_path / "c")) == facts(store.plain_history())
    assert store.plain_history().summaries[0].count == 4


def test_damaged_records_and_catalogs_stay_where_they_are(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    store.series(2)
    key = transport.keys("refs/")[0]
    transport.put(key, b"junk")
    transport.put("refs/readme", b"")
    transport.put("cat/readme", b"")
    transport.put("cat/f~00~" + "0" * 32, b"junk")
    for day in range(2, 6):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    assert transport.keys("refs/") == [key, "refs/readme"]
    assert {"cat/readme", "cat/f~00~" + "0" * 32} <= set(transport.keys("cat/"))


def test_an_experiment_with_long_params_is_read_from_its_records(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    store.series(1, params={"text": "x" * 5000})
    store.series(1)
    transport.now = DAY_NS
    fold(store.repository(tmp_path))
    (heads,), _ = catalogs(transport)
    entries = decode_heads(CatalogName.parse(heads), transport.get(heads)).experiments.values()
    assert sorted(bool(entry.get("partial")) for entry in entries) == [False, True]
    assert facts(store.history(tmp_path / "c")) == facts(store.plain_history())


def test_nothing_is_folded_in_a_store_that_wants_a_newer_version(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    store.series(1)
    transport.put("ctl/feat~write~later", b"")
    transport.now = DAY_NS
    with pytest.raises(UnsupportedFormatError):
        fold(store.repository(tmp_path))


# -- catalogs as bytes


def test_a_catalog_is_refused_when_any_bit_of_it_is_changed(store: RecordedStore) -> None:
    experiment = store.series(1)
    bodies = {info.key: store.transport.get(info.key) for info in store.transport.list("refs/")}
    full_name, full = encode_full(experiment.hex()[:2], bodies)
    assert decode_full(full_name, full).records == bodies
    heads_name, heads = encode_heads("00", "ff", [full_name.key], [], [{"id": bytes(experiment), "count": 1}])
    assert decode_heads(heads_name, heads).of == {full_name.key}
    for bit in range(0, len(full) * 8, 7):
        flipped = bytearray(full)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            decode_full(full_name, bytes(flipped))
    for bit in range(len(heads) * 8):
        flipped = bytearray(heads)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            decode_heads(heads_name, bytes(flipped))


def test_a_record_of_another_shard_is_refused(store: RecordedStore) -> None:
    experiment = store.series(0)
    bodies = {info.key: store.transport.get(info.key) for info in store.transport.list("refs/")}
    other = f"{(experiment[0] + 1) % 256:02x}"
    name, data = encode_full(other, bodies)
    with pytest.raises(CorruptionError, match="does not belong there"):
        decode_full(name, data)


def test_a_missing_catalog_is_looked_for_once_more_and_reported(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    class Ghost(CountingTransport):
        def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            return MemoryTransport.get(self, "missing" if key == ghost else key, start, end)

    store.series(1)
    for day in (2, 3):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    _, (ghost,) = catalogs(transport)
    broken = Ghost()
    for info in transport.infos(""):
        broken.put(info.key, transport.get(info.key))
    reader = RecordedStore(broken)
    assert reader.refs.list() == ()
    assert reader.damage == [f"{ghost} is listed, but it is not in the store"]
    assert broken.listed.count("refs/") == 2


def test_a_store_elsewhere_is_folded_with_each_record_read_once(tmp_path: Path) -> None:
    storage = CountingTransport()
    store = RecordedStore(storage)
    experiment = store.series(200)
    right = shown(store.plain_history())
    storage.now = 2 * DAY_NS
    remote = CountedStorage(storage)

    def elsewhere() -> StoreElsewhere:
        transport = CachingTransport(remote, str(tmp_path / "blocks"), 1 << 30)
        return StoreElsewhere(transport, "memory://team", SilentReporter())

    done = fold_when_due(elsewhere(), experiment)
    assert done is not None
    assert done.records == 203
    assert len(remote.gets("refs/")) == 203
    storage.now += DAY_NS
    done = fold_when_due(elsewhere(), experiment)
    assert done is not None
    assert (done.records, done.deleted, storage.keys("refs/")) == (0, 203, [])
    assert shown(RecordedStore(storage).plain_history()) == right


def test_what_is_no_store_or_needs_a_newer_version_is_not_folded() -> None:
    storage = MemoryTransport()
    with pytest.raises(StorageMissingError):
        fold(StoreElsewhere(storage, "memory://team", SilentReporter()))
    storage.put(MARKER_KEY, MARKER)
    storage.put("ctl/feat~write~wider", b"")
    with pytest.raises(UnsupportedFormatError):
        fold(StoreElsewhere(storage, "memory://team", SilentReporter()))
