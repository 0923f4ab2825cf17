"""What ran, found out with as little reading as possible. Floor 4. SPEC §10.

One look lists names: ref records, then catalogs. A shard whose names are those of the last look is taken from this
machine's cache; of any other shard only the experiments are read whose names have changed. A store that was never seen
is read from its heads catalogs where these speak for a shard, and from the records elsewhere.

A look at the union of two stores also finds out which commits only the near one has, by the names alone.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import msgpack
from blake3 import blake3

from replicate.errors import CorruptionError
from replicate.history import ExperimentHistory, assemble
from replicate.objects.ids import ID_BYTES, ObjectID
from replicate.refs import CommitRecord, Record, RefStore
from replicate.refs.cache import Shard, ShardCache
from replicate.refs.catalogs import HeadsCatalog
from replicate.refs.names import RecordName, experiment_prefix
from replicate.refs.store import Catalogs, Listing
from replicate.summary import ExperimentSummary

_FETCHED_KEYS = 1_024  # at once
_DIGITS = slice(8, 72)  # of a record's key: the experiment
_PARTS, _KIND, _SUBJECT = 6, 3, 4  # of a record's key
_PARTIAL: Mapping[str, Any] = {"partial": True}


class Sides(Protocol):
    """A union of two stores, as `transport.union` has it."""

    @property
    def is_lost(self) -> bool:
        """Whether there is the near one alone."""

    def has_far(self, key: str) -> bool:
        """Tell whether the far store has listed a record or a catalog."""


class _Known(NamedTuple):
    """What is known of one experiment.

    Attributes:
        experiment_id: Its id.
        digest: Of the names of its records; empty when one of them could not be read, so that it is tried again.
        summary: The summary's map; None when the root is missing.
        commits: The ids of its commits, one after the other; None when only a heads catalog told of it.
        is_near: Whether the near one of two stores has a commit of it that the far one lacks.
    """

    experiment_id: bytes
    digest: bytes
    summary: Mapping[str, Any] | None
    commits: bytes | None
    is_near: bool = False


@dataclass(frozen=True, slots=True)
class _Heads:
    """A heads catalog, and its entries by shard and by the digits of the experiment."""

    catalog: HeadsCatalog
    entries: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def of(cls, catalog: HeadsCatalog) -> _Heads:
        """Sort the entries of a heads catalog."""
        found: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for experiment, entry in catalog.experiments.items():
            digits = experiment.hex()
            found[digits[:2]][digits] = entry
        return cls(catalog, found)


@dataclass(frozen=True, slots=True)
class _Shard:
    """One shard whose names are not those of the last look.

    Attributes:
        digits: Its two digits.
        full: The keys of its full catalogs.
        near: Those of them that the far one of two stores lacks.
        by_experiment: The keys of its records by the digits of their experiment.
        told: What heads catalogs tell, by the digits of the experiment.
        is_told: Whether they tell of everything that is in full catalogs.
        known: What was known before, by experiment.
        sides: The two stores, if it is of a union.
    """

    digits: str
    full: Sequence[str]
    near: Sequence[str]
    by_experiment: defaultdict[str, set[str]]
    told: Mapping[str, _Known]
    is_told: bool
    known: Mapping[bytes, _Known]
    sides: Sides | None

    @classmethod
    def of(
        cls,
        digits: str,
        keys: Sequence[str],
        full: Sequence[str],
        known: Iterable[_Known],
        heads: Sequence[_Heads],
        sides: Sides | None,
    ) -> _Shard:
        """Return a shard, and what heads catalogs tell of it."""
        by_experiment: defaultdict[str, set[str]] = defaultdict(set)
        for key in keys:
            by_experiment[key[_DIGITS]].add(key)
        near = [key for key in full if not sides.has_far(key)] if sides else []
        entries = _entries(heads, digits, full, near)
        told = dict(_told(entries, by_experiment)) if entries is not None else {}
        if sides and near:  # what only the near store has folded, the far one may have as records
            folded = _entries(heads, digits, [key for key in full if key not in near], []) or {}
            for one in told.keys() - folded.keys():
                if any(map(sides.has_far, by_experiment.get(one, ()))):
                    del told[one]
                else:
                    told[one] = told[one]._replace(is_near=True)
        is_told = entries is not None and len(told) == len(entries)
        return cls(digits, full, near, by_experiment, told, is_told, {one.experiment_id: one for one in known}, sides)

    def keys(self, held: Collection[str] = ()) -> Iterator[str]:
        """Yield the keys that have to be read, as far as that can be told before the full catalogs are.

        Those of records that are held in a catalog at hand are left out.
        """
        if not self.is_told:
            yield from self.full
        for digits in self.by_experiment.keys() - self.told.keys():
            if self.unchanged(digits) is None:
                yield from self.by_experiment[digits].difference(held)

    def digest(self, names: Sequence[str], far_folded: Collection[str] = ()) -> bytes:
        """Return what tells whether an experiment is as it was: its names, and which of them the far store lacks."""
        if self.sides is None:
            return _digest(names)
        return _digest([*names, "", *(key for key in names if not self.sides.has_far(key) and key not in far_folded)])

    def unchanged(self, digits: str, far_folded: Collection[str] = ()) -> _Known | None:
        """Return what is known of an experiment if its names are those of the last look."""
        before = self.known.get(bytes.fromhex(digits)) if _is_id(digits) else None
        if before is None or before.commits is None:
            return None
        return before if before.digest == self.digest(sorted(self.by_experiment[digits]), far_folded) else None


class Overview:
    """A `Source` of experiments: one look at a store.

    Args:
        refs: The store's records.
        open_cache: Returns this machine's cache of them.
        sides: The two stores whose union it is, if it is one.
    """

    def __init__(self, refs: RefStore, open_cache: Callable[[], ShardCache], sides: Sides | None = None) -> None:
        self._refs = refs
        self._open_cache = open_cache
        self._sides = sides
        self._listing: Listing | None = None
        self._digests: dict[str, bytes] = {}  # of the shards at the look
        self._near: dict[ObjectID, Collection[ObjectID]] = {}

    @cached_property
    def summaries(self) -> Sequence[ExperimentSummary]:
        """See `Source`."""
        return [
            ExperimentSummary.decode(one.summary, f"the summary of {one.experiment_id.hex()}")
            for one in self._known
            if one.summary is not None
        ]

    @property
    def rootless(self) -> Sequence[ObjectID]:
        """See `Source`."""
        return sorted(ObjectID(one.experiment_id) for one in self._known if one.summary is None and one.commits)

    def load(self, experiment_id: ObjectID) -> ExperimentHistory | None:
        """See `Source`. Reads what the look has listed; where that is gone meanwhile, it lists anew."""
        if self._listing is None:
            self._known  # noqa: B018 - it looks
        listing = self._listing or Listing({}, lambda: Catalogs({}, ()))
        shard, prefix = experiment_id.hex()[:2], experiment_prefix(experiment_id)
        listed = listing.records.get(shard, ())
        first = bisect.bisect_left(listed, prefix)
        keys = set(itertools.takewhile(lambda key: key.startswith(prefix), itertools.islice(listed, first, None)))
        folded, lost = self._refs.folded(listing.full.get(shard, ()))
        records, missing = self._refs.read(keys | {key for key in folded if key.startswith(prefix)}, folded)
        if lost or missing:
            records = self._refs.list(experiment_id)
        self._refs.forget(records)
        if self._sides is not None:
            names = (record.name.key for record in records)
            self._near[experiment_id] = _near_commits(names, self._sides, self._far_folded(listing.full.get(shard, ())))
        return assemble(records)

    @property
    def near_experiments(self) -> Collection[ObjectID] | None:
        """See `Source`."""
        known = self._known
        if self._sides is None or self._sides.is_lost:
            return None
        return {ObjectID(one.experiment_id) for one in known if one.is_near}

    def near_commits(self, experiment_id: ObjectID) -> Collection[ObjectID] | None:
        """See `Source`."""
        if experiment_id not in self._near:
            self.load(experiment_id)
        if self._sides is None or self._sides.is_lost:
            return None
        return self._near[experiment_id]

    def _far_folded(self, full: Sequence[str]) -> Collection[str]:
        """Return the keys of records that are in catalogs of the far one of two stores."""
        far = [key for key in full if self._sides.has_far(key)] if self._sides else ()
        return self._refs.folded(far)[0].keys()

    def find(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """See `Source`."""
        if any(one.commits is None for one in self._known):  # heads catalogs do not tell of every commit
            self._known = self._with_commits() or self._look_twice(heads=False)
        return [
            (ObjectID(one.experiment_id), commit)
            for one in self._known
            for commit in _matching(one.commits or b"", prefix)
        ]

    def find_experiments(self, prefix: str) -> Sequence[ObjectID]:
        """See `Source`."""
        return [
            ObjectID(one.experiment_id)
            for one in self._known
            if one.summary is not None and one.experiment_id.hex().startswith(prefix)
        ]

    def unreadable(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """See `Source`. Lists anew: what was removed since the look is not meant."""
        listing = self._refs.listing()
        keys = set(itertools.chain.from_iterable(listing.records.values()))
        for shard in {experiment.hex()[:2] for experiment, _ in self.find(prefix)}:
            keys |= self._refs.folded(listing.full.get(shard, ()))[0].keys()
        found = []
        for key in sorted(key for key in keys if f"~c~{prefix}" in key):
            try:
                name = RecordName.parse(key)
            except CorruptionError:  # the look has told of it
                continue
            commit, history = ObjectID.parse(name.subject), self.load(name.experiment)
            if history is None or commit not in history.commits:
                found.append((name.experiment, commit))
        return found

    def _with_commits(self) -> Sequence[_Known]:
        """Return what is known with the ids of all commits, as names tell them; nothing if not all can be read."""
        listing, changed = self._listing, {}
        by_shard: defaultdict[str, list[_Known]] = defaultdict(list)
        for one in self._known:
            by_shard[one.experiment_id.hex()[:2]].append(one)
        if listing is None or "" in by_shard:
            return ()
        needed = [shard for shard, known in by_shard.items() if any(one.commits is None for one in known)]
        self._refs.expect(key for shard in needed for key in listing.full.get(shard, ()))
        for shard in needed:
            full = listing.full.get(shard, ())
            folded, lost = self._refs.folded(full)
            if lost or any(map(self._refs.is_damaged, full)):
                return ()
            commits: defaultdict[str, set[str]] = defaultdict(set)
            for name, commit in _commits_named([*listing.records.get(shard, ()), *folded]):
                commits[name[_DIGITS]].add(commit)
            known = by_shard[shard]
            told = (bytes.fromhex("".join(commits[one.experiment_id.hex()])) for one in known)
            by_shard[shard] = [one._replace(commits=one.commits or ids) for one, ids in zip(known, told, strict=True)]
            changed[shard] = _row(self._digests[shard], by_shard[shard])
        self._open_cache().save(changed)
        return list(itertools.chain.from_iterable(by_shard.values()))

    @cached_property
    def _known(self) -> Sequence[_Known]:
        return self._look_twice(heads=True)

    def _look_twice(self, *, heads: bool) -> Sequence[_Known]:
        found, missing = self._look(heads)
        if missing:
            found, missing = self._look(heads)
            self._refs.tell_missing(missing)  # removed between the listing and the reading, twice (I2)
        return found

    def _look(self, use_heads: bool) -> tuple[Sequence[_Known], Sequence[str]]:
        """Return what a listing leads to, and the keys that it names but that are not there."""
        listing = self._refs.listing()
        cache = self._open_cache()
        cached = cache.load()
        decoded = {shard: _decode(row) for shard, row in cached.items()}  # while storage lists its catalogs
        known: dict[str, Sequence[_Known]] = {}
        outdated: dict[str, bytes] = {}
        listing.catalogs  # noqa: B018 - what cannot be listed raises here
        self._listing = listing
        for shard in listing.shards:
            names = [*listing.records.get(shard, ()), "", *listing.full.get(shard, ())]
            if self._sides is not None:
                names += ["", *(name for name in names if not self._sides.has_far(name))]
            digest = self._digests[shard] = _digest(names)
            row = cached.get(shard)
            known[shard] = decoded.get(shard, ())
            is_known = bool(known[shard]) and row is not None and row.digest == digest
            if not is_known or not (use_heads or all(one.commits is not None for one in known[shard])):
                outdated[shard] = digest
        changed: dict[str, Shard] = {}
        missing: list[str] = []
        for one in self._shards(listing, outdated, known, use_heads):
            found, lost = self._read_shard(one)
            known[one.digits] = found
            missing += lost
            if one.digits.isascii():  # no shard of experiments; SQLite takes no name that is not Unicode
                changed[one.digits] = _row(outdated[one.digits], found)
        if changed and not missing:
            cache.save(changed)
        return list(itertools.chain.from_iterable(known.values())), missing

    def _shards(
        self, listing: Listing, outdated: Iterable[str], known: Mapping[str, Sequence[_Known]], use_heads: bool
    ) -> Iterator[_Shard]:
        """Yield shards that have to be read; what they need is fetched for many of them at once."""
        has_full = any(listing.full.get(one) for one in outdated)
        catalogs = self._refs.heads(listing.catalogs.heads) if use_heads and has_full else ()
        heads = [_Heads.of(one) for one in catalogs]
        waiting: list[_Shard] = []
        expected: list[str] = []
        for digits in outdated:
            full = listing.full.get(digits, ())
            shard = _Shard.of(digits, listing.records.get(digits, ()), full, known[digits], heads, self._sides)
            waiting.append(shard)
            expected += shard.keys(() if shard.is_told else self._refs.folded(shard.near)[0].keys())
            if len(expected) >= _FETCHED_KEYS:
                self._refs.expect(expected)
                yield from waiting
                waiting, expected = [], []
        self._refs.expect(expected)
        yield from waiting

    def _read_shard(self, shard: _Shard) -> tuple[Sequence[_Known], Sequence[str]]:
        """Return what the keys of a shard lead to, and which of them are not there."""
        folded: Mapping[str, bytes] = {}
        lost: list[str] = []
        far_folded: Collection[str] = ()
        if not shard.is_told:
            folded, missing = self._refs.folded(shard.full)
            far_folded = self._far_folded(shard.full)
            lost += missing
            for key in folded:
                shard.by_experiment[key[_DIGITS]].add(key)
        found = list(shard.told.values())
        for digits in sorted(shard.by_experiment.keys() - shard.told.keys()):
            before = shard.unchanged(digits, far_folded)
            if before is not None:
                found.append(before)
                continue
            names = sorted(shard.by_experiment[digits])
            records, gone = self._refs.read(names, folded)
            lost += gone
            if records:
                digest = shard.digest(names, far_folded) if len(records) == len(names) else b""
                is_near = shard.sides is not None and bool(_near_commits(names, shard.sides, far_folded))
                found.append(_summarise(records, digest, is_near=is_near))
            elif not gone:  # nothing of it can be read: look again the next time, to tell of it again
                found.append(_Known(b"", b"", None, b""))
            self._refs.forget(records)
        return found, lost


def _digest(names: Sequence[str]) -> bytes:
    return blake3("\n".join(names).encode("utf-8", "surrogateescape")).digest(16)


def _row(digest: bytes, known: Sequence[_Known]) -> Shard:
    """Return the row of the cache that says what is known of a shard."""
    content: bytes = msgpack.packb([tuple(one) for one in known], use_bin_type=True)
    return Shard(digest if all(one.digest for one in known) else b"", content)


def _commits_named(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names among some that are of commits, each with the digits of the commit."""
    for name in names:
        parts = name.split("~")
        if len(parts) == _PARTS and parts[_KIND] == "c" and _is_id(parts[_SUBJECT]):
            yield name, parts[_SUBJECT]


