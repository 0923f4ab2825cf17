"""The index: which blob a path held when it was last read, so that an unchanged file is not opened again.

A stat tuple is trusted if it matches and was not racy: when a file was read, its newest time lay at least `grain`
before the file system's clock, so that any later change shows in its times. A racy entry is kept and marked; the next
save reads that file again. The file (`index.db`) is a cache: any SQLite error drops it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from replicate.objects.ids import ObjectID

FINE_GRAIN_NS = 20_000_000
COARSE_GRAIN_NS = 2_000_000_000
_MAX_INTEGER = (1 << 63) - 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, ino BLOB, dev BLOB, racy INTEGER, id BLOB
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class Stat(NamedTuple):
    """What tells whether a file is the same as before: size in bytes, times in ns, inode and device."""

    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    dev: int

    @classmethod
    def of(cls, info: os.stat_result) -> Stat:
        """Take the stat tuple out of a stat result."""
        return cls(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev)

    @property
    def changed_ns(self) -> int:
        """The newest of its times."""
        return max(self.mtime_ns, self.ctime_ns)


class IndexEntry(NamedTuple):
    """A file's stat when it was read, whether that was racy, and the blob that it held."""

    stat: Stat
    racy: bool
    object_id: ObjectID


class Index:
    """The stat cache of one worktree. Kept in memory; `save` writes what changed.

    Args:
        path: The SQLite file; None keeps it in memory only.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._entries: dict[bytes, IndexEntry] = {}
        self._changed: set[bytes] = set()
        if path is not None:
            try:
                self._load(path)
            except (sqlite3.Error, ValueError, TypeError, AttributeError):  # damaged, or rows that are not ours
                self._entries.clear()
                self._drop(path)

    def lookup(self, path: bytes, info: os.stat_result) -> ObjectID | None:
        """Return the blob that a file holds, if its stat proves it."""
        entry = self._entries.get(path)
        if (
            entry is None
            or entry.racy
            or entry.stat != (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev)
        ):
            return None
        return entry.object_id

    def lookup_stat(self, path: bytes, stat: Stat) -> ObjectID | None:
        """Return the blob that a file holds, if its stat tuple proves it."""
        entry = self._entries.get(path)
        return entry.object_id if entry is not None and not entry.racy and entry.stat == stat else None

    def update(self, path: bytes, stat: Stat, object_id: ObjectID, *, read_at_ns: int, grain_ns: int) -> None:
        """Remember what a file held. `read_at_ns` is the file system's time before it was read."""
        entry = IndexEntry(stat, stat.changed_ns >= read_at_ns - grain_ns, object_id)
        if self._entries.get(path) != entry:
            self._entries[path] = entry
            self._changed.add(path)

    def forget(self, path: bytes) -> None:
        """Drop what is known about a path."""
        if self._entries.pop(path, None) is not None:
            self._changed.add(path)

    def keep_only(self, paths: Iterable[bytes]) -> None:
        """Drop what is known about other paths of the worktree; files from elsewhere have absolute paths and stay."""
        for path in self._entries.keys() - set(paths):
            if not path.startswith(b"/"):
                self.forget(path)

    def __len__(self) -> int:
        return len(self._entries)

    def save(self) -> None:
        """Write what changed since the last save; losing it costs time, not data."""
        if self._path is None or not self._changed:
            return
        try:
            self._write(self._path)
        except (sqlite3.Error, OSError):
            self._drop(self._path)
            self._changed = set(self._entries)
            with contextlib.suppress(sqlite3.Error, OSError):  # it is a cache: the next save reads the files again
                self._write(self._path)
        self._changed.clear()

    @staticmethod
    def _drop(path: str) -> None:
        for suffix in ("", "-journal"):
            with contextlib.suppress(OSError):
                os.unlink(path + suffix)

    def _load(self, path: str) -> None:
        if not os.path.exists(path):
            return
        db = sqlite3.connect(path, timeout=30)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] != 1:
                return
            for name, size, mtime, ctime, ino, dev, racy, digest in db.execute("SELECT * FROM files"):
                stat = Stat(size, mtime, ctime, int.from_bytes(ino, "big"), int.from_bytes(dev, "big"))
                self._entries[name] = IndexEntry(stat, bool(racy), ObjectID(digest))
        finally:
            db.close()

    def _write(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        db = sqlite3.connect(path, timeout=30)
        try:
            db.execute("PRAGMA synchronous = OFF")
            if db.execute("PRAGMA user_version").fetchone()[0] != 1:
                db.executescript("DROP TABLE IF EXISTS files;" + _SCHEMA)
            rows = []
            gone = []
            for name in self._changed:
                entry = self._entries.get(name)
                if entry is None or max(map(abs, entry.stat[:3])) > _MAX_INTEGER:
                    gone.append((name,))  # or dated beyond what SQLite can hold: read again by the next process
                else:
                    size, mtime, ctime, ino, dev = entry.stat
                    key = (ino.to_bytes(16, "big"), dev.to_bytes(16, "big"))
                    rows.append((name, size, mtime, ctime, *key, int(entry.racy), bytes(entry.object_id)))
            with db:
                db.executemany("DELETE FROM files WHERE path = ?", gone)
                db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        finally:
            db.close()
