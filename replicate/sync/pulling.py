"""Pull: what another store has and this project's lacks is copied here. SPEC §12."""

from __future__ import annotations

from collections.abc import Sequence

from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.overview import Overview
from replicate.refs import RefStore
from replicate.refs.cache import ShardCache
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.sync.contents import Contents
from replicate.sync.control import Control, identity_of, read_control
from replicate.sync.copying import Copied, Copying, planned
from replicate.sync.journal import Journal
from replicate.sync.planning import Planner, Selection, Step
from replicate.sync.transfer import pack_sizes, place_of
from replicate.threads import DEFAULT_JOBS
from replicate.transport import Transport


def pull(
    repository: Repository,
    remote: Transport,
    experiments: Selection | None = None,
    *,
    dry_run: bool = False,
    jobs: int = DEFAULT_JOBS,
    reporter: Reporter,
) -> Copied:
    """Copy experiments from another store, with everything that restoring them needs. Safe to stop and to repeat.

    Args:
        repository: The project; its store is made if there is none.
        remote: The other store.
        experiments: Which, and which of their checkpoints; None for everything.
        dry_run: Tell only what would be copied; nothing is written anywhere.
        jobs: How many transfers at a time; they hold 192 MiB together at most.
        reporter: Hears of progress and of damage.

    Raises:
        StorageMissingError: There is no store in that place. StorageError: It, or the disk, failed.
        UnsupportedFormatError: One of the two needs a newer version.
    """
    identity = identity_of(read_control(remote))
    pulling = _Pulling(repository, remote, experiments, reporter, jobs)
    if dry_run:
        return planned(pulling.plan(), is_empty=pulling.is_empty)
    repository.create()
    journal = Journal(repository.local_path("journal"), place_of(remote), identity)
    with repository.saving():
        control = Control(repository.transport, repository.host)
        plan = pulling.plan()
        if not (plan.steps or plan.failures):
            return planned(plan, is_empty=pulling.is_empty)
        copying = Copying(
            remote,
            repository.transport,
            control,
            read_body=pulling.read_body,
            note_packs=journal.add_packs,  # what comes from there is there
            note_steps=lambda steps: _note(journal, steps),
            reporter=reporter,
            jobs=jobs,
        )
        return copying.run(plan, "pulling")


def _note(journal: Journal, steps: Sequence[Step]) -> None:
    """Remember records that are there with every pack that they need: nothing of them has to be pushed back."""
    journal.add_records(step.name.key for step in steps if journal.packs.issuperset(step.packs))


def remote_history(repository: Repository, remote: Transport, reporter: Reporter) -> History:
    """Return every experiment of another store; what was made of its records is cached on this machine.

    Raises:
        As `pull`.
    """
    identity = identity_of(read_control(remote))
    path = repository.cache_path("remotes", identity.digest(place_of(remote)), "refs.db")
    refs = RefStore(remote, lambda error: reporter.warn(f"{error.message}; it is left out"))
    return History(Overview(refs, lambda: ShardCache(path)))


class _Pulling(Planner):
    """Finds out what is to be pulled."""

    def __init__(
        self,
        repository: Repository,
        remote: Transport,
        experiments: Selection | None,
        reporter: Reporter,
        jobs: int,
    ) -> None:
        super().__init__(remote, experiments, reporter, jobs, undone="pulled")
        self._transport = repository.transport
        self._here: Contents

    def _sources(self, contents: Contents) -> Sequence[Contents]:
        self._here = Contents(self._transport, self._experiments, lambda error: None, self._jobs)
        return [self._here, contents]

    def _lacking(self, steps: list[Step]) -> tuple[list[Step], dict[ObjectID, int]]:
        here = pack_sizes(self._transport, {pack for step in steps for pack in step.packs}, self._jobs)
        steps = [
            step
            for step in steps
            if not (here.keys() >= set(step.packs) and self._here.holds(step.name, step.size_bytes))
        ]
        relied = {pack for step in steps for pack in step.packs}
        there = pack_sizes(self._source, relied, self._jobs)
        # What is here in another length was cut short: no record that is published now may rely on it.
        missing = [pack for pack in relied if here.get(pack, -1) != there.get(pack, here.get(pack))]
        return steps, {pack: there.get(pack, 0) for pack in missing}
