"""How weight files and their differences look: a few words, a table, JSON."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import click

from replicate.cli.render import Cell, cell_text, echo_line, echo_table, table_width, terminal_width
from replicate.diff import Difference, FileChange, TensorChange, TensorDiff
from replicate.presenting import json_value
from replicate.tensors import Tensor
from replicate.text import columns, format_bytes, plural

_READ_BYTES = 256 << 20
"""Values of files that were not asked for by name are compared while they are not more than that, on one side."""
_TABLES = 3
_ROWS = 5
_LISTED = 40
_NAME_WIDTH = 32
_LEAST_NAME_WIDTH = 12
_INDENT = "  "
_LETTERS: dict[str, Cell] = {"added": ("A", "green"), "removed": ("D", "red"), "changed": "M"}
_HEAD: list[Cell] = ["", "TENSOR", "‖Δ‖/‖A‖", "MAX |Δ|", "MEAN |Δ|", "CHANGED", "NAN, INF", "TYPE"]
_NONFINITE = "NAN, INF"
_DISPENSABLE = ("MEAN |Δ|", "‖Δ‖/‖A‖", "CHANGED", "MAX |Δ|")
"""The columns that narrow terminals do without, the first of them first."""
_SEPARATORS = "./"

TensorDiffs = dict[str, TensorDiff]
"""By the path of the file."""


def compare_tensors(difference: Difference, changes: Sequence[FileChange], named: Container[str] = ()) -> TensorDiffs:
    """Return how the tensors of weight files differ: always of those that are named, of others while it is quick."""
    found: TensorDiffs = {}
    left = _READ_BYTES
    for change in changes:
        is_named = change.path in named
        compared = difference.tensors(change, limit_bytes=None if is_named else left)
        if compared is not None:
            found[change.path] = compared
            left -= compared.compared_bytes if compared.is_compared and not is_named else 0
    return found


def describe_tensors(compared: TensorDiff) -> str:
    """Return how the tensors of a file differ, in a few words: `37 of 103 tensors changed, max |Δ| 0.021`.

    The largest change is that of weights, if there are any beside an optimizer's state.
    """
    numbers = {name: sum(one.change == name for one in compared.changes) for name in ("changed", "added", "removed")}
    may = "" if compared.is_compared else "at most "
    parts = [f"{may}{numbers['changed']:,} of {plural(compared.count, 'tensor')} changed"]
    moved = [one for one in compared.changes if one.max_change is not None]
    of_model = [one for one in moved if not _is_state(one.name)]
    largest = max((one.max_change or 0.0 for one in of_model or moved), default=None)
    if largest is not None:
        parts.append(f"max |Δ| {_number(largest)}")
    parts += [f"{number:,} {name}" for name, number in numbers.items() if number and name != "changed"]
    return ", ".join(parts)


def describe_nonfinite(compared: TensorDiff) -> str:
    """Return in how many tensors NaN or infinities appeared or went, or "": `new NaN or inf in 1 tensor`."""
    gained, lost = (sum(_nonfinite(one) == sign for one in compared.changes) for sign in (1, -1))
    parts = [f"new NaN or inf in {plural(gained, 'tensor')}"] if gained else []
    return ", ".join(parts + ([f"fewer NaN or inf in {plural(lost, 'tensor')}"] if lost else []))


def _nonfinite(change: TensorChange) -> int:
    """Return 1 if a tensor has more NaN and infinities than before, -1 if it has fewer, else 0."""
    before, after = change.nonfinite
    return (after > before) - (after < before)


def echo_tensors(compared: TensorDiffs, named: Container[str]) -> None:
    """Print a table for each weight file whose tensors differ: all of them if it is named, else the largest changes.

    Tensors that gained or lost NaN or infinities come first, and no file that has such is left out.
    """
    left = _TABLES
    for path, one in compared.items():
        is_odd = any(map(_nonfinite, one.changes))
        if not one.changes or (path not in named and not left and not is_odd):
            continue
        if path in named:
            shown = sorted(one.changes, key=_nonfinite_first)
        else:
            left = max(0, left - 1)
            shown = sorted(one.changes, key=_size, reverse=True)
            shown = sorted(shown, key=_nonfinite_first)[:_ROWS]
        click.echo()
        _echo_table(path, shown)
        if len(shown) < len(one.changes) or not one.is_compared:
            more = len(one.changes) - len(shown)
            what = f"{plural(more, 'more tensor')}, " if more else ""
            does = "lists all" if one.is_compared else "compares their values"
            echo_line([f"  …  {what}`-- PATH` {does}"])


def _size(change: TensorChange) -> tuple[bool, bool, float, float]:
    """Return what large changes are known by: weights, then other tensors than before, then how far they moved."""
    is_other = change.changed_share is None
    return not _is_state(change.name), is_other, change.relative_change or 0.0, change.max_change or 0.0


def _nonfinite_first(change: TensorChange) -> int:
    return {1: 0, -1: 1, 0: 2}[_nonfinite(change)]


def _is_state(name: str) -> bool:
    """Tell whether a tensor seems to be an optimizer's, by what its keys are called: it moves whatever happens."""
    return any(part.startswith("opt") for part in name.lower().split("."))


