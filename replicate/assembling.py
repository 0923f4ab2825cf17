"""Objects stored one by one, before the commit that holds them is made. Floor 6. SPEC §4.2, §12.

What plumbing builds a checkpoint from. Nothing is published here: until `Session` commits the tree, what was stored is
in no closure; it is durable, found by the dedup index, and harms nothing if it is never used.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from replicate.base import MAX_NESTING
from replicate.errors import InvalidInputError, ObjectNotFoundError, StorageError
from replicate.objects.choosing import cut
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.model import (
    MAX_LINK_BYTES,
    Mode,
    TreeEntry,
    check_name,
    directory_size,
    encode_tree,
)
from replicate.objects.store import ObjectStore
from replicate.objects.writer import ObjectWriter
from replicate.repository import Repository
from replicate.worktree.index import Stat
from replicate.worktree.reading import ChangedWhileRead, OpenFile, open_file
from replicate.worktree.scan import join


@dataclass(frozen=True, slots=True)
class GivenEntry:
    """A path of a tree to be stored and the object that stands there; `size_bytes` None: look it up."""

    path: bytes
    mode: Mode
    size_bytes: int | None
    object_id: ObjectID


@contextlib.contextmanager
def assembling(repository: Repository) -> Iterator[Assembly]:
    """Store objects in a block; they are durable when it ends, and dropped when it raises. Makes the store if need be.

    Raises:
        UnsupportedFormatError: A newer version wrote the store. StorageError: It cannot be written.
    """
    repository.create()
    with repository.saving():
        repository.check_writable()
        repository.index.refresh()
        repository.index.begin_save()
        writer = repository.writer(max(1, min(8, repository.host.cpu_count)))
        try:
            yield Assembly(repository, writer)
            writer.finish_loose()
        finally:
            writer.close()


class Assembly:
    """The objects of one `assembling` block."""

    def __init__(self, repository: Repository, writer: ObjectWriter) -> None:
        self._repository = repository
        self._objects = ObjectStore(repository.transport, repository.index)
        self._writer = writer

    def add_file(self, path: bytes) -> ObjectID:
        """Store a file's bytes and return the blob's id; OSError when it cannot be read or is a link.

        Raises:
            StorageError: It was shortened while it was read, or the store cannot be written.
        """
        try:
            with open_file(path) as file:
                return self._add(file)
        except ChangedWhileRead as exc:
            raise StorageError(f"{os.fsdecode(path)} changed while it was read", operation="read") from exc

    def add_stream(self, stream: BinaryIO) -> ObjectID:
        """Store what is left of a stream and return the blob's id; OSError when it cannot be read.

        What is more than 4 MiB passes through a file in `local/tmp`.
        """
        data = stream.read(MAX_PIECE_BYTES + 1)
        if len(data) <= MAX_PIECE_BYTES:
            return self._writer.write_blob(data)
        folder = self._repository.local_path("tmp")
        with _writing(folder):
            os.makedirs(folder, exist_ok=True)
            spool = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (the next line is one)
        with spool:
            while data:
                with _writing(folder):
                    written = spool.write(data)
                data = data[written:] or stream.read(MAX_PIECE_BYTES)
            return self._add(OpenFile(spool.fileno(), Stat.of(os.fstat(spool.fileno()))))

    def _add(self, file: OpenFile) -> ObjectID:
        pieces = cut(file.size_bytes, file.read)
        if len(pieces) <= 1:
            return self._writer.write_blob(file.read_all(), pieces[0] if pieces else None)
        return self._writer.write_large(file, pieces, lambda size: None)

    def add_tree(self, entries: Iterable[GivenEntry]) -> ObjectID:
        """Store the tree that holds these entries, with the trees of the folders in their paths, and return its id.

        Every object that an entry names is in the store and of the entry's kind; what is below a tree that an entry
        names is looked at when it is committed.

        Raises:
            InvalidInputError: A path is not allowed, is there twice, or lies below something that is no folder; or a
                size is wrong.
            ObjectNotFoundError: The store lacks an object, or has it as another kind.
        """
        folders: dict[bytes, dict[bytes, TreeEntry]] = {b"": {}}
        for given in entries:
            _check_path(given.path)
            _make_room(folders, given.path)
            folder, _, name = given.path.rpartition(b"/")
            folders[folder][name] = TreeEntry(name, given.mode, self._size(given), given.object_id)
        for path in sorted(filter(None, folders), key=lambda one: one.count(b"/"), reverse=True):
            folder, _, name = path.rpartition(b"/")
            size = directory_size(folders[path].values())
            folders[folder][name] = TreeEntry(name, Mode.DIRECTORY, size, self._write_tree(folders[path].values()))
        return self._write_tree(folders[b""].values())

    def _write_tree(self, entries: Iterable[TreeEntry]) -> ObjectID:
        return self._writer.write_tree(encode_tree(entries))[0]

    def _size(self, given: GivenEntry) -> int:
        """Return the size that an entry has in its tree (SPEC §4.2), which is the one given if one is."""
        shown = os.fsdecode(given.path)
        kind = Kind.TREE if given.mode is Mode.DIRECTORY else Kind.BLOB
        size = self._writer.held_length(given.object_id, kind)
        if size is None:
            raise ObjectNotFoundError(
                f"{shown!r}: {kind.name.lower()} {given.object_id.hex()} is not in the store",
                object_id=given.object_id.hex(),
                hint=f"store it first, with `replicate {'write-tree' if kind is Kind.TREE else 'hash-object -w FILE'}`",
            )
        if kind is Kind.TREE:
            size = directory_size(self._objects.read_tree(given.object_id))
        elif given.mode is Mode.SYMLINK and (
            not 0 < size <= MAX_LINK_BYTES or b"\0" in self._objects.read(given.object_id)
        ):
            raise InvalidInputError(f"{shown!r}: a link's target has 1 to {MAX_LINK_BYTES:,} bytes and no NUL")
        if given.size_bytes not in (None, size):
            raise InvalidInputError(
                f"{shown!r} has {size:,} bytes, not {given.size_bytes:,}",
                hint="write - for the size to have it looked up",
            )
        return size


@contextlib.contextmanager
def _writing(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(f"cannot write into {folder}: {exc.strerror}", operation="write") from exc


def _check_path(path: bytes) -> None:
    names = path.split(b"/")
    problem = next(filter(None, map(check_name, names)), None)
    if problem:
        raise InvalidInputError(f"{os.fsdecode(path)!r} cannot stand in a tree: {problem}")
    if len(names) > MAX_NESTING:
        raise InvalidInputError(f"{os.fsdecode(path)[:100]!r}… is nested deeper than {MAX_NESTING:,} folders")


def _make_room(folders: dict[bytes, dict[bytes, TreeEntry]], path: bytes) -> None:
    """Make the folders above a path; raise when it is taken, or when one of them is something else already."""
    folder = b""
    for name in path.split(b"/")[:-1]:
        parent, folder = folder, join(folder, name)
        if name in folders[parent]:
            raise InvalidInputError(
                f"{os.fsdecode(path)!r} lies in {os.fsdecode(folder)!r}, which is given as an entry of its own"
            )
        folders.setdefault(folder, {})
    name = path.rpartition(b"/")[2]
    if name in folders[folder]:
        raise InvalidInputError(f"{os.fsdecode(path)!r} is given twice")
    if path in folders:
        raise InvalidInputError(f"{os.fsdecode(path)!r} is given as an entry, and as a folder of other paths")
