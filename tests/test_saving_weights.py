"""Weights over many saves: stored as differences to the save before, under the ids they always had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError
from replicate.objects.choosing import MAX_DEPTH, climb, links_of
from replicate.objects.codecs import Encoding, planes
from replicate.objects.ids import Buffer, ObjectID, blob_id
from replicate.objects.pack import Entry, Place, read_footer
from replicate.presenting import describe_saved
from replicate.refs import CommitRecord
from replicate.transport import LocalTransport
from tests.builders import some_id
from tests.projects import SampleProject, check_store, read_folder, store_bytes, store_files
from tests.weights import Array, npz, safetensors, torch_zip

Arrays = Mapping[str, Array]


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "w")


def model(seed: int = 0, scale: int = 1) -> dict[str, Array]:
    """Return the tensors of a small model: two that are cut in parts, one that is whole, and small ones."""
    rng = np.random.default_rng(seed)
    sizes = {"embedding": 1_500_000 * scale, "layer": 1_200_000 * scale, "head": 100_000, "bias": 64, "norm": 700}
    return {name: rng.normal(0, 0.02, size).astype(np.float32) for name, size in sizes.items()}


def trained(arrays: Arrays, seed: int) -> dict[str, Array]:
    """Return the tensors a small step later."""
    rng = np.random.default_rng(seed)
    return {
        name: (array + rng.normal(0, 1e-6, array.size).astype(np.float32)).astype(np.float32)
        for name, array in arrays.items()
    }


def series(count: int) -> Iterator[dict[str, Array]]:
    arrays = model()
    for seed in range(count):
        yield arrays
        arrays = trained(arrays, seed)


def entries_of(project: SampleProject) -> list[Entry]:
    """Return every entry of every pack."""
    transport = LocalTransport(project.store)
    paths = store_files(project.store, "packs")
    return [entry for path in paths for entry in read_footer(transport, ObjectID.parse(path.name), path.stat().st_size)]


def encodings(project: SampleProject) -> Counter[Encoding]:
    return Counter(Encoding(entry.encoding) for entry in entries_of(project))


Saves = Sequence[tuple[CommitRecord, Mapping[bytes, bytes]]]


def check_restores(project: SampleProject, saves: Saves, folder: Path) -> None:
    for number, (record, files) in enumerate(saves):
        project.restore(record, folder / str(number))
        found = {path: content for path, (_, content) in read_folder(folder / str(number)).items()}
        assert {path: found[path] for path in files} == files


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.safetensors", safetensors),
        ("step-{:05}.safetensors", safetensors),
        ("checkpoint-{}/model.safetensors", safetensors),
        ("weights.npz", npz),
        ("step-{:05}.pt", lambda arrays: torch_zip([one.tobytes() for one in arrays.values()])),
    ],
    ids=["one path", "numbered", "numbered folder", "npz", "torch"],
)
def test_each_save_of_a_series_is_stored_as_differences_and_restores(
    project: SampleProject, tmp_path: Path, name: str, write: Callable[[Arrays], bytes]
) -> None:
    session = project.begin()
    saves = []
    raw = []
    last = None
    for step, arrays in enumerate(series(7)):
        if last is not None:
            last.unlink()
        content = write(arrays)
        last = project.write(name.format(10 * step + 10), content)
        record = project.save(session).base.record
        saves.append((record, {name.format(10 * step + 10).encode(): content}))
        raw.append(len(content))
    session.end("finished")
    found = encodings(project)
    assert found[Encoding.DELTA] >= 6 * 4  # two tensors in two parts each
    assert found[Encoding.PLANES] >= 4
    assert store_bytes(project.store) < 0.5 * sum(raw)
    assert {entry.depth for entry in entries_of(project) if entry.encoding == Encoding.DELTA} == {1, 2, 3}
    check_store(project.store)
    check_restores(project, saves, tmp_path / "out")


def test_the_ids_are_those_of_the_bytes_however_they_are_stored(project: SampleProject) -> None:
    session = project.begin()
    for arrays in series(3):
        content = safetensors(arrays)
        project.write("model.safetensors", content)
        state = project.save(session).base.directories[b""]
        assert [entry.object_id for entry in state.entries] == [blob_id(content)]


def test_tensors_that_stay_as_they_are_are_stored_once(project: SampleProject) -> None:
    session = project.begin()
    arrays = model()
    project.write("model.safetensors", safetensors(arrays))
    project.save(session)
    before = store_bytes(project.store)
    arrays["layer"] = trained(arrays, 1)["layer"]
    project.write("model.safetensors", safetensors(arrays))
    saved = project.save(session)
    assert saved.new_bytes == arrays["layer"].nbytes
    assert store_bytes(project.store) - before < 0.5 * arrays["layer"].nbytes


def test_weights_in_another_place_and_with_another_header_find_the_model_that_they_began_as(
    project: SampleProject, tmp_path: Path
) -> None:
    arrays = model()
    project.write("models/base.safetensors", safetensors(arrays))
    session = project.begin()
    content = safetensors(trained(arrays, 1), {"format": "pt", "trained by": "ada"})
    project.write("out/best/tuned.safetensors", content)
    record = project.save(session).base.record
    assert encodings(project)[Encoding.DELTA] >= 4
    check_restores(project, [(record, {b"out/best/tuned.safetensors": content})], tmp_path / "out")


def test_a_second_run_into_the_same_files_builds_on_its_own(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    saves = []
    for run in (0, 1):
        arrays = model(10 + run)
        for step in (500, 1000, 1500):
            name = f"out/checkpoint-{step}/model.safetensors"
            content = safetensors(arrays)
            project.write(name, content)
            saves.append((project.save(session).base.record, {name.encode(): content}))
            arrays = trained(arrays, step + run)
    assert encodings(project)[Encoding.DELTA] >= 4 * 4  # all but the first save of each run
    assert store_bytes(project.store) < 0.6 * 6 * 11_200_000
    check_restores(project, saves, tmp_path / "out")


def test_a_save_tells_what_it_stored(project: SampleProject) -> None:
    session = project.begin()
    before = store_bytes(project.store)
    for arrays in series(2):
        project.write("m.safetensors", safetensors(arrays))
        record = project.save(session).base.record
    after = sum(path.stat().st_size for path in store_files(project.store, "packs"))
    assert 0 < record.stored_bytes < 0.5 * record.new_bytes
    assert record.stored_bytes < after - before
    assert " · 11 MB, 11 MB new, 3.2 MB stored · " in describe_saved(record, None)


def test_other_tensors_of_the_same_sizes_are_no_base(project: SampleProject) -> None:
    project.write("a.safetensors", safetensors(model(0)))
    session = project.begin()
    project.write("b.safetensors", safetensors({name.upper(): array for name, array in model(1).items()}))
    project.save(session)
    assert encodings(project)[Encoding.DELTA] == 0


def test_unlike_weights_under_one_path_are_stored_whole(project: SampleProject) -> None:
    project.write("m.safetensors", safetensors(model(0)))
    session = project.begin()
    project.write("m.safetensors", safetensors(model(1)))
    project.save(session)
    assert encodings(project)[Encoding.DELTA] == 0


def test_a_model_that_grew_a_layer_keeps_what_it_had(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    project.write("m.safetensors", safetensors(arrays))
    session = project.begin()
    content = safetensors({"new": model(5)["layer"], **trained(arrays, 1)})
    project.write("m.safetensors", content)
    record = project.save(session).base.record
    assert encodings(project)[Encoding.DELTA] >= 4
    check_restores(project, [(record, {b"m.safetensors": content})], tmp_path / "out")


def test_a_resumed_experiment_builds_on_what_it_saved_before(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    project.write("m.safetensors", safetensors(arrays))
    project.begin().end("finished")
    content = safetensors(trained(arrays, 1))
    project.write("m.safetensors", content)
    record = project.save(project.resume()).base.record
    assert encodings(project)[Encoding.DELTA] >= 4
    check_restores(project, [(record, {b"m.safetensors": content})], tmp_path / "out")
    check_store(project.store)


def test_going_back_to_an_earlier_version_stores_nothing_again(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    first, second = (safetensors(arrays) for arrays in series(2))
    saves = []
    for content in (first, second):
        project.write("m.safetensors", content)
        saves.append((project.save(session).base.record, {b"m.safetensors": content}))
    project.write("other.safetensors", second)
    project.write("m.safetensors", first)
    saved = project.save(session)
    saves.append((saved.base.record, {b"m.safetensors": first, b"other.safetensors": second}))
    assert saved.new_bytes == 0
    check_restores(project, saves, tmp_path / "out")
    check_store(project.store)


def test_nothing_is_built_on_a_version_that_is_damaged(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    first, second, third = (safetensors(arrays) for arrays in series(3))
    project.write("m.safetensors", first)
    project.save(session)
    (pack,) = [path for path in store_files(project.store, "packs") if path.stat().st_size > 1 << 20]
    project.write("m.safetensors", second)
    damaged = project.save(session).base.record
    before = encodings(project)[Encoding.DELTA]
    assert before >= 4
    spoilt = bytearray(pack.read_bytes())
    for entry in entries_of(project):
        if entry.encoding == Encoding.PLANES and entry.raw_length > 1 << 20:
            spoilt[entry.offset + entry.length // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(spoilt)
    with pytest.raises(CorruptionError) as raised:
        project.restore(damaged, tmp_path / "damaged")
    assert " cannot be read, for it builds on this: " in str(raised.value)
    project.write("m.safetensors", third)
    record = project.save(session).base.record
    check_restores(project, [(record, {b"m.safetensors": third})], tmp_path / "out")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what fills with the lengths of the planes that are decoded."""
    found: list[int] = []
    decode = planes.decode_view

    def spy(payload: Buffer, raw_length: int, where: str) -> Buffer:
        found.append(raw_length)
        return decode(payload, raw_length, where)

    monkeypatch.setattr(planes, "decode_view", spy)
    return found


