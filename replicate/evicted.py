"""Which packs this machine has given up, as they lie in the repository. `local/evicted`, SPEC §5.3. Floor 3.

A list that is lost costs no data: a check then tells of packs that are missing, and they are read from the repository
all the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import NamedTuple

from replicate.objects.ids import ID_BYTES, ObjectID

_HEADER = "replicate evicted 1"


class EvictedPack(NamedTuple):
    """A pack that lies elsewhere and not here any more: its length in bytes, and where, as people call the place."""

    pack: ObjectID
    size_bytes: int
    place: str


def read_evicted(store: str) -> list[EvictedPack]:
    """Return the packs that were evicted from a store's folder and did not come back. Never raises."""
    try:
        with open(_path(store), encoding="ascii", errors="replace") as file:
            lines = file.read().split("\n")
    except OSError:
        return []
    found = [] if lines[0] != _HEADER else [one for one in map(_parse, lines[1:]) if one is not None]
    return [one for one in found if not os.path.lexists(os.path.join(store, _key(one.pack)))]


def write_evicted(store: str, packs: Iterable[EvictedPack]) -> None:
    """Replace the list; it is durable on return. `OSError` when that is not possible: then it is as it was."""
    lines = [f"{one.pack.hex()} {one.size_bytes} {one.place.encode('unicode_escape').decode('ascii')}" for one in packs]
    path = _path(store)
    temp = f"{path}~{os.getpid()}"
    try:
        with open(temp, "w", encoding="ascii") as file:
            file.write("\n".join([_HEADER, *lines, ""]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parse(line: str) -> EvictedPack | None:
    pack, _, rest = line.partition(" ")
    size, _, place = rest.partition(" ")
    try:
        digest = bytes.fromhex(pack)
        if len(digest) != ID_BYTES or not place:
            return None
        return EvictedPack(ObjectID(digest), int(size), place.encode("ascii").decode("unicode_escape"))
    except ValueError:  # also what is no text
        return None


def _path(store: str) -> str:
    return os.path.join(store, "local", "evicted")


def _key(pack: ObjectID) -> str:
    from replicate.objects.pack import pack_key  # loads what reads packs: only where something was evicted

    return pack_key(pack)
