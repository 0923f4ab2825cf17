"""Push: what this project's store has and another lacks is copied there. SPEC §12.

What the other is known to hold stands in the journal; where that does not tell, it is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from replicate.errors import ReplicateError, StorageReplacedError
from replicate.evicted import EvictedPack, read_evicted, write_evicted
from replicate.objects.ids import ObjectID
from replicate.objects.pack import HEADER, is_reproducible, pack_key
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.sync.contents import Contents
from replicate.sync.control import Control
from replicate.sync.copying import Copied, Copying, planned
from replicate.sync.journal import Journal
from replicate.sync.planning import Plan, Planner, Selection, Step
from replicate.sync.transfer import look_for, pack_sizes
from replicate.text import plural
from replicate.threads import DEFAULT_JOBS
from replicate.transport import Transport

_MIN_SHARED_BYTES = 1 << 20
_LOOKS = 2


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
        if not dry_run:
            _note_elsewhere(repository, pushing.elsewhere, control.place)
        if dry_run or not (plan.steps or plan.failures):
            return planned(plan, is_empty=pushing.is_empty)
        _tell_evicted(repository, plan, reporter)
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
        try:
            return copying.run(plan, "pushing")
        except StorageReplacedError:
            journal.drop()  # what was put may have gone into another store
            raise


def _note_elsewhere(repository: Repository, packs: Mapping[ObjectID, int], place: str) -> None:
    """List packs as evicted that checkpoints here need, and that are found there only: the list may have been lost."""
    store = repository.project.store
    known = read_evicted(store)
    new = packs.keys() - {one.pack for one in known}
    if new:
        with contextlib.suppress(OSError):  # derived (I4)
            write_evicted(store, [*known, *(EvictedPack(pack, packs[pack], place) for pack in sorted(new))])


def _tell_evicted(repository: Repository, plan: Plan, reporter: Reporter) -> None:
    """Say of packs that are to be copied and were given up here where they lie: copying them fails."""
    gone = [one for one in read_evicted(repository.project.store) if one.pack in plan.packs]
    for place in sorted({one.place for one in gone}):
        count = sum(one.place == place for one in gone)
        hint = f"`replicate pull -R {place}` brings back what is there"
        reporter.warn(f"{plural(count, 'pack')} to be pushed lie only in {place}: {hint}, then push again")


def open_journal(repository: Repository, control: Control, *, read_only: bool) -> Journal:
    """Return what this project knows of the store that `control` looks at."""
    return Journal(repository.local_path("journal"), control.place, control.identity, read_only=read_only)


class _Pushing(Planner):
    """Finds out what is to be pushed. `elsewhere`: packs that records here need and only the remote has, with bytes."""

    def __init__(
        self,
        repository: Repository,
        remote: Transport,
        experiments: Selection | None,
        journal: Journal,
        reporter: Reporter,
        jobs: int,
    ) -> None:
        super().__init__(repository.transport, experiments, reporter, jobs, undone="pushed", known=journal.records)
        self._remote = remote
        self._journal = journal
        self.elsewhere: dict[ObjectID, int] = {}

    def _lacking(self, steps: list[Step]) -> tuple[list[Step], dict[ObjectID, int]]:
        packs = {pack for step in steps for pack in step.packs} - self._journal.packs
        sizes = pack_sizes(self._source, packs, self._jobs)
        unknown = {step.name.experiment for step in steps if not self._journal.knows(step.name.experiment)}
        if unknown:
            steps = self._look_there(steps, unknown, sizes)
        self._look_for_shared([step for step in steps if step.name.experiment not in unknown], sizes)
        return steps, {pack: sizes.get(pack, 0) for pack in packs - self._journal.packs}

    def _look_there(
        self, steps: Sequence[Step], unknown: Collection[ObjectID], sizes: dict[ObjectID, int]
    ) -> list[Step]:
        """Note in the journal what the remote has of some experiments, and return the steps that it lacks."""
        needed = {pack for step in steps if step.name.experiment in unknown for pack in step.packs}
        needed -= self._journal.packs
        there = pack_sizes(self._remote, needed, self._jobs)
        self._note_packs(there, sizes)
        self.elsewhere = {pack: size for pack, size in there.items() if pack not in sizes}
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

    def _note_packs(self, there: Mapping[ObjectID, int], sizes: Mapping[ObjectID, int]) -> None:
        """Note in the journal packs that the remote has; one of another length than here was cut short."""
        self._journal.add_packs(pack for pack, size in there.items() if size == sizes.get(pack, size))

    def _look_for_shared(self, steps: Iterable[Step], sizes: Mapping[ObjectID, int]) -> None:
        """Note which large packs are there although they were never pushed: of a file that others have saved too.

        Of every save two are looked for, and all when one of these is there.
        """
        seen = set(self._journal.packs)
        saves: list[list[ObjectID]] = []
        for step in steps:
            new = [pack for pack in step.packs if pack not in seen and sizes.get(pack, 0) >= _MIN_SHARED_BYTES]
            seen.update(new)
            shared = [pack for pack in new if self._may_be_shared(pack)]
            saves += [shared] if shared else []
        found = look_for(self._remote, {pack for save in saves for pack in save[:_LOOKS]}, self._jobs)
        rest = {pack for save in saves if not found.keys().isdisjoint(save) for pack in save[_LOOKS:]}
        self._note_packs(found | look_for(self._remote, rest, self._jobs), sizes)

    def _may_be_shared(self, pack: ObjectID) -> bool:
        try:
            return is_reproducible(self._source.get(pack_key(pack), 0, HEADER.size))
        except ReplicateError:  # copying it will tell
            return False
