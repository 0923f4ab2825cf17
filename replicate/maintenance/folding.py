"""Fold old ref records into catalogs, so that a store is listed with few requests. SPEC §10.

Anyone may fold at any time, and two may at once: a catalog only repeats what records say. A record is deleted a day
after a catalog that holds it became durable, so who lists refs first and catalogs second finds it in one of the two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from replicate.errors import CorruptionError, KeyNotFoundError
from replicate.experiment_history import assemble
from replicate.objects import canonical
from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord, Record, RecordName
from replicate.refs.catalogs import FullCatalog, HeadsCatalog, encode_full, encode_heads
from replicate.refs.names import CatalogName
from replicate.refs.records import MAX_RECORD_BYTES, decode_record
from replicate.refs.store import RefStore
from replicate.reporting import Reporter
from replicate.repository import check_format, check_writable, no_store_at
from replicate.summary import MAX_SUMMARY_BYTES
from replicate.transport import KeyInfo, Transport

DAY_NS = 86_400 * 10**9
_CATALOG_BYTES = 16 << 20
_DUE_RECORDS = 100
_MERGE_RATIO = 4
_SHARDS = [f"{number:02x}" for number in range(256)]


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold did.

    Attributes:
        records: Records that are in a catalog now and were not before.
        catalogs: Keys of catalogs that were written.
        deleted: Keys of records and catalogs that were deleted, as others hold what they held.
    """

    records: int = 0
    catalogs: tuple[str, ...] = ()
    deleted: int = 0


class Foldable(Protocol):
    """What is folded: a project's `Repository`, or a `StoreElsewhere`."""

    @property
    def transport(self) -> Transport:
        """The store."""

    @property
    def refs(self) -> RefStore:
        """Its records."""

    def check_writable(self) -> None:
        """Raise `UnsupportedFormatError` if this version may not write there."""


class StoreElsewhere:
    """A store that is no project's own, to be folded.

    Args:
        transport: The store; with `ReadsAhead` its records are fetched many at a time.
        place: What people call it.
        reporter: Hears of what cannot be read.
    """

    def __init__(self, transport: Transport, place: str, reporter: Reporter) -> None:
        self.transport: Transport = transport
        self.refs = RefStore(transport, lambda error: reporter.warn(f"{error.message}; it is left out"))
        self._place = place

    def check_writable(self) -> None:
        """See `Foldable`; `StorageMissingError` if there is no store."""
        names = check_format(self.transport, self._place, by_size=True)
        if "v1" not in names:
            raise no_store_at(self._place)
        check_writable(names, self._place)


@dataclass(slots=True)
class _Shard:
    """One shard: its live full catalogs by key, and those that they contain whole."""

    live: dict[str, FullCatalog]
    replaced: set[str]

    @classmethod
    def load(cls, store: Foldable, keys: Iterable[str]) -> _Shard:
        found = {key: catalog for key in keys if (catalog := store.refs.catalog(key)) is not None}
        replaced = {
            key
            for catalog in found.values()
            for key in catalog.replaces & found.keys()
            if found[key].records.items() <= catalog.records.items()
        }
        return cls({key: one for key, one in found.items() if key not in replaced}, replaced)

    def holds(self, key: str, only: Container[str] | None = None) -> bool:
        """Tell whether a live catalog (one of `only`) holds a record or replaces a catalog."""
        return any(
            one.holds(key) or key in one.replaces & self.replaced
            for name, one in self.live.items()
            if only is None or name in only
        )


