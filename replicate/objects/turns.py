"""Work that is done side by side and has one step in order."""

from __future__ import annotations

import threading


class Turns:
    """Lets the pieces of one blob, which are read in parallel, be hashed in order."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._turn = 0
        self._failure: BaseException | None = None

    def wait(self, number: int) -> None:
        """Return when it is `number`'s turn; when the blob was given up, raise what it was given up for."""
        with self._condition:
            self._condition.wait_for(lambda: self._turn == number or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    def next(self) -> None:
        """Pass the turn on."""
        with self._condition:
            self._turn += 1
            self._condition.notify_all()

    def stop(self, failure: BaseException) -> None:
        """Give the blob up."""
        with self._condition:
            self._failure = self._failure or failure
            self._condition.notify_all()
