"""The child's side of pushing in the background: push what is saved for as long as a program runs. SPEC §5, §12.

One thread pushes; this one listens to the program, and sends its heartbeats, also while a push takes its time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from collections.abc import Callable, Iterator

from replicate.background import BEGIN, END, note_outage, push_folder
from replicate.errors import ReplicateError
from replicate.host import Host
from replicate.liveness import BEAT_PREFIX
from replicate.objects.ids import ObjectID
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.sync.copying import Copied
from replicate.transport import Transport

BEAT_SECONDS = 30.0
_FIRST_WAIT, _LONGEST_WAIT = 15.0, 300.0
_READ = 1 << 16
_LOOK_SECONDS = 0.5

Push = Callable[[Reporter, bool], Copied]
"""Copies what is not there yet; the second argument says to give up soon."""


class Following:
    """Pushes for a program until it ends.

    Args:
        repository: The project.
        remote: Where heartbeats go; it gives up soon.
        push: Copies what is not there yet.
        reporter: Hears of a push from when the program has ended, and waits for it.

    Attributes:
        experiment: The one that the program began or continued last.
    """

    def __init__(self, repository: Repository, remote: Transport, push: Push, reporter: Reporter) -> None:
        self._project = repository.project
        self._host: Host = repository.host
        self._remote = remote
        self._push = push
        self._reporter = _LateReporter(reporter)
        self._sessions: set[str] = set()
        self._beaten: dict[str, float] = {}
        self._wake = threading.Condition()
        self._has_news = True
        self._is_ending = False
        self._is_pushed = False
        self._is_reached = False
        self.experiment: ObjectID | None = None

    def run(self, fd: int) -> bool:
        """Listen on a pipe until the program at its other end has ended; return whether all is pushed then."""
        worker = threading.Thread(target=self._work, name="push")
        worker.start()
        for line in self._lines(fd, worker):
            self._hear(line)
        self._reporter.show()
        with self._wake:
            self._is_ending = True
            self._wake.notify()
        worker.join()
        self._sessions.clear()  # however the program ended, none of them runs any more
        if self._is_reached:
            self._beat()
        return self._is_pushed

    # -- the program -------------------------------------------------------------------------------------------------

    def _lines(self, fd: int, worker: threading.Thread) -> Iterator[str]:
        """Yield what the program says; send heartbeats while it says nothing."""
        rest = b""
        while worker.is_alive():
            if self._is_reached:  # nothing is put into a place that may be no store
                self._beat()
            ready, _, _ = select.select([fd], [], [], BEAT_SECONDS if self._is_reached else _LOOK_SECONDS)
            if not ready:
                continue
            data = os.read(fd, _READ)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode("ascii", "replace") for line in lines)

    def _hear(self, line: str) -> None:
        word, _, session = line.partition(" ")
        if word == BEGIN:
            self._sessions.add(session)
            self.experiment = ObjectID.parse(session.partition("~")[0])
        elif word == END:
            self._sessions.discard(session)
        with self._wake:
            self._has_news = True
            self._wake.notify()

    def _beat(self) -> None:
        """Put the heartbeats that are due; one that cannot be put is put with the next."""
        now = self._host.monotonic_ns() / 1e9
        for session in sorted(self._sessions):
            if now - self._beaten.get(session, -BEAT_SECONDS) >= BEAT_SECONDS:
                self._beaten[session] = now
                with contextlib.suppress(ReplicateError):
                    self._remote.put(f"{BEAT_PREFIX}{session}", b"", replace=True)
        for session in sorted(self._beaten.keys() - self._sessions):
            del self._beaten[session]
            with contextlib.suppress(ReplicateError):
                self._remote.delete([f"{BEAT_PREFIX}{session}"])

    # -- pushing -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        wait = 0.0
        while True:
            with self._wake:
                if not self._is_ending and wait:
                    self._wake.wait_for(lambda: self._is_ending, wait)
                elif not self._is_ending:
                    self._wake.wait_for(lambda: self._has_news or self._is_ending)
                is_last = self._is_ending
                self._has_news = False
            self._is_pushed = self._try(is_brief=is_last and bool(wait))
            if is_last:
                return
            wait = 0.0 if self._is_pushed else min(2 * wait or _FIRST_WAIT, _LONGEST_WAIT)

    def _try(self, *, is_brief: bool) -> bool:
        try:
            with self._alone():
                done = self._push(self._reporter, is_brief)
        except ReplicateError as exc:
            failure: ReplicateError | None = exc
        else:
            self._is_reached = True
            failure = done.failures[-1].error if done.failures else None
        note_outage(self._project, self._host, (failure.message, failure.hint or "") if failure else None)
        return failure is None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Push from one process at a time: others would put the same packs. Without locks no harm is done."""
        folder = push_folder(self._project)
        fd = None
        try:
            os.makedirs(folder, exist_ok=True)
            fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            pass
        try:
            yield
        finally:
            if fd is not None:
                os.close(fd)


class _LateReporter:
    """Drops what is told until `show` is called, and then tells where things stand, and what follows."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()
        self._is_shown = False
        self._task: tuple[str, int, int] | None = None
        self._done = [0, 0, 0]

    def show(self) -> None:
        """Tell everything from now on."""
        with self._lock:
            self._is_shown = True
            if self._task is not None:
                self._reporter.begin(*self._task)
                self._reporter.advance(*self._done)

    def begin(self, task: str, files: int, size_bytes: int) -> None:
        """See `Reporter.begin`."""
        with self._lock:
            self._task, self._done = (task, files, size_bytes), [0, 0, 0]
            if self._is_shown:
                self._reporter.begin(task, files, size_bytes)

    def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
        """See `Reporter.advance`."""
        with self._lock:
            self._done = [one + more for one, more in zip(self._done, (files, size_bytes, new_bytes), strict=True)]
            if self._is_shown:
                self._reporter.advance(files, size_bytes, new_bytes)

    def finish(self) -> None:
        """See `Reporter.finish`."""
        with self._lock:
            self._task = None
            if self._is_shown:
                self._reporter.finish()

    def notice(self, message: str) -> None:
        """See `Reporter.notice`."""
        if self._is_shown:
            self._reporter.notice(message)

    def warn(self, message: str) -> None:
        """See `Reporter.warn`."""
        if self._is_shown:
            self._reporter.warn(message)
