"""Eviction: packs that lie in the repository too are removed here, until the rest fits `cache:`. SPEC §12.

What is removed was pushed, and is found there with its length right before. Stopping anywhere does no harm: packs are
listed as evicted first, then removed, and the next push goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from replicate.config import cache_bytes
from replicate.errors import ConflictError, InvalidInputError, KeyNotFoundError, ReplicateError, StorageError
from replicate.evicted import EvictedPack, read_evicted, write_evicted
from replicate.objects.ids import ObjectID
from replicate.objects.pack import HEADER, TRAILER, is_meta, pack_key
from replicate.refs import RecordName
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.sync.contents import Contents
from replicate.sync.control import Control
from replicate.sync.journal import Journal
from replicate.sync.planning import Reader
from replicate.sync.pushing import open_journal
from replicate.sync.transfer import pack_sizes
from replicate.text import format_bytes, plural
from replicate.threads import DEFAULT_JOBS, side_by_side
from replicate.transport import LocalTransport, Transport
from replicate.transport.blocks import default_limit

_SPARE = 10
"""Once the limit is passed, a tenth of it is freed: so that not every push looks for what it may remove."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What was removed here: how many packs, their bytes, and where they lie."""

    packs: int = 0
    size_bytes: int = 0
    place: str = ""


def cache_limit(repository: Repository) -> int | None:
    """Return how many bytes of packs a project keeps on this machine; None: all, as nothing lies elsewhere."""
    project = repository.project
    if not project.repository:
        return None
    if not project.cache:
        return default_limit(project.store)
    try:
        return cache_bytes(project.cache, shutil.disk_usage(project.store).total)
    except OSError as exc:
        raise StorageError(f"cannot look at the disk of {project.store}: {exc.strerror}", operation="list") from exc


def evict_to_limit(repository: Repository, remote: Transport, reporter: Reporter) -> None:
    """Evict what the project's `cache:` asks for, after a push to its repository, and tell. Raises nothing.

    Args:
        repository: The project.
        remote: The store that its `repository:` names.
        reporter: Hears of what was evicted, or why nothing was.
    """
    try:
        limit = cache_limit(repository)
        done = Evicted() if limit is None else evict(repository, remote, limit, reporter=reporter)
    except ReplicateError as exc:
        reporter.warn(
            f"no packs were removed from this machine, although there are more than `cache:` says: {exc.message}"
        )
        return
    if done.packs:
        reporter.notice(
            f"evicted {format_bytes(done.size_bytes)} in {plural(done.packs, 'pack')} that lie in {done.place}; "
            "`replicate checkout` fetches what it needs"
        )


