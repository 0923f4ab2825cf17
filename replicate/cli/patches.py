"""Changed files as a patch that `git apply` and `patch -p1` take, made and printed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from replicate.cli.render import quote_path
from replicate.diff import Difference, FileChange, TextDiff
from replicate.presenting import File
from replicate.text import cut, printable

_STYLES: dict[str, dict[str, Any]] = {
    "head": {"bold": True},
    "note": {"dim": True},
    "@": {"fg": "cyan"},
    "+": {"fg": "green"},
    "-": {"fg": "red"},
}
_WIDTH = 1_000
_TAB = 4
_GIT_MODES = {"file": b"100644", "executable": b"100755", "symlink": b"120000"}
PatchLine = tuple[str, bytes]
"""What a line is (`head`, `note`, `@`, or the ` `, `-` or `+` that it begins with), and the line with its newline."""


def patch(difference: Difference, change: FileChange) -> Iterator[PatchLine]:
    """Yield the lines of one file's patch.

    What has no text, such as a binary file, is a line that begins with `#`, which `git apply` and `patch` pass over;
    so are folders, which patches cannot tell of.
    """
    before, after = change.before, change.after
    if (
        before
        and after
        and before.kind != after.kind
        and not {"symlink", "folder"}.isdisjoint((before.kind, after.kind))
    ):
        yield from _part(before, None, difference.text_between(before, None))  # it is removed, and another is added
        yield from _part(None, after, difference.text_between(None, after))
    else:
        yield from _part(before, after, difference.text(change))


def _part(before: File | None, after: File | None, text: TextDiff) -> Iterator[PatchLine]:
    names = _names(before, after)
    kinds = [file.kind for file in (before, after) if file]
    if text.note or "folder" in kinds:
        yield "note", b"# %s and %s differ: %s\n" % (*names, (text.note or "an empty folder").encode())
        return
    yield "head", b"diff --git %s %s\n" % names
    for line in _modes(before, after):
        yield "head", line
    yield from text_lines(before, after, text)


def _modes(before: File | None, after: File | None) -> Iterator[bytes]:
    if before is None and after is not None:
        yield b"new file mode %s\n" % _GIT_MODES[after.kind]
    elif after is None and before is not None:
        yield b"deleted file mode %s\n" % _GIT_MODES[before.kind]
    elif before is not None and after is not None:
        if before.kind != after.kind:
            yield b"old mode %s\nnew mode %s\n" % (_GIT_MODES[before.kind], _GIT_MODES[after.kind])
        if before.path != after.path and before.object_id == after.object_id:
            yield b"similarity index 100%%\nrename from %s\nrename to %s\n" % (
                _quoted(before.path),
                _quoted(after.path),
            )


def text_lines(before: File | None, after: File | None, text: TextDiff) -> Iterator[PatchLine]:
    """Yield the part of a patch that tells of lines; nothing when there are none."""
    if not text.hunks:
        return
    names = _names(before, after)
    yield "head", b"--- %s\n" % (_with_tab(names[0]) if before else b"/dev/null")
    yield "head", b"+++ %s\n" % (_with_tab(names[1]) if after else b"/dev/null")
    for hunk in text.hunks:
        head = f"@@ -{_range(hunk.old_start, hunk.old_count)} +{_range(hunk.new_start, hunk.new_count)} @@"
        yield "@", head.encode() + (b" " + hunk.section if hunk.section else b"") + b"\n"
        for line in hunk.lines:
            yield chr(line[0]), line if line.endswith(b"\n") else line + b"\n"
            if not line.endswith(b"\n"):
                yield "note", b"\\ No newline at end of file\n"


def _range(start: int, count: int) -> str:
    return str(start) if count == 1 else f"{start},{count}"


def _quoted(path: str) -> bytes:
    return os.fsencode(quote_path(os.fsencode(path)))


def _names(before: File | None, after: File | None) -> tuple[bytes, bytes]:
    paths = [file.path for file in (before, after) if file]
    return _quoted(f"a/{paths[0]}"), _quoted(f"b/{paths[-1]}")


def _with_tab(name: bytes) -> bytes:
    """Return a name with a tab behind it when it has spaces, so that `patch` knows where it ends."""
    return name + b"\t" if b" " in name and not name.startswith(b'"') else name


def echo_patch(difference: Difference) -> None:
    """Print the patch of all files."""
    for change in difference.files:
        echo_lines(list(patch(difference, change)))


def echo_lines(lines: Sequence[PatchLine]) -> None:
    """Print lines of one file's patch: on a terminal coloured and printable, elsewhere the bytes as they are.

    On a terminal what differs in a line is marked, a line is UTF-8 or else Latin-1, and carriage returns show where not
    every line ends in one.
    """
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.writelines(line for _, line in lines)
        sys.stdout.buffer.flush()
        return
    ends = all(line.endswith(b"\r\n") for what, line in lines if what in " -+")
    shown = [(what, _shown(line.rstrip(b"\r\n") if ends else line.removesuffix(b"\n"))) for what, line in lines]
    marks = _find_marks(shown)
    for number, (what, text) in enumerate(shown):
        style = _STYLES.get(what, {})
        start, stop = marks.get(number, (0, 0))
        parts = ((text[:start], style), (text[start:stop], style | {"reverse": True}), (text[stop:], style))
        click.echo("".join(click.style(part, **one) if one else part for part, one in parts if part))


def _shown(line: bytes) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    return cut(printable(text[:1] + text[1:].replace("\r", "␍").expandtabs(_TAB)), _WIDTH)


def _find_marks(lines: Sequence[tuple[str, str]]) -> dict[int, tuple[int, int]]:
    """Return where lines differ from those that they replace, for as many old lines as new that are much alike."""
    marks: dict[int, tuple[int, int]] = {}
    kinds = "".join(what if what in ("-", "+") else " " for what, _ in lines)
    for run in re.finditer("(-+)([+]+)", kinds):
        if len(run[1]) != len(run[2]):
            continue
        for one, other in zip(range(*run.span(1)), range(*run.span(2)), strict=True):
            old, new = lines[one][1], lines[other][1]
            most = min(len(old), len(new))
            head = next((at for at in range(1, most) if old[at] != new[at]), most)
            tail = next((at for at in range(most - head) if old[-1 - at] != new[-1 - at]), most - head)
            if 2 * (head - 1 + tail) >= most:
                marks[one], marks[other] = (head, len(old) - tail), (head, len(new) - tail)
    return marks
