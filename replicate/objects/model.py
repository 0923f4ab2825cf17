"""Trees and commits as values: encoded, decoded, checked. SPEC §4.2, §4.3. No I/O, no clock."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical
from replicate.objects.ids import ID_BYTES, Kind, ObjectID, object_id

MAX_TREE_ENTRIES = 1_000_000
MAX_OBJECT_BYTES = 64 << 20
MAX_COMMIT_BYTES = 48 << 10
MAX_NAME_BYTES = 255
MAX_LINK_BYTES = 4_095
MAX_SIZE_BYTES = (1 << 63) - 1
MAX_LISTED_PATHS = 100
MAX_LISTED_BYTES = 8 << 10


class Mode(enum.IntEnum):
    """What an entry of a tree is."""

    FILE = 0
    EXECUTABLE = 1
    SYMLINK = 2
    DIRECTORY = 3

    @property
    def is_file(self) -> bool:
        """Whether the entry is a regular file."""
        return self in (Mode.FILE, Mode.EXECUTABLE)


_MODES = tuple(Mode)


class TreeEntry(NamedTuple):
    """One name in a directory. `size_bytes` is a file's length, a link target's, or a directory's total (SPEC §4.2)."""

    name: bytes
    mode: Mode
    size_bytes: int
    object_id: ObjectID


def check_name(name: bytes) -> str | None:
    """Return why `name` may not stand in a tree, or None if it may."""
    if not name or len(name) > MAX_NAME_BYTES:
        return f"a name has 1 to {MAX_NAME_BYTES} bytes"
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        return "a name has no '/' and no NUL, and is not '.' or '..'"
    return None


def directory_size(entries: Iterable[TreeEntry]) -> int:
    """Return the size that a directory with these entries has in its parent: bytes of files, links left out."""
    return sum(entry.size_bytes for entry in entries if entry.mode is not Mode.SYMLINK)


def encode_tree(entries: Iterable[TreeEntry]) -> bytes:
    """Return a directory's encoding. Entries may come in any order; equal entries give equal bytes.

    Raises:
        InvalidInputError: A name is not allowed or repeated, or there are too many entries.
    """
    ordered = sorted(entries, key=lambda entry: entry.name)
    if len(ordered) > MAX_TREE_ENTRIES:
        raise InvalidInputError(f"a directory has {len(ordered):,} entries; at most {MAX_TREE_ENTRIES:,} can be saved")
    previous = b""
    rows = []
    for entry in ordered:
        problem = check_name(entry.name)
        if problem:
            raise InvalidInputError(f"{entry.name!r} cannot be saved: {problem}")
        if entry.name == previous:
            raise InvalidInputError(f"{entry.name!r} is in the directory twice")
        previous = entry.name
        rows.append((entry.name, int(entry.mode), entry.size_bytes, bytes(entry.object_id)))
    data = bytes(msgpack.packb(rows, use_bin_type=True))
    if len(data) > MAX_OBJECT_BYTES:
        raise InvalidInputError(f"a directory of {len(ordered):,} entries is too large to be saved")
    return data


def decode_tree(data: bytes, where: str) -> list[TreeEntry]:
    """Return the entries of an encoded tree in name order; `CorruptionError` that names `where` for anything else."""

    def damaged(why: str) -> CorruptionError:
        return CorruptionError(f"{where} is damaged: {why}", where=where)

    try:
        rows = msgpack.unpackb(data, raw=False, use_list=False, max_ext_len=0, max_map_len=0)
        if type(rows) is not tuple or len(rows) > MAX_TREE_ENTRIES:
            raise damaged("not a tree")
        if msgpack.packb(rows, use_bin_type=True) != data:
            raise damaged("not canonical msgpack")
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as exc:
        raise damaged("not a tree") from exc
    entries = []
    previous = b""
    for row in rows:
        if type(row) is not tuple or len(row) != 4:
            raise damaged("an entry is not [name, mode, size, id]")
        name, mode, size, digest = row
        if type(name) is not bytes or check_name(name) or name <= previous:
            raise damaged(f"name {name!r} is not allowed here")
        if type(mode) is not int or not 0 <= mode < len(_MODES):
            raise damaged(f"mode {mode!r} of {name!r} is not known")
        if type(size) is not int or not 0 <= size <= MAX_SIZE_BYTES:
            raise damaged(f"size {size!r} of {name!r} is not valid")
        if type(digest) is not bytes or len(digest) != ID_BYTES:
            raise damaged(f"the id of {name!r} is not valid")
        if mode == Mode.SYMLINK and not 1 <= size <= MAX_LINK_BYTES:
            raise damaged(f"the link {name!r} has a target of {size} bytes")
        previous = name
        entries.append(TreeEntry(name, _MODES[mode], size, ObjectID(digest)))
    return entries


