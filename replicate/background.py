"""Pushing in the background: a child process copies what is saved to the repository while the program goes on. Floor 4.

The child is `replicate push` in a process group of its own, so that neither a slow network nor Ctrl-C nor the end of
the program touches what it does: in this process there is no thread, no event loop and no network. It is told by lines
on its stdin what there is to do, and learns from the end of that pipe, which the kernel closes however a process ends,
that no more comes. What it could not do is kept in the store's `local/push/outage`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass

from replicate.config import Project, child_environment, mode
from replicate.host import Host
from replicate.reporting import Reporter

OPTION = "--background"
SAVED, BEGIN, END = "saved", "begin", "end"
_AGAIN_NS = 60 * 10**9
_TOLD_AFTER, _PATIENCE = 2.0, 60.0  # seconds without progress
_BY_HAND = "`replicate push` copies what is missing"


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when, and why, checkpoints do not reach the repository.

    Attributes:
        place: The repository.
        since_ns: When the first push failed.
        message, hint: Why the last one did, and what to do.
        noted_ns: When the last one did.
    """

    place: str
    since_ns: int
    message: str
    hint: str = ""
    noted_ns: int = 0


def push_folder(project: Project) -> str:
    """Return where this machine's state of pushing lies."""
    return os.path.join(project.store, "local", "push")


def read_outage(project: Project) -> Outage | None:
    """Return why checkpoints do not reach the project's repository; None when they do, or nobody tried."""
    try:
        with open(os.path.join(push_folder(project), "outage"), encoding="utf-8") as file:
            fields = json.load(file)
        place, message, hint = (str(fields[name]) for name in ("place", "message", "hint"))
        found = Outage(place, int(fields["since"]), message, hint, int(fields["noted"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.place == project.repository else None


def note_outage(project: Project, host: Host, failure: tuple[str, str] | None) -> None:
    """Keep why a push failed (message and hint), or, with None, that all is pushed. What cannot be kept is left out."""
    path = os.path.join(push_folder(project), "outage")
    with contextlib.suppress(OSError):
        if failure is None:
            os.unlink(path)
            return
        before, now = read_outage(project), host.now_ns()
        since = before.since_ns if before else now
        fields = {"place": project.repository, "since": since, "message": failure[0], "hint": failure[1], "noted": now}
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temp = f"{path}.{host.random(6).hex()}"
        with open(temp, "w", encoding="utf-8") as file:
            json.dump(fields, file)
        os.replace(temp, path)


class BackgroundPush:
    """The child process that pushes for this one. Nothing here waits but `finish`, and nothing raises.

    Args:
        project: With a repository elsewhere.
        host: The clock.
    """

    def __init__(self, project: Project, host: Host) -> None:
        self._project = project
        self._host = host
        self._child: subprocess.Popen[bytes] | None = None
        self._started_ns = 0
        self._sessions: list[str] = []
        self._told_since = 0
        self._begun_ns = host.now_ns()
        self._has_news = False

    def begin(self, session: str) -> None:
        """Tell that a session, `<experiment>~<session>`, has begun: its heartbeat is to be seen from elsewhere."""
        self._sessions.append(session)
        self._tell(BEGIN, session)

    def notify(self, reporter: Reporter) -> None:
        """Tell that something was published. Warns once in every outage that this process has met."""
        self._tell(SAVED)
        self._tell_outage(read_outage(self._project), reporter)

    def end(self, session: str) -> None:
        """Tell that a session has ended."""
        if session in self._sessions:
            self._sessions.remove(session)
            self._tell(END, session)

    def leave(self) -> None:
        """Let the child push what is new, and wait for nothing; `replicate status` tells what became of it."""
        self._tell(SAVED)
        self._let_go()
        self._has_news = False

    def finish(self, reporter: Reporter, *, interrupts: int = 0) -> None:
        """Wait until everything is pushed, with a bar. The second Ctrl-C leaves the child to it.

        Args:
            reporter: Hears of the child's progress, and of what could not be pushed.
            interrupts: How often Ctrl-C was pressed before.
        """
        if not self._has_news:
            return
        self._has_news = False
        if not self._is_running():
            self._start()
        child = self._child
        if child is None:
            return
        self._close_stdin()
        code: int | None = None
        is_interrupted = False
        while interrupts < 2:
            try:
                if is_interrupted:
                    reporter.finish()
                    reporter.notice("still pushing; Ctrl-C again leaves it to go on in the background")
                code = self._relay(child, reporter, "again" if interrupts else "twice", is_told=is_interrupted)
                break
            except KeyboardInterrupt:
                interrupts += 1
                is_interrupted = True
        self._let_go()
        if code is None:
            reporter.finish()
            self._tell_outage(read_outage(self._project), reporter)
            reporter.notice(f"the push to {self._project.repository} goes on in the background")
            return
        if code == 0:
            return
        outage = read_outage(self._project)
        if outage is None:
            log = os.path.join(push_folder(self._project), "log")
            reporter.warn(f"the push to {self._project.repository} ended with exit code {code}, see {log}")
        self._tell_outage(outage, reporter)
        reporter.notice(f"what is not pushed is safe here; {_BY_HAND}")

    def _tell_outage(self, outage: Outage | None, reporter: Reporter) -> None:
        if outage is None or outage.since_ns == self._told_since or outage.noted_ns < self._begun_ns:
            return  # what failed before this process may be over
        self._told_since = outage.since_ns
        hint = f"\nhint: {outage.hint}" if outage.hint else ""
        reporter.warn(f"checkpoints are not pushed: {outage.message}{hint}")

    # -- the child -----------------------------------------------------------------------------------------------

    def _is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def _tell(self, *words: str) -> None:
        """Give the child a line, or start one, which pushes whatever is new; not more than once a minute."""
        self._has_news = True
        if self._is_running():
            self._write(*words)
        elif self._child is None or self._host.monotonic_ns() - self._started_ns > _AGAIN_NS:
            self._start()

    def _start(self) -> None:
        self._let_go()
        self._started_ns = self._host.monotonic_ns()
        folder = push_folder(self._project)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, "log"), "wb") as log:
                self._child = subprocess.Popen(
                    # -P: a random.py beside the training script must not stand in for Python's own
                    [sys.executable, "-P", "-m", "replicate", "push", OPTION, "-D", self._project.root],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd="/",
                    env=child_environment(),
                    start_new_session=True,
                )
        except (OSError, ValueError) as exc:  # no more processes, or no memory for one
            note_outage(self._project, self._host, (f"no process could be started for it: {exc}", _BY_HAND))
            return
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)
        for session in self._sessions:
            self._write(BEGIN, session)

    def _write(self, *words: str) -> None:
        """Write a line to the child. When the pipe is full it has been told often enough."""
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                os.write(self._child.stdin.fileno(), (" ".join(words) + "\n").encode("ascii"))

    def _close_stdin(self) -> None:
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()

    def _let_go(self) -> None:
        """Close this process's ends of the pipes, and forget the child, which goes on alone."""
        self._close_stdin()
        if self._child is not None and self._child.stdout is not None:
            self._child.stdout.close()
            if self._child.poll() is None:
                self._child.returncode = 0  # nobody will ask: Python would warn of a process that still runs
        self._child = None

    def _relay(self, child: subprocess.Popen[bytes], reporter: Reporter, presses: str, *, is_told: bool) -> int | None:
        """Pass on what the child tells until it says that it has pushed, or ends; return its exit code.

        `presses` tells how Ctrl-C leaves it, unless that `is_told`. None when nothing moved for a minute: a dead
        network keeps no program from its end.
        """
        assert child.stdout is not None
        fd, rest, waited = child.stdout.fileno(), b"", 0.0
        while waited < _PATIENCE:
            patience = _PATIENCE if is_told else _TOLD_AFTER
            if not select.select([fd], [], [], patience)[0]:
                waited += patience
                if not is_told:
                    place = self._project.repository
                    reporter.notice(f"waiting for {place}; Ctrl-C {presses} leaves it to the background")
                is_told = True
                continue
            data = os.read(fd, 1 << 16)
            if not data:
                return child.wait()
            *lines, rest = (rest + data).split(b"\n")
            is_told, waited = True, 0.0
            for line in lines:
                code = relay(line, reporter)
                if code is not None:
                    return code
        reporter.finish()
        reporter.warn(f"nothing was pushed for {_PATIENCE:.0f} s; `replicate status` tells what is missing there")
        self._note_silence()
        return None

    def _note_silence(self) -> None:
        """Keep that the repository did not answer, for `status`; this process has told of it."""
        place = self._project.repository
        note_outage(self._project, self._host, (f"{place} did not answer for {_PATIENCE:.0f} s", _BY_HAND))
        outage = read_outage(self._project)
        self._told_since = outage.since_ns if outage else self._told_since


