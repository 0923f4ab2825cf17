"""What a weight file says of a tensor, and where its items lie. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a weight file says of one tensor.

    Attributes:
        name: As the file has it. Of a torch file the keys that lead to it, joined by dots, or `data/0` for a storage
            that has no such name. Empty for the only array of an npy file.
        dtype: `float32`, `bfloat16`, `float8_e4m3fn`, `int64`, `bool`, ...; `Q4_K` and the like for quantised blocks;
            what numpy calls it where it is no number; None if it is not known.
        shape: Slowest dimension first, `()` for a scalar; None if it is not known.
        size_bytes: What its items take, not compressed.
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Span:
    """Where the items of a tensor lie in a file.

    Attributes:
        tensor: What it is.
        offset, length: Of the bytes that hold it, in the file.
        item: What numpy calls an item as it is stored: `<f4`, `<u2` for bfloat16, `|u1` for bytes that are no items.
        item_bytes: How long it is.
        strides: In items; None if the items lie in order.
        is_raw: The items are bytes of quantised blocks, or of unknown meaning: the shape is not theirs.
        skipped: None if the bytes are stored as they are, else they are compressed with deflate, and this many come
            before the items when they are not any more.
        content_length: How many bytes the items take, from the first to the last.
    """

    tensor: Tensor
    offset: int
    length: int
    item: str
    item_bytes: int
    content_length: int
    strides: tuple[int, ...] | None = None
    is_raw: bool = False
    skipped: int | None = None


class Extent(NamedTuple):
    """A part of a file that a tensor is known by.

    Where all of these but the offset are equal for two files of one format, and the bytes there are, and what `tensors`
    says, the tensors are equal.
    """

    offset: int
    length: int
    view: object = None


class Source(Protocol):
    """A weight file of some format. Its methods raise `Surprise` when the file is not what it seems."""

    def tensors(self) -> list[Tensor]:
        """Return all tensors in order of the file."""

    def names(self) -> list[str]:
        """Return the names that `find` knows."""

    def extent(self, name: str) -> Extent:
        """See `TensorFile.extent`."""

    def find(self, name: str) -> Span | None:
        """Return where a tensor lies, None if there is none of that name."""
