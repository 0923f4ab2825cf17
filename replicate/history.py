"""The experiments of a store, oldest first, and where they are found out from. Floor 4. SPEC §9.2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

from replicate.errors import ReplicateError
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord, Record
from replicate.summary import ExperimentSummary


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
    def loss(self) -> ReplicateError | None:
        """Why a repository elsewhere could not be read, so that there may be more than is told."""

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
    def loss(self) -> ReplicateError | None:
        """See `Source`. There are only these records."""
        return None

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

    @property
    def loss(self) -> ReplicateError | None:
        """Why a repository elsewhere could not be read, so that there may be more than is told."""
        return self._source.loss

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