_running: dict[str, BackgroundPush] = {}


def background_push(project: Project, host: Host) -> BackgroundPush | None:
    """Return what pushes for this process; None without a repository elsewhere, and offline."""
    if not project.repository or mode() != "online":
        return None
    if getattr(sys, "frozen", False) or "py" not in os.path.basename(sys.executable or ""):
        return None  # an application with Python in it: it cannot run `replicate`
    return _running.setdefault(f"{project.store}\n{project.repository}", BackgroundPush(project, host))


def finish_pushes(reporter: Reporter, *, interrupts: int = 0) -> None:
    """Wait until all is pushed that this process published; see `BackgroundPush.finish`."""
    for one in list(_running.values()):
        one.finish(reporter, interrupts=interrupts)


def _forget() -> None:
    """In a fork: close its copies of the pipes, or children would not learn that this program has ended."""
    for one in _running.values():
        one._let_go()
    _running.clear()


os.register_at_fork(after_in_child=_forget)


class PipeReporter:
    """Tells its events to the process that started this one, as lines of JSON on a pipe.

    Args:
        fd: The pipe. When nobody reads it any more nothing is told.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def begin(self, task: str, files: int, size_bytes: int) -> None:
        """See `Reporter.begin`."""
        self._tell("begin", task, files, size_bytes)

    def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
        """See `Reporter.advance`."""
        self._tell("advance", files, size_bytes, new_bytes)

    def finish(self) -> None:
        """See `Reporter.finish`."""
        self._tell("finish")

    def notice(self, message: str) -> None:
        """See `Reporter.notice`."""
        self._tell("notice", message)

    def warn(self, message: str) -> None:
        """See `Reporter.warn`."""
        self._tell("warn", message)

    def end(self, code: int) -> None:
        """Tell that nothing more comes, and the exit code: there is nothing to wait for."""
        self._tell("end", code)
        self._fd = None

    def _tell(self, event: str, *arguments: object) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, (json.dumps([event, *arguments]) + "\n").encode("ascii"))
        except OSError:
            self._fd = None


def relay(line: bytes, reporter: Reporter) -> int | None:
    """Pass on an event that a `PipeReporter` told; what is none is left out. Return the exit code of the last one."""
    try:
        event, *arguments = json.loads(line)
    except (ValueError, TypeError):
        return None
    with contextlib.suppress(TypeError):
        match event:
            case "begin":
                reporter.begin(*arguments)
            case "advance":
                reporter.advance(*arguments)
            case "finish":
                reporter.finish()
            case "notice":
                reporter.notice(*arguments)
            case "warn":
                reporter.warn(*arguments)
            case "end":
                return int(*arguments)
    return None