def _near_commits(names: Iterable[str], sides: Sides, far_folded: Collection[str]) -> frozenset[ObjectID]:
    """Return the commits, among those that some names are of, of which the far store has no record."""
    near: set[str] = set()
    far: set[str] = set()
    for name, commit in _commits_named(names):
        (far if sides.has_far(name) or name in far_folded else near).add(commit)
    return frozenset(map(ObjectID.parse, near - far))


def _summarise(records: Sequence[Record], digest: bytes, *, is_near: bool) -> _Known:
    experiment = records[0].name.experiment
    history = assemble(records)
    summary = history.summary.encode() if history else None
    return _Known(bytes(experiment), digest, summary, _commit_ids(records), is_near)


def _commit_ids(records: Iterable[Record]) -> bytes:
    return b"".join({record.commit_id for record in records if isinstance(record, CommitRecord)})


def _entries(
    heads: Sequence[_Heads], digits: str, full: Sequence[str], near: Sequence[str]
) -> Mapping[str, Mapping[str, Any]] | None:
    """Return what heads catalogs tell of a shard's full catalogs by experiment; None if none speaks for them.

    Of two stores each may have its own. Where they do not tell the same of an experiment, the records have to tell.
    """
    if near and len(near) < len(full):
        far = _entries(heads, digits, [key for key in full if key not in near], [])
        own = _entries(heads, digits, near, [])
        if far is None or own is None:
            return None
        return {**far, **own, **{one: _PARTIAL for one in far.keys() & own.keys() if far[one] != own[one]}}
    return next((one.entries.get(digits, {}) for one in heads if full and one.catalog.speaks_for(digits, full)), None)


