"""The dedup index: object id → place, for one store on this machine. SPEC §12 "Reuse".

It is a cache in SQLite (`local/objects.db`) and never outweighs what lies in `packs/`: a hit counts only if the pack is
there with the recorded size, was written durably or in this boot (otherwise it is verified first), and the frame
header at the place names the object. Any SQLite error: the file is dropped and built again from the packs' footers;
where it cannot be written at all (a store on read-only media) it lives in memory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from replicate.errors import CorruptionError, KeyNotFoundError
from replicate.objects.ids import ObjectID
from replicate.objects.pack import FRAME, Entry, Place, expect_footers, names_object, pack_key, read_footer, verify_pack
from replicate.transport import Transport

_SCHEMA = """
CREATE TABLE IF NOT EXISTS packs (num INTEGER PRIMARY KEY, id BLOB UNIQUE, size INTEGER, boot TEXT);
CREATE TABLE IF NOT EXISTS objects (
    id BLOB, pack INTEGER, kind INTEGER, encoding INTEGER, depth INTEGER, offset INTEGER, length INTEGER, raw INTEGER,
    PRIMARY KEY (id, pack)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_DURABLE = ""
_UNKNOWN = "unknown"
_IN_MEMORY = ":memory:"
_MAX_INT = (1 << 63) - 1  # of SQLite
_T = TypeVar("_T")


class ObjectIndex:
    """Finds objects of a store by id. Safe to use from any thread; several processes may share the file.

    Args:
        path: The SQLite file.
        transport: The store.
        boot: Names this boot of the machine; empty when that is not known.
        durable: Rely only on packs that survive power loss; others are made durable first (I1).
    """

    def __init__(self, path: str, transport: Transport, boot: str, *, durable: bool = False) -> None:
        self._path = path
        self._transport = transport
        self._boot = boot
        self._durable = durable
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._is_empty = False
        self._is_rebuilding = False
        self._checked: dict[int, tuple[ObjectID, int] | None] = {}

    def begin_save(self) -> None:
        """Forget which packs were found in order: the next hit looks again."""
        with self._lock:
            self._checked.clear()
            self._is_empty = self._run(lambda db: db.execute("SELECT 1 FROM packs LIMIT 1").fetchone()) is None

    def find(self, object_id: ObjectID) -> Sequence[Place]:
        """Return the places of an object that may be relied on. See `Locations.find`."""
        if self._is_empty:
            return []
        return [place for place in self._candidates(object_id) if self._names_it(place)]

    def find_prefix(self, prefix: str, limit: int = 10) -> list[tuple[ObjectID, int]]:
        """Return up to `limit` (id, kind) whose hex begins with `prefix`, of objects that are not locators."""
        low = bytes.fromhex(prefix.ljust(64, "0"))
        high = bytes.fromhex(prefix.ljust(64, "f"))
        query = "SELECT DISTINCT id, kind FROM objects WHERE id BETWEEN ? AND ? AND kind BETWEEN 1 AND 3 LIMIT ?"
        return self._run(
            lambda db: [(ObjectID(digest), int(kind)) for digest, kind in db.execute(query, (low, high, limit))]
        )

    def add(self, pack: ObjectID, pack_bytes: int, entries: Iterable[Entry], *, durable: bool) -> None:
        """Record a pack that lies in the store. `durable`: its bytes and name were synced when it was written."""
        self._add(pack, pack_bytes, entries, _DURABLE if durable else (self._boot or _UNKNOWN))

    def _add(self, pack: ObjectID, pack_bytes: int, entries: Iterable[Entry], boot: str) -> None:
        rows = sorted(
            (e.object_id, e.kind, e.encoding, e.depth, e.offset, e.length, e.raw_length)
            for e in entries
            if e.raw_length <= _MAX_INT  # no object is so large
        )
        self._is_empty = False

        def insert(db: sqlite3.Connection) -> None:
            with db:
                num = self._insert_pack(db, pack, pack_bytes, boot)
                db.executemany(
                    f"INSERT OR REPLACE INTO objects VALUES (?, {num}, ?, ?, ?, ?, ?, ?)",
                    rows,
                )

        self._run(insert)

    @staticmethod
    def _insert_pack(db: sqlite3.Connection, pack: ObjectID, pack_bytes: int, boot: str) -> int:
        db.execute("INSERT OR IGNORE INTO packs (id, size, boot) VALUES (?, ?, ?)", (pack, pack_bytes, boot))
        db.execute("UPDATE packs SET size = ?, boot = ? WHERE id = ?", (pack_bytes, boot, pack))
        (num,) = db.execute("SELECT num FROM packs WHERE id = ?", (pack,)).fetchone()
        return int(num)

    def refresh(self) -> None:
        """Make the index agree with the packs that lie in the store: adds what is new, drops what is gone."""
        present: dict[ObjectID, int] = {}
        for info in self._transport.list("packs/"):
            name = info.key.rpartition("/")[2]
            with contextlib.suppress(ValueError):
                present[ObjectID.parse(name)] = info.size or 0
        known: dict[ObjectID, int] = self._run(
            lambda db: {ObjectID(digest): int(size) for digest, size in db.execute("SELECT id, size FROM packs")}
        )
        gone = [pack for pack, size in known.items() if present.get(pack) != size]
        if gone:
            self._run(lambda db: self._forget(db, gone))
        new = {pack: size for pack, size in present.items() if known.get(pack) != size}
        expect_footers(self._transport, new)
        for pack, size in new.items():
            try:
                # Who wrote it and whether it was synced is not known: every frame is checked before it is relied on.
                self._add(pack, size, read_footer(self._transport, pack, size), _UNKNOWN)
            except (CorruptionError, KeyNotFoundError):
                continue  # torn or gone: nothing in it can be relied on; fsck reports it

    @staticmethod
    def _set_boot(db: sqlite3.Connection, pack: ObjectID, boot: str) -> None:
        with db:
            db.execute("UPDATE packs SET boot = ? WHERE id = ?", (boot, pack))

    @staticmethod
    def _forget(db: sqlite3.Connection, packs: Iterable[ObjectID]) -> None:
        with db:
            for pack in packs:
                db.execute("DELETE FROM objects WHERE pack = (SELECT num FROM packs WHERE id = ?)", (pack,))
                db.execute("DELETE FROM packs WHERE id = ?", (pack,))

    def is_sound(self, pack: ObjectID) -> bool:
        """Tell whether a pack may be relied on; looked up once per save."""
        row = self._run(lambda db: db.execute("SELECT num FROM packs WHERE id = ?", (pack,)).fetchone())
        return row is not None and self._sound_pack(row[0]) is not None

    def pack_bytes(self, pack: ObjectID) -> int:
        """Return the recorded size of a pack, 0 when it is not known."""
        query = "SELECT size FROM packs WHERE id = ?"
        return self._run(lambda db: sum(int(size) for (size,) in db.execute(query, (pack,))))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _candidates(self, object_id: ObjectID) -> Iterator[Place]:
        query = "SELECT pack, kind, encoding, depth, offset, length, raw FROM objects WHERE id = ?"
        rows = self._run(lambda db: [[int(number) for number in row] for row in db.execute(query, (object_id,))])
        for num, *rest in rows:
            with self._lock:
                pack = self._sound_pack(num)
            if pack is not None:
                yield Place(*pack, Entry(object_id, *rest))

    def _names_it(self, place: Place) -> bool:
        offset = place.entry.offset
        try:
            header = self._transport.get(pack_key(place.pack), offset, offset + FRAME.size)
        except KeyNotFoundError:
            return False
        return names_object(header, place.entry)

    def _sound_pack(self, num: int) -> tuple[ObjectID, int] | None:
        """Return (id, size) of a pack if it may be relied on in this save."""
        if num in self._checked:
            return self._checked[num]
        query = "SELECT id, size, boot FROM packs WHERE num = ?"
        rows = self._run(
            lambda db: [(ObjectID(digest), int(size), str(boot)) for digest, size, boot in db.execute(query, (num,))]
        )
        found: tuple[ObjectID, int] | None = None
        for pack, size, boot in rows:  # at most one
            key = pack_key(pack)
            if any(info.key == key and info.size == size for info in self._transport.list(key)):
                if boot == _DURABLE or (boot == self._boot and boot and not self._durable):
                    found = (pack, size)
                else:
                    found = self._verify(pack, size)
        self._checked[num] = found
        return found

    def _verify(self, pack: ObjectID, size: int) -> tuple[ObjectID, int] | None:
        try:
            verify_pack(self._transport, pack, size)
            if self._durable:  # who wrote it may not have synced it; a put of what is there does
                self._transport.put(pack_key(pack), self._transport.get(pack_key(pack)))
        except (CorruptionError, KeyNotFoundError):
            return None
        boot = _DURABLE if self._durable else (self._boot or _UNKNOWN)
        self._run(lambda db: self._set_boot(db, pack, boot))
        return (pack, size)

    def _run(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `action` on the database; after an error of it, once more on a new one.

        A damaged file may give values of other types, and errors whose text is no text.
        """
        with self._lock:
            for drop in (self._drop, self._move_to_memory):
                try:
                    return action(self._open())
                except (sqlite3.Error, OSError, ValueError, TypeError):
                    drop()
                    self._rebuild()
            return action(self._open())

    def _rebuild(self) -> None:
        """Find out again what lies in the store: a save may be under way that relies on it."""
        if self._is_rebuilding:
            return
        self._is_rebuilding = True
        try:
            self.refresh()
        finally:
            self._is_rebuilding = False

    def _move_to_memory(self) -> None:
        """Keep nothing on the disk from now on."""
        self.close()
        self._checked.clear()
        self._path = _IN_MEMORY

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._path != _IN_MEMORY:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
            db: Any = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
            self._connection = db
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, 1):
                raise sqlite3.DatabaseError("a newer index")
            db.execute("PRAGMA synchronous = OFF")
            if version == 0:
                db.executescript(_SCHEMA)
        return self._connection

    def _drop(self) -> None:
        self.close()
        self._checked.clear()
        for suffix in ("", "-journal"):
            with contextlib.suppress(OSError):
                os.unlink(self._path + suffix)
