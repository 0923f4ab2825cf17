"""Pushing in the background: programs of their own, whose checkpoints have to be in the repository in the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicate.background import Outage, PipeReporter, note_outage, read_outage, relay
from replicate.config import require_project
from replicate.host import Host
from replicate.repository import Repository
from replicate.sync import create_store
from replicate.sync.pending import Pending, pending
from replicate.transport import LocalTransport
from tests.projects import Events
from tests.servers.process import wait_for

DEADLINE = 60.0  # what waits longer has failed
TRAIN = """
import os, signal, sys, threading
import replicate

experiment = replicate.init(params={{"lr": 0.1}}, name="run")
for step in range(3):
    with open("weights.bin", "wb") as file:
        file.write(bytes([step]) * 5000)
    replicate.checkpoint(step=step, metrics={{"loss": 1 / (step + 1)}})
{rest}
"""


class Training:
    """A project with a repository in another folder, and a script that trains in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.team = folder / "team"
        self.root.mkdir()
        self.team.mkdir()
        (self.root / "replicate.yaml").write_text("repository: ../team\n")

    def make_store(self) -> None:
        create_store(LocalTransport(str(self.team)), Host())

    def write(self, rest: str = "", script: str = TRAIN) -> None:
        (self.root / "train.py").write_text(script.format(rest=rest))

    def start(self, *, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=self.root,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def train(self, *, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        with self.start(environment=environment) as process:
            out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err

    def replicate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "replicate", *arguments]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=DEADLINE, check=False)

    @property
    def project(self) -> Any:
        return require_project(self.root)

    @property
    def pending(self) -> Pending:
        return pending(Repository(self.project, Host(), Events()), str(self.team))

    def published(self) -> list[int | None]:
        """Return the steps of all checkpoints that the repository lists, fetched by somebody who has no project."""
        command = [sys.executable, "-m", "replicate", "ls", "-R", str(self.team), "--json"]
        found = subprocess.run(command, cwd=self.team, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert found.returncode in (0, 1), found.stderr
        steps: list[int | None] = []
        for experiment in json.loads(found.stdout):
            command = [sys.executable, "-m", "replicate", "log", "-R", str(self.team), experiment["id"], "--json"]
            log = subprocess.run(command, cwd=self.team, capture_output=True, text=True, timeout=DEADLINE, check=True)
            steps += [one["step"] for one in json.loads(log.stdout)]
        return sorted(steps, key=lambda one: -1 if one is None else one)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Let no push begin meanwhile."""
        folder = self.root / ".replicate/local/push"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@pytest.fixture
def training(tmp_path: Path) -> Training:
    made = Training(tmp_path)
    made.make_store()
    made.write()
    return made


def test_every_checkpoint_is_in_the_repository_when_the_program_has_ended(training: Training) -> None:
    code, _, err = training.train()
    assert code == 0
    assert f"pushing to {training.team}" in err
    assert "warning" not in err
    assert training.published() == [0, 1, 2]
    assert training.pending == Pending()
    assert read_outage(training.project) is None
    assert "everything pushed" in training.replicate("status").stdout


def test_what_is_pushed_is_restored_elsewhere(training: Training, tmp_path: Path) -> None:
    training.train()
    there = tmp_path / "there"
    training.replicate("checkout", "-R", str(training.team), "run@latest", "-o", str(there))
    assert (there / "weights.bin").read_bytes() == bytes([2]) * 5000


def test_no_part_of_the_network_is_in_the_program(training: Training) -> None:
    rest = (
        "loaded = {'fsspec', 'asyncio', 's3fs', 'botocore', 'replicate.sync', 'rich'} & set(sys.modules)\n"
        "print(sorted(loaded), threading.active_count())"
    )
    training.write(rest)
    code, out, _ = training.train()
    assert (code, out) == (0, "[] 1\n")


def test_offline_nothing_is_pushed_until_it_is_asked_for(training: Training) -> None:
    code, _, err = training.train(environment={"REPLICATE_MODE": "offline"})
    assert code == 0
    assert "pushing" not in err
    assert training.published() == []
    assert training.pending.checkpoints == 3
    assert "to push: 1 experiment, 3 checkpoints (" in training.replicate("status").stdout
    assert training.replicate("push").returncode == 0
    assert training.published() == [0, 1, 2]


def test_a_repository_without_a_store_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.write()
    code, _, err = training.train()
    assert code == 0
    assert err.count("warning: checkpoints are not pushed: there is no store at") == 1
    assert "hint: correct the place, or make a store there with `replicate push --create`" in err
    assert "what is not pushed is safe here; `replicate push` copies what is missing" in err
    assert os.listdir(training.team) == []  # nothing is put into a place that may be the wrong one
    shown = training.replicate("status").stdout
    assert "to push: 1 experiment, 3 checkpoints (" in shown
    assert "there is no store at" in shown
    assert training.replicate("push").returncode == 6
    assert training.replicate("push", "--create").returncode == 0
    assert "there is no store at" not in training.replicate("status").stdout
    assert training.published() == [0, 1, 2]


def test_a_second_program_in_the_same_outage_tells_it_again(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.write()
    training.train()
    before = read_outage(training.project)
    _, _, err = training.train()
    assert err.count("warning: checkpoints are not pushed") == 1
    after = read_outage(training.project)
    assert before is not None
    assert after is not None
    assert after.since_ns == before.since_ns


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_program_does_not_stop_the_push(training: Training, number: signal.Signals) -> None:
    training.write(f"os.kill(os.getpid(), {int(number)})")
    with training.held_back():  # so that nothing is pushed yet when it is killed
        code, _, _ = training.train()
        assert code == -number
        assert training.published() == []
    wait_for(lambda: training.pending == Pending())
    assert training.published() == [0, 1, 2]


def test_a_killed_push_is_finished_by_the_next_program(training: Training) -> None:
    training.write(
        "from replicate.background import _running\n"
        "[one] = _running.values()\n"
        "os.kill(one._child.pid, signal.SIGKILL)\n"
        "one._child.wait()"
    )
    with training.held_back():
        process = training.start()
        wait_for(lambda: training.pending.checkpoints == 3)
    _, err = process.communicate(timeout=DEADLINE)  # its last act is another push
    assert process.returncode == 0
    assert "warning" not in err
    assert training.pending == Pending()
    assert training.published() == [0, 1, 2]


def test_ctrl_c_twice_leaves_the_push_to_go_on(training: Training) -> None:
    training.write("print('trained', flush=True)")
    with training.held_back():
        process = training.start()
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "trained\n"
        lines: list[str] = []
        wait_for(lambda: training.pending.records == 6)  # the end is recorded: it waits for the push
        process.send_signal(signal.SIGINT)
        while "Ctrl-C again" not in (line := process.stderr.readline()):
            assert line, f"it ended without telling how to leave it: {lines}"
            lines.append(line)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert rest == f"the push to {training.team} goes on in the background\n"
        assert training.published() == []
    wait_for(lambda: training.pending == Pending())
    assert training.published() == [0, 1, 2]


def test_ctrl_c_while_training_counts_as_the_first(training: Training) -> None:
    training.write("print('trained', flush=True)\nsignal.pause()")
    with training.held_back():
        process = training.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "trained\n"
        process.send_signal(signal.SIGINT)
        wait_for(lambda: training.pending.records == 6)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == -signal.SIGINT
        assert err.endswith(f"the push to {training.team} goes on in the background\n")
    wait_for(lambda: training.pending == Pending())


def test_a_push_that_does_not_move_keeps_no_program_from_its_end(training: Training) -> None:
    training.write("from replicate import background\nbackground._TOLD_AFTER, background._PATIENCE = 0.05, 0.2")
    with training.held_back():
        code, _, err = training.train()
        assert code == 0
        assert f"waiting for {training.team}; Ctrl-C twice leaves it to the background" in err
        assert "warning: nothing was pushed for 0 s; `replicate status` tells what is missing there" in err
        assert err.endswith(f"the push to {training.team} goes on in the background\n")
        assert err.count("warning") == 1
        assert training.published() == []
        assert f"{training.team} did not answer for 0 s" in training.replicate("status").stdout
    wait_for(lambda: training.pending == Pending())
    assert training.published() == [0, 1, 2]
    wait_for(lambda: "push fails" not in training.replicate("status").stdout)


def test_a_fork_that_lives_on_keeps_no_push_waiting(training: Training) -> None:
    training.write("if os.fork() == 0:\n    signal.pause()\n    os._exit(0)\nos.kill(os.getpid(), signal.SIGKILL)")
    process = training.start()
    assert process.wait(DEADLINE) == -signal.SIGKILL
    try:
        wait_for(lambda: training.pending == Pending())
        wait_for(lambda: not list(training.team.glob("local/tmp/*")))
        _wait_for_no_push(training)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the fork
        process.communicate()


def test_checkpoints_of_threads_and_of_forks_with_their_own_experiments_are_pushed(training: Training) -> None:
    script = """
import os, threading
import replicate

experiment = replicate.init(name="threads")
threads = [threading.Thread(target=lambda n=n: replicate.checkpoint((), step=n)) for n in range(4)]
[one.start() for one in threads]
[one.join() for one in threads]
children = []
for n in (10, 20):
    child = os.fork()
    if child == 0:
        replicate.init(name="fork")
        replicate.checkpoint((), step=n)
        raise SystemExit
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
replicate.checkpoint((), step=30)
"""
    training.write(script=script)
    code, _, err = training.train()
    assert code == 0, err
    assert training.published() == [0, 1, 2, 3, 10, 20, 30]
    assert training.pending == Pending()


def test_programs_at_the_same_time_push_everything(training: Training) -> None:
    processes = [training.start() for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, err
    assert training.published() == sorted([0, 1, 2] * 3)
    assert training.pending == Pending()


def test_files_beside_the_script_do_not_stand_in_for_modules_of_python(training: Training) -> None:
    for name in ("logging.py", "random.py", "replicate_vc.py", "json.py"):
        (training.root / name).write_text("raise RuntimeError('the wrong module')\n")
    (training.root / "main").mkdir()
    training.write()
    (training.root / "train.py").rename(training.root / "main/train.py")
    command = [sys.executable, "main/train.py"]
    done = subprocess.run(command, cwd=training.root, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert training.published() == [0, 1, 2]


def test_a_saved_command_waits_for_its_push(training: Training) -> None:
    done = training.replicate("checkpoint", "--step", "7")
    assert done.returncode == 0, done.stderr
    assert training.published() == [7]


def test_a_running_program_has_a_heartbeat_and_a_finished_one_none(training: Training) -> None:
    training.write("print('trained', flush=True)\nsys.stdin.read()")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "train.py"], cwd=training.root, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "trained\n"
    wait_for(lambda: len(list(training.team.glob("beats/*"))) == 1)
    [beat] = training.team.glob("beats/*")
    [running] = json.loads(training.replicate("ps", "-R", str(training.team), "--json").stdout)
    assert beat.name.startswith(running["id"])
    process.communicate("", timeout=DEADLINE)
    wait_for(lambda: list(training.team.glob("beats/*")) == [])
    assert training.replicate("ps", "-R", str(training.team), "--json").returncode == 1


@pytest.mark.parametrize("given", ['resume="elsewhere"', 'parent="elsewhere"'])
def test_what_is_only_in_the_repository_is_to_be_pulled_first(training: Training, given: str) -> None:
    training.write(script=f"import replicate\nreplicate.init({given})\n")
    code, _, err = training.train()
    assert code == 1
    assert "no experiment or tag is named 'elsewhere' on this machine" in err
    assert f"if it is in {training.team}, `replicate pull` it first" in err


def test_an_outage_of_another_repository_is_none(training: Training) -> None:
    folder = training.root / ".replicate/local/push"
    folder.mkdir(parents=True)
    fields = {"place": "s3://elsewhere", "since": 1, "message": "gone", "hint": "", "noted": 2}
    (folder / "outage").write_text(json.dumps(fields))
    assert read_outage(training.project) is None
    fields["place"] = str(training.team)
    (folder / "outage").write_text(json.dumps(fields))
    assert read_outage(training.project) == Outage(str(training.team), 1, "gone", noted_ns=2)
    (folder / "outage").write_text("{")
    assert read_outage(training.project) is None


def test_an_outage_that_this_program_has_not_met_is_not_told(training: Training) -> None:
    note_outage(training.project, Host(), ("cannot log in", "log in"))
    assert read_outage(training.project) is not None
    code, _, err = training.train()
    assert code == 0
    assert "not pushed" not in err
    assert training.published() == [0, 1, 2]
    assert read_outage(training.project) is None


def test_events_pass_through_a_pipe() -> None:
    reading, writing = os.pipe()
    reporter = PipeReporter(writing)
    reporter.begin("pushing", 0, 10)
    reporter.advance(1, 2, 3)
    reporter.finish()
    reporter.notice("a\nnotice")
    reporter.warn("a warning")
    os.close(writing)
    events = Events()
    with os.fdopen(reading, "rb") as file:
        for line in [*file, b"[]\n", b"{\n", b'["exit"]\n', b'["begin"]\n', b"[[]]\n"]:
            relay(line, events)
    assert (events.tasks, events.notices, events.warnings) == ([("pushing", 0, 10)], ["a\nnotice"], ["a warning"])


def test_nobody_at_the_other_end_of_the_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    reporter = PipeReporter(writing)
    for _ in range(2):
        reporter.notice("hello")
    os.close(writing)


def test_the_reporter_draws_while_the_program_ends(tmp_path: Path) -> None:
    """No thread can be started then (Python 3.12)."""
    script = (
        "import atexit, sys\n"
        "from replicate.console import ConsoleReporter\n"
        "class Terminal:\n"
        "    encoding = 'utf-8'\n"
        "    def isatty(self): return True\n"
        "    def write(self, text): return sys.stdout.write(text)\n"
        "    def flush(self): pass\n"
        "def draw():\n"
        "    reporter = ConsoleReporter(stream=Terminal(), bar_after=0)\n"
        "    reporter.begin('pushing', 0, 100)\n"
        "    reporter.advance(0, 50)\n"
        "    reporter.finish()\n"
        "atexit.register(draw)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"TERM": "xterm"}, check=True
    )
    assert "pushing  50 B of 100 B" in done.stdout
    assert done.stderr == ""


def _wait_for_no_push(training: Training) -> None:
    """Wait until no process pushes for a project."""
    wanted = [b"push", b"--background", b"-D", os.fsencode(os.path.realpath(training.root))]

    def is_over() -> bool:
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if _is_within(wanted, file.read().split(b"\0")):
                    return False
        return True

    wait_for(is_over)


def _is_within(wanted: Sequence[bytes], words: Sequence[bytes]) -> bool:
    return any(list(words[at : at + len(wanted)]) == list(wanted) for at in range(len(words)))
