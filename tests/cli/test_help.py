"""`replicate --help`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from replicate.cli import PLUMBING, PORCELAIN, cli


@pytest.mark.parametrize("name", [*PORCELAIN, *PLUMBING])
def test_a_command_is_listed_with_the_first_line_of_its_help(name: str) -> None:
    command = cli.get_command(cli.make_context("replicate", [name]), name)
    assert command is not None
    assert command.help is not None
    assert (PORCELAIN | PLUMBING)[name] == command.help.splitlines()[0]


def test_help_loads_no_command() -> None:
    code = "import sys; from replicate.cli import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert "replicate.cli" in loaded
    assert not [name for name in loaded if name.startswith("replicate.cli.") or name in ("rich", "numpy", "yaml")]
