"""Walking a stored tree. SPEC §4.2."""

from __future__ import annotations

from collections.abc import Iterator

from replicate.errors import CorruptionError
from replicate.objects.ids import ObjectID
from replicate.objects.model import Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.worktree.scan import join

_MAX_NESTING = 1_000


def iter_tree(objects: ObjectStore, tree: ObjectID, folder: bytes = b"") -> Iterator[tuple[bytes, TreeEntry]]:
    """Yield every path below a tree and its entry, directories before what is in them, in name order."""
    objects.expect_trees()
    stack = [(folder, iter(objects.read_tree(tree)))]
    while stack:
        above, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        path = join(above, entry.name)
        yield path, entry
        if entry.mode is Mode.DIRECTORY:
            if len(stack) > _MAX_NESTING:
                where = f"tree {entry.object_id.hex()}"
                raise CorruptionError(f"{where} is nested deeper than {_MAX_NESTING:,} folders", where=where)
            stack.append((path, iter(objects.read_tree(entry.object_id, claimed_bytes=entry.size_bytes))))


def find_entry(objects: ObjectStore, tree: ObjectID, path: bytes) -> TreeEntry | None:
    """Return the entry at a path, or None. b"" is the tree itself."""
    entry = TreeEntry(b"", Mode.DIRECTORY, 0, tree)
    for name in path.split(b"/") if path else ():
        if entry.mode is not Mode.DIRECTORY:
            return None
        found = next((one for one in objects.read_tree(entry.object_id) if one.name == name), None)
        if found is None:
            return None
        entry = found
    return entry
