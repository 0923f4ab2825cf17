"""Which distributions are installed, and which of them are imported.

The folders `*.dist-info` on `sys.path` are read as they are: importing `importlib.metadata` takes ten times as long as
reading them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType

_HEADER_BYTES = 8 << 10  # both fields stand at the beginning
_TOP_BYTES = 64 << 10
_RECORD_BYTES = 64 << 20
_FIELD = re.compile(r"^(Name|Version): *(\S.*?)\s*$", re.MULTILINE)
_OF_EVERY_PROCESS = ("_distutils_hack", "__editable__")  # what .pth files import; not that anyone uses it


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution: name and version as it gives them, and its `.dist-info` or `.egg-info`."""

    name: str
    version: str
    path: str

    @property
    def key(self) -> str:
        """The name in the form in which equal names are equal."""
        return self.name.lower().replace("_", "-").replace(".", "-")


def installed_packages() -> list[tuple[str, str]]:
    """Return name and version of every installed distribution, sorted by name; the first on the path wins."""
    return [(one.name, one.version) for one in distributions(sys.path)]


def distributions(path: Iterable[str]) -> list[Distribution]:
    """Return every distribution in the folders of `path`, sorted by name; the first of a name wins."""
    found: dict[str, Distribution] = {}
    for folder in dict.fromkeys(path):
        try:
            with os.scandir(folder or ".") as listing:
                names = sorted(entry.name for entry in listing if entry.name.endswith((".dist-info", ".egg-info")))
        except (OSError, ValueError, TypeError):  # a zip file, a folder that is not there, no path at all
            continue
        for name in names:
            one = _read(os.path.join(folder or ".", name))
            if one is not None:
                found.setdefault(one.key, one)
    return [found[key] for key in sorted(found)]


def _read(path: str) -> Distribution | None:
    text = ""
    for name in ("METADATA", "PKG-INFO", ""):
        text = _text(os.path.join(path, name) if name else path, _HEADER_BYTES)
        if text:
            break
    found = dict(reversed(_FIELD.findall(text.partition("\n\n")[0])))
    return Distribution(found["Name"], found.get("Version", ""), path) if "Name" in found else None


def _text(path: str, limit: int) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def imported(found: Iterable[Distribution], modules: dict[str, ModuleType] | None = None) -> set[str]:
    """Return the keys of the distributions of which a module is imported now.

    An import name is mostly the distribution's; where it is another (PyYAML: `yaml`), the distribution says which, in
    `top_level.txt` or in the list of its files. That list is long and is read only while there are imported modules
    that nobody has claimed.
    """
    modules = dict(sys.modules) if modules is None else modules
    tops = {name for name in modules if "." not in name and not name.startswith(_OF_EVERY_PROCESS)}
    tops -= sys.stdlib_module_names
    spaces = {name for name, module in modules.items() if _is_namespace(module)}
    plain = tops - spaces
    result: set[str] = set()
    unclaimed = set(plain)
    rest: list[Distribution] = []
    for one in found:
        name = one.key.replace("-", "_")
        if name in plain:
            result.add(one.key)
            unclaimed.discard(name)
        else:
            rest.append(one)
    sites = {os.path.dirname(os.path.abspath(one.path)) for one in rest}
    for one in rest:
        declared = set(_text(os.path.join(one.path, "top_level.txt"), _TOP_BYTES).split())
        if declared and not declared & spaces:
            if declared & plain:
                result.add(one.key)
                unclaimed -= declared
        elif any(_folder(modules[name]) in sites for name in unclaimed) or tops & spaces:
            roots = set(_roots(one.path, spaces))
            if any(root in modules for root in roots):
                result.add(one.key)
                unclaimed -= roots
    return result


def _is_namespace(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is None and getattr(module, "__path__", None) is not None


def _folder(module: ModuleType) -> str:
    """Return the folder that a top-level module or package lies in, or ""."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return ""
    folder = os.path.dirname(os.path.abspath(file))
    return os.path.dirname(folder) if getattr(module, "__path__", None) is not None else folder


def _roots(path: str, spaces: set[str]) -> Iterator[str]:
    """Yield the modules that a distribution brings: top-level ones, and the first below namespaces that are shared."""
    text = _text(os.path.join(path, "RECORD"), _RECORD_BYTES)
    seen: set[str] = set()
    inside = "\0"
    for line in text.splitlines():
        if line.startswith(inside):
            continue
        parts = line.split(",", 1)[0].strip('"').split("/")
        if parts[0] in ("", "..", ".") or parts[0].endswith((".dist-info", ".pth", ".data")):
            continue
        depth = 1
        while depth < len(parts) and ".".join(parts[:depth]) in spaces:
            depth += 1
        last = parts[depth - 1]
        if depth == len(parts):
            last, dot, kind = last.partition(".")
            if not dot or not kind.endswith(("py", "so", "pyd")):
                continue
        else:
            inside = "/".join(parts[:depth]) + "/"
        root = ".".join((*parts[: depth - 1], last))
        if root not in seen:
            seen.add(root)
            yield root
