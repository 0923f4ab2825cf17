"""The bodies of ref records as values. SPEC §9.2. Pure.

Known here: `c` commit, `s` session start, `e` session end, `x` tombstone, `u` undo, `t` tag. Every other kind is kept
as `UnknownRecord`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical
from replicate.objects.frames import FrameRef
from replicate.objects.ids import ID_BYTES, ObjectID, record_hash
from replicate.objects.model import Commit, commit_id, decode_commit
from replicate.refs.names import NO_SUBJECT, RecordName, is_session

MAGIC = b"RPLREF\x00\x01"
MAX_RECORD_BYTES = 64 << 10
MAX_HIDDEN_COMMITS = 1_000
_HASH_BYTES = 16
_MAX_SEQ = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Packset:
    """Every pack of a closure: listed, or where the list lies when it is long."""

    packs: frozenset[ObjectID] = frozenset()
    at: FrameRef | None = None

    def fields(self) -> dict[str, Any]:
        """Return the record's keys."""
        return {"packset_at": self.at.encode()} if self.at else {"packset": sorted(bytes(pack) for pack in self.packs)}


@dataclass(frozen=True)
class CommitRecord:
    """Publishes a commit. Sizes in bytes and the duration in ns are for display."""

    name: RecordName
    commit: Commit
    packset: Packset
    meta: tuple[ObjectID, ...]
    locator: FrameRef
    files: int = 0
    bytes: int = 0
    new_bytes: int = 0
    duration_ns: int = 0
    stored_bytes: int = 0

    @cached_property
    def commit_id(self) -> ObjectID:
        """The commit's id."""
        return ObjectID.parse(self.name.subject)


@dataclass(frozen=True, slots=True)
class StartRecord:
    """A session began. `capture` is what was recorded of the process; more lies in the tree `environment`."""

    name: RecordName
    time_ns: int
    capture: Mapping[str, Any]
    environment: ObjectID | None
    packset: Packset
    locator: FrameRef | None


@dataclass(frozen=True, slots=True)
class EndRecord:
    """A session ended: finished, failed or stopped."""

    name: RecordName
    time_ns: int
    status: str
    exception: Mapping[str, Any] | None
    duration_ns: int
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class TombstoneRecord:
    """Hides checkpoints: of sessions, up to a seq each, or some by id. Nothing is deleted by it."""

    name: RecordName
    time_ns: int
    author: str
    sessions: Mapping[str, int]
    commits: frozenset[ObjectID]

    def hides(self, record: CommitRecord) -> bool:
        """Tell whether it names a commit: by its id, or by its session and a seq not above the one named."""
        return record.commit_id in self.commits or record.name.seq <= self.sessions.get(record.name.session, -1)

    @staticmethod
    def fields(
        time_ns: int, author: str, nonce: bytes, sessions: Mapping[str, int], commits: Sequence[ObjectID]
    ) -> dict[str, Any]:
        """Return the record's keys. The nonce tells it from every other tombstone."""
        hidden: dict[str, Any] = {"sessions": dict(sessions)} if sessions else {"commits": sorted(map(bytes, commits))}
        return {"time": time_ns, "author": author, "nonce": nonce, **hidden}


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """Takes back a tombstone, for ever. `tombstone` is the 32 hex digits of its hash."""

    name: RecordName
    time_ns: int
    author: str
    tombstone: str


@dataclass(frozen=True, slots=True)
class TagRecord:
    """Changes the tags, the name or the note of a commit; None leaves it as it is, an empty text takes it away."""

    name: RecordName
    time_ns: int
    author: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    new_name: str | None = None
    note: str | None = None

    @property
    def commit_id(self) -> ObjectID:
        """The commit that it is about."""
        return ObjectID.parse(self.name.subject)

    @staticmethod
    def fields(
        time_ns: int,
        author: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        name: str | None = None,
        note: str | None = None,
    ) -> dict[str, Any]:
        """Return the record's keys."""
        fields: dict[str, Any] = {"time": time_ns, "author": author}
        if add or remove:
            fields["tags"] = {"add": sorted(set(add)), "remove": sorted(set(remove))}
        return fields | ({} if name is None else {"name": name}) | ({} if note is None else {"note": note})


@dataclass(frozen=True, slots=True)
class UnknownRecord:
    """A record of a kind that this version does not read."""

    name: RecordName
    fields: Mapping[str, Any] = field(default_factory=dict)


Record = CommitRecord | StartRecord | EndRecord | TombstoneRecord | UndoRecord | TagRecord | UnknownRecord


def encode_record(
    experiment: ObjectID, seq: int, session: str, kind: str, fields: Mapping[str, Any], subject: str = NO_SUBJECT
) -> tuple[RecordName, bytes]:
    """Return a record's name and bytes.

    Raises:
        InvalidInputError: The record exceeds 64 KiB.
    """
    data = MAGIC + canonical.encode({**fields, "v": 1, "kind": kind})
    if len(data) > MAX_RECORD_BYTES:
        raise InvalidInputError(f"a ref record of {len(data):,} bytes exceeds {MAX_RECORD_BYTES:,}")
    return RecordName(experiment, seq, session, kind, subject, record_hash(data)), data


