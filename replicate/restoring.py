"""Bringing a commit back: into the worktree or elsewhere, whole or in part. Floor 6."""

from __future__ import annotations

import bisect
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from replicate.config import CONFIG_NAME
from replicate.errors import ConflictError, CorruptionError, PathNotFoundError
from replicate.objects.ids import ObjectID
from replicate.objects.model import Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.refs import CommitRecord
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.worktree.checkout import Checkout
from replicate.worktree.scan import Scanner
from replicate.worktree.times import WorktreeClock
from replicate.worktree.trees import find_entry

_MAX_LINKS = 40
_KEPT_BYTES = 12 << 20


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkout did: paths that are there now, files and links written, paths removed."""

    paths: int
    written: int
    removed: int
    size_bytes: int


def checkout(
    repository: Repository,
    record: CommitRecord,
    target: str,
    reporter: Reporter,
    *,
    paths: Sequence[bytes] = (),
    force: bool = False,
    exact: bool = False,
) -> Restored:
    """Restore a commit's files into `target`, or only `paths` and what is below them.

    Files that are there and equal are not touched. Nothing is removed, but with `exact` what the commit does not have
    and is not ignored. When the target is the project's worktree and everything is restored, the commit becomes what
    `status` compares with, and `replicate.yaml` stays as it is: it says where checkpoints go from here.

    Raises:
        WorktreeModifiedError, ConflictError, PathNotFoundError: Nothing was written.
        CorruptionError: What is stored is damaged; files written so far are whole.
    """
    root = repository.project.root
    in_worktree = os.path.realpath(target) == root
    index = repository.worktree_index()
    excluded = repository.excluded_paths(os.path.realpath(target))
    work = Checkout(
        repository.objects(record.locator),
        target,
        reporter,
        is_retained=_retained(repository),
        known=index.lookup if in_worktree else lambda path, stat: None,
    )
    scanner = Scanner(os.path.realpath(target), excluded) if exact and not paths else None
    kept = frozenset([CONFIG_NAME.encode()] if in_worktree and not paths else [])
    plan = work.plan(record.commit.tree, paths=paths, force=force, extras=scanner, kept=kept)
    _keep_out(excluded, [*plan.writes, *plan.removals])
    if not force:
        _keep_out_of_git([*plan.writes, *plan.removals])
    written = work.run(plan)
    if plan.left:
        reporter.notice(f"{CONFIG_NAME} stays as it is here; name it to restore the one of {record.commit_id.short}")
    if in_worktree:
        clock = WorktreeClock(repository.host, root, repository.local_path("tmp"))
        read_at = clock.settle(max(stat.changed_ns for _, stat, _ in written)) if written else 0
        for path, stat, blob in written:
            index.update(path, stat, blob, read_at_ns=read_at, grain_ns=clock.read()[1])
        index.save()
        if not paths:
            repository.write_head(record)
    size = sum(stat.size for _, stat, _ in written)
    return Restored(len(plan.wanted), len(plan.writes), len(plan.removals), size)


def _keep_out(excluded: Sequence[bytes], paths: Sequence[bytes]) -> None:
    """Raise `ConflictError` if something would change where the store lies: no save makes such a tree."""
    for store in excluded:
        own = os.path.join(store, b"")
        touched = next((path for path in paths if os.path.join(path, b"").startswith(own) or store == b"."), None)
        if touched is not None:
            raise ConflictError(
                f"the commit has {os.fsdecode(touched)!r}, where the store of this project lies; nothing was written",
                hint="restore elsewhere with -o DIR, or name the PATHS that you want",
            )


def _keep_out_of_git(paths: Sequence[bytes]) -> None:
    """Raise `ConflictError` if something would change in a `.git`: git runs what its hooks and settings say."""
    touched = next((path for path in paths if b".git" in path.lower().split(b"/")), None)
    if touched is not None:
        raise ConflictError(
            f"the commit has {os.fsdecode(touched)!r}, which git would obey; nothing was written",
            hint="name the PATHS that you want, or force it if you trust who saved it",
        )


def _retained(repository: Repository) -> Callable[[ObjectID], bool]:
    """Return what tells whether a blob lies in a pack that a listed commit names; looked up when first asked.

    Of storage elsewhere every pack would have to be asked: nothing is taken to be there.
    """
    if repository.is_elsewhere:
        return lambda blob: False
    repository = repository.own
    packs: set[ObjectID] | None = None

    def is_retained(blob: ObjectID) -> bool:
        nonlocal packs
        if packs is None:
            repository.index.refresh()
            repository.index.begin_save()
            packs = set()
            for record in repository.refs.list():  # hidden commits too: they can be brought back
                if isinstance(record, CommitRecord):
                    packs |= repository.refs.read_packset(record.packset)
        return any(place.pack in packs for place in repository.index.find(blob))

    return is_retained


def open_file(objects: ObjectStore, tree: ObjectID, path: str) -> io.BufferedReader:
    """Open a file of a tree for reading: seekable, and read only as far as it is asked for.

    Raises:
        PathNotFoundError: The tree has no such path, or it is no file. A link is followed within the tree.
    """
    return io.BufferedReader(find_file(objects, tree, path), 1 << 16)


def find_file(objects: ObjectStore, tree: ObjectID, path: str) -> BlobReader:
    """Return what reads a file of a tree, not buffered; raises as `open_file`."""
    raw = os.fsencode(path).strip(b"/")
    for _ in range(_MAX_LINKS):
        entry, walked, rest = _walk_to_link(objects, tree, raw)
        if entry is None:
            raise PathNotFoundError(f"the checkpoint has no file {path!r}", hint="checkpoint.files() lists its files")
        if entry.mode.is_file:
            return BlobReader(objects, entry.object_id, entry.size_bytes)
        if entry.mode is Mode.DIRECTORY:
            raise PathNotFoundError(f"{path!r} is a folder in the checkpoint", hint="open one of its files")
        target = objects.read(entry.object_id, claimed_bytes=entry.size_bytes)
        raw = os.path.normpath(os.path.join(os.path.dirname(walked), target, rest))
        if raw == b".." or raw.startswith((b"/", b"../")):
            raise PathNotFoundError(f"{path!r} is a link that leads out of the checkpoint, to {os.fsdecode(target)!r}")
    raise PathNotFoundError(f"{path!r} is a link that leads in a circle")


def _walk_to_link(objects: ObjectStore, tree: ObjectID, path: bytes) -> tuple[TreeEntry | None, bytes, bytes]:
    """Return the entry at a path, or the first link on the way, with the path up to it and what is left of it."""
    entry = TreeEntry(b"", Mode.DIRECTORY, 0, tree)
    names = path.split(b"/") if path not in (b"", b".") else []
    for number, name in enumerate(names, 1):
        found = find_entry(objects, entry.object_id, name) if entry.mode is Mode.DIRECTORY else None
        if found is None:
            return None, path, b""
        if found.mode is Mode.SYMLINK:
            return found, b"/".join(names[:number]), b"/".join(names[number:])
        entry = found
    return entry, path, b""


class BlobReader(io.RawIOBase):
    """A blob as a file. Every chunk is verified by its id; a blob read from beginning to end is verified as a whole.

    Chunks are decoded when they are asked for; the last ones are kept, up to 12 MiB, so that going back is cheap.

    Attributes:
        size_bytes: Its length.
        chunks: Its pieces in order, of which one may be the blob itself.
    """

    def __init__(self, objects: ObjectStore, blob: ObjectID, size_bytes: int) -> None:
        super().__init__()
        self._objects = objects
        self._blob = blob
        self.size_bytes = size_bytes
        self.chunks = objects.read_chunks(blob)
        self._starts = [0]
        for chunk in self.chunks:
            self._starts.append(self._starts[-1] + chunk.length)
        if self._starts[-1] != size_bytes:
            where = f"blob {blob.hex()}"
            raise CorruptionError(f"{where} is damaged: it has another length than its tree says", where=where)
        self._position = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._hasher = blake3()
        self._hashed = 0

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def seekable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def tell(self) -> int:
        """See io.RawIOBase."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See io.RawIOBase."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative seek position {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        """See io.RawIOBase."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._position >= self.size_bytes or not len(view):
            return 0
        number = bisect.bisect_right(self._starts, self._position, hi=len(self.chunks)) - 1
        begin = self._position - self._starts[number]
        part = memoryview(self._load(number))[begin : begin + len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`, fewer only at the end; raises as the store does."""
        buffer = bytearray(max(0, min(length, self.size_bytes - offset)))
        first, last = (bisect.bisect_right(self._starts, at) for at in (offset, offset + len(buffer) - 1))
        if last > first:
            self._objects.expect(chunk.object_id for chunk in self.chunks[first - 1 : last])
        view = memoryview(buffer)
        self._position = offset
        done = 0
        while done < len(buffer):
            done += self.readinto(view[done:])
        return bytes(buffer)

    def _load(self, number: int) -> bytes:
        data = self._kept.get(number)
        if data is None:
            data = self._objects.read_chunk(self.chunks[number], self._blob)
            self._kept[number] = data
            self._kept_bytes += len(data)
            while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        else:
            self._kept.move_to_end(number)
        self._hash(number, data)
        return data

    def _hash(self, number: int, data: bytes) -> None:
        if self._hashed != number or len(self.chunks) == 1:
            return
        self._hasher.update(data)
        self._hashed += 1
        if self._hashed == len(self.chunks) and self._hasher.digest() != self._blob:
            where = f"blob {self._blob.hex()}"
            raise CorruptionError(f"{where} is damaged: its chunks do not match its id", where=where)
