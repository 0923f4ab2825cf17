"""How two lists of numbers differ, a slice at a time. Loads numpy: import it in functions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replicate.tensors.dtypes import is_comparable, to_numbers

if TYPE_CHECKING:
    from replicate.diff.tensors import TensorChange

_BLOCK = 1 << 16
"""Items that are looked at together: few enough to stay in the processor's cache."""

Items = NDArray[Any]


def are_alike(dtype: str | None, other: str | None) -> bool:
    """Tell whether values of two dtypes can be compared: numbers, or bytes of one dtype."""
    return dtype == other or (is_comparable(dtype) and is_comparable(other))


class Delta:
    """What is known of the values so far."""

    def __init__(self, dtype: str | None, other: str | None) -> None:
        self._dtypes = dtype, other
        self._are_numbers = is_comparable(dtype) and is_comparable(other)
        self._count = self._changed = self._compared = 0
        self._nonfinite = [0, 0]
        self._max = self._sum = self._squares = self._delta_squares = 0.0

    def add(self, items: Items, others: Items | None) -> None:
        """Count a slice of both; None for others that are equal."""
        if not self._are_numbers:
            items, others = items.view(np.uint8), None if others is None else others.view(np.uint8)
        elif others is not None and self._dtypes[0] == self._dtypes[1]:
            others = others.astype(items.dtype, copy=False)  # the order of bytes may be another
        self._count += items.size
        if others is not None and self._dtypes[0] == self._dtypes[1] and _equal(items, others):
            others = None
        with np.errstate(all="ignore"):
            for at in range(0, items.size, _BLOCK):
                self._add(items[at : at + _BLOCK], None if others is None else others[at : at + _BLOCK])

    def _add(self, items: Items, others: Items | None) -> None:
        if not self._are_numbers:
            self._changed += 0 if others is None else int(np.count_nonzero(items != others))
            return
        old = to_numbers(items, self._dtypes[0])
        squares = _squares(old)
        if others is None:
            lost = 0 if math.isfinite(squares) else int(np.count_nonzero(~np.isfinite(old)))
            self._squares += _squares(old[np.isfinite(old)]) if lost else squares
            self._nonfinite = [count + lost for count in self._nonfinite]
            self._compared += items.size - lost
            return
        new = to_numbers(others, self._dtypes[1])
        if self._dtypes[0] == self._dtypes[1]:
            self._changed += _count_changed(items, others)
        else:
            self._changed += int(np.count_nonzero((old != new) & ~(np.isnan(old) & np.isnan(new))))
        delta = new - old
        delta_squares = _squares(delta)
        if not (math.isfinite(squares) and math.isfinite(delta_squares)):
            finite = [np.isfinite(old), np.isfinite(new)]
            self._nonfinite = [
                count + int(np.count_nonzero(~one)) for count, one in zip(self._nonfinite, finite, strict=True)
            ]
            both = finite[0] & finite[1]
            old, delta = old[both], delta[both]
            squares, delta_squares = _squares(old), _squares(delta)
        size = np.abs(delta)
        self._compared += size.size
        self._max = max(self._max, float(size.max(initial=0)))
        self._sum += float(size.sum())
        self._squares += squares
        self._delta_squares += delta_squares

    def describe(self, change: TensorChange) -> TensorChange | None:
        """Return the change with its numbers; None if it is none: dtype, shape and all values are the same."""
        if not self._changed and change.before == change.after:
            return None
        share = self._changed / self._count if self._count else 0.0
        if not self._are_numbers:
            return replace(change, changed_share=share)
        relative = math.sqrt(self._delta_squares) / math.sqrt(self._squares) if self._squares else None
        return replace(
            change,
            max_change=self._max,
            mean_change=self._sum / self._compared if self._compared else 0.0,
            relative_change=relative if relative is None or math.isfinite(relative) else None,
            changed_share=share,
            nonfinite=(self._nonfinite[0], self._nonfinite[1]),
        )


def _squares(values: Items) -> float:
    """Return the sum of the squares; not with BLAS, whose threads would wait for those that decode."""
    return float(np.einsum("i,i->", values, values.conj()).real)


def _bits(items: Items) -> Items:
    """Return items as integers, one for each, or in rows of 8 bytes if they are longer."""
    if items.dtype.itemsize <= 8:
        return items.view(f"u{items.dtype.itemsize}")
    return items.view(np.uint64).reshape(items.size, -1)


def _equal(items: Items, others: Items) -> bool:
    return np.array_equal(_bits(items), _bits(others))


def _count_changed(items: Items, others: Items) -> int:
    differing = _bits(items) != _bits(others)
    return int(np.count_nonzero(differing if differing.ndim == 1 else differing.any(axis=1)))
