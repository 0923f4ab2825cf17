"""One experiment as its ref records tell it: root, checkpoints in order, sessions, heads, what is hidden. Floor 4.

SPEC §9.2. What is told is a function of the set of records: their order, and copies of them, do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from replicate.heads import find_heads
from replicate.objects.ids import ObjectID
from replicate.refs import (
    CommitRecord,
    EndRecord,
    Record,
    StartRecord,
    TagRecord,
    TombstoneRecord,
    UndoRecord,
)
from replicate.summary import CheckpointSummary, ExperimentSummary, OpenSession


@dataclass(frozen=True)
class ExperimentHistory:
    """One experiment.

    Attributes:
        root: The record of its root commit.
        checkpoints: Its visible checkpoints in order of seq; of a fork, by time.
        starts: Session starts, oldest first.
        ends: Session ends by session.
        hidden: Commits that a tombstone hides, in the same order; the root may be among them.
        tombstones: Those in force.
        tag_records: Changes of tags, names and notes, in the order in which they apply.
    """

    root: CommitRecord
    checkpoints: tuple[CommitRecord, ...]
    starts: tuple[StartRecord, ...] = ()
    ends: Mapping[str, EndRecord] = field(default_factory=dict)
    hidden: tuple[CommitRecord, ...] = ()
    tombstones: tuple[TombstoneRecord, ...] = ()
    tag_records: tuple[TagRecord, ...] = ()

    @property
    def experiment_id(self) -> ObjectID:
        """The experiment's id: its root commit's."""
        return self.root.commit_id

    @property
    def records(self) -> tuple[CommitRecord, ...]:
        """Root and visible checkpoints."""
        return (self.root, *self.checkpoints)

    @property
    def is_hidden(self) -> bool:
        """Whether nothing of it is visible: its root and every checkpoint are hidden."""
        return not self.checkpoints and self.experiment_id in self._hidden_ids

    @cached_property
    def _hidden_ids(self) -> frozenset[ObjectID]:
        return frozenset(record.commit_id for record in self.hidden)

    def hides(self, record: CommitRecord) -> bool:
        """Tell whether a commit of it is hidden; its root is not while a checkpoint is visible."""
        return self.is_hidden if record.commit.is_root else record.commit_id in self._hidden_ids

    @cached_property
    def commits(self) -> dict[ObjectID, CommitRecord]:
        """Every commit by id, hidden ones too."""
        return {record.commit_id: record for record in (*self.records, *self.hidden)}

    def before(self, record: CommitRecord) -> CommitRecord | None:
        """Return the nearest visible commit of the experiment that a commit follows, None for the root."""
        at = None if record.commit.is_root else self.commits.get(record.commit.parents[0])
        while at is not None and self.hides(at) and not at.commit.is_root:
            at = self.commits.get(at.commit.parents[0])
        return at

    @cached_property
    def heads(self) -> tuple[CommitRecord, ...]:
        """The visible commits that no visible one follows, newest last. More than one is a fork."""
        return find_heads(self.records, {record.commit_id: record for record in self.hidden})

    @property
    def latest(self) -> CommitRecord | None:
        """The newest checkpoint: of the highest seq, then of the latest time."""
        return max(self.checkpoints, key=lambda record: (record.commit.seq, record.commit.time_ns), default=None)

    @cached_property
    def primary_metric(self) -> tuple[str, str] | None:
        """Name and goal of the metric that tells which checkpoint is best: the newest that was given."""
        for record in reversed(self.checkpoints):
            if record.commit.primary_metric:
                return record.commit.primary_metric
        return self.root.commit.primary_metric

    @cached_property
    def best(self) -> CommitRecord | None:
        """The checkpoint with the best primary metric, the earliest of equals; None when none has a number for it."""
        if self.primary_metric is None:
            return None
        name, goal = self.primary_metric
        best: CommitRecord | None = None
        best_value = math.nan
        for record in self.checkpoints:
            value = number(record.commit.metrics.get(name))
            if value is None:
                continue
            if best is None or (value < best_value if goal == "minimize" else value > best_value):
                best, best_value = record, value
        return best

    def start_of(self, record: CommitRecord) -> StartRecord | None:
        """Return the start of the session that saved a commit, None when it is not recorded."""
        return next((start for start in self.starts if start.name.session == record.name.session), None)

    def command_of(self, record: CommitRecord) -> str:
        """Return how the process that saved a commit was started; a resumed experiment has several."""
        start = self.start_of(record)
        command = start.capture.get("command") if start else None
        return command if isinstance(command, str) else self.root.commit.command

    @property
    def newest_session(self) -> StartRecord | None:
        """The session that began last."""
        return self.starts[-1] if self.starts else None

    # -- tags ------------------------------------------------------------------------------------------------------

    @cached_property
    def name(self) -> str | None:
        """The name that it was given last; None when it has none."""
        name = self.root.commit.name
        for record in self.tag_records:
            if record.new_name is not None and record.commit_id == self.experiment_id:
                name = record.new_name or None
        return name

    @cached_property
    def _tags(self) -> dict[ObjectID, tuple[str, ...]]:
        tags = {self.experiment_id: dict.fromkeys(self.root.commit.tags)}
        for record in self.tag_records:
            own = tags.setdefault(record.commit_id, {})
            for tag in record.remove:
                own.pop(tag, None)
            own.update(dict.fromkeys(record.add))
        return {commit: tuple(sorted(own)) for commit, own in tags.items() if own}

    def tags_of(self, commit: ObjectID) -> tuple[str, ...]:
        """Return the tags of the root, which are the experiment's, or of a checkpoint; sorted."""
        return self._tags.get(commit, ())

    def note_of(self, commit: ObjectID) -> str:
        """Return the note on the root, which is the experiment's, or on a checkpoint; "" when there is none."""
        note = ""
        for record in self.tag_records:
            if record.note is not None and record.commit_id == commit:
                note = record.note
        return note

    @cached_property
    def tagged(self) -> dict[ObjectID, tuple[str, ...]]:
        """The tags of visible checkpoints, by id."""
        return {one.commit_id: tags for one in self.checkpoints if (tags := self.tags_of(one.commit_id))}

    # -- the summary -----------------------------------------------------------------------------------------------

    @cached_property
    def summary(self) -> ExperimentSummary:
        """What listing shows of it."""
        commit = self.root.commit
        newest = self.newest_session
        end = self.ends.get(newest.name.session) if newest else None
        python = self.starts[0].capture.get("python", "") if self.starts else ""
        return ExperimentSummary(
            self.experiment_id,
            self.name,
            commit.author,
            commit.time_ns,
            commit.command,
            commit.params,
            self.tags_of(self.experiment_id),
            self.note_of(self.experiment_id),
            self.primary_metric,
            str(python),
            self.root.files,
            self.root.bytes,
            len(self.checkpoints),
            tuple(dict.fromkeys(name for one in self.checkpoints for name in one.commit.metrics)),
            tuple(head.commit_id for head in self.heads),
            summarise(self.latest) if self.latest else None,
            summarise(self.best) if self.best else None,
            self.tagged,
            tuple(self._open_sessions()),
            end.status if end else None,
            _exception(end),
            self.is_hidden,
            end.time_ns if end else 0,
            len(self.hidden),
            max((one.commit.time_ns for one in self.checkpoints), default=0),
        )

    def _open_sessions(self) -> Iterator[OpenSession]:
        for start in self.starts:
            session = start.name.session
            if session not in self.ends:
                seqs = [one.commit.seq for one in self.checkpoints if one.name.session == session]
                host = start.capture.get("host", "")
                yield OpenSession(session, str(host), start.time_ns, max(seqs, default=start.name.seq))


