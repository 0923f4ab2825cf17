"""Every series, saved checkpoint by checkpoint by every tool in turn: bytes and seconds, and back, byte for byte."""

from __future__ import annotations

import filecmp
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Sample
from benchmarks.report import aligned
from benchmarks.results import Target
from benchmarks.weights.peers import PEERS, RIVALS, Peer, Replicate, ZipNN
from benchmarks.weights.series import files_of

_TOTALS = {
    "gpt": {"fp32": 0.92, "bf16": 0.79, "pt": 0.93},
    "finetune": {"fp32": 0.45, "bf16": 0.22, "pt": 0.68},
    "frozen": {"fp32": 0.72, "bf16": 0.72, "pt": 0.72},
    "lora": {"fp32": 0.36, "bf16": 0.36, "pt": 0.36},
}
_HEAD = ("", "stored", "ratio", "first file", "first", "later", "slowest", "cpu", "restore first", "last")


@dataclass(slots=True)
class Row:
    """One tool with one series: samples of its saves, in order, of restoring files by number, and bytes after each."""

    tool: str
    saves: list[Sample] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    restores: dict[int, Sample] = field(default_factory=dict)


@dataclass(slots=True)
class Compared:
    """What every tool did with one series."""

    series: str
    form: str
    raw: int
    count: int
    rows: list[Row]

    def row(self, tool: str) -> Row | None:
        return next((row for row in self.rows if row.tool == tool), None)

    def targets(self) -> list[Target]:
        """Return what replicate's store is held against, where it and who it is held against were measured."""
        name, found = f"{self.series} {self.form}", []
        mine, zipnn = self.row(Replicate.name), self.row(ZipNN.name)
        theirs = [row.stored[-1] for row in self.rows if row.tool in RIVALS]
        if mine is None:
            return []
        if theirs:
            text = f"{name}: stored, next to the best of {', '.join(RIVALS)}"
            found.append(Target(text, mine.stored[-1] / min(theirs), _TOTALS[self.series][self.form], "×"))
        if zipnn is not None and self.form != "pt":
            found.append(Target(f"{name}: first file next to zipnn", mine.stored[0] / zipnn.stored[0], 1.005, "×"))
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(folder: Path, series: str, form: str, tools: Iterable[type[Peer]]) -> Compared:
    """Save a series' files by the tools in turn, in another order each time; restore and compare with what was saved.

    Raises:
        RuntimeError: A tool failed, or gave back other bytes.
    """
    files = files_of(folder, series, form)
    raw = sum(path.stat().st_size for path in files)
    item_bytes = 2 if form == "bf16" else 4
    with tempfile.TemporaryDirectory(prefix="replicate-weights-") as work:
        peers = [tool(Path(work) / tool.__name__) for tool in tools]
        rows = {peer.name: Row(peer.name) for peer in peers}
        try:
            for peer in peers:
                peer.prepare()
            for number, file in enumerate(files):
                file.read_bytes()  # into the page cache
                turn = number % len(peers)
                for peer in (*peers[turn:], *peers[:turn]):
                    rows[peer.name].saves.append(peer.save(file, item_bytes))
                    rows[peer.name].stored.append(peer.stored())
            for peer in peers:
                peer.close()
            for peer in peers:
                # The library has to give back every file; its peers are trusted with those in between.
                wanted = range(len(files)) if peer.name == Replicate.name else (0, len(files) - 1)
                rows[peer.name].restores = {number: restored(peer, number, files[number]) for number in wanted}
                shutil.rmtree(peer.folder)
        finally:
            for peer in peers:
                peer.close()
    return Compared(series, form, raw, len(files), list(rows.values()))


def missing() -> dict[str, str]:
    """Return the tools that cannot be measured here, and why."""
    return {tool.name: why for tool in PEERS if (why := tool.missing())}


def table(compared: Compared) -> str:
    """Return a series as text; the smallest store first."""
    lines: list[Sequence[str]] = [_HEAD]
    for row in sorted(compared.rows, key=lambda row: row.stored[-1]):
        first, *later = (seconds(sample) for sample in row.saves)
        ends = (seconds(row.restores[0]), seconds(row.restores[compared.count - 1]))
        figures = (first, statistics.median(later), max(later), statistics.median(one.cpu or 0 for one in row.saves))
        lines.append(
            (
                row.tool,
                f"{row.stored[-1] / 1e6:,.1f} MB",
                f"{compared.raw / row.stored[-1]:.2f}",
                f"{row.stored[0] / 1e6:,.1f} MB",
                *(f"{one:.2f} s" for one in (*figures, *ends)),
            )
        )
    title = f"{compared.series} {compared.form}: {compared.count} files, {compared.raw / 1e6:,.1f} MB"
    return "\n".join([title, "", *aligned(lines, 1)])


def summary(found: Sequence[Compared]) -> str:
    """Return the bytes of all series in one table, in MB."""
    tools = [tool.name for tool in PEERS if any(one.row(tool.name) for one in found)]
    lines: list[Sequence[str]] = [("stored, MB", "raw", *tools)]
    for one in found:
        rows = [one.row(tool) for tool in tools]
        cells = ("" if row is None else f"{row.stored[-1] / 1e6:,.1f}" for row in rows)
        lines.append((f"{one.series} {one.form}", f"{one.raw / 1e6:,.1f}", *cells))
    return "\n".join(aligned(lines, 1))


def seconds(sample: Sample) -> float:
    """Return what the caller waits: for the call of a library, for the whole process of a program."""
    found = sample.wall if sample.call is None else sample.call
    assert found is not None
    return found


def restored(peer: Peer, number: int, file: Path) -> Sample:
    """Restore what a save of `file` made, and check it."""
    sample, path = peer.restore(number)
    if not filecmp.cmp(path, file, shallow=False):
        raise RuntimeError(f"{peer.name} gave back other bytes for {file}")
    path.unlink()
    return sample
