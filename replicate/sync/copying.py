"""Copying packs and records from one store to another, so that stopping anywhere does no harm. SPEC §12, I1, I3.

For some records at a time: data packs, meta packs, validate, records, confirm.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from replicate.errors import (
    CorruptionError,
    ReplicateError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageMissingError,
    StorageReplacedError,
    StorageUnreachableError,
)
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.refs import RecordName
from replicate.reporting import Reporter
from replicate.sync.control import Control
from replicate.sync.planning import Failure, Plan, Step, batches, count_kinds, is_root
from replicate.sync.transfer import copy_pack
from replicate.text import format_bytes, plural
from replicate.threads import side_by_side, worker_pool
from replicate.transport import Transport

_BATCH_BYTES = 1 << 30
_BATCH_STEPS = 256
_PATIENCE = 3  # packs or records in a row that could not be reached
_HOPELESS = (StorageDeniedError, StorageMissingError, StorageFullError)


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied; of a dry run, what would be.

    Attributes:
        experiments: Those of which something was copied.
        checkpoints: How many were published.
        records: How many records were published, those of experiments and checkpoints among them.
        packs: How many packs were copied.
        size_bytes: Of these packs.
        left: How many records were to be copied and were not.
        failures: Why.
        is_empty: Whether there was nothing in the source to begin with.
    """

    experiments: tuple[ObjectID, ...] = ()
    checkpoints: int = 0
    records: int = 0
    packs: int = 0
    size_bytes: int = 0
    left: int = 0
    failures: tuple[Failure, ...] = ()
    is_empty: bool = False


def planned(plan: Plan, *, is_empty: bool) -> Copied:
    """Return what copying all of a plan comes to."""
    checkpoints = count_kinds(plan.steps)["c"]
    size = sum(plan.packs.values())
    experiments = tuple(sorted(plan.experiments))
    return Copied(experiments, checkpoints, len(plan.steps), len(plan.packs), size, 0, tuple(plan.failures), is_empty)


