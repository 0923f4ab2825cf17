"""What is recorded of a process: command, user, host, Python, packages. Floor 7. SPEC §9.2 (`s`).

Never the environment wholesale, and no argument whose name says that it is a secret.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from replicate import config
from replicate.host import Host
from replicate.values import MASK, mask_arguments

_MAX_COMMAND = 4_000


@dataclass(frozen=True, slots=True)
class Capture:
    """The facts of one process.

    Attributes:
        summary: What goes into the session record.
        files: What goes into the tree `environment`: name → content.
        command: How the process was started, without secrets.
        author: `user@host`.
    """

    summary: dict[str, Any]
    files: dict[bytes, bytes]
    command: str
    author: str


def capture(host: Host, root: str) -> Capture:
    """Record the facts of this process; `root` is the project's folder. Takes some ms, mostly for the packages."""
    user = config.user()
    command = command_line(sys.argv, getattr(sys, "orig_argv", []), root, _cwd())
    summary = {
        "user": storable(user),
        "host": storable(host.name),
        "command": command,
        "cwd": storable(_cwd()),
        "pid": os.getpid(),
        "python": platform.python_version(),
    }
    packages = [{"name": name, "version": version} for name, version in installed_packages()]
    files = {
        b"packages.json": json.dumps(packages, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        + b"\n",
        b"python.json": json.dumps(
            {
                "version": sys.version,
                "implementation": platform.python_implementation(),
                "executable": storable(sys.executable or ""),
                "platform": platform.platform(),
            },
            indent=1,
        ).encode()
        + b"\n",
    }
    return Capture(summary, files, command, f"{storable(user)}@{storable(host.name)}")


def command_line(argv: Sequence[str], original: Sequence[str], root: str, cwd: str = "") -> str:
    """Return how the process was started as a person would type it, with secret values masked.

    A script of the project is shown relative to `cwd` (the project if empty), another program by its name. `python -m`
    and `python -c` are recognised by `original` (`sys.orig_argv`).
    """
    arguments = list(argv)
    script = arguments[0] if arguments else ""
    flags = _interpreter_flags(original)
    if "-c" in flags and script == "-c":
        shown = ["python", "-c", "…"]
    elif script in ("", "-"):
        shown = ["python"] if script == "" else ["python", "-"]
    elif "-m" in flags and flags.index("-m") + 1 < len(flags):
        shown = ["python", "-m", flags[flags.index("-m") + 1]]
    else:
        full = os.path.realpath(script)
        inside = full.startswith(os.path.join(root, ""))
        shown = (
            ["python", os.path.relpath(full, os.path.realpath(cwd or root))]
            if inside
            else [os.path.basename(script) or script]
        )
    text = " ".join(
        part if part == "…" or part.endswith(MASK) else shlex.quote(part)
        for part in [*shown, *mask_arguments(arguments[1:])]
    )
    text = storable(text)
    return text if len(text) <= _MAX_COMMAND else text[: _MAX_COMMAND - 1] + "…"


def _interpreter_flags(original: Sequence[str]) -> list[str]:
    """Return the interpreter's own options: up to the script, or to what follows `-m` or `-c`."""
    flags: list[str] = []
    takes_value = ""
    for argument in original[1:]:
        if not takes_value and not argument.startswith("-"):
            break
        flags.append(argument)
        if takes_value in ("-m", "-c"):
            break
        takes_value = argument if not takes_value and argument in ("-m", "-c", "-W", "-X") else ""
    return flags


def installed_packages() -> list[tuple[str, str]]:
    """Return name and version of every installed distribution, sorted by name; the first on the path wins."""
    found: dict[str, tuple[str, str]] = {}
    for distribution in metadata.distributions():
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name = version = ""
        for line in text.splitlines():
            if not line:
                break
            if line.startswith("Name: "):
                name = line[6:].strip()
            elif line.startswith("Version: "):
                version = line[9:].strip()
        if name:
            found.setdefault(name.lower().replace("_", "-"), (name, version))
    return [found[key] for key in sorted(found)]


def storable(text: str) -> str:
    """Return text without the surrogates that stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
