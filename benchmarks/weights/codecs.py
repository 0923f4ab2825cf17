"""Planes and deltas against an xor of byte planes, with the same base, and zstd -3: ratios, and speed on one core.

The series are real, if small: a network of three layers learns what another, with random weights, does; Adam, in numpy.
A checkpoint is compared with the one before, tensor by tensor, in pieces of 4 MiB.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

from replicate.objects.codecs import cast, delta, planes
from replicate.objects.ids import ObjectID

Floats: TypeAlias = NDArray[np.float32]
Pieces: TypeAlias = list[tuple[bytes, bytes]]

PIECE_BYTES = 4 << 20
LAYERS = (256, 1024, 1024, 64)
BATCH = 128
BASE = ObjectID(bytes(32))
FLOORS = {"scratch fp32": 1.04, "scratch bf16": 1.10}
_LEVELS = [zstandard.ZstdCompressor(level=level) for level in (1, 3)]


class Network:
    """A perceptron with ReLU, trained by Adam."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = itertools.pairwise(LAYERS)
        self.weights = [(rng.standard_normal(size) * (2 / size[0]) ** 0.5).astype(np.float32) for size in sizes]
        self._first = [np.zeros_like(one) for one in self.weights]
        self._second = [np.zeros_like(one) for one in self.weights]
        self._steps = 0

    def forward(self, inputs: Floats) -> list[Floats]:
        """Return what each layer gives."""
        found = [inputs]
        for number, one in enumerate(self.weights):
            out = found[-1] @ one
            found.append(out if number == len(self.weights) - 1 else np.maximum(out, 0))
        return found

    def step(self, inputs: Floats, wanted: Floats, rate: float) -> None:
        """Take a step towards the wanted outputs."""
        outputs = self.forward(inputs)
        back = (outputs[-1] - wanted) * np.float32(2 / wanted.size)
        self._steps += 1
        for number in range(len(self.weights) - 1, -1, -1):
            gradient = outputs[number].T @ back
            back = (back @ self.weights[number].T) * (outputs[number] > 0)
            first, second = self._first[number], self._second[number]
            first += np.float32(0.1) * (gradient - first)
            second += np.float32(0.001) * (gradient * gradient - second)
            unbiased = first / np.float32(1 - 0.9**self._steps)
            scale = np.sqrt(second / np.float32(1 - 0.999**self._steps)) + np.float32(1e-8)
            self.weights[number] -= np.float32(rate) * (unbiased / scale)


def checkpoints(rate: float, warm_up: int, steps: int, count: int) -> Iterator[list[Floats]]:
    """Train; yield the weights after the warm-up and then every so many steps."""
    rng = np.random.default_rng(1)
    teacher, student = Network(2), Network(3)
    for number in range(warm_up + steps * count):
        inputs = rng.standard_normal((BATCH, LAYERS[0])).astype(np.float32)
        student.step(inputs, teacher.forward(inputs)[-1], 1e-3 if number < warm_up else rate)
        if number + 1 > warm_up and (number + 1 - warm_up) % steps == 0:
            yield [one.copy() for one in student.weights]


def bfloat16(floats: Floats) -> NDArray[Any]:
    """Return floats rounded to the nearest, ties to even."""
    bits: NDArray[Any] = floats.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def pieces_of(new: list[NDArray[Any]], old: list[NDArray[Any]]) -> Pieces:
    """Return the pieces of all tensors, each with its base."""
    found = []
    for one, other in zip(new, old, strict=True):
        data, base = one.tobytes(), other.tobytes()
        found += [(data[at : at + PIECE_BYTES], base[at : at + PIECE_BYTES]) for at in range(0, len(data), PIECE_BYTES)]
    return found


def xor_planes(data: bytes, item_bytes: int, base: bytes) -> int:
    """Return the size of the xor of data and base in byte planes, each by zstd -1 or -3 or as it is, the smallest."""
    mixed = np.bitwise_xor(np.frombuffer(data, np.uint8), np.frombuffer(base, np.uint8)).reshape(-1, item_bytes)
    columns = [mixed[:, index].tobytes() for index in range(item_bytes)]
    return sum(min(len(column), *(len(level.compress(column)) for level in _LEVELS)) for column in columns)


def measured(code: Callable[[bytes, bytes], bytes | None], pieces: Pieces) -> tuple[int, float]:
    """Return bytes stored and the seconds of the best of five turns."""
    seconds, stored = [], 0
    for _ in range(5):
        start = time.perf_counter()
        made = [code(data, base) for data, base in pieces]
        seconds.append(time.perf_counter() - start)
        stored = sum(len(data if one is None else one) for one, (data, _) in zip(made, pieces, strict=True))
    return stored, min(seconds)


def report(name: str, item_bytes: int, pieces: Pieces) -> bool:
    """Print a series' row; tell whether the floor is met."""
    total = sum(len(data) for data, _ in pieces)
    peer = sum(xor_planes(data, item_bytes, base) for data, base in pieces)
    plain = sum(len(_LEVELS[1].compress(data)) for data, _ in pieces)
    whole, whole_seconds = measured(lambda data, _: planes.encode(data, item_bytes), pieces)
    dense, dense_seconds = measured(lambda data, base: delta.encode(data, item_bytes, BASE, base), pieces)
    high, high_seconds = measured(lambda data, base: delta.encode(data, item_bytes, BASE, base, ordered=True), pieces)
    for data, base in pieces:
        for ordered in (False, True):
            payload = delta.encode(data, item_bytes, BASE, base, ordered=ordered)
            assert payload is None or delta.decode(payload, len(data), base, name) == data
    speeds = [f"{total / seconds / 1e6:6.0f}" for seconds in (whole_seconds, dense_seconds, high_seconds)]
    floor = FLOORS.get(name)
    met = floor is None or peer / dense >= floor
    told = "" if floor is None else f"floor {floor:.2f} {'met' if met else 'MISSED'}"
    ratios = [f"{total / size:7.3f}" for size in (plain, whole, peer, dense, high)]
    print(f"{name:15}{''.join(ratios)}  {peer / dense:6.3f} {peer / high:6.3f}  {''.join(speeds)}  {told}", flush=True)
    return met


def main() -> None:
    print(f"load {os.getloadavg()[0]:.2f}; ratios to raw, larger is better; MB/s of one core, best of five")
    print(
        f"{'':15}{'zstd-3':>7}{'planes':>7}{'xor':>7}{'delta':>7}{'order':>7}  xor/delta /order  {'MB/s: as left':>18}"
    )
    met = True
    for name, rate, warm_up, steps in (("scratch", 1e-3, 100, 40), ("fine-tune", 5e-6, 400, 10)):
        *_, old, new = checkpoints(rate, warm_up, steps, 3)
        met &= report(f"{name} fp32", 4, pieces_of(new, old))
        halves = [bfloat16(one) for one in new]
        met &= report(f"{name} bf16", 2, pieces_of(halves, [bfloat16(one) for one in old]))
        met &= report(f"{name} fp16", 2, pieces_of(*([one.astype(np.float16) for one in each] for each in (new, old))))
    casts = [(half.tobytes(), one.tobytes()) for half, one in zip(halves, new, strict=True)]
    total = sum(len(data) for data, _ in casts)
    stored, seconds = measured(lambda data, base: cast.encode(data, BASE, base), casts)
    print(f"bf16 as a cast of fp32: {total:,} bytes in {stored}, {total / seconds / 1e6:.0f} MB/s")
    sys.exit(not met)


if __name__ == "__main__":
    main()
