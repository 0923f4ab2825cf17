"""The child's side of pushing in the background, in this process: what it does with what it is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.background import read_outage
from replicate.config import Project
from replicate.errors import StorageUnreachableError
from replicate.host import Host
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.sync import following
from replicate.sync.copying import Copied
from replicate.sync.following import Following
from tests.projects import Events
from tests.sync.stores import Remote, new_remote

DEADLINE = 30.0
SESSION = "ab" * 32 + "~" + "cd" * 8


class Pushes:
    """Stands in for the push: says what it is told to, and keeps how it was called."""

    def __init__(self) -> None:
        self.outcomes: list[Exception | Copied] = []
        self.brief: list[bool] = []
        self.during: Callable[[Reporter], None] = lambda reporter: None
        self._changed = threading.Condition()

    def __call__(self, reporter: Reporter, is_brief: bool) -> Copied:
        self.during(reporter)
        with self._changed:
            self.brief.append(is_brief)
            self._changed.notify_all()
        outcome = self.outcomes.pop(0) if self.outcomes else Copied()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.brief) >= count, DEADLINE)


class Program:
    """The program that is followed."""

    def __init__(self, folder: Path, remote: Remote) -> None:
        self.project = Project(str(folder), str(folder / ".replicate"), repository="memory://remote")
        self.remote = remote
        self.pushes = Pushes()
        self.events = Events()
        self._reading, self._writing = os.pipe()
        self.result: list[bool] = []
        self._thread = threading.Thread(target=self._follow)

    def _follow(self) -> None:
        repository = Repository(self.project, Host(), Events())
        self.result.append(Following(repository, self.remote, self.pushes, self.events).run(self._reading))

    def start(self) -> None:
        self._thread.start()

    def say(self, line: str) -> None:
        os.write(self._writing, line.encode() + b"\n")

    def end(self) -> bool:
        os.close(self._writing)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        os.close(self._reading)
        return self.result[0]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setattr(following, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(following, "_LONGEST_WAIT", 0.002)
    monkeypatch.setattr(following, "BEAT_SECONDS", 0.01)
    return Program(tmp_path, new_remote())


def test_it_pushes_when_it_begins_when_it_is_told_and_at_the_end(program: Program) -> None:
    program.start()
    program.pushes.wait(1)
    program.say("saved")
    program.pushes.wait(2)
    assert program.end()
    assert program.pushes.brief[0] is False
    assert len(program.pushes.brief) >= 3


def test_what_is_told_during_a_push_is_pushed_by_one_more(program: Program) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(reporter: Reporter) -> None:
        entered.set()
        assert go_on.wait(DEADLINE)

    program.pushes.during = wait
    program.start()
    assert entered.wait(DEADLINE)
    for _ in range(50):
        program.say("saved")
    go_on.set()
    program.pushes.wait(2)
    assert program.end()
    assert len(program.pushes.brief) <= 1 + 50 + 1


def test_a_failed_push_is_tried_again_kept_as_an_outage_and_forgotten_after_it(program: Program) -> None:
    error = StorageUnreachableError("cannot reach it", key="ctl/", operation="list", hint="look at the cable")
    program.pushes.outcomes = [error, error]
    seen = []
    program.pushes.during = lambda reporter: seen.append(read_outage(program.project))
    program.start()
    program.pushes.wait(3)  # of itself: nothing was said
    assert program.end()
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[2] is not None
    assert (seen[1].message, seen[1].hint) == ("cannot reach it", "look at the cable")
    assert seen[1].since_ns == seen[2].since_ns
    assert read_outage(program.project) is None


def test_the_last_try_of_an_outage_is_brief_and_says_that_it_failed(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_FIRST_WAIT", DEADLINE)
    monkeypatch.setattr(following, "_LONGEST_WAIT", DEADLINE)
    error = StorageUnreachableError("cannot reach it", key="ctl/", operation="list")
    program.pushes.outcomes = [error, error]
    program.start()
    program.pushes.wait(1)
    assert not program.end()
    assert program.pushes.brief == [False, True]
    assert read_outage(program.project) is not None


def test_an_unknown_error_ends_it_and_is_no_success(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    program.pushes.outcomes = [ZeroDivisionError()]
    program.start()
    assert not program.end()


def test_heartbeats_are_put_while_a_session_runs_and_deleted_after_it(program: Program) -> None:
    key = f"beats/{SESSION}"
    put, deleted = threading.Event(), threading.Event()

    def watch(verb: str, name: str) -> None:
        if verb == "put" and name == key:
            put.set()
        if verb == "delete":
            deleted.set()

    program.remote.before = watch
    program.start()
    program.say(f"begin {SESSION}")
    assert put.wait(DEADLINE)
    program.say(f"end {SESSION}")
    assert deleted.wait(DEADLINE)
    program.end()
    assert program.remote.present("beats/") == set()


def test_a_program_that_was_killed_has_no_heartbeat_any_more(program: Program) -> None:
    put = threading.Event()
    program.remote.before = lambda verb, name: put.set() if name.startswith("beats/") else None
    program.start()
    program.say(f"begin {SESSION}")
    assert put.wait(DEADLINE)
    assert program.remote.present("beats/") == {f"beats/{SESSION}"}
    program.end()  # nothing was said of the session's end
    assert program.remote.present("beats/") == set()


def test_no_heartbeat_is_put_into_a_place_that_no_push_has_reached(program: Program) -> None:
    error = StorageUnreachableError("cannot reach it", key="ctl/", operation="list")
    program.pushes.outcomes = [error] * 5
    program.remote.before = lambda verb, name: pytest.fail(f"{verb} {name}")
    program.say(f"begin {SESSION}")
    program.start()
    program.pushes.wait(3)
    program.pushes.outcomes = [error] * 1000
    program.end()


def test_a_heartbeat_that_cannot_be_put_stops_nothing(program: Program) -> None:
    tried = threading.Event()

    def fail(verb: str, name: str) -> None:
        tried.set()
        raise StorageUnreachableError("cannot reach it", key=name, operation="put")

    program.remote.before = fail
    program.start()
    program.say(f"begin {SESSION}")
    assert tried.wait(DEADLINE)
    assert program.end()


def test_progress_is_told_from_when_the_program_has_ended(program: Program) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def copy(reporter: Reporter) -> None:
        reporter.begin("pushing", 0, 100)
        reporter.advance(0, 40)
        entered.set()
        assert go_on.wait(DEADLINE)
        reporter.advance(0, 60)
        reporter.finish()

    program.pushes.during = copy
    begun = threading.Event()

    class Watched(Events):
        def begin(self, task: str, files: int, size_bytes: int) -> None:
            super().begin(task, files, size_bytes)
            begun.set()

    program.events = Watched()
    program.start()
    assert entered.wait(DEADLINE)
    assert program.events.tasks == []
    os.close(program._writing)
    assert begun.wait(DEADLINE)
    go_on.set()
    program._thread.join(DEADLINE)
    os.close(program._reading)
    assert program.events.tasks[0] == ("pushing", 0, 100)
