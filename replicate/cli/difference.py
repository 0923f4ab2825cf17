"""How differences look: a summary, the text of code, a list of files, JSON."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from typing import Any

import click

from replicate.cli.patches import echo_lines, text_lines
from replicate.cli.render import Cell, echo_line, echo_table, json_path, quote_path
from replicate.cli.tensors import compare_tensors, describe_nonfinite, describe_tensors, echo_tensors, tensors_json
from replicate.diff import Difference, FileChange, TensorDiff, TextDiff, ValueChange
from replicate.presenting import File, json_value
from replicate.text import columns, cut, format_bytes, format_value, plural, printable

_FILES = 50
_PACKAGES = 10
_LINES = 200
_DATA_BYTES = 64 << 10
_WIDTH = 40
_TITLE_WIDTH = 9
_LETTER_COLOURS = {"A": "green", "D": "red"}
_KIND_NAMES = {"file": "file", "executable": "executable", "symlink": "link", "folder": "empty folder"}
_CODE_NAMES = frozenset(["dockerfile", "justfile", "makefile", "requirements.txt", "snakefile", ".replicateignore"])
_ENDINGS = (
    ".bash .bat .c .cc .cfg .cmake .conf .cpp .css .cu .cuh .cxx .go .h .hpp .html .ini .java .jl .js .kt .lua .m .md "
    ".mk .mm .nix .pl .proto .ps1 .py .pyi .pyx .r .rb .rs .rst .scala .sh .sql .swift .tex .toml .ts .tsx .vue .yaml "
    ".yml .zig .zsh"
)
_CODE_ENDINGS = frozenset(_ENDINGS.split())


def echo_difference(
    difference: Difference, title: Sequence[Cell], files: int | None, named: Container[str] = ()
) -> None:
    """Print what differs: a summary, then the text of files that are there now: of code, and of small other files.

    Args:
        difference: What differs.
        title: What is compared.
        files: How many files there are after, or before when that is the worktree; None if not all were compared.
        named: Files that were asked for by their path: their text is shown in any case, and whole.
    """
    echo_line(title, fit=True)
    click.echo()
    _echo_values(difference)
    if difference.command:
        for mark, command in (("−", difference.command.before), ("+", difference.command.after)):
            echo_line([_title("command" if mark == "−" else ""), f"  {mark} {command}"], fit=True)
    shown = difference.files[:_FILES]
    tensors = compare_tensors(difference, shown, named)
    rows = [
        [_title("" if at else "files"), *_file_row(change, difference.text(change), tensors.get(change.path))]
        for at, change in enumerate(shown)
    ]
    echo_table(rows, right=frozenset({3, 4}), fit=True)
    if len(shown) < len(difference.files):
        _echo_more("files", len(rows), f"{len(difference.files) - len(shown):,} more, --stat lists all")
    elif files is not None:
        counted = [change.after if difference.after else change.before for change in difference.files]
        equal = files - sum(file is not None and file.kind in ("file", "executable") for file in counted)
        if equal > 0:
            _echo_more("files", len(rows), f"{plural(equal, 'file')} equal")
    echo_tensors(tensors, named)
    _echo_texts(difference, shown, named)


def _echo_texts(difference: Difference, changes: Sequence[FileChange], named: Container[str]) -> None:
    """Print the text of files and tell of how many it was left out. One at a time is held; they are read again."""
    left_out, room = 0, _LINES
    for change in changes:
        files = [file for file in (change.before, change.after) if file]
        lines = list(text_lines(change.before, change.after, difference.text(change)))
        is_named = any(file.path in named for file in files)
        if not lines:
            continue
        if is_named:
            shown = lines
        elif change.after and _is_code(change.after):
            shown = lines[:_LINES]
        elif change.after and len(lines) <= room and all(file.size_bytes <= _DATA_BYTES for file in files):
            shown, room = lines, room - len(lines)
        else:
            left_out += 1
            continue
        click.echo()
        echo_lines(shown)
        if len(shown) < len(lines):
            echo_line([f"… {len(lines) - len(shown):,} lines more, -p shows them"])
    if left_out:
        click.echo()
        echo_line([f"-p shows the text of {left_out:,} more {'file' if left_out == 1 else 'files'}"])


def _title(text: str) -> str:
    return text.ljust(_TITLE_WIDTH)


def _echo_more(title: str, rows: int, text: str) -> None:
    """Print what else there is below the rows of a section, which may have none."""
    echo_line([_title("" if rows else title), "  …  ", text])


def _echo_values(difference: Difference) -> None:
    packages = difference.packages or ()
    hidden = len(packages) - _PACKAGES if len(packages) > _PACKAGES + 2 else 0
    sections = {
        "params": difference.params,
        "metrics": difference.metrics,
        "packages": packages[: len(packages) - hidden],
        "git": difference.git,
    }
    names = {change.name: printable(change.name) for changes in sections.values() for change in changes}
    width = max(map(columns, names.values()), default=0)
    for title, changes in sections.items():
        rows: list[list[Cell]] = []
        for change in changes:
            name = names[change.name] + " " * (width - columns(names[change.name]))
            rows.append([_title("" if rows else title), name, _values(change, title)])
            percent = change.percent if title == "metrics" else None
            if percent is not None:
                rows[-1].append((_percent(percent), _colour(change, difference.primary_metric)))
        echo_table(rows, right=frozenset({3}), fit=True)
        if title == "packages" and hidden:
            _echo_more(title, len(rows), f"{hidden:,} more, --json lists all")


def _values(change: ValueChange, title: str) -> str:
    """Return both values, with what tells them apart."""
    before, after = change.before, change.after
    if title == "git":
        values = [value[:7] if change.name == "commit" else value for value in map(_text, (before, after))]
    else:
        values = [format_value(value, _WIDTH) for value in (before, after)]
    if change.change == "added":
        return f"{values[1]} (added)"
    if change.change == "removed":
        return f"{values[0]} (removed)"
    if values[0] == values[1]:
        texts = [repr(value) for value in (before, after)]
        shared = next((at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), 0)
        if shared > _WIDTH // 2:
            texts = ["…" + text[shared - _WIDTH // 4 :] for text in texts]
        values = [cut(printable(text), _WIDTH) for text in texts]
    return f"{values[0]} → {values[1]}"


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _percent(percent: float) -> str:
    size = abs(percent)
    text = f"{size:,.0f}" if size >= 1000 else f"{size:.1f}" if size >= 0.1 else f"{size:.1g}"
    return f"{'−' if percent < 0 else '+'}{text} %"


def _colour(change: ValueChange, primary: tuple[str, str] | None) -> str:
    """Return green for a better primary metric and red for a worse one."""
    if primary is None or primary[0] != change.name:
        return ""
    return {True: "green", False: "red", None: ""}[change.is_better(primary[1])]


def _file_row(change: FileChange, text: TextDiff, tensors: TensorDiff | None = None) -> list[Cell]:
    """Return letter, path, lines that were added and removed, and what else there is to say."""
    kinds = {file.kind for file in (change.before, change.after) if file}
    return [
        (change.letter, _LETTER_COLOURS.get(change.letter, "")),
        _shown(change.path) + ("/" if kinds == {"folder"} else ""),
        (f"+{text.added:,}" if text.added else "", "green"),
        (f"−{text.removed:,}" if text.removed else "", "red"),
        _detail(change, text, tensors),
    ]


def _shown(path: str) -> str:
    return quote_path(os.fsencode(path))


def _detail(change: FileChange, text: TextDiff, tensors: TensorDiff | None) -> str:
    """Return what the lines do not tell of a file: where it was, its kind; when it is no text, size and tensors."""
    before, after = change.before, change.after
    odd = describe_nonfinite(tensors) if tensors is not None else ""
    parts = [odd] if odd else []  # first: what comes later may be cut
    if before and after and before.path != after.path:
        parts.append(f"from {_shown(before.path)}")
    if change.letter in "AD" and "symlink" in [file.kind for file in (before, after) if file]:
        parts.append("link")
    if before and after and before.kind != after.kind:
        parts.append(f"{_KIND_NAMES[before.kind]} → {_KIND_NAMES[after.kind]}")
    if text.note in ("binary", "more than 1 MiB"):
        sizes = [format_bytes(file.size_bytes) for file in (before, after) if file]
        parts.append(" → ".join(dict.fromkeys(sizes)))
    elif text.note:
        parts.append(text.note)
    if tensors is not None:
        parts.append(describe_tensors(tensors))
    return ", ".join(parts)


def _is_code(file: File) -> bool:
    name = os.path.basename(file.path).lower()
    return name in _CODE_NAMES or os.path.splitext(name)[1] in _CODE_ENDINGS


def echo_stat(difference: Difference) -> None:
    """Print all files that differ, with lines or sizes, and their sum."""
    rows = []
    added = removed = 0
    for change in difference.files:
        text = difference.text(change)
        rows.append(_file_row(change, text))
        added, removed = added + text.added, removed + text.removed
    echo_table(rows, right=frozenset({2, 3}), fit=True)
    echo_line([f"{plural(len(rows), 'file')}, ", (f"+{added:,}", "green"), " ", (f"−{removed:,}", "red")])


def difference_json(difference: Difference, named: Container[str] = ()) -> dict[str, Any]:
    """Return a difference as JSON, every file with its lines or why there are none. NaN and infinities are text.

    Values of tensors are compared in `named` files, and others while they are few.
    """
    packages = difference.packages
    tensors = compare_tensors(difference, difference.files, named)
    return {
        "before": difference.before,
        "after": difference.after,
        "params": list(map(_value_json, difference.params)),
        "metrics": [_value_json(change) | {"percent": change.percent} for change in difference.metrics],
        "packages": None if packages is None else list(map(_value_json, packages)),
        "git": list(map(_value_json, difference.git)),
        "command": _value_json(difference.command) if difference.command else None,
        "files": [
            _change_json(change, difference.text(change)) | {"tensors": tensors_json(tensors.get(change.path))}
            for change in difference.files
        ],
    }


def _value_json(change: ValueChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "change": change.change,
        "before": json_value(change.before),
        "after": json_value(change.after),
    }


def _change_json(change: FileChange, text: TextDiff) -> dict[str, Any]:
    return {
        "change": change.change,
        "before": _file_json(change.before),
        "after": _file_json(change.after),
        "lines_added": None if text.note else text.added,
        "lines_removed": None if text.note else text.removed,
        "note": text.note,
    }


def _file_json(file: File | None) -> dict[str, Any] | None:
    if file is None:
        return None
    path = json_path(os.fsencode(file.path))
    return {**path, "kind": file.kind, "bytes": file.size_bytes, "id": file.object_id or None}
