"""Work that is done side by side and has one step in order."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Turns:
    """Lets the pieces of one blob, which are read in parallel, be hashed in order."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._acting = threading.Lock()
        self._turn = 0
        self._failure: BaseException | None = None

    def wait(self, number: int) -> None:
        """Return when it is `number`'s turn; when the blob was given up, raise what it was given up for."""
        with self._condition:
            self._condition.wait_for(lambda: self._turn == number or self._failure is not None)
            self._check()

    def act(self, write: Callable[[], object]) -> None:
        """Do something in any order, one piece at a time; not once the blob was given up, which raises as `wait`."""
        with self._acting:
            self._check()
            write()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def next(self) -> None:
        """Pass the turn on."""
        with self._condition:
            self._turn += 1
            self._condition.notify_all()

    def stop(self, failure: BaseException) -> None:
        """Give the blob up. From then on nobody acts."""
        with self._condition:
            self._failure = self._failure or failure
            self._condition.notify_all()
        with self._acting:  # whoever is at it ends
            pass
