"""How the process was started, as a person would type it, without secrets."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Literal

from replicate.masking import MASK, mask_arguments

_MAX_COMMAND = 4_000

Notebook = str | Literal[True] | None
"""The path of the notebook that this process serves, True when it has none that is known, None without a notebook."""


def command_line(
    argv: Sequence[str], original: Sequence[str], root: str, cwd: str = "", notebook: Notebook = None
) -> str:
    """Return how the process was started as a person would type it, with secret values masked.

    A script of the project is shown relative to `cwd` (the project if empty), another program by its name. `python -m`
    and `python -c` are recognised by `original` (`sys.orig_argv`). A notebook's is `jupyter NOTEBOOK`.
    """
    if notebook:
        parts = ["jupyter", *([] if notebook is True else [_shown(notebook, root, cwd)])]
    else:
        arguments = list(argv)
        parts = [*_started(arguments[0] if arguments else "", original, root, cwd), *mask_arguments(arguments[1:])]
    text = storable(" ".join(part if part == "…" else _quote(part) for part in parts))
    return text if len(text) <= _MAX_COMMAND else text[: _MAX_COMMAND - 1] + "…"


def _started(script: str, original: Sequence[str], root: str, cwd: str) -> list[str]:
    flags = _interpreter_flags(original)
    if "-c" in flags and script == "-c":
        return ["python", "-c", "…"]
    if script in ("", "-"):
        return ["python"] if script == "" else ["python", "-"]
    if "-m" in flags and flags.index("-m") + 1 < len(flags):
        return ["python", "-m", flags[flags.index("-m") + 1]]
    shown = _shown(script, root, cwd)
    return ["python", shown] if _is_inside(script, root) else [shown]


def _is_inside(path: str, root: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(root, ""))


def _shown(path: str, root: str, cwd: str) -> str:
    """Return a path in the project relative to the current folder, another by its name."""
    if _is_inside(path, root):
        return os.path.relpath(os.path.realpath(path), os.path.realpath(cwd or root))
    return os.path.basename(path) or path


def _quote(part: str) -> str:
    """Quote a part as a shell needs it; the stars of a mask need none."""
    plain = part.replace(MASK, "x")
    return part if shlex.quote(plain) == plain else shlex.quote(part)


def find_notebook(told: str = "") -> Notebook:
    """Return which notebook this process is the kernel of. `told` is what Jupyter says."""
    ipython = sys.modules.get("IPython")
    get = getattr(ipython, "get_ipython", None)
    shell = get() if callable(get) else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    names = getattr(shell, "user_ns", None)
    of_editor = names.get("__vsc_ipynb_file__") if isinstance(names, dict) else None
    return told or (of_editor if isinstance(of_editor, str) and of_editor else True)


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


def storable(text: str) -> str:
    """Return text without the surrogates that stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def current_folder() -> str:
    """Return the current folder, or "" when it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
