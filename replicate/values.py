"""Params and metrics as plain values: made storable, and masked where they may be secret. Floor 7. SPEC §4.3."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from replicate.errors import InvalidInputError

MASK = "***"
GOALS = ("minimize", "maximize")
_MAX_ITEMS = 1_000
_SECRET_WORDS = r"(?:token|password|passwd|secret|api_?key|access_?key|private_?key|credentials?)"
_SECRET = re.compile(rf"(?:^|[^a-z]){_SECRET_WORDS}(?:$|[^a-z])", re.IGNORECASE)
_COUNTED = re.compile(r"(?:max|min|num|n|new|total)[_-]?tokens?$|tokens?[_-](?:id|count|length|limit)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret_name(name: str) -> bool:
    """Tell whether a param or argument of this name usually holds a secret."""
    return _SECRET.search(_CAMEL.sub("_", name).replace("-", "_")) is not None


def normalise(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return `values` as None, bool, int, float, str, and lists and dicts of these.

    numpy and torch scalars and small arrays become numbers and lists, tuples become lists, paths and enums text; NaN
    and infinities are kept. `what` ("params", "metrics") names them in errors.

    Raises:
        InvalidInputError: A name is not text, or a value cannot be stored; names the key.
    """
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{what} is a {type(values).__name__}; it must be a mapping of names to values")
    return {_name(key, what): _value(value, f"{what}[{key!r}]", 0) for key, value in values.items()}


def mask(values: Any) -> Any:
    """Return values in which everything under a name that usually holds a secret is masked."""
    if isinstance(values, dict):
        return {key: MASK if _holds_secret(key, value) else mask(value) for key, value in values.items()}
    return [mask(value) for value in values] if isinstance(values, list) else values


def _holds_secret(name: str, value: Any) -> bool:
    """Tell whether a value is masked: `max_token=5` counts tokens, `token="5"` is one."""
    if not is_secret_name(name) or value in (None, "", True, False):
        return False
    return not (isinstance(value, int | float) and _COUNTED.search(name) is not None)


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments in which the values of options with secret names are masked."""
    masked: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("--"):
            masked.append(MASK)
            hide_next = False
        elif equals and is_secret_name(name):
            masked.append(f"{name}={MASK}")
            hide_next = False
        else:
            masked.append(argument)
            hide_next = argument.startswith("-") and not equals and is_secret_name(argument)
    return masked


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
