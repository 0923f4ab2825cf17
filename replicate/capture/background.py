"""A program that runs beside us for a short time, and whose answer is fetched when it is needed.

It cannot ask, does not get our Ctrl-C, and is killed with all that it started when its time is over.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_PIECE = 64 << 10
_LAST_MOMENT_S = 0.1  # between the end of the output and that of the program


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program wrote.

    Attributes:
        data: Its output, or the beginning.
        is_whole: That is all of it, and it ended with exit code 0.
        is_cut: It had more to say.
        timed_out: There was no time to wait for more.
    """

    data: bytes = b""
    is_whole: bool = False
    is_cut: bool = False
    timed_out: bool = False


class Background:
    """A program that was started; `read` or `kill` ends it. One that cannot be started answers nothing."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        import subprocess  # takes 5 ms to import, and most programs need none

        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError, ValueError):
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                process_group=0,
            )

    def read(self, limit: int, remaining: Callable[[], float]) -> Answer:
        """Return what it writes, at most `limit` bytes. `remaining` says how many seconds there are."""
        if self._process is None:
            return Answer()
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        os.set_blocking(fd, False)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        data = bytearray()
        try:
            while len(data) <= limit:
                if not poll.poll(max(0.0, remaining()) * 1000):
                    return Answer(bytes(data), timed_out=True)
                piece = os.read(fd, _PIECE)
                if not piece:
                    return self._ended(bytes(data), remaining)
                data += piece
            return Answer(bytes(data[:limit]), is_cut=True)
        except OSError:
            return Answer(bytes(data[:limit]))
        finally:
            self.kill()

    def _ended(self, data: bytes, remaining: Callable[[], float]) -> Answer:
        import subprocess

        assert self._process is not None
        try:
            code = self._process.wait(max(_LAST_MOMENT_S, remaining()))
        except subprocess.TimeoutExpired:
            return Answer(data, timed_out=True)
        return Answer(data, is_whole=code == 0)

    def kill(self) -> None:
        """End it and all that it started. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
