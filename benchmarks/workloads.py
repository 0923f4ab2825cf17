"""The workloads. Tools take turns in every round, in another order each time; figures are medians over the rounds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks import data, history
from benchmarks.measure import Sample, run, warm_memory
from benchmarks.results import Result, Target, ratio
from benchmarks.tools import Copy, Git, Replicate, Tool

MIB = 1 << 20
MEMORY_LIMIT_MB = 300.0
FIRST, SAME, NEW = "first save", "no change, same process", "no change, new process"
CHANGED_SAME, CHANGED_NEW = "one change, same process", "one change, new process"
STATUS, COMMIT, PACKED = "status", "one change: add + commit", "gc afterwards"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for: small and few rounds, or the real thing; one folder or many; which sizes."""

    quick: bool = False
    flat: bool = False
    even: bool = False


def files(folder: Path, options: Options) -> Result:
    """Many small files: what does each file cost?"""
    count, rounds = (2_000, 2) if options.quick else (20_000, 5)
    work = folder / "work"
    edited = data.make_files(work, count, flat=options.flat, even=options.even)
    where = "one folder" if options.flat else "200 folders"
    sizes = "evenly spread sizes" if options.even else "small ones more frequent"
    about = f"{count:,} files of 200 B to 8 KB ({sizes}) in {where}, half text, half noise; {rounds} rounds"
    result = Result("files", about)
    git = _saves(result, work, edited, rounds, git_rounds=rounds, writes=512 * MIB)
    result.add(PACKED, git.name, git.gc(), git.stored())
    mine, theirs, copy = result.row(FIRST, "replicate"), result.row(FIRST, "git"), result.row(FIRST, Copy.name)
    status = result.row(STATUS, "git")
    for other in (theirs, copy):
        result.compare(mine, other)
    for operation in (SAME, NEW):
        result.compare(result.row(operation, "replicate"), status)
    for operation in (CHANGED_SAME, CHANGED_NEW):
        result.compare(result.row(operation, "replicate"), result.row(COMMIT, "git"))
    result.targets += [
        Target(
            "first save: init() to git init + add + commit", ratio(mine.value("call"), theirs.value("wall")), 0.8, "x"
        ),
        *(
            Target(
                f"{operation}: checkpoint() to git status",
                ratio(result.row(operation, "replicate").value("call"), status.value("wall")),
                4.0,
                "x",
            )
            for operation in (SAME, NEW)
        ),
        Target(
            "stored after the first save, to git", ratio(mine.value("allocated"), theirs.value("allocated")), 0.5, "x"
        ),
    ]
    return result


