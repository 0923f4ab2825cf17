"""Listing, reading and publishing ref records of one store. SPEC §9, §12, I0–I2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from replicate.errors import CorruptionError, KeyNotFoundError
from replicate.objects import canonical
from replicate.objects.ids import ID_BYTES, Kind, ObjectID
from replicate.objects.locator import read_framed
from replicate.objects.writer import Stored
from replicate.refs.names import NO_SUBJECT, RecordName, experiment_prefix
from replicate.refs.records import (
    MAX_RECORD_BYTES,
    Packset,
    Record,
    decode_record,
    encode_record,
)
from replicate.transport import Transport


class RefStore:
    """The ref records of one store. Records never change, so what was read once is kept.

    Args:
        transport: The store.
        on_damage: Called with the error for each record that cannot be read; listing goes on without it.
    """

    def __init__(self, transport: Transport, on_damage: Callable[[CorruptionError], None]) -> None:
        self._transport = transport
        self._on_damage = on_damage
        self._read: dict[str, Record] = {}
        self._damaged: set[str] = set()

    def list(self, experiment: ObjectID | None = None) -> tuple[Record, ...]:
        """Return every readable record, or those of one experiment, in key order."""
        prefix = experiment_prefix(experiment) if experiment else "refs/"
        found = []
        for key in sorted(info.key for info in self._transport.list(prefix)):
            record = self._record(key)
            if record is not None:
                found.append(record)
        return tuple(found)

    def _record(self, key: str) -> Record | None:
        known = self._read.get(key)
        if known is not None or key in self._damaged:
            return known
        try:
            record = decode_record(RecordName.parse(key), self._transport.get(key, 0, MAX_RECORD_BYTES + 1))
        except CorruptionError as exc:
            self._damaged.add(key)
            self._on_damage(exc)
            return None
        except KeyNotFoundError:  # folded or collected since the listing
            return None
        self._read[key] = record
        return record

    def find(self, name: RecordName) -> Record | None:
        """Return one record, or None when it is not there or not readable."""
        return self._record(name.key)

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
        _, data = read_framed(self._transport, packset.at, Kind.PACKSET)
        value = canonical.decode(data, where)
        if not isinstance(value, list) or any(type(one) is not bytes or len(one) != ID_BYTES for one in value):
            raise CorruptionError(f"{where} is damaged: not a list of pack ids", where=where)
        if any(one >= other for one, other in pairwise(value)):
            raise CorruptionError(f"{where} is damaged: not sorted", where=where)
        return frozenset(ObjectID(one) for one in value) | {packset.at.pack}


def packset_of(stored: Stored) -> Packset:
    """Return the packset that a record of `stored` names."""
    return Packset(stored.packset, stored.packset_at)
