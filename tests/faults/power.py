"""A disk that can stop at a chosen call, fail at one, and forget what was not synced."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from replicate.transport.local import Disk
from tests.faults.fault_transport import Stopped

Loss = Literal["drop", "tear", "mix"]
_FOLDER = 0  # in place of an inode


class Journal:
    """What a store's disk would still hold after a power loss.

    Names are durable once their directory was synced, and only as they were then; bytes once their file was. What lies
    in the store's folder when this begins is durable, as is the folder itself; `local/` is left as it is.

    Args:
        store: The store's folder; created.
        attic: A folder on the same file system, where every file is kept by its inode.
    """

    def __init__(self, store: Path, attic: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        attic.mkdir(parents=True, exist_ok=True)
        self.store = str(store)
        self._attic = str(attic)
        self._names: dict[str, dict[str, int]] = {}
        self._synced: set[int] = set()
        for folder, _, files in os.walk(store):
            self.note_directory(folder)
            for name in files:
                self.note_bytes(os.path.join(folder, name))

    def note_write(self, path: str) -> None:
        """A file was created."""
        self._keep(path)

    def note_bytes(self, path: str) -> None:
        """A file's bytes were synced."""
        self._synced.add(self._keep(path))

    def note_directory(self, folder: str) -> None:
        """A directory's names were synced."""
        self._names[folder] = self._list(folder)

    def _keep(self, path: str) -> int:
        inode = os.lstat(path).st_ino
        kept = os.path.join(self._attic, str(inode))
        if not os.path.lexists(kept):
            os.link(path, kept)
        return inode

    def _list(self, folder: str) -> dict[str, int]:
        found = {}
        for entry in os.scandir(folder):
            path = os.path.join(folder, entry.name)
            if path != os.path.join(self.store, "local"):
                found[entry.name] = _FOLDER if entry.is_dir(follow_symlinks=False) else self._keep(path)
        return found

    def lose_power(self, loss: Loss, seed: int = 0) -> None:
        """Make the store what it may be after a power loss.

        Args:
            loss: `drop`: every name is as it was synced, and bytes that were not synced are gone. `tear`: every name is
                as it is now, and of bytes that were not synced there is a half, or zeros. `mix`: of either, by chance.
            seed: For chance.
        """
        chance = random.Random(seed)
        pending = [self.store]
        while pending:
            folder = pending.pop()
            now, then = self._list(folder), self._names.get(folder, {})
            for name in sorted({*now, *then}):
                chosen = now if loss == "tear" or (loss == "mix" and chance.random() < 0.5) else then
                path = os.path.join(folder, name)
                self._settle(path, now.get(name), chosen.get(name))
                if chosen.get(name) == _FOLDER:
                    pending.append(path)
                elif name in chosen and chosen[name] not in self._synced:
                    self._tear(path, loss, chance)

    def _settle(self, path: str, now: int | None, wanted: int | None) -> None:
        """Make a name lead to an inode, or to nothing."""
        if now == wanted:
            return
        if now == _FOLDER:
            shutil.rmtree(path)
        elif now is not None:
            os.unlink(path)
        if wanted == _FOLDER:
            os.mkdir(path)
        elif wanted is not None:
            os.link(os.path.join(self._attic, str(wanted)), path)

    @staticmethod
    def _tear(path: str, loss: Loss, chance: random.Random) -> None:
        with open(path, "rb") as file:
            data = file.read()
        kinds = {"drop": [b""], "tear": [data[: len(data) // 2], bytes(len(data))], "mix": [b"", data[:-1], data]}
        os.unlink(path)  # other names of the inode keep its bytes
        with open(path, "wb") as file:
            file.write(chance.choice(kinds[loss]))


class FaultDisk(Disk):
    """Numbers every call from 1, stops at one, and tells a journal what is synced; the machine's disk is spared that.

    Args:
        journal: Hears of what was synced.
        stop_at: The number of the call to stop at; 0 never stops.
        is_half: Stop in the middle of the call where it has a middle, which is so for a write; else before it.
        before: Called with name and path before each call; may raise what the system would.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        *,
        stop_at: int = 0,
        is_half: bool = False,
        before: Callable[[str, str], None] = lambda call, path: None,
    ) -> None:
        self.calls: list[tuple[str, str]] = []
        self._is_stopped = False
        self._journal = journal
        self._stop_at = stop_at
        self._is_half = is_half
        self._before = before
        self._lock = threading.Lock()

    def _enter(self, call: str, path: str, data: bytes | bytearray | memoryview | None = None) -> None:
        with self._lock:
            if self._is_stopped:
                raise Stopped
            self.calls.append((call, path))
            if len(self.calls) == self._stop_at:
                self._is_stopped = True
                if data is not None and self._is_half:
                    super().write(path, memoryview(data)[: len(data) // 2], sync=False)
                raise Stopped
        self._before(call, path)

    def write(self, path: str, data: bytes | bytearray | memoryview, *, sync: bool) -> None:
        """See `Disk.write`."""
        self._enter("write", path, data)
        super().write(path, data, sync=False)
        if self._journal is not None:
            (self._journal.note_bytes if sync else self._journal.note_write)(path)

    def sync(self, path: str) -> None:
        """See `Disk.sync`."""
        self._enter("sync", path)
        if self._journal is not None:
            self._journal.note_bytes(path)

    def link(self, source: str, target: str) -> None:
        """See `Disk.link`."""
        self._enter("link", target)
        super().link(source, target)

    def rename(self, source: str, target: str) -> None:
        """See `Disk.rename`."""
        self._enter("rename", target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        """See `Disk.unlink`."""
        self._enter("unlink", path)
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        """See `Disk.mkdir`."""
        self._enter("mkdir", path)
        super().mkdir(path)

    def sync_directory(self, path: str) -> None:
        """See `Disk.sync_directory`."""
        self._enter("sync directory", path)
        if self._journal is not None:
            self._journal.note_directory(path)