def fold(store: Foldable, *, older_than_ns: int = DAY_NS, delete_after_ns: int = DAY_NS) -> Folded:
    """Fold the records of a store that are older than a day by the storage's clock, and delete what was folded before.

    Args:
        store: The store.
        older_than_ns: How old a record must be.
        delete_after_ns: How long a catalog must have been there before what it holds is deleted.

    Raises:
        StorageError: The storage failed; repeating is safe. UnsupportedFormatError: This version may not write here.
    """
    store.check_writable()
    transport = store.transport
    now = transport.probe()
    records: dict[str, list[KeyInfo]] = defaultdict(list)
    for info in transport.list("refs/"):
        records[info.key[5:7]].append(info)
    full: dict[str, list[str]] = defaultdict(list)
    heads: list[str] = []
    durable: set[str] = set()
    for info in transport.list("cat/"):
        name = _catalog_name(info.key)
        if name is not None:
            (heads if name.shard is None else full[name.shard]).append(info.key)
            if info.time_ns is not None and now - info.time_ns >= delete_after_ns:
                durable.add(info.key)
    count, deleted = 0, 0
    written: list[str] = []
    store.refs.expect(key for keys in full.values() for key in keys)
    for shard_name in sorted({*records, *full}):
        infos = records.get(shard_name, [])
        shard = _Shard.load(store, full.get(shard_name, ()))
        going = [key for key in (*(info.key for info in infos), *shard.replaced) if shard.holds(key, durable)]
        deleted += len(going) - len(transport.delete(going))
        old = [info.key for info in infos if info.time_ns is not None and now - info.time_ns >= older_than_ns]
        bodies = _readable(store, [key for key in old if not shard.holds(key)])
        count += len(bodies)
        new = _fold_shard(store, shard_name, shard, bodies)
        full[shard_name] = sorted({*full.get(shard_name, ()), *new} - set(going))
        written += new
    catalogs = list(store.refs.heads(sorted(heads)))
    outdated = {key for one in catalogs if one.name.key in durable for key in one.replaces} & set(heads)
    deleted += len(outdated) - len(transport.delete(sorted(outdated)))
    written += _write_heads(store, full, [one for one in catalogs if one.name.key not in outdated])
    return Folded(count, tuple(written), deleted)


def fold_when_due(store: Foldable, experiment: ObjectID) -> Folded | None:
    """Fold if the shard of an experiment, taken as a sample of all 256, has many old records; return what was done.

    Records of two days are counted: those that were folded the day before are still there, and go with the next fold.
    So a store is folded once a day at most, unless by hand. Costs two listings, of one shard and of the catalogs.

    Raises:
        As `fold`.
    """
    transport = store.transport
    now = transport.probe()

    def is_old(info: KeyInfo, days: int) -> bool:
        return info.time_ns is not None and now - info.time_ns >= days * DAY_NS

    count = sum(is_old(info, 2) for info in transport.list(f"refs/{experiment.hex()[:2]}/"))
    if count < _DUE_RECORDS or any(not is_old(info, 1) for info in transport.list("cat/")):
        return None
    return fold(store)


def _catalog_name(key: str) -> CatalogName | None:
    try:
        return CatalogName.parse(key)
    except CorruptionError:
        return None


def _readable(store: Foldable, keys: Iterable[str]) -> dict[str, bytes]:
    """Return the bodies of those records that can be read; damaged ones stay where they are."""
    bodies = {}
    keys = list(keys)
    store.refs.expect(keys)
    for key in keys:
        try:
            body = store.transport.get(key, 0, MAX_RECORD_BYTES + 1)
            decode_record(RecordName.parse(key), body)
        except (CorruptionError, KeyNotFoundError):  # told by whoever lists; or folded by another meanwhile
            continue
        bodies[key] = body
    return bodies


def _fold_shard(store: Foldable, name: str, shard: _Shard, bodies: dict[str, bytes]) -> list[str]:
    """Put the full catalogs that hold some bodies and, of the live ones, those that are not much larger."""
    if not bodies:
        return []
    replaced: set[str] = set()
    size = sum(map(len, bodies.values()))
    for key, catalog in sorted(shard.live.items(), key=lambda item: len(item[1].records)):
        more = sum(map(len, catalog.records.values()))
        is_small = more <= _MERGE_RATIO * size and size + more <= _CATALOG_BYTES
        if is_small and all(map(catalog.holds, catalog.records)):
            bodies = {**bodies, **catalog.records}
            size += more
            replaced |= {key, *(catalog.replaces & shard.replaced)}
    written = []
    batches = _batches(bodies)
    for batch in batches:
        # Only a catalog that holds all of it replaces another; what was merged is small and makes one batch.
        catalog_name, data = encode_full(name, batch, sorted(replaced) if len(batches) == 1 else ())
        store.transport.put(catalog_name.key, data)
        written.append(catalog_name.key)
    return written


