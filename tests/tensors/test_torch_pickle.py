"""Names of tensors in pickles that nobody unpickles."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicate.objects.cutting.header import Surprise
from replicate.tensors import torch_pickle
from replicate.tensors.torch_pickle import View, read_views
from tests.tensors.pickles import call, dict_of, known, number, pickled, storage, tensor, text, tuple_of

VIEW = View("0", "float32", 0, (2, 3), (3, 1))
TENSOR = tensor("0", (2, 3), (3, 1))


def real_pickle() -> bytes:
    with zipfile.ZipFile(Path(__file__).parent / "torch_2_13.pt") as archive:
        return archive.read("torch_2_13/data.pkl")


def test_a_name_is_the_keys_that_lead_to_a_tensor() -> None:
    state = dict_of({"model": dict_of({"layers.0.weight": TENSOR}), "list": b"](" + TENSOR + b"e", "step": number(3)})
    assert read_views(pickled(state)) == {"model.layers.0.weight": VIEW, "list.0": VIEW}


def test_a_tensor_alone_has_no_name() -> None:
    assert read_views(pickled(TENSOR)) == {"": VIEW}


def test_parameters_and_subclasses_are_tensors() -> None:
    parameter = call("torch._utils _rebuild_parameter", TENSOR, b"\x88", call("collections OrderedDict"))
    arguments = tuple_of(storage("0"), number(0), tuple_of(number(2), number(3)), tuple_of(number(3), number(1)))
    made = known("torch._utils _rebuild_tensor"), known("my Own"), arguments, b"}"
    own = call("torch._tensor _rebuild_from_type_v2", *made)
    assert read_views(pickled(dict_of({"a": parameter, "b": own}))) == {"a": VIEW, "b": VIEW}


def test_a_dtype_that_has_no_storage_class_is_given_by_name() -> None:
    parts = (storage("0", "torch.storage UntypedStorage"), number(1), tuple_of(number(2)), tuple_of(number(1)))
    made = call("torch._utils _rebuild_tensor_v3", *parts, b"\x89", b"}", known("torch float8_e4m3fn"), b"}")
    assert read_views(pickled(made)) == {"": View("0", "float8_e4m3fn", 1, (2,), (1,))}


def test_a_module_shows_the_state_that_it_was_given() -> None:
    module = known("my.models Net") + b")\x81" + dict_of({"_parameters": dict_of({"weight": TENSOR})}) + b"b"
    assert read_views(pickled(module)) == {"_parameters.weight": VIEW}


def test_nothing_is_called_and_nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", fail)
    monkeypatch.setattr("builtins.__import__", fail)
    evil = call("os system", text("touch /tmp/owned")) + call("builtins eval", text("1/0")) + b"0" + b"0"
    found = read_views(pickled(evil + dict_of({"a": TENSOR, "b": call("posix system", text("x"))})))
    assert found == {"a": VIEW}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "its pickle is damaged"),
        (b"\x80\x02.", "its pickle is damaged"),
        (b"\x80\x02}", "its pickle is damaged"),
        (pickled(b"h\x07"), "its pickle is damaged"),
        (pickled(b"a"), "its pickle is damaged"),
        (pickled(b"0"), "its pickle is damaged"),
        (pickled(b"t"), "its pickle is damaged"),
        (pickled(b"}t"), "its pickle lacks a mark"),
        (pickled(b"("), "its pickle is damaged"),
        (pickled(b"}(X\x01\x00\x00\x00au"), "its pickle is damaged"),
        (pickled(b"Pid\n"), "its pickle uses PERSID"),
        (pickled(b"\x82\x01"), "its pickle uses EXT1"),
        (b"\xff", "its pickle is damaged"),
        (pickled(b"S'\\d'\n"), "its pickle is damaged"),
        (pickled(b"}(X\x03\x00\x00\x00\xed\xa0\x80" + TENSOR + b"u"), "a name is not text"),
        (
            pickled(dict_of({"a.b": TENSOR, "a": dict_of({"b": TENSOR})})),
            "two tensors have one name, or there are too many",
        ),
    ],
)
def test_what_is_not_understood_has_no_names(data: bytes, why: str) -> None:
    with pytest.raises(Surprise) as caught:
        read_views(data)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    "made",
    [
        tensor("0", (2, -3), (3, 1)),
        tensor("0", (2, 3), (1,)),
        tensor("0", (1,) * 65, (1,) * 65),
        tensor("0", (1 << 63,), (1,)),
        tensor("0", (2,), (1,), offset=-1),
        call("torch._utils _rebuild_tensor_v2", text("no storage"), number(0), b")", b")"),
        call("torch._utils _rebuild_tensor_v2"),
        call("torch._utils _rebuild_parameter"),
        call("other._utils _rebuild_tensor_v2", storage("0"), number(0), b")", b")"),
    ],
)
def test_what_is_no_sound_tensor_is_left_out(made: bytes) -> None:
    assert read_views(pickled(dict_of({"a": made, "b": TENSOR}))) == {"b": VIEW}


def test_dicts_that_share_dicts_do_not_take_for_ever() -> None:
    doubled = b"}"
    for memo in range(60):
        last = b"h" + bytes([memo])
        doubled += b"\x94" + b"0" + b"}(" + text("a") + last + text("b") + last + b"u"
    with pytest.raises(Surprise, match="its names are too long"):
        read_views(b"\x80\x04" + doubled + b".")


def test_a_dict_that_holds_itself_ends() -> None:
    with pytest.raises(Surprise, match="too much in it"):
        read_views(pickled(b"}\x94" + text("a") + b"h\x00s"))


def test_a_long_pickle_is_refused_before_it_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(Surprise, match="too long"):
        read_views(b"N" * 11)
    monkeypatch.undo()
    monkeypatch.setattr(torch_pickle, "_MAX_OPCODES", 10)
    with pytest.raises(Surprise, match="too long"):
        read_views(b"N" * 11 + b".")


def test_names_have_a_length() -> None:
    long = dict_of({"x" * 1_000: TENSOR})
    for _ in range(10):
        long = dict_of({"y" * 4_000_000: long})
    with pytest.raises(Surprise, match="too long"):
        read_views(pickled(long))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_what_python_pickles_is_followed_in_every_protocol(protocol: int) -> None:
    value = {
        "a": [1, 2.5, None, True, "x", b"y", (1,), {3}, frozenset([4]), 1 << 70, OrderedDict(c=1), PurePosixPath("z")],
        7: {},
    }
    assert read_views(pickle.dumps(value, protocol)) == {}


PICKLES = [pickled(TENSOR), pickled(dict_of({"a": TENSOR, "b": b"](" + TENSOR + b"e"})), real_pickle()]


@given(st.binary(max_size=200))
@example(b"\x80\x02\x8b\xff\xff\xff\x7f.")
def test_any_bytes_have_views_or_surprise(data: bytes) -> None:
    try:
        read_views(data)
    except Surprise:
        return


@given(st.sampled_from(PICKLES), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_pickle_has_views_or_surprises(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(changed)] = value
    try:
        views = read_views(bytes(changed))
    except Surprise:
        return
    assert all(len(view.shape) == len(view.strides) <= 64 and view.offset >= 0 for view in views.values())
