"""Experiments as the ref records tell them: roots, checkpoints in order, sessions, heads, what is hidden. Floor 4.

SPEC §9.2. What is told is a function of the set of records: their order, and copies of them, do not matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

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


class Source(Protocol):
    """Where a `History` takes its experiments from."""

    @property
    def summaries(self) -> Sequence[ExperimentSummary]:
        """Every experiment, hidden ones too, in any order."""

    @property
    def rootless(self) -> Sequence[ObjectID]:
        """Experiments of which commits are there, but not the root."""

    def load(self, experiment_id: ObjectID) -> ExperimentHistory | None:
        """Return one experiment from its records, or None."""

    def find(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """Return (experiment, commit) of every commit, hidden ones too, whose id begins with some hex digits."""

    def find_experiments(self, prefix: str) -> Sequence[ObjectID]:
        """Return every experiment, hidden ones too, whose id begins with some hex digits."""

    @property
    def near_experiments(self) -> Collection[ObjectID] | None:
        """Experiments of which the repository elsewhere lacks commits; None if there is none, or it is not known."""

    def near_commits(self, experiment_id: ObjectID) -> Collection[ObjectID] | None:
        """Return the commits of an experiment that the repository elsewhere lacks; None as `near_experiments`."""

    def unreadable(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """Return (experiment, commit) of commits whose records are there, but cannot be read; or their root's cannot.

        Of those whose ids begin with some hex digits.
        """


class RecordsSource:
    """Experiments from records at hand."""

    def __init__(self, records: Iterable[Record]) -> None:
        by_experiment: dict[ObjectID, list[Record]] = defaultdict(list)
        for record in records:
            by_experiment[record.name.experiment].append(record)
        found = {one: assemble(own) for one, own in by_experiment.items()}
        self._experiments = {one: history for one, history in found.items() if history is not None}
        self.rootless = sorted(
            one
            for one, history in found.items()
            if history is None and any(isinstance(record, CommitRecord) for record in by_experiment[one])
        )

    @property
    def summaries(self) -> Sequence[ExperimentSummary]:
        """See `Source`."""
        return [one.summary for one in self._experiments.values()]

    def load(self, experiment_id: ObjectID) -> ExperimentHistory | None:
        """See `Source`."""
        return self._experiments.get(experiment_id)

    def find(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """See `Source`."""
        return [
            (history.experiment_id, commit)
            for history in self._experiments.values()
            for commit in history.commits
            if commit.hex().startswith(prefix)
        ]

    def find_experiments(self, prefix: str) -> Sequence[ObjectID]:
        """See `Source`."""
        return [one for one in self._experiments if one.hex().startswith(prefix)]

    @property
    def near_experiments(self) -> Collection[ObjectID] | None:
        """See `Source`. Records do not tell where they lie."""
        return None

    def near_commits(self, experiment_id: ObjectID) -> Collection[ObjectID] | None:
        """See `Source`."""
        return None

    def unreadable(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """See `Source`. There are only records that were read."""
        return ()


class History:
    """Every experiment of a store, oldest first. Records are read when an experiment is looked into."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._loaded: dict[ObjectID, ExperimentHistory] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """Return what some records tell."""
        return cls(RecordsSource(records))

    @cached_property
    def _all(self) -> Sequence[ExperimentSummary]:
        return sorted(self._source.summaries, key=lambda one: (one.time_ns, one.experiment_id))

    @cached_property
    def summaries(self) -> Sequence[ExperimentSummary]:
        """What listing shows of every visible experiment, oldest first."""
        return [one for one in self._all if not one.is_hidden]

    @cached_property
    def hidden(self) -> Sequence[ExperimentSummary]:
        """Experiments that tombstones hide, oldest first."""
        return [one for one in self._all if one.is_hidden]

    @property
    def rootless(self) -> Sequence[ObjectID]:
        """Experiments whose root is not in the store; they are not listed."""
        return self._source.rootless

    @cached_property
    def near_experiments(self) -> Collection[ObjectID] | None:
        """Experiments of which the repository elsewhere lacks commits; None if there is none, or it is not known."""
        return self._source.near_experiments

    def near_commits(self, experiment_id: ObjectID) -> Collection[ObjectID] | None:
        """Return the commits of an experiment that the repository elsewhere lacks; None as `near_experiments`."""
        return self._source.near_commits(experiment_id)

    def experiment(self, experiment_id: ObjectID, *, hidden: bool = False) -> ExperimentHistory | None:
        """Return an experiment by its whole id, None when there is none or, unless asked for, when it is hidden."""
        found = self._loaded.get(experiment_id) or self._source.load(experiment_id)
        if found is None or (found.is_hidden and not hidden):
            return None
        self._loaded[experiment_id] = found
        return found

    def experiment_of(self, record: CommitRecord) -> ExperimentHistory:
        """Return the experiment that a listed commit belongs to."""
        found = self.experiment(record.name.experiment, hidden=True)
        assert found is not None
        return found

    def find(self, prefix: str, *, hidden: bool = False) -> list[CommitRecord]:
        """Return the visible commits (or the hidden ones) whose ids begin with some hex digits, oldest first."""
        found = []
        for experiment_id, commit in self._source.find(prefix):
            experiment = self.experiment(experiment_id, hidden=True)
            record = experiment.commits.get(commit) if experiment else None
            if experiment is not None and record is not None and experiment.hides(record) == hidden:
                found.append((experiment.root.commit.time_ns, experiment_id, record.commit.seq, commit, record))
        return [record for *_, record in sorted(found)]

    def find_experiments(self, prefix: str) -> list[ExperimentHistory]:
        """Return the visible experiments whose ids begin with some hex digits."""
        loaded = (self.experiment(one) for one in self._source.find_experiments(prefix))
        return [one for one in loaded if one is not None]

    def unreadable(self, prefix: str) -> Sequence[tuple[ObjectID, ObjectID]]:
        """See `Source`. Lists the store, to tell what is damaged from what is not there."""
        return self._source.unreadable(prefix)

    @cached_property
    def experiments(self) -> Sequence[ExperimentHistory]:
        """Every visible experiment with all its records: reads the whole store, shard by shard."""
        for experiment_id in sorted(one.experiment_id for one in self.summaries):
            self.experiment(experiment_id)
        loaded = (self.experiment(one.experiment_id) for one in self.summaries)
        return [one for one in loaded if one is not None]

    def newest_checkpoints(self, number: int | None = None) -> list[CommitRecord]:
        """Return the newest visible checkpoints of all experiments, so many at most, the newest first.

        With a number, only those experiments are read that can have one of them.
        """

        def age(record: CommitRecord) -> tuple[int, int]:
            return -record.commit.time_ns, -record.commit.seq

        if number is None:
            return sorted((one for experiment in self.experiments for one in experiment.checkpoints), key=age)
        newest: list[CommitRecord] = []
        for summary in sorted((one for one in self.summaries if one.count), key=lambda one: -one.newest_ns):
            if len(newest) == number and newest[-1].commit.time_ns > summary.newest_ns:
                break
            experiment = self.experiment(summary.experiment_id)
            newest = sorted([*newest, *(experiment.checkpoints if experiment else ())], key=age)[:number]
        return newest

    def records(self) -> Iterator[CommitRecord]:
        """Yield every visible commit's record: reads the whole store."""
        for experiment in self.experiments:
            yield from experiment.records

    @cached_property
    def commits(self) -> dict[ObjectID, CommitRecord]:
        """Every visible commit's record by id: reads the whole store."""
        return {record.commit_id: record for record in self.records()}

    def parent_of(self, record: CommitRecord) -> CommitRecord | None:
        """Return the commit that one follows, for a root the one that it was forked from, if it is listed."""
        if not record.commit.is_root:
            return self.experiment_of(record).before(record)
        forked = record.commit.parents[:1]
        return next((one for parent in forked for one in self.find(parent.hex())), None)
