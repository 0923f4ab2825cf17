"""`replicate` as a process: what only shows outside of this interpreter. Few, as each takes a while."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from replicate.text import columns
from tests.builders import noise
from tests.cli.conftest import Vision
from tests.projects import SampleProject

PYTHON = [sys.executable, "-m", "replicate"]
SCRIPT = Path(sys.executable).with_name("replicate")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run `replicate` with pipes for its streams."""
    environment = {**os.environ, **given}
    return subprocess.run([*PYTHON, *arguments], capture_output=True, text=True, env=environment, check=False)


def run_in_shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `replicate` is a function."""
    script = f'replicate() {{ {sys.executable} -m replicate "$@"; }}\n{line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


def run_on_terminal(*arguments: str, width: int = 100, **given: str) -> tuple[str, int]:
    """Run `replicate` with a terminal for all of its streams; return what that shows, and the exit code."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    unwanted = ("NO_COLOR", "COLUMNS", "LINES", "TERM")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    environment |= {"TERM": "xterm-256color", **given}
    process = subprocess.Popen([*PYTHON, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(controller)
    return shown.decode().replace("\r\n", "\n"), process.wait()


# -- exit codes and streams


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("ls",), 0), (("ls", "-f", "lr > 9"), 1), (("ls", "--nope"), 2), (("show", "nothing"), 3), ((), 0)],
)
def test_the_exit_code_is_that_of_the_command(vision: Vision, arguments: tuple[str, ...], code: int) -> None:
    assert run(*arguments).returncode == code


def test_the_installed_script_does_the_same(vision: Vision) -> None:
    if not SCRIPT.exists():
        pytest.skip(f"{SCRIPT} is not installed")
    found = subprocess.run([SCRIPT, "ls", "-q"], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr, found.returncode) == (run("ls", "-q").stdout, "", 0)


def test_a_pipe_gets_no_escape_codes(vision: Vision) -> None:
    for arguments in (("ls",), ("log", "warmup"), ("show", "warmup"), ("status",)):
        result = run(*arguments)
        assert "\x1b" not in result.stdout + result.stderr


def test_a_reader_that_goes_away_is_no_error(vision: Vision) -> None:
    result = run_in_shell("replicate log | head -0; echo ${PIPESTATUS[0]}; replicate ls --json | head -1")
    assert (result.stdout, result.stderr) == ("141\n[\n", "")


