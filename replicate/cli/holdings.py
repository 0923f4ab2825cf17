"""How it looks what encodings hold, and what the files of a checkpoint take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replicate.cli.render import Cell, echo_json, echo_table, json_path, quote_path
from replicate.encodings import Encodings, FileUsage
from replicate.text import format_bytes

_SHOWN = 3


def encodings_text(found: Encodings) -> str:
    """Return what encodings hold, the most first: `delta 88 MB → 3.9 MB, raw 3.1 MB`. Lists of chunks go last."""
    listed = sorted(found.by_name.items(), key=lambda item: (-item[1].logical, -item[1].stored))
    parts = []
    for name, one in listed[:_SHOWN]:
        sizes = [format_bytes(one.logical), format_bytes(one.stored)] if one.logical else [format_bytes(one.stored)]
        parts.append(f"{name} {' → '.join(dict.fromkeys(sizes))}")
    return ", ".join(parts) + (", …" if len(listed) > _SHOWN else "")


def encodings_json(found: Encodings) -> dict[str, Any]:
    """Return what encodings hold as JSON."""
    return {
        name: {"objects": one.objects, "bytes": one.logical, "stored_bytes": one.stored}
        for name, one in sorted(found.by_name.items())
    }


def echo_files(files: Sequence[FileUsage], stored: int | None, *, as_json: bool) -> None:
    """Print what the files of a checkpoint take, largest first.

    Args:
        files: The files.
        stored: What was written for the whole checkpoint; None if these are not all its files.
        as_json: Print JSON.
    """
    if as_json:
        echo_json([_file_json(one) for one in files])
        return
    all_of_it = Encodings()
    rows: list[list[Cell]] = [["FILE", "LOGICAL", "STORED", "HELD BY"]]
    for one in sorted(files, key=lambda one: (-one.stored, -one.logical, one.path)):
        sizes = [format_bytes(one.logical), format_bytes(one.stored)]
        held = encodings_text(one.encodings) if one.same_as is None else f"= {quote_path(one.same_as)}"
        rows.append([quote_path(one.path), *sizes, held])
        all_of_it.merge(one.encodings)
    written = sum(one.stored for one in files)
    if stored is not None:
        rows.append(["folders, commit, lists", "", format_bytes(max(0, stored - written))])
    logical = sum(one.logical for one in files)
    rows.append(["total", format_bytes(logical), format_bytes(stored or written), encodings_text(all_of_it)])
    echo_table(rows, right=frozenset({1, 2}), fit=True)


def _file_json(one: FileUsage) -> dict[str, Any]:
    sizes = {"bytes": one.logical, "stored_bytes": one.stored}
    same_as = None if one.same_as is None else json_path(one.same_as)
    return {**json_path(one.path), **sizes, "encodings": encodings_json(one.encodings), "same_as": same_as}
