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
    """Return a commit as the base of a save, or None when any of its trees is not at hand: then nothing relies on it."""
    try:
        locator = read_locator(repository.transport, record.locator)
        packset = repository.refs.read_packset(record.packset)
        directories: dict[bytes, DirectoryState] = {}
        _load_directory(repository.objects(record.locator), record.commit.tree, b"", directories)
    except (CorruptionError, NotFoundError):
        return None
    at = record.packset.at
    stored = Stored(record.locator, locator.older, locator.total, locator.whole, packset, at, record.meta)
    return Base(record, stored, directories)


def _load_directory(
    objects: ObjectStore, tree: ObjectID, folder: bytes, found: dict[bytes, DirectoryState]
) -> DirectoryState:
    data = objects.read(tree, Kind.TREE)
    entries = tuple(decode_tree(data, f"tree {tree.hex()}"))
    files = 0
    for entry in entries:
        if entry.mode is Mode.DIRECTORY:
            files += _load_directory(objects, entry.object_id, join(folder, entry.name), found).files
        elif entry.mode.is_file:
            files += 1
    state = DirectoryState(tree, directory_size(entries), files, entries, objects.read_patch_base(tree, data))
    found[folder] = state
    return state
