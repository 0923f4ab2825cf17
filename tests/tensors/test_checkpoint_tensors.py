"""Tensors of checkpoints: only what is asked for is decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replicate.checkpoints import Checkpoint, InertCheckpoint
from replicate.errors import NotFoundError, PathNotFoundError
from replicate.objects import store
from replicate.objects.decoding import apply, decode_whole
from replicate.objects.ids import Buffer, Kind
from replicate.objects.pack import Place
from tests.projects import SampleProject
from tests.tensors.pickles import dict_of, pickled, tensor
from tests.weights import Array, npz, safetensors, torch_zip, weights

MIB = 1 << 20
LARGE = {f"layers.{number}.weight": weights(2 * MIB, seed=number) for number in range(4)}
SMALL = weights(25_000)


def torch_file(arrays: dict[str, Array]) -> bytes:
    state = dict_of({name: tensor(str(at), array.shape, (1,)) for at, (name, array) in enumerate(arrays.items())})
    return torch_zip([array.tobytes() for array in arrays.values()], pickle=pickled(state))


WRITERS: list[Callable[[dict[str, Array]], bytes]] = [safetensors, npz, torch_file]


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "w")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what fills with the lengths of the blobs that are decoded, bases included."""
    lengths: list[int] = []

    def counting(place: Place, data: Buffer) -> Buffer:
        if place.entry.kind == Kind.BLOB:
            lengths.append(len(data))
        return data

    monkeypatch.setattr(store, "decode_whole", lambda place, payload: counting(place, decode_whole(place, payload)))
    monkeypatch.setattr(store, "apply", lambda place, *given: counting(place, apply(place, *given)))
    return lengths


def save(project: SampleProject, *versions: bytes) -> Checkpoint:
    """Save a file, and then other versions of it."""
    project.write("model", versions[0])
    session = project.begin()
    saved = project.save(session, step=0)
    for step, data in enumerate(versions[1:], 1):
        project.write("model", data)
        saved = project.save(session, step=step)
    return Checkpoint(project.open(), saved.base.record, project.events)


@pytest.mark.parametrize("write", WRITERS)
def test_a_tensor_of_100_kb_decodes_at_most_16_mb(
    project: SampleProject, decoded: list[int], write: Callable[[dict[str, Array]], bytes]
) -> None:
    arrays = {**LARGE, "small": SMALL}
    changed = {name: array + np.float32(1e-4) for name, array in arrays.items()}
    checkpoint = save(project, write(arrays), write(changed))
    decoded.clear()
    assert np.array_equal(checkpoint.tensor("model", "small"), changed["small"])
    assert SMALL.nbytes < sum(decoded) <= 16_000_000
    decoded.clear()
    assert [one.name for one in checkpoint.tensors("model")] == list(arrays)
    assert sum(decoded) <= 16_000_000


def test_reading_here_and_there_decodes_a_chunk_once(project: SampleProject, decoded: list[int]) -> None:
    data = safetensors({"a": weights(MIB), "b": weights(MIB, seed=1)})
    checkpoint = save(project, data)
    decoded.clear()
    with checkpoint.open("model") as file:
        for offset in (5 * MIB, 100, 6 * MIB, 200_000, 5 * MIB):
            file.seek(offset)
            assert file.read(70_000) == data[offset : offset + 70_000]
    assert 4 * MIB < sum(decoded) <= len(data)


def test_the_whole_file_is_verified_however_it_is_read(project: SampleProject, decoded: list[int]) -> None:
    data = weights(6 * MIB).tobytes()
    checkpoint = save(project, data)
    with checkpoint.open("model") as file:
        file.seek(20 * MIB)
        assert file.read(10) == data[20 * MIB : 20 * MIB + 10]
        file.seek(0)
        assert file.read() == data


def test_a_path_that_is_not_there_is_told(project: SampleProject) -> None:
    checkpoint = save(project, safetensors({"a": SMALL}))
    with pytest.raises(PathNotFoundError):
        checkpoint.tensors("other")
    with pytest.raises(NotFoundError):
        InertCheckpoint(0, {}).tensor("model", "a")