@pytest.mark.parametrize("write", [safetensors, lambda arrays: torch_zip([one.tobytes() for one in arrays.values()])])
def test_earlier_files_that_are_in_the_worktree_yet_are_not_decoded(
    project: SampleProject, tmp_path: Path, decoded: list[int], write: Callable[[Arrays], bytes]
) -> None:
    session = project.begin()
    saves = []
    for step, arrays in enumerate(series(6)):
        content = write(arrays)
        project.write(f"step-{step}.safetensors", content)
        saves.append((project.save(session).base.record, {f"step-{step}.safetensors".encode(): content}))
    assert encodings(project)[Encoding.DELTA] >= 5 * 4
    assert decoded == []
    check_restores(project, saves, tmp_path / "out")


def test_earlier_files_that_somebody_changed_are_read_from_the_store(
    project: SampleProject, tmp_path: Path, decoded: list[int]
) -> None:
    session = project.begin()
    first, second, third = (safetensors(arrays) for arrays in series(3))
    project.write("step-1.safetensors", first)
    project.save(session)
    project.write("step-1.safetensors", second)
    project.write("step-2.safetensors", third)
    record = project.save(session, "step-2.safetensors").base.record
    assert len(decoded) >= 4
    check_restores(project, [(record, {b"step-1.safetensors": first, b"step-2.safetensors": third})], tmp_path / "o")