@dataclass(frozen=True, slots=True)
class PathList:
    """How many paths something happened to, and the first of them."""

    count: int
    paths: tuple[bytes, ...]

    @classmethod
    def of(cls, paths: Iterable[bytes]) -> PathList | None:
        """Return the list of some paths, or None if there are none."""
        ordered = sorted(paths)
        listed: list[bytes] = []
        left = MAX_LISTED_BYTES
        for path in ordered[:MAX_LISTED_PATHS]:
            left -= len(path)
            if left < 0:
                break
            listed.append(path)
        return cls(len(ordered), tuple(listed)) if ordered else None


@dataclass(frozen=True, slots=True)
class Commit:
    """A saved state: a tree, where it came from, and what was measured. SPEC §4.3.

    `experiment` is None for a root. `extra` holds the keys that this version does not know; they are kept.
    """

    tree: ObjectID
    author: str
    time_ns: int
    parents: tuple[ObjectID, ...] = ()
    experiment: ObjectID | None = None
    nonce: bytes = b""
    params: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    name: str | None = None
    tags: tuple[str, ...] = ()
    primary_metric: tuple[str, str] | None = None
    seq: int = 0
    step: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    unstable: PathList | None = None
    skipped: PathList | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_root(self) -> bool:
        """Whether this commit begins an experiment."""
        return self.experiment is None


def encode_commit(commit: Commit) -> bytes:
    """Return a commit's encoding.

    Raises:
        InvalidInputError: A value cannot be stored, or the commit exceeds 48 KiB; names the largest key.
    """
    fields: dict[str, Any] = {
        **commit.extra,
        "v": 1,
        "kind": "root" if commit.is_root else "checkpoint",
        "tree": commit.tree,
        "parents": list(commit.parents),
        "author": commit.author,
        "time": commit.time_ns,
    }
    if commit.experiment is None:
        fields |= {"nonce": commit.nonce, "params": dict(commit.params), "command": commit.command}
        if commit.name is not None:
            fields["name"] = commit.name
        if commit.tags:
            fields["tags"] = sorted(set(commit.tags))
    else:
        fields |= {"experiment": commit.experiment, "seq": commit.seq, "metrics": dict(commit.metrics)}
        if commit.step is not None:
            fields["step"] = commit.step
    if commit.primary_metric:
        fields["primary_metric"] = list(commit.primary_metric)
    for key, listed in (("unstable", commit.unstable), ("skipped", commit.skipped)):
        if listed:
            fields[key] = {"count": listed.count, "paths": list(listed.paths)}
    data = canonical.encode(fields)
    if len(data) > MAX_COMMIT_BYTES:
        raise _too_large(fields, len(data))
    return data


def _too_large(fields: Mapping[str, Any], size: int) -> InvalidInputError:
    name, value = max(fields.items(), key=lambda item: len(canonical.encode(item[1])))
    if isinstance(value, dict) and value:
        key = max(value, key=lambda item: len(canonical.encode(value[item])))
        name, value = f"{name}[{key!r}]", value[key]
    return InvalidInputError(
        f"a commit holds at most {MAX_COMMIT_BYTES:,} bytes of params, metrics and the like, this one has {size:,}; "
        f"the largest is {name} with {len(canonical.encode(value)):,}",
        hint="save large values as a file of the checkpoint",
    )


_COMMON_KEYS = frozenset(["v", "kind", "tree", "parents", "author", "time", "primary_metric", "unstable", "skipped"])
_ROOT_KEYS = _COMMON_KEYS | {"nonce", "params", "command", "name", "tags"}
_CHECKPOINT_KEYS = _COMMON_KEYS | {"experiment", "seq", "step", "metrics"}


