"""The commit that a save builds on: its directories, and how they are stored. Floor 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replicate.errors import CorruptionError, NotFoundError
from replicate.objects.codecs.patch import PatchBase
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.locator import read_locator
from replicate.objects.model import Mode, TreeEntry, decode_tree, directory_size
from replicate.objects.store import ObjectStore
from replicate.objects.writer import Stored
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.worktree.scan import join

MAX_NESTING = 1_000


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """A directory as it was saved: its tree, its total bytes and files, and what a later tree may be a patch on."""

    tree: ObjectID
    size_bytes: int
    files: int
    entries: tuple[TreeEntry, ...]
    patch_base: PatchBase | None


@dataclass(frozen=True, slots=True)
class Base:
    """A commit, how it is stored, and its directories by path (b"" is the root)."""

    record: CommitRecord
    stored: Stored
    directories: Mapping[bytes, DirectoryState]


def load_base(repository: Repository, record: CommitRecord) -> Base | None:
    """Return a commit as the base of a save, or None when any of its trees is not at hand."""
    try:
        locator = read_locator(repository.transport, record.locator)
        packset = repository.refs.read_packset(record.packset)
        directories = load_directories(repository.objects(record.locator), record.commit.tree)
    except (CorruptionError, NotFoundError):
        return None
    at = record.packset.at
    stored = Stored(
        record.locator, locator.older, locator.total, locator.whole, packset, at, record.meta, locator.spread
    )
    return Base(record, stored, directories)


def load_directories(objects: ObjectStore, root: ObjectID) -> dict[bytes, DirectoryState]:
    """Return a tree's directories by path. No recursion: they may be nested as deep as Python's stack."""
    listed = []
    pending = [(b"", root)]
    while pending:
        folder, tree = pending.pop()
        if folder.count(b"/") >= MAX_NESTING:
            raise CorruptionError(f"tree {root.hex()} is nested too deep", where=f"tree {root.hex()}")
        data = objects.read(tree, Kind.TREE)
        entries = tuple(decode_tree(data, f"tree {tree.hex()}"))
        listed.append((folder, tree, entries, objects.read_patch_base(tree, data)))
        pending += [(join(folder, one.name), one.object_id) for one in entries if one.mode is Mode.DIRECTORY]
    found: dict[bytes, DirectoryState] = {}
    for folder, tree, entries, patch_base in reversed(listed):  # what is below a directory was listed after it
        files = sum(one.mode.is_file for one in entries)
        files += sum(found[join(folder, one.name)].files for one in entries if one.mode is Mode.DIRECTORY)
        found[folder] = DirectoryState(tree, directory_size(entries), files, entries, patch_base)
    return found