def _batches(bodies: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    batches: list[dict[str, bytes]] = [{}]
    size = 0
    for key in sorted(bodies):
        if size + len(bodies[key]) > 2 * _CATALOG_BYTES:
            batches.append({})
            size = 0
        batches[-1][key] = bodies[key]
        size += len(bodies[key]) + len(key)
    return batches


def _write_heads(store: Foldable, full: Mapping[str, Sequence[str]], heads: Sequence[HeadsCatalog]) -> list[str]:
    """Put one or more heads catalogs that speak for every shard, unless those that are there do."""
    speakers = {
        shard: next((one for one in heads if one.speaks_for(shard, keys)), None) for shard, keys in full.items() if keys
    }
    if all(speakers.values()):
        return []
    written = []
    replaced = {one.name.key for one in heads}
    entries: list[Mapping[str, Any]] = []
    of: list[str] = []
    first, size = _SHARDS[0], 0
    for shard, speaker in sorted(speakers.items()):
        if speaker is not None:
            own = [one for key, one in speaker.experiments.items() if key.hex()[:2] == shard]
        else:
            own = _entries(_Shard.load(store, full[shard]))
        own_size = sum(len(canonical.encode(one)) for one in own)
        if entries and size + own_size > _CATALOG_BYTES:
            last = f"{int(shard, 16) - 1:02x}"
            written.append(_put_heads(store, first, last, of, replaced, entries))
            entries, of, first, size = [], [], shard, 0
        entries += own
        size += own_size
        of += full[shard]
    written.append(_put_heads(store, first, _SHARDS[-1], of, replaced, entries))
    return written


def _put_heads(
    store: Foldable,
    first: str,
    last: str,
    of: Sequence[str],
    replaced: Iterable[str],
    entries: Sequence[Mapping[str, Any]],
) -> str:
    name, data = encode_heads(first, last, of, sorted(replaced), entries)
    store.transport.put(name.key, data)
    return name.key


def _entries(shard: _Shard) -> list[Mapping[str, Any]]:
    by_experiment: dict[ObjectID, dict[str, Record | None]] = defaultdict(dict)
    for key, body in ((key, body) for one in shard.live.values() for key, body in one.records.items()):
        own = by_experiment[RecordName.parse(key).experiment]
        if own.get(key) is None:
            try:
                own[key] = decode_record(RecordName.parse(key), body)
            except CorruptionError:  # who lists tells of it
                own[key] = None
    return [heads_entry(experiment, list(own.values())) for experiment, own in by_experiment.items()]


def heads_entry(experiment: ObjectID, records: Sequence[Record | None]) -> Mapping[str, Any]:
    """Return what a heads catalog tells of an experiment; where it would be too much, that the records tell more.

    So it is where one of them cannot be read (None).
    """
    partial = {"id": bytes(experiment), "partial": True}
    readable = [record for record in records if record is not None]
    if len(readable) < len(records):
        return partial
    history = assemble(readable)
    seqs: dict[str, set[int]] = defaultdict(set)
    others = set()
    for record in readable:
        if isinstance(record, CommitRecord):
            seqs[record.name.session].add(record.name.seq)
        else:
            others.add(bytes.fromhex(record.name.record_hash))
    if history is None:
        return partial
    begins = {start.name.session: start.name.seq for start in history.starts}
    # A session whose first record is not there, being damaged or elsewhere, is left out: it may come yet.
    sessions = {
        session: _last_of_run(found) for session, found in seqs.items() if min(found) <= begins.get(session, -1) + 1
    }
    entry = {**history.summary.encode(), "sessions": sessions, "others": sorted(others)}
    return entry if len(canonical.encode(entry)) <= MAX_SUMMARY_BYTES else partial


def _last_of_run(seqs: set[int]) -> int:
    """Return the last of the seqs that follow one another from the first on."""
    last = min(seqs)
    while last + 1 in seqs:
        last += 1
    return last
