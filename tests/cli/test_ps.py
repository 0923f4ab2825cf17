"""What runs, and how what does not has ended: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from replicate.experiment import Experiment
from replicate.host import Host
from replicate.recording import Recorder
from replicate.reporting import SilentReporter
from replicate.transport import LocalTransport
from tests.cli.conftest import HOUR_NS, Vision
from tests.cli.shell import Shell
from tests.projects import CAPTURE, SampleProject

BEGIN = """
import os, signal, sys
import replicate

experiment = replicate.init(name="trained", quiet=True)
replicate.checkpoint((), step=7, metrics={"loss": 0.5})
print(experiment.id, flush=True)
sys.stdin.readline()
"""


@dataclass
class Training:
    """A training process that stands still until it is told to go on, and its experiment."""

    process: subprocess.Popen[str]
    id: str

    @property
    def stdin(self) -> IO[str]:
        """What it waits for."""
        assert self.process.stdin is not None
        return self.process.stdin

    def go_on(self) -> int:
        """Let it go on to its end, and return how it ended."""
        self.stdin.write("\n")
        self.stdin.flush()
        return self.process.wait(60)

    def kill(self, number: int) -> int:
        """Send it a signal, and return how it ended."""
        self.process.send_signal(number)
        return self.process.wait(60)


Train = Callable[..., Training]


@pytest.fixture
def train(project: SampleProject) -> Iterator[Train]:
    """Start training processes; those that are left are killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(ending: str = "", **variables: str) -> Training:
        project.write("train.py", BEGIN + ending)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "train.py", "--lr", "0.1"],
            cwd=project.root,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return Training(process, process.stdout.readline().strip())

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def statuses(shell: Shell, *flags: str) -> list[tuple[str, str | None]]:
    """Return status and exception of what ps lists."""
    return [(one["status"], one["exception"]) for one in shell("ps", "--json", *flags).json]


def listed(shell: Shell) -> list[tuple[str, bool]]:
    """Return status of what ls lists, and whether it says that it runs: both tell what ps tells."""
    return [(one["status"], one["running"]) for one in shell("ls", "--json").json]


# -- how processes end ----------------------------------------------------------------------------------------------


def test_a_process_that_trains_is_running(shell: Shell, train: Train) -> None:
    training = train()
    (row,) = shell("ps", "--json").json
    assert (row["id"], row["status"], row["pid"], row["step"]) == (training.id, "running", training.process.pid, 7)
    assert row["host"] == Host().name
    assert listed(shell) == [("running", True)]
    assert training.go_on() == 0


