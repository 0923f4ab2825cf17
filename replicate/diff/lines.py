"""What differs between two texts, line by line. Pure.

Lines that are unique in both texts are matched first, what lies between them by the shortest edit script (Myers 1986),
within a budget: texts that have little in common take linear time, and show as one replaced by the other.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

CONTEXT_LINES = 3
_BUDGET = 1_000_000
_HEAD_BYTES = 8 << 10
_CONTROL = bytes({*range(32), 127} - {*b"\b\t\n\f\r\x1b"})
_SECTION = re.compile(rb"\s*(?:async\s+def|def|class)\s|[A-Za-z_$]")
_SECTION_BYTES = 80


class Change(NamedTuple):
    """Lines `old_start:old_stop` of one text stand where lines `new_start:new_stop` of the other do."""

    old_start: int
    old_stop: int
    new_start: int
    new_stop: int


@dataclass(frozen=True, slots=True)
class Hunk:
    """Changed lines near each other, with up to three lines around them.

    Attributes:
        old_start, old_count: The first of its lines in the old text, from 1 (the line before when it has none).
        new_start, new_count: The same in the new text.
        section: The line that the hunk is below, such as a `def`; may be empty.
        lines: Each begins with a space, `-` or `+`, and ends as in the file: the last may lack its newline.
    """

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    section: bytes
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TextDiff:
    """How one file's text became another's.

    Attributes:
        added: Lines that the new text has and the old has not.
        removed: Lines that the old text has and the new has not.
        hunks: The lines; none when there is no text to show.
        note: Why not: "binary", "larger than 1.0 MB"; None when the hunks tell all.
    """

    added: int = 0
    removed: int = 0
    hunks: tuple[Hunk, ...] = ()
    note: str | None = None


def is_binary(data: bytes) -> bool:
    """Tell whether bytes are no text: a NUL in the first 8 KiB, or control characters more than now and then."""
    head = data[:_HEAD_BYTES]
    return b"\0" in head or (len(head) - len(head.translate(None, _CONTROL))) * 10 > len(head)


def diff_text(old: bytes, new: bytes) -> TextDiff:
    """Return what differs between two texts. Bytes are compared, whatever their encoding."""
    old_lines, new_lines = split_lines(old), split_lines(new)
    changes = find_changes(old_lines, new_lines)
    return TextDiff(
        sum(change.new_stop - change.new_start for change in changes),
        sum(change.old_stop - change.old_start for change in changes),
        tuple(_hunks(old_lines, new_lines, changes)),
    )


def split_lines(text: bytes) -> list[bytes]:
    """Return the lines of a text with their line feeds, which alone end lines."""
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def find_changes(old: Sequence[bytes], new: Sequence[bytes]) -> list[Change]:
    """Return what turns the old lines into the new, in order; between two changes there is an equal line at least."""
    shared = min(len(old), len(new))
    head = next((at for at in range(shared) if old[at] != new[at]), shared)
    tail = next((at for at in range(shared - head) if old[-1 - at] != new[-1 - at]), shared - head)
    anchors = _anchors(old[head : len(old) - tail], new[head : len(new) - tail])
    fixed = [(-1, -1), *anchors, (len(old) - tail - head, len(new) - tail - head)]
    budget = _BUDGET
    kept_old, kept_new = bytearray(len(old)), bytearray(len(new))
    kept_old[:head] = kept_new[:head] = b"\1" * head
    kept_old[len(old) - tail :] = kept_new[len(new) - tail :] = b"\1" * tail
    for (old_at, new_at), (old_next, new_next) in pairwise(fixed):
        i, j = head + old_at + 1, head + new_at + 1
        matched, budget = _shortest(old[i : head + old_next], new[j : head + new_next], budget)
        for one, other in matched:
            kept_old[i + one] = kept_new[j + other] = 1
    for one, other in anchors:
        kept_old[head + one] = kept_new[head + other] = 1
    changes = list(_changes(kept_old, kept_new))
    for number in range(len(changes)):
        changes[number] = _slide(changes, number, old, new)
    return changes


def _anchors(old: Sequence[bytes], new: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return pairs of lines that are unique in both, in an order that both have: the longest such list."""
    in_old, in_new = Counter(old), Counter(new)
    place = {line: at for at, line in enumerate(new) if in_new[line] == 1}
    pairs = [(at, place[line]) for at, line in enumerate(old) if in_old[line] == 1 and line in place]
    ends: list[int] = []
    chains: list[int] = []
    before: list[int] = []
    for number, (_, at) in enumerate(pairs):
        length = bisect_left(ends, at)
        before.append(chains[length - 1] if length else -1)
        ends[length : length + 1] = [at]
        chains[length : length + 1] = [number]
    found = []
    number = chains[-1] if chains else -1
    while number >= 0:
        found.append(pairs[number])
        number = before[number]
    return found[::-1]


def _shortest(old: Sequence[bytes], new: Sequence[bytes], budget: int) -> tuple[list[tuple[int, int]], int]:
    """Return the pairs of equal lines that a shortest edit script keeps, and what is left of the budget.

    No pairs when the budget does not suffice.
    """
    if not old or not new:
        return [], budget
    size, other_size = len(old), len(new)
    rounds: list[array[int]] = []
    before = array("q")
    for edits in range(size + other_size + 1):
        reached = array("q")
        for number in range(edits + 1):
            diagonal = 2 * number - edits
            start = at = _step(before, number, edits)[0] if edits else 0
            while at < size and at - diagonal < other_size and old[at] == new[at - diagonal]:
                at += 1
            reached.append(at)
            budget -= 1 + at - start
            if at >= size and at - diagonal >= other_size:
                return _walk_back(rounds, size, other_size), budget
        if budget < 0:
            break
        rounds.append(reached)
        before = reached
    return [], 0


