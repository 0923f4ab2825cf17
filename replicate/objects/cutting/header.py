"""What a format may do with an untrusted file: read a bounded part of it, name tensors, and be surprised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS = 250_000
HEAD_BYTES = 4096

Read = Callable[[int, int], bytes]
"""Return `length` bytes at `offset` of a file; fewer only if the file became shorter. What it raises passes."""


class Surprise(Exception):
    """The file is not what it seems: it is cut at multiples of 4 MiB, and its tensors cannot be told."""


class Tensor(NamedTuple):
    """Where the items of a tensor lie in a file, as its header tells.

    Attributes:
        name: Without what differs from file to file, such as the folder that torch names after the file.
        offset: In bytes from the beginning of the file.
        length: In bytes, a multiple of `item_bytes`; 0 for an empty tensor.
        item_bytes: 1, 2, 4 or 8: how long the numbers are. 1 where that has no meaning, as for quantised blocks.
        dtype: In the words of the format, or None if unknown or compressed.
        shape: Slowest dimension first, `()` for a scalar, or None if unknown.
        is_column_major: The first dimension is the fastest, as in Fortran; the shape is as it is used all the same.
    """

    name: str
    offset: int
    length: int
    item_bytes: int = 1
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    is_column_major: bool = False


class HeaderReader:
    """Reads what describes a file's tensors: at most 64 MiB in all, however large the file."""

    def __init__(self, size_bytes: int, read: Read) -> None:
        self.size_bytes = size_bytes
        self._read = read
        self._left = MAX_HEADER_BYTES

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes.

        Raises:
            Surprise: They are not within the file, or more than may be read.
        """
        if not 0 <= offset <= offset + length <= self.size_bytes:
            raise Surprise("it refers to bytes that it does not have")
        if length > self._left:
            raise Surprise("its header is too long")
        self._left -= length
        data = self._read(offset, length)
        if len(data) != length:
            raise Surprise("it became shorter")
        return data


class Format(Protocol):
    """What a module of this package offers to be a format."""

    NAME: str

    def recognises(self, head: bytes) -> bool:
        """Tell by the first 4 KiB of a file, or all of it, whether it looks like this format. Names do not count."""

    def find_tensors(self, file: HeaderReader) -> Iterable[Tensor]:
        """Return the tensors in any order, in time linear in what is read. Other bytes of the file belong to none.

        Raises:
            Surprise: Anything is not as the format wants it.
        """
