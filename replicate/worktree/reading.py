"""Reading a file of the worktree that somebody may be writing.

Never memory-mapped: a mapped file that is truncated kills the process, and what was hashed and what was stored could
differ. Exactly the size of the first fstat is read, and the file is looked at again afterwards.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Iterator
from contextlib import contextmanager

from replicate.worktree.index import Stat


class ChangedWhileRead(Exception):
    """The file was shortened or rewritten while it was read."""


class OpenFile:
    """One worktree file, open for reading; a `PieceSource`."""

    def __init__(self, fd: int, stat: Stat) -> None:
        self._fd = fd
        self.stat = stat
        self.size_bytes = stat.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; `ChangedWhileRead` when the file is shorter than it was."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not count:
                raise ChangedWhileRead
            done += count

    def read_all(self) -> bytes:
        """Return the whole of a small file."""
        return self.read(0, self.size_bytes)

    def read(self, offset: int, length: int) -> bytes:
        """Return a small part; `ChangedWhileRead` when the file is shorter than it was."""
        data = os.pread(self._fd, length, offset) if length else b""
        if len(data) != length:
            raise ChangedWhileRead
        return data

    def look_again(self) -> Stat:
        """Return the file's stat now."""
        return Stat.of(os.fstat(self._fd))


@contextmanager
def open_file(path: bytes) -> Iterator[OpenFile]:
    """Open a regular file without following a link; OSError when that is not possible or it is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        info = os.fstat(fd)
        if not stat_bits.S_ISREG(info.st_mode):
            raise OSError(0, "not a regular file any more")
        yield OpenFile(fd, Stat.of(info))
    finally:
        os.close(fd)


def read_small(path: bytes, limit: int) -> tuple[bytes, Stat, Stat]:
    """Return a small file's bytes and its stats before and after; as `open_file`, in one go.

    `ChangedWhileRead` when it is shorter than its stat says, or by now longer than `limit`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(fd)
        if not stat_bits.S_ISREG(before.st_mode):
            raise OSError(0, "not a regular file any more")
        if before.st_size > limit:
            raise ChangedWhileRead
        data = os.read(fd, before.st_size) if before.st_size else b""
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if len(data) != before.st_size:
        raise ChangedWhileRead
    return data, Stat.of(before), Stat.of(after)
