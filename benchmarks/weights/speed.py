"""How long a large model waits: first save, dense and mostly unchanged later ones, checkouts; next to who does it best.

The model is made of noise with the spread of weights, which compresses as weights do: exponents do, mantissas do not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.measure import warm_memory
from benchmarks.results import Result, Target, ratio
from benchmarks.weights.comparison import restored
from benchmarks.weights.peers import Borg, Copy, Peer, Replicate, Restic, SyncedCopy, Zstd

_TENSOR_ITEMS = 4 << 20
_ROUNDS = 3
_CHECKOUTS = 5
_DENSE_SAVES = 15  # after the first: the last has a base whose base has a base, four deep, where bases skip
_BORG_SAVES = 5
_STEP = 1e-3  # of a weight's spread, per save


def make_model(path: Path, size: int) -> Path:
    """Write a safetensors file of fp32 tensors of 16 MiB each."""
    count = max(1, size // (4 * _TENSOR_ITEMS))
    header = {
        f"layers.{number}.weight": {
            "dtype": "F32",
            "shape": [_TENSOR_ITEMS // 1024, 1024],
            "data_offsets": [number * 4 * _TENSOR_ITEMS, (number + 1) * 4 * _TENSOR_ITEMS],
        }
        for number in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number in range(count):
            weights = rng.standard_normal(_TENSOR_ITEMS, np.float32) * np.float32(_spread(number))
            file.write(weights.tobytes())
    return path


def train(path: Path, seed: int, tensors: int | None = None) -> None:
    """Move all weights of a model a little, or only the first so many tensors."""
    rng = np.random.default_rng(seed)
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    mapped = np.memmap(path, np.float32, "r+", start)
    for number, weights in enumerate(mapped.reshape(-1, _TENSOR_ITEMS)[:tensors]):
        weights += rng.standard_normal(_TENSOR_ITEMS, np.float32) * np.float32(_STEP * _spread(number))
    mapped.flush()


def measure(folder: Path, size: int) -> Result:
    """Measure everything in `folder`, with a model of about `size` bytes."""
    model = make_model(folder / "model.safetensors", size)
    size = model.stat().st_size
    often = f"{_ROUNDS} rounds, {_DENSE_SAVES} dense saves, {_CHECKOUTS} checkouts of each"
    result = Result("speed", f"one fp32 model of {size / 1e9:.2f} GB; {often}")
    _first(result, folder, model)
    replicate, copy = _opened(folder, Replicate, "later"), _opened(folder, Copy, "later")
    try:
        _later(result, folder, model, replicate)
        replicate.close()
        warm_memory(size)
        copy.save(model, 4)
        last = replicate.saved - 1
        for _ in range(_CHECKOUTS):
            for operation, peer, index in (
                ("checkout of the first save", replicate, 0),
                (f"checkout of save {_DENSE_SAVES + 1}", replicate, _DENSE_SAVES),
                ("checkout of the last save", replicate, last),
                ("copy back", copy, 0),
            ):
                peer.restore(index)[1].unlink()  # what it reads is in the page cache then, as what cp reads is
                sample, path = peer.restore(index, lambda: warm_memory(size))
                path.unlink()
                result.add(operation, peer.name, sample)
        restored(replicate, last, model)
    finally:
        replicate.close()
    _judge(result)
    return result


def _opened(folder: Path, tool: type[Peer], name: str) -> Peer:
    peer = tool(folder / f"{tool.__name__}-{name}")
    peer.prepare()
    return peer


def _first(result: Result, folder: Path, model: Path) -> None:
    tools = [tool for tool in (Replicate, Zstd, Restic, Copy) if not tool.missing()]
    for number in range(_ROUNDS):
        turn = number % len(tools)
        for tool in (*tools[turn:], *tools[:turn]):
            peer = _opened(folder, tool, f"first{number}")
            try:
                _save(result, "first save", peer, model)
            finally:
                peer.close()


def _later(result: Result, folder: Path, model: Path, replicate: Peer) -> None:
    """Save again and again: all weights moved, next to borg; then one tensor, next to a copy that is synced."""
    replicate.save(model, 4)
    borg = None if Borg.missing() else _opened(folder, Borg, "later")
    if borg is not None:
        borg.save(model, 4)
    for number in range(_DENSE_SAVES):
        train(model, number + 1)
        both = [peer for peer in (replicate, borg if number < _BORG_SAVES else None) if peer is not None]
        for peer in both if number % 2 else reversed(both):
            if isinstance(peer, Replicate):
                peer.warm_up(number)  # the save before, and with it every base of this one
            _save(result, "dense save", peer, model)
    copy = _opened(folder, SyncedCopy, "later")
    for number in range(_ROUNDS):
        train(model, 100 + number, tensors=1)
        for peer in (replicate, copy) if number % 2 else (copy, replicate):
            _save(result, "mostly unchanged save", peer, model)


def _save(result: Result, operation: str, peer: Peer, model: Path) -> None:
    warm_memory(model.stat().st_size)
    result.add(operation, peer.name, peer.save(model, 4))


def _judge(result: Result) -> None:
    for operation, peer, base, limit in (
        ("first save", Zstd, "first save", 1.1),
        ("first save", Restic, "first save", 0.5),
        ("dense save", Borg, "dense save", 0.35),
        ("mostly unchanged save", SyncedCopy, "mostly unchanged save", 1.5),
        ("checkout of the first save", Copy, "copy back", 3.0),
        (f"checkout of save {_DENSE_SAVES + 1}", Copy, "copy back", 10.0),
    ):
        mine, theirs = result.row(operation, Replicate.name), result.find(base, peer.name)
        if theirs is not None:
            result.compare(mine, theirs)
            value = ratio(mine.value("call"), theirs.value("wall"))
            result.targets.append(Target(f"{operation} next to {peer.name}", value, limit, "×"))


def _spread(number: int) -> float:
    """Return the standard deviation of a tensor's weights: those of layers differ."""
    return 0.04 / (1 + number % 4)
