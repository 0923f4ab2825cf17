"""What differs between params, metrics, packages: values by name. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One value that differs.

    Attributes:
        name: What it is called; what is in dicts and lists as `optimizer.lr` and `layers[2]`.
        change: "added", "removed" or "changed".
        before: The value before; None when it was added.
        after: The value after; None when it was removed.
    """

    name: str
    change: Literal["added", "removed", "changed"]
    before: Any
    after: Any

    @property
    def percent(self) -> float | None:
        """By how much a number grew, in percent of what it was; None when that means nothing."""
        if not (_is_number(self.before) and _is_number(self.after)) or not self.before:
            return None
        try:
            percent = (float(self.after) - float(self.before)) / abs(float(self.before)) * 100
        except OverflowError:
            return None
        return percent if math.isfinite(percent) else None

    def is_better(self, goal: str) -> bool | None:
        """Tell whether the number after is better than the one before for a goal; None when they do not compare."""
        if not (_is_number(self.before) and _is_number(self.after)) or math.isnan(self.before + self.after):
            return None
        return bool(self.after < self.before if goal == "minimize" else self.after > self.before)


def compare_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[ValueChange, ...]:
    """Return the values that differ, by name. NaN equals NaN, 1 equals 1.0, true does not equal 1."""
    return tuple(_compare_maps("", before, after))


def _compare_maps(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[ValueChange]:
    for key in sorted({**before, **after}):
        yield from _compare(f"{prefix}{key}", before.get(key, _ABSENT), after.get(key, _ABSENT))


def _compare(name: str, before: Any, after: Any) -> Iterator[ValueChange]:
    sides = [one for one in (before, after) if one is not _ABSENT]
    if all(isinstance(one, dict) for one in sides) and any(sides):
        maps = [one if isinstance(one, dict) else {} for one in (before, after)]
        yield from _compare_maps(f"{name}.", maps[0], maps[1])
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _compare(f"{name}[{number}]", one, other)
    elif before is _ABSENT:
        yield ValueChange(name, "added", None, after)
    elif after is _ABSENT:
        yield ValueChange(name, "removed", before, None)
    elif not _is_same(before, after):
        yield ValueChange(name, "changed", before, after)


def _is_same(before: Any, after: Any) -> bool:
    """Tell whether two values that are not both dicts, nor lists of one length, are the same."""
    if _is_number(before) and _is_number(after):
        return bool(before == after) or (before != before and after != after)
    return type(before) is type(after) and bool(before == after)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