def test_a_file_may_be_read_in_part(project: SampleProject) -> None:
    project.write("big.bin", noise(3_000_000))
    project.begin({}, name="big").end("finished")
    result = run_in_shell("replicate show big@start:big.bin | head -c 10 | wc -c; echo ${PIPESTATUS[0]}")
    assert (result.stdout.split(), result.stderr) == (["10", "141"], "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_told(vision: Vision) -> None:
    result = run_in_shell("replicate ls -q > /dev/full")
    assert (result.stderr, result.returncode) == ("error: cannot write the output: No space left on device\n", 6)


def test_closed_streams_are_no_error(vision: Vision) -> None:
    result = run_in_shell("replicate checkpoint --json 2>&-")
    assert json.loads(result.stdout)["step"] == 11  # and not a word of what is for stderr
    assert result.returncode == 0
    assert run_in_shell("replicate checkpoint --step 12 >&- 2>&- <&-").returncode == 0
    assert run_in_shell("replicate show nothing 2>&-").returncode == 3
    assert [one["step"] for one in json.loads(run("log", "warmup", "--json").stdout)] == [12, 11, 10]


def test_text_that_the_streams_cannot_encode_is_escaped(project: SampleProject) -> None:
    project.begin({"note": "größe 余弦"}, name="ünï").end("finished")
    for encoding in ("latin-1", "cp1252"):
        result = subprocess.run(
            [*PYTHON, "ls"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False
        )
        assert "größe \\u4f59\\u5f26".encode(encoding) in result.stdout
        assert result.returncode == 0


# -- a terminal


def test_a_terminal_gets_colours(vision: Vision) -> None:
    shown, code = run_on_terminal("ls")
    assert f"\x1b[33m{vision.warmup.short}\x1b[0m" in shown
    assert "\x1b[31mfailed\x1b[0m" in shown
    assert code == 0


def test_no_color_means_none(vision: Vision) -> None:
    for arguments in (("ls",), ("log", "warmup"), ("show", "warmup")):
        shown, _ = run_on_terminal(*arguments, NO_COLOR="1")
        assert "\x1b" not in shown


@pytest.mark.parametrize("width", [60, 100])
def test_lists_fit_the_terminal(project: SampleProject, width: int) -> None:
    params = {f"param{number}": "value" for number in range(20)}
    session = project.begin(params, name="wide")
    project.save(session, step=0, metrics={f"metric{number}": number / 3 for number in range(20)})
    session.end("failed", ValueError("very " * 50))
    for arguments in (("ls",), ("log",), ("log", "wide")):
        shown, _ = run_on_terminal(*arguments, width=width)
        lines = ESCAPE.sub("", shown).splitlines()
        assert max(columns(line) for line in lines if "no room for" not in line) <= width


# -- signals


def interrupt_while_saving(arguments: Sequence[str]) -> tuple[str, int]:
    """Save a file that is never written to its end, and send the process a SIGINT meanwhile."""
    code = (
        "import sys, os, signal; from replicate.saving import Save; from replicate.__main__ import main\n"
        "Save._store_items = lambda save, listings: os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.argv = ['replicate', *{list(arguments)!r}]; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return result.stderr, result.returncode


def test_an_interrupt_exits_with_130_and_leaves_nothing_half(vision: Vision) -> None:
    told, code = interrupt_while_saving(["checkpoint", "-q", "-m", "loss=1"])
    assert (told.strip(), code) == ("error: interrupted", 130)
    (warmup, _) = json.loads(run("ls", "--json").stdout)
    assert (warmup["num_checkpoints"], warmup["status"], warmup["running"]) == (1, "stopped", False)


def test_a_killed_save_leaves_the_experiment_stopped(vision: Vision) -> None:
    code = (
        "import sys, os, signal; from replicate.saving import Save; from replicate.__main__ import main\n"
        "Save._store_items = lambda save, listings: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.argv = ['replicate', 'checkpoint']; main()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (warmup, _) = json.loads(run("ls", "--json").stdout)
    assert (warmup["num_checkpoints"], warmup["status"], warmup["running"]) == (1, "stopped", False)
    assert run("checkpoint", "-q").returncode == 0


# -- what it costs


def modules_after(code: str) -> set[str]:
    """Return what an interpreter has loaded after running some code."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


def test_importing_replicate_loads_nothing_slow() -> None:
    loaded = modules_after("import replicate; dir(replicate); replicate.init; replicate.checkpoint")
    slow = {"click", "fsspec", "rich", "numpy", "yaml", "asyncio", "zstandard", "sqlite3", "msgpack", "blake3"}
    assert not loaded & slow
    assert {name for name in loaded if name.startswith("replicate")} == {"replicate"}


def test_version_is_told_without_loading_click() -> None:
    code = "import sys; sys.argv = ['replicate', '--version']; from replicate.__main__ import main; main()"
    assert not modules_after(code) & {"click", "yaml", "rich", "replicate.cli"}
    result = run("--version")
    assert (result.stdout, result.stderr, result.returncode) == ("replicate 0.1.0\n", "", 0)
    assert run("-D", ".", "--version").stdout == "replicate 0.1.0\n"


def test_listing_loads_nothing_that_it_does_not_need(vision: Vision) -> None:
    loaded = modules_after("from replicate.cli import run; run(['ls', '-q'])")
    assert not loaded & {"rich", "numpy", "asyncio", "fsspec", "pathspec"}