@pytest.mark.parametrize("together", [True, False])
def test_a_file_that_is_cut_may_be_a_piece_of_another(project: SampleProject, tmp_path: Path, together: bool) -> None:
    inner = safetensors({"w": model()["head"], "v": model(1)["head"]})
    outer = safetensors({"blob": np.frombuffer(inner, np.uint8), "x": model(2)["head"]})
    assert len(inner) >= 256 << 10
    session = project.begin()
    project.write("inner.safetensors", inner)
    if not together:
        project.save(session)
    project.write("outer.safetensors", outer)
    files = {b"inner.safetensors": inner, b"outer.safetensors": outer}
    saves = [(project.save(session).base.record, files)]
    project.write("inner.safetensors", inner + b"x")
    saves.append((project.save(session).base.record, {b"outer.safetensors": outer}))
    for number in range(40):  # until the locator is written whole
        project.write("inner.safetensors", safetensors(trained({"w": model()["head"]}, number)))
        saves.append((project.save(session).base.record, {b"outer.safetensors": outer}))
    check_store(project.store)
    check_restores(project, [*saves[:2], saves[-1]], tmp_path / "out")


def test_small_weights_are_coded_too(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    arrays = {"lora.a": model()["head"], "lora.b": model(2)["head"]}
    saves = []
    for seed in range(4):
        content = safetensors(arrays)
        project.write("adapter.safetensors", content)
        saves.append((project.save(session).base.record, {b"adapter.safetensors": content}))
        arrays = trained(arrays, seed)
    assert encodings(project)[Encoding.DELTA] >= 3
    assert store_bytes(project.store) < 0.6 * 4 * 800_000
    check_restores(project, saves, tmp_path / "out")


def test_more_effort_stores_less_and_restores_the_same(tmp_path: Path) -> None:
    stored = {}
    rng = np.random.default_rng(0)  # weights of many magnitudes take steps of one: the exponent tells much of a delta
    layer = (model()["layer"] * 10 ** rng.uniform(-3, 0, 1_200_000)).astype(np.float32)
    contents = [safetensors(one) for one in ({"layer": layer}, trained({"layer": layer}, 1))]
    efforts: tuple[Literal["normal", "high"], ...] = ("normal", "high")
    for effort in efforts:
        project = SampleProject(tmp_path / effort)
        project.config = replace(project.config, effort=effort)
        session = project.begin()
        saves = []
        for content in contents:
            project.write("m.safetensors", content)
            saves.append((project.save(session).base.record, {b"m.safetensors": content}))
        check_restores(project, saves, tmp_path / f"out-{effort}")
        stored[effort] = store_bytes(project.store)
    assert stored["high"] < 0.99 * stored["normal"]


def test_arrays_that_repeat_are_left_to_zstd(project: SampleProject) -> None:
    tokens = np.tile(np.random.default_rng(0).integers(0, 50_000, 1000).astype(np.uint32), 400)
    project.write("tokens.npy", npz({"a": tokens}))
    project.begin()
    assert encodings(project)[Encoding.PLANES] == 0
    assert store_bytes(project.store) < 100_000


# -- which version is the base


def place_at(depth: int) -> Place:
    return Place(some_id("pack"), 1, Entry(some_id(f"{depth}"), 1, 3 if depth else 2, depth, 32, 100, 100))


@given(st.integers(1, 5_000))
def test_the_base_of_a_version_is_the_one_whose_lowest_bit_is_cleared(last: int) -> None:
    chain = [0]
    for version in range(1, last + 1):
        chain = [version, *chain[links_of(version) :]]
        assert chain[1] == version & (version - 1)


@given(st.lists(st.booleans(), max_size=300))
def test_no_chain_is_too_deep_whichever_saves_change_something(changes: list[bool]) -> None:
    chain = [place_at(0)]
    for generation, changed in enumerate(changes, 1):
        if changed:
            rest = climb(chain, links_of(generation))
            chain = [place_at(rest[0].entry.depth + 1), *rest]
        assert len(chain) == chain[0].entry.depth + 1 <= MAX_DEPTH + 1
