"""Reading everything in a store that nobody vouches for, and telling what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replicate.errors import CorruptionError, ReplicateError
from replicate.objects.locator import LocatorView
from replicate.objects.store import ObjectStore
from replicate.refs import CommitRecord, RefStore
from replicate.transport import MemoryTransport, Transport
from tests.builders import Folder, read_folder


@dataclass
class Outcome:
    """What a reader made of a store: by record key, the files of a commit or why they cannot be read."""

    files: dict[str, Folder | ReplicateError] = field(default_factory=dict)
    damage: list[CorruptionError] = field(default_factory=list)
    others: int = 0


def read_everything(transport: Transport) -> Outcome:
    """Read every commit that is listed, as a process would that knows nothing of the store."""
    outcome = Outcome()
    refs = RefStore(transport, outcome.damage.append)
    for record in refs.list():
        if not isinstance(record, CommitRecord):
            outcome.others += 1
            continue
        try:
            objects = ObjectStore(transport, LocatorView(transport, [record.locator]))
            objects.read_commit(record.commit_id)
            refs.read_packset(record.packset)
            found: Folder | ReplicateError = read_folder(objects, record.commit.tree)
        except ReplicateError as exc:
            found = exc
        outcome.files[record.name.key] = found
    return outcome


def check_outcome(found: Outcome, right: Outcome) -> int:
    """Check that nothing wrong was given out and nothing left out in silence; return how many failures were told."""
    for key, files in found.files.items():
        if not isinstance(files, ReplicateError):
            assert files == right.files[key]
    missing = len(right.files) + right.others - len(found.files) - found.others
    assert missing <= len(found.damage)
    return len(found.damage) + sum(isinstance(files, ReplicateError) for files in found.files.values())


class Altered(MemoryTransport):
    """A store of some keys with one of them altered."""

    def __init__(self, keys: Mapping[str, bytes], key: str, data: bytes) -> None:
        super().__init__()
        self._keys = {name: (content, 0) for name, content in keys.items()} | {key: (data, 0)}


def keys_of(transport: Transport) -> dict[str, bytes]:
    """Return every key of a store with its bytes."""
    return {info.key: transport.get(info.key) for info in transport.list("")}
