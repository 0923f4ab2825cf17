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
        heads: Sequence[HeadsCatalog] | None = None if use_heads else ()
        found: list[_Known] = []
        changed: dict[str, Shard] = {}
        missing: list[str] = []
        for shard in listing.shards:
            keys, full = listing.records.get(shard, ()), listing.full.get(shard, ())
            digest = _digest([*keys, "", *full])
            row = cached.get(shard)
            known = _decode(row) if row else ()
            is_known = bool(known) and row is not None and row.digest == digest
            if not is_known or not (use_heads or all(one.commits is not None for one in known)):
                if heads is None and full:
                    heads = list(self._refs.heads(listing.heads))
                speaker = next((one for one in heads or () if full and one.speaks_for(shard, full)), None)
                known, lost = self._read_shard(keys, full, {one.experiment_id: one for one in known}, speaker, shard)
                missing += lost
                is_whole = all(one.digest for one in known)
                content: bytes = msgpack.packb([tuple(one) for one in known], use_bin_type=True)
                if shard.isascii():  # no shard of experiments; SQLite takes no name that is not Unicode
                    changed[shard] = Shard(digest if is_whole else b"", content)
            found += known
        if changed and not missing:
            cache.save(changed)
        return found, missing

    def _read_shard(
        self,
        keys: Sequence[str],
        full: Sequence[str],
        known: Mapping[bytes, _Known],
        speaker: HeadsCatalog | None,
        shard: str,
    ) -> tuple[Sequence[_Known], Sequence[str]]:
        """Return what the keys of a shard lead to, and which of them are not there.

        Args:
            keys: Of its records.
            full: Of its full catalogs.
            known: What was known of it before, by experiment.
            speaker: A heads catalog that knows all of `full`, if there is one.
            shard: Its two digits.
        """
        by_experiment: dict[str, set[str]] = defaultdict(set)
        for key in keys:
            by_experiment[key[_DIGITS]].add(key)
        told = dict(_told(speaker, shard, by_experiment)) if speaker else {}
        folded: Mapping[str, bytes] = {}
        lost: list[str] = []
        if speaker is None or any(one.hex() not in told for one in speaker.experiments if one.hex()[:2] == shard):
            folded, missing = self._refs.folded(full)
            lost += missing
            for key in folded:
                by_experiment[key[_DIGITS]].add(key)
        found = list(told.values())
        for digits in sorted(by_experiment.keys() - told.keys()):
            names = sorted(by_experiment[digits])
            digest = _digest(names)
            before = known.get(bytes.fromhex(digits)) if _is_id(digits) else None
            if before is not None and before.digest == digest and before.commits is not None:
                found.append(before)
                continue
            records, gone = self._refs.read(names, folded)
            lost += gone
            if records:
                found.append(_summarise(records, digest if len(records) == len(names) else b""))
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


def _told(catalog: HeadsCatalog, shard: str, unfolded: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, _Known]]:
    """Yield the experiments of a shard that a heads catalog tells everything about, by their hex digits."""
    for experiment, entry in catalog.experiments.items():
        digits = experiment.hex()
        if digits[:2] != shard or entry.get("partial"):
            continue
        if all(is_folded(entry, key) for key in unfolded.get(digits, ())):
            yield digits, _Known(bytes(experiment), b"heads", entry, None)


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
