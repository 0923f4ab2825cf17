"""Which tensors of 32 bits a file of 16-bit tensors may be rounded from. Floor 6. SPEC §7.3.

A model is trained in 32 bits and exported in 16. The master is looked for by the names of the tensors and their number
of items: among the files that this save stored before (so a save stores larger files first), and among the files of
the commit before that are about twice as large. One sample has to be what the master rounds to. What is found is only
a guess: what is stored as a cast was rounded and compared first, piece by piece.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from replicate.earlier import EarlierFiles, read_part
from replicate.objects.choosing import Earlier, PieceKey, is_cast
from replicate.objects.codecs.concat import Chunk
from replicate.objects.cutting import Piece, Read
from replicate.objects.ids import Buffer, ObjectID, blob_id

_SAMPLE_ITEMS = 1024
_MAX_TRIED = 5


class _File:
    """A file with 32-bit tensors: where it lies in the worktree, if it is there yet, and its chunks in their order."""

    def __init__(self, source: bytes, pieces: Mapping[PieceKey, Chunk], is_stored: bool) -> None:
        self.source = source
        self.pieces = pieces
        self.is_stored = is_stored
        self.offsets: dict[PieceKey, int] = {}
        offset = 0
        for key, chunk in pieces.items():
            self.offsets[key] = offset
            offset += chunk.length

    def may_round_to(self, piece: Piece) -> bool:
        """Tell whether it has the tensor with as many items."""
        chunk = self.pieces.get((piece.tensor, piece.part))
        return chunk is not None and chunk.length == 2 * piece.length


class Masters:
    """The 32-bit tensors at hand in one save.

    Args:
        earlier: The files of the commit before, if there is one that can be relied on.
    """

    def __init__(self, earlier: EarlierFiles | None) -> None:
        self._earlier = earlier
        self._files: dict[PieceKey, list[_File]] = defaultdict(list)
        self._paths: set[bytes] = set()

    def add(self, path: bytes, source: bytes, pieces: Sequence[Piece], chunks: Sequence[Chunk]) -> None:
        """Take note of a file that this save has stored.

        Args:
            path: Where it lies in the tree.
            source: Where it lies in the worktree.
            pieces: How it was cut.
            chunks: What the pieces are stored as.
        """
        keys = [(piece.tensor, piece.part) for piece in pieces if piece.tensor and piece.item_bytes == 4]
        if not keys:
            return
        self._paths.add(path)
        own = ((piece.tensor, piece.part) for piece in pieces)
        file = _File(source, dict(zip(own, chunks, strict=True)), is_stored=False)
        for key in keys:
            self._files[key].append(file)

    def find(self, path: bytes, size_bytes: int, pieces: Sequence[Piece], read: Read) -> Earlier | None:
        """Return what a file may be stored on: an earlier version, masters, or both. What `read` raises passes.

        Args:
            path: Where it lies in the tree.
            size_bytes: Its length.
            pieces: How it is cut.
            read: Reads it.
        """
        earlier = self._earlier.find(path, size_bytes, pieces, read) if self._earlier else None
        left = sorted((one for one in pieces if one.tensor and one.item_bytes == 2), key=lambda one: -one.length)
        if not left:
            return earlier
        found: dict[PieceKey, Chunk] = {}
        places: dict[ObjectID, tuple[bytes, int]] = {}
        for file in itertools.islice(self._candidates(left, size_bytes, pieces), _MAX_TRIED):
            fitting = [piece for piece in left if file.may_round_to(piece)]
            if not fitting or not self._is_master(file, fitting[0], read):
                continue
            for piece in fitting:
                key = (piece.tensor, piece.part)
                found[key] = file.pieces[key]
                places[found[key].object_id] = (file.source, file.offsets[key])
            left = [piece for piece in left if (piece.tensor, piece.part) not in found]
            if not left:
                break
        if not found:
            return earlier
        earlier = earlier or Earlier({})
        return earlier._replace(masters=found, read=_reader(places, earlier.read))

    def _candidates(self, wanted: Sequence[Piece], size_bytes: int, pieces: Sequence[Piece]) -> Iterator[_File]:
        """Yield the files that have some of the tensors, of each tensor the last first, then those of the commit."""
        seen: set[int] = set()
        for piece in wanted:
            for file in reversed(self._files.get((piece.tensor, piece.part), ())[-_MAX_TRIED:]):
                if id(file) not in seen and file.may_round_to(piece):
                    seen.add(id(file))
                    yield file
        for path, source, found in self._earlier.find_doubles(size_bytes, pieces) if self._earlier else ():
            if path not in self._paths:
                yield _File(source, found, is_stored=True)

    def _is_master(self, file: _File, piece: Piece, read: Read) -> bool:
        """Tell whether some items in the middle of a piece are what those of the master round to."""
        key = (piece.tensor, piece.part)
        items = piece.length // 2
        count = min(items, _SAMPLE_ITEMS)
        first = (items - count) // 2
        sample: Buffer = read_part(file.source, file.offsets[key] + 4 * first, 4 * count)
        if not sample and file.is_stored and self._earlier is not None:  # it was removed when it was exported
            whole = self._earlier.read(file.pieces[key].object_id)
            sample = whole[4 * first : 4 * (first + count)] if whole is not None else b""
        return bool(sample) and is_cast(read(piece.offset + 2 * first, 2 * count), sample)


def _reader(
    places: Mapping[ObjectID, tuple[bytes, int]], other: Callable[[ObjectID, int], bytes | None]
) -> Callable[[ObjectID, int], bytes | None]:
    """Return what reads masters from the worktree, and other chunks as `other` does."""

    def read(wanted: ObjectID, length: int) -> bytes | None:
        if wanted not in places:
            return other(wanted, length)
        data = read_part(*places[wanted], length)
        return data if blob_id(data) == wanted else None

    return read
