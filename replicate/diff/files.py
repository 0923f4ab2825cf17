"""What differs between the files of two commits, or of a commit and the worktree.

Trees are read only where their ids differ. An empty folder counts as a file; others are there by what is in them.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from replicate.base import MAX_NESTING
from replicate.comparing import compare_worktree, lies_beyond_file
from replicate.errors import CorruptionError
from replicate.objects.codecs.concat import Chunk
from replicate.objects.cutting import Read
from replicate.objects.ids import ObjectID, blob_id
from replicate.objects.model import Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.presenting import KINDS, File
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.restoring import BlobReader
from replicate.worktree.checkout import hash_file
from replicate.worktree.index import Index
from replicate.worktree.reading import open_file, read_small
from replicate.worktree.scan import Scan, Scanner, join, mode_of
from replicate.worktree.trees import find_entry, iter_tree

MAX_TEXT_BYTES = 1 << 20
_LETTERS = {"added": "A", "removed": "D", "changed": "M", "renamed": "R"}

Pair = tuple[File | None, File | None]


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs: in content, in kind, or in where it lies.

    Attributes:
        change: "added", "removed", "changed" or "renamed" (the same bytes at another path).
        before: The file before; None when it was added.
        after: The file after; None when it was removed.
    """

    change: Literal["added", "removed", "changed", "renamed"]
    before: File | None
    after: File | None

    @property
    def path(self) -> str:
        """Where the file lies, or lay when it was removed."""
        file = self.after or self.before
        assert file is not None
        return file.path

    @property
    def letter(self) -> str:
        """A, D, M or R."""
        return _LETTERS[self.change]


class Opened(NamedTuple):
    """A file that is open.

    Attributes:
        size_bytes: Its length.
        read: Returns bytes of it.
        chunks: What it is made of; None if that is not known.
    """

    size_bytes: int
    read: Read
    chunks: Sequence[Chunk] | None


class Contents(Protocol):
    """Reads the files of one side."""

    def read(self, file: File) -> bytes:
        """Return the bytes of a file of at most 1 MiB, of a link its target.

        Raises:
            OSError: A file of the worktree cannot be read. CorruptionError: A blob is damaged.
        """

    def open(self, file: File) -> AbstractContextManager[Opened]:
        """Open a file that is no link, to read parts of it; raises as `read`, now and then."""


