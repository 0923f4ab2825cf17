"""How things look on a terminal: plain columns, colour only as underlining."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from replicate.errors import InvalidInputError
from replicate.experiment import Experiment
from replicate.experiment_history import ExperimentHistory
from replicate.objects.model import Mode
from replicate.refs import CommitRecord
from replicate.text import columns, pad, printable, printable_all, take, widest

Cell = str | tuple[str, str]
"""Text, or text and a colour."""

MODE_NAMES = {Mode.FILE: "file", Mode.EXECUTABLE: "exec", Mode.SYMLINK: "link", Mode.DIRECTORY: "tree"}
"""What plumbing calls the modes of entries."""

_QUOTED = re.compile(rb'"(?:[^"\\]|\\[abtnvfr"\\]|\\[0-3][0-7]{2})*"', re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPES = dict(zip('\a\b\t\n\v\f\r"\\', ("\\a", "\\b", "\\t", "\\n", "\\v", "\\f", "\\r", '\\"', "\\\\"), strict=True))
_UNESCAPES = {escape[1:].encode(): char.encode() for char, escape in _ESCAPES.items()}


def echo_table(
    rows: Sequence[Sequence[Cell]],
    *,
    right: frozenset[int] = frozenset(),
    indent: str = "",
    notes: Mapping[int, tuple[int, Cell]] | None = None,
    fit: bool = False,
) -> None:
    """Print rows in plain columns two spaces apart. What a terminal would obey, such as escape codes, is shown as `·`.

    Args:
        rows: Cells; a short row ends early.
        right: Columns that are aligned to the right.
        indent: What every line begins with.
        notes: Row number → column and text of a line below the row; it does not widen the columns.
        fit: Cut lines that are longer than the terminal is wide; a pipe gets them whole.
    """
    texts = _by_column(rows)
    widths = list(map(widest, texts))
    padded = [
        pad(column, width, to_the_right=number in right)
        for number, (column, width) in enumerate(zip(texts, widths, strict=True))
    ]
    is_plain = not sys.stdout.isatty()  # nothing to colour, nothing to cut
    lines = []
    for number, cells in enumerate(zip(*padded, strict=True)):
        if is_plain:
            lines.append((indent + "  ".join(cells)).rstrip())
        else:
            pieces: list[Cell] = [indent]
            for column, cell in enumerate(rows[number]):
                text = texts[column][number]
                before, _, after = cells[column].partition(text) if text else ("", "", cells[column])
                pieces += [before, cell, after, "  "]
            lines.append(_line(pieces, fit=fit))
        if notes and number in notes:
            at, note = notes[number]
            lines.append(_line([indent, " " * (sum(widths[:at]) + 2 * at), note], fit=fit))
    if lines:
        click.echo("\n".join(lines))


def echo_line(pieces: Sequence[Cell], *, fit: bool = False) -> None:
    """Print a line of pieces, without spaces at its end; `fit` cuts it at the terminal's width."""
    click.echo(_line(pieces, fit=fit))


def _line(pieces: Sequence[Cell], *, fit: bool) -> str:
    limit = terminal_width() if fit else None
    texts = [cell_text(cell) for cell in pieces]
    room = columns("".join(texts).rstrip())
    is_cut = limit is not None and room > limit
    if limit is not None and is_cut:
        room = limit - 1
    line = []
    for text, cell in zip(texts, pieces, strict=True):
        part = take(text, room)
        line.append(click.style(part, fg=cell[1]) if part and isinstance(cell, tuple) and cell[1] else part)
        room -= columns(part)
        if part != text:
            break
    return "".join(line) + ("…" if is_cut else "")


def table_width(rows: Sequence[Sequence[Cell]], indent: str = "") -> int:
    """Return how many columns of a terminal a table takes."""
    return len(indent) + sum(widest(column) + 2 for column in _by_column(rows)) - 2


def _by_column(rows: Sequence[Sequence[Cell]]) -> list[Sequence[str]]:
    """Return the texts of every column, printable; a row that ends early has empty ones."""
    return [cell_texts(column) for column in itertools.zip_longest(*rows, fillvalue="")]


def cell_texts(cells: Sequence[Cell]) -> Sequence[str]:
    """Return `cell_text` of each."""
    return printable_all([cell if isinstance(cell, str) else cell[0] for cell in cells])


def cell_text(cell: Cell) -> str:
    """Return a cell without its colour, printable."""
    return printable(cell if isinstance(cell, str) else cell[0])


def name_commit(experiment: ExperimentHistory, record: CommitRecord) -> list[Cell]:
    """Return how a commit is called with its experiment: `d02b7aa (step 7 of 7c1d09e cosine)`."""
    what = "start" if record.commit.is_root else f"step {record.commit.step}"
    name = f" {experiment.name}" if experiment.name else ""
    return [(record.commit_id.short, "yellow"), f" ({what} of {experiment.experiment_id.short}{name})"]


def status_cell(experiment: Experiment) -> Cell:
    """Return an experiment's status, green while it runs, red when it failed."""
    status = experiment.status
    return status, {"running": "green", "failed": "red"}.get(status, "")


def first_line(text: str) -> str:
    """Return the first line of a text, with ` …` when there are more."""
    first, *rest = text.strip().splitlines() or [""]
    return f"{first} …" if rest else first


def echo_json(value: Any) -> None:
    """Print a value as JSON, indented by 2."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def terminal_width() -> int | None:
    """Return how many columns stdout shows, None when it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def quote_path(path: bytes) -> str:
    """Return a path as Git prints it: as it is when that is safe, else in double quotes with escapes."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return '"' + "".join(_quote(char) for char in text) + '"'


def _quote(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def unquote_path(text: bytes) -> bytes:
    """Return the path that `quote_path` printed; `InvalidInputError` for a quoted one that it would not print."""
    if not text.startswith(b'"'):
        return text
    if not _QUOTED.fullmatch(text):
        raise InvalidInputError(f"{os.fsdecode(text)} is no path: the quotes or escapes in it are not whole")
    return _ESCAPE.sub(lambda match: _UNESCAPES.get(match[1]) or bytes([int(match[1], 8)]), text[1:-1])


def json_path(path: bytes) -> dict[str, str]:
    """Return the JSON keys of a path: `path`, and `path_hex` when it is not UTF-8."""
    try:
        return {"path": path.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": path.decode("utf-8", "backslashreplace"), "path_hex": path.hex()}
