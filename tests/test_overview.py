"""What ran, found out with little reading: the record cache and heads catalogs tell what the records tell."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate import overview, shards
from replicate.errors import RevisionNotFoundError
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.history import History
from replicate.maintenance.folding import DAY_NS, fold
from replicate.objects.ids import ObjectID
from replicate.overview import Overview
from replicate.refs import Record, RefStore, TombstoneRecord
from replicate.refs.cache import ShardCache
from replicate.refs.catalogs import decode_heads, encode_full, encode_heads
from replicate.refs.names import CatalogName
from replicate.revisions import resolve
from replicate.transport import KeyInfo
from replicate.transport.union import UnionTransport
from tests.builders import some_id
from tests.recorded import CountingTransport, RecordedStore, facts, shown


@pytest.fixture
def transport() -> CountingTransport:
    return CountingTransport()


@pytest.fixture
def store(transport: CountingTransport) -> RecordedStore:
    return RecordedStore(transport)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "refs.db"


def test_an_empty_store_has_no_experiment_and_gets_no_cache(store: RecordedStore, cache: Path) -> None:
    assert facts(store.history(cache)) == ([], [], [])
    assert not cache.exists()


def test_a_second_look_reads_no_record(store: RecordedStore, transport: CountingTransport, cache: Path) -> None:
    for _ in range(20):
        store.series(5)
    first = facts(store.history(cache))
    transport.forget()
    assert facts(store.history(cache)) == first == facts(store.plain_history())
    transport.forget()
    store.history(cache).summaries  # noqa: B018 - it is the look that counts
    assert transport.read == []
    assert transport.listed == ["refs/", "cat/"]


def test_after_one_new_record_only_its_experiment_is_read(
    store: RecordedStore, transport: CountingTransport, cache: Path
) -> None:
    experiments = [store.series(5) for _ in range(300)]  # more than one in a shard
    store.history(cache).summaries  # noqa: B018
    changed = experiments[7]
    store.checkpoint(changed, store.session(), 6)
    transport.forget()
    found = store.history(cache)
    assert facts(found) == facts(store.plain_history())
    transport.forget()
    store.checkpoint(changed, store.session(), 7)
    store.history(cache).summaries  # noqa: B018
    assert {key[8:72] for key in transport.read} == {changed.hex()}
    assert len(transport.read) == 1 + 1 + 5 + 1 + 2  # root, start, checkpoints, end, the two new ones


def test_records_that_are_gone_are_forgotten(store: RecordedStore, transport: CountingTransport, cache: Path) -> None:
    kept, gone = store.series(2), store.series(2)
    store.history(cache).summaries  # noqa: B018
    transport.delete(transport.keys(f"refs/{gone.hex()[:2]}/{gone.hex()}"))
    assert [one.experiment_id for one in store.history(cache).summaries] == [kept]


def test_a_damaged_record_is_told_by_every_look(
    store: RecordedStore, transport: CountingTransport, cache: Path
) -> None:
    store.series(2)
    broken = store.series(2)
    key = next(key for key in transport.keys("refs/") if broken.hex() in key and "~00000002~" in key and "~c~" in key)
    transport.put(key, b"junk")
    for _ in range(3):
        store.damage.clear()
        found = store.history(cache)
        assert {one.experiment_id: one.count for one in found.summaries}[broken] == 1
        assert [one for one in store.damage if key in one] == [f"ref record {key} is damaged: it is not a ref record"]


def test_a_record_that_was_torn_and_is_whole_now_is_seen(
    store: RecordedStore, transport: CountingTransport, cache: Path
) -> None:
    experiment = store.series(2)
    key = next(key for key in transport.keys("refs/") if "~00000002~" in key and "~c~" in key)
    whole = transport.get(key)
    transport.put(key, whole[:-1])
    assert store.history(cache).summaries[0].count == 1
    transport.put(key, whole)
    assert store.history(cache).summaries[0].count == 2
    assert store.history(cache).summaries[0].experiment_id == experiment


def test_checkpoints_without_their_root_are_named(
    store: RecordedStore, transport: CountingTransport, cache: Path
) -> None:
    experiment = store.series(2)
    transport.delete([key for key in transport.keys("refs/") if "~00000000~" in key and "~c~" in key])
    for _ in range(2):
        found = store.history(cache)
        assert (found.summaries, found.rootless) == ([], [experiment])


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("is_folded", [False, True])
def test_what_is_listed_but_cannot_be_read_is_told_from_what_is_not_there(
    store: RecordedStore, transport: CountingTransport, cache: Path, is_cached: bool, is_folded: bool
) -> None:
    """A damaged root takes its experiment, a damaged checkpoint only itself; hidden ones can be read."""
    middle, whole, rootless = (store.series(3) for _ in range(3))
    store.hide(whole)
    keys = transport.keys("refs/")
    (damaged,) = [key for key in keys if middle.hex() in key and "~00000002~" in key and "~c~" in key]
    (root,) = [key for key in keys if rootless.hex() in key and "~00000000~" in key and "~c~" in key]
    lost = ObjectID.parse(damaged.split("~")[4])
    later = ObjectID.parse(next(key for key in keys if rootless.hex() in key and "~00000003~" in key).split("~")[4])
    if is_cached:
        store.history(cache).summaries  # noqa: B018
    if is_folded:  # all but what is damaged
        bodies = {key: transport.get(key) for key in keys if key not in (damaged, root)}
        for shard in sorted({key[5:7] for key in bodies}):
            name, data = encode_full(shard, {key: body for key, body in bodies.items() if key[5:7] == shard})
            transport.put(name.key, data)
        transport.delete(bodies)
    for key in (damaged, root):
        transport.delete([key])
        transport.put(key, b"junk")
    history = store.history(cache)
    assert history.unreadable(lost.hex()) == [(middle, lost)]
    assert history.unreadable(rootless.hex()[:7]) == [(rootless, rootless)]
    assert history.unreadable(later.hex()) == [(rootless, later)]
    for sound in (middle, whole, some_id("none")):
        assert history.unreadable(sound.hex()) == []
    transport.delete([damaged])  # and now it is not there
    assert history.unreadable(lost.hex()) == []


@pytest.mark.parametrize("how", ["junk", "empty", "other tables", "other values", "of another version", "a folder"])
def test_a_damaged_cache_is_made_anew_silently(store: RecordedStore, cache: Path, how: str) -> None:
    store.series(3)
    right = facts(store.history(cache))
    match how:
        case "junk":
            cache.write_bytes(os.urandom(5000))
        case "empty":
            cache.write_bytes(b"")
        case "a folder":
            cache.unlink()
            cache.mkdir()
        case "other values":
            with sqlite3.connect(cache) as db:
                db.execute("UPDATE shards SET content = x'c1'")
            db.close()
        case "other tables":
            with sqlite3.connect(cache) as db:
                db.executescript("DROP TABLE shards; CREATE TABLE shards (x);")
            db.close()
        case _:
            with sqlite3.connect(cache) as db:
                db.execute("PRAGMA user_version = 99")
            db.close()
    assert facts(store.history(cache)) == facts(store.history(cache)) == right
    assert store.damage == []


def test_ids_are_found_by_their_beginning(store: RecordedStore, cache: Path) -> None:
    for _ in range(40):
        store.series(3)
    plain = store.plain_history()
    everything = sorted(plain.commits)
    for digits in (0, 1, 2, 3, 4, 5, 64):
        for commit in everything[:: 1 if digits < 5 else 30]:
            prefix = commit.hex()[:digits]
            for found in (store.history(cache), plain):
                assert sorted(record.commit_id for record in found.find(prefix)) == [
                    one for one in everything if one.hex().startswith(prefix)
                ]
            if digits < 2:
                break
    assert store.history(cache).find("f" * 64) == []


def test_a_store_that_was_never_seen_is_read_from_its_heads_catalog(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiments = [store.series(4, params={"lr": number}) for number in range(50)]
    fold(store.repository(tmp_path / "p"), older_than_ns=0, delete_after_ns=0)
    fold(store.repository(tmp_path / "p"), older_than_ns=0, delete_after_ns=0)  # deletes what the first one folded
    assert transport.keys("refs/") == []
    transport.forget()
    found = store.history(tmp_path / "cold")
    assert [one.experiment_id for one in found.summaries] == experiments
    assert (transport.listed, len(transport.read)) == (["refs/", "cat/"], 1)
    transport.forget()
    assert found.experiment(experiments[3]) is not None
    assert (transport.listed, len(transport.read)) == ([], 1)  # the full catalog of its shard
    assert facts(store.history(tmp_path / "cold")) == facts(store.plain_history())


def test_a_prefix_is_found_by_the_names_of_records(
    store: RecordedStore, transport: CountingTransport, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = [store.series(4) for _ in range(50)]
    for _ in range(2):  # the second deletes what the first has folded
        fold(store.repository(tmp_path / "p"), older_than_ns=0, delete_after_ns=0)
    session = store.session()
    new = store.checkpoint(store.begin(session), session, 1)
    folded = store.plain_history().experiment(experiments[7])
    assert folded is not None
    assembled: list[int] = []

    def counting(records: Sequence[Record]) -> ExperimentHistory | None:
        assembled.append(len(records))
        return assemble(records)

    for module in (overview, shards):
        monkeypatch.setattr(module, "assemble", counting)
    for commit in (folded.checkpoints[2].commit_id, new):
        os.unlink(cache) if cache.exists() else None
        store.history(cache).summaries  # noqa: B018 - what is new is read
        assembled.clear()
        transport.forget()
        for is_first in (True, False):
            found = store.history(cache)
            assert [one.commit_id for one in found.find(commit.hex()[:12])] == [commit]
            assert len(assembled) == 1  # that experiment
            read = [key for key in transport.read if key.startswith("cat/f~")]
            assert sorted({*read}) == transport.keys("cat/f~") if is_first else len(read) <= 1
            assembled.clear()
            transport.forget()
    store.series(2)
    assert facts(store.history(cache)) == facts(store.plain_history())
    assert sorted(one.commit_id for one in store.history(cache).find("")) == sorted(
        one.commit_id for one in store.plain_history().find("")
    )


def folded_away(store: RecordedStore, transport: CountingTransport, folder: Path) -> None:
    """Put all records into catalogs, and delete them."""
    for day in (3, 5):
        transport.now = day * DAY_NS
        fold(store.repository(folder))
    assert transport.keys("refs/") == []


def test_commits_of_a_damaged_catalog_are_found_again_once_it_is_whole(
    store: RecordedStore, transport: CountingTransport, cache: Path, tmp_path: Path
) -> None:
    for _ in range(3):
        store.series(3)
    folded_away(store, transport, tmp_path / "project")
    expected = store.plain_history().find("")
    key = transport.keys("cat/f~")[0]
    whole = transport.get(key)
    transport.put(key, whole[:-1] + bytes([whole[-1] ^ 1]), replace=True)
    for _ in range(2):  # told by every process that misses something
        store.damage.clear()
        assert len(store.history(cache).find("")) < len(expected)
        assert len(store.damage) == 1
    transport.put(key, whole, replace=True)
    assert {one.commit_id for one in store.history(cache).find("")} == {one.commit_id for one in expected}


def test_marks_that_are_kept_are_those_of_the_names_they_are_kept_with(
    store: RecordedStore, transport: CountingTransport, cache: Path, tmp_path: Path
) -> None:
    """Somebody pushes between the look and the search: the far store is listed again meanwhile."""
    experiments = [store.series(3) for _ in range(4)]
    folded_away(store, transport, tmp_path / "project")
    far = CountingTransport()

    def united() -> tuple[RefStore, History]:
        union = UnionTransport(transport, lambda: far, lambda error: None)
        refs = RefStore(union, lambda error: None)
        return refs, History(Overview(refs, lambda: ShardCache(str(cache)), union))

    refs, history = united()
    assert len(history.near_experiments or ()) == 4
    for key in transport.keys("cat/"):
        far.put(key, transport.get(key))
    refs.list(experiments[0])
    assert history.find("f" * 64) == []
    assert united()[1].near_experiments == set()


WRONG = [None, True, -1.5, "x", b"x", [1], ["a"], [[b"1" * 32, 1]], {"a": "b"}]


@pytest.mark.parametrize("key", ["sessions", "others", "author", "time", "params", "latest", "heads", "open", "newest"])
def test_a_heads_catalog_with_a_wrong_value_is_told_and_hides_nothing(tmp_path: Path, key: str) -> None:
    transport = CountingTransport()
    store = RecordedStore(transport)
    experiment = store.series(2, params={"lr": 1})
    for day in (1, 2):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    store.checkpoint(experiment, store.session(), 3)
    right = facts(store.plain_history())
    heads, full = (next(one for one in transport.keys("cat/") if one.startswith(f"cat/{kind}~")) for kind in "hf")
    entry = decode_heads(CatalogName.parse(heads), transport.get(heads)).experiments[experiment]
    transport.delete([heads])
    wrong = [value for value in WRONG if type(value) is not type(entry.get(key, [])) or value == ["a"]]
    for number, value in enumerate(wrong):
        name, data = encode_heads("00", "ff", [full], [], [{**entry, key: value}])
        transport.put(name.key, data)
        store.damage.clear()
        assert facts(store.history(tmp_path / f"c{number}")) == right
        assert [one for one in store.damage if name.key in one] == store.damage != []
        transport.delete([name.key])


def test_a_tag_that_only_a_heads_catalog_tells_of_is_no_revision(
    store: RecordedStore, transport: CountingTransport, tmp_path: Path
) -> None:
    experiment = store.series(2)
    for day in (1, 2):
        transport.now = day * DAY_NS
        fold(store.repository(tmp_path))
    heads, full = (next(one for one in transport.keys("cat/") if one.startswith(f"cat/{kind}~")) for kind in "hf")
    entry = decode_heads(CatalogName.parse(heads), transport.get(heads)).experiments[experiment]
    transport.delete([heads])
    name, data = encode_heads("00", "ff", [full], [], [{**entry, "checkpoint_tags": [[b"1" * 32, ["good"]]]}])
    transport.put(name.key, data)
    with pytest.raises(RevisionNotFoundError):
        resolve(store.history(tmp_path / "c"), "good")


def test_a_name_that_is_not_unicode_is_told_and_stops_nothing(cache: Path) -> None:
    class Odd(CountingTransport):
        def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
            yield from super().list(prefix, details=details)
            if prefix == "refs/":
                yield KeyInfo("refs/\udcff\udcfe/x", 1, 0)

    store = RecordedStore(Odd())
    store.series(1)
    for _ in range(2):
        assert len(store.history(cache).summaries) == 1
    assert len(store.damage) == 2


@pytest.mark.parametrize("content", [1, [1], [[b"x"]], [[1, b"", None, b""]], [[b"x" * 32, b"", 1, b""]]])
def test_a_row_of_the_cache_that_is_of_another_shape_is_made_anew(
    store: RecordedStore, cache: Path, content: object
) -> None:
    store.series(2)
    right = facts(store.history(cache))
    data = msgpack.packb(content)
    with sqlite3.connect(cache) as db:
        db.execute("UPDATE shards SET content = ?, hash = ?", (data, blake3(data).digest()))
    db.close()
    assert facts(store.history(cache)) == right


# -- every history tells the same, however it is stored

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "checkpoint", "hide", "hide one", "undo", "tag", "end", "fold", "look"]),
        st.integers(0, 10**6),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_cache_catalogs_and_records_tell_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("overview")
    transport = CountingTransport()
    store = RecordedStore(transport)
    commits: dict[ObjectID, list[tuple[ObjectID, str, int]]] = {}
    tombstones: list[TombstoneRecord] = []
    for what, number in steps:
        transport.now += 1
        experiment = list(commits)[number % len(commits)] if commits else None
        if what == "begin" or experiment is None:
            session = store.session()
            own = store.begin(session, name=["x", None][number % 2], tags=("t",) * (number % 3 == 0))
            commits[own] = [(own, session, 0)]
            continue
        last, session, seq = commits[experiment][-1]
        match what:
            case "checkpoint":
                if number % 4 == 0:
                    session = store.session()
                    store.start(experiment, session, seq)
                own = store.checkpoint(experiment, session, seq + 1, last, {"loss": number % 7})
                commits[experiment].append((own, session, seq + 1))
            case "hide":
                tops: dict[str, int] = {}
                for _, its, top in commits[experiment]:
                    tops[its] = max(top, tops.get(its, 0))
                tombstones.append(store.hide(experiment, tops))
            case "hide one":
                tombstones.append(
                    store.hide(experiment, commits=[commits[experiment][number % len(commits[experiment])][0]])
                )
            case "undo":
                if tombstones:
                    store.undo(tombstones[number % len(tombstones)])
            case "tag":
                target = commits[experiment][number % len(commits[experiment])]
                store.tag(experiment, target[0], target[2], add=[f"t{number % 5}"], name=[None, "n", ""][number % 3])
            case "end":
                store.end(experiment, session, seq, ["finished", "failed", "stopped"][number % 3])
            case "fold":
                fold(store.repository(folder / "p"), older_than_ns=number % 5, delete_after_ns=number % 7)
            case "look":
                store.history(folder / "cache.db").summaries  # noqa: B018
    plain = store.plain_history()
    for history in (
        store.history(folder / "cache.db"),
        store.history(folder / "cache.db"),
        store.history(folder / "new.db"),
    ):
        assert facts(history) == facts(plain)
        assert shown(history) == shown(plain)
        for known in commits.values():
            for commit, _, _ in known:
                assert history.find(commit.hex()[:8]) == plain.find(commit.hex()[:8])
                assert history.find(commit.hex()[:8], hidden=True) == plain.find(commit.hex()[:8], hidden=True)
    assert store.damage == []
