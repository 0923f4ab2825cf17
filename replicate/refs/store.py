"""Listing, reading and publishing ref records of one store. SPEC §9, §10, §12, I0–I2."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from replicate.errors import CorruptionError, KeyNotFoundError
from replicate.objects import canonical
from replicate.objects.ids import ID_BYTES, Kind, ObjectID
from replicate.refs.catalogs import MAX_CATALOG_BYTES, FullCatalog, HeadsCatalog, decode_full, decode_heads
from replicate.refs.names import NO_SUBJECT, CatalogName, RecordName, experiment_prefix
from replicate.refs.records import (
    MAX_RECORD_BYTES,
    Packset,
    Record,
    decode_record,
    encode_record,
)
from replicate.transport import KeyInfo, Range, ReadsAhead, Transport, read_sound

if TYPE_CHECKING:
    from replicate.objects.writer import Stored

_T = TypeVar("_T")
_KEPT_CATALOGS = 16


class Catalogs(NamedTuple):
    """The keys of catalogs.

    Attributes:
        full: Live full catalogs by the first two digits of their experiments, sorted; those that another replaces may
            be among them.
        heads: Heads catalogs, sorted.
    """

    full: Mapping[str, Sequence[str]]
    heads: Sequence[str]


class Listing:
    """The keys of one look at a store: ref records first, then catalogs (I2).

    Args:
        records: Keys of ref records by the first two digits of their experiment, sorted.
        catalogs: Returns the catalogs. They are waited for when they are first needed.
    """

    def __init__(self, records: Mapping[str, Sequence[str]], catalogs: Callable[[], Catalogs]) -> None:
        self.records = records
        self._catalogs = catalogs

    @functools.cached_property
    def catalogs(self) -> Catalogs:
        """The catalogs that were listed after the records."""
        return self._catalogs()

    @property
    def full(self) -> Mapping[str, Sequence[str]]:
        """See `Catalogs.full`."""
        return self.catalogs.full

    @property
    def shards(self) -> list[str]:
        """The first two digits of every experiment, sorted."""
        return sorted({*self.records, *self.full})


class RefStore:
    """The ref records of one store, as such and folded into catalogs.

    Nothing that it reads ever changes, so what was read once is kept.

    Args:
        transport: The store.
        on_damage: Called with the error for each record or catalog that cannot be read; listing goes on without it.
    """

    def __init__(self, transport: Transport, on_damage: Callable[[CorruptionError], None]) -> None:
        self._transport = transport
        self._on_damage = on_damage
        self._read: dict[str, Record] = {}
        self._catalogs: dict[str, FullCatalog] = {}
        self._damaged: set[str] = set()

    def list(self, experiment: ObjectID | None = None) -> tuple[Record, ...]:
        """Return every readable record, or those of one experiment, in key order."""
        shard = experiment.hex()[:2] if experiment else None
        prefix = experiment_prefix(experiment) if experiment else "refs/"
        for attempt in (1, 2):
            listing = self.listing(prefix)
            missing: list[str] = []
            found: list[Record] = []
            for one in [shard] if shard else listing.shards:
                folded, lost = self.folded(listing.full.get(one, ()))
                keys = {*listing.records.get(one, ()), *(key for key in folded if key.startswith(prefix))}
                records, gone = self.read(keys, folded)
                found += records
                missing += [*lost, *gone]
            if not missing:
                break
            if attempt == 2:  # removed between the listing and the reading, twice (I2)
                self.tell_missing(missing)
        return tuple(sorted(found, key=lambda record: record.name.key))

    def listing(self, prefix: str = "refs/") -> Listing:
        """Return the keys of records that begin with `prefix`, and of all catalogs. No size or time is looked at."""
        records: defaultdict[str, list[str]] = defaultdict(list)
        for key, _, _ in self._transport.list(prefix, details=False):
            records[key[5:7]].append(key)
        for keys in records.values():
            keys.sort()
        listed = self._transport.list("cat/", details=False)
        return Listing(records, lambda: self._sorted(listed))

    def catalogs(self) -> Catalogs:
        """Return the keys of all catalogs."""
        return self._sorted(self._transport.list("cat/", details=False))

    def _sorted(self, listed: Iterable[KeyInfo]) -> Catalogs:
        full: dict[str, list[str]] = {}
        heads = []
        for info in listed:
            try:
                name = CatalogName.parse(info.key)
            except CorruptionError as exc:
                self.tell(info.key, exc)
                continue
            if name.shard is None:
                heads.append(info.key)
            else:
                full.setdefault(name.shard, []).append(info.key)
        for keys in (*full.values(), heads):
            keys.sort()
        return Catalogs(full, heads)

    def expect(self, keys: Iterable[str]) -> None:
        """Fetch records and catalogs that will be read soon, many at a time, if storage is elsewhere."""
        if isinstance(self._transport, ReadsAhead):
            unread = (key for key in keys if key not in self._read and key not in self._catalogs)
            self._transport.prefetch([Range(key, 0, _most_bytes(key) + 1) for key in unread])

    def folded(self, full: Sequence[str]) -> tuple[Mapping[str, bytes], Sequence[str]]:
        """Return the bodies by key that some full catalogs hold, and which of these catalogs are not there."""
        bodies: dict[str, bytes] = {}
        missing = []
        self.expect(full)
        replaced: set[str] = set()
        for key in full:
            catalog = self.catalog(key)
            if catalog is None:
                missing.append(key)
            elif key not in self._damaged:
                known = bodies.keys() & catalog.records.keys()
                other = [one for one in known if bodies[one] != catalog.records[one] and not catalog.holds(one)]
                bodies |= {**catalog.records, **{one: bodies[one] for one in other}}
                replaced |= catalog.replaces
        return bodies, [key for key in missing if key not in replaced and key not in self._damaged]

    def is_damaged(self, key: str) -> bool:
        """Tell whether a record or catalog was read and is damaged."""
        return key in self._damaged

    def catalog(self, key: str) -> FullCatalog | None:
        """Return a full catalog; None when it is not there, or is damaged, which is told."""
        known = self._catalogs.get(key)
        if known is not None or key in self._damaged:
            return known
        try:
            name = CatalogName.parse(key)
            catalog = self._sound(key, MAX_CATALOG_BYTES, lambda data: decode_full(name, data))
        except CorruptionError as exc:
            self.tell(key, exc)
            return None
        except KeyNotFoundError:
            return None
        self._catalogs[key] = catalog
        if len(self._catalogs) > _KEPT_CATALOGS:
            del self._catalogs[next(iter(self._catalogs))]
        return catalog

    def heads(self, keys: Iterable[str]) -> Iterator[HeadsCatalog]:
        """Yield the heads catalogs of some keys; those that are not there or damaged are left out."""
        keys = [*keys]
        self.expect(keys)
        for key in keys:
            try:
                name = CatalogName.parse(key)
                yield self._sound(key, MAX_CATALOG_BYTES, functools.partial(decode_heads, name))
            except CorruptionError as exc:
                self.tell(key, exc)
            except KeyNotFoundError:
                continue

    def read(self, keys: Iterable[str], folded: Mapping[str, bytes]) -> tuple[Sequence[Record], Sequence[str]]:
        """Return the readable records of some keys, and which keys are not there. Damaged ones are told."""
        records = []
        missing = []
        keys = [*keys]
        self.expect(key for key in keys if key not in folded)
        for key in keys:
            record = self._record(key, folded.get(key))
            if record is not None:
                records.append(record)
            elif key not in self._damaged:
                missing.append(key)
        return records, missing

    def forget(self, records: Iterable[Record]) -> None:
        """Keep some records no longer in memory."""
        for record in records:
            self._read.pop(record.name.key, None)

    def _record(self, key: str, body: bytes | None = None) -> Record | None:
        known = self._read.get(key)
        if known is not None or key in self._damaged:
            return known
        try:
            name = RecordName.parse(key)
            record = self._get(name) if body is None else self._unfold(name, body)
        except CorruptionError as exc:
            self.tell(key, exc)
            return None
        except KeyNotFoundError:  # folded or collected since the listing
            return None
        self._read[key] = record
        return record

    def _get(self, name: RecordName) -> Record:
        return self._sound(name.key, MAX_RECORD_BYTES, lambda data: decode_record(name, data))

    def _sound(self, key: str, most: int, decode: Callable[[bytes], _T]) -> _T:
        """Return what a key of at most so many bytes holds."""
        return read_sound(self._transport, key, lambda: decode(self._transport.get(key, 0, most + 1)))

    def _unfold(self, name: RecordName, body: bytes) -> Record:
        """Return the record that a catalog holds; if that is damaged, the one that lies under its own key."""
        try:
            return decode_record(name, body)
        except CorruptionError as exc:
            try:
                return self._get(name)
            except KeyNotFoundError:
                raise exc from None

    def tell_missing(self, keys: Iterable[str]) -> None:
        """Report keys that were listed, but were not there, twice."""
        for key in keys:
            self.tell(key, CorruptionError(f"{key} is listed, but it is not in the store", where=key))

    def tell(self, key: str, error: CorruptionError) -> None:
        """Report what is wrong with a key, once."""
        if key not in self._damaged:
            self._damaged.add(key)
            self._on_damage(error)

    def find(self, name: RecordName) -> Record | None:
        """Return one record, or None when it is not there or not readable."""
        found = self._record(name.key)
        if found is None and name.key not in self._damaged:
            found = next((one for one in self.list(name.experiment) if one.name == name), None)
        return found

    def publish(
        self,
        experiment: ObjectID,
        seq: int,
        session: str,
        kind: str,
        fields: Mapping[str, Any],
        subject: str = NO_SUBJECT,
    ) -> Record:
        """Write a record and return it. What it names must be durable (I1); so is the record on return."""
        name, data = encode_record(experiment, seq, session, kind, fields, subject)
        record = decode_record(name, data)
        self._transport.put(name.key, data)
        self._read[name.key] = record
        return record

    def read_packset(self, packset: Packset) -> frozenset[ObjectID]:
        """Return the packs of a packset, read from its frame when the record does not list them."""
        if packset.at is None:
            return packset.packs
        where = f"the packset in pack {packset.at.pack.hex()}"
        from replicate.objects.locator import read_framed  # packs: most records list theirs themselves

        _, data = read_framed(self._transport, packset.at, Kind.PACKSET)
        value = canonical.decode(data, where)
        if not isinstance(value, list) or any(type(one) is not bytes or len(one) != ID_BYTES for one in value):
            raise CorruptionError(f"{where} is damaged: not a list of pack ids", where=where)
        if any(one >= other for one, other in pairwise(value)):
            raise CorruptionError(f"{where} is damaged: not sorted", where=where)
        return frozenset(ObjectID(one) for one in value) | {packset.at.pack}


def _most_bytes(key: str) -> int:
    return MAX_CATALOG_BYTES if key.startswith("cat/") else MAX_RECORD_BYTES


def packset_of(stored: Stored) -> Packset:
    """Return the packset that a record of `stored` names."""
    return Packset(stored.packset, stored.packset_at)