def large(folder: Path, options: Options) -> Result:
    """A gigabyte that does not compress: how far from the disk's own speed?"""
    total, rounds = (64 * MIB, 2) if options.quick else (1024 * MIB, 5)
    work = folder / "work"
    edited = data.make_large(work, 10, total // 10)
    result = Result(
        "large", f"{total // MIB:,} MiB of noise in 10 files, one of them rewritten; {rounds} rounds, git 1 round"
    )
    _saves(result, work, edited, rounds, git_rounds=1, writes=4 * total)
    mine, copy = result.row(FIRST, "replicate"), result.row(FIRST, Copy.name)
    for other in (copy, result.row(FIRST, "git")):
        result.compare(mine, other)
    result.compare(result.row(NEW, "replicate"), result.row(STATUS, "git"))
    result.compare(result.row(CHANGED_NEW, "replicate"), result.row(COMMIT, "git"))
    result.targets += [
        Target("first save: init() to cp -r + sync", ratio(mine.value("call"), copy.value("wall")), 1.5, "x"),
        _memory_target(result),
    ]
    return result


def memory(folder: Path, options: Options) -> Result:
    """One file larger than memory should have to be."""
    size = (256 if options.quick else 6 * 1024) * MIB
    work = folder / "work"
    data.make_large(work, 1, size)
    result = Result("memory", f"one file of {size // MIB:,} MiB of noise; 1 round")
    tool = Replicate(work)
    result.add(FIRST, tool.name, tool.first(), tool.stored())
    result.targets.append(_memory_target(result))
    return result


def startup(folder: Path, options: Options) -> Result:
    """What a script and a command pay before they do anything."""
    rounds = 15 if options.quick else 31
    timed = "import time; t = time.perf_counter(); import {}; print('{{\"call\": %.9f}}' % (time.perf_counter() - t))"
    python = sys.executable
    commands = {
        "python": ("bare", [python, "-c", "pass"]),
        "import": ("import replicate", [python, "-c", timed.format("replicate")]),
        "api": (
            "import what init() needs",
            [python, "-c", timed.format("replicate.recording, replicate.console")],
        ),
        "version": ("replicate --version", [str(Path(python).parent / "replicate"), "--version"]),
    }
    result = Result("startup", f"{rounds} rounds")
    for number in range(rounds):
        for operation, command in _rotated(list(commands.values()), number):
            result.add(operation, "python", run(command, folder))
    result.rows.sort(key=lambda row: [name for name, _ in commands.values()].index(row.operation))
    bare, imported, version = (result.row(commands[key][0], "python") for key in ("python", "import", "version"))
    result.compare(version, bare)
    bare_ms, version_ms = (1000 * ratio(row.value("wall"), 1) for row in (bare, version))
    result.targets += [
        Target("import replicate", 1000 * ratio(imported.value("call"), 1), 60, "ms"),
        Target("replicate --version; 2.5 x bare python + 50 ms", version_ms, 2.5 * bare_ms + 50, "ms"),
    ]
    return result


WORKLOADS: dict[str, Callable[[Path, Options], Result]] = {
    "files": files,
    "large": large,
    "startup": startup,
    "experiments": lambda folder, options: history.experiments(folder, quick=options.quick),
    "diff": lambda folder, options: history.diff(folder, quick=options.quick),
    "memory": memory,
}


def _saves(result: Result, work: Path, edited: Path, rounds: int, *, git_rounds: int, writes: int) -> Git:
    """Save, save again without a change, change one file, save: with replicate and git; once with cp.

    `writes` is how much memory an operation may take up, page cache included. Returns git, after its last commit.
    """
    ours, git, copy = Replicate(work), Git(work), Copy(work)
    for number in range(rounds):
        with_git = number < git_rounds
        tools: list[Tool] = [ours, git, copy] if with_git else [ours, copy]
        for tool in _rotated(tools, number):
            tool.renew()
            warm_memory(writes)
            result.add(FIRST, tool.name, tool.first(), tool.stored())
        _turns(
            result,
            number,
            writes,
            [
                (SAME, ours.name, ours.again_in_process),
                (NEW, ours.name, ours.again),
                *([(STATUS, git.name, git.status)] if with_git else []),
            ],
        )
        _turns(result, number, writes, [(CHANGED_SAME, ours.name, lambda: ours.again_in_process(edited))])
        data.rewrite(edited)
        commit = [(COMMIT, git.name, git.commit)] if with_git else []
        _turns(result, number, writes, [(CHANGED_NEW, ours.name, ours.again), *commit])
    return git


def _turns(
    result: Result, number: int, writes: int, operations: Sequence[tuple[str, str, Callable[[], Sample]]]
) -> None:
    for operation, tool, measure in _rotated(operations, number):
        warm_memory(writes)
        result.add(operation, tool, measure())


def _rotated(items: Sequence[_T], number: int) -> list[_T]:
    start = number % len(items)
    return [*items[start:], *items[:start]]


def _memory_target(result: Result) -> Target:
    peaks = [row.value("peak") or 0 for row in result.rows if row.tool == "replicate"]
    return Target("peak memory of replicate, all operations", max(peaks) / 1e6, MEMORY_LIMIT_MB, "MB")
