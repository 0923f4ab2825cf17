"""Catalogs: many ref records folded into one file. SPEC §10. Pure.

A full catalog holds records verbatim; a heads catalog holds what listing shows of each experiment, as maps that the
history floor makes and reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical
from replicate.objects.codecs import zstd
from replicate.objects.ids import ID_BYTES, ObjectID, catalog_hash, record_hash
from replicate.refs.names import CatalogName, RecordName, is_session

MAGIC = b"RPLCAT\x00\x01"
MAX_CATALOG_BYTES = 64 << 20
_LEVEL = 6

# What the values of a heads catalog's entry are: a type, an array of one thing [one], or of several (one, another), a
# map of these keys, {str: one} of any keys, or what a function is true for. Other keys are kept as they are.
_PATHS = (int, [bytes])
_CHECKPOINT: dict[Any, Any] = {
    "id": ObjectID,
    "seq": int,
    "step": lambda step: step is None or type(step) is int,
    "time": int,
    "metrics": dict,
    "files": int,
    "bytes": int,
    "new_bytes": int,
}
_OPTIONAL: dict[Any, Any] = {"primary_metric": (str, str), "unstable": _PATHS, "skipped": _PATHS}
_ENTRY: dict[Any, Any] = {
    "id": ObjectID,
    "name": str,
    "tags": [str],
    "note": str,
    "author": str,
    "time": int,
    "command": str,
    "params": dict,
    "files": int,
    "bytes": int,
    "primary_metric": (str, str),
    "python": str,
    "count": int,
    "newest": int,
    "metrics": [str],
    "heads": [ObjectID],
    "checkpoint_tags": [(ObjectID, [str])],
    "latest": _CHECKPOINT,
    "best": _CHECKPOINT,
    "open": [(is_session, str, int, int)],
    "end": str,
    "ended": int,
    "exception": str,
    "removed": int,
    "sessions": {str: int},
    "others": [bytes],
}


@dataclass(frozen=True, slots=True)
class FullCatalog:
    """The records of experiments that begin with the same two digits: key → body."""

    name: CatalogName
    records: Mapping[str, bytes]
    replaces: frozenset[str]

    def holds(self, key: str) -> bool:
        """Tell whether it holds the record of a key, and not other bytes in its place."""
        body = self.records.get(key)
        return body is not None and record_hash(body) == RecordName.parse(key).record_hash


@dataclass(frozen=True, slots=True)
class HeadsCatalog:
    """What listing shows of every experiment in shards `first` to `last`.

    Attributes:
        name: Its key.
        of: The full catalogs that it was computed from: together they hold everything that it tells.
        replaces: Heads catalogs that are not needed any more.
        experiments: Maps by experiment id.
    """

    name: CatalogName
    first: str
    last: str
    of: frozenset[str]
    replaces: frozenset[str]
    experiments: Mapping[ObjectID, Mapping[str, Any]]

    def speaks_for(self, shard: str, full: Sequence[str]) -> bool:
        """Tell whether it knows every one of a shard's full catalogs."""
        return self.first <= shard <= self.last and all(key in self.of for key in full)


def encode_full(shard: str, records: Mapping[str, bytes], replaces: Sequence[str] = ()) -> tuple[CatalogName, bytes]:
    """Return a full catalog's name and bytes; `InvalidInputError` when it holds more than 64 MiB."""
    rows = [[key, records[key]] for key in sorted(records)]
    return _seal(shard, {"records": rows, "replaces": sorted(replaces)})


def encode_heads(
    first: str, last: str, of: Sequence[str], replaces: Sequence[str], experiments: Sequence[Mapping[str, Any]]
) -> tuple[CatalogName, bytes]:
    """Return a heads catalog's name and bytes; `InvalidInputError` when it holds more than 64 MiB."""
    ordered = sorted((dict(one) for one in experiments), key=lambda one: bytes(one["id"]))
    return _seal(
        None,
        {"shards": [first, last], "of": sorted(of), "replaces": sorted(replaces), "experiments": ordered},
    )


def _seal(shard: str | None, fields: Mapping[str, Any]) -> tuple[CatalogName, bytes]:
    table = canonical.encode({**fields, "v": 1})
    if len(table) > MAX_CATALOG_BYTES:
        raise InvalidInputError(f"a catalog of {len(table):,} bytes exceeds {MAX_CATALOG_BYTES:,}")
    data = MAGIC + zstandard.ZstdCompressor(level=_LEVEL).compress(table)
    return CatalogName(shard, catalog_hash(data)), data


