"""What is to be copied: records in the order in which they are published, and the packs that each needs. SPEC §12."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from replicate.errors import CorruptionError, ReplicateError
from replicate.objects.frames import FrameRef
from replicate.objects.ids import ID_BYTES, ObjectID
from replicate.refs import CommitRecord, Record, RecordName, StartRecord, UnknownRecord
from replicate.refs.records import Packset
from replicate.reporting import Reporter
from replicate.sync.contents import Contents
from replicate.threads import side_by_side
from replicate.transport import Transport

Selection = Mapping[ObjectID, frozenset[ObjectID] | None]
"""Experiments, and of each the checkpoints that are meant: None for all."""

_READ_AHEAD = 256
_KEPT_BODIES = 64 << 20
_RANKS = {"s": 1, "x": 2, "u": 3, "c": 4, "e": 6}
_OF_A_COMMIT = ("t", "m")


@dataclass(slots=True)
class Step:
    """One record, and every pack that must be there before it.

    Attributes:
        name: The record's.
        size_bytes: Of the record.
        packs: Sorted.
        meta: Those of them that are meta packs for sure.
        body: The record's bytes, where they are kept.
    """

    name: RecordName
    size_bytes: int
    packs: Sequence[ObjectID]
    meta: frozenset[ObjectID]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be copied, and why."""

    key: str
    error: ReplicateError


