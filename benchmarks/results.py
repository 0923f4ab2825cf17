"""What a workload found: samples by operation and tool, ratios between tools, targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Sample, Stored

_FIELDS = ("call", "wall", "cpu", "peak", "allocated", "files")


@dataclass(slots=True)
class Row:
    """One operation of one tool."""

    operation: str
    tool: str
    samples: list[Sample] = field(default_factory=list)
    stored: Stored | None = None

    def value(self, name: str) -> float | None:
        """Return a figure: the median over the rounds, or what the store took after the last."""
        if name in ("allocated", "files"):
            return getattr(self.stored, name, None)
        values = [value for sample in self.samples if (value := getattr(sample, name)) is not None]
        return statistics.median(values) if values else None

    def spread(self) -> tuple[float, float]:
        """Return the seconds of the fastest and the slowest round: of the call, or else of the process."""
        seconds = [one.wall or 0.0 if one.call is None else one.call for one in self.samples]
        return min(seconds), max(seconds)

    def values(self) -> dict[str, float | None]:
        return {name: self.value(name) for name in _FIELDS}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and the limit that it should keep. `text` says what the figure is."""

    text: str
    value: float
    limit: float
    unit: str

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit


@dataclass(slots=True)
class Result:
    """Everything about one workload; `about` says what was measured on what, in how many rounds."""

    name: str
    about: str
    rows: list[Row] = field(default_factory=list)
    comparisons: list[tuple[Row, Row]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def add(self, operation: str, tool: str, sample: Sample, stored: Stored | None = None) -> None:
        row = self.find(operation, tool)
        if row is None:
            row = Row(operation, tool)
            self.rows.append(row)
        row.samples.append(sample)
        row.stored = stored or row.stored

    def find(self, operation: str, tool: str) -> Row | None:
        return next((row for row in self.rows if (row.operation, row.tool) == (operation, tool)), None)

    def row(self, operation: str, tool: str) -> Row:
        found = self.find(operation, tool)
        assert found is not None, f"{operation} of {tool} was not measured"
        return found

    def compare(self, left: Row, right: Row) -> None:
        """Have the ratio of two rows shown."""
        self.comparisons.append((left, right))

    def to_json(self) -> dict[str, Any]:
        return {
            "about": self.about,
            "rows": [
                {
                    "operation": row.operation,
                    "tool": row.tool,
                    "median": row.values(),
                    "samples": [{name: getattr(one, name) for name in _FIELDS[:4]} for one in row.samples],
                }
                for row in self.rows
            ],
            "ratios": [
                {"of": [left.operation, left.tool], "to": [right.operation, right.tool], **ratios(left, right)}
                for left, right in self.comparisons
            ],
            "targets": [
                {"text": one.text, "value": one.value, "limit": one.limit, "unit": one.unit, "met": one.is_met}
                for one in self.targets
            ],
        }


def ratios(left: Row, right: Row) -> dict[str, float | None]:
    """Divide every figure of a row by that of another; an API call by the other tool's whole process."""
    found: dict[str, float | None] = {}
    for name in _FIELDS:
        mine, theirs = left.value(name), right.value(name)
        if name == "call" and theirs is None:
            theirs = right.value("wall")
        found[name] = mine / theirs if mine is not None and theirs else None
    return found


def ratio(left: float | None, right: float | None) -> float:
    """Divide two figures that were measured."""
    assert left is not None
    assert right
    return left / right


def missed(results: Iterable[Result]) -> list[Target]:
    """Return the targets that were not met."""
    return [target for result in results for target in result.targets if not target.is_met]
