"""What is not pushed yet, as far as is known without the network. SPEC §12."""

from __future__ import annotations

from dataclasses import dataclass

from replicate.repository import Repository
from replicate.sync.contents import Contents
from replicate.sync.journal import last_known
from replicate.sync.planning import Reader, count_kinds
from replicate.sync.transfer import pack_sizes
from replicate.threads import DEFAULT_JOBS


@dataclass(frozen=True, slots=True)
class Pending:
    """What the next push would copy.

    Attributes:
        experiments: Experiments that are not there at all.
        checkpoints: Checkpoints that are not there.
        records: These and all other records.
        size_bytes: Of the packs that go with them.
    """

    experiments: int = 0
    checkpoints: int = 0
    records: int = 0
    size_bytes: int = 0


def pending(repository: Repository, place: str) -> Pending:
    """Return what was not pushed yet to a store, by the journal: what others pushed there since is not known.

    Args:
        repository: The project.
        place: The store, as `transfer.place_of` calls it.
    """
    records, packs = last_known(repository.local_path("journal"), place)
    local = Contents(repository.transport, None, lambda error: None, DEFAULT_JOBS)
    steps = list(Reader([local], lambda error: None, DEFAULT_JOBS).steps(local.names(records)))
    if not steps:
        return Pending()
    kinds = count_kinds(steps)
    missing = {pack for step in steps for pack in step.packs} - packs
    size = sum(pack_sizes(repository.transport, missing, DEFAULT_JOBS).values())
    return Pending(kinds["root"], kinds["c"], len(steps), size)
