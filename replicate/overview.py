"""What ran, found out with as little reading as possible. Floor 4. SPEC §10.

One look lists names: ref records, then catalogs. A shard whose names are those of the last look is taken from this
machine's cache; of any other shard only the experiments are read whose names have changed. A store that was never seen
is read from its heads catalogs where these speak for a shard, and from the records elsewhere.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgpack
from blake3 import blake3

from replicate.errors import CorruptionError
from replicate.history import ExperimentHistory, assemble
from replicate.objects.ids import ID_BYTES, ObjectID
from replicate.refs import CommitRecord, Record, RefStore
from replicate.refs.cache import Shard, ShardCache
from replicate.refs.catalogs import HeadsCatalog
from replicate.refs.names import RecordName, experiment_prefix
from replicate.refs.store import Listing
from replicate.summary import ExperimentSummary

_FETCHED_KEYS = 1_024  # at once
_DIGITS = slice(8, 72)  # of a record's key: the experiment


class _Known(NamedTuple):
    """What is known of one experiment.

    Attributes:
        experiment_id: Its id.
        digest: Of the names of its records; empty when one of them could not be read, so that it is tried again.
        summary: The summary's map; None when the root is missing.
        commits: The ids of its commits, one after the other; None when only a heads catalog told of it.
    """

    experiment_id: bytes
    digest: bytes
    summary: Mapping[str, Any] | None
    commits: bytes | None


@dataclass(frozen=True, slots=True)
class _Shard:
    """One shard whose names are not those of the last look.

    Attributes:
        digits: Its two digits.
        full: The keys of its full catalogs.
        by_experiment: The keys of its records by the digits of their experiment.
        told: What a heads catalog tells, by the digits of the experiment.
        is_told: Whether a heads catalog tells of everything that is in full catalogs.
        known: What was known before, by experiment.
    """

    digits: str
    full: Sequence[str]
    by_experiment: defaultdict[str, set[str]]
    told: Mapping[str, _Known]
    is_told: bool
    known: Mapping[bytes, _Known]

    @classmethod
    def of(
        cls,
        digits: str,
        keys: Sequence[str],
        full: Sequence[str],
        known: Iterable[_Known],
        entries: Mapping[str, Mapping[str, Any]] | None,
    ) -> _Shard:
        """Return a shard. `entries` are those of a heads catalog that speaks for it, by digits; None without one."""
        by_experiment: defaultdict[str, set[str]] = defaultdict(set)
        for key in keys:
            by_experiment[key[_DIGITS]].add(key)
        told = dict(_told(entries, by_experiment)) if entries is not None else {}
        is_told = entries is not None and len(told) == len(entries)
        return cls(digits, full, by_experiment, told, is_told, {one.experiment_id: one for one in known})

    def keys(self) -> Iterator[str]:
        """Yield the keys that have to be read, as far as that can be told before the full catalogs are."""
        if not self.is_told:
            yield from self.full
        for digits in self.by_experiment.keys() - self.told.keys():
            if self.unchanged(digits) is None:
                yield from self.by_experiment[digits]

    def unchanged(self, digits: str) -> _Known | None:
        """Return what is known of an experiment if its names are those of the last look."""
        before = self.known.get(bytes.fromhex(digits)) if _is_id(digits) else None
        if before is None or before.commits is None or before.digest != _digest(sorted(self.by_experiment[digits])):
            return None
        return before


class Overview:
    """A `Source` of experiments: one look at a store.

    Args:
        refs: The store's records.
        open_cache: Returns this machine's cache of them; asked only if there is a record.
    """

    def __init__(self, refs: RefStore, open_cache: Callable[[], ShardCache]) -> None:
        self._refs = refs
        self._open_cache = open_cache
        self._listing: Listing | None = None

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
        listing = self._listing or Listing({}, {}, ())
        shard, prefix = experiment_id.hex()[:2], experiment_prefix(experiment_id)
        listed = listing.records.get(shard, ())
        first = bisect.bisect_left(listed, prefix)
        keys = set(itertools.takewhile(lambda key: key.startswith(prefix), itertools.islice(listed, first, None)))
        folded, lost = self._refs.folded(listing.full.get(shard, ()))
        records, missing = self._refs.read(keys | {key for key in folded if key.startswith(prefix)}, folded)
        if lost or missing:
            records = self._refs.list(experiment_id)
        self._refs.forget(records)
        return assemble(records)

    def find(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """See `Source`."""
        if any(one.commits is None for one in self._known):  # heads catalogs do not tell of every commit
            self._known = self._look_twice(heads=False)
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
        listing = self._listing = self._refs.listing()
        if not listing.shards:
            return (), ()
        cache = self._open_cache()
        cached = cache.load()
        known: dict[str, Sequence[_Known]] = {}
        outdated: dict[str, bytes] = {}
        for shard in listing.shards:
            digest = _digest([*listing.records.get(shard, ()), "", *listing.full.get(shard, ())])
            row = cached.get(shard)
            known[shard] = _decode(row) if row else ()
            is_known = bool(known[shard]) and row is not None and row.digest == digest
            if not is_known or not (use_heads or all(one.commits is not None for one in known[shard])):
                outdated[shard] = digest
        changed: dict[str, Shard] = {}
        missing: list[str] = []
        for one in self._shards(listing, outdated, known, use_heads):
            found, lost = self._read_shard(one)
            known[one.digits] = found
            missing += lost
            is_whole = all(experiment.digest for experiment in found)
            content: bytes = msgpack.packb([tuple(experiment) for experiment in found], use_bin_type=True)
            if one.digits.isascii():  # no shard of experiments; SQLite takes no name that is not Unicode
                changed[one.digits] = Shard(outdated[one.digits] if is_whole else b"", content)
        if changed and not missing:
            cache.save(changed)
        return list(itertools.chain.from_iterable(known.values())), missing

    def _shards(
        self, listing: Listing, outdated: Iterable[str], known: Mapping[str, Sequence[_Known]], use_heads: bool
    ) -> Iterator[_Shard]:
        """Yield shards that have to be read; what they need is fetched for many of them at once."""
        has_full = any(listing.full.get(one) for one in outdated)
        catalogs = self._refs.heads(listing.heads) if use_heads and has_full else ()
        heads = [(one, _by_shard(one)) for one in catalogs]
        waiting: list[_Shard] = []
        expected: list[str] = []
        for digits in outdated:
            full = listing.full.get(digits, ())
            entries = next((own.get(digits, {}) for one, own in heads if full and one.speaks_for(digits, full)), None)
            waiting.append(_Shard.of(digits, listing.records.get(digits, ()), full, known[digits], entries))
            expected += waiting[-1].keys()
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
        if not shard.is_told:
            folded, missing = self._refs.folded(shard.full)
            lost += missing
            for key in folded:
                shard.by_experiment[key[_DIGITS]].add(key)
        found = list(shard.told.values())
        for digits in sorted(shard.by_experiment.keys() - shard.told.keys()):
            before = shard.unchanged(digits)
            if before is not None:
                found.append(before)
                continue
            names = sorted(shard.by_experiment[digits])
            records, gone = self._refs.read(names, folded)
            lost += gone
            if records:
                found.append(_summarise(records, _digest(names) if len(records) == len(names) else b""))
            elif not gone:  # nothing of it can be read: look again the next time, to tell of it again
                found.append(_Known(b"", b"", None, b""))
            self._refs.forget(records)
        return found, lost


def _digest(names: Sequence[str]) -> bytes:
    return blake3("\n".join(names).encode("utf-8", "surrogateescape")).digest(16)


def _summarise(records: Sequence[Record], digest: bytes) -> _Known:
    experiment = records[0].name.experiment
    history = assemble(records)
    summary = history.summary.encode() if history else None
    return _Known(bytes(experiment), digest, summary, _commit_ids(records))


def _commit_ids(records: Iterable[Record]) -> bytes:
    return b"".join({record.commit_id for record in records if isinstance(record, CommitRecord)})


def _by_shard(catalog: HeadsCatalog) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return the entries of a heads catalog by shard and experiment."""
    found: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for experiment, entry in catalog.experiments.items():
        digits = experiment.hex()
        found[digits[:2]][digits] = entry
    return found


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
    )
