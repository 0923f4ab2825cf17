"""What the library needs of the machine it runs on, passed in so that tests can choose it. Floor 0."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field


def _boot_id() -> str:
    """Return what names this boot of the machine, or "" where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _cpu_count() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


@dataclass(frozen=True)
class Host:
    """Clock (ns since 1970), randomness and facts of one machine."""

    now_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[int], bytes] = os.urandom
    boot_id: str = field(default_factory=_boot_id)
    name: str = field(default_factory=socket.gethostname)
    cpu_count: int = field(default_factory=_cpu_count)
