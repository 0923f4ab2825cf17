"""How each tool saves one worktree. Every store lies next to the worktree, which all tools share."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import Sample, Stored, run, stored

_HERE = Path(__file__).resolve().parent.parent


class Tool:
    """One store after another for one worktree.

    `renew()` leaves the store of the round before where it is until the end: ext4 without a journal is several times
    slower to create files for a minute after as many were deleted, which would be held against who creates them.
    """

    name: str

    def __init__(self, worktree: Path) -> None:
        self._worktree = worktree
        self._round = 0

    @property
    def store(self) -> Path:
        return self._worktree.parent / f"{type(self).__name__.lower()}-store{self._round}"

    def renew(self) -> None:
        """Begin with a new store."""
        self._round += 1

    def stored(self) -> Stored:
        return stored(self.store)

    def first(self) -> Sample:
        """Save the worktree for the first time."""
        raise NotImplementedError


class Replicate(Tool):
    """The library, through its API, with the durability that it has by default: every save is synced."""

    name = "replicate"

    def first(self) -> Sample:
        """Time `init()` with a new store."""
        return self._run("first")

    def again(self) -> Sample:
        """Time `checkpoint()` in a process that has just called `init(resume=True)`."""
        return self._run("new")

    def again_in_process(self, edited: Path | None = None) -> Sample:
        """Time the second `checkpoint()` of a process; `edited` is rewritten before it."""
        return self._run("same", *([str(edited)] if edited else []), whole=False)

    def _run(self, operation: str, *more: str, whole: bool = True) -> Sample:
        command = [sys.executable, "-m", "benchmarks.child", operation, str(self._worktree), *more]
        environment = {"REPLICATE_STORE": str(self.store), "PYTHONPATH": str(_HERE)}
        return run(command, self._worktree, environment, whole=whole)


class Git(Tool):
    """git as it comes, but for `gc.auto=0`.

    By default the first commit of many files starts a `git gc` that goes on in the background, into what is measured
    next. Here it does not; `gc()` does that work where it can be seen.
    """

    name = "git"

    def __init__(self, worktree: Path) -> None:
        super().__init__(worktree)
        self._environment = {
            "GIT_WORK_TREE": str(worktree),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "gc.auto",
            "GIT_CONFIG_VALUE_0": "0",
            **{
                f"GIT_{who}_{what}": "bench@example.org"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        }

    def first(self) -> Sample:
        return self._run("git init -q && git add -A && git commit -q -m first")

    def status(self) -> Sample:
        return self._run("git status --short")

    def commit(self) -> Sample:
        return self._run("git add -A && git commit -q -m change")

    def diff(self) -> Sample:
        return self._run("git diff HEAD~1 HEAD")

    def gc(self) -> Sample:
        return self._run("git gc -q")

    def _run(self, script: str) -> Sample:
        return run(["sh", "-c", script], self._worktree, {"GIT_DIR": str(self.store), **self._environment})


class Copy(Tool):
    """`cp -r`, and the sync without which a copy is not on the disk yet."""

    name = "cp -r + sync"

    def first(self) -> Sample:
        return run(
            ["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"', str(self._worktree), str(self.store)], self._worktree
        )
