"""How commits, files, times and values are given to people and programs: sentences, JSON, tables. Floor 7."""

from __future__ import annotations

import datetime
import html
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from replicate.objects.model import Mode, TreeEntry
from replicate.refs import CommitRecord
from replicate.text import format_bytes, format_seconds, format_value

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

FileKind = Literal["file", "executable", "symlink", "folder"]

KINDS: dict[Mode, FileKind] = {
    Mode.FILE: "file",
    Mode.EXECUTABLE: "executable",
    Mode.SYMLINK: "symlink",
    Mode.DIRECTORY: "folder",
}
"""What people call the modes of entries."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a checkpoint.

    Attributes:
        path: Relative to the project, with `/`; bytes that are not UTF-8 as surrogates, as `os.fsdecode` gives them.
        size_bytes: Its length.
        kind: "file", "executable" or "symlink"; of a difference also "folder", which is an empty one.
        object_id: BLAKE3 of its bytes, 64 hex digits: what `b3sum` prints. Empty for a file of the worktree that was
            not read.
    """

    path: str
    size_bytes: int
    kind: FileKind
    object_id: str

    @classmethod
    def of(cls, path: bytes, entry: TreeEntry) -> File:
        """Return the file at a path of a tree."""
        return cls(os.fsdecode(path), entry.size_bytes, KINDS[entry.mode], entry.object_id.hex())


def describe_saved(record: CommitRecord, primary: tuple[str, str] | None) -> str:
    """Return the line that tells of a saved checkpoint: what, which step, how large, how long."""
    commit = record.commit
    parts = [f"checkpoint {record.commit_id.short}", f"step {commit.step}"]
    shown = primary[0] if primary and primary[0] in commit.metrics else next(iter(commit.metrics), None)
    if shown is not None:
        parts.append(f"{shown} {format_value(commit.metrics[shown])}")
    parts.append(f"{format_bytes(record.bytes)}, {describe_new(record)}")
    parts.append(format_seconds(record.duration_ns / 1e9))
    return " · ".join(parts)


def describe_new(record: CommitRecord) -> str:
    """Return how much was new to the store; and what that takes there, where it was made a good deal smaller."""
    new = f"{format_bytes(record.new_bytes)} new"
    is_small = 0 < record.stored_bytes < 0.9 * record.new_bytes
    return f"{new}, {format_bytes(record.stored_bytes)} stored" if is_small else new


def split_author(author: str) -> tuple[str, str]:
    """Return user and host of an author, `user@host`; a user may have an @ too, and one of them may be missing."""
    user, at, host = author.rpartition("@")
    return (user, host) if at else (author, "")


def to_datetime(time_ns: int) -> datetime.datetime:
    """Return a time in ns since 1970 as an aware datetime in UTC; out of range, the nearest that Python knows."""
    try:
        return _EPOCH + datetime.timedelta(microseconds=time_ns // 1_000)
    except OverflowError:
        return (datetime.datetime.min if time_ns < 0 else datetime.datetime.max).replace(tzinfo=datetime.UTC)


def json_time(time: datetime.datetime) -> str:
    """Return a time as RFC 3339 text in UTC."""
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinities as text, bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    return [json_value(item) for item in value] if isinstance(value, list) else value


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a notebook."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