def _step(before: array[int], number: int, edits: int) -> tuple[int, bool]:
    """Return how far the old text is read by one more edit on a diagonal, and whether that edit adds a line."""
    if number == 0 or (number < edits and before[number - 1] < before[number]):
        return before[number], True
    return before[number - 1] + 1, False


def _walk_back(rounds: Sequence[array[int]], at: int, other: int) -> list[tuple[int, int]]:
    """Return the pairs of equal lines on the way to the end of both texts, last first."""
    pairs = []
    for edits in range(len(rounds), -1, -1):
        start, adds = _step(rounds[edits - 1], (at - other + edits) // 2, edits) if edits else (0, True)
        while at > start:
            at, other = at - 1, other - 1
            pairs.append((at, other))
        at, other = (at, other - 1) if adds else (at - 1, other)
    return pairs


def _changes(kept_old: bytearray, kept_new: bytearray) -> Iterator[Change]:
    """Yield the runs of lines that are not kept."""
    i = j = 0
    while i < len(kept_old) or j < len(kept_new):
        k, m = kept_old.find(1, i), kept_new.find(1, j)
        k, m = (len(kept_old) if k < 0 else k), (len(kept_new) if m < 0 else m)
        if k > i or m > j:
            yield Change(i, k, j, m)
        next_old, next_new = kept_old.find(0, k), kept_new.find(0, m)
        run = min((len(kept_old) if next_old < 0 else next_old) - k, (len(kept_new) if next_new < 0 else next_new) - m)
        i, j = k + run, m + run


def _slide(changes: list[Change], number: int, old: Sequence[bytes], new: Sequence[bytes]) -> Change:
    """Return a change that only adds or only removes lines, moved to the place that reads best among equals.

    Best is where its first line and the line after it are indented least, then after an empty line: functions are added
    whole.
    """
    change = changes[number]
    if (change.old_start == change.old_stop) == (change.new_start == change.new_stop):
        return change
    adds = change.old_start == change.old_stop
    lines = new if adds else old
    start, stop = (change.new_start, change.new_stop) if adds else (change.old_start, change.old_stop)
    first, last = 0, len(lines)  # an equal line stays between it and its neighbours
    if number:
        first = 1 + (changes[number - 1].new_stop if adds else changes[number - 1].old_stop)
    if number + 1 < len(changes):
        last = (changes[number + 1].new_start if adds else changes[number + 1].old_start) - 1
    best, shift, at = _untidiness(lines, start, stop), 0, 0
    while start + at > first and lines[start + at - 1] == lines[stop + at - 1]:
        at -= 1
        score = _untidiness(lines, start + at, stop + at)
        if score < best:
            best, shift = score, at
    at = 0
    while stop + at < last and lines[start + at] == lines[stop + at]:
        at += 1
        score = _untidiness(lines, start + at, stop + at)
        if score <= best:
            best, shift = score, at
    return Change(*(one + shift for one in change))


def _untidiness(lines: Sequence[bytes], start: int, stop: int) -> int:
    indents = sum(_indent(lines[at]) if at < len(lines) else 0 for at in (start, stop))
    return 2 * indents + (start > 0 and not lines[start - 1].isspace())


def _indent(line: bytes) -> int:
    text = line.expandtabs(4)
    bare = text.lstrip()
    return len(text) - len(bare) if bare else 1


def _hunks(old: Sequence[bytes], new: Sequence[bytes], changes: Sequence[Change]) -> Iterator[Hunk]:
    """Yield the changes with the lines around them; those whose surroundings touch are one."""
    groups: list[list[Change]] = []
    for change in changes:
        if groups and change.old_start - groups[-1][-1].old_stop <= 2 * CONTEXT_LINES:
            groups[-1].append(change)
        else:
            groups.append([change])
    section, read = b"", 0
    for group in groups:
        begin = max(group[0].old_start - CONTEXT_LINES, read)
        section = _section(old, read, begin) or section
        read = begin
        yield _hunk(old, new, group, section)


def _hunk(old: Sequence[bytes], new: Sequence[bytes], group: Sequence[Change], section: bytes) -> Hunk:
    lead = min(CONTEXT_LINES, group[0].old_start)
    trail = min(CONTEXT_LINES, len(old) - group[-1].old_stop)
    begin, new_begin = group[0].old_start - lead, group[0].new_start - lead
    end, new_end = group[-1].old_stop + trail, group[-1].new_stop + trail
    lines: list[bytes] = []
    at = begin
    for change in group:
        lines += [b" " + line for line in old[at : change.old_start]]
        lines += [b"-" + line for line in old[change.old_start : change.old_stop]]
        lines += [b"+" + line for line in new[change.new_start : change.new_stop]]
        at = change.old_stop
    lines += [b" " + line for line in old[at:end]]
    count, new_count = end - begin, new_end - new_begin
    return Hunk(
        begin + 1 if count else begin,
        count,
        new_begin + 1 if new_count else new_begin,
        new_count,
        section,
        tuple(lines),
    )


def _section(old: Sequence[bytes], first: int, begin: int) -> bytes:
    """Return the last line from `first` to a hunk that begins a function or class, or stands at the left margin."""
    found = next((old[at] for at in range(begin - 1, first - 1, -1) if _SECTION.match(old[at])), b"")
    return found[:_SECTION_BYTES].rstrip()
