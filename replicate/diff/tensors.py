"""How the tensors of a weight file differ, in bounded memory.

Tensors are paired by name. Where both files are made of equal chunks nothing is read; elsewhere both are read in slices
of at most 4 MiB, each file by a thread of its own.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from replicate.diff.files import Opened
from replicate.objects.codecs.concat import Chunk
from replicate.tensors import Tensor, TensorFile
from replicate.tensors.values import Extent, Span
from replicate.threads import worker_pool

_SLICE_BYTES = 4 << 20
_MAX_GATHERED_BYTES = 64 << 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TensorChange:
    """How one tensor differs. Δ is its values after less those before, A those before.

    NaN and infinities take no part in the numbers, nor does what stands in their place on the other side.

    Attributes:
        change: "added", "removed", or "changed": in dtype, shape or values.
        before: What it was; None when it was added.
        after: What it is; None when it was removed.
        max_change: The largest |Δ|. This and what follows is None when values were not compared: the shape changed, the
            file has more than was to be read, they are no numbers, or are laid out differently and large.
        mean_change: The mean of |Δ|.
        relative_change: ‖Δ‖ / ‖A‖, by the Euclidean norm; also None when all of A is 0.
        changed_share: How many of the values changed, 0 to 1; of one dtype, in any bit. Bytes if they are no numbers.
        nonfinite: How many are NaN or infinite, before and after.
    """

    change: Literal["added", "removed", "changed"]
    before: Tensor | None
    after: Tensor | None
    max_change: float | None = None
    mean_change: float | None = None
    relative_change: float | None = None
    changed_share: float | None = None
    nonfinite: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """The tensor's name."""
        tensor = self.after or self.before
        assert tensor is not None
        return tensor.name


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """How the tensors of a weight file differ.

    Attributes:
        count: How many tensors there are after.
        changes: Those that differ, in order of the file after, then those that were removed.
        is_compared: Whether values were compared. If not, for they were too many, `changes` are those that may differ.
        compared_bytes: How many bytes before were not known to be equal.
    """

    count: int
    changes: tuple[TensorChange, ...]
    is_compared: bool = True
    compared_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.changes)


def diff_tensors(before: Opened, after: Opened, path: str, limit_bytes: int | None = None) -> TensorDiff:
    """Return how the tensors of one weight file differ from those of another, of whatever formats.

    Args:
        before: A file.
        after: The other file.
        path: How errors call them.
        limit_bytes: Compare no values if more bytes than that are not known to be equal; None: whatever there is.

    Raises:
        WeightsFileError: One is no weight file, or its header contradicts itself.
    """
    pair = _Pair(_Side(before, path), _Side(after, path))
    old, new = ({one.name: one for one in side.file.tensors()} for side in (pair.before, pair.after))
    doubtful = [name for name in new if name in old and not pair.is_equal(old[name], new[name])]
    size = sum(old[name].size_bytes for name in doubtful)
    is_compared = limit_bytes is None or size <= limit_bytes
    found: dict[str, TensorChange | None] = {
        name: TensorChange("added", None, one) for name, one in new.items() if name not in old
    }
    if is_compared and doubtful:
        with worker_pool(2, "replicate-diff") as pool:
            found |= {name: pair.compare(old[name], new[name], pool) for name in doubtful}
    else:
        found |= {name: TensorChange("changed", old[name], new[name]) for name in doubtful}
    ordered = [found.get(name) for name in new]
    removed = [TensorChange("removed", one, None) for name, one in old.items() if name not in new]
    changes = [one for one in ordered if one is not None] + removed
    return TensorDiff(len(new), tuple(changes), is_compared, size)


class _Side:
    """One of the files."""

    def __init__(self, opened: Opened, path: str) -> None:
        self.file = TensorFile(path, opened.size_bytes, opened.read)
        self.chunks: Sequence[Chunk] = opened.chunks or ()
        self.ends = list(itertools.accumulate(chunk.length for chunk in self.chunks))


