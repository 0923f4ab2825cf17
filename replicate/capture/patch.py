"""What `git diff` says, made fit to be kept: without files that may hold secrets, masked, and at most 1 MiB."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from replicate.masking import MASK, mask_text
from replicate.worktree.ignore import IGNORE_FILE, IgnoreRules, is_built_in, is_secret

MAX_PATCH_BYTES = 1 << 20
_MAX_NAMES = 100
_MAX_IGNORE_BYTES = 1 << 20
_FILE = re.compile(rb"^diff --git ", re.MULTILINE)
_KEY_LINE = re.compile(r"^([+\- ]\s*)(?:[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{70})$", re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch. What is not in it is told at its beginning, where `git apply` reads over it.

    Attributes:
        data: The changes.
        secret: Paths left out because they may hold secrets, or are ignored.
        masked: How many lines have something masked.
        is_cut: Whether the rest was left out for its size.
    """

    data: bytes = b""
    secret: tuple[bytes, ...] = ()
    masked: int = 0
    is_cut: bool = False

    def encode(self) -> bytes | None:
        """Return what is stored, or None when there is nothing to tell."""
        notes = []
        if self.secret:
            more = f" and {len(self.secret) - _MAX_NAMES:,} more" if len(self.secret) > _MAX_NAMES else ""
            names = ", ".join(repr(os.fsdecode(path))[1:-1] for path in self.secret[:_MAX_NAMES])
            notes.append(f"# left out, being ignored or likely to hold secrets: {names}{more}\n")
        if self.masked:
            notes.append(f"# masked with {MASK}, as they may hold secrets: lines: {self.masked:,}\n")
        if self.is_cut:
            notes.append(f"# cut: at most {MAX_PATCH_BYTES:,} bytes are kept, and only whole files\n")
        return "".join(notes).encode("utf-8", "backslashreplace") + self.data or None


def read_patch(data: bytes, root: str, worktree: str, *, is_whole: bool) -> Patch:
    """Return what may be kept of the output of `git diff`.

    Args:
        data: The output, or its beginning.
        root: The project's folder: its ignore files hold for what lies in it.
        worktree: What the paths in the output are relative to.
        is_whole: Whether the output ends where `data` does; otherwise the last file is cut off.
    """
    kept: list[bytes] = []
    secret: list[bytes] = []
    masked = 0
    begins = [match.start() for match in _FILE.finditer(data)]
    ends = [*begins[1:], len(data)]
    sections = [data[begin:end] for begin, end in zip(begins, ends, strict=True)]
    rules = _Rules(os.fsencode(root), os.fsencode(worktree))
    for section in sections if is_whole else sections[:-1]:
        path = path_of(section)
        if path is None or rules.leave_out(path):
            secret.append(path or b"?")
            continue
        text = section.decode("utf-8", "surrogateescape")
        clean = _KEY_LINE.sub(rf"\g<1>{MASK}", mask_text(text))
        if clean != text:
            masked += sum(one != other for one, other in zip(text.split("\n"), clean.split("\n"), strict=True))
        kept.append(clean.encode("utf-8", "surrogateescape"))
    return Patch(b"".join(kept), tuple(secret), masked, not is_whole)


def path_of(section: bytes) -> bytes | None:
    """Return the path that a part of a patch is about, which begins `diff --git a/PATH b/PATH`; None if it does not."""
    names = section.partition(b"\n")[0].removeprefix(b"diff --git ")
    middle = len(names) // 2
    old, new = names[:middle], names[middle + 1 :]
    if names[middle : middle + 1] != b" ":
        return None
    if old[:1] == b'"' and old[-1:] == b'"':
        old, new = (_ESCAPE.sub(_unescape, name[1:-1]) for name in (old, new))
    return old[2:] if old[:2] == b"a/" and new == b"b/" + old[2:] else None


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8) & 255]) if len(code) == 3 else _ESCAPED.get(code, code)


class _Rules:
    """Which paths of a Git worktree are left out: what a save leaves out, too."""

    def __init__(self, root: bytes, worktree: bytes) -> None:
        self._worktree = worktree
        self._inside = os.path.relpath(root, worktree)
        self._known: dict[bytes, IgnoreRules] = {}

    def leave_out(self, path: bytes) -> bool:
        if any(is_secret(name) or is_built_in(name) for name in path.split(b"/")):
            return True
        inside = path
        if self._inside != b".":
            inside = path.removeprefix(self._inside + b"/")
            if inside == path:
                return False
        for folder in _above(inside):
            if folder and self._within(folder.rpartition(b"/")[0]).ignores(folder, is_directory=True):
                return True
        return self._within(inside.rpartition(b"/")[0]).ignores(inside, is_directory=False)

    def _within(self, folder: bytes) -> IgnoreRules:
        """Return the rules of the ignore files from the project's folder down to `folder`."""
        if folder not in self._known:
            above = self._within(folder.rpartition(b"/")[0]) if folder else IgnoreRules()
            try:
                with open(os.path.join(self._worktree, self._inside, folder, IGNORE_FILE), "rb") as file:
                    above = above.within(folder, file.read(_MAX_IGNORE_BYTES))
            except OSError:
                pass
            self._known[folder] = above
        return self._known[folder]


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the folders above a path, the root not, the highest first."""
    for number, char in enumerate(path):
        if char == 0x2F:
            yield path[:number]
