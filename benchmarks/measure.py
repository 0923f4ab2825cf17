"""Running one command and measuring it; what a folder takes on disk; what machine this is."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import blake3
import zstandard

import replicate

_SETTLING_SECONDS = 3.0
_TOUCHED_PART = 2.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured operation.

    Attributes:
        call: Seconds inside the API call that it is about, None for other tools.
        wall, cpu: Seconds of the whole process with its children; None where it did more than the operation.
        peak: The largest resident memory in bytes of the process, or of its largest child; None where it is less than
            the harness's own, as Linux counts what a process was forked from.
    """

    call: float | None
    wall: float | None
    cpu: float | None
    peak: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store takes: allocated bytes, folders included, as `du` counts them; and its files."""

    allocated: int
    files: int


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, *, whole: bool = True
) -> Sample:
    """Run a command to its end in a fresh process; a `{"call": seconds}` that it prints is taken over.

    Args:
        command: What to run.
        cwd: Where.
        environment: Added to this process's.
        whole: Whether the process did nothing but what is measured.

    Raises:
        RuntimeError: It failed; with what it wrote to stderr.
    """
    os.sync()  # what the command before left to be written must not slow this one down
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        inherited = environment_of_programs()
        process = subprocess.Popen(command, cwd=cwd, env=inherited | dict(environment or {}), stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{err.read().decode()}")
        printed = out.read()
    call = float(json.loads(printed)["call"]) if printed.startswith(b"{") else None
    peak = usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    is_own = usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = usage.ru_utime + usage.ru_stime
    return Sample(call, wall if whole else None, cpu if whole else None, peak if is_own else None)


def environment_of_programs() -> dict[str, str]:
    """Return this process's environment, in which programs keep their compiled bytecode, as installed ones do."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def warm_memory(size: int) -> None:
    """Have so much memory ready for the next process: wait, then touch and free more than that, in another one.

    In a virtual machine, memory that nobody used for some seconds may go back to the host, and comes back at 0.5 GB/s:
    ten times slower than a copy. Whoever fills the page cache next would pay for that. What the process before freed
    goes back some two seconds later, together with what is free then: hence the wait. And a kernel hands out other free
    pages before those that were freed last: hence more.
    """
    os.sync()  # now, not in `run`: that could take long enough for the memory to go again
    time.sleep(_SETTLING_SECONDS)
    touched = int(_TOUCHED_PART * size)
    subprocess.run([sys.executable, "-c", "import sys; b'x' * int(sys.argv[1])", str(touched)], check=True)


def stored(folder: Path) -> Stored:
    """Measure a folder on disk."""
    os.sync()  # blocks are allocated when they are written
    allocated = folder.stat().st_blocks * 512
    files = 0
    seen: set[int] = set()
    for parent, folders, names in os.walk(folder):
        files += len(names)
        for name in (*folders, *names):
            info = os.lstat(os.path.join(parent, name))
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                allocated += info.st_blocks * 512
    return Stored(allocated, files)


def machine(folder: Path) -> dict[str, str]:
    """Describe what the figures were measured on; `folder` lies on the disk that is written."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        cpu = cpu.partition(":")[2].strip()
    except (OSError, StopIteration):
        cpu = platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} × {cpu}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": (_output("df", "--output=fstype", str(folder)).split() or ["unknown"])[-1],
        "python": platform.python_version(),
        "replicate": replicate.__version__,
        "blake3": blake3.__version__,
        "zstandard": zstandard.__version__,
        "git": _output("git", "--version").removeprefix("git version "),
        "page cache": "warm",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _output(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "unknown"
