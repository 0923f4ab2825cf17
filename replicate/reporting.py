"""What the library tells while it works: five events. Silent unless a caller passes a `Reporter`.

Floor 0. The terminal's reporter is `replicate.console`.
"""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives events. Methods must return fast and must not raise; they are called from the saving thread only."""

    def begin(self, task: str, files: int, size_bytes: int) -> None:
        """A task ("saving", "checking out") starts on so many files and bytes (0 when not known)."""

    def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
        """So many more files and bytes are done; `new_bytes` of them were not in the store."""

    def finish(self) -> None:
        """The task that began last has ended, well or not."""

    def notice(self, message: str) -> None:
        """A sentence worth a line; nothing is wrong."""

    def warn(self, message: str) -> None:
        """A sentence about something that the user should act on; work goes on."""


class SilentReporter:
    """Drops every event."""

    def begin(self, task: str, files: int, size_bytes: int) -> None:
        """See `Reporter`."""

    def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
        """See `Reporter`."""

    def finish(self) -> None:
        """See `Reporter`."""

    def notice(self, message: str) -> None:
        """See `Reporter`."""

    def warn(self, message: str) -> None:
        """See `Reporter`."""
