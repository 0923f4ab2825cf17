"""How things look on a terminal: plain columns, colour only as underlining."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

Cell = str | tuple[str, str]
"""Text, or text and a colour."""


def echo_table(
    rows: Sequence[Sequence[Cell]],
    *,
    right: frozenset[int] = frozenset(),
    indent: str = "",
    notes: Mapping[int, tuple[int, str]] | None = None,
) -> None:
    """Print rows in plain columns two spaces apart.

    Args:
        rows: Cells; a short row ends early.
        right: Columns that are aligned to the right.
        indent: What every line begins with.
        notes: Row number → column and text of a line below the row; it does not widen the columns.
    """
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], len(cell_text(cell)))
    for number, row in enumerate(rows):
        line = []
        last = max((column for column, cell in enumerate(row) if cell_text(cell)), default=-1)
        for column, cell in enumerate(row[: last + 1]):
            text = cell_text(cell)
            space = " " * (widths[column] - len(text))
            shown = click.style(text, fg=cell[1]) if isinstance(cell, tuple) and cell[1] else text
            line.append(space + shown if column in right else shown + (space if column < last else ""))
        click.echo(indent + "  ".join(line))
        if notes and number in notes:
            column, text = notes[number]
            click.echo(indent + " " * (sum(widths[:column]) + 2 * column) + text)


def cell_text(cell: Cell) -> str:
    """Return a cell without its colour."""
    return cell if isinstance(cell, str) else cell[0]


def echo_json(value: Any) -> None:
    """Print a value as JSON, indented by 2."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def terminal_width() -> int | None:
    """Return how many columns stdout shows, None when it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def quote_path(path: bytes) -> str:
    """Return a path as Git prints it: as it is when that is safe, else in double quotes with escapes."""
    escapes = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
    text = path.decode("utf-8", "surrogateescape")
    if not any(ord(char) < 32 or ord(char) == 127 or 0xDC80 <= ord(char) <= 0xDCFF or char in '"\\' for char in text):
        return text
    out = []
    for char in text:
        number = ord(char)
        if 0xDC80 <= number <= 0xDCFF:
            out.append(f"\\{number - 0xDC00:03o}")
        elif number in escapes:
            out.append(escapes[number])
        elif number < 32 or number == 127:
            out.append(f"\\{number:03o}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def json_path(path: bytes) -> dict[str, str]:
    """Return the JSON keys of a path: `path`, and `path_hex` when it is not UTF-8."""
    try:
        return {"path": path.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": path.decode("utf-8", "backslashreplace"), "path_hex": path.hex()}
