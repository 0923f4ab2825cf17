"""The coders alone, in memory, on the files in the middle of real series: planes next to ZipNN, deltas next to xor.

Both sides use two threads. Medians of rounds in which they take turns.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import aligned
from benchmarks.results import Target
from benchmarks.weights import xor
from benchmarks.weights.series import files_of
from replicate.objects.codecs import delta, planes
from replicate.objects.cutting import cut_file
from replicate.objects.ids import ObjectID

_ROUNDS = 7
_THREADS = 2
_BASE = ObjectID(bytes(32))
_ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_KINDS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_FLOORS = {("gpt", "fp32"): 1.04, ("gpt", "bf16"): 1.10, ("finetune", "fp32"): 1.2, ("finetune", "bf16"): 1.5}
_HEAD = ("", "raw", "planes", "zipnn", "MB/s", "zipnn", "delta", "ordered", "xor", "MB/s", "ordered", "xor")


class Coded(NamedTuple):
    """What a coder made: bytes, and the median of its seconds."""

    size: int
    seconds: float


def measure(folder: Path, name: str, form: str) -> tuple[Sequence[str], dict[str, Coded], list[Target]]:
    """Code a series' middle file with and without the file before; return a line, all figures, and targets."""
    files = files_of(folder, name, "fp32" if form == "fp16" else form)
    before, file = (_read(path, form) for path in files[len(files) // 2 - 1 : len(files) // 2 + 1])
    item_bytes = _ITEM_BYTES[form]
    cuts = [slice(start, stop) for start, stop in _cuts(files[0], form)]

    def ours(data: bytearray, code: Callable[[memoryview, memoryview], bytes | None]) -> int:
        with ThreadPoolExecutor(_THREADS) as pool:
            pieces = [(memoryview(data)[cut], memoryview(before)[cut]) for cut in cuts]
            made = pool.map(lambda piece: code(*piece), pieces)
            return sum(len(piece if one is None else one) for one, (piece, _) in zip(made, pieces, strict=True))

    coders: dict[str, Callable[[bytearray], int]] = {
        "planes": lambda data: ours(data, lambda new, _: planes.encode(new, item_bytes)),
        "delta": lambda data: ours(data, lambda new, old: delta.encode(new, item_bytes, _BASE, old)),
        "ordered": lambda data: ours(data, lambda new, old: delta.encode(new, item_bytes, _BASE, old, ordered=True)),
        "xor": lambda data: sum(map(len, xor.encode(data, before, item_bytes))),
    }
    if importlib.util.find_spec("zipnn"):
        coders["zipnn"] = lambda data: _zipnn(data, form)
    found = _in_turn(coders, file)
    return _line(f"{name} {form}", len(file), found), found, _targets(name, form, found)


def table(lines: Iterable[Sequence[str]]) -> str:
    """Return the lines under their head."""
    return "\n".join(aligned([_HEAD, *lines], 1))


def _in_turn(coders: dict[str, Callable[[bytearray], int]], file: bytes) -> dict[str, Coded]:
    seconds: dict[str, list[float]] = {name: [] for name in coders}
    sizes: dict[str, int] = {}
    for _ in range(_ROUNDS):
        for name, code in coders.items():
            data = bytearray(file)  # each its own: ZipNN changes what it is given
            start = time.perf_counter()
            sizes[name] = code(data)
            seconds[name].append(time.perf_counter() - start)
    return {name: Coded(sizes[name], statistics.median(seconds[name])) for name in coders}


def _zipnn(data: bytearray, form: str) -> int:
    from zipnn import ZipNN

    coder: Any = ZipNN(input_format="byte", bytearray_dtype=_KINDS[form], threads=_THREADS)
    return len(coder.compress(data))


def _read(path: Path, form: str) -> bytes:
    data = path.read_bytes()
    return data if form != "fp16" else _floats(data).astype(np.float16).tobytes()


def _floats(data: bytes) -> Any:
    return np.frombuffer(data, np.float32, offset=8 + int.from_bytes(data[:8], "little"))


def _cuts(path: Path, form: str) -> Iterable[tuple[int, int]]:
    """Yield where the library cuts the file; for fp16 where it cuts the fp32 file that it was made from."""
    data = path.read_bytes()
    start = len(data) - _floats(data).nbytes if form == "fp16" else 0
    for piece in cut_file(len(data), lambda offset, length: data[offset : offset + length]):
        first, last = (at - start for at in (piece.offset, piece.offset + piece.length))
        if form != "fp16":
            yield first, last
        elif last > 0:
            yield max(first, 0) // 2, last // 2


def _line(title: str, raw: int, found: dict[str, Coded]) -> Sequence[str]:
    def ratio(name: str) -> str:
        return f"{raw / found[name].size:.3f}" if name in found else "-"

    def speed(name: str) -> str:
        return f"{raw / found[name].seconds / 1e6:,.0f}" if name in found else "-"

    names = ("delta", "ordered", "xor")
    return (
        title,
        f"{raw / 1e6:,.1f} MB",
        *(ratio(name) for name in ("planes", "zipnn")),
        *(speed(name) for name in ("planes", "zipnn")),
        *(ratio(name) for name in names),
        *(speed(name) for name in names),
    )


def _targets(name: str, form: str, found: dict[str, Coded]) -> list[Target]:
    targets = []
    if "zipnn" in found:
        value = found["planes"].size / found["zipnn"].size
        targets.append(Target(f"{name} {form}: planes next to zipnn, bytes", value, 1.005, "×"))
        if form == "fp32":
            value = found["planes"].seconds / found["zipnn"].seconds
            targets.append(Target(f"{name} {form}: planes next to zipnn, seconds", value, 1 / 1.3, "×"))
    if floor := _FLOORS.get((name, form)):
        value = found["delta"].size / found["xor"].size
        targets.append(Target(f"{name} {form}: delta next to xor planes, bytes", value, 1 / floor, "×"))
    return targets
