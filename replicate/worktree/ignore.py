"""Which paths of a worktree are not saved.

`.replicateignore` files have gitignore syntax and hold for their folder and below; `.gitignore` is not read, since
weights are listed there. What is built in stays out whatever these files say: version control, caches, virtual
environments, and files that usually hold secrets. A path that the user names is never ignored.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = b".replicateignore"
_BUILT_IN = frozenset(
    b".git .replicate .hg .svn __pycache__ .mypy_cache .pytest_cache .ruff_cache .tox .ipynb_checkpoints node_modules "
    b".DS_Store".split()
)
_ENVIRONMENT_MARKS = frozenset((b"pyvenv.cfg", b"conda-meta"))
_STORE_MARKS = frozenset((b"ctl", b"packs", b"refs", b"local"))
_SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".netrc", ".pypirc"),
    *(".aws", ".ssh", ".gcloud", "credentials*.json", ".git-credentials"),
)
_SECRET = re.compile("|".join(fnmatch.translate(pattern) for pattern in _SECRETS).encode())
_MOST_NAMES = 200_000
_TEMPORARY_PREFIX = b".replicate-tmp-"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def is_secret(name: bytes) -> bool:
    """Tell whether files or folders of this name usually hold secrets."""
    return _SECRET.match(name) is not None


def is_built_in(name: bytes) -> bool:
    """Tell whether a name is never saved because of what it is: version control, caches, our own temporary files."""
    return name in _BUILT_IN or name.startswith(_TEMPORARY_PREFIX)


ORDINARY_NAMES: set[bytes] = set()
"""Names that were found to be neither built in nor secret: a scan of many files asks for each again and again."""


def remember_ordinary(name: bytes) -> None:
    """Remember that a name is neither built in nor secret."""
    if len(ORDINARY_NAMES) < _MOST_NAMES:
        ORDINARY_NAMES.add(name)


def is_store(names: Iterable[bytes]) -> bool:
    """Tell whether a folder with these names in it is a store of ours: one is never saved into another."""
    return _STORE_MARKS.issubset(names)


def is_environment(names: Iterable[bytes]) -> bool:
    """Tell whether a folder with these names in it is a virtual environment."""
    return not _ENVIRONMENT_MARKS.isdisjoint(names)


class IgnoreRules:
    """The rules of the ignore files from the root down to one folder. Immutable: `within` returns longer ones."""

    def __init__(self, specs: tuple[tuple[bytes, GitIgnoreSpec], ...] = ()) -> None:
        self._specs = specs

    @property
    def is_empty(self) -> bool:
        """Whether no ignore file was met."""
        return not self._specs

    def within(self, folder: bytes, text: bytes) -> IgnoreRules:
        """Return these rules and those of `folder`'s ignore file. `folder` is b"" for the root."""
        # pathspec takes 20 ms to import; a worktree without ignore files does not need it.
        from pathspec import GitIgnoreSpec

        patterns: list[Any] = []
        for line in text.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogateescape").split("\n"):
            with contextlib.suppress(ValueError):  # a line that is no pattern ignores nothing
                patterns += GitIgnoreSpec.from_lines([line.removesuffix("\r")]).patterns
        spec = GitIgnoreSpec(patterns)
        return IgnoreRules((*self._specs, (folder + b"/" if folder else b"", spec)))

    def ignores(self, path: bytes, *, is_directory: bool) -> bool:
        """Tell whether a path is ignored; the deepest file that says anything about it decides."""
        for folder, spec in reversed(self._specs):
            text = path[len(folder) :].decode("utf-8", "surrogateescape")
            verdict = spec.check_file(text + "/" if is_directory else text).include
            if verdict is not None:
                return bool(verdict)
        return False
