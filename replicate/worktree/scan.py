"""Walking a worktree: names, types and stats, never contents.

The walk never follows a symbolic link. Sockets, FIFOs and devices are left out, and so is what cannot be listed.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from replicate.objects.model import Mode
from replicate.worktree.ignore import (
    IGNORE_FILE,
    ORDINARY_NAMES,
    IgnoreRules,
    is_built_in,
    is_environment,
    is_secret,
    is_store,
    remember_ordinary,
)

_MAX_IGNORE_BYTES = 1 << 20
_TYPE_BITS, _FILE_BITS, _EXEC_BIT = 0o170000, stat_bits.S_IFREG, stat_bits.S_IXUSR
_FILE, _EXECUTABLE = Mode.FILE, Mode.EXECUTABLE


@dataclass(slots=True)
class Scan:
    """What lies in a worktree.

    Attributes:
        directories: For each directory (b"" is the root) its entries by name: mode and stat; subdirectories have
            `Mode.DIRECTORY`.
        secrets: Paths left out because their names usually mean secrets.
        special: Paths left out because they are sockets, FIFOs or devices.
        unreadable: Directories that could not be listed, and what could not be looked at, with the reason.
    """

    directories: dict[bytes, dict[bytes, tuple[Mode, os.stat_result]]] = field(default_factory=dict)
    secrets: list[bytes] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)


def join(folder: bytes, name: bytes) -> bytes:
    """Join two relative paths; b"" is the root."""
    return folder + b"/" + name if folder else name


class Scanner:
    """Walks one worktree.

    Args:
        root: Its folder.
        excluded: Relative paths that are never saved, such as the store when it lies inside.
    """

    def __init__(self, root: str, excluded: Collection[bytes] = ()) -> None:
        self._root = os.fsencode(root)
        self._excluded = frozenset(excluded)

    def scan(self) -> Scan:
        """Return everything that a save of the whole worktree holds."""
        found = Scan()
        self._walk(b"", IgnoreRules(), found, use_rules=True)
        return found

    def scan_named(self, path: bytes, found: Scan) -> bool:
        """Add a path that the user named, ignored or not; a directory with its whole subtree.

        Inside a named directory only what is built in stays out, not what ignore files say. Returns whether there is
        anything at `path` that can be saved.
        """
        full = os.path.join(self._root, path) if path else self._root
        try:
            info = os.stat(full, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            found.unreadable.append((path, exc.strerror or str(exc)))
            return False
        mode = mode_of(info)
        if mode is None:
            found.special.append(path)
            return False
        if mode is Mode.DIRECTORY:
            self._walk(path, IgnoreRules(), found, use_rules=not path)
        if path:
            folder, _, name = path.rpartition(b"/")
            found.directories.setdefault(folder, {})[name] = (mode, info)
        return True

    def _walk(self, top: bytes, rules: IgnoreRules, found: Scan, *, use_rules: bool) -> None:
        pending = [(top, rules)]
        while pending:
            folder, rules = pending.pop()
            try:
                with os.scandir(os.path.join(self._root, folder) if folder else self._root) as listing:
                    entries = list(listing)
            except OSError as exc:
                if not folder:
                    raise
                if folder == top or not isinstance(exc, FileNotFoundError):  # else it was removed while we walk
                    found.unreadable.append((folder, exc.strerror or str(exc)))
                self._leave_out(folder, found)
                continue
            names = {entry.name for entry in entries}
            if folder and folder != top and (is_environment(names) or is_store(names)):
                self._leave_out(folder, found)
                continue
            if use_rules and IGNORE_FILE in names:
                rules = rules.within(folder, self._read_ignore_file(folder))
            here = found.directories.setdefault(folder, {})
            is_plain = rules.is_empty and not any(path.rpartition(b"/")[0] == folder for path in self._excluded)
            for entry in entries:
                if not (is_plain and entry.name in ORDINARY_NAMES and _take_file(entry, here)):
                    self._visit(entry, folder, rules, here, found, pending.append)

    @staticmethod
    def _leave_out(folder: bytes, found: Scan) -> None:
        """Take a directory that was found out of its parent again."""
        parent, _, name = folder.rpartition(b"/")
        found.directories.get(parent, {}).pop(name, None)

    def _visit(
        self,
        entry: os.DirEntry[bytes],
        folder: bytes,
        rules: IgnoreRules,
        here: dict[bytes, tuple[Mode, os.stat_result]],
        found: Scan,
        descend: Callable[[tuple[bytes, IgnoreRules]], None],
    ) -> None:
        name = entry.name
        path = folder + b"/" + name if folder else name
        if is_built_in(name) or path in self._excluded:
            return
        if is_secret(name):
            found.secrets.append(path)
            return
        remember_ordinary(name)
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # removed while we walk
            return
        except OSError as exc:
            found.unreadable.append((path, exc.strerror or str(exc)))
            return
        mode = mode_of(info)
        if not rules.is_empty and rules.ignores(path, is_directory=mode is Mode.DIRECTORY):
            return
        if mode is None:
            found.special.append(path)
            return
        here[name] = (mode, info)
        if mode is Mode.DIRECTORY:
            descend((path, rules))

    def _read_ignore_file(self, folder: bytes) -> bytes:
        try:
            fd = os.open(os.path.join(self._root, folder, IGNORE_FILE), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            return os.read(fd, _MAX_IGNORE_BYTES)
        except OSError:
            return b""
        finally:
            os.close(fd)


def _take_file(entry: os.DirEntry[bytes], here: dict[bytes, tuple[Mode, os.stat_result]]) -> bool:
    """Take over a regular file of an ordinary name: what nearly every entry is. Returns whether it is one."""
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    bits = info.st_mode
    if bits & _TYPE_BITS != _FILE_BITS:
        return False
    here[entry.name] = (_EXECUTABLE if bits & _EXEC_BIT else _FILE, info)
    return True


def mode_of(info: os.stat_result) -> Mode | None:
    """Return what a stat result is, or None for what cannot be saved."""
    bits = info.st_mode
    if stat_bits.S_ISREG(bits):
        return Mode.EXECUTABLE if bits & stat_bits.S_IXUSR else Mode.FILE
    if stat_bits.S_ISDIR(bits):
        return Mode.DIRECTORY
    if stat_bits.S_ISLNK(bits):
        return Mode.SYMLINK
    return None
