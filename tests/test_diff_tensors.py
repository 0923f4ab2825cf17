"""How the tensors of weight files differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replicate.checkpoints import Checkpoint
from replicate.diff import TensorChange, TensorDiff, tensors
from replicate.diff.files import Opened
from replicate.diff.tensors import diff_tensors
from replicate.errors import WeightsFileError
from replicate.objects.codecs.concat import Chunk
from replicate.objects.cutting import cut_file
from replicate.objects.ids import blob_id
from replicate.tensors import Tensor
from tests.projects import SampleProject
from tests.tensors.pickles import dict_of, pickled, tensor
from tests.weights import Array, CountingFile, bfloat16, gguf, npy, npz, safetensors, safetensors_of, torch_zip, weights

MIB = 1 << 20


class Weights:
    """A weight file that is open, cut as a save cuts it; counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.file = CountingFile(data)
        pieces = cut_file(len(data), CountingFile(data))
        chunks = [Chunk(blob_id(data[one.offset : one.offset + one.length]), one.length) for one in pieces]
        self.opened = Opened(len(data), self.file, chunks)
        self.unknown = Opened(len(data), self.file, None)


def compare(before: bytes, after: bytes, limit: int | None = None) -> TensorDiff:
    return diff_tensors(Weights(before).opened, Weights(after).opened, "model", limit)


def only(found: TensorDiff) -> TensorChange:
    (change,) = found.changes
    return change


