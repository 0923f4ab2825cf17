"""Params and metrics as plain values, made storable. Floor 7. SPEC §4.3."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from typing import Any

from replicate.errors import InvalidInputError

GOALS = ("minimize", "maximize")
_MAX_ITEMS = 1_000


def normalise(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return `values` as None, bool, int, float, str, and lists and dicts of these.

    numpy and torch scalars and small arrays become numbers and lists, tuples become lists, paths and enums text; NaN
    and infinities are kept. `what` ("params", "metrics") names them in errors.

    Raises:
        InvalidInputError: A name is not text, or a value cannot be stored; names the key.
    """
    if not isinstance(values, Mapping):
        raise InvalidInputError(
            f"{what} is of type {type(values).__name__}; it must be a mapping of names to values",
            hint=f"did you mean {what}=vars(...)?" if type(values).__name__ == "Namespace" else None,
        )
    return {_name(key, what): _value(value, f"{what}[{key!r}]", 0) for key, value in values.items()}


def check_primary_metric(
    primary_metric: tuple[str, str] | None, metrics: Mapping[str, Any] | None
) -> tuple[str, str] | None:
    """Return a primary metric, checked: (name, "minimize" or "maximize"), and in `metrics` when these are given."""
    if primary_metric is None:
        return None
    if (
        isinstance(primary_metric, str)
        or not isinstance(primary_metric, Sequence)
        or len(primary_metric) != 2
        or not all(isinstance(part, str) for part in primary_metric)
    ):
        raise InvalidInputError(
            f"primary_metric is {primary_metric!r}; it must be (name, goal)", hint='for example ("loss", "minimize")'
        )
    name, goal = primary_metric
    if goal not in GOALS:
        raise InvalidInputError(f"the goal of primary metric {name!r} is {goal!r}; it must be minimize or maximize")
    if metrics is not None and name not in metrics:
        given = ", ".join(metrics) or "none"
        raise InvalidInputError(f"primary metric {name!r} is not in metrics (given: {given})")
    if metrics is not None and isinstance(metrics[name], str | list | dict):
        raise InvalidInputError(
            f"primary metric {name!r} is {metrics[name]!r}, a {type(metrics[name]).__name__}; it must be a number"
        )
    return name, goal


def check_step(step: Any) -> int | None:
    """Return a step as an int (numpy integers too), or None; `InvalidInputError` for anything else."""
    if step is None:
        return None
    if isinstance(step, bool) or not hasattr(step, "__index__"):
        raise InvalidInputError(f"step is {step!r}, a {type(step).__name__}; it must be an int")
    number = int(step.__index__())
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidInputError(f"step {number} does not fit into 64 bits")
    return number


def _name(key: Any, what: str) -> str:
    if not isinstance(key, str):
        raise InvalidInputError(f"{what} has the name {key!r}, a {type(key).__name__}; names are text")
    if not key:
        raise InvalidInputError(f"{what} has an empty name")
    return _text(key, what)


def _text(value: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidInputError(f"{where} holds text that is not Unicode: {value!r}") from exc
    return str(value)


def _value(value: Any, where: str, depth: int) -> Any:
    if depth > 20:
        raise InvalidInputError(f"{where} is nested too deep")
    if isinstance(value, enum.Enum):
        return _text(value.name, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise InvalidInputError(f"{where} is {value}, which does not fit into 64 bits", hint="pass it as text")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, os.PathLike):
        return _text(os.fsdecode(os.fspath(value)), where)
    if isinstance(value, Mapping):
        return {_name(key, where): _value(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [_value(item, f"{where}[{number}]", depth + 1) for number, item in enumerate(items)]
    return _array(value, where, depth)


def _array(value: Any, where: str, depth: int) -> Any:
    """Return what a numpy, torch or similar array or scalar holds, without importing any of them."""
    to_list = getattr(value, "tolist", None)
    if callable(to_list) and hasattr(value, "dtype"):
        count = getattr(value, "size", 1)
        count = count() if callable(count) else count
        total = int(count) if isinstance(count, int) else int(_product(count))
        if total > _MAX_ITEMS:
            raise InvalidInputError(
                f"{where} is an array of {total:,} items; at most {_MAX_ITEMS:,} are stored as a value",
                hint="save it as a file of the checkpoint",
            )
        plain = to_list()
        if type(plain) in (bool, int, float, str, list):
            return _value(plain, where, depth + 1)
    raise InvalidInputError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be stored",
        hint="pass a number, text, or a list or dict of these",
    )


def _product(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= int(length)
    return total