def summarise(record: CommitRecord) -> CheckpointSummary:
    """Return a checkpoint without its tree."""
    commit = record.commit
    return CheckpointSummary(
        record.commit_id,
        commit.seq,
        commit.step,
        commit.time_ns,
        commit.metrics,
        commit.primary_metric,
        record.files,
        record.bytes,
        record.new_bytes,
        commit.unstable,
        commit.skipped,
    )


def _exception(end: EndRecord | None) -> str | None:
    """Return what ended a session, as `Type: message`."""
    if end is None or not end.exception:
        return None
    kind, message = end.exception.get("type", ""), end.exception.get("message", "")
    return f"{kind}: {message}" if message else str(kind)


def number(value: object) -> float | None:
    """Return a metric's value, an int exactly as it is, or None if it is no number to compare by."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if math.isnan(value) else value


def assemble(records: Iterable[Record]) -> ExperimentHistory | None:
    """Return what the records of one experiment tell, in whatever order they come; None when its root is missing."""
    commits: dict[ObjectID, CommitRecord] = {}
    published: list[CommitRecord] = []
    starts: list[StartRecord] = []
    ends: dict[str, EndRecord] = {}
    tombstones: dict[str, TombstoneRecord] = {}
    undone: set[str] = set()
    tags: dict[str, TagRecord] = {}
    for record in sorted(records, key=lambda one: one.name.key):
        if isinstance(record, CommitRecord):
            commits.setdefault(record.commit_id, record)  # later ones are alternatives (SPEC §9.2)
            published.append(record)
        elif isinstance(record, StartRecord):
            starts.append(record)
        elif isinstance(record, EndRecord):
            ends[record.name.session] = record
        elif isinstance(record, TombstoneRecord):
            tombstones.setdefault(record.name.record_hash, record)
        elif isinstance(record, UndoRecord):
            undone.add(record.tombstone)
        elif isinstance(record, TagRecord):
            tags.setdefault(record.name.record_hash, record)
    root = next((record for record in commits.values() if record.commit.is_root), None)
    if root is None:
        return None
    in_force = tuple(one for digest, one in tombstones.items() if digest not in undone)
    ordered = sorted(commits.values(), key=lambda r: (r.commit.seq, r.commit.time_ns, r.commit_id))
    gone = {one.commit_id for one in published if any(tombstone.hides(one) for tombstone in in_force)}
    hidden = tuple(one for one in ordered if one.commit_id in gone)
    return ExperimentHistory(
        root,
        tuple(one for one in ordered if one is not root and one.commit_id not in gone),
        tuple(sorted(starts, key=lambda r: (r.time_ns, r.name.session))),
        ends,
        hidden,
        in_force,
        tuple(sorted(tags.values(), key=lambda r: (r.time_ns, r.name.record_hash))),
    )