def _echo_table(path: str, changes: Sequence[TensorChange]) -> None:
    """Print the path and a table. Where it is too wide, what all names begin with is told once, above it.

    Then columns are left out, and beginnings of names, before the type is cut.
    """
    rows = [_HEAD, *map(_row, changes)]
    if not any(any(change.nonfinite) for change in changes):
        rows = _without(rows, _NONFINITE)
    width = terminal_width()
    title: list[Cell] = [path]
    if width is not None and table_width(rows, _INDENT) > width:
        prefix = _shared_prefix([cell_text(row[1]) for row in rows[1:]])
        if prefix:
            rows = [rows[0], *([row[0], cell_text(row[1])[len(prefix) :], *row[2:]] for row in rows[1:])]
            title += ["  names begin with ", prefix]
        rows = _fitted(rows, width)
    echo_line(title, fit=len(title) == 1)
    echo_table(rows, right=frozenset(range(2, len(rows[0]) - 1)), indent=_INDENT, fit=True)


def _fitted(rows: list[list[Cell]], width: int) -> list[list[Cell]]:
    """Return rows without the columns, and the beginnings of names, that would make them wider than that."""
    longest = max(columns(cell_text(row[1])) for row in rows)
    for title in _DISPENSABLE:
        others = table_width([[row[0], "", *row[2:]] for row in rows], _INDENT)
        least = longest if title == _DISPENSABLE[0] else min(longest, _NAME_WIDTH)
        if others + least <= width:
            break
        rows = _without(rows, title)
    room = max(width - table_width([[row[0], "", *row[2:]] for row in rows], _INDENT), _LEAST_NAME_WIDTH)
    return [[row[0], _shortened(cell_text(row[1]), room), *row[2:]] for row in rows]


def _without(rows: list[list[Cell]], title: str) -> list[list[Cell]]:
    at = rows[0].index(title)
    return [[*row[:at], *row[at + 1 :]] for row in rows]


def _shared_prefix(names: Sequence[str]) -> str:
    """Return what several names all begin with, up to the last separator in it."""
    if len(names) < 2:
        return ""
    one, other = min(names), max(names)  # what these share, all share
    shared = one[: next((at for at, (char, its) in enumerate(zip(one, other, strict=False)) if char != its), len(one))]
    return shared[: max(shared.rfind(mark) for mark in _SEPARATORS) + 1]


def _shortened(name: str, room: int) -> str:
    """Return a name of at most so many columns; its beginning, which many share, is left out."""
    if columns(name) <= room:
        return name
    while columns(name) >= room:
        name = name[1:]
    return "…" + name


def _row(change: TensorChange) -> list[Cell]:
    numbers = (change.relative_change, change.max_change, change.mean_change)
    cells = ["" if one is None else _number(one) for one in numbers]
    share = "" if change.changed_share is None else _percent(change.changed_share)
    old, new = (f"{count:,}" for count in change.nonfinite)
    counts = "" if old == new == "0" else old if old == new else f"{old} → {new}"
    odd: Cell = (counts, "red") if _nonfinite(change) > 0 else counts
    return [_LETTERS[change.change], change.name or "(array)", *cells, share, odd, _type(change)]


def echo_listed(tensors: Sequence[Tensor], *, show_all: bool) -> None:
    """Print the tensors of one file: name, dtype, shape and size; of many the first."""
    shown = tensors if show_all or len(tensors) <= _LISTED + _ROWS else tensors[:_LISTED]
    rows: list[list[Cell]] = [["TENSOR", "DTYPE", "SHAPE", "SIZE"]]
    for one in shown:
        shape = "" if one.shape is None else str(list(one.shape))
        rows.append([one.name or "(array)", one.dtype or "bytes", shape, format_bytes(one.size_bytes)])
    echo_table(rows, right=frozenset({3}), fit=True)
    if len(shown) < len(tensors):
        echo_line([f"…  {plural(len(tensors) - len(shown), 'more tensor')}, --all lists them"])


def _type(change: TensorChange) -> str:
    """Return dtype and shape, before and after where they differ."""
    before, after = change.before, change.after
    names = [one.dtype or "bytes" for one in (before, after) if one]
    shapes = [_shape(one) for one in (before, after) if one]
    return f"{' → '.join(dict.fromkeys(names))} {' → '.join(dict.fromkeys(shapes))}"


def _shape(tensor: Tensor) -> str:
    return format_bytes(tensor.size_bytes) if tensor.shape is None else str(list(tensor.shape))


def _number(value: float) -> str:
    return f"{value:.3g}"


def _percent(share: float) -> str:
    percent = 100 * share
    if 99.95 <= percent < 100:
        return ">99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.1g} %"


def tensors_json(compared: TensorDiff | None) -> dict[str, Any] | None:
    """Return a difference of tensors as JSON; None for what is no weight file. NaN and infinities are text."""
    if compared is None:
        return None
    return {
        "count": compared.count,
        "compared": compared.is_compared,
        "changes": [_change_json(change) for change in compared.changes],
    }


def _change_json(change: TensorChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "change": change.change,
        "before": _tensor_json(change.before),
        "after": _tensor_json(change.after),
        "max_change": json_value(change.max_change),
        "mean_change": json_value(change.mean_change),
        "relative_change": json_value(change.relative_change),
        "changed_share": change.changed_share,
        "nonfinite_before": change.nonfinite[0],
        "nonfinite_after": change.nonfinite[1],
    }


def _tensor_json(tensor: Tensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    shape = None if tensor.shape is None else list(tensor.shape)
    return {"dtype": tensor.dtype, "shape": shape, "bytes": tensor.size_bytes}
