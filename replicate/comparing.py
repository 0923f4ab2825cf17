"""What differs between a worktree and a commit. Floor 6."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from replicate.objects.ids import ObjectID, blob_id
from replicate.objects.model import Mode, TreeEntry
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.worktree.checkout import hash_file
from replicate.worktree.index import Index
from replicate.worktree.scan import Scan, Scanner, join, mode_of
from replicate.worktree.trees import iter_tree

Letter = Literal["M", "A", "D"]


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs: modified, added, or deleted in the worktree."""

    letter: Letter
    path: bytes


def compare_worktree(
    repository: Repository,
    record: CommitRecord,
    *,
    index: Index | None = None,
    saved: Mapping[bytes, TreeEntry] | None = None,
    scan: Scan | None = None,
    largest_read: int | None = None,
) -> list[Change]:
    """Return the paths in which the worktree differs from a commit, sorted; ignored files do not count.

    Files that the index vouches for are not opened.

    Args:
        repository: Where the commit lies.
        record: The commit.
        index: The worktree's stat cache, if the caller has it already.
        saved: The commit's entries by path, if the caller has them already.
        scan: What lies in the worktree, if the caller has looked already.
        largest_read: Files of more bytes are not read: of equal size they are taken as equal. None reads all.
    """
    root = repository.project.root
    if scan is None:
        scan = Scanner(root, repository.excluded_paths(root)).scan()
    if index is None:  # an empty one counts as none by its length
        index = repository.worktree_index()
    if saved is None:
        saved = dict(iter_tree(repository.objects(record.locator), record.commit.tree))
    changes = []
    present = set()
    for folder, listing in scan.directories.items():
        for name, (mode, stat) in listing.items():
            path = join(folder, name)
            present.add(path)
            entry = saved.get(path)
            if entry is None:
                if mode is not Mode.DIRECTORY or not scan.directories.get(path):
                    changes.append(Change("A", path))
            elif not _is_same(os.path.join(os.fsencode(root), path), path, mode, stat, entry, index, largest_read):
                changes.append(Change("M", path))
    filled = {path.rpartition(b"/")[0] for path in saved}
    for path, entry in saved.items():
        if path not in present:  # deleted, or saved by name although it is ignored
            full = os.path.join(os.fsencode(root), path)
            is_gone = lies_beyond_file(scan, path)
            letter = "D" if is_gone else _compare_hidden(full, path, entry, index, largest_read)
            if letter is not None and (letter != "D" or path not in filled):  # of a folder, its files are listed
                changes.append(Change(letter, path))
    return sorted(changes, key=lambda change: change.path)


def lies_beyond_file(scan: Scan, path: bytes) -> bool:
    """Tell whether a file, or a link that may lead anywhere, stands where a folder above `path` would be."""
    above = path.rpartition(b"/")[0]
    while above:
        folder, _, name = above.rpartition(b"/")
        found = scan.directories.get(folder, {}).get(name)
        if found is not None:
            return found[0] is not Mode.DIRECTORY
        above = folder
    return False


def _compare_hidden(
    full: bytes, path: bytes, entry: TreeEntry, index: Index, largest_read: int | None
) -> Letter | None:
    """Return how a saved path that the scan does not show differs on the disk, or None."""
    try:
        info = os.lstat(full)
    except (FileNotFoundError, NotADirectoryError):
        return "D"
    except OSError:  # its folder may not be looked into
        return "M"
    mode = mode_of(info)
    return None if mode is not None and _is_same(full, path, mode, info, entry, index, largest_read) else "M"


def _is_same(
    full: bytes,
    path: bytes,
    mode: Mode,
    stat: os.stat_result,
    entry: TreeEntry,
    index: Index,
    largest_read: int | None,
) -> bool:
    if mode is not entry.mode:
        return False
    if mode is Mode.DIRECTORY:
        return True
    if mode.is_file and stat.st_size != entry.size_bytes:
        return False
    if mode.is_file and largest_read is not None and stat.st_size > largest_read:
        return index.lookup(path, stat) in (None, entry.object_id)
    return _content(full, path, mode, stat, index) == entry.object_id


def _content(full: bytes, path: bytes, mode: Mode, stat: os.stat_result, index: Index) -> ObjectID | None:
    try:
        if mode is Mode.SYMLINK:
            return blob_id(os.readlink(full))
        return index.lookup(path, stat) or hash_file(full)
    except OSError:
        return None
