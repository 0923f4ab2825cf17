"""The machine: processor, memory, GPUs. Nothing is installed for it, and what cannot be found out is left out."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from replicate.capture.background import Background

_MAX_GPUS = 32
_NVIDIA_BYTES = 64 << 10
_MODEL = re.compile(r"^(?:model name|Model|cpu model|Processor|uarch)\s*:\s*(.+)$", re.MULTILINE)
_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_GPU_FILES = "/proc/driver/nvidia/gpus/*/information"
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_facts(usable: int) -> dict[str, Any]:
    """Return platform, processor and memory in bytes; `usable` is how many processors this process may use."""
    facts: dict[str, Any] = {
        "platform": _platform(),
        "machine": os.uname().machine,
        "cpu": {"model": cpu_model(), "count": os.cpu_count() or 1, "usable": usable},
    }
    memory = _memory()
    if memory:
        facts["memory"] = memory
    limit = _memory_limit()
    if limit is not None and limit < memory:
        facts["memory_limit"] = limit
    return facts


def _platform() -> str:
    if sys.platform != "linux":
        return platform.platform()
    libc = "".join(platform.libc_ver())  # platform.platform() would start another program
    return f"Linux-{os.uname().release}-{os.uname().machine}" + (f"-with-{libc}" if libc else "")


def cpu_model(path: str = "/proc/cpuinfo") -> str:
    """Return what the processor is called. Only the first of many is read: the whole list takes long to make."""
    text = _start_of(path)
    found = _MODEL.search(text)
    if found:
        return " ".join(found[1].split())[:100]
    return (os.uname().machine if sys.platform == "linux" else platform.processor() or os.uname().machine)[:100]


def _start_of(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(4096) or b"").decode("utf-8", "replace")
    except OSError:
        return ""


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _memory_limit() -> int | None:
    for path in _CGROUP_LIMITS:
        text = _start_of(path).strip()
        if text.isdecimal():
            return int(text)
    return None


class Gpus:
    """The NVIDIA GPUs of the machine, asked for beside what we do."""

    def __init__(self, program: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        program = program or shutil.which("nvidia-smi")
        self._query = Background([program, *_QUERY], environment) if program else None

    def collect(self, remaining: Callable[[], float], files: str = "") -> list[dict[str, Any]]:
        """Return name, memory in bytes and driver of every GPU; only names where the driver's program does not tell."""
        answer = self._query.read(_NVIDIA_BYTES, remaining) if self._query else None
        found = _parse(answer.data.decode("utf-8", "replace")) if answer and answer.is_whole else []
        return found[:_MAX_GPUS] or [{"name": name} for name in _names(files or _GPU_FILES)][:_MAX_GPUS]

    def kill(self) -> None:
        """Do not wait for the answer."""
        if self._query:
            self._query.kill()


def _parse(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        name, *rest = (part.strip() for part in line.split(","))
        if len(rest) != 2 or not name:
            return []
        gpu: dict[str, Any] = {"name": name[:100]}
        if rest[0].isdecimal():
            gpu["memory"] = int(rest[0]) << 20
        found.append(gpu | {"driver": rest[1][:40]})
    return found


def _names(files: str) -> list[str]:
    texts = [_start_of(path) for path in sorted(glob.glob(files))]
    return [" ".join(found[1].split())[:100] for text in texts if (found := _MODEL.search(text))]