class _CommitFields:
    """The decoded map of a commit, read key by key; what is wrong is a `CorruptionError` that names `where`."""

    def __init__(self, fields: dict[str, Any], where: str) -> None:
        self._fields = fields
        self._where = where

    def damaged(self, why: str) -> CorruptionError:
        return CorruptionError(f"{self._where} is damaged: {why}", where=self._where)

    def root(self) -> Commit:
        """Return the root that this is."""
        common = self._common(_ROOT_KEYS)
        nonce: bytes = self._get("nonce", bytes)
        if len(nonce) != 16:
            raise self.damaged("a root has a nonce of 16 bytes")
        tags = self._texts("tags") if "tags" in self._fields else ()
        if list(tags) != sorted(set(tags)):
            raise self.damaged("tags are not sorted, or repeated")
        return Commit(
            **common,
            nonce=nonce,
            params=self._values("params"),
            command=self._get("command", str),
            name=self._get("name", str) if "name" in self._fields else None,
            tags=tags,
        )

    def checkpoint(self) -> Commit:
        """Return the checkpoint that this is."""
        common = self._common(_CHECKPOINT_KEYS)
        seq = self._get("seq", int)
        if not 1 <= seq < 1 << 32 or not common["parents"]:
            raise self.damaged("a checkpoint has a parent and a seq of 1 or more")
        step = self._get("step", int) if "step" in self._fields else None
        if step is not None and not -(1 << 63) <= step < 1 << 63:
            raise self.damaged(f"step {step} does not fit into 64 bits")
        return Commit(
            **common,
            experiment=self._id(self._get("experiment", bytes)),
            seq=seq,
            step=step,
            metrics=self._values("metrics"),
        )

    def _common(self, known: frozenset[str]) -> dict[str, Any]:
        """Return what both kinds have; keys that are not known for the kind are kept as they are."""
        primary: tuple[str, ...] | None = None
        if "primary_metric" in self._fields:
            primary = self._texts("primary_metric")
            if len(primary) != 2 or primary[1] not in ("minimize", "maximize"):
                raise self.damaged("primary_metric is not [name, goal]")
        return {
            "tree": self._id(self._get("tree", bytes)),
            "author": self._get("author", str),
            "time_ns": self._get("time", int),
            "parents": tuple(self._id(parent) for parent in self._get("parents", list)),
            "primary_metric": primary,
            "unstable": self._paths("unstable"),
            "skipped": self._paths("skipped"),
            "extra": {key: value for key, value in self._fields.items() if key not in known},
        }

    def _get(self, key: str, kind: type) -> Any:
        value = self._fields.get(key)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self.damaged(f"{key} is missing or of a wrong type")
        return value

    def _id(self, value: Any) -> ObjectID:
        if type(value) is not bytes or len(value) != ID_BYTES:
            raise self.damaged("an id has a wrong length")
        return ObjectID(value)

    def _texts(self, key: str) -> tuple[str, ...]:
        value = self._fields[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.damaged(f"{key} is not a list of text")
        return tuple(value)

    def _values(self, key: str) -> Mapping[str, Any]:
        value: dict[str, Any] = self._get(key, dict)
        if not _is_value(value):
            raise self.damaged(f"{key} holds bytes")
        return value

    def _paths(self, key: str) -> PathList | None:
        if key not in self._fields:
            return None
        value = self._fields[key]
        if not (
            isinstance(value, dict)
            and type(value.get("count")) is int
            and isinstance(value.get("paths"), list)
            and all(type(path) is bytes for path in value["paths"])
        ):
            raise self.damaged(f"{key} is not {{count, paths}}")
        return PathList(value["count"], tuple(value["paths"]))


def _is_value(value: Any) -> bool:
    """Tell whether a decoded value may stand in params and metrics: no bytes in it."""
    if isinstance(value, dict):
        return all(map(_is_value, value.values()))
    return all(map(_is_value, value)) if isinstance(value, list) else type(value) is not bytes


def decode_commit(data: bytes, where: str) -> Commit:
    """Return an encoded commit; `CorruptionError` that names `where` for anything else."""
    if len(data) > MAX_COMMIT_BYTES:
        why = f"{len(data):,} bytes is too large for a commit"
        raise CorruptionError(f"{where} is damaged: {why}", where=where)
    value = canonical.decode(data, where)
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    reader = _CommitFields(fields, where)
    if type(fields.get("v")) is not int or fields["v"] != 1:
        raise reader.damaged("not a commit")
    if fields.get("kind") == "root":
        return reader.root()
    if fields.get("kind") == "checkpoint":
        return reader.checkpoint()
    raise reader.damaged(f"kind {fields.get('kind')!r} is not known")


def commit_id(data: bytes) -> ObjectID:
    """Return the id of an encoded commit."""
    return object_id(Kind.COMMIT, data)