def _told(
    entries: Mapping[str, Mapping[str, Any]], unfolded: Mapping[str, Iterable[str]]
) -> Iterator[tuple[str, _Known]]:
    """Yield the experiments that a heads catalog tells everything about, by their hex digits."""
    for digits, entry in entries.items():
        if not entry.get("partial") and all(is_folded(entry, key) for key in unfolded.get(digits, ())):
            yield digits, _Known(bytes.fromhex(digits), b"heads", entry, None)


def is_folded(entry: Mapping[str, Any], key: str) -> bool:
    """Tell whether a heads catalog's entry knows the record of a key. SPEC §10."""
    try:
        name = RecordName.parse(key)
    except CorruptionError:
        return False
    sessions, others = entry.get("sessions", {}), entry.get("others", ())
    if name.kind == "c":
        return bool(name.seq <= sessions.get(name.session, -1))
    return bytes.fromhex(name.record_hash) in others


def _is_id(digits: str) -> bool:
    try:
        return len(bytes.fromhex(digits)) == ID_BYTES
    except ValueError:
        return False


def _matching(commits: bytes, prefix: str) -> Iterator[ObjectID]:
    """Yield the ids among many, one after the other in `commits`, that begin with some hex digits."""
    whole = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    at = commits.find(whole)
    while 0 <= at < len(commits):
        if at % ID_BYTES == 0:
            commit = ObjectID(commits[at : at + ID_BYTES])
            if commit.hex().startswith(prefix):
                yield commit
        at = commits.find(whole, at + 1)


def _decode(row: Shard) -> Sequence[_Known]:
    """Return what a row of the cache says; nothing when that is no such row, whoever wrote it."""
    try:
        known = [_Known(*one) for one in msgpack.unpackb(row.content, raw=False, strict_map_key=False)]
    except (ValueError, TypeError, msgpack.UnpackException):
        return ()
    return known if all(map(_is_sound, known)) else ()


def _is_sound(known: _Known) -> bool:
    """Tell whether the fields are of their types."""
    return (
        type(known.experiment_id) is bytes
        and len(known.experiment_id) in (0, ID_BYTES)
        and type(known.digest) is bytes
        and (known.summary is None or type(known.summary) is dict)
        and (known.commits is None or type(known.commits) is bytes)
        and type(known.is_near) is bool
    )
