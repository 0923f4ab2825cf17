"""What every test has: an environment that is not the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_caches = tempfile.mkdtemp(prefix="replicate-caches-")
os.environ["XDG_CACHE_HOME"] = _caches  # and of every process that is started: nothing goes to the user's own
atexit.register(shutil.rmtree, _caches, ignore_errors=True)
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the variables that change what `replicate` does, for this process and those that it starts."""
    for name in list(os.environ):
        if name.startswith("REPLICATE_") or name in _OF_RANKS:
            monkeypatch.delenv(name)


class _Audit:
    """Tells one listener what the interpreter is about to do. A hook cannot be removed: there is one for all tests."""

    def __init__(self) -> None:
        self.listener: Callable[[str, str], None] | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.listener is not None and event in ("open", "os.scandir") and isinstance(arguments[0], str | bytes):
            self.listener(event, os.fsdecode(arguments[0]))


_audit = _Audit()
sys.addaudithook(_audit)

Watch = Callable[[Callable[[str, str], None]], None]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Call a function with every `open` and `os.scandir`, and its path, right before it happens; threads too."""

    def begin(listener: Callable[[str, str], None]) -> None:
        def listen(event: str, path: str) -> None:
            _audit.listener = None  # what the listener does is not listened to
            listener(event, path)
            _audit.listener = listen

        _audit.listener = listen

    yield begin
    _audit.listener = None


@pytest.fixture
def opened(tmp_path: Path, watch: Watch) -> list[str]:
    """The files below `tmp_path` that were opened since the test began or cleared the list, but those of a store."""
    found: list[str] = []

    def listen(event: str, path: str) -> None:
        if event == "open" and path.startswith(f"{tmp_path}{os.sep}") and "/.replicate" not in path:
            found.append(path)

    watch(listen)
    return found
