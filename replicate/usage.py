"""What experiments and checkpoints take in a store. Floor 6. SPEC §9.2 (packsets).

A pack is the smallest thing that can be freed. It is counted once: for the commit whose save wrote it, which its record
tells of meta packs; of data packs it is the first in order of time that needs it. So what all commits take, and what
none of them needs, are together what the packs take. Only records and the names of packs are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from replicate.errors import CorruptionError
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.refs import CommitRecord, Record, StartRecord
from replicate.refs.records import Packset
from replicate.repository import Repository

_Order = tuple[int, int, ObjectID, ObjectID | None]
"""Time, seq, experiment, commit; None for what a session's start needs. Who comes first wrote a pack that both need."""

_FIRST = -1 << 63


@dataclass(slots=True)
class CommitUsage:
    """What a commit takes, in bytes.

    Attributes:
        commit_id: Its id.
        seq, step: Its place in its experiment; the start has no step.
        logical: All its files.
        stored: Packs that were written for it.
        is_hidden: Whether it was removed.
        packs: Ids and sizes of these packs.
    """

    commit_id: ObjectID
    seq: int
    step: int | None
    logical: int
    stored: int = 0
    is_hidden: bool = False
    packs: tuple[tuple[ObjectID, int], ...] = ()


@dataclass(slots=True)
class ExperimentUsage:
    """What an experiment takes, in bytes.

    Attributes:
        experiment_id, name: Which.
        time_ns: When it began.
        commits: Its commits in order, removed ones too.
        sessions: What the starts of its sessions take: captured facts that are in no commit's packs.
        is_hidden: Whether all of it was removed.
        session_packs: Ids and sizes of the packs of its sessions.
    """

    experiment_id: ObjectID
    name: str | None
    time_ns: int
    commits: tuple[CommitUsage, ...]
    sessions: int = 0
    is_hidden: bool = False
    session_packs: tuple[tuple[ObjectID, int], ...] = ()

    @property
    def packs(self) -> list[tuple[ObjectID, int]]:
        """Ids and sizes of all packs that were written for it."""
        return [*self.session_packs, *(pack for one in self.commits for pack in one.packs)]

    @property
    def logical(self) -> int:
        """The files of all its commits, each as if it were alone."""
        return sum(one.logical for one in self.commits)

    @property
    def stored(self) -> int:
        """Packs that were written for it."""
        return self.sessions + sum(one.stored for one in self.commits)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store takes, in bytes.

    Attributes:
        experiments: Every experiment, removed ones too, oldest first.
        unreferred: Packs that no commit and no session needs: of saves that were interrupted, or are under way.
        removed: Packs that only removed commits need. Nothing is freed yet.
        records: Ref records and catalogs.
        missing: Packs that records name and that are not in the store.
    """

    experiments: tuple[ExperimentUsage, ...]
    unreferred: int
    removed: int
    records: int
    missing: tuple[ObjectID, ...] = ()

    @property
    def packs(self) -> int:
        """All packs."""
        return self.unreferred + sum(one.stored for one in self.experiments)

    @property
    def total(self) -> int:
        """All packs, records and catalogs."""
        return self.packs + self.records


@dataclass
class _Packs:
    """Who needs each pack first, and which packs something visible needs."""

    first: dict[ObjectID, _Order] = field(default_factory=dict)
    visible: set[ObjectID] = field(default_factory=set)

    def add(self, packs: Iterable[ObjectID], order: _Order, *, is_hidden: bool) -> None:
        """Count what one commit, or a session's start, needs."""
        for pack in packs:
            before = self.first.get(pack)
            if before is None or _rank(order) < _rank(before):
                self.first[pack] = order
            if not is_hidden:
                self.visible.add(pack)


def _rank(order: _Order) -> tuple[int, int, ObjectID, bool, bytes]:
    time, seq, experiment, commit = order
    return time, seq, experiment, commit is None, commit or b""


