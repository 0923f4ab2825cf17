"""What is known of one shard of a store: by names, by this machine's cache, by heads catalogs. Floor 4. SPEC §10.

Nothing here reads a store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgpack
from blake3 import blake3

from replicate.errors import CorruptionError, ReplicateError
from replicate.experiment_history import assemble
from replicate.objects.ids import ID_BYTES, ObjectID
from replicate.refs import CommitRecord, Record
from replicate.refs.cache import Shard
from replicate.refs.catalogs import HeadsCatalog
from replicate.refs.names import RecordName

DIGITS = slice(8, 72)  # of a record's key: the experiment
_PARTS, _KIND, _SUBJECT = 6, 3, 4  # of a record's key
_PARTIAL: Mapping[str, Any] = {"partial": True}


class Sides(Protocol):
    """A union of two stores, as `transport.union` has it."""

    @property
    def loss(self) -> ReplicateError | None:
        """Why there is the near one alone, if so."""

    def has_far(self, key: str) -> bool:
        """Tell whether the far store has listed a record or a catalog."""


class Known(NamedTuple):
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
class Heads:
    """A heads catalog, and its entries by shard and by the digits of the experiment."""

    catalog: HeadsCatalog
    entries: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def of(cls, catalog: HeadsCatalog) -> Heads:
        """Sort the entries of a heads catalog."""
        found: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for experiment, entry in catalog.experiments.items():
            digits = experiment.hex()
            found[digits[:2]][digits] = entry
        return cls(catalog, found)


@dataclass(frozen=True, slots=True)
class ShardLook:
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
    told: Mapping[str, Known]
    is_told: bool
    known: Mapping[bytes, Known]
    sides: Sides | None

    @classmethod
    def of(
        cls,
        digits: str,
        keys: Sequence[str],
        full: Sequence[str],
        known: Iterable[Known],
        heads: Sequence[Heads],
        sides: Sides | None,
    ) -> ShardLook:
        """Return a shard, and what heads catalogs tell of it."""
        by_experiment: defaultdict[str, set[str]] = defaultdict(set)
        for key in keys:
            by_experiment[key[DIGITS]].add(key)
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
            return digest_of(names)
        return digest_of([*names, "", *(key for key in names if not self.sides.has_far(key) and key not in far_folded)])

    def unchanged(self, digits: str, far_folded: Collection[str] = ()) -> Known | None:
        """Return what is known of an experiment if its names are those of the last look."""
        before = self.known.get(bytes.fromhex(digits)) if _is_id(digits) else None
        if before is None or before.commits is None:
            return None
        return before if before.digest == self.digest(sorted(self.by_experiment[digits]), far_folded) else None


def digest_of(names: Sequence[str]) -> bytes:
    """Return what tells whether names are those of an earlier look."""
    return blake3("\n".join(names).encode("utf-8", "surrogateescape")).digest(16)


def encode_row(digest: bytes, known: Sequence[Known]) -> Shard:
    """Return the row of the cache that says what is known of a shard."""
    content: bytes = msgpack.packb([tuple(one) for one in known], use_bin_type=True)
    return Shard(digest if all(one.digest for one in known) else b"", content)


def commits_named(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names among some that are of commits, each with the digits of the commit."""
    for name in names:
        parts = name.split("~")
        if len(parts) == _PARTS and parts[_KIND] == "c" and _is_id(parts[_SUBJECT]):
            yield name, parts[_SUBJECT]


def near_commits(names: Iterable[str], sides: Sides, far_folded: Collection[str]) -> frozenset[ObjectID]:
    """Return the commits, among those that some names are of, of which the far store has no record."""
    near: set[str] = set()
    far: set[str] = set()
    for name, commit in commits_named(names):
        (far if sides.has_far(name) or name in far_folded else near).add(commit)
    return frozenset(map(ObjectID.parse, near - far))


def summarise(records: Sequence[Record], digest: bytes, *, is_near: bool) -> Known:
    """Return what all records of one experiment tell of it."""
    experiment = records[0].name.experiment
    history = assemble(records)
    summary = history.summary.encode() if history else None
    return Known(bytes(experiment), digest, summary, _commit_ids(records), is_near)


def _commit_ids(records: Iterable[Record]) -> bytes:
    return b"".join({record.commit_id for record in records if isinstance(record, CommitRecord)})


def _entries(
    heads: Sequence[Heads], digits: str, full: Sequence[str], near: Sequence[str]
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
) -> Iterator[tuple[str, Known]]:
    """Yield the experiments that a heads catalog tells everything about, by their hex digits."""
    for digits, entry in entries.items():
        if not entry.get("partial") and all(_is_folded(entry, key) for key in unfolded.get(digits, ())):
            yield digits, Known(bytes.fromhex(digits), b"heads", entry, None)


def _is_folded(entry: Mapping[str, Any], key: str) -> bool:
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


def matching(commits: bytes, prefix: str) -> Iterator[ObjectID]:
    """Yield the ids among many, one after the other in `commits`, that begin with some hex digits."""
    whole = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    at = commits.find(whole)
    while 0 <= at < len(commits):
        if at % ID_BYTES == 0:
            commit = ObjectID(commits[at : at + ID_BYTES])
            if commit.hex().startswith(prefix):
                yield commit
        at = commits.find(whole, at + 1)


def decode_row(row: Shard) -> Sequence[Known]:
    """Return what a row of the cache says; nothing when that is no such row, whoever wrote it."""
    try:
        known = [Known(*one) for one in msgpack.unpackb(row.content, raw=False, strict_map_key=False)]
    except (ValueError, TypeError, msgpack.UnpackException):
        return ()
    return known if all(map(_is_sound, known)) else ()


def _is_sound(known: Known) -> bool:
    """Tell whether the fields are of their types."""
    return (
        type(known.experiment_id) is bytes
        and len(known.experiment_id) in (0, ID_BYTES)
        and type(known.digest) is bytes
        and (known.summary is None or type(known.summary) is dict)
        and (known.commits is None or type(known.commits) is bytes)
        and type(known.is_near) is bool
    )