def evict(
    repository: Repository,
    remote: Transport,
    limit_bytes: int,
    *,
    jobs: int = DEFAULT_JOBS,
    reporter: Reporter,
) -> Evicted:
    """Remove packs from this machine's store that lie in another, oldest first, until the rest is within a limit.

    Removed are data packs of which every record here that needs them is known to be there. What lists and compares
    checkpoints stays, and so does what the next save builds on: the newest commits of experiments that have not ended,
    and the commits that worktrees hold. While a save or a push is under way nothing is removed.

    Args:
        repository: The project.
        remote: The other store.
        limit_bytes: How many bytes of packs to keep, if possible. When there are more, nine tenths of it are kept.
        jobs: How many requests at a time.
        reporter: Hears of packs that were pushed and are not there.

    Raises:
        StorageMissingError, StorageReplacedError: The other store is gone, or another one. StorageError: It cannot be
        looked at, or the disk failed. UnsupportedFormatError: It needs a newer version.
    """
    held: dict[ObjectID, tuple[int, int]] = {}
    for info in repository.transport.list("packs/"):
        with contextlib.suppress(InvalidInputError):  # another file that somebody put there
            held[ObjectID.parse(info.key.rpartition("/")[2])] = (info.time_ns or 0, info.size or 0)
    if sum(size for _, size in held.values()) <= limit_bytes:
        return Evicted()
    control = Control(remote, repository.host)
    journal = open_journal(repository, control, read_only=True)
    eviction = _Eviction(repository, journal, jobs)
    chosen = eviction.choose(held, limit_bytes - limit_bytes // _SPARE)
    there = pack_sizes(remote, chosen.keys(), jobs)
    same = {pack: size for pack, size in chosen.items() if there.get(pack) == size}
    if same and _is_our_own(repository, remote):
        raise ConflictError(
            f"{control.place} is this project's own store, seen another way: what is removed here is gone there",
            hint="name another place as `repository:` in replicate.yaml, or remove that line",
        )
    found = eviction.check_ends(remote, same)
    if len(found) < len(chosen):
        reporter.warn(
            f"{plural(len(chosen) - len(found), 'pushed pack')} cannot be found whole in {control.place}: "
            "`replicate push --verify` puts what is missing there again"
        )
    if not found:
        return Evicted()
    control.confirm()  # it is the same store still, and nobody collects there
    with repository.without_saves() as is_alone:
        return eviction.remove(found, control.place) if is_alone else Evicted()


def _is_our_own(repository: Repository, remote: Transport) -> bool:
    """Tell whether another store is ours, seen through a link or a second mount: what is put here is there."""
    probe = f"probe/{repository.host.random(8).hex()}"
    repository.transport.put(probe, b"", replace=True)
    try:
        return any(True for _ in remote.list(probe))
    finally:
        repository.transport.delete([probe])


class _Eviction:
    """Knows what of a project's store may be removed, by its records and what is known to be pushed."""

    def __init__(self, repository: Repository, journal: Journal, jobs: int) -> None:
        self._repository = repository
        self._transport = repository.transport
        self._journal = journal
        self._jobs = jobs

    def choose(self, held: Mapping[ObjectID, tuple[int, int]], keep_bytes: int) -> dict[ObjectID, int]:
        """Return what to remove with its bytes, so that no more than so many bytes are left; `held`: time and bytes."""
        left = sum(size for _, size in held.values())
        chosen: dict[ObjectID, int] = {}
        candidates = (held.keys() & self._journal.packs) - self._needed()
        for pack in sorted(candidates, key=lambda one: (held[one][0], one)):
            if left <= keep_bytes:
                break
            if not self._is_meta(pack):  # they are small, and lists and trees are read from them
                chosen[pack] = held[pack][1]
                left -= held[pack][1]
        return chosen

    def _is_meta(self, pack: ObjectID) -> bool:
        try:
            return is_meta(self._transport.get(pack_key(pack), 0, HEADER.size))
        except KeyNotFoundError:
            return True  # it is gone already

    def check_ends(self, remote: Transport, packs: Mapping[ObjectID, int]) -> dict[ObjectID, int]:
        """Return those of some packs that end there as they do here: of one that was torn the length alone is right.

        A pack that is the same file in both places is left out too.
        """
        own, other = self._transport, remote

        def ends_alike(pack: ObjectID) -> bool:
            key, size = pack_key(pack), packs[pack]
            if isinstance(own, LocalTransport) and isinstance(other, LocalTransport):
                with contextlib.suppress(OSError):
                    if os.path.samefile(os.path.join(own.root, key), os.path.join(other.root, key)):
                        return False
            end = max(0, size - TRAILER.size)
            return bytes(own.get(key, end, size)) == bytes(other.get(key, end, size))

        outcomes = side_by_side(((pack, 0) for pack in packs), ends_alike, self._jobs)
        return {pack: packs[pack] for pack, outcome in outcomes if outcome is True}

    def remove(self, packs: dict[ObjectID, int], place: str) -> Evicted:
        """Remove packs, but those that a save relies on that ended since they were chosen. No save is under way."""
        needed = self._needed()
        gone = [EvictedPack(pack, size, place) for pack, size in sorted(packs.items()) if pack not in needed]
        left = set(self._remove_listed(gone))
        done = [one.size_bytes for one in gone if pack_key(one.pack) not in left]
        return Evicted(len(done), sum(done), place)

    def _remove_listed(self, gone: list[EvictedPack]) -> Collection[str]:
        """List packs as evicted, remove them, and return the keys that could not be removed."""
        store = self._repository.project.store
        first: list[str] = []
        try:
            try:
                write_evicted(store, [*read_evicted(store), *gone])
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or not gone:
                    raise
                first = [pack_key(gone[0].pack)]  # the disk is full: this makes room for the list
                self._transport.delete(first)
                write_evicted(store, [*read_evicted(store), *gone])
        except OSError as exc:
            raise StorageError(f"cannot write in {store}: {exc.strerror}", operation="write") from exc
        keys = [pack_key(one.pack) for one in gone]
        return self._transport.delete(key for key in keys if key not in first)

    def _needed(self) -> set[ObjectID]:
        """Return the packs of records that are not known to be there, and those that saves will build on."""
        local = Contents(self._transport, None, _ignore, self._jobs)
        names = local.names()
        wanted = {name.key: name for name in names if name.key not in self._journal.records}
        wanted |= {name.key: name for name in _open_ends(names)}
        wanted |= {record.name.key: record.name for record in self._repository.read_heads()}
        return {pack for step in Reader([local], _ignore, self._jobs).steps(wanted.values()) for pack in step.packs}


def _ignore(error: ReplicateError) -> None:
    """Leave out a record that is damaged: it needs nothing that could be found by it."""


def _open_ends(names: Iterable[RecordName]) -> Iterator[RecordName]:
    """Yield the commits that a save may come to build on, of experiments with a session that has not ended.

    These are the newest, the last of each such session, and those that it began after.
    """
    by_experiment: dict[ObjectID, list[RecordName]] = {}
    for name in names:
        by_experiment.setdefault(name.experiment, []).append(name)
    for records in by_experiment.values():
        ended = {one.session for one in records if one.kind == "e"}
        open_sessions = {one.session for one in records if one.kind in "cs"} - ended
        if not open_sessions:
            continue
        commits = [one for one in records if one.kind == "c"]
        last = {
            one.session: one.seq for one in sorted(commits, key=lambda one: one.seq) if one.session in open_sessions
        }
        wanted = {one.seq for one in records if one.kind == "s" and one.session in open_sessions}
        wanted |= {max((one.seq for one in commits), default=0)}
        yield from (one for one in commits if one.seq in wanted or one.seq == last.get(one.session))