class CommitContents:
    """The files of a commit."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def read(self, file: File) -> bytes:
        """See `Contents`."""
        return self._objects.read(ObjectID.parse(file.object_id), claimed_bytes=file.size_bytes)

    @contextmanager
    def open(self, file: File) -> Iterator[Opened]:
        """See `Contents`."""
        reader = BlobReader(self._objects, ObjectID.parse(file.object_id), file.size_bytes)
        yield Opened(file.size_bytes, reader.read_at, reader.chunks)


class WorktreeContents:
    """The files of a worktree, as they are when they are read."""

    def __init__(self, root: str) -> None:
        self._root = os.fsencode(root)

    def read(self, file: File) -> bytes:
        """See `Contents`."""
        path = os.path.join(self._root, os.fsencode(file.path))
        return os.readlink(path) if file.kind == "symlink" else read_small(path, MAX_TEXT_BYTES)[0]

    @contextmanager
    def open(self, file: File) -> Iterator[Opened]:
        """See `Contents`. A file that becomes shorter while it is read raises `ChangedWhileRead`."""
        with open_file(os.path.join(self._root, os.fsencode(file.path))) as opened:

            def read(offset: int, length: int) -> bytes:
                buffer = bytearray(length)
                opened.read_into(offset, memoryview(buffer))
                return bytes(buffer)

            yield Opened(opened.size_bytes, read, None)

    def identify(self, file: File) -> File:
        """Return the file with the id of its bytes; without one if it cannot be read."""
        if file.object_id or file.kind == "folder":
            return file
        path = os.path.join(self._root, os.fsencode(file.path))
        try:
            found = blob_id(os.readlink(path)) if file.kind == "symlink" else hash_file(path)
        except OSError:
            return file
        return replace(file, object_id=found.hex())


def compare_trees(
    objects: ObjectStore,
    before: TreeEntry | None,
    other_objects: ObjectStore,
    after: TreeEntry | None,
    path: bytes = b"",
) -> dict[bytes, Pair]:
    """Return what differs at and below a path, by path.

    Args:
        objects: Where the entry before lies.
        before: What is at the path before; None when nothing is.
        other_objects: Where the entry after lies.
        after: What is at the path after; None when nothing is.
        path: The path; b"" is the project.
    """
    pairs: dict[bytes, Pair] = {}
    pending = [(path, before, after)]
    while pending:
        path, before, after = pending.pop()
        inside, other_inside = _entries(objects, path, before), _entries(other_objects, path, after)
        pair = _leaf(path, before, inside), _leaf(path, after, other_inside)
        if pair != (None, None):
            pairs[path] = pair
        for name in inside.keys() | other_inside.keys():
            one, other = inside.get(name), other_inside.get(name)
            if one is None or other is None or (one.mode, one.object_id) != (other.mode, other.object_id):
                pending.append((join(path, name), one, other))
    return pairs


def _entries(objects: ObjectStore, path: bytes, entry: TreeEntry | None) -> dict[bytes, TreeEntry]:
    if entry is None or entry.mode is not Mode.DIRECTORY:
        return {}
    if path.count(b"/") >= MAX_NESTING:
        where = f"tree {entry.object_id.hex()}"
        raise CorruptionError(f"{where} is nested deeper than {MAX_NESTING:,} folders", where=where)
    claimed = entry.size_bytes if path else None  # nothing claims the size of a commit's tree
    return {one.name: one for one in objects.read_tree(entry.object_id, claimed_bytes=claimed)}


def _leaf(path: bytes, entry: TreeEntry | None, inside: Mapping[bytes, TreeEntry]) -> File | None:
    """Return the file at a path; None for nothing, and for a folder that is there by what is in it."""
    if entry is None or (entry.mode is Mode.DIRECTORY and (inside or not path)):
        return None
    return File.of(path, entry)


def compare_paths(
    objects: ObjectStore, tree: ObjectID, other_objects: ObjectStore, other_tree: ObjectID, paths: Iterable[bytes]
) -> dict[bytes, Pair]:
    """Return what differs between two trees at some paths and below; no path means everywhere."""
    pairs: dict[bytes, Pair] = {}
    for path in set(paths) or {b""}:
        before, after = find_entry(objects, tree, path), find_entry(other_objects, other_tree, path)
        if (before and before[1:]) != (after and after[1:]):
            pairs |= compare_trees(objects, before, other_objects, after, path)
    return pairs


def compare_with_worktree(
    repository: Repository, objects: ObjectStore, record: CommitRecord, paths: Sequence[bytes]
) -> dict[bytes, Pair]:
    """Return what differs from a commit to the worktree at some paths and below; no path means everywhere."""
    root = repository.project.root
    saved = dict(iter_tree(objects, record.commit.tree))
    scan = Scanner(root, repository.excluded_paths(root)).scan()
    index = repository.worktree_index()
    changes = compare_worktree(repository, record, index=index, saved=saved, scan=scan)
    deleted = {change.path for change in changes if change.letter == "D"}
    worktree = _Worktree(os.fsencode(root), scan, index, saved, deleted)
    filled = {path.rpartition(b"/")[0] for path in saved}
    pairs: dict[bytes, Pair] = {}
    for path in {above for change in changes for above in _ways(change.path)}:  # folders may be empty now
        entry = saved.get(path)
        before = None if entry is None or (entry.mode is Mode.DIRECTORY and path in filled) else File.of(path, entry)
        after = worktree.leaf(path)
        is_folder = before is not None and after is not None and before.kind == after.kind == "folder"
        if (before or after) and not is_folder and is_below(path, paths):
            pairs[path] = before, after
    return pairs


class _Worktree:
    """What lies in the worktree, by path."""

    def __init__(
        self, root: bytes, scan: Scan, index: Index, saved: Mapping[bytes, TreeEntry], deleted: set[bytes]
    ) -> None:
        self._root = root
        self._scan = scan
        self._index = index
        hidden = [path for path in saved if path not in deleted and self._scanned(path) is None]
        self._filled = {above for path in hidden for above in _ways(path)[:-1]}  # saved by name although ignored

    def _scanned(self, path: bytes) -> tuple[Mode, os.stat_result] | None:
        folder, _, name = path.rpartition(b"/")
        return self._scan.directories.get(folder, {}).get(name)

    def leaf(self, path: bytes) -> File | None:
        """Return the file at a path; None for nothing, and for a folder that is there by what is in it."""
        found = self._scanned(path)
        if found is None:
            if lies_beyond_file(self._scan, path):
                return None
            try:
                info = os.lstat(os.path.join(self._root, path))
            except OSError:
                return None
            mode = mode_of(info)
            if mode is None or mode is Mode.DIRECTORY:  # which is ignored
                return None
        else:
            mode, info = found
        if mode is Mode.DIRECTORY:
            if self._scan.directories.get(path) or path in self._filled:
                return None
            return File(os.fsdecode(path), 0, "folder", "")
        known = self._index.lookup(path, info) if mode.is_file else None
        return File(os.fsdecode(path), info.st_size, KINDS[mode], known.hex() if known else "")


def _ways(path: bytes) -> list[bytes]:
    """Return the folders above a path, and the path."""
    names = path.split(b"/")
    return [b"/".join(names[:count]) for count in range(1, len(names) + 1)]


def is_below(path: bytes, limits: Sequence[bytes]) -> bool:
    """Tell whether a path is one of `limits` or below one; every path is when there are none."""
    return not limits or any(not limit or path == limit or path.startswith(limit + b"/") for limit in limits)


def list_changes(pairs: Mapping[bytes, Pair], identify: Callable[[File], File] | None = None) -> tuple[FileChange, ...]:
    """Return what differs in order of the paths, a file that was removed here and added there as renamed.

    Empty files and folders are never renamed: they tell nothing of each other.

    Args:
        pairs: What differs.
        identify: Finds the id of a file that lacks it; called for added files that may be renamed ones.
    """
    removed = [before for before, after in pairs.values() if before and not after]
    added = [after for before, after in pairs.values() if after and not before]
    if identify is not None:
        sizes = {file.size_bytes for file in removed}
        added = [identify(file) if file.size_bytes in sizes else file for file in added]
    renamed = _pair_up(removed, added)
    gone = {before.path for before, _ in renamed}
    come = {after.path for _, after in renamed}
    changes = [FileChange("renamed", before, after) for before, after in renamed]
    changes += [FileChange("removed", file, None) for file in removed if file.path not in gone]
    changes += [FileChange("added", None, file) for file in added if file.path not in come]
    changes += [FileChange("changed", before, after) for before, after in pairs.values() if before and after]
    return tuple(sorted(changes, key=lambda change: os.fsencode(change.path)))


def _pair_up(removed: Iterable[File], added: Iterable[File]) -> list[tuple[File, File]]:
    """Return files that were renamed: of equal bytes first those of one base name, then in order of their paths."""
    sources: dict[tuple[str, bool], list[File]] = defaultdict(list)
    targets: dict[tuple[str, bool], list[File]] = defaultdict(list)
    for files, by_content in ((removed, sources), (added, targets)):
        for file in sorted(files, key=lambda one: os.fsencode(one.path)):
            if file.object_id and file.size_bytes and file.kind != "folder":
                by_content[file.object_id, file.kind == "symlink"].append(file)
    pairs = []
    for content, olds in sources.items():
        by_name: dict[str, deque[File]] = defaultdict(deque)
        for new in targets.get(content, ()):
            by_name[os.path.basename(new.path)].append(new)
        left = []
        for old in olds:
            same = by_name[os.path.basename(old.path)]
            if same:
                pairs.append((old, same.popleft()))
            else:
                left.append(old)
        rest = sorted((new for queue in by_name.values() for new in queue), key=lambda one: os.fsencode(one.path))
        pairs += zip(left, rest, strict=False)
    return pairs
