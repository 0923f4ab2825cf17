"""Sizes, times and values as people read them. Floor 0, pure."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_FLOAT_WIDTH = 11  # -1.235e+300
_NUMBER = re.compile(r"(?P<whole>-?\d+)(\.\d+)?(e[+-]\d+)?", re.ASCII)


def format_bytes(size: int) -> str:
    """Return a size with two or three digits in decimal units: 512 B, 4.1 MB, 91 MB."""
    value = float(size)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{size} B"
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def format_seconds(seconds: float) -> str:
    """Return a duration: 14 ms, 0.4 s, 12 s, 3 min, 2.5 h, 3 days."""
    if seconds < 0.095:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5_940:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def format_age(seconds: float) -> str:
    """Return how long ago something was: just now, 3 min ago, 2 hours ago, yesterday, 3 days ago, 5 weeks ago."""
    if seconds < 5:
        return "just now"
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{round(seconds / size)} {unit} ago"
    if seconds < 36 * 3600:
        hours = round(seconds / 3600)
        return f"{hours} hours ago" if hours < 24 else "yesterday"
    days = round(seconds / 86400)
    if days < 14:
        return f"{days} days ago"
    if days < 70:
        return f"{round(days / 7)} weeks ago"
    if days < 700:
        return f"{round(days / 30.4)} months ago"
    return f"{round(days / 365.25)} years ago"


def format_value(value: object, width: int = 24) -> str:
    """Return a param or metric in at most `width` columns; floats with four digits, what is cut ends in `…`."""
    if type(value) is float and width >= _FLOAT_WIDTH:
        return format_float(value)
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "none"}[value]
    elif isinstance(value, float):
        text = format_float(value)
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {format_value(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(format_value(item) for item in value) + "]"
    else:
        text = str(value)
    return cut(printable(text), width)


def format_float(value: float) -> str:
    """Return a float with four significant digits and no needless ones: 0.1823, 1e-05, 97, inf."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def align_numbers(cells: Sequence[str]) -> list[str]:
    """Return cells with spaces in front so that numbers stand with their points in line; text is left as it is."""
    heads = [match.end("whole") if (match := _NUMBER.fullmatch(cell)) else None for cell in cells]
    widest = max((head for head in heads if head is not None), default=0)
    return [cell if head is None else " " * (widest - head) + cell for cell, head in zip(cells, heads, strict=True)]


def printable(text: str) -> str:
    """Return text in which what a terminal would not show, or obey, is `·`: control characters and the like."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "·" for char in text)


def printable_message(message: str) -> str:
    """Return a message printable on one line, and what follows a last line's `hint: ` in it on another."""
    what, hint, todo = message.rpartition("\nhint: ")
    return printable(what) + hint + printable(todo)


def printable_all(texts: Sequence[str]) -> Sequence[str]:
    """Return `printable` of each: one look where, as in most columns of a table, there is nothing to change."""
    return texts if "".join(texts).isprintable() else [printable(text) for text in texts]


def widest(texts: Sequence[str]) -> int:
    """Return the most columns that one of several printable texts takes; 0 if there is none."""
    return max(map(len if "".join(texts).isascii() else columns, texts), default=0)


def pad(texts: Sequence[str], width: int, *, to_the_right: bool = False) -> Sequence[str]:
    """Return printable texts with spaces behind, or before, so that each takes at least `width` columns."""
    if "".join(texts).isascii():
        return [text.rjust(width) for text in texts] if to_the_right else [text.ljust(width) for text in texts]
    spaces = [" " * (width - columns(text)) for text in texts]
    return [space + text if to_the_right else text + space for text, space in zip(texts, spaces, strict=True)]


def columns(text: str) -> int:
    """Return how many columns of a terminal printable text takes: East Asian characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def cut(text: str, width: int) -> str:
    """Return printable text in at most `width` columns (one or more); what is cut ends in `…`."""
    return text if columns(text) <= width else take(text, width - 1) + "…"


def take(text: str, width: int) -> str:
    """Return as much of the beginning of printable text as `width` columns hold."""
    if text.isascii():
        return text[: max(width, 0)]
    for number, char in enumerate(text):
        width -= _columns(char)
        if width < 0:
            return text[:number]
    return text


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 file, 2,000 files."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some_paths(paths: Sequence[bytes]) -> str:
    """Return the first few of some paths as text."""
    shown = ", ".join(path_text(path) for path in sorted(paths)[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def path_text(path: bytes) -> str:
    """Return a path as text; bytes that are not UTF-8 and what is not printable are escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
