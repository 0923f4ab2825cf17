"""What every test has: an environment that is not the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the variables that change what `replicate` does, for this process and those that it starts."""
    for name in list(os.environ):
        if name.startswith("REPLICATE_") or name in _OF_RANKS:
            monkeypatch.delenv(name)


class _Openings:
    """Which files this process opens, told by the interpreter itself; listed while somebody listens."""

    def __init__(self) -> None:
        self.listener: list[str] | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.listener is not None and isinstance(arguments[0], str | bytes):
            self.listener.append(os.fsdecode(arguments[0]))


_openings = _Openings()
sys.addaudithook(_openings)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[str]]:
    """The files below `tmp_path` that were opened since the test began or cleared the list, but those of a store."""
    found = _Opened(f"{tmp_path}{os.sep}")
    _openings.listener = found
    yield found
    _openings.listener = None


class _Opened(list[str]):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def append(self, path: str) -> None:
        if path.startswith(self._prefix) and "/.replicate" not in path:
            super().append(path)
