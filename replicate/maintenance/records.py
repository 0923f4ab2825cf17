"""Level 0: every key parses, and every record and catalog is what its name says. SPEC §5, §9, §10."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import msgpack

from replicate.errors import CorruptionError, InvalidInputError, KeyNotFoundError, ReplicateError
from replicate.maintenance.report import AffectedCommit, Findings, Note, Target
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.refs import CommitRecord, Record, RecordName, StartRecord, UnknownRecord
from replicate.refs.catalogs import MAX_CATALOG_BYTES, decode_full, decode_heads
from replicate.refs.names import NO_SUBJECT, CatalogName
from replicate.refs.records import MAGIC, MAX_RECORD_BYTES, decode_record
from replicate.reporting import Reporter
from replicate.repository import MARKER, MARKER_KEY, check_format
from replicate.transport import Transport

_PARTS = {
    "c": "a checkpoint",
    "s": "a session's start",
    "e": "how a session ended",
    "x": "a tombstone: what it hides shows again",
    "u": "the undo of a tombstone",
    "t": "a tag, name or note",
    "m": "metrics",
}


class Keys:
    """What a store holds, by name: refs, then catalogs, then packs (I2).

    Attributes:
        records: Keys of ref records by the first two digits of their experiment, sorted.
        catalogs: Full catalogs by the same two digits.
        sizes: Packs with their sizes.
    """

    def __init__(self, transport: Transport, findings: Findings, store: str) -> None:
        self._findings = findings
        self.records: dict[str, list[str]] = defaultdict(list)
        self.catalogs: dict[str, list[CatalogName]] = defaultdict(list)
        self.heads: list[CatalogName] = []
        try:
            check_format(transport, store)
        except CorruptionError as exc:
            findings.add("marker", MARKER_KEY, exc.message)
        for info in transport.list("refs/", details=False):
            try:
                self.records[RecordName.parse(info.key).key[5:7]].append(info.key)
            except CorruptionError as exc:
                findings.add("stray-key", info.key, exc.message)
        for info in transport.list("cat/", details=False):
            try:
                name = CatalogName.parse(info.key)
            except CorruptionError as exc:
                findings.add("stray-key", info.key, exc.message)
                continue
            if name.shard is None:
                self.heads.append(name)
            else:
                self.catalogs[name.shard].append(name)
        self.sizes = dict(self._list_packs(transport))
        for keys in self.records.values():
            keys.sort()
        self._check_marker(transport)

    def list_packs_again(self, transport: Transport) -> None:
        """List the packs once more (I2): those that came meanwhile are added."""
        self.sizes |= dict(self._list_packs(transport))

    def _list_packs(self, transport: Transport) -> Iterator[tuple[ObjectID, int]]:
        for info in transport.list("packs/"):
            name = info.key.rpartition("/")[2]
            try:
                pack = ObjectID.parse(name)
            except InvalidInputError:
                pack = None
            if pack is None or pack_key(pack) != info.key:
                self._findings.add("stray-key", info.key, f"{info.key} is not the key of a pack")
                continue
            yield pack, len(transport.get(info.key)) if info.size is None else info.size

    def _check_marker(self, transport: Transport) -> None:
        """A marker that is not there or cut short is damage only if there is something in the store."""
        try:
            held = transport.get(MARKER_KEY)
        except KeyNotFoundError:
            held = b""
        if held == MARKER or self._findings.knows(MARKER_KEY):
            pass
        elif self.records or self.catalogs or self.sizes:
            self._findings.add("marker", MARKER_KEY, "the marker of the store is not there, or cut short")
        elif held:
            self._findings.notes.append(Note("marker", 1, len(held), "the marker of a store that was never saved into"))
        for info in transport.list("ctl/", details=False):
            name = info.key.removeprefix("ctl/")
            if name.startswith(("feat~write~", "feat~gc~", "p~")):
                text = f"ctl/{name} is of a newer version: this one does not save into the store"
                self._findings.notes.append(Note("newer", 1, 0, text))


class _Broken(NamedTuple):
    """A record that cannot be read."""

    key: str
    why: str
    is_cut_short: bool
    size_bytes: int


class Records:
    """Reads every record: from `refs/`, and folded ones from catalogs.

    Attributes:
        experiments: How many there are.
        checkpoints: How many commits besides the roots.
        closures: How many commits and environments of sessions, after `check`.
    """

    def __init__(self, transport: Transport, keys: Keys, findings: Findings) -> None:
        self._transport = transport
        self._keys = keys
        self._findings = findings
        self._broken: dict[str, _Broken] = {}
        self._gone: set[str] = set()
        self._lacks_catalog = False
        self._commits: set[ObjectID] = set()
        self._parents: set[ObjectID] = set()
        self._roots: set[ObjectID] = set()
        self._rootless: dict[ObjectID, list[AffectedCommit]] = defaultdict(list)
        self._unknown: defaultdict[str, int] = defaultdict(int)
        self._count_of_keys = sum(map(len, keys.records.values()))
        self.closures = 0

    @property
    def experiments(self) -> int:
        """How many experiments have a record of a commit."""
        return len(self._roots) + len(self._rootless)

    @property
    def checkpoints(self) -> int:
        """How many commits there are that are no roots."""
        return len(self._commits) - len(self._roots)

    def check(self, reporter: Reporter) -> Iterator[Target]:
        """Check every record and catalog, and yield what has a closure; experiments one after the other, by seq."""
        reporter.begin("checking records", self._count_of_keys, 0)
        try:
            for name in self._keys.heads:
                self._read_catalog(name)
            for record in self._read():
                reporter.advance(1, 0)
                self._count(record)
                target = _target(record)
                if target is not None:
                    self.closures += 1
                    yield target
        finally:
            reporter.finish()
        if self._gone:
            self._tell_gone()
        self._tell_broken()
        self._tell_rootless()
        missing = len(self._parents - self._commits - self._damaged_commits() - self._rootless.keys())
        if missing and not self._lacks_catalog:
            text = "commits that others follow are not here: as it should be if only later ones were copied"
            self._findings.notes.append(Note("parents-elsewhere", missing, 0, text))
        for kind, count in sorted(self._unknown.items()):
            text = f"records are of kind {kind!r}, which this version does not know: they are kept, and not looked into"
            self._findings.notes.append(Note("unknown-records", count, 0, text))

    def targets(self) -> Iterator[Target]:
        """Read the records again, and yield what `check` did."""
        yield from (target for target in map(_target, self._read()) if target is not None)

    def _count(self, record: Record) -> None:
        experiment = record.name.experiment
        if isinstance(record, UnknownRecord):
            self._unknown[record.name.kind] += 1
        if not isinstance(record, CommitRecord):
            return
        self._commits.add(record.commit_id)
        if record.commit.is_root:
            self._roots.add(experiment)
            if record.commit.name:
                self._findings.name(experiment, record.commit.name)
            return
        self._parents.update(record.commit.parents)
        if experiment not in self._roots:  # of which the key comes first
            self._rootless[experiment].append(_affected(record))

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> Iterator[Record]:
        for shard in sorted({*self._keys.records, *self._keys.catalogs}):
            folded: dict[str, bytes] = {}
            for name in self._keys.catalogs.get(shard, ()):
                found = self._read_catalog(name)
                folded = found | folded if self._findings.knows(name.key) else folded | found
            for key in sorted({*self._keys.records.get(shard, ()), *folded}):
                record = self._read_record(key, folded.get(key))
                if record is not None:
                    yield record

    def _read_catalog(self, name: CatalogName) -> dict[str, bytes]:
        try:
            data = self._transport.get(name.key, 0, MAX_CATALOG_BYTES + 1)
            if name.shard is not None:
                catalog = decode_full(name, data)
                other = next((key for key in catalog.records if not catalog.holds(key)), None)
                if other is not None:
                    why = f"catalog {name.key} is damaged: what it holds as {other} is something else"
                    self._findings.add("catalog", name.key, why)
                return dict(catalog.records)
            decode_heads(name, data)
        except KeyNotFoundError:
            self._gone.add(name.key)
        except CorruptionError as exc:
            self._findings.add("catalog", name.key, exc.message)
        except ReplicateError as exc:
            self._findings.add("unreadable", name.key, exc.message)
        self._lacks_catalog |= name.shard is not None
        return {}

    def _read_record(self, key: str, body: bytes | None) -> Record | None:
        """Return a record as it lies under its key, else as a catalog holds it; None when neither can be read."""
        name = RecordName.parse(key)
        if key not in self._broken and (body is None or key in self._keys.records.get(key[5:7], ())):
            try:
                data = self._transport.get(key, 0, MAX_RECORD_BYTES + 1)
            except KeyNotFoundError:
                self._gone.add(key)
                return None if body is None else decode_record(name, body)
            except ReplicateError as exc:
                self._broken[key] = _Broken(key, exc.message, False, 0)
            else:
                try:
                    return decode_record(name, data)
                except CorruptionError as exc:
                    self._broken[key] = _Broken(key, exc.message, is_cut_short(data), len(data))
        if body is None:
            return None
        try:
            return decode_record(name, body)
        except CorruptionError as exc:
            self._broken.setdefault(key, _Broken(key, f"{exc.message} (in a catalog)", False, len(body)))
        return None

    # -- telling -----------------------------------------------------------------------------------------------------

    def _tell_gone(self) -> None:
        """What was listed and is not there was folded meanwhile, or cannot be read at all (I2)."""
        listed = {info.key for top in ("refs/", "cat/") for info in self._transport.list(top, details=False)}
        for key in sorted(self._gone):
            if key not in listed:
                continue
            self._gone.remove(key)
            why = f"{key} is listed, but it is not in the store"
            if key.startswith("refs/"):
                self._broken[key] = _Broken(key, why, False, 0)
            else:
                self._findings.add("catalog", key, why)
        if self._gone:
            text = "records were removed from the store meanwhile: check again to see all of it"
            self._findings.notes.append(Note("changed", len(self._gone), 0, text))

    def _tell_broken(self) -> None:
        cut_short = []
        for broken in self._broken.values():
            name = RecordName.parse(broken.key)
            commit = ObjectID.parse(name.subject) if name.kind == "c" and name.subject != NO_SUBJECT else None
            if broken.is_cut_short and commit not in self._parents:
                cut_short.append(broken)
                continue
            self._findings.add("record", broken.key, broken.why)
            if commit is None:
                self._findings.affect_part(broken.key, name.experiment, _PARTS.get(name.kind, "a record"))
            elif commit not in self._commits:
                lost = [AffectedCommit(commit, name.seq, None)]
                if name.seq == 0:
                    lost += self._rootless.get(name.experiment, [])
                self._findings.affect_part(broken.key, name.experiment, "", lost)
        if cut_short:
            listed = ", ".join(one.key for one in cut_short[:3]) + (", …" if len(cut_short) > 3 else "")
            text = f"records are cut short, and no checkpoint follows them: the files can be deleted: {listed}"
            size = sum(one.size_bytes for one in cut_short)
            self._findings.notes.append(Note("torn-records", len(cut_short), size, text))

    def _damaged_commits(self) -> set[ObjectID]:
        """Return the commits of which a record is there, but cannot be read."""
        names = map(RecordName.parse, self._broken)
        return {ObjectID.parse(name.subject) for name in names if name.kind == "c" and name.subject != NO_SUBJECT}

    def _tell_rootless(self) -> None:
        for experiment, commits in self._rootless.items():
            where = f"refs/{experiment.hex()[:2]}/{experiment.hex()}~00000000~"
            if any(key.startswith(where) and "~c~" in key for key in self._broken):
                continue  # that tells it
            why = f"the start of experiment {experiment.hex()} is not in the store: its checkpoints are not listed"
            self._findings.affect_part(self._findings.add("root-missing", where, why), experiment, "", commits)


def _affected(record: CommitRecord) -> AffectedCommit:
    return AffectedCommit(record.commit_id, record.commit.seq, record.commit.step)


def _target(record: Record) -> Target | None:
    """Return what has a closure of a record: a commit, or the environment that a session's start names."""
    name = record.name
    if isinstance(record, CommitRecord):
        return Target(
            name.key,
            name.experiment,
            _affected(record),
            "",
            record.commit.tree,
            record.packset,
            record.meta,
            record.locator,
        )
    if isinstance(record, StartRecord) and record.environment is not None and record.locator is not None:
        part = "the environment of a session"
        return Target(name.key, name.experiment, None, part, record.environment, record.packset, (), record.locator)
    return None


def is_cut_short(data: bytes) -> bool:
    """Tell whether bytes are what a write leaves that did not come to its end: a beginning, then nothing or zeros."""
    held = data.rstrip(b"\0")
    if len(data) - len(held) == 1:  # a record ends in 1: more likely a bit of it
        held = data
    if len(held) <= len(MAGIC):
        return MAGIC.startswith(held)
    if not held.startswith(MAGIC):
        return False
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(held[len(MAGIC) :])
    try:
        unpacker.skip()
    except msgpack.OutOfData:
        return True
    except (ValueError, msgpack.UnpackException):
        return False
    return False
