"""The terminal's reporter: notices and a progress bar on stderr. Floor 8.

A bar appears only on a terminal, and only when a task takes longer than a second. Off a terminal, one line per event.
"""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING

from replicate.text import format_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_BAR_AFTER_SECONDS = 1.0


class ConsoleReporter:
    """Writes to `stream` (stderr at the time of writing when None).

    Args:
        quiet: Warnings only.
        stream: Where to.
    """

    def __init__(self, *, quiet: bool = False, stream: IO[str] | None = None) -> None:
        self._quiet = quiet
        self._given = stream
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._task = ""
        self._started = 0.0
        self._total_files = self._total_bytes = self._files = self._bytes = self._new = 0

    @property
    def _stream(self) -> IO[str]:
        return self._given or sys.stderr

    def begin(self, task: str, files: int, size_bytes: int) -> None:
        """See `Reporter.begin`."""
        self._task = task
        self._started = time.monotonic()
        self._total_files, self._total_bytes = files, size_bytes
        self._files = self._bytes = self._new = 0

    def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
        """See `Reporter.advance`."""
        self._files += files
        self._bytes += size_bytes
        self._new += new_bytes
        if self._quiet:
            return
        if self._progress is None:
            if time.monotonic() - self._started < _BAR_AFTER_SECONDS or not self._stream.isatty():
                return
            self._start_bar()
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=self._bytes, description=self._describe())

    def finish(self) -> None:
        """See `Reporter.finish`."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def notice(self, message: str) -> None:
        """See `Reporter.notice`."""
        if not self._quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        """See `Reporter.warn`."""
        self._say(f"warning: {message}")

    def _say(self, message: str) -> None:
        try:
            print(message, file=self._stream, flush=True)
        except (OSError, ValueError):
            return  # stderr is closed: there is nobody to tell

    def _describe(self) -> str:
        new = f", {format_bytes(self._new)} new" if self._new else ""
        return f"{self._task}  {self._files:,}/{self._total_files:,} files, {format_bytes(self._bytes)}{new}"

    def _start_bar(self) -> None:
        # rich takes 60 ms to import; most saves never show a bar.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(file=self._stream),
            transient=True,
        )
        self._bar = self._progress.add_task(self._describe(), total=self._total_bytes, completed=self._bytes)
        self._progress.start()