@dataclass(slots=True)
class Plan:
    """What is to be copied.

    Attributes:
        steps: In the order of publishing.
        packs: The packs that are to be copied for them, with their bytes.
        failures: Records whose packs cannot be told.
        unreadable: Those, and roots that cannot be read: what follows them has to wait.
    """

    steps: list[Step] = field(default_factory=list)
    packs: dict[ObjectID, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unreadable: list[RecordName] = field(default_factory=list)

    @property
    def experiments(self) -> set[ObjectID]:
        """The experiments that they belong to."""
        return {step.name.experiment for step in self.steps}


def is_wanted(name: RecordName, selection: Selection | None) -> bool:
    """Tell whether a record belongs to what was selected: with a checkpoint go its root, and all sessions."""
    commits = None if selection is None else selection[name.experiment]
    if commits is None or name.kind not in ("c", *_OF_A_COMMIT):
        return True
    return name.subject == name.experiment.hex() or name.subject in {one.hex() for one in commits}


def is_root(name: RecordName) -> bool:
    """Tell whether a record is that of an experiment's root commit."""
    return name.kind == "c" and name.subject == name.experiment.hex()


def publishing_order(name: RecordName) -> tuple[ObjectID, int, int, str, str]:
    """Return what sorts records: an experiment's root, sessions, what is removed, commits by seq, the rest, ends.

    So a session's records go in order of seq, its end after them, and nothing is listed before its root, or although
    it was removed.
    """
    rank = 0 if is_root(name) else _RANKS.get(name.kind, 5)
    return name.experiment, rank, name.seq, name.session, name.record_hash


class Reader:
    """Turns records into steps. Packs that several name are the same object in memory.

    Args:
        sources: Where a record is read from: the first that has it whole.
        on_damage: Hears of a record that none has whole; it is left out.
        jobs: How many are read at a time.

    Attributes:
        failures: Records whose packs cannot be told.
        unreadable: Those, and roots that cannot be read.
    """

    def __init__(self, sources: Sequence[Contents], on_damage: Callable[[CorruptionError], None], jobs: int) -> None:
        self._sources = sources
        self._jobs = jobs
        self._on_damage = on_damage
        self._packs: dict[ObjectID, ObjectID] = {}
        self._kept = 0
        self.failures: list[Failure] = []
        self.unreadable: list[RecordName] = []

    def steps(self, names: Iterable[RecordName]) -> Iterator[Step]:
        """Yield the steps of some records, in the order of publishing."""
        for name, (record, body) in self._read_all(sorted(names, key=publishing_order)):
            try:
                packs, meta = self._packs_of(record)
            except CorruptionError as exc:
                self.failures.append(Failure(name.key, exc))
                self.unreadable.append(name)
                continue
            self._kept += len(body)
            shared = sorted(self._packs.setdefault(pack, pack) for pack in packs | meta)
            yield Step(name, len(body), shared, meta, body if self._kept <= _KEPT_BODIES else None)

    def _read_all(self, names: Sequence[RecordName]) -> Iterator[tuple[RecordName, tuple[Record, bytes]]]:
        """Yield the records that can be read, in this order."""
        for first in range(0, len(names), _READ_AHEAD):
            some = names[first : first + _READ_AHEAD]
            found = dict(side_by_side(((name, 0) for name in some), self.read, self._jobs))
            for name in some:
                outcome = found[name]
                if isinstance(outcome, CorruptionError):
                    self._on_damage(outcome)
                    self.unreadable += [name] if is_root(name) else []  # of others a listing tells nothing either
                elif isinstance(outcome, ReplicateError):
                    raise outcome
                elif outcome is not None:
                    yield name, outcome

    def read(self, name: RecordName) -> tuple[Record, bytes] | None:
        """Return a record and its bytes; None when no source has it. Raises the last source's `CorruptionError`."""
        damage: CorruptionError | None = None
        for source in self._sources:
            try:
                found = source.read(name)
            except CorruptionError as exc:
                damage = exc
                continue
            if found is not None:
                return found
        if damage is not None:
            raise damage
        return None

    def _packs_of(self, record: Record) -> tuple[frozenset[ObjectID], frozenset[ObjectID]]:
        """Return every pack that a record needs, and which meta packs it names."""
        if isinstance(record, CommitRecord):
            packset, frames, meta = record.packset, [record.locator], record.meta
        elif isinstance(record, StartRecord):
            packset, frames, meta = record.packset, [record.locator] if record.locator else [], ()
        elif isinstance(record, UnknownRecord):
            packset, frames, meta = _named_packs(record), [], ()
        else:
            return frozenset(), frozenset()
        frames += [packset.at] if packset.at else []
        return self._read_packset(packset), frozenset([*meta, *(frame.pack for frame in frames)])

    def _read_packset(self, packset: Packset) -> frozenset[ObjectID]:
        damage: CorruptionError | None = None
        for source in self._sources:
            try:
                return source.refs.read_packset(packset)
            except CorruptionError as exc:
                damage = exc
        assert damage is not None
        raise damage


def _named_packs(record: UnknownRecord) -> Packset:
    """Return the packset of a record of another kind, by the keys that every kind uses for it."""
    if "packset_at" in record.fields:
        return Packset(at=FrameRef.decode(record.fields["packset_at"], record.name.key))
    listed = record.fields.get("packset", [])
    if not isinstance(listed, list) or any(type(one) is not bytes or len(one) != ID_BYTES for one in listed):
        raise CorruptionError(f"{record.name.key} names packs in a way that is not known", where=record.name.key)
    return Packset(frozenset(ObjectID(one) for one in listed))


class Planner(ABC):
    """Finds out what is to be copied out of a store, and reads its records for that.

    Args:
        source: The store.
        experiments: Which, and which of their checkpoints; None for everything.
        reporter: Hears of damage.
        jobs: How many requests at a time.
        undone: What is not done with what is damaged: `pushed`.
        known: Keys of records that need not be copied.

    Attributes:
        is_empty: Whether there is nothing in the source to begin with.
    """

    def __init__(
        self,
        source: Transport,
        experiments: Selection | None,
        reporter: Reporter,
        jobs: int,
        *,
        undone: str,
        known: Set[str] = frozenset(),
    ) -> None:
        self._source = source
        self._experiments = experiments
        self._reporter = reporter
        self._jobs = jobs
        self._undone = undone
        self._known = known
        self.is_empty = False
        self._reader: Reader

    def read_body(self, name: RecordName) -> bytes | None:
        """Return the bytes of a record of the plan; None when it is gone."""
        found = self._reader.read(name)
        return found[1] if found else None

    def plan(self) -> Plan:
        """Return what is to be copied. What is folded while it is read is found in its catalog (I2)."""
        contents = self._look()
        plan = self._plan(contents)
        return self._plan(self._look()) if contents.is_outdated else plan

    @abstractmethod
    def _lacking(self, steps: list[Step]) -> tuple[list[Step], dict[ObjectID, int]]:
        """Return those of the source's steps that the target lacks, and the packs to be copied with their bytes."""

    def _sources(self, contents: Contents) -> Sequence[Contents]:
        """Return where records are read from, when this is what the source holds."""
        return [contents]

    def _plan(self, contents: Contents) -> Plan:
        names = contents.names(self._known)
        self.is_empty = contents.is_empty
        self._reader = Reader(self._sources(contents), self._tell, self._jobs)
        wanted = [name for name in names if is_wanted(name, self._experiments)]
        steps, packs = self._lacking(list(self._reader.steps(wanted)))
        return Plan(steps, packs, self._reader.failures, self._reader.unreadable)

    def _look(self) -> Contents:
        return Contents(self._source, self._experiments, self._tell, self._jobs)

    def _tell(self, error: CorruptionError) -> None:
        self._reporter.warn(f"{error.message}; it is not {self._undone}")


def batches(
    steps: Sequence[Step], sizes: Mapping[ObjectID, int], *, most_bytes: int, most_steps: int
) -> Iterator[list[Step]]:
    """Yield runs of steps whose new packs have so many bytes together, or one more."""
    batch: list[Step] = []
    seen: set[ObjectID] = set()
    held = 0
    for step in steps:
        batch.append(step)
        new = [pack for pack in step.packs if pack in sizes and pack not in seen]
        seen.update(new)
        held += sum(sizes[pack] for pack in new)
        if held >= most_bytes or len(batch) >= most_steps:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def count_kinds(steps: Iterable[Step]) -> Counter[str]:
    """Return how many records there are of each kind; a root counts as `root`."""
    return Counter("root" if is_root(step.name) else step.name.kind for step in steps)
