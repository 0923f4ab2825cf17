"""What sync tests copy between: projects with a few checkpoints, and remote stores that count, fail or lie."""

from __future__ import annotations

import builtins
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from replicate.host import Host
from replicate.maintenance.fsck import fsck
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.refs import CommitRecord, RecordName, RefStore, StartRecord
from replicate.refs.records import decode_record
from replicate.reporting import SilentReporter
from replicate.session import Session
from replicate.sync import Copied, create_store, pull, push
from replicate.transport import KeyInfo, LocalTransport, MemoryTransport, Transport
from tests.builders import noise
from tests.projects import Content, SampleProject, read_folder

MIB = 1 << 20
SYNCED = ("packs/", "refs/")


class Remote:
    """A transport around another: counts requests, checks I1 at every put, and calls `before` first.

    Attributes:
        requests: (verb, key) of every request.
    """

    def __init__(self, inner: Transport | None = None, *, url: str = "memory://remote") -> None:
        self.inner: Transport = inner or MemoryTransport()
        self.url = url
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self.change: Callable[[str, bytes], bytes] = lambda key, data: data
        self._lock = threading.Lock()

    def _enter(self, verb: str, key: str) -> None:
        with self._lock:
            self.requests.append((verb, key))
        self.before(verb, key)

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        self._enter("put", key)
        if key.startswith("refs/"):
            assert lacking(self.inner, key, bytes(data)) == []
        self.inner.put(key, data, replace=replace)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._enter("get", key)
        return self.change(key, self.inner.get(key, start, end))

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        self._enter("list", prefix)
        return self.inner.list(prefix, details=details)

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        wanted = list(keys)
        self._enter("delete", " ".join(wanted))
        return self.inner.delete(wanted)

    def probe(self) -> int:
        self._enter("probe", "")
        return self.inner.probe()

    def counted(self) -> Counter[str]:
        """Return how many requests there were since the last call, by verb and top-level name."""
        found = Counter(f"{verb} {key.partition('/')[0]}" for verb, key in self.requests)
        self.requests.clear()
        return found

    def present(self, *tops: str) -> set[str]:
        """Return the keys that are there."""
        return {info.key for top in tops or SYNCED for info in self.inner.list(top)}

    def empty(self) -> None:
        self.inner.delete([info.key for info in self.inner.list("")])


def lacking(transport: Transport, key: str, data: bytes) -> builtins.list[str]:
    """Return the packs that a record needs and a store lacks (I1)."""
    record = decode_record(RecordName.parse(key), data)
    if not isinstance(record, CommitRecord | StartRecord):
        return []
    packs = set(RefStore(transport, lambda error: None).read_packset(record.packset))
    if isinstance(record, CommitRecord):
        packs |= {*record.meta, record.locator.pack}
    return sorted(pack_key(pack) for pack in packs if not list(transport.list(pack_key(pack))))


def new_remote(inner: Transport | None = None, *, url: str = "memory://remote") -> Remote:
    """Return a remote that holds an empty store."""
    remote = Remote(inner, url=url)
    assert create_store(remote, Host())
    remote.requests.clear()
    return remote


class Models:
    """What the worktree held at each commit."""

    def __init__(self) -> None:
        self.of: dict[ObjectID, dict[bytes, Content]] = {}

    def keep(self, project: SampleProject, commit: ObjectID) -> None:
        self.of[commit] = read_folder(project.root)


def sample(folder: Path, models: Models, count: int = 2, *, name: str = "", size: int = 100, **given: Any) -> Session:
    """Save an experiment with so many checkpoints of two files, the larger of which changes."""
    project = SampleProject(folder)
    project.write("train.py", f"# {name}\n")
    session = project.begin(name=name or None, **given)
    models.keep(project, session.head.commit_id)
    for number in range(count):
        project.write("weights.bin", noise(size, f"{folder} {name} {number}"))
        saved = project.save(session, metrics={"loss": 1 / (number + 1)})
        models.keep(project, saved.base.record.commit_id)
    session.end("finished")
    return session


def push_to(project: SampleProject, remote: Transport, experiments: Any = None, **given: Any) -> Copied:
    return push(project.open(), remote, experiments, reporter=project.events, **given)


def pull_from(project: SampleProject, remote: Transport, experiments: Any = None, **given: Any) -> Copied:
    return pull(project.open(), remote, experiments, reporter=project.events, **given)


def check_transport(transport: Transport) -> None:
    """Check that a store is whole, every byte of it."""
    assert fsck(transport, "/nowhere", SilentReporter(), level=4).damage == ()


def check_restores(view: SampleProject, models: Models, commits: Iterable[ObjectID] | None = None) -> None:
    """Every listed commit (which are those of `commits`, if given) restores byte for byte."""
    history = view.history()
    records = [record for record in history.records() if record.commit_id in models.of]
    if commits is not None:
        assert {record.commit_id for record in history.records()} == set(commits)
    for number, record in enumerate(records):
        target = view.root.parent / f"restored-{view.root.name}" / f"{number}-{record.commit_id.short}"
        view.restore(record, target)
        assert read_folder(target) == models.of[record.commit_id]


def view_of(folder: Path, transport: Transport) -> SampleProject:
    """Return a project whose store is the remote one."""
    inner = transport.inner if isinstance(transport, Remote) else transport
    return SampleProject(folder, transport=inner)


def contents(transport: Transport) -> Mapping[str, bytes]:
    """Return every record and pack of a store."""
    return {info.key: transport.get(info.key) for top in SYNCED for info in transport.list(top)}


def local(project: SampleProject) -> LocalTransport:
    return LocalTransport(project.store, durability="fast")