def assert_numbers(change: TensorChange, before: Array, after: Array) -> None:
    """Check the numbers of a change against the obvious way to compute them."""
    old, new = (one.astype(complex if one.dtype.kind == "c" else float).ravel() for one in (before, after))
    delta = new - old
    assert change.max_change == pytest.approx(np.abs(delta).max())
    assert change.mean_change == pytest.approx(np.abs(delta).mean())
    assert change.relative_change == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(old))
    assert change.changed_share == np.count_nonzero(old != new) / old.size
    assert change.nonfinite == (0, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8", "bool", "complex64", ">f4"])
def test_the_numbers_are_those_of_the_values(dtype: str) -> None:
    before = (np.trunc(weights(200_003, "float64") * 100) + 0).astype(dtype)  # no negative zeros
    after = before.copy()
    after[5:100_000] = before[6:100_001]
    assert_numbers(only(compare(npz({"a": before}), npz({"a": after}))), before, after)


def test_of_long_tensors_every_slice_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_SLICE_BYTES", 1000)
    before = weights(3001)
    after = before.copy()
    after[::700] += 1
    assert_numbers(only(compare(safetensors({"a": before}), safetensors({"a": after}))), before, after)


def test_added_removed_and_reshaped_tensors_are_told_without_numbers() -> None:
    before = {"gone": weights(3), "shape": weights(4), "same": weights(5)}
    after = {"same": weights(5), "shape": weights(4).reshape(2, 2), "new": weights(2)}
    found = compare(safetensors(before), safetensors(after))
    assert found.changes == (
        TensorChange("changed", Tensor("shape", "float32", (4,), 16), Tensor("shape", "float32", (2, 2), 16)),
        TensorChange("added", None, Tensor("new", "float32", (2,), 8)),
        TensorChange("removed", Tensor("gone", "float32", (3,), 12), None),
    )
    assert (found.count, found.is_compared) == (3, True)


def test_values_of_another_dtype_are_compared_as_numbers() -> None:
    values = np.array([1.0, 2.0, 3.0001], "float32")
    header = {"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    change = only(compare(safetensors({"a": values}), safetensors_of(header, bfloat16(values))))
    assert (change.before, change.after) == (Tensor("a", "float32", (3,), 12), Tensor("a", "bfloat16", (3,), 6))
    assert change.changed_share == 1 / 3
    assert change.max_change == pytest.approx(0.0001, rel=0.01)


def test_a_dtype_that_changed_without_the_values_is_a_change() -> None:
    values = np.array([1.0, 2.0])
    change = only(compare(npz({"a": values}), npz({"a": values.astype("float32")})))
    assert (change.changed_share, change.max_change, change.relative_change) == (0.0, 0.0, 0.0)


def test_nan_and_infinities_are_counted_and_left_out() -> None:
    before = np.array([1.0, np.nan, np.inf, 2.0, np.nan], "float32")
    after = np.array([1.5, np.nan, 3.0, np.inf, 1.0], "float32")
    change = only(compare(safetensors({"a": before}), safetensors({"a": after})))
    assert (change.max_change, change.mean_change, change.relative_change) == (0.5, 0.5, 0.5)
    assert (change.changed_share, change.nonfinite) == (0.8, (3, 2))


def test_nan_that_did_not_change_is_counted_on_both_sides() -> None:
    before = np.full(3 * MIB, np.nan, "float32")
    after = before.copy()
    after[0] = 1
    change = only(compare(safetensors({"a": before}), safetensors({"a": after})))
    assert (change.max_change, change.nonfinite) == (0.0, (3 * MIB, 3 * MIB - 1))


def test_what_was_zero_has_no_relative_change() -> None:
    change = only(compare(npy(np.zeros(3)), npy(np.array([0.0, 0.0, 2.0]))))
    assert (change.max_change, change.relative_change) == (2.0, None)


def test_numbers_whose_squares_are_too_large_have_no_relative_change() -> None:
    change = only(compare(npy(np.full(3, 1e300)), npy(np.full(3, 2e300))))
    assert (change.max_change, change.relative_change, change.nonfinite) == (1e300, None, (0, 0))


def test_quantised_blocks_are_compared_as_bytes() -> None:
    old, new = bytes(18), bytes(16) + b"ab"
    change = only(compare(gguf([("q", (32,), 2, old)]), gguf([("q", (32,), 2, new)])))
    assert (change.changed_share, change.max_change) == (2 / 18, None)


@pytest.mark.parametrize("dtype", ["U5", "S3", "M8[ns]", "V2"])
def test_items_that_are_no_numbers_are_compared_as_bytes(dtype: str) -> None:
    before = np.zeros(10, dtype)
    after = before.copy()
    after.view(np.uint8)[3] = 1
    change = only(compare(npz({"a": before}), npz({"a": after})))
    assert (change.changed_share, change.max_change) == (1 / before.nbytes, None)


def test_torch_tensors_go_by_their_names_wherever_they_lie() -> None:
    one, other = weights(70_000), weights(80_000, seed=1)
    before = dict_of({"a": tensor("0", (70_000,), (1,)), "b": tensor("1", (200, 400), (400, 1))})
    after = dict_of({"b": tensor("0", (200, 400), (400, 1)), "a": tensor("1", (70_000,), (1,))})
    found = compare(
        torch_zip([one.tobytes(), other.tobytes()], pickle=pickled(before)),
        torch_zip([(other * 2).tobytes(), one.tobytes()], pickle=pickled(after)),
    )
    assert only(found).name == "b"
    assert only(found).relative_change == pytest.approx(1)


def test_a_torch_file_is_compared_with_one_of_safetensors() -> None:
    values = weights(600)
    state = pickled(dict_of({"a": tensor("0", (20, 30), (30, 1))}))
    before = torch_zip([values.tobytes()], pickle=state)
    assert not compare(before, safetensors({"a": values.reshape(20, 30)}))


def test_torch_files_without_names_are_compared_by_entry() -> None:
    found = compare(torch_zip([b"abc", b"x"], pickle=b"?"), torch_zip([b"abd", b"x"], pickle=b"?"))
    assert (only(found).name, only(found).changed_share) == ("data/0", 1 / 3)


def test_another_order_in_memory_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weights(600).reshape(20, 30)
    column_major = np.asfortranarray(values)
    assert not compare(npy(values), npy(column_major))
    assert only(compare(npy(values), npy(column_major * 2))).relative_change == pytest.approx(1)
    assert only(compare(npy(column_major), npy(np.asfortranarray(values * 2)))).relative_change == pytest.approx(1)
    monkeypatch.setattr(tensors, "_MAX_GATHERED_BYTES", 100)
    assert only(compare(npy(values), npy(column_major))).changed_share is None


LAYERS = {f"layer{number}": weights(MIB // 2, seed=number) for number in range(4)}


def torch_file(arrays: dict[str, Array]) -> bytes:
    state = dict_of({name: tensor(str(at), array.shape, (1,)) for at, (name, array) in enumerate(arrays.items())})
    return torch_zip([array.tobytes() for array in arrays.values()], pickle=pickled(state))


@pytest.mark.parametrize("write", [safetensors, npz, torch_file])
def test_tensors_in_equal_chunks_are_not_read(write: Any) -> None:
    before, after = (Weights(write(arrays)) for arrays in (LAYERS, LAYERS | {"layer2": LAYERS["layer2"] * 2}))
    found = diff_tensors(before.opened, after.opened, "model")
    assert only(found).name == "layer2"
    for side in (before, after):
        assert side.file.bytes_read < 2 * MIB + 400_000
    assert found.compared_bytes == 2 * MIB


def test_of_a_large_tensor_equal_chunks_are_read_on_one_side() -> None:
    values = weights(3 * MIB)
    other = values.copy()
    other[-1] += 1
    before, after = Weights(safetensors({"a": values})), Weights(safetensors({"a": other}))
    assert_numbers(only(diff_tensors(before.opened, after.opened, "model")), values, other)
    assert (before.file.bytes_read > 12 * MIB, after.file.bytes_read < 4 * MIB + 10_000) == (True, True)


def test_what_is_made_of_unknown_chunks_is_compared_by_its_bytes() -> None:
    before, after = Weights(safetensors(LAYERS)), Weights(safetensors(LAYERS | {"layer2": LAYERS["layer2"] * 2}))
    assert only(diff_tensors(before.opened, after.unknown, "model")).name == "layer2"


def test_more_than_the_limit_is_not_compared() -> None:
    before, after = Weights(safetensors(LAYERS)), Weights(safetensors(LAYERS | {"layer2": LAYERS["layer2"] * 2}))
    found = diff_tensors(before.opened, after.opened, "model", 2 * MIB - 1)
    assert (only(found).name, only(found).changed_share, found.is_compared) == ("layer2", None, False)
    assert before.file.bytes_read < 10_000


def test_what_is_no_weight_file_is_refused() -> None:
    with pytest.raises(WeightsFileError):
        compare(safetensors(LAYERS), b"text")


# -- of checkpoints


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "w")


def test_a_difference_tells_of_tensors(project: SampleProject) -> None:
    session = project.begin()
    found = []
    for step, factor in enumerate((1, 2)):
        project.write("model.npz", npz({"a": LAYERS["layer0"] * factor, "b": np.arange(3)}))
        project.write("link", b"")
        found.append(Checkpoint(project.open(), project.save(session, step=step).base.record, project.events))
    difference = found[0].diff(found[1])
    (change,) = difference.files
    compared = difference.tensors(change)
    assert compared is not None
    assert only(compared).relative_change == pytest.approx(1)
    assert math.isclose(only(compared).changed_share or 0, 1)


@pytest.mark.parametrize("content", [b"text", b"\0binary"])
def test_other_files_have_no_tensors(project: SampleProject, content: bytes) -> None:
    session = project.begin()
    project.write("a", content)
    project.write("b", content)
    first = Checkpoint(project.open(), project.save(session, step=0).base.record, project.events)
    project.write("a", content + b"more")
    (project.root / "b").unlink()
    second = Checkpoint(project.open(), project.save(session, step=1).base.record, project.events)
    difference = first.diff(second)
    assert [difference.tensors(change) for change in difference.files] == [None, None]
