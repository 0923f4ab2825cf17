"""The terminal's reporter: notices and a progress bar on stderr. Floor 8.

A bar appears only on a terminal, and only when a task takes longer than a second. Off a terminal, one line per event.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, ClassVar

from replicate.text import format_bytes, format_seconds, printable_message

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_BAR_AFTER_SECONDS = 1.0
_REDRAW_SECONDS = 0.1
_BESIDE = 33  # columns for a bar of 8, "999.9 MB/s, 59 s left", and blanks


class ConsoleReporter:
    """Writes to `stream` (stderr at the time of writing when None).

    Args:
        quiet: Warnings only.
        stream: Where to.
        bar_after: How many seconds a task takes before it gets a bar.

    Attributes:
        with_bar: The one whose bar is on the terminal: lines of others go above it.
    """

    with_bar: ClassVar[ConsoleReporter | None] = None

    def __init__(
        self, *, quiet: bool = False, stream: IO[str] | None = None, bar_after: float = _BAR_AFTER_SECONDS
    ) -> None:
        self._quiet = quiet
        self._given = stream
        self._bar_after = bar_after
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._task = ""
        self._started = self._drawn = 0.0
        self._total_files = self._total_bytes = self._files = self._bytes = self._new = 0

    @property
    def _stream(self) -> IO[str] | None:
        """Where to write; None when the process has no stderr."""
        return self._given or sys.stderr

    @property
    def _is_terminal(self) -> bool:
        """Programs put all sorts of things in the place of stderr; none of them may stop a save."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (AttributeError, OSError, ValueError):
            return False

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
            if time.monotonic() - self._started < self._bar_after or not self._is_terminal:
                return
            with self._while_there_is_a_terminal():
                self._start_bar()
        if self._progress is not None and self._bar is not None:
            with self._while_there_is_a_terminal():
                self._progress.update(self._bar, completed=self._done, description=self._describe())
                if time.monotonic() - self._drawn > _REDRAW_SECONDS:
                    self._drawn = time.monotonic()
                    self._progress.refresh()

    def finish(self) -> None:
        """See `Reporter.finish`."""
        if self._progress is not None:
            with self._while_there_is_a_terminal():
                self._progress.stop()
            self._progress = ConsoleReporter.with_bar = None

    @contextlib.contextmanager
    def _while_there_is_a_terminal(self) -> Iterator[None]:
        """Show no bar any more when the terminal has gone away: that is no reason to fail a save."""
        try:
            yield
        except (OSError, ValueError):
            self._progress = ConsoleReporter.with_bar = None
            self._bar_after = math.inf

    def notice(self, message: str) -> None:
        """See `Reporter.notice`."""
        if not self._quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        """See `Reporter.warn`."""
        self._say(f"warning: {message}")

    def _say(self, message: str) -> None:
        lines = printable_message(message)
        stream = self._stream
        if stream is None:  # print would take stdout
            return
        try:
            progress = self._progress
            if progress is not None:  # above the bar
                progress.console.print(lines, markup=False, highlight=False, soft_wrap=True)
            else:
                encoding = getattr(stream, "encoding", None) or "utf-8"
                print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
        except (AttributeError, OSError, ValueError):
            return  # stderr is closed: there is nobody to tell

    @property
    def _done(self) -> int:
        """How far it is: in bytes, or in pieces of a task whose bytes are not known."""
        return self._bytes if self._total_bytes else self._files

    def _describe(self) -> str:
        """Return what is told beside the bar: what is left out first comes last."""
        if not self._total_bytes:
            return f"{self._task}  {self._files:,} of {self._total_files:,}"
        files = f"{self._files:,} of {self._total_files:,} files, " if self._total_files > 1 else ""
        new = f", {format_bytes(self._new)} new" if self._new else ""
        size = f"{format_bytes(self._bytes)} of {format_bytes(self._total_bytes)}"
        texts = (f"{self._task}  {files}{size}{new}", f"{self._task}  {files}{size}", f"{self._task}  {size}")
        room = self._progress.console.width - _BESIDE if self._progress is not None else 0
        return next((text for text in texts if len(text) <= room), texts[-1])

    def _start_bar(self) -> None:
        # rich takes 60 ms to import; most saves never show a bar.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.table import Column
        from rich.text import Text

        in_bytes = bool(self._total_bytes)

        class RateColumn(ProgressColumn):
            def render(self, task: Task) -> Text:
                if not task.speed or task.time_remaining is None:
                    return Text()
                left = task.time_remaining
                shown = f"{left:.0f} s" if left < 60 else format_seconds(left)
                rate = f"{format_bytes(int(task.speed))}/s, " if in_bytes else ""
                return Text(f"{rate}{shown} left")

        one_line = Column(no_wrap=True, overflow="ellipsis")  # a bar of two lines leaves one behind
        self._progress = Progress(
            TextColumn("{task.description}", table_column=one_line),
            BarColumn(bar_width=24),
            RateColumn(table_column=one_line),
            console=Console(file=self._stream),
            transient=True,
            redirect_stdout=False,  # what other threads print is none of ours
            redirect_stderr=False,
            auto_refresh=False,  # its thread could not be started while the program ends
        )
        total = self._total_bytes or self._total_files
        self._bar = self._progress.add_task(self._describe(), total=total, completed=self._done)
        self._progress.start()
        ConsoleReporter.with_bar = self


class LogHandler(logging.Handler):
    """Writes what the library logs as notices: that storage does not answer, say. Any thread may log."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        (ConsoleReporter.with_bar or ConsoleReporter()).notice(record.getMessage())
