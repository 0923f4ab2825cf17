"""What is recorded of a process: command, Git state, machine, Python, packages. Floor 7. SPEC §9.2 (`s`).

Never the environment, no credentials, and nothing that may hold secrets. What is not there (`git`, a GPU) is left out.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass, field
from typing import Any

from replicate import config
from replicate.capture.command import command_line, current_folder, find_notebook, storable
from replicate.capture.failure import describe
from replicate.capture.git import TIMEOUT_S, Git, find_worktree
from replicate.capture.machine import Gpus, machine_facts
from replicate.capture.packages import distributions, imported, installed_packages
from replicate.host import Host

__all__ = ["Capture", "capture", "command_line", "describe", "installed_packages", "storable"]

_MAX_COMMAND_BYTES = 3_500
_MAX_PATH_BYTES = 700
_MAX_NAME_BYTES = 255
_MAX_GPUS = 16
_GPU_TIMEOUT_S = 2  # a driver that has to wake up first takes longer; then there are names only


@dataclass(slots=True)
class Capture:
    """The facts of one process. Session: `ask` when it begins, `finish` before they are stored, `close` at the end.

    Attributes:
        summary: What goes into the session record, less than 8 KiB.
        files: What goes into the tree `environment`: name → content. Equal for equal code, machine and packages.
        command: How the process was started, without secrets.
        author: `user@host`.
        machine: What is known of the machine.
        root: The project's folder; None asks no other program.
    """

    summary: dict[str, Any]
    files: dict[bytes, bytes]
    command: str
    author: str
    machine: dict[str, Any] = field(default_factory=dict)
    root: str | None = None
    _git: Git | None = field(default=None, repr=False)
    _gpus: Gpus | None = field(default=None, repr=False)

    def ask(self) -> None:
        """Start the programs that know more, `git` and `nvidia-smi`, where there is something to ask for."""
        if self.root is None:
            return
        worktree = find_worktree(self.root)
        self._git = Git(self.root, worktree) if worktree else None
        self._gpus = Gpus()

    def finish(self, host: Host, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
        """Add what these programs answer in `timeout_s` seconds in all; return what the user should be told of it."""
        git, gpus, self._git, self._gpus = self._git, self._gpus, None, None
        begun = host.monotonic_ns()

        def remaining(seconds: float = timeout_s) -> float:
            return seconds - (host.monotonic_ns() - begun) / 1e9

        notices: tuple[str, ...] = ()
        if git is not None:
            facts = git.collect(remaining)
            notices = facts.notices
            if facts.summary:
                self.summary["git"] = facts.summary
            if facts.patch:
                self.files[b"git.patch"] = facts.patch
        if gpus is not None:
            found = gpus.collect(lambda: remaining(min(timeout_s, _GPU_TIMEOUT_S)))
            if found:
                self.summary["gpus"] = [
                    {key: gpu[key] for key in ("name", "memory") if key in gpu} for gpu in found[:_MAX_GPUS]
                ]
                self.files[b"machine.json"] = _json(self.machine | {"gpus": found})
        return notices

    def close(self) -> None:
        """Let go of programs that nobody waits for any more."""
        for one in (self._git, self._gpus):
            if one is not None:
                one.kill()
        self._git = self._gpus = None


def capture(host: Host, root: str) -> Capture:
    """Record the facts of this process; `root` is the project's folder. Takes some ms, mostly for the packages."""
    user, cwd = storable(config.user()), current_folder()
    notebook = find_notebook(config.notebook_path())
    command = command_line(sys.argv, getattr(sys, "orig_argv", []), root, cwd, notebook)
    machine = machine_facts(host.cpu_count)
    summary: dict[str, Any] = {
        "user": _cut(user, _MAX_NAME_BYTES),
        "host": _cut(storable(host.name), _MAX_NAME_BYTES),
        "command": _cut(command, _MAX_COMMAND_BYTES),
        "cwd": _cut(storable(cwd), _MAX_PATH_BYTES),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": _cut(machine["platform"], _MAX_NAME_BYTES),
        "cpu": {key: machine["cpu"][key] for key in ("model", "count")},
        **({"memory": machine["memory"]} if "memory" in machine else {}),
        **(
            {"notebook": notebook if notebook is True else _cut(storable(notebook), _MAX_PATH_BYTES)}
            if notebook
            else {}
        ),
    }
    files = {
        b"packages.json": _json(_packages()),
        b"python.json": _json(
            {
                "version": sys.version,
                "implementation": platform.python_implementation(),
                "executable": storable(sys.executable or ""),
                "platform": machine["platform"],
            }
        ),
        b"machine.json": _json(machine),
    }
    return Capture(summary, files, command, f"{user}@{storable(host.name)}", machine, root)


def _packages() -> list[dict[str, Any]]:
    """Return every distribution: name, version, and whether a module of it is imported now, when `init()` is called."""
    found = distributions(sys.path)
    used = imported(found)
    return [
        {"name": one.name, "version": one.version, **({"imported": True} if one.key in used else {})} for one in found
    ]


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
