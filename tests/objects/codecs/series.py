"""Weights that look like those of a training run, made from seeds, and the payloads of the codecs for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import some_id

BASE = some_id("base")
ITEM_BYTES = [1, 2, 4, 8]


def weights(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return Gaussian weights."""
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype(np.float32)


def stepped(before: NDArray[np.float32], size: float, seed: int = 1) -> NDArray[np.float32]:
    """Return weights after an optimizer's step."""
    step = np.random.default_rng(seed).standard_normal(before.size) * size
    return (before + step).astype(np.float32)


def bfloat16(floats: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return floats rounded to the nearest, ties to even. There must be no NaN."""
    bits: NDArray[Any] = floats.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, bytes, bytes]:
    """Return an item length, and two byte strings of one length that may resemble each other."""
    item_bytes = draw(st.sampled_from(ITEM_BYTES))
    how = draw(st.sampled_from(["bytes", "floats", "steps", "few"]))
    if how == "bytes":
        old = draw(st.binary(max_size=200))
        return item_bytes, old, draw(st.binary(min_size=len(old), max_size=len(old)))
    if how == "floats":
        listed = st.lists(st.floats(width=32), max_size=40)
        old = np.array(draw(listed), np.float32).tobytes()
        new = np.array(draw(listed), np.float32).tobytes()
        size = min(len(old), len(new)) - draw(st.integers(0, 3))
        return item_bytes, old[: max(size, 0)], new[: max(size, 0)]
    count = draw(st.sampled_from([1, 63, 64, 65, 1_000, 5_000, 40_000]))
    before = weights(count, draw(st.integers(0, 3)))
    step = 1e-4 if how == "steps" else draw(st.sampled_from([0.0, 1e-9, 1e-8]))
    after = stepped(before, step, draw(st.integers(0, 3)))
    cut = 4 * count - draw(st.integers(0, 3))
    return item_bytes, before.tobytes()[:cut], after.tobytes()[:cut]


@st.composite
def damages(draw: st.DrawFn, payload: bytes) -> bytes:
    """Return a payload with some bits flipped, cut, lengthened, or with a number in it that lies."""
    how = draw(st.sampled_from(["flip", "cut", "more", "number"]))
    if how == "flip":
        spoilt = bytearray(payload)
        for place in draw(st.lists(st.integers(0, 8 * len(payload) - 1), min_size=1, max_size=4)):
            spoilt[place // 8] ^= 1 << place % 8
        return bytes(spoilt)
    if how == "cut":
        return payload[: draw(st.integers(0, len(payload) - 1))]
    if how == "more":
        return payload + draw(st.binary(min_size=1, max_size=40))
    number = draw(st.sampled_from([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])).to_bytes(4, "little")
    place = draw(st.integers(0, max(0, min(len(payload), 80) - 4)))
    return payload[:place] + number + payload[place + 4 :]
