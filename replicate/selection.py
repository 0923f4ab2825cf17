"""What a save is to hold: the whole worktree, or named paths in place of the base's. Floor 6.

Looks at names and stats only. What the index proves to be as it was in the base is taken over as the base's entry;
everything else becomes an `Item` that `saving` gives an object.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from replicate.base import MAX_NESTING, Base
from replicate.errors import InvalidInputError, StorageError
from replicate.objects.choosing import MIN_CUT_BYTES
from replicate.objects.ids import ObjectID
from replicate.objects.model import Mode, TreeEntry
from replicate.repository import Repository
from replicate.worktree.index import Index, Stat
from replicate.worktree.scan import Scan, Scanner, join

_NO_STAT = Stat(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path that the caller named: where it goes in the tree, and the absolute path that it is read from."""

    path: bytes
    source: bytes


@dataclass(slots=True)
class Item:
    """An entry of the tree to be saved that comes from the disk.

    Attributes:
        path: Where it goes in the tree.
        mode, stat: What it was when it was listed.
        source: Where it is read from, absolute.
        key: What the index calls it.
        named: Whether the caller named it, or a folder that it lies in.
        object_id, size_bytes: Its content, once it is stored; None if it is left out.
    """

    path: bytes
    mode: Mode
    stat: Stat
    source: bytes
    key: bytes
    named: bool
    object_id: ObjectID | None = None
    size_bytes: int = 0


def in_order(items: Iterable[Item]) -> list[Item]:
    """Return files in the order in which to store them: the small, then the large, of these the largest first.

    A model that is exported is shorter than what it was rounded from, which has to be stored before it.
    """
    return sorted(items, key=lambda one: (one.stat.size >= MIN_CUT_BYTES, -one.stat.size))


Listing = dict[bytes, Item | TreeEntry]
"""A directory's entries by name: from the disk, or taken over from the base."""


@dataclass(slots=True)
class Selection:
    """The directories that a save has to build.

    Attributes:
        listings: By path; b"" is the root.
        keeps_rest: Whether directories of the base that are not listed stay as they are.
        unreadable: Directories that could not be listed, with the reason.
        special, secrets: Paths left out, being devices and the like, or because their names mean secrets.
        kept: Listed directories whose every entry is the base's; only what is in their folders may differ.
    """

    listings: dict[bytes, Listing]
    keeps_rest: bool
    unreadable: dict[bytes, str]
    special: list[bytes]
    secrets: list[bytes]
    kept: set[bytes] = field(default_factory=set)


def select_worktree(repository: Repository, index: Index, base: Base | None) -> Selection:
    """Return the whole worktree. `base` is given only if what it holds may be relied on."""
    root = repository.project.root
    try:
        scan = Scanner(root, repository.excluded_paths(root)).scan()
    except OSError as exc:
        raise StorageError(f"cannot read {root}: {exc.strerror}", operation="read") from exc
    top = os.path.join(os.fsencode(root), b"")
    selection = Selection({}, False, dict(scan.unreadable), scan.special, scan.secrets)
    lookup = index.lookup
    for folder, entries in scan.directories.items():
        if folder.count(b"/") >= MAX_NESTING:
            raise _too_deep(folder)
        state = base.directories.get(folder) if base else None
        before = {entry.name: entry for entry in state.entries} if state else {}
        prefix = folder + b"/" if folder else b""
        listing: Listing = {}
        is_kept = len(before) == len(entries) and state is not None
        for name, (mode, info) in entries.items():
            entry = before.get(name)
            path = prefix + name
            if entry is not None and entry.mode is mode:
                if mode is Mode.DIRECTORY:
                    listing[name] = entry
                    continue
                if mode is not Mode.SYMLINK and lookup(path, info) == entry.object_id:
                    listing[name] = entry
                    continue
            listing[name] = Item(path, mode, Stat.of(info), top + path, path, False)
            is_kept = False
        selection.listings[folder] = listing
        if is_kept:
            selection.kept.add(folder)
    return selection


def select_named(
    repository: Repository, base: Base | None, named_paths: tuple[NamedPath, ...], worktree: Selection | None = None
) -> Selection:
    """Return the directories that differ from the base's because of the named paths, which may be none.

    Where the worktree itself is among them, `worktree` is its selection, and the other paths are added to it.

    Raises:
        InvalidInputError: A path does not exist, or cannot be saved.
        StorageError: A folder cannot be listed.
    """
    selection = worktree or Selection({}, True, {}, [], [])
    root = os.fsencode(repository.project.root)
    listings = selection.listings
    store = os.fsencode(os.path.join(os.path.realpath(repository.project.store), ""))
    for named in named_paths:
        if not named.path:
            continue
        if os.path.join(named.source, b"").startswith(store):
            raise InvalidInputError(f"cannot save {os.fsdecode(named.source)}: it is the store")
        in_worktree = named.source == os.path.join(root, named.path)
        folder, name = (root, named.path) if in_worktree else os.path.split(named.source)
        scanner = Scanner(os.fsdecode(folder), repository.excluded_paths(os.fsdecode(folder)))
        scan = Scan()
        is_there = scanner.scan_named(name, scan)
        for path, why in scan.unreadable:
            raise StorageError(f"cannot read {os.fsdecode(os.path.join(folder, path))}: {why}", operation="read")
        if not is_there:
            why = "is no file, folder or link" if scan.special else "does not exist"
            raise InvalidInputError(
                f"cannot save {os.fsdecode(named.source)}: it {why}", hint="paths are relative to the current folder"
            )
        selection.special += scan.special
        selection.secrets += scan.secrets
        above, _, leaf = name.rpartition(b"/")
        mode, info = scan.directories.pop(above)[leaf]
        _graft(listings, named.path, base)
        for below, entries in scan.directories.items():
            target = named.path + below[len(name) :]
            if target.count(b"/") >= MAX_NESTING:
                raise _too_deep(target)
            source = os.path.join(folder, below, b"")
            listings[target] = {
                one: Item(
                    join(target, one),
                    found,
                    Stat.of(stat),
                    source + one,
                    join(target, one) if in_worktree else source + one,
                    True,
                )
                for one, (found, stat) in entries.items()
            }
        parent, _, leaf = named.path.rpartition(b"/")
        key = named.path if in_worktree else named.source
        listings[parent][leaf] = Item(named.path, mode, Stat.of(info), named.source, key, True)
    return selection


def _graft(listings: dict[bytes, Listing], path: bytes, base: Base | None) -> None:
    """Make `path` free to be replaced: list its parents, which become directories, and forget what is below it."""
    below = path + b"/"
    for folder in [folder for folder in listings if folder == path or folder.startswith(below)]:
        del listings[folder]
    list_base = _lister(base)
    folder = b""
    listings.setdefault(folder, list_base(folder))
    for name in path.split(b"/")[:-1]:
        parent, folder = folder, join(folder, name)
        entry = listings[parent].get(name)
        if entry is None or entry.mode is not Mode.DIRECTORY:
            listings[parent][name] = Item(folder, Mode.DIRECTORY, _NO_STAT, b"", b"", True)
            listings[folder] = {}
        elif folder not in listings:
            listings[folder] = list_base(folder)


def _lister(base: Base | None) -> Callable[[bytes], Listing]:
    def list_base(folder: bytes) -> Listing:
        state = base.directories.get(folder) if base else None
        return {entry.name: entry for entry in state.entries} if state else {}

    return list_base


def _too_deep(folder: bytes) -> InvalidInputError:
    return InvalidInputError(f"{os.fsdecode(folder)[:100]}… is nested deeper than {MAX_NESTING:,} folders")
