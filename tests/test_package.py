"""The package itself: what it offers, and what it costs to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import replicate
from tests.projects import run_script

HEAVY = ("numpy", "torch", "rich", "click", "yaml", "fsspec", "pathspec", "sqlite3", "asyncio", "blake3", "zstandard")


def imported_by(script: str, folder: Path) -> set[str]:
    """Return which heavy packages a script leaves imported."""
    tail = "\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))\n"
    ended = run_script(folder, script + tail)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1])) & set(HEAVY)


def test_importing_it_imports_nothing_heavy(tmp_path: Path) -> None:
    assert imported_by("import replicate", tmp_path) == set()


def test_saving_imports_only_what_it_needs(tmp_path: Path) -> None:
    script = "import replicate\nreplicate.init(quiet=True)\nreplicate.checkpoint(metrics={'loss': 1.0})"
    assert imported_by(script, tmp_path) == {"sqlite3", "blake3", "zstandard"}


def test_every_public_name_is_there_and_documented() -> None:
    assert dir(replicate) == sorted(replicate.__all__)
    for name in replicate.__all__:
        found = getattr(replicate, name)
        if name not in ("__version__",):
            assert (found.__doc__ or "").strip(), name


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'replicate' has no attribute 'nothing'"):
        replicate.nothing  # noqa: B018


def test_no_module_is_called_like_a_public_function() -> None:
    modules = {path.stem for path in Path(replicate.__file__).parent.iterdir()}
    assert not modules & {"init", "checkpoint", "experiments"}


def test_it_is_typed() -> None:
    assert (Path(replicate.__file__).parent / "py.typed").exists()


def test_it_is_a_command_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "replicate", "--version"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert replicate.__version__ in ended.stdout
