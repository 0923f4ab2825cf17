"""Which encodings hold what: the packs of a commit, and its files one by one. Floor 6. SPEC §7.

A list of chunks counts no logical bytes: its chunks do. Nothing is decoded but trees and lists of chunks.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from replicate.errors import CorruptionError, KeyNotFoundError, PathNotFoundError
from replicate.objects.codecs import Encoding
from replicate.objects.ids import ObjectID
from replicate.objects.locator import LocatorView
from replicate.objects.model import Mode, TreeEntry
from replicate.objects.pack import Entry, read_footer
from replicate.objects.store import ObjectStore
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.worktree.trees import find_entry, iter_tree


@dataclass(slots=True)
class EncodingUsage:
    """What one encoding holds.

    Attributes:
        objects: How many objects.
        logical: Their bytes, decoded.
        stored: The bytes of their frames.
    """

    objects: int = 0
    logical: int = 0
    stored: int = 0


@dataclass(slots=True)
class Encodings:
    """What each encoding holds, by its name: `raw`, `zstd`, `planes`, `delta`, `concat`, `fill`, `cast`, `patch`."""

    by_name: dict[str, EncodingUsage] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Count one object."""
        known = entry.encoding in Encoding.__members__.values()
        name = Encoding(entry.encoding).name.lower() if known else f"encoding {entry.encoding}"
        found = self.by_name.setdefault(name, EncodingUsage())
        found.objects += 1
        found.logical += 0 if entry.encoding == Encoding.CONCAT else entry.raw_length
        found.stored += entry.length

    def merge(self, other: Encodings) -> None:
        """Count what another has."""
        for name, one in other.by_name.items():
            found = self.by_name.setdefault(name, EncodingUsage())
            found.objects += one.objects
            found.logical += one.logical
            found.stored += one.stored


@dataclass(frozen=True, slots=True)
class FileUsage:
    """What a file or link of a commit takes, in bytes.

    Attributes:
        path: Where it is.
        logical: Its length.
        stored: Frames that were written for this commit and hold it, or a piece of it.
        encodings: What holds it, whoever wrote it; bases do not count.
        same_as: The path of the first file with the same bytes, with which it counts; None for that one.

    A piece that several files have counts with the first.
    """

    path: bytes
    logical: int
    stored: int
    encodings: Encodings
    same_as: bytes | None = None


def measure_packs(repository: Repository, packs: Iterable[tuple[ObjectID, int]]) -> Encodings:
    """Return which encodings hold what lies in packs, given with their sizes. Their footers are read, one by one.

    What cannot be read is told to the reporter and left out.

    Raises:
        StorageError: The storage failed.
    """
    found = Encodings()
    for pack, size in packs:
        try:
            entries = read_footer(repository.transport, pack, size)
        except (CorruptionError, KeyNotFoundError) as exc:
            repository.reporter.warn(f"{exc.message}; its encodings are left out")
            continue
        for entry in entries:
            found.add(entry)
    return found


def measure_files(
    repository: Repository, record: CommitRecord, own: Collection[ObjectID], path: bytes = b""
) -> list[FileUsage]:
    """Return what the files and links at a path and below take, in order of their paths; b"" is the whole commit.

    Args:
        repository: Where the commit lies.
        record: The commit.
        own: The packs that were written for it.
        path: A file or folder.

    Raises:
        PathNotFoundError: The commit has no such path.
        CorruptionError, ObjectNotFoundError: A folder or a list of chunks is damaged, or missing.
    """
    objects = repository.objects(record.locator)
    locations = LocatorView(repository.transport, [record.locator])
    seen: set[ObjectID] = set()
    first: dict[ObjectID, bytes] = {}
    found = []
    for name, entry in _entries(objects, record, path):
        encodings = Encodings()
        stored = 0
        for one in _objects(objects, entry):
            place = next(iter(locations.find(one)), None)
            if place is not None and one not in seen:
                encodings.add(place.entry)
                stored += place.entry.length if place.pack in own else 0
            seen.add(one)
        same_as = first.setdefault(entry.object_id, name)
        found.append(FileUsage(name, entry.size_bytes, stored, encodings, None if same_as == name else same_as))
    return found


def _entries(objects: ObjectStore, record: CommitRecord, path: bytes) -> Iterator[tuple[bytes, TreeEntry]]:
    entry = find_entry(objects, record.commit.tree, path)
    if entry is None:
        raise PathNotFoundError(
            f"{record.commit_id.short} has no {os.fsdecode(path)!r}",
            hint=f"`replicate ls-tree -r {record.commit_id.short}` lists its files",
        )
    if entry.mode is not Mode.DIRECTORY:
        yield path, entry
        return
    for name, inner in iter_tree(objects, entry.object_id, path):
        if inner.mode is not Mode.DIRECTORY:
            yield name, inner


def _objects(objects: ObjectStore, entry: TreeEntry) -> list[ObjectID]:
    chunks = [chunk.object_id for chunk in objects.read_chunks(entry.object_id)]
    return chunks if chunks == [entry.object_id] else [entry.object_id, *chunks]