@pytest.mark.parametrize(
    ("ending", "code", "status", "exception"),
    [
        ("", 0, "finished", None),
        ("raise ValueError('no data')", 1, "failed", "ValueError: no data"),
        ("sys.exit('no data')", 1, "failed", "SystemExit: no data"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "stopped", None),
        ("os._exit(3)", 3, "stopped", None),
        ("os.abort()", -signal.SIGABRT, "stopped", None),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "stopped", None),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, "stopped", None),
        ("os.execv(sys.executable, [sys.executable, '-c', ''])", 0, "stopped", None),
    ],
)
def test_how_a_process_ended_is_known_at_once(
    shell: Shell, train: Train, ending: str, code: int, status: str, exception: str | None
) -> None:
    training = train(ending)
    assert statuses(shell) == [("running", None)]
    assert training.go_on() == code
    assert shell("ps").code == 1
    assert statuses(shell, "-a") == [(status, exception)]
    assert listed(shell) == [(status, False)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_killed_is_stopped(shell: Shell, train: Train, number: int) -> None:
    training = train()
    assert training.kill(number) == -number
    assert statuses(shell, "-a") == [("stopped", None)]
    assert listed(shell) == [("stopped", False)]


def test_a_child_that_lives_on_does_not_keep_it_running(shell: Shell, train: Train) -> None:
    ending = """
read, write = os.pipe()
if os.fork() == 0:
    os.close(write)
    print("child", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.close(read)
os.kill(os.getpid(), signal.SIGKILL)
"""
    training = train(ending)
    assert training.go_on() == -signal.SIGKILL
    assert training.process.stdout is not None
    assert training.process.stdout.readline() == "child\n"  # it lives, and waits
    assert statuses(shell, "-a") == [("stopped", None)]
    training.stdin.write("\n")
    training.stdin.flush()


def test_a_fork_that_ends_does_not_end_what_runs(shell: Shell, train: Train) -> None:
    fork = """
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print("forked", flush=True)
sys.stdin.readline()
"""
    training = train(fork)
    training.stdin.write("\n")
    training.stdin.flush()
    assert training.process.stdout is not None
    assert training.process.stdout.readline() == "forked\n"
    assert statuses(shell) == [("running", None)]
    assert training.go_on() == 0
    assert statuses(shell, "-a") == [("finished", None)]


def test_two_processes_that_train_one_experiment_are_two_lines(shell: Shell, train: Train) -> None:
    first = train()
    second = train(BEGIN)
    pids = {row["pid"]: row["id"] for row in shell("ps", "--json").json}
    assert pids == {first.process.pid: first.id, second.process.pid: second.id}
    assert first.kill(signal.SIGKILL) == -signal.SIGKILL
    assert [row["pid"] for row in shell("ps", "--json").json] == [second.process.pid]


# -- what only looks alive ------------------------------------------------------------------------------------------


def begin_on(project: SampleProject, host: str, pid: int) -> Experiment:
    """Start an experiment as if on a machine, in a process of a pid; its end will not be recorded."""
    capture = replace(CAPTURE, summary={**CAPTURE.summary, "host": host, "pid": pid, "command": "python train.py"})
    from replicate.session import Session

    repository = project.open()
    repository.create()
    session = Session(repository, project.events, capture)
    session.begin({}, None, (), None, None)
    session.close()
    found = project.history().experiments[-1]
    return Experiment(project.open(), found, SilentReporter())


def test_a_pid_that_is_used_again_is_not_taken_for_it(shell: Shell, project: SampleProject) -> None:
    begin_on(project, Host().name, os.getpid())
    assert shell("ps").code == 1
    assert statuses(shell, "-a") == [("stopped", None)]


def test_a_lock_file_that_outlived_a_reboot_is_not_taken_for_it(shell: Shell, project: SampleProject) -> None:
    begin_on(project, Host().name, 1)
    (lock,) = (project.store / "local" / "sessions").iterdir()
    assert lock.exists()
    assert shell("ps").code == 1


def test_a_machine_elsewhere_runs_while_its_heartbeat_is_fresh(shell: Shell, project: SampleProject) -> None:
    experiment = begin_on(project, "elsewhere", 4711)
    assert shell("ps").code == 1
    (start,) = project.experiment().starts
    project.open().transport.put(f"beats/{experiment.id}~{start.name.session}", b"", replace=True)
    (row,) = shell("ps", "--json").json
    assert (row["host"], row["pid"]) == ("elsewhere", 4711)
    assert experiment.is_running()


# -- how it looks ---------------------------------------------------------------------------------------------------


def test_a_line_tells_where_and_since_when(shell: Shell, train: Train) -> None:
    training = train()
    result = shell("ps")
    head, row = result.rows
    assert head == ["EXPERIMENT", "NAME", "HOST", "PID", "STARTED", "STEP", "SAVED", "COMMAND"]
    assert row[:4] == [training.id[:7], "trained", Host().name, str(training.process.pid)]
    assert result.lines[1].endswith("python train.py --lr 0.1")
    assert (result.err, result.code) == ("", 0)


def test_what_ended_is_listed_on_request_with_its_exception(shell: Shell, vision: Vision) -> None:
    assert shell("ps").err == "nothing is running\n"
    assert shell("ps", "-a").lines == [
        "EXPERIMENT  NAME      STATUS    STARTED      STEP  SAVED        COMMAND".replace("        COMMAND", ""),
        f"{vision.warmup.short}     warmup    failed    2 hours ago  10    2 hours ago",
        "                      MemoryError: tried to allocate 2.1 GB",
        f"{vision.baseline.short}     baseline  finished  2 hours ago  2     2 hours ago",
    ]


def test_what_ended_more_than_a_day_ago_is_not_listed(shell: Shell, tmp_path: Path, vision: Vision) -> None:
    clock = iter(range(vision.project.host.now_ns() - 24 * HOUR_NS, 1 << 62, 10**9))
    old = SampleProject(vision.project.root, host=Host(now_ns=clock.__next__))
    old.begin({}, name="old").end("finished")
    assert [one["name"] for one in shell("ps", "-a", "--json").json] == ["warmup", "baseline"]


def test_only_what_is_listed_is_looked_into(shell: Shell, vision: Vision, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_on(vision.project, "elsewhere", 1)
    assert shell("ls").code == 0  # so that the cache of records is there
    read = []
    original = LocalTransport.get

    def count(self: LocalTransport, key: str, start: int = 0, end: int | None = None) -> bytes:
        read.append(key)
        return original(self, key, start, end)

    monkeypatch.setattr(LocalTransport, "get", count)
    assert shell("ps").code == 1
    assert [key for key in read if not key.startswith("ctl/")] == []


def test_without_anything_json_is_an_empty_list(shell: Shell, project: SampleProject) -> None:
    project.open().create()
    for flags in ((), ("-a",)):
        result = shell("ps", "--json", *flags)
        assert (result.json, result.code) == ([], 1)


def test_what_a_terminal_would_obey_is_not_printed(shell: Shell, project: SampleProject) -> None:
    begin_on(project, "\x1b[31mred", 1)
    assert "·[31mred" in shell("ps", "-a").out


def test_the_experiment_of_this_process_is_running(shell: Shell, project: SampleProject) -> None:
    recorder = Recorder(lambda quiet: SilentReporter())
    experiment = recorder.init(project.root)
    assert [one["id"] for one in shell("ps", "--json").json] == [experiment.id]
    experiment.stop()
    assert shell("ps").code == 1


def test_a_process_whose_experiment_was_removed_still_runs(shell: Shell, train: Train) -> None:
    training = train()
    shell("rm", "-f", training.id)
    assert statuses(shell) == [("running, removed", None)]
    assert training.go_on() == 0
    assert statuses(shell, "-a") == []
