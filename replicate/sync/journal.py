"""What is known to lie in another store: packs that were put there, and records that were confirmed. SPEC §12.

A text file in `local/journal/`, derived (I4): a line is added after its key is durable there, so it is never wrong
about a store that only grows. A line that is cut short names no key. What cannot be read or written is found out anew,
or put again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence, Set

from replicate.objects.ids import ObjectID
from replicate.sync.control import Identity

_HEADER = "replicate journal 1 "
_EVERYTHING = "looked everywhere"
_LOOKED = "looked for "
_MAX_HEADER = 1 << 16


class Journal:
    """The keys that one store is known to hold. Several processes may add to one at the same time.

    Args:
        folder: `local/journal`.
        place: Where the store lies, as people call it.
        identity: Which store it is. What was known of another one at this place is forgotten.
        read_only: Keep nothing.

    Attributes:
        records: Keys of ref records, with every pack that they need.
        packs: Ids of packs.
        was_replaced: Whether a store was known at this place before that is not there any more.
    """

    def __init__(self, folder: str, place: str, identity: Identity, *, read_only: bool = False) -> None:
        self._path = os.path.join(folder, identity.digest(place))
        self._place = place.encode("unicode_escape").decode("ascii")
        self._header = f"{_HEADER}{','.join(sorted(identity.stores))} {self._place}"
        self._is_kept = not read_only
        self._looked: set[str] = set()
        self.records: set[str] = set()
        self.packs: set[ObjectID] = set()
        self.was_replaced = False
        if not self._read():
            self._forget_others(folder, identity)
            self._append(self._header)

    def knows(self, experiment: ObjectID) -> bool:
        """Tell whether the store was looked at for what it holds of an experiment."""
        return _EVERYTHING in self._looked or f"{_LOOKED}{experiment.hex()}" in self._looked

    def note_look(self, experiments: Iterable[ObjectID] | None) -> None:
        """Remember that the store was looked at for some experiments, or for all."""
        lines = [_EVERYTHING] if experiments is None else [f"{_LOOKED}{one.hex()}" for one in experiments]
        self._looked.update(lines)
        self._append(*lines)

    def add_packs(self, packs: Iterable[ObjectID]) -> None:
        """Remember packs that are durable there."""
        new = set(packs) - self.packs
        self.packs |= new
        self._append(*(f"pack {pack.hex()}" for pack in new))

    def add_records(self, keys: Iterable[str]) -> None:
        """Remember records that are confirmed there, with every pack that they need."""
        new = set(keys) - self.records
        self.records |= new
        self._append(*new)

    def drop(self) -> None:
        """Forget everything."""
        self.records.clear()
        self.packs.clear()
        self._looked.clear()
        if self._is_kept:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._append(self._header)

    def _read(self) -> bool:
        """Read what was kept; return whether there was anything."""
        try:
            with open(self._path, encoding="ascii", errors="replace") as file:
                lines = file.read().split("\n")
        except OSError:
            return False
        if self._header not in lines:
            return False
        self.records, self.packs, self._looked = _parse(lines)
        return True

    def _forget_others(self, folder: str, identity: Identity) -> None:
        """Forget what was known of this place before."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with open(entry.path, encoding="ascii", errors="replace") as file:
                    first = file.read(_MAX_HEADER).lstrip("\n").partition("\n")[0]
                stores, _, place = first.removeprefix(_HEADER).partition(" ")
                if first.startswith(_HEADER) and place == self._place and entry.path != self._path:
                    self.was_replaced |= not identity.stores.issuperset(filter(None, stores.split(",")))
                    if self._is_kept:
                        os.unlink(entry.path)

    def _append(self, *lines: str) -> None:
        if not lines or not self._is_kept:
            return
        data = "\n".join(["", *lines, ""]).encode("ascii")  # the line before may be cut short
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
        except OSError:  # a full disk, say: what was done is found out again
            self._is_kept = False


def _parse(lines: Sequence[str]) -> tuple[set[str], set[ObjectID], set[str]]:
    """Return the records, the packs and the looks that lines tell of."""
    records, packs, looked = set(), set(), set()
    for line in lines[:-1]:  # the last has no end
        if line.startswith("refs/"):
            records.add(line)
        elif line.startswith("pack ") and len(line) == 69:
            with contextlib.suppress(ValueError):
                packs.add(ObjectID.parse(line[5:]))
        elif line.startswith("looked "):
            looked.add(line)
    return records, packs, looked


def last_known(folder: str, place: str) -> tuple[Set[str], Set[ObjectID]]:
    """Return which records and packs the store at a place was last known to hold, without a look at it.

    Args:
        folder: `local/journal`.
        place: As people call it.
    """
    escaped = place.encode("unicode_escape").decode("ascii")
    newest, found = 0.0, (frozenset[str](), frozenset[ObjectID]())
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with open(entry.path, encoding="ascii", errors="replace") as file:
                lines = file.read().split("\n")
            header = next((line for line in lines if line), "")
            is_of_place = header.startswith(_HEADER) and header.removeprefix(_HEADER).partition(" ")[2] == escaped
            if is_of_place and entry.stat().st_mtime >= newest:
                records, packs, _ = _parse(lines)
                newest, found = entry.stat().st_mtime, (frozenset(records), frozenset(packs))
    return found