class _Pair:
    """Two weight files."""

    def __init__(self, before: _Side, after: _Side) -> None:
        self.before = before
        self.after = after
        self._knows_chunks = bool(before.chunks and after.chunks)
        self._is_one_format = before.file.format == after.file.format

    def is_equal(self, old: Tensor, new: Tensor) -> bool:
        """Tell whether a tensor is known to be equal before anything of it is read."""
        if old != new or not self._is_one_format:
            return False
        one, other = self.before.file.extent(old.name), self.after.file.extent(new.name)
        return one[1:] == other[1:] and not any(self._differing(one, other))

    def _differing(self, one: Extent, other: Extent) -> Iterator[tuple[int, int]]:
        """Yield the parts, relative to where they begin, of what does not lie in equal chunks at equal places."""
        at = 0
        while at < one.length:
            if not self._knows_chunks:
                yield at, one.length
                return
            places, left = [], one.length - at
            for side, begin in ((self.before, one.offset), (self.after, other.offset)):
                number = bisect.bisect_right(side.ends, begin + at)
                chunk = side.chunks[number]
                end = side.ends[number]
                places.append((chunk.object_id, end - begin - at))
                left = min(left, end - begin - at)
            if places[0] != places[1]:
                yield at, at + left
            at += left

    def compare(self, old: Tensor, new: Tensor, pool: Executor) -> TensorChange | None:
        """Return how a tensor differs, or None if it does not; reads it."""
        change = TensorChange("changed", old, new)
        if old.shape != new.shape:
            return change
        one, other = self.before.file.find(old.name), self.after.file.find(new.name)
        if (one.is_raw or other.is_raw) and (old.dtype, one.content_length) != (new.dtype, other.content_length):
            return change
        from replicate.diff.deltas import Delta, are_alike  # loads numpy

        if not are_alike(old.dtype, new.dtype):
            return change
        slices = self._slices(one, other, pool)
        if slices is None:
            return change
        delta = Delta(old.dtype, new.dtype)
        for items, others in slices:
            delta.add(items, others)
        return delta.describe(change)

    def _slices(self, one: Span, other: Span, pool: Executor) -> Iterator[tuple[Any, Any]] | None:
        """Yield the items of both, those after as None where they are equal; None if it would take much memory."""
        if not (_is_dense(one) and _is_dense(other)) or one.strides != other.strides:
            sizes = [math.prod(span.tensor.shape or ()) * span.item_bytes for span in (one, other)]
            if max(*sizes, one.content_length, other.content_length) > _MAX_GATHERED_BYTES:
                return None
            return iter([(self.before.file.items(one), self.after.file.items(other))])
        item_bytes = one.item_bytes, other.item_bytes
        count = max(1, _SLICE_BYTES // max(*item_bytes, 1))
        wanted = self._changed_blocks(one, other, count * item_bytes[0])
        blocks = (
            self.before.file.blocks(one, count * item_bytes[0], lambda number: True),
            self.after.file.blocks(other, count * item_bytes[1], lambda number: wanted is None or number in wanted),
        )
        return zip(*(_ahead(pool, sequence) for sequence in blocks), strict=True)

    def _changed_blocks(self, one: Span, other: Span, block_bytes: int) -> set[int] | None:
        """Return the numbers of the blocks that are not known to be equal; None: any of them."""
        is_same = (one.item, one.length, one.skipped) == (other.item, other.length, None)
        if not is_same or one.tensor.dtype != other.tensor.dtype:
            return None
        parts = self._differing(Extent(one.offset, one.length), Extent(other.offset, other.length))
        return {number for begin, end in parts for number in range(begin // block_bytes, (end - 1) // block_bytes + 1)}


def _is_dense(span: Span) -> bool:
    """Tell whether the stored items are those of the tensor, each once, in whatever order."""
    if span.is_raw or span.strides is None:
        return True
    shape = span.tensor.shape or ()
    return span.content_length == math.prod(shape) * span.item_bytes and 0 not in span.strides


def _ahead(pool: Executor, values: Iterator[_T]) -> Iterator[_T]:
    """Yield the values; the next is computed in a thread while one is looked at."""
    nothing = object()
    future = pool.submit(next, values, nothing)
    while (value := future.result()) is not nothing:
        future = pool.submit(next, values, nothing)
        yield value  # type: ignore[misc]