def measure(repository: Repository) -> Usage:
    """Return what every experiment takes. Records that cannot be read are told to the reporter and left out.

    Raises:
        StorageError: The storage failed.
    """
    sizes = {info.key: info.size or 0 for info in repository.transport.list("packs/")}
    records = sum(info.size or 0 for prefix in ("refs/", "cat/") for info in repository.transport.list(prefix))
    history = repository.history()
    known = [one.experiment_id for one in (*history.summaries, *history.hidden)]
    packs = _Packs()
    experiments = []
    for experiment in [*known, *history.rootless]:
        read = repository.refs.list(experiment)
        experiments.append(_measure_experiment(repository, experiment, read, packs))
        repository.refs.forget(read)
    owned: defaultdict[tuple[ObjectID, ObjectID | None], list[tuple[ObjectID, int]]] = defaultdict(list)
    removed = used = 0
    missing = []
    for pack, (_, _, experiment, commit) in packs.first.items():
        size = sizes.get(pack_key(pack))
        if size is None:
            missing.append(pack)
            continue
        used += size
        owned[experiment, commit].append((pack, size))
        removed += 0 if pack in packs.visible else size
    for one in experiments:
        one.session_packs = tuple(owned.get((one.experiment_id, None), ()))
        one.sessions = sum(size for _, size in one.session_packs)
        for commit_usage in one.commits:
            commit_usage.packs = tuple(owned.get((one.experiment_id, commit_usage.commit_id), ()))
            commit_usage.stored = sum(size for _, size in commit_usage.packs)
    experiments.sort(key=lambda one: (one.time_ns, one.experiment_id))
    return Usage(tuple(experiments), sum(sizes.values()) - used, removed, records, tuple(sorted(missing)))


def _measure_experiment(
    repository: Repository, experiment: ObjectID, records: Iterable[Record], packs: _Packs
) -> ExperimentUsage:
    history = assemble(records)
    times = _times(records)
    commits: dict[ObjectID, CommitUsage] = {}
    for record in records:
        if isinstance(record, CommitRecord):
            is_hidden = history is not None and history.hides(record)
            needed = {record.locator.pack, *record.meta, *_packs_of(repository, record.packset)}
            order = (times[record.commit_id], record.commit.seq, experiment, record.commit_id)
            packs.add(needed, order, is_hidden=is_hidden)
            packs.add(record.meta, (_FIRST, *order[1:]), is_hidden=is_hidden)
            commits.setdefault(
                record.commit_id,
                CommitUsage(record.commit_id, record.commit.seq, record.commit.step, record.bytes, is_hidden=is_hidden),
            )
        elif isinstance(record, StartRecord) and record.locator is not None:
            needed = {record.locator.pack, *_packs_of(repository, record.packset)}
            is_hidden = history is not None and history.is_hidden
            packs.add(needed, (record.time_ns, record.name.seq, experiment, None), is_hidden=is_hidden)
    ordered = tuple(sorted(commits.values(), key=lambda one: (one.seq, times[one.commit_id], one.commit_id)))
    return _titled(experiment, history, ordered, min(times.values(), default=0))


def _titled(
    experiment: ObjectID, history: ExperimentHistory | None, commits: tuple[CommitUsage, ...], time_ns: int
) -> ExperimentUsage:
    if history is None:
        return ExperimentUsage(experiment, None, time_ns, commits)
    began = history.root.commit.time_ns
    return ExperimentUsage(experiment, history.name, began, commits, is_hidden=history.is_hidden)


def _times(records: Iterable[Record]) -> Mapping[ObjectID, int]:
    """Return when each commit was saved, but never before the one that it follows: a clock may have been set back."""
    times: dict[ObjectID, int] = {}
    commits = [record for record in records if isinstance(record, CommitRecord)]
    for record in sorted(commits, key=lambda one: one.commit.seq):
        after = times.get(record.commit.parents[0], 0) if record.commit.parents else 0
        times[record.commit_id] = max(record.commit.time_ns, after)
    return times


def _packs_of(repository: Repository, packset: Packset) -> frozenset[ObjectID]:
    try:
        return repository.refs.read_packset(packset)
    except CorruptionError as exc:
        repository.reporter.warn(f"{exc.message}; what it lists is counted for others")
        return frozenset()
