"""How a process ends: exceptions and `sys.exit`, and that nothing else changes by our watching."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path

import pytest

from replicate.collection import ExperimentCollection
from replicate.ending import Ending, Interrupts, exit_code
from tests.projects import run_script

BEGIN = "import os, sys, signal\nimport replicate\nexperiment = replicate.init()\n"


@pytest.mark.parametrize(
    ("rest", "status", "code"),
    [
        ("", "finished", 0),
        ("sys.exit()", "finished", 0),
        ("sys.exit(3)", "failed", 3),
        ("sys.exit(-1)", "failed", 255),
        ("sys.exit('no data')", "failed", 1),
        ("def main():\n    return 4\nsys.exit(main())", "failed", 4),
        ("raise ValueError", "failed", 1),
        ("raise KeyboardInterrupt", "stopped", 130),
        ("raise SystemExit(3)", "finished", None),
        ("experiment.stop()", "finished", None),
        ("with experiment: pass", "finished", None),
        ("with experiment: sys.exit(3)", "failed", 3),
        ("with experiment: sys.exit()", "finished", 0),
        ("with experiment: raise ValueError", "failed", None),
        ("try:\n    sys.exit(3)\nfinally:\n    pass", "failed", 3),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass", "finished", 0),
    ],
)
def test_the_exit_code_is_recorded_where_it_is_known(tmp_path: Path, rest: str, status: str, code: int | None) -> None:
    run_script(tmp_path, BEGIN + rest + "\n")
    (experiment,) = ExperimentCollection(tmp_path).list()
    (end,) = experiment._history.ends.values()
    assert (experiment.status, end.status, end.exit_code) == (status, status, code)


def test_ctrl_c_does_not_keep_the_end_from_being_recorded(tmp_path: Path) -> None:
    press = (
        "from replicate.refs import RefStore\n"
        "publish = RefStore.publish\n"
        "def press(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return publish(*arguments)\n"
        "RefStore.publish = press\n"
    )
    run = run_script(tmp_path, BEGIN + press)
    assert run.returncode == 0
    assert "KeyboardInterrupt" not in run.stderr
    (experiment,) = ExperimentCollection(tmp_path).list()
    assert experiment.status == "finished"


def test_a_handler_of_the_program_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with interrupts.counted():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with interrupts.counted():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with interrupts.counted():
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 1
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_failure_keeps_its_traceback(tmp_path: Path) -> None:
    run_script(tmp_path, BEGIN + "def work():\n    raise ValueError('no data')\n\nwork()\n")
    (experiment,) = ExperimentCollection(tmp_path).list()
    (end,) = experiment._history.ends.values()
    assert end.exception is not None
    lines = end.exception["traceback"].splitlines()
    assert [line for line in lines if line.strip(" ~^")] == [  # Python 3.13 marks what it was at
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/train.py", line 7, in <module>',
        "    work()",
        f'  File "{tmp_path}/train.py", line 5, in work',
        "    raise ValueError('no data')",
        "ValueError: no data",
    ]


def test_what_wrapped_exit_before_us_is_called(tmp_path: Path) -> None:
    before = "import sys\ndef leave(code):\n    print('leaving', code)\n    raise SystemExit(code)\nsys.exit = leave\n"
    ended = run_script(tmp_path, before + BEGIN + "sys.exit(5)\n")
    assert (ended.stdout, ended.returncode) == ("leaving 5\n", 5)
    (experiment,) = ExperimentCollection(tmp_path).list()
    assert experiment.exception == "SystemExit: 5"


def test_exit_is_what_it_was_to_who_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "exit", sys.exit)
    ending = Ending()
    ending.watch()
    wrapped = sys.exit
    ending.watch()
    assert sys.exit is wrapped
    assert pickle.loads(pickle.dumps(sys.exit)) is sys.exit
    assert sys.exit.__name__ == "exit"
    with pytest.raises(SystemExit) as raised:
        sys.exit(3)
    assert raised.value.code == 3


@pytest.mark.parametrize(("code", "number"), [(None, 0), (0, 0), (3, 3), (256, 0), (-1, 255), ("text", 1), (True, 1)])
def test_the_code_that_a_process_ends_with(code: int | str | None, number: int) -> None:
    assert exit_code(SystemExit(code)) == number
