"""Running commands in this process, as `replicate` does, and what they answered."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from replicate.cli import run


@dataclass(frozen=True)
class Result:
    """What a command answered: exit code, the bytes on stdout, the text on stderr."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        """Stdout as text."""
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        """The lines on stdout."""
        return self.out.splitlines()

    @property
    def rows(self) -> list[list[str]]:
        """The words of every line on stdout."""
        return [line.split() for line in self.lines]

    @property
    def json(self) -> Any:
        """The value on stdout, read as strictly as JSON is defined: without NaN and Infinity."""
        return json.loads(self.raw, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


class Shell:
    """Runs `replicate` with arguments; `fails` also checks code and whole message."""

    def __init__(self, capture: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> Result:
        """Run a command."""
        self._monkeypatch.setattr(sys, "argv", ["/usr/bin/replicate", *arguments])
        self._monkeypatch.setattr(sys, "orig_argv", ["python", "/usr/bin/replicate", *arguments])
        self._capture.readouterr()
        code = run(list(arguments))
        said = self._capture.readouterr()
        return Result(code, said.out, said.err.decode())

    def fails(self, code: int, message: str, *arguments: str) -> None:
        """Run a command that has to fail: with this exit code, this message on stderr, and nothing on stdout."""
        result = self(*arguments)
        assert (result.err, result.code, result.raw) == (message, code, b"")

    def widen(self, columns: int) -> None:
        """Make stdout a terminal of so many columns, without colours."""
        self._monkeypatch.setenv("COLUMNS", str(columns))
        self._monkeypatch.setenv("NO_COLOR", "1")
        self._monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
