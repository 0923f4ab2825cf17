"""Push: what this project's store has and another lacks is copied there. SPEC §12.

What the other is known to hold stands in the journal; where that does not tell, it is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from replicate.objects.ids import ObjectID
from replicate.refs import RecordName
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.sync.contents import Contents
from replicate.sync.control import Control
from replicate.sync.copying import Copied, Copying, planned
from replicate.sync.journal import Journal
from replicate.sync.planning import Plan, Reader, Selection, Step, is_wanted
from replicate.sync.transfer import DEFAULT_JOBS, pack_sizes
from replicate.transport import Transport


def push(
    repository: Repository,
    remote: Transport,
    experiments: Selection | None = None,
    *,
    dry_run: bool = False,
    jobs: int = DEFAULT_JOBS,
    afresh: bool = False,
    reporter: Reporter,
) -> Copied:
    """Copy experiments to another store. Safe to stop at any time and to repeat; several may push at once.

    Args:
        repository: The project.
        remote: The other store.
        experiments: Which, and which of their checkpoints; None for everything.
        dry_run: Tell only what would be copied; nothing is written anywhere.
        jobs: How many transfers at a time; they hold 192 MiB together at most.
        afresh: Do not rely on what was pushed before: look at what is there.
        reporter: Hears of progress and of damage.

    Raises:
        StorageMissingError: There is no store in that place. StorageReplacedError: It was replaced meanwhile.
        StorageError: It cannot be looked at. UnsupportedFormatError: It needs a newer version.
    """
    control = Control(remote, repository.host)
    journal = open_journal(repository, control, read_only=dry_run)
    if afresh:
        journal.drop()
    elif journal.was_replaced:
        reporter.warn(f"{control.place} holds another store than before: everything there is looked at anew")
    with repository.saving():
        pushing = _Pushing(repository, remote, experiments, journal, reporter, jobs)
        plan = pushing.plan()
        if dry_run or not (plan.steps or plan.failures):
            return planned(plan, is_empty=pushing.is_empty)
        copying = Copying(
            repository.transport,
            remote,
            control,
            read_body=pushing.read_body,
            note_packs=journal.add_packs,
            note_steps=lambda steps: journal.add_records(step.name.key for step in steps),
            reporter=reporter,
            jobs=jobs,
        )
        return copying.run(plan, "pushing")


def open_journal(repository: Repository, control: Control, *, read_only: bool) -> Journal:
    """Return what this project knows of the store that `control` looks at."""
    return Journal(repository.local_path("journal"), control.place, control.identity, read_only=read_only)


class _Pushing:
    """Finds out what is to be pushed."""

    def __init__(
        self,
        repository: Repository,
        remote: Transport,
        experiments: Selection | None,
        journal: Journal,
        reporter: Reporter,
        jobs: int,
    ) -> None:
        self._transport = repository.transport
        self._remote = remote
        self._experiments = experiments
        self._journal = journal
        self._reporter = reporter
        self._jobs = jobs
        self.is_empty = False
        self._reader: Reader

    def read_body(self, name: RecordName) -> bytes | None:
        """Return the bytes of a record of the plan."""
        found = self._reader.read(name)
        return found[1] if found else None

    def plan(self) -> Plan:
        """Return what is to be copied. What is folded while it is read is found in its catalog (I2)."""
        local = self._look_here()
        plan = self._plan(local)
        return self._plan(self._look_here()) if local.is_outdated else plan

    def _look_here(self) -> Contents:
        return Contents(self._transport, self._experiments, lambda error: self._tell(error.message), self._jobs)

    def _tell(self, message: str) -> None:
        self._reporter.warn(f"{message}; it is not pushed")

    def _plan(self, local: Contents) -> Plan:
        names = local.names(self._journal.records)
        self.is_empty = local.is_empty
        wanted = [name for name in names if is_wanted(name, self._experiments)]
        self._reader = Reader([local], lambda error: self._tell(error.message), self._jobs)
        steps = list(self._reader.steps(wanted))
        packs = {pack for step in steps for pack in step.packs} - self._journal.packs
        sizes = pack_sizes(self._transport, packs, self._jobs)
        unknown = {step.name.experiment for step in steps if not self._journal.knows(step.name.experiment)}
        if unknown:
            steps = self._look_there(steps, unknown, sizes)
        missing = {pack: sizes.get(pack, 0) for pack in packs - self._journal.packs}
        return Plan(steps, missing, self._reader.failures, self._reader.unreadable)

    def _look_there(
        self, steps: Sequence[Step], unknown: Collection[ObjectID], sizes: dict[ObjectID, int]
    ) -> list[Step]:
        """Note in the journal what the remote has of some experiments, and return the steps that it lacks."""
        needed = {pack for step in steps if step.name.experiment in unknown for pack in step.packs if pack in sizes}
        there = pack_sizes(self._remote, needed, self._jobs)
        self._journal.add_packs(pack for pack, size in there.items() if size == sizes[pack])  # else it is cut short
        contents = Contents(self._remote, unknown, lambda error: None, self._jobs)
        held = [
            step
            for step in steps
            if step.name.experiment in unknown
            and self._journal.packs.issuperset(step.packs)
            and contents.holds(step.name, step.size_bytes)
        ]
        keys = {step.name.key for step in held}
        self._journal.add_records(keys)
        self._journal.note_look(None if self._experiments is None else unknown)
        return [step for step in steps if step.name.key not in keys]