def decode_full(name: CatalogName, data: bytes) -> FullCatalog:
    """Return the full catalog that `data` holds; `CorruptionError` that names its key for anything else.

    The records in it are not decoded: each one's bytes are proven by its own key.
    """
    fields = _open(name, data)
    records: dict[str, bytes] = {}
    previous = ""
    for row in _array(name, fields, "records"):
        if not isinstance(row, list) or len(row) != 2 or type(row[0]) is not str or type(row[1]) is not bytes:
            raise _damaged(name, "a record is not [key, body]")
        key, body = row
        if key <= previous or RecordName.parse(key).key[5:7] != name.shard:
            raise _damaged(name, f"the record {key} does not belong there")
        records[key] = body
        previous = key
    return FullCatalog(name, records, _keys(name, fields, "replaces"))


def decode_heads(name: CatalogName, data: bytes) -> HeadsCatalog:
    """Return the heads catalog that `data` holds; `CorruptionError` that names its key for anything else."""
    fields = _open(name, data)
    shards = _array(name, fields, "shards")
    if len(shards) != 2 or not all(isinstance(one, str) and len(one) == 2 for one in shards):
        raise _damaged(name, "shards is not [first, last]")
    experiments: dict[ObjectID, Mapping[str, Any]] = {}
    for entry in _array(name, fields, "experiments"):
        digest = entry.get("id") if isinstance(entry, dict) else None
        if type(digest) is not bytes or len(digest) != ID_BYTES:
            raise _damaged(name, "an experiment has no id")
        for key, value in entry.items():
            if key in _ENTRY and not _fits(value, _ENTRY[key]):
                raise _damaged(name, f"{key} of experiment {digest.hex()} is not as it should be")
        experiments[ObjectID(digest)] = entry
    return HeadsCatalog(
        name, shards[0], shards[1], _keys(name, fields, "of"), _keys(name, fields, "replaces"), experiments
    )


def _fits(value: Any, shape: Any) -> bool:
    kind = type(shape)
    if shape is ObjectID:
        return type(value) is bytes and len(value) == ID_BYTES
    if kind is type:
        return type(value) is shape
    if kind is list:
        return type(value) is list and all(_fits(one, shape[0]) for one in value)
    if kind is tuple:
        return type(value) is list and len(value) == len(shape) and all(map(_fits, value, shape))
    if kind is not dict:
        return bool(shape(value))
    if type(value) is not dict:
        return False
    if str in shape:
        return all(_fits(one, shape[str]) for one in value.values())
    given = {key: _OPTIONAL[key] for key in _OPTIONAL.keys() & value.keys()} | shape
    return given.keys() <= value.keys() and all(_fits(value[key], one) for key, one in given.items())


def _open(name: CatalogName, data: bytes) -> dict[str, Any]:
    if not data.startswith(MAGIC) or catalog_hash(data) != name.catalog_hash:
        raise _damaged(name, "its bytes do not match its name")
    try:
        size = zstandard.get_frame_parameters(data[len(MAGIC) :]).content_size
    except zstandard.ZstdError as exc:
        raise _damaged(name, str(exc)) from exc
    if size > MAX_CATALOG_BYTES:
        raise _damaged(name, "it is too large")
    fields = canonical.decode(zstd.decompress(data[len(MAGIC) :], size, f"catalog {name.key}"), f"catalog {name.key}")
    if not isinstance(fields, dict) or type(fields.get("v")) is not int or fields["v"] != 1:
        raise _damaged(name, "it has no version 1")
    return fields


def _array(name: CatalogName, fields: Mapping[str, Any], key: str) -> list[Any]:
    value = fields.get(key)
    if not isinstance(value, list):
        raise _damaged(name, f"{key} is not an array")
    return value


def _keys(name: CatalogName, fields: Mapping[str, Any], key: str) -> frozenset[str]:
    value = _array(name, fields, key)
    if not all(isinstance(one, str) for one in value):
        raise _damaged(name, f"{key} is not an array of keys")
    return frozenset(value)


def _damaged(name: CatalogName, why: str) -> CorruptionError:
    return CorruptionError(f"catalog {name.key} is damaged: {why}", where=name.key)