class Copying:
    """Copies what a plan says, batch by batch.

    Args:
        source: The store to copy from.
        target: The store to copy to.
        control: Its control keys, looked at before the plan was made.
        read_body: Reads a record's bytes that the plan does not hold; None when it is gone.
        note_packs: Called with packs once they are durable in the target.
        note_steps: Called with records once they are confirmed there.
        reporter: Hears of progress.
        jobs: How many transfers at a time.
    """

    def __init__(
        self,
        source: Transport,
        target: Transport,
        control: Control,
        *,
        read_body: Callable[[RecordName], bytes | None],
        note_packs: Callable[[Iterable[ObjectID]], None],
        note_steps: Callable[[Sequence[Step]], None],
        reporter: Reporter,
        jobs: int,
    ) -> None:
        self._source = source
        self._target = target
        self._control = control
        self._read_body = read_body
        self._note_packs = note_packs
        self._note_steps = note_steps
        self._reporter = reporter
        self._jobs = jobs
        self._waiting: dict[ObjectID, int] = {}
        self._tried: set[ObjectID] = set()
        self._failures: list[Failure] = []
        self._done: list[Step] = []
        self._packs = self._bytes = 0
        self._unreached = 0
        self._is_over = False
        self._rootless: set[ObjectID] = set()
        self._not_published: set[str] = set()

    def _tell_stop(self, plan: Plan) -> None:
        """Say how far it came: what was copied stays, and is not copied again."""
        size = format_bytes(self._bytes)
        packs = [f"{size} in {self._packs:,} of {plural(len(plan.packs), 'pack')}"] if plan.packs else []
        records = f"{len(self._done):,} of {plural(len(plan.steps), 'record')}"
        done = " and ".join([*packs, records])
        self._reporter.notice(f"stopped: {done} are copied; the same command goes on from there")

    def run(self, plan: Plan, task: str) -> Copied:
        """Copy all that can be, and tell what was.

        Raises:
            StorageReplacedError: The target is another store than at first.
            UnsupportedFormatError: Since then a newer version was there.
        """
        self._waiting = dict(plan.packs)
        self._failures = list(plan.failures)
        for name in plan.unreadable:
            self._hold_back(name)
        self._reporter.begin(task, 0 if plan.packs else len(plan.steps), sum(plan.packs.values()))
        try:
            for batch in batches(plan.steps, plan.packs, most_bytes=_BATCH_BYTES, most_steps=_BATCH_STEPS):
                self._copy(batch)
                if self._is_over:
                    break
        except KeyboardInterrupt:
            self._reporter.finish()
            self._tell_stop(plan)
            raise
        finally:
            self._reporter.finish()
        return Copied(
            tuple(sorted({step.name.experiment for step in self._done})),
            count_kinds(self._done)["c"],
            len(self._done),
            self._packs,
            self._bytes,
            left=len(plan.steps) - len(self._done) + len(plan.failures),
            failures=tuple(self._failures),
        )

    def _copy(self, batch: Sequence[Step]) -> None:
        meta = frozenset[ObjectID]().union(*(step.meta for step in batch))
        self._copy_packs({pack for step in batch for pack in step.packs} - meta)
        lacking = self._waiting.keys() - meta
        self._copy_packs({pack for step in batch if lacking.isdisjoint(step.packs) for pack in step.packs})
        ready = [step for step in batch if self._is_ready(step)]
        if not ready or self._is_over:
            return
        try:
            self._control.validate()
            published = self._publish(ready)
            if published:
                self._control.confirm()
        except StorageReplacedError:
            raise
        except StorageError as exc:  # published or not: the next time tells
            self._fail("ctl/", exc)
            self._is_over = True
            return
        self._done += published
        self._note_steps(published)

    def _copy_packs(self, packs: Set[ObjectID]) -> None:
        """Copy those of some packs that are not there, at most once each."""
        tasks = [(pack, self._waiting[pack]) for pack in sorted(packs - self._tried) if pack in self._waiting]
        self._tried.update(pack for pack, _ in tasks)

        arrived: dict[ObjectID, int] = {}

        def act(pack: ObjectID) -> int:
            arrived[pack] = copy_pack(self._source, self._target, pack)
            return arrived[pack]

        try:
            with self._workers() as pool:
                for pack, outcome in side_by_side(tasks, act, self._jobs, is_over=lambda: self._is_over, pool=pool):
                    if isinstance(outcome, ReplicateError):
                        self._fail(pack_key(pack), outcome)
                        continue
                    self._unreached = 0
                    self._note_arrival(pack, outcome)
                    self._reporter.advance(0, outcome)
        except BaseException:
            for pack, size in arrived.items():  # while the threads ended
                if pack in self._waiting:
                    self._note_arrival(pack, size)
            raise

    def _note_arrival(self, pack: ObjectID, size: int) -> None:
        self._note_packs([pack])
        del self._waiting[pack]
        self._packs += 1
        self._bytes += size

    @contextlib.contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that put nothing once the block has ended, however it did: the store may be unlocked then."""
        with worker_pool(self._jobs, "replicate-copy") as pool:
            try:
                yield pool
            except BaseException:
                self._is_over = True
                raise

    def _is_ready(self, step: Step) -> bool:
        """Tell whether everything that a record needs is there; keep in mind what must wait for it otherwise."""
        name = step.name
        needs = {f"{name.session} {name.experiment}"} if name.kind == "e" else {name.subject}
        if (
            not any(pack in self._waiting for pack in step.packs)
            and name.experiment not in self._rootless
            and (name.kind == "c" or not needs & self._not_published)
        ):
            return True
        self._hold_back(name)
        return False

    def _hold_back(self, name: RecordName) -> None:
        if is_root(name):
            self._rootless.add(name.experiment)
        if name.kind == "c":
            self._not_published |= {name.subject, f"{name.session} {name.experiment}"}

    def _publish(self, steps: Sequence[Step]) -> list[Step]:
        """Put records: those of an experiment one after the other, several experiments at a time."""
        by_experiment: dict[ObjectID, list[tuple[Step, bytes]]] = defaultdict(list)
        for step in steps:
            body = step.body if step.body is not None else self._read_body(step.name)
            if body is not None:
                by_experiment[step.name.experiment].append((step, body))
        published: list[Step] = []

        def act(experiment: ObjectID) -> tuple[list[Step], Failure | None]:
            done: list[Step] = []
            for step, body in by_experiment[experiment]:
                if self._is_over:
                    break
                try:
                    self._target.put(step.name.key, body)
                except ReplicateError as exc:
                    return done, Failure(step.name.key, exc)
                done.append(step)
            return done, None

        tasks = [(experiment, 0) for experiment in sorted(by_experiment)]
        with self._workers() as pool:
            for experiment, outcome in side_by_side(tasks, act, self._jobs, is_over=lambda: self._is_over, pool=pool):
                if isinstance(outcome, ReplicateError):  # pragma: no cover - `act` returns them
                    raise outcome
                done, failure = outcome
                published += done
                self._reporter.advance(len(done), 0)
                for step, _ in by_experiment[experiment][len(done) :]:
                    self._hold_back(step.name)
                if failure is not None:
                    self._fail(failure.key, failure.error)
        return published

    def _fail(self, key: str, error: ReplicateError) -> None:
        self._failures.append(Failure(key, error))
        self._unreached += isinstance(error, StorageUnreachableError)
        self._is_over |= isinstance(error, _HOPELESS) or self._unreached >= _PATIENCE


def is_damage(copied: Copied) -> bool:
    """Tell whether all that went wrong is that stored bytes are damaged: repeating does not help."""
    return bool(copied.failures) and all(isinstance(one.error, CorruptionError) for one in copied.failures)
