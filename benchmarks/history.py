"""Workloads about what was saved: listing many experiments, comparing two large checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import data
from benchmarks.measure import Sample, run, stored
from benchmarks.results import Result, Target, ratio
from benchmarks.tools import Git, Replicate

_LS_WARM, _LS_COLD, _LOG, _SHOW = "ls, warm", "ls, cold", "log of one", "show of one"
_FOLD, _FOLDED = "fold-refs", ", folded"
_DIFF = "diff, 10 of 20,000 files"
_TOOL = "replicate"


def experiments(folder: Path, *, quick: bool) -> Result:
    """Ten thousand experiments with ten checkpoints each: what does a look cost?"""
    count, rounds = (300, 2) if quick else (10_000, 5)
    project = folder / "project"
    subprocess.run([sys.executable, "-m", "benchmarks.store", str(project), str(count), "10"], check=True)
    result = Result("experiments", f"{count:,} experiments of 10 checkpoints, {count * 13:,} records; {rounds} rounds")
    newest = json.loads(_replicate(project, "ls", "-n", "2", "--json").stdout)[
        1
    ]  # the newest is the one that was saved
    _look(result, project, newest, rounds, "")
    for _ in range(2):  # the second deletes what the first has folded
        fold = (
            "from replicate.maintenance.folding import fold; import sys, time\n"
            + _OPEN
            + _TIMED.format("fold(repository, older_than_ns=0, delete_after_ns=0)")
        )
        result.add(_FOLD, _TOOL, run([sys.executable, "-c", fold, str(project)], project), stored(project))
    _look(result, project, newest, rounds, _FOLDED)
    for state in ("", _FOLDED):
        result.targets += [
            Target(f"{operation}{state}", _seconds(result, operation + state), limit, "s")
            for operation, limit in ((_LS_WARM, 0.7), (_LS_COLD, 5.0), (_LOG, 0.3))
        ]
    peak = max(row.value("peak") or 0 for row in result.rows if row.operation.startswith("ls"))
    result.targets.append(Target("peak memory of ls", peak / 1e6, 500, "MB"))
    return result


_OPEN = (
    "from replicate.config import require_project; from replicate.host import Host; "
    "from replicate.repository import Repository; from replicate.reporting import SilentReporter\n"
    "repository = Repository(require_project(sys.argv[1]), Host(), SilentReporter())\n"
)
_TIMED = "t = time.perf_counter(); {}; print('{{\"call\": %.9f}}' % (time.perf_counter() - t))"


def _look(result: Result, project: Path, newest: dict[str, object], rounds: int, state: str) -> None:
    cache = project / ".replicate" / "local" / "cache"
    experiment, checkpoint = str(newest["id"])[:12], str(newest["latest_checkpoint"]["id"])[:12]  # type: ignore[index]
    for _ in range(rounds):
        for found in cache.rglob("refs.db"):
            found.unlink()
        result.add(_LS_COLD + state, _TOOL, _command(project, "ls"))
        result.add(_LS_WARM + state, _TOOL, _command(project, "ls"))
        result.add(_LOG + state, _TOOL, _command(project, "log", experiment))
        result.add(_SHOW + state, _TOOL, _command(project, "show", checkpoint))


def diff(folder: Path, *, quick: bool) -> Result:
    """Two checkpoints of 20,000 files that differ in ten: does a comparison read only what differs?"""
    count, rounds = (2_000, 2) if quick else (20_000, 5)
    work = folder / "work"
    data.make_files(work, count, flat=False, even=False)
    result = Result("diff", f"two checkpoints of {count:,} files in 200 folders, 10 files differ; {rounds} rounds")
    (work / "replicate.yaml").touch()  # what makes it a project for commands
    ours, git = Replicate(work), Git(work)
    ours.first()
    git.first()
    for path in sorted(work.rglob("*.txt"))[:: count // 20][:10]:
        path.write_text(path.read_text(encoding="utf-8") + "\none more line\n", encoding="utf-8")
    ours.again()
    git.commit()
    environment = {"REPLICATE_STORE": str(ours.store)}
    for _ in range(rounds):
        result.add(_DIFF, _TOOL, _command(work, "diff", "latest~1", "latest", environment=environment))
        result.add(_DIFF, git.name, git.diff())
    result.compare(result.row(_DIFF, _TOOL), result.row(_DIFF, git.name))
    result.targets.append(Target("diff, warm", _seconds(result, _DIFF), 0.5, "s"))
    return result


def _seconds(result: Result, operation: str) -> float:
    return ratio(result.row(operation, _TOOL).value("wall"), 1)


def _program() -> str:
    return shutil.which(_TOOL, path=str(Path(sys.executable).parent)) or _TOOL


def _command(project: Path, *arguments: str, environment: dict[str, str] | None = None) -> Sample:
    return run([_program(), *arguments], project, environment)


def _replicate(project: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([_program(), *arguments], cwd=project, capture_output=True, check=True)
