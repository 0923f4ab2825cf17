"""The clock of the file system that a worktree lies on, which is what tells a racy file from a settled one."""

from __future__ import annotations

import contextlib
import os

from replicate.host import Host
from replicate.worktree.index import COARSE_GRAIN_NS, FINE_GRAIN_NS


class WorktreeClock:
    """Reads the time off a probe file, removed at once.

    Args:
        host: Gives names for probes, and sleeps.
        root: The worktree.
        scratch: A folder for probes, used if it is on the same file system; otherwise they go into the worktree.
    """

    def __init__(self, host: Host, root: str, scratch: str) -> None:
        self._host = host
        self._folders = [scratch, root]
        with contextlib.suppress(OSError):
            os.makedirs(scratch, exist_ok=True)
            if os.stat(scratch).st_dev != os.stat(root).st_dev:
                self._folders = [root, scratch]

    def read(self) -> tuple[int, int]:
        """Return the time in ns, and the grain: how far apart two changes must be to differ in time for sure."""
        for folder in self._folders:
            path = os.path.join(folder, f".replicate-tmp-{self._host.random(8).hex()}")
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    time_ns = os.fstat(fd).st_mtime_ns
                finally:
                    os.close(fd)
                    os.unlink(path)
            except OSError:
                continue
            fine = time_ns % 1_000_000_000 != 0 and folder is self._folders[0]
            return time_ns, FINE_GRAIN_NS if fine else COARSE_GRAIN_NS
        return 0, COARSE_GRAIN_NS

    def settle(self, changed_ns: int) -> int:
        """Wait until files that changed at `changed_ns` are no longer racy, at most a fine grain; return the time."""
        for _ in range(3):
            now, grain = self.read()
            left = changed_ns + grain - now
            if left < 0 or left > FINE_GRAIN_NS:
                return now
            self._host.sleep(left / 1e9 + 0.001)
        return self.read()[0]
