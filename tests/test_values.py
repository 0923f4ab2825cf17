"""Params and metrics: what is made of the values that users pass, and what is refused."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import math
import sys
import types
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from replicate.errors import InvalidInputError
from replicate.values import (
    check_primary_metric,
    check_step,
    normalise,
)


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Shape(collections.namedtuple("Shape", "rows columns")):
    __slots__ = ()


class Number(int):
    """An int of another class."""


class Scalar:
    """What a torch scalar looks like: `size` is a method that returns a shape."""

    dtype = "float32"

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self._value = value
        self._shape = shape

    def size(self) -> tuple[int, ...]:
        return self._shape

    def tolist(self) -> Any:
        return self._value


def one(value: Any) -> Any:
    """Return what is made of one param."""
    return normalise({"x": value}, "params")["x"]


def refusal(value: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as raised:
        normalise({"x": value}, "params")
    return raised.value


# -- what is stored -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, False, 0, -1, (1 << 64) - 1, -(1 << 63), 0.1, "", "text", [], {}])
def test_plain_values_stay_as_they_are(value: Any) -> None:
    assert one(value) == value
    assert type(one(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int8(-3), -3),
        (np.int64(3), 3),
        (np.uint64((1 << 64) - 1), (1 << 64) - 1),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.array(3), 3),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
        (np.array([True, False]), [True, False]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([]), []),
        (Scalar(0.25), 0.25),
        (Scalar([1.0, 2.0], (2,)), [1.0, 2.0]),
    ],
)
def test_scalars_and_small_arrays_become_numbers_and_lists(value: Any, stored: Any) -> None:
    assert one(value) == stored
    assert type(one(value)) is type(stored)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, 2), [1, 2]),
        (Shape(2, 3), [2, 3]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(["b", "a"]), ["a", "b"]),
        (Path("a/b"), "a/b"),
        (PurePosixPath("c"), "c"),
        (Color.RED, "RED"),
        (Level.HIGH, "HIGH"),
        (Number(7), 7),
        (collections.OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
        (types.MappingProxyType({"a": Path("b")}), {"a": "b"}),
        ([{"a": (np.float32(1),)}], [{"a": [1.0]}]),
    ],
)
def test_other_containers_paths_and_enums_become_lists_maps_and_text(value: Any, stored: Any) -> None:
    assert one(value) == stored
    assert type(one(value)) is type(stored)


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32(math.inf), np.array(-math.inf)])
def test_infinities_are_kept(value: Any) -> None:
    assert one(value) == float(value)


@pytest.mark.parametrize("value", [math.nan, np.float64("nan"), np.array([math.nan])])
def test_nan_is_kept(value: Any) -> None:
    stored = one(value)
    assert math.isnan(stored[0] if isinstance(stored, list) else stored)


def test_minus_zero_is_kept() -> None:
    assert math.copysign(1, one(-0.0)) == -1


def test_what_is_stored_does_not_change_with_what_was_passed() -> None:
    passed: dict[str, Any] = {"layers": [1, 2], "nested": {"a": 1}}
    stored = normalise(passed, "params")
    passed["layers"].append(3)
    passed["nested"]["a"] = 2
    assert stored == {"layers": [1, 2], "nested": {"a": 1}}


def test_numpy_is_not_imported_for_plain_values() -> None:
    assert "numpy" not in sys.modules["replicate.values"].__dict__


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"bytes", "builtins.bytes"),
        (1j, "builtins.complex"),
        (object(), "builtins.object"),
        (range(3), "builtins.range"),
        (decimal.Decimal("0.1"), "decimal.Decimal"),
        (datetime.date(2026, 1, 1), "datetime.date"),
        (collections.deque([1]), "collections.deque"),
        (np.complex64(1), "numpy.complex64"),
        (np.array([object()]), "builtins.object"),
        (math.sin, "builtins.builtin_function_or_method"),
        (int, "builtins.type"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_name_and_type(value: Any, kind: str) -> None:
    where = "params['x'][0]" if isinstance(value, np.ndarray) else "params['x']"
    assert str(refusal(value)) == (
        f"{where} is a {kind}, which cannot be stored (hint: pass a number, text, or a list or dict of these)"
    )


def test_the_place_of_a_value_inside_others_is_told() -> None:
    assert refusal({"a": [1, {"b": b""}]}).message == (
        "params['x']['a'][1]['b'] is a builtins.bytes, which cannot be stored"
    )


def test_metrics_are_called_metrics() -> None:
    with pytest.raises(InvalidInputError) as raised:
        normalise({"loss": b""}, "metrics")
    assert raised.value.message == "metrics['loss'] is a builtins.bytes, which cannot be stored"


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, 10**30])
def test_an_int_of_more_than_64_bits_is_refused(value: int) -> None:
    assert str(refusal(value)) == f"params['x'] is {value}, which does not fit into 64 bits (hint: pass it as text)"


@pytest.mark.parametrize("value", [np.zeros(1001), np.zeros((2, 1000)), Scalar(None, (1001,))])
def test_a_large_array_is_refused(value: Any) -> None:
    count = 2000 if isinstance(value, np.ndarray) and value.ndim == 2 else 1001
    assert str(refusal(value)) == (
        f"params['x'] is an array of {count:,} items; at most 1,000 are stored as a value "
        "(hint: save it as a file of the checkpoint)"
    )


def test_text_that_is_not_unicode_is_refused() -> None:
    assert refusal("a\udcff").message == "params['x'] holds text that is not Unicode: 'a\\udcff'"
    assert refusal(Path("a\udcff")).message == "params['x'] holds text that is not Unicode: 'a\\udcff'"


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert refusal(loop).message == f"params['x']{'[0]' * 21} is nested too deep"


@pytest.mark.parametrize(
    ("name", "kind"), [(1, "int"), (None, "NoneType"), (b"a", "bytes"), (("a",), "tuple"), (Color.RED, "Color")]
)
def test_a_name_that_is_no_text_is_refused(name: Any, kind: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        normalise({name: 1}, "params")
    assert raised.value.message == f"params has the name {name!r}, a {kind}; names are text"


def test_a_name_inside_a_value_is_checked_too() -> None:
    assert refusal({1: 2}).message == "params['x'] has the name 1, a int; names are text"


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        normalise({"": 1}, "metrics")
    assert raised.value.message == "metrics has an empty name"


@pytest.mark.parametrize(("values", "kind"), [([1], "list"), ("text", "str"), (3, "int"), ({"a"}, "set")])
def test_values_that_are_no_mapping_are_refused(values: Any, kind: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        normalise(values, "params")
    assert raised.value.message == f"params is of type {kind}; it must be a mapping of names to values"


# -- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, -5, (1 << 63) - 1, -(1 << 63), np.int64(7), np.uint8(7), Number(3), None])
def test_a_step_is_any_int_of_64_bits(step: Any) -> None:
    assert check_step(step) == step
    assert type(check_step(step)) in (int, type(None))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (1.0, "step is 1.0, a float; it must be an int"),
        ("1", "step is '1', a str; it must be an int"),
        (True, "step is True, a bool; it must be an int"),
        ([1], "step is [1], a list; it must be an int"),
        (1 << 63, "step 9223372036854775808 does not fit into 64 bits"),
        (-(1 << 63) - 1, "step -9223372036854775809 does not fit into 64 bits"),
    ],
)
def test_another_step_is_refused(step: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        check_step(step)
    assert raised.value.message == message


# -- the primary metric ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [("loss", "minimize"), ["loss", "minimize"], ("loss", "maximize")])
def test_a_primary_metric_is_a_name_and_a_goal(given: Any) -> None:
    assert check_primary_metric(given, {"loss": 1}) == tuple(given)
    assert check_primary_metric(given, None) == tuple(given)
    assert check_primary_metric(None, {}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("loss", "primary_metric is 'loss'; it must be (name, goal)"),
        (("loss",), "primary_metric is ('loss',); it must be (name, goal)"),
        (("loss", "minimize", 1), "primary_metric is ('loss', 'minimize', 1); it must be (name, goal)"),
        (("loss", None), "primary_metric is ('loss', None); it must be (name, goal)"),
        ({"loss": "minimize"}, "primary_metric is {'loss': 'minimize'}; it must be (name, goal)"),
        (("loss", "lower"), "the goal of primary metric 'loss' is 'lower'; it must be minimize or maximize"),
        (("los", "minimize"), "primary metric 'los' is not in metrics (given: loss, accuracy)"),
    ],
)
def test_another_primary_metric_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        check_primary_metric(given, {"loss": 1, "accuracy": 2})
    assert raised.value.message == message


def test_a_primary_metric_without_metrics_is_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        check_primary_metric(("loss", "minimize"), {})
    assert raised.value.message == "primary metric 'loss' is not in metrics (given: none)"
