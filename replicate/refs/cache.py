"""What this machine knows of a store's records, shard by shard. A cache: any SQLite error drops it. SPEC §5.3.

A shard is every record of the experiments whose ids begin with the same two digits.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from blake3 import blake3

_SCHEMA = """
DROP TABLE IF EXISTS shards;
CREATE TABLE shards (shard TEXT PRIMARY KEY, digest BLOB, content BLOB, hash BLOB) WITHOUT ROWID;
PRAGMA user_version = 3;
"""


class Shard(NamedTuple):
    """One shard: a digest of the names that were listed, and what was made of their records."""

    digest: bytes
    content: bytes


class ShardCache:
    """The SQLite file. Never raises: what cannot be read is not known, what cannot be written is found out again."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self) -> Mapping[str, Shard]:
        """Return every shard that is known."""
        if not os.path.exists(self._path):
            return {}
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as db:
                if db.execute("PRAGMA user_version").fetchone()[0] != 3:
                    return {}
                rows = db.execute("SELECT shard, digest, content, hash FROM shards").fetchall()
        except sqlite3.Error:
            self._drop()
            return {}
        return {
            shard: Shard(digest, content)
            for shard, digest, content, content_hash in rows
            if type(digest) is bytes and type(content) is bytes and blake3(content).digest() == content_hash
        }

    def save(self, shards: Mapping[str, Shard]) -> None:
        """Remember some shards instead of what was known of them."""
        try:
            self._write(shards)
        except (sqlite3.Error, OSError):
            self._drop()
            with contextlib.suppress(sqlite3.Error, OSError):
                self._write(shards)

    def _write(self, shards: Mapping[str, Shard]) -> None:
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as db:
            db.execute("PRAGMA synchronous = OFF")
            if db.execute("PRAGMA user_version").fetchone()[0] != 3:
                db.executescript(_SCHEMA)
            with db:
                rows = [(name, *one, blake3(one.content).digest()) for name, one in shards.items()]
                db.executemany("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?)", rows)

    def _drop(self) -> None:
        for suffix in ("", "-journal"):
            with contextlib.suppress(OSError):
                os.unlink(self._path + suffix)
