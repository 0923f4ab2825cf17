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
from functools import cached_property

from replicate.errors import CorruptionError, ReplicateError
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.objects.ids import ObjectID
from replicate.refs import RefStore
from replicate.refs.cache import Shard, ShardCache
from replicate.refs.names import RecordName, experiment_prefix
from replicate.refs.store import Catalogs, Listing
from replicate.shards import (
    DIGITS,
    Heads,
    Known,
    ShardLook,
    Sides,
    commits_named,
    decode_row,
    digest_of,
    encode_row,
    matching,
    near_commits,
    summarise,
)
from replicate.summary import ExperimentSummary

_FETCHED_KEYS = 1_024  # at once


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
            self._near[experiment_id] = near_commits(names, self._sides, self._far_folded(listing.full.get(shard, ())))
        return assemble(records)

    @property
    def loss(self) -> ReplicateError | None:
        """See `Source`."""
        self._known  # noqa: B018 - it looks
        return self._sides.loss if self._sides is not None else None

    @property
    def near_experiments(self) -> Collection[ObjectID] | None:
        """See `Source`."""
        known = self._known
        if self._sides is None or self._sides.loss:
            return None
        return {ObjectID(one.experiment_id) for one in known if one.is_near}

    def near_commits(self, experiment_id: ObjectID) -> Collection[ObjectID] | None:
        """See `Source`."""
        if experiment_id not in self._near:
            self.load(experiment_id)
        if self._sides is None or self._sides.loss:
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
            for commit in matching(one.commits or b"", prefix)
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

    def _with_commits(self) -> Sequence[Known]:
        """Return what is known with the ids of all commits, as names tell them; nothing if not all can be read."""
        listing, changed = self._listing, {}
        by_shard: defaultdict[str, list[Known]] = defaultdict(list)
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
            for name, commit in commits_named([*listing.records.get(shard, ()), *folded]):
                commits[name[DIGITS]].add(commit)
            known = by_shard[shard]
            told = (bytes.fromhex("".join(commits[one.experiment_id.hex()])) for one in known)
            by_shard[shard] = [one._replace(commits=one.commits or ids) for one, ids in zip(known, told, strict=True)]
            changed[shard] = encode_row(self._digests[shard], by_shard[shard])
        self._open_cache().save(changed)
        return list(itertools.chain.from_iterable(by_shard.values()))

    @cached_property
    def _known(self) -> Sequence[Known]:
        return self._look_twice(heads=True)

    def _look_twice(self, *, heads: bool) -> Sequence[Known]:
        found, missing = self._look(heads)
        if missing:
            found, missing = self._look(heads)
            self._refs.tell_missing(missing)  # removed between the listing and the reading, twice (I2)
        return found

    def _look(self, use_heads: bool) -> tuple[Sequence[Known], Sequence[str]]:
        """Return what a listing leads to, and the keys that it names but that are not there."""
        listing = self._refs.listing()
        cache = self._open_cache()
        cached = cache.load()
        decoded = {shard: decode_row(row) for shard, row in cached.items()}  # while storage lists its catalogs
        known: dict[str, Sequence[Known]] = {}
        outdated: dict[str, bytes] = {}
        listing.catalogs  # noqa: B018 - what cannot be listed raises here
        self._listing = listing
        for shard in listing.shards:
            names = [*listing.records.get(shard, ()), "", *listing.full.get(shard, ())]
            if self._sides is not None:
                names += ["", *(name for name in names if not self._sides.has_far(name))]
            digest = self._digests[shard] = digest_of(names)
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
                changed[one.digits] = encode_row(outdated[one.digits], found)
        if changed and not missing:
            cache.save(changed)
        return list(itertools.chain.from_iterable(known.values())), missing

    def _shards(
        self, listing: Listing, outdated: Iterable[str], known: Mapping[str, Sequence[Known]], use_heads: bool
    ) -> Iterator[ShardLook]:
        """Yield shards that have to be read; what they need is fetched for many of them at once."""
        has_full = any(listing.full.get(one) for one in outdated)
        catalogs = self._refs.heads(listing.catalogs.heads) if use_heads and has_full else ()
        heads = [Heads.of(one) for one in catalogs]
        waiting: list[ShardLook] = []
        expected: list[str] = []
        for digits in outdated:
            full = listing.full.get(digits, ())
            shard = ShardLook.of(digits, listing.records.get(digits, ()), full, known[digits], heads, self._sides)
            waiting.append(shard)
            expected += shard.keys(() if shard.is_told else self._refs.folded(shard.near)[0].keys())
            if len(expected) >= _FETCHED_KEYS:
                self._refs.expect(expected)
                yield from waiting
                waiting, expected = [], []
        self._refs.expect(expected)
        yield from waiting

    def _read_shard(self, shard: ShardLook) -> tuple[Sequence[Known], Sequence[str]]:
        """Return what the keys of a shard lead to, and which of them are not there."""
        folded: Mapping[str, bytes] = {}
        lost: list[str] = []
        far_folded: Collection[str] = ()
        if not shard.is_told:
            folded, missing = self._refs.folded(shard.full)
            far_folded = self._far_folded(shard.full)
            lost += missing
            for key in folded:
                shard.by_experiment[key[DIGITS]].add(key)
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
                is_near = shard.sides is not None and bool(near_commits(names, shard.sides, far_folded))
                found.append(summarise(records, digest, is_near=is_near))
            elif not gone:  # nothing of it can be read: look again the next time, to tell of it again
                found.append(Known(b"", b"", None, b""))
            self._refs.forget(records)
        return found, lost
