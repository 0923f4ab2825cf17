"""From tensors to pieces that cover a file. SPEC §7: cuts never change an id.

For items of 2 bytes pieces are half as long: they have as many items as those of the same tensors in 32 bits, so that
the one can be stored as the other, rounded (SPEC §7.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from replicate.objects.cutting.fixed import MAX_PIECE_BYTES, cut_fixed
from replicate.objects.cutting.header import MAX_TENSORS, Surprise, Tensor

SMALL_BYTES = 256 << 10
"""Tensors below this size are packed with their neighbours: of items of 2 bytes, those below half of it."""
MAX_PACKED_BYTES = 1 << 20
MAX_NAME_CHARS = 64 << 10
CRUMB_BYTES = 4 << 10
"""Tensors below this size join a packed piece of any item size, or else what lies around them. So pieces are few."""


class Piece(NamedTuple):
    """A part of a file: all of a small tensor or several, a part of a large one, or bytes that belong to none.

    `(tensor, part)` is unique in a file, so it tells which piece of an earlier file to compare with.

    Attributes:
        offset: In bytes from the beginning of the file.
        length: In bytes: 1 to 4 MiB, for items of 2 bytes 2 MiB, a multiple of `item_bytes`.
        tensor: The name of the (first) tensor, or None for headers, gaps, lone tensors of less than 4 KiB,
            and files that are cut at multiples of 4 MiB.
        part: The number of the piece within its tensor, or among those without a tensor.
        item_bytes: How long the numbers are that begin with the piece: 1, 2, 4 or 8.
        dtype: Of all the tensors here, in the words of the file's format; None if unknown or if they differ.
        shape: Of the whole tensor, of which this may be a part; None if unknown or if there are several.
        tensors: How many tensors the piece holds (a part of): 0, 1, or more if they are packed.
    """

    offset: int
    length: int
    tensor: str | None
    part: int
    item_bytes: int = 1
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    tensors: int = 0


def check_tensors(tensors: Iterable[Tensor], size_bytes: int) -> list[Tensor]:
    """Return the tensors in the order of the file.

    Raises:
        Surprise: There are too many, two have one name or share bytes, or one is not all in the file.
    """
    ordered: list[Tensor] = []
    for tensor in tensors:
        ordered.append(tensor)
        if len(ordered) > MAX_TENSORS:
            raise Surprise("it has too many tensors")
    ordered.sort(key=lambda tensor: (tensor.offset, tensor.length))
    if len({tensor.name for tensor in ordered}) < len(ordered):
        raise Surprise("two tensors have one name")
    end = 0
    for tensor in ordered:
        if len(tensor.name) > MAX_NAME_CHARS:
            raise Surprise("a tensor has too long a name")
        if tensor.length < 0 or tensor.length % tensor.item_bytes:
            raise Surprise("a tensor is not made of items")
        if tensor.offset < end:
            raise Surprise("tensors overlap")
        end = _end(tensor)
    if end > size_bytes:
        raise Surprise("a tensor is not all in the file")
    return ordered


def cut_at_tensors(ordered: Iterable[Tensor], size_bytes: int) -> list[Piece]:
    """Return the pieces of a file whose tensors are given in the order of the file; they cover it exactly."""
    cutter = _Cutter()
    for tensor in ordered:
        if tensor.length:
            cutter.add(tensor)
    return cutter.finish(size_bytes)


def cut_without_tensors(size_bytes: int) -> list[Piece]:
    """Return pieces of 4 MiB and a last one."""
    return cut_at_tensors((), size_bytes)


class _Cutter:
    """Collects pieces from the beginning of a file to its end. `_packed` are small tensors that are not a piece yet."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._end = 0  # of the last piece
        self._nameless = 0
        self._packed: list[Tensor] = []
        self._item_bytes = 0  # of the first packed tensor that is no crumb

    def add(self, tensor: Tensor) -> None:
        if tensor.length >= _bound(SMALL_BYTES, tensor.item_bytes):
            self._close()
            self._add_parts(tensor)
            return
        if not self._joins(tensor):
            self._close()
        self._packed.append(tensor)
        if not self._item_bytes and tensor.length >= CRUMB_BYTES:
            self._item_bytes = tensor.item_bytes

    def finish(self, size_bytes: int) -> list[Piece]:
        self._close()
        self._add_nameless(size_bytes)
        return self._pieces

    def _joins(self, tensor: Tensor) -> bool:
        """Tell whether a small tensor, and the gap before it, belong to what is packed."""
        if not self._packed or tensor.offset - _end(self._packed[-1]) >= CRUMB_BYTES:
            return False
        distance = tensor.offset - self._packed[0].offset
        if distance + tensor.length > _bound(MAX_PACKED_BYTES, self._item_bytes or self._packed[0].item_bytes):
            return False
        if tensor.length < CRUMB_BYTES:
            return True
        return self._item_bytes in (0, tensor.item_bytes) and distance % tensor.item_bytes == 0

    def _close(self) -> None:
        """Make a piece of what is packed; a few crumbs, and a last part of an item, are left to the nameless bytes."""
        packed, item_bytes = self._packed, self._item_bytes
        self._packed, self._item_bytes = [], 0
        if not packed or _end(packed[-1]) - packed[0].offset < CRUMB_BYTES:
            return
        first = packed[0]
        item_bytes = item_bytes or first.item_bytes
        length = (_end(packed[-1]) - first.offset) // item_bytes * item_bytes
        dtype = first.dtype if len({tensor.dtype for tensor in packed}) == 1 else None
        shape = first.shape if len(packed) == 1 else None
        self._add_nameless(first.offset)
        self._add(Piece(first.offset, length, first.name, 0, item_bytes, dtype, shape, len(packed)))

    def _add_parts(self, tensor: Tensor) -> None:
        name, offset, length, item_bytes, dtype, shape, _ = tensor
        self._add_nameless(offset)
        for part, part_length in enumerate(cut_fixed(length, _bound(MAX_PIECE_BYTES, item_bytes))):
            self._add(Piece(self._end, part_length, name, part, item_bytes, dtype, shape, 1))

    def _add_nameless(self, end: int) -> None:
        for length in cut_fixed(end - self._end):
            self._add(Piece(self._end, length, None, self._nameless))
            self._nameless += 1

    def _add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._end += piece.length


def _bound(length: int, item_bytes: int) -> int:
    """Return what a bound is for items of this length."""
    return length // 2 if item_bytes == 2 else length


def _end(tensor: Tensor) -> int:
    return tensor.offset + tensor.length
