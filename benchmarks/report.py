"""Results as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.results import Result, Target, ratios

_HEAD = ("", "", "call", "process", "fastest", "slowest", "cpu", "peak", "stored", "files")


def machine_text(machine: Mapping[str, str]) -> str:
    """Return the machine in one paragraph."""
    return "\n".join(f"{name:12} {value}" for name, value in machine.items())


def result_text(result: Result) -> str:
    """Return a workload's rows, ratios and targets."""
    lines: list[Sequence[str]] = [_HEAD]
    for row in result.rows:
        value = row.values()
        lines.append(
            (
                row.operation,
                row.tool,
                *(_seconds(value[name]) for name in ("call", "wall")),
                *(_seconds(seconds) for seconds in row.spread()),
                _seconds(value["cpu"]),
                _megabytes(value["peak"]) or "-",
                _megabytes(value["allocated"]),
                "" if value["files"] is None else f"{value['files']:,.0f}",
            )
        )
    for left, right in result.comparisons:
        names = (left.operation, f"{left.tool} / {right.tool}" if left.tool != right.tool else f"/ {right.operation}")
        cells = ["" if one is None else f"{one:.2f}x" for one in ratios(left, right).values()]
        lines.append((*names, *cells[:2], "", "", *cells[2:]))
    text = [f"{result.name}: {result.about}", "", *aligned(lines, 2), ""]
    text += [target_text(target) for target in result.targets]
    return "\n".join(text)


def aligned(lines: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Return the lines of a table; the first columns are texts, the rest are figures, to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def target_text(target: Target, digits: int = 2) -> str:
    """Return whether a target is met, and by how much."""
    verdict = "ok    " if target.is_met else "MISSED"
    return f"{verdict} {target.text}: {target.value:.{digits}f} {target.unit}, at most {target.limit:.{digits}f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f} MB"
