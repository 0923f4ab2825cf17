"""Which file of the commit before holds an earlier version of a file's weights. Floor 6. SPEC §7.

The same path; else the same path but for its numbers (`step-00010.pt`, then `step-00020.pt`), the next lower and the
highest; else a file of about the same size, as a base model has. The tensors must have the same names, or lie at the
same places; of several such files the first is taken that a sample says is worth it: another run may have left its
weights under the same path. What is found is only a guess: pieces of another length are no bases, and a difference
that saves nothing is not stored.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from replicate.base import DirectoryState
from replicate.errors import CorruptionError, NotFoundError
from replicate.objects.choosing import MIN_CUT_BYTES, Earlier, PieceKey, is_base, links_of
from replicate.objects.codecs.concat import Chunk
from replicate.objects.cutting import Piece, Read, cut_file
from replicate.objects.ids import ObjectID, blob_id
from replicate.objects.model import TreeEntry
from replicate.objects.store import ObjectStore
from replicate.worktree.reading import ChangedWhileRead, open_file
from replicate.worktree.scan import join

_MAX_CANDIDATES = 5
_MAX_AT_HAND = 16
_MAX_HEADER_CHANGE = 0.02  # of the size: names and descriptions differ, tensors do not
_NUMBER = re.compile(rb"\d+")


class _Numbered(NamedTuple):
    """A file with the numbers in its path, by which it is ordered."""

    numbers: list[int]
    path: bytes
    entry: TreeEntry


class EarlierFiles:
    """The files of one commit as bases of the next.

    Args:
        objects: Reads that commit.
        directories: Its directories by path.
        root: The worktree, where files of that commit may still lie.
        generation: The number of the save within its experiment, which chooses how far back a base lies.
    """

    def __init__(
        self, objects: ObjectStore, directories: Mapping[bytes, DirectoryState], root: bytes, generation: int
    ) -> None:
        self._objects = objects
        self._directories = directories
        self._root = root
        self._links = links_of(generation)
        self._cuts: dict[ObjectID, Mapping[PieceKey, Chunk]] = {}
        self._alike: dict[bytes, list[_Numbered]] | None = None
        self._by_size: list[tuple[int, bytes, TreeEntry]] = []

    def find(self, path: bytes, size_bytes: int, pieces: Sequence[Piece], read: Read) -> Earlier | None:
        """Return the earlier version of a file; None when nothing is like it. What `read` raises passes.

        Args:
            path: Where it lies in the tree.
            size_bytes: Its length.
            pieces: How it is cut.
            read: Reads it.
        """
        wanted = [piece for piece in pieces if piece.tensor is not None]
        if not wanted:
            return None
        entries = {entry.object_id: entry for entry in self._candidates(path, size_bytes)}
        first: Earlier | None = None
        for entry in itertools.islice(entries.values(), _MAX_CANDIDATES):
            found = self._cut(entry, pieces)
            fitting = [piece for piece in wanted if _fits(piece, found)]
            if 2 * len(fitting) < len(wanted):
                continue
            earlier = Earlier(found, self._links, self._reader(path))
            if len(entries) == 1 or self._is_like(max(fitting, key=lambda piece: piece.length), earlier, read):
                return earlier
            first = first or earlier
        return first

    def find_doubles(
        self, size_bytes: int, pieces: Sequence[Piece]
    ) -> Iterator[tuple[bytes, bytes, Mapping[PieceKey, Chunk]]]:
        """Yield the files of about twice a file's size: the path, where it lay in the worktree, the chunks by piece.

        One that is cut into pieces twice as long as those of the file's tensors is taken to hold the same tensors.
        """
        for path, entry in self._about(2 * size_bytes):
            found = self._cut(entry, pieces, 2)
            if found:
                yield path, join(self._root, path), found

    def read(self, wanted: ObjectID) -> bytes | None:
        """Return a chunk of that commit; None when it cannot be read."""
        try:
            return self._objects.read(wanted)
        except (CorruptionError, NotFoundError):
            return None

    def _is_like(self, piece: Piece, earlier: Earlier, read: Read) -> bool:
        """Tell whether one piece is worth storing as a difference to its counterpart."""
        base_id = earlier.pieces[piece.tensor, piece.part].object_id
        base = earlier.read(base_id, piece.length) or self.read(base_id)
        return base is not None and is_base(read(piece.offset, piece.length), piece.item_bytes, base)

    def _reader(self, path: bytes) -> Callable[[ObjectID, int], bytes | None]:
        """Return what reads chunks from earlier files of a numbered series that are in the worktree yet."""
        others = self._series_of(path)[:_MAX_AT_HAND]
        if not others:
            return lambda wanted, length: None
        lock = threading.Lock()
        offsets: dict[ObjectID, tuple[bytes, int]] = {}

        def read(wanted: ObjectID, length: int) -> bytes | None:
            with lock:
                if others and not offsets:
                    for one in others:
                        offsets.update(self._offsets(one))
                    others.clear()
            source, offset = offsets.get(wanted, (b"", 0))
            data = read_part(source, offset, length) if source else b""
            return data if blob_id(data) == wanted else None

        return read

    def _offsets(self, file: _Numbered) -> Iterator[tuple[ObjectID, tuple[bytes, int]]]:
        """Yield where the chunks of a file lie in the worktree, if nobody touched it there."""
        source = join(self._root, file.path)
        offset = 0
        with contextlib.suppress(CorruptionError, NotFoundError):
            for chunk in self._objects.read_chunks(file.entry.object_id):
                yield chunk.object_id, (source, offset)
                offset += chunk.length

    def _candidates(self, path: bytes, size_bytes: int) -> Iterator[TreeEntry]:
        folder, _, name = path.rpartition(b"/")
        state = self._directories.get(folder)
        for entry in state.entries if state else ():
            if entry.name == name and entry.mode.is_file:
                yield entry
        alike = self._series_of(path)
        yield from (one.entry for one in alike[:1])
        if alike:
            yield max(alike).entry
        yield from (entry for _, entry in self._about(size_bytes))

    def _about(self, size_bytes: int) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield the files of about this size, and their paths."""
        self._files_alike()
        spread = int(size_bytes * _MAX_HEADER_CHANGE)
        first = bisect.bisect_left(self._by_size, size_bytes - spread, key=lambda one: one[0])
        for size, path, entry in itertools.islice(self._by_size, first, None):
            if size > size_bytes + spread:
                return
            yield path, entry

    def _series_of(self, path: bytes) -> list[_Numbered]:
        """Return the other files whose paths differ in numbers only: the next lower one first, then those above."""
        own = _numbers(path)
        alike = sorted(one for one in self._files_alike().get(_NUMBER.sub(b"0", path), ()) if one.path != path)
        lower = [one for one in alike if one.numbers < own]
        return [*reversed(lower), *alike[len(lower) :]]

    def _files_alike(self) -> dict[bytes, list[_Numbered]]:
        """Return the files by their paths without numbers."""
        if self._alike is None:
            self._alike = defaultdict(list)
            for folder, state in self._directories.items():
                for entry in state.entries:
                    if entry.mode.is_file and entry.size_bytes >= MIN_CUT_BYTES:
                        path = join(folder, entry.name)
                        self._alike[_NUMBER.sub(b"0", path)].append(_Numbered(_numbers(path), path, entry))
                        self._by_size.append((entry.size_bytes, path, entry))
            self._by_size.sort(key=lambda one: one[0])
        return self._alike

    def _cut(self, entry: TreeEntry, pieces: Sequence[Piece], times: int = 1) -> Mapping[PieceKey, Chunk]:
        """Return the chunks of a stored file by tensor and part; none when it is not cut at its tensors.

        One that is cut at the same places as `pieces`, with tensors so many times as long, is taken to hold the same
        tensors: to look would be to decode a piece of each tensor of a torch file.
        """
        known = self._cuts.get(entry.object_id)
        if known is not None:
            return known
        try:
            chunks = self._objects.read_chunks(entry.object_id)
            if _are_alike(pieces, chunks, times):
                return _by_piece(pieces, chunks)
            known = self._cuts[entry.object_id] = self._read_cut(entry, chunks)
        except (CorruptionError, NotFoundError):  # it cannot be a base; whoever restores it is told
            known = self._cuts[entry.object_id] = {}
        return known

    def _read_cut(self, entry: TreeEntry, chunks: Sequence[Chunk]) -> Mapping[PieceKey, Chunk]:
        ends = list(itertools.accumulate(chunk.length for chunk in chunks))
        last: list[tuple[int, bytes]] = []

        def read(offset: int, length: int) -> bytes:
            parts = []
            while length:
                number = bisect.bisect_right(ends, offset)
                if not last or last[0][0] != number:
                    last[:] = [(number, self._objects.read_chunk(chunks[number], entry.object_id))]
                start = offset - (ends[number] - chunks[number].length)
                parts.append(last[0][1][start : start + length])
                offset += len(parts[-1])
                length -= len(parts[-1])
            return b"".join(parts)

        if not ends or ends[-1] != entry.size_bytes:
            return {}
        pieces = cut_file(entry.size_bytes, read)
        if [piece.length for piece in pieces] != [chunk.length for chunk in chunks]:
            return {}
        return _by_piece(pieces, chunks)


def _are_alike(pieces: Sequence[Piece], chunks: Sequence[Chunk], times: int) -> bool:
    """Tell whether chunks are as long as pieces, or single tensors are so many times as long."""
    return len(pieces) == len(chunks) and all(
        chunk.length == times * piece.length or (times > 1 and piece.tensors != 1)
        for piece, chunk in zip(pieces, chunks, strict=True)
    )


def _by_piece(pieces: Sequence[Piece], chunks: Sequence[Chunk]) -> Mapping[PieceKey, Chunk]:
    return {(piece.tensor, piece.part): chunk for piece, chunk in zip(pieces, chunks, strict=True)}


def _numbers(path: bytes) -> list[int]:
    return [int(number) for number in _NUMBER.findall(path)]


def _fits(piece: Piece, found: Mapping[PieceKey, Chunk]) -> bool:
    chunk = found.get((piece.tensor, piece.part))
    return chunk is not None and chunk.length == piece.length


def read_part(path: bytes, offset: int, length: int) -> bytes:
    """Return a part of a file of the worktree; what is not there, or is no regular file, gives nothing."""
    try:
        with open_file(path) as file:
            return file.read(offset, length)
    except (OSError, ChangedWhileRead):
        return b""