class _Body:
    """The decoded map of a record, read key by key; what is wrong is a `CorruptionError` that names the key."""

    def __init__(self, name: RecordName, fields: Mapping[str, Any]) -> None:
        self._name = name
        self._fields = fields

    @property
    def _what(self) -> str:
        return f"ref record {self._name.key}"

    def damaged(self, why: str) -> CorruptionError:
        return CorruptionError(f"{self._what} is damaged: {why}", where=self._name.key)

    def commit(self) -> CommitRecord:
        """Return the record of a commit that this is."""
        name = self._name
        encoded = self._fields.get("commit")
        if type(encoded) is not bytes or commit_id(encoded).hex() != name.subject:
            raise self.damaged("its commit is not the one that its name says")
        commit = decode_commit(encoded, f"commit {name.subject}")
        if commit.seq != name.seq or (commit.experiment or ObjectID.parse(name.subject)) != name.experiment:
            raise self.damaged("its commit is of another experiment or seq than its name says")
        return CommitRecord(
            name,
            commit,
            self._packset(),
            self._packs("meta"),
            self._frame("locator"),
            self._number("files"),
            self._number("bytes"),
            self._number("new_bytes"),
            self._number("duration"),
            self._number("stored"),
        )

    def start(self) -> StartRecord:
        """Return the record of a session's start that this is."""
        environment, locator = self._fields.get("environment"), self._fields.get("locator")
        if environment is not None and (type(environment) is not bytes or len(environment) != ID_BYTES):
            raise self.damaged("environment is not an id")
        return StartRecord(
            self._name,
            self._number("time"),
            self._map("capture"),
            ObjectID(environment) if environment is not None else None,
            self._packset() if environment is not None else Packset(),
            self._frame("locator") if locator is not None else None,
        )

    def end(self) -> EndRecord:
        """Return the record of a session's end that this is."""
        status = self._fields.get("status")
        if status not in ("finished", "failed", "stopped"):
            raise self.damaged(f"status {status!r} is not known")
        exception = self._map("exception") or None
        code = self._number("exit") if "exit" in self._fields else None
        return EndRecord(self._name, self._number("time"), status, exception, self._number("duration"), code)

    def tombstone(self) -> TombstoneRecord:
        """Return the tombstone that this is."""
        sessions, commits = self._map("sessions"), self._packs("commits")
        if ("sessions" in self._fields) == ("commits" in self._fields):
            raise self.damaged("it names both sessions and commits, or neither")
        for session, seq in sessions.items():
            if not is_session(session) or type(seq) is not int or not 0 <= seq <= _MAX_SEQ:
                raise self.damaged("sessions is not a map of sessions to seqs")
        if len(commits) > MAX_HIDDEN_COMMITS:
            raise self.damaged(f"it names more than {MAX_HIDDEN_COMMITS:,} commits")
        return TombstoneRecord(self._name, self._number("time"), self._text("author"), sessions, frozenset(commits))

    def undo(self) -> UndoRecord:
        """Return the undo of a tombstone that this is."""
        of = self._fields.get("tombstone")
        if type(of) is not bytes or len(of) != _HASH_BYTES:
            raise self.damaged("tombstone is not the hash of a record")
        return UndoRecord(self._name, self._number("time"), self._text("author"), of.hex())

    def tag(self) -> TagRecord:
        """Return the change of tags, name or note that this is."""
        if self._name.subject == NO_SUBJECT:
            raise self.damaged("it is about no commit")
        tags = self._map("tags")
        name, note = (self._text(key) if key in self._fields else None for key in ("name", "note"))
        add, remove = (self._texts(tags.get(key, [])) for key in ("add", "remove"))
        return TagRecord(self._name, self._number("time"), self._text("author"), add, remove, name, note)

    def _frame(self, key: str) -> FrameRef:
        return FrameRef.decode(self._fields.get(key), self._what)

    def _text(self, key: str) -> str:
        value = self._fields.get(key, "")
        if not isinstance(value, str):
            raise self.damaged(f"{key} is not text")
        return value

    def _texts(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.damaged("tags are not lists of text")
        return tuple(value)

    def _number(self, key: str) -> int:
        value = self._fields.get(key, 0)
        if type(value) is not int:
            raise self.damaged(f"{key} is not a number")
        return value

    def _map(self, key: str) -> Mapping[str, Any]:
        value = self._fields.get(key, {})
        if not isinstance(value, dict):
            raise self.damaged(f"{key} is not a map")
        return value

    def _packs(self, key: str) -> tuple[ObjectID, ...]:
        value = self._fields.get(key, [])
        if not isinstance(value, list) or any(type(one) is not bytes or len(one) != ID_BYTES for one in value):
            raise self.damaged(f"{key} is not a list of ids")
        return tuple(ObjectID(one) for one in value)

    def _packset(self) -> Packset:
        if ("packset" in self._fields) == ("packset_at" in self._fields):
            raise self.damaged("it names its packs twice or not at all")
        if "packset_at" in self._fields:
            return Packset(at=self._frame("packset_at"))
        listed = self._packs("packset")
        if any(one >= other for one, other in pairwise(listed)):
            raise self.damaged("packset is not sorted")
        return Packset(frozenset(listed))


def decode_record(name: RecordName, data: bytes) -> Record:
    """Return the record that `data` holds under `name`; `CorruptionError` that names the key for anything else."""
    sealed = _Body(name, {})
    if len(data) > MAX_RECORD_BYTES or not data.startswith(MAGIC):
        raise sealed.damaged("it is not a ref record")
    if record_hash(data) != name.record_hash:
        raise sealed.damaged("its bytes do not match its name")
    fields = canonical.decode(data[len(MAGIC) :], "ref record " + name.key)
    if not isinstance(fields, dict) or type(fields.get("v")) is not int:
        raise sealed.damaged("it has no version")
    if fields["v"] != 1 or fields.get("kind") != name.kind:
        raise sealed.damaged("it is of another kind than its name says")
    body = _Body(name, fields)
    match name.kind:
        case "c":
            return body.commit()
        case "s":
            return body.start()
        case "e":
            return body.end()
        case "x":
            return body.tombstone()
        case "u":
            return body.undo()
        case "t":
            return body.tag()
    return UnknownRecord(name, fields)
