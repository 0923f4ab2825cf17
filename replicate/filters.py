"""Filters (`-f "loss < 0.2"`) and sort keys (`-s loss-desc`) over experiments. Floor 7. Pure but for dates.

A name means, in this order: `created` (or `started`), `step`, `user`, `host`, `command`, `status`, `name`, `tag`;
a metric of the best checkpoint (else of the latest); a param; `note`. Numbers compare as numbers, whole or not; text as
text; a missing value equals `none` only and sorts last.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicate.errors import InvalidInputError
from replicate.experiment import Experiment

_FILTER = re.compile(r"\s*(?P<name>[^=!<>]*[^=!<>\s])\s*(?P<op><=|>=|!=|==?|<|>)\s*(?P<value>.*\S)\s*", re.DOTALL)
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?|nan", re.IGNORECASE)
_FIELDS: dict[str, Callable[[Experiment], Any]] = {
    "created": lambda one: one.created.timestamp(),
    "started": lambda one: one.created.timestamp(),
    "step": lambda one: latest.step if (latest := one.latest()) else None,
    "user": lambda one: one.user,
    "host": lambda one: one.host,
    "command": lambda one: one.command,
    "status": lambda one: one.status,
    "name": lambda one: one.name,
}
_STATUSES = ("running", "finished", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on experiments."""

    name: str
    operator: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read `name op value`; `InvalidInputError` when it is none."""
        match = _FILTER.fullmatch(text)
        if match is None or not match["value"].strip("=<>!"):
            raise InvalidInputError(
                f"{text!r} is no filter: it must be NAME OPERATOR VALUE", hint='for example -f "loss < 0.2"'
            )
        name, operator, value = match["name"], match["op"].replace("==", "="), match["value"]
        if re.search(r"\s(and|or|&&|\|\|)\s.*[<>=]", value):
            raise InvalidInputError(
                f"{text!r} is no filter: it holds several conditions", hint="repeat -f; all must hold"
            )
        if value[0] in "=<>!":
            raise InvalidInputError(
                f"{text!r} is no filter: it has two operators", hint="quote a text that begins so: NAME = '<text>'"
            )
        if name == "tag" and operator not in ("=", "!="):
            raise InvalidInputError(f"{text!r} is no filter: an experiment has a tag or not", hint='write "tag = NAME"')
        if name == "status" and value not in _STATUSES:
            raise InvalidInputError(f"{value!r} is no status", hint=f"a status is {', '.join(_STATUSES)}")
        return cls(name, operator, _parse_date(value) if name in ("created", "started") else parse_value(value))

    def matches(self, experiment: Experiment) -> bool:
        """Tell whether an experiment fulfils the condition."""
        if self.name == "tag":
            return (str(self.value) in experiment.tags) == (self.operator != "!=")
        found = value_of(experiment, self.name)
        if self.operator in ("=", "!="):
            return _equal(found, self.value) == (self.operator == "=")
        if found is None or self.value is None or _is_nan(found) or _is_nan(self.value):
            return False
        left, right = _comparable(found), _comparable(self.value)
        if left[0] != right[0]:
            return False
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[self.operator]


def value_of(experiment: Experiment, name: str) -> Any:
    """Return what a name means for an experiment, None when it has no such thing."""
    if name in _FIELDS:
        return _FIELDS[name](experiment)
    checkpoint = experiment.best() or experiment.latest()
    if checkpoint is not None and name in checkpoint.metrics:
        return checkpoint.metrics[name]
    if name in experiment.params:
        return experiment.params[name]
    nested = _nested(checkpoint.metrics, name) if checkpoint is not None else None
    if nested is None:
        nested = _nested(experiment.params, name)
    return experiment.note or None if nested is None and name == "note" else nested


def is_known(experiments: Sequence[Experiment], name: str) -> bool:
    """Tell whether a name means something for one of the experiments, were it `none`."""
    return any(value_of(one, name) is not None or name in one.params for one in experiments)


def suggestion(experiments: Sequence[Experiment], name: str) -> str:
    """Ask whether a name was meant that is like this one, which no experiment has; nothing when none is."""
    known = {known for one in experiments for known in (*one.params, *one.metric_names)} - {name}
    near = difflib.get_close_matches(name, sorted(known), 1, 0.5)
    near = difflib.get_close_matches(name, sorted({*_FIELDS, *near} - {name}), 1, 0.7) or near
    return f"did you mean {near[0]!r}?" if near else ""


def remarks(filters: Sequence[Filter], experiments: Sequence[Experiment]) -> Iterator[str]:
    """Yield a sentence about each filter that nothing can match: a typing error more often than not."""
    for one in filters if experiments else ():
        if one.name not in (*_FIELDS, "tag", "note") and not is_known(experiments, one.name):
            near = suggestion(experiments, one.name)
            yield f"no experiment has {one.name!r}" + (f"; {near}" if near else "")
        elif (
            isinstance(one.value, str)
            and _is_number_in_all(experiments, one.name)
            and not any(one.matches(experiment) for experiment in experiments)
        ):
            yield f"{one.name!r} is a number in all experiments that have it, and {one.value!r} is not"


def _is_number_in_all(experiments: Sequence[Experiment], name: str) -> bool:
    is_number = False
    for experiment in experiments:
        value = value_of(experiment, name)
        if value is not None:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number:
                break
    return is_number


def _nested(values: Any, name: str) -> Any:
    """Return what a dotted name means in maps within maps, as `diff` prints it: `optimizer.lr`; None if nothing."""
    while isinstance(values, Mapping):
        if name in values:
            return values[name]
        first, dot, name = name.partition(".")
        values = values.get(first) if dot else None
    return None


def sort_experiments(experiments: Sequence[Experiment], key: str) -> list[Experiment]:
    """Return experiments sorted by `NAME`, `NAME-asc` or `NAME-desc`; those without a value come last."""
    name, _, direction = key.rpartition("-")
    if direction not in ("asc", "desc") or not name:
        name, direction = key, "asc"
    values = [(value_of(one, name), one) for one in experiments]
    known = [(value, one) for value, one in values if value is not None and not _is_nan(value)]
    missing = [one for value, one in values if value is None or _is_nan(value)]
    known.sort(key=lambda pair: _comparable(pair[0]), reverse=direction == "desc")
    return [one for _, one in known] + missing


def parse_value(text: str) -> Any:
    """Return what a value typed on a command line means: none, a number, true or false, JSON, else text."""
    lowered = text.lower()
    if lowered in ("null", "none"):
        return None
    if lowered in ("true", "false"):
        return lowered == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if text[:1] in ("{", "[", '"'):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _parse_date(text: str) -> float:
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidInputError(f"{text!r} is no date", hint="write 2026-11-23 or 2026-11-23T14:30") from exc
    return time.timestamp()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _equal(left: Any, right: Any) -> bool:
    if _is_nan(left) or _is_nan(right):
        return _is_nan(left) and _is_nan(right)
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    return bool(left == right) or str(left) == str(right)


def _comparable(value: Any) -> tuple[int, Any]:
    """Return a key under which values of different types can be sorted together: numbers, then text."""
    if isinstance(value, bool):
        return 0, float(value)
    if isinstance(value, int | float):
        return 0, value
    return 1, value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
