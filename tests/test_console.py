"""The terminal's reporter: lines off a terminal, a bar on one, nothing that can fail."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path
from typing import IO

import pytest

from replicate.console import ConsoleReporter, LogHandler

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was written, without escape codes."""
        return ESCAPE.sub("", self.getvalue())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def save(reporter: ConsoleReporter, files: int, size: int) -> None:
    """Tell of a task that saves so many files of one size."""
    reporter.begin("saving", files, files * size)
    for _ in range(files):
        reporter.advance(1, size)
    reporter.finish()


# -- sentences


def test_notices_and_warnings_are_lines_on_the_stream() -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(stream=stream)
    reporter.notice("checkpoint saved")
    reporter.warn("something is odd")
    assert stream.getvalue() == "checkpoint saved\nwarning: something is odd\n"


def test_quiet_keeps_warnings() -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(quiet=True, stream=stream)
    reporter.notice("checkpoint saved")
    reporter.warn("something is odd")
    assert stream.getvalue() == "warning: something is odd\n"


def test_without_a_stream_the_stderr_of_the_moment_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = ConsoleReporter()
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    reporter.notice("one")
    monkeypatch.setattr(sys, "stderr", second)
    reporter.notice("two")
    assert (first.getvalue(), second.getvalue()) == ("one\n", "two\n")


def test_what_a_terminal_would_obey_is_not_written() -> None:
    stream = io.StringIO()
    ConsoleReporter(stream=stream).warn("not saved: \x1b[2J.txt\nsecond line\nhint: look\x07")
    assert stream.getvalue() == "warning: not saved: ·[2J.txt·second line\nhint: look·\n"


def test_text_that_a_stream_cannot_encode_is_escaped(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        ConsoleReporter(stream=stream).notice("step 1 · loss 0.1")
    assert (tmp_path / "log").read_text(encoding="ascii") == "step 1 \\xb7 loss 0.1\n"


# -- streams that are none


class Odd:
    """What some programs put in the place of stderr."""

    def write(self, text: str) -> int:
        return len(text)


def closed() -> IO[str]:
    """A stream that was closed."""
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Odd(), closed()], ids=["none", "odd", "closed"])
def test_no_stream_stops_a_save(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream: IO[str] | None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        reporter = ConsoleReporter(bar_after=0)
        reporter.notice("checkpoint saved")
        reporter.warn("something is odd")
        save(reporter, 3, 10)
    assert capsys.readouterr().out == ""


# -- the bar


def test_a_long_task_shows_a_bar_on_a_terminal(terminal: Terminal) -> None:
    save(ConsoleReporter(stream=terminal, bar_after=0), 4, 1_000_000)
    assert "saving  1 of 4 files, 1.0 MB of 4.0 MB ━" in terminal.text
    assert "saving  4 of 4 files, 4.0 MB of 4.0 MB ━" in terminal.text


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ("60", "saving  4.0 MB of 4.0 MB ━"),
        ("80", "saving  4 of 4 files, 4.0 MB of 4.0 MB ━"),
        ("90", "saving  4 of 4 files, 4.0 MB of 4.0 MB, 4.0 MB new ━"),
    ],
)
def test_a_bar_has_one_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: str, text: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    reporter = ConsoleReporter(stream=terminal, bar_after=0)
    reporter.begin("saving", 4, 4_000_000)
    reporter.advance(4, 4_000_000, 4_000_000)
    assert text in terminal.text
    assert "\n" not in terminal.text
    reporter.finish()


def test_of_a_single_file_only_bytes_are_counted(terminal: Terminal) -> None:
    reporter = ConsoleReporter(stream=terminal, bar_after=0)
    reporter.begin("checking out", 1, 3_000_000)
    reporter.advance(0, 1_000_000, 500_000)
    reporter.finish()
    assert "checking out  1.0 MB of 3.0 MB, 500 KB new ━" in terminal.text


def test_without_bytes_pieces_are_counted(terminal: Terminal) -> None:
    reporter = ConsoleReporter(stream=terminal, bar_after=0)
    reporter.begin("checking records", 2_000, 0)
    reporter.advance(1_500, 0)
    reporter.finish()
    assert "checking records  1,500 of 2,000 ━" in terminal.text
    assert "B/s" not in terminal.text


def test_the_bar_tells_rate_and_rest(terminal: Terminal) -> None:
    save(ConsoleReporter(stream=terminal, bar_after=0), 4, 1_000_000)
    assert re.search(r"━ +[\d.]+ [KMG]?B/s, [\d.]+ (s|min) left", terminal.text)


def test_the_bar_is_gone_in_the_end(terminal: Terminal) -> None:
    save(ConsoleReporter(stream=terminal, bar_after=0), 2, 1_000)
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K")


def test_a_sentence_is_written_above_the_bar(terminal: Terminal) -> None:
    reporter = ConsoleReporter(stream=terminal, bar_after=0)
    reporter.begin("saving", 2, 2_000)
    reporter.advance(1, 1_000)
    reporter.warn("[bold]odd[/bold] " + "x" * 200)
    reporter.finish()
    assert "warning: [bold]odd[/bold] " + "x" * 200 + "\n" in terminal.text


def test_stdout_and_stderr_stay_what_they_are(terminal: Terminal) -> None:
    out, err = sys.stdout, sys.stderr
    reporter = ConsoleReporter(stream=terminal, bar_after=0)
    reporter.begin("saving", 2, 2_000)
    reporter.advance(1, 1_000)
    assert (sys.stdout, sys.stderr) == (out, err)
    reporter.finish()


def test_a_second_task_gets_a_bar_of_its_own(terminal: Terminal) -> None:
    reporter = ConsoleReporter(stream=terminal, bar_after=0)
    save(reporter, 2, 1_000)
    save(reporter, 3, 1_000)
    assert "saving  3 of 3 files" in terminal.text


def test_a_short_task_shows_none(terminal: Terminal) -> None:
    save(ConsoleReporter(stream=terminal), 2, 1_000)
    assert terminal.getvalue() == ""


def test_a_pipe_gets_none() -> None:
    stream = io.StringIO()
    save(ConsoleReporter(stream=stream, bar_after=0), 2, 1_000)
    assert stream.getvalue() == ""


def test_quiet_gets_none(terminal: Terminal) -> None:
    save(ConsoleReporter(quiet=True, stream=terminal, bar_after=0), 2, 1_000)
    assert terminal.getvalue() == ""


def test_no_color_is_heeded(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    save(ConsoleReporter(stream=terminal, bar_after=0), 2, 1_000)
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.getvalue())


# -- what the library logs


def test_what_is_logged_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    LogHandler().handle(logging.makeLogRecord({"msg": "waiting for %s", "args": ("s3://x",)}))
    assert capsys.readouterr().err == "waiting for s3://x\n"


def test_what_is_logged_goes_above_a_bar(terminal: Terminal) -> None:
    reporter = ConsoleReporter(stream=terminal, bar_after=0.0)
    reporter.begin("saving", 2, 200)
    reporter.advance(1, 100)
    LogHandler().handle(logging.makeLogRecord({"msg": "waiting"}))
    reporter.finish()
    assert "waiting\n" in terminal.text.replace("\r", "")
    assert ConsoleReporter.with_bar is None
