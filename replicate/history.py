"""Experiments as the ref records tell them: roots, checkpoints in order, sessions, heads. Floor 4. SPEC §9.2."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from replicate.objects.ids import ObjectID
from replicate.objects.model import Commit
from replicate.refs import CommitRecord, EndRecord, Record, StartRecord, UnknownRecord


@dataclass(frozen=True)
class ExperimentHistory:
    """One experiment.

    Attributes:
        root: The record of its root commit.
        checkpoints: Its checkpoints in order of seq; of a fork, by time.
        starts: Session starts, oldest first.
        ends: Session ends by session.
    """

    root: CommitRecord
    checkpoints: tuple[CommitRecord, ...]
    starts: tuple[StartRecord, ...]
    ends: dict[str, EndRecord]

    @property
    def experiment_id(self) -> ObjectID:
        """The experiment's id: its root commit's."""
        return self.root.commit_id

    @property
    def records(self) -> tuple[CommitRecord, ...]:
        """Root and checkpoints."""
        return (self.root, *self.checkpoints)

    @cached_property
    def heads(self) -> tuple[CommitRecord, ...]:
        """The commits that no other continues, newest last. More than one is a fork."""
        continued = {record.commit.parents[0] for record in self.checkpoints}
        return tuple(record for record in self.records if record.commit_id not in continued)

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

    def command_of(self, record: CommitRecord) -> str:
        """Return how the process that saved a commit was started; a resumed experiment has several."""
        for start in self.starts:
            if start.name.session == record.name.session and isinstance(start.capture.get("command"), str):
                return str(start.capture["command"])
        return self.root.commit.command

    @property
    def newest_session(self) -> StartRecord | None:
        """The session that began last."""
        return self.starts[-1] if self.starts else None


def number(value: object) -> float | None:
    """Return a metric's value, an int exactly as it is, or None if it is no number to compare by."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if math.isnan(value) else value


class History:
    """Every experiment of a store, oldest first."""

    def __init__(self, records: Iterable[Record]) -> None:
        commits: dict[ObjectID, dict[ObjectID, CommitRecord]] = defaultdict(dict)
        starts: dict[ObjectID, list[StartRecord]] = defaultdict(list)
        ends: dict[ObjectID, dict[str, EndRecord]] = defaultdict(dict)
        self.unknown: list[UnknownRecord] = []
        for record in records:
            experiment = record.name.experiment
            if isinstance(record, CommitRecord):
                commits[experiment].setdefault(record.commit_id, record)  # later ones are alternatives (SPEC §9.2)
            elif isinstance(record, StartRecord):
                starts[experiment].append(record)
            elif isinstance(record, EndRecord):
                ends[experiment][record.name.session] = record
            else:
                self.unknown.append(record)
        self.rootless = sorted(experiment for experiment in commits if experiment not in commits[experiment])
        found = []
        for experiment, by_id in commits.items():
            root = by_id.pop(experiment, None)
            if root is None:
                continue
            ordered = sorted(by_id.values(), key=lambda r: (r.commit.seq, r.commit.time_ns, r.commit_id))
            begun = tuple(sorted(starts[experiment], key=lambda r: (r.time_ns, r.name.session)))
            found.append(ExperimentHistory(root, tuple(ordered), begun, ends[experiment]))
        self.experiments: Sequence[ExperimentHistory] = sorted(
            found, key=lambda e: (e.root.commit.time_ns, e.experiment_id)
        )
        self._by_id = {experiment.experiment_id: experiment for experiment in self.experiments}

    def experiment(self, experiment_id: ObjectID) -> ExperimentHistory | None:
        """Return an experiment by its whole id."""
        return self._by_id.get(experiment_id)

    def experiment_of(self, record: CommitRecord) -> ExperimentHistory:
        """Return the experiment that a listed commit belongs to."""
        return self._by_id[record.name.experiment]

    def records(self) -> Iterator[CommitRecord]:
        """Yield every commit's record."""
        for experiment in self.experiments:
            yield from experiment.records

    @cached_property
    def commits(self) -> dict[ObjectID, CommitRecord]:
        """Every commit's record by id."""
        return {record.commit_id: record for record in self.records()}


def parent_of(history: History, commit: Commit) -> CommitRecord | None:
    """Return the record of a commit's first parent, if it has one and it is listed."""
    return history.commits.get(commit.parents[0]) if commit.parents else None
