"""Models that are exported in 16 bits: stored as the 32-bit ones that they were rounded from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from replicate.errors import CorruptionError
from replicate.objects.choosing import MAX_DEPTH
from replicate.objects.codecs import Encoding, cast
from replicate.objects.cutting import cut_file
from replicate.objects.ids import blob_id
from tests.objects.codecs.series import bfloat16
from tests.projects import SampleProject, check_store, store_bytes, store_files
from tests.test_saving_weights import Arrays, check_restores, decoded, encodings, entries_of, model, trained
from tests.weights import Array, CountingFile, gguf, safetensors, safetensors_of, torch_zip

__all__ = ["decoded"]

Write = Callable[[Arrays], bytes]
MASTER, EXPORT = "model.safetensors", "export/model.safetensors"


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "w")


def bf16_of(arrays: Arrays) -> bytes:
    """Return what `safetensors` writes for 32-bit arrays rounded to bfloat16, or 16-bit ones that are bfloat16."""
    halves = {name: bfloat16(one) if one.itemsize == 4 else one.view(np.uint16) for name, one in arrays.items()}
    header, at = {}, 0
    for name, one in halves.items():
        header[name] = {"dtype": "BF16", "shape": list(one.shape), "data_offsets": [at, at + one.nbytes]}
        at += one.nbytes
    return safetensors_of(header, b"".join(one.tobytes() for one in halves.values()))


def fp16_of(arrays: Arrays) -> bytes:
    return safetensors({name: one.astype(np.float16) for name, one in arrays.items()})


def torch_of(arrays: Arrays) -> bytes:
    return torch_zip([one.tobytes() for one in arrays.values()])


def torch_bf16_of(arrays: Arrays) -> bytes:
    return torch_zip([bfloat16(one).tobytes() for one in arrays.values()])


def gguf_of(arrays: Arrays) -> bytes:
    return gguf([(name, one.shape, 0, one.tobytes()) for name, one in arrays.items()])


def gguf_fp16_of(arrays: Arrays) -> bytes:
    return gguf([(name, one.shape, 1, one.astype(np.float16).tobytes()) for name, one in arrays.items()])


def casts(project: SampleProject) -> int:
    return encodings(project)[Encoding.CAST]


FORMATS: Mapping[str, tuple[Write, Write]] = {
    "bf16": (safetensors, bf16_of),
    "fp16": (safetensors, fp16_of),
    "torch": (torch_of, torch_bf16_of),
    "gguf": (gguf_of, gguf_fp16_of),
}


@pytest.mark.parametrize("together", [True, False], ids=["one save", "two saves"])
@pytest.mark.parametrize(("write", "export"), FORMATS.values(), ids=FORMATS.keys())
def test_an_export_is_stored_as_its_master(
    project: SampleProject, tmp_path: Path, write: Write, export: Write, together: bool, decoded: list[int]
) -> None:
    arrays = {**model(), "bias": np.random.default_rng(1).normal(0, 1, 12_000).astype(np.float32)}
    master, exported = write(arrays), export(arrays)
    project.write(MASTER, master)
    session = project.begin()
    if together:
        project.write(MASTER, write(trained(arrays, 1)))
        arrays = trained(arrays, 1)
        master, exported = write(arrays), export(arrays)
    before = {entry.object_id for entry in entries_of(project)}
    project.write(EXPORT, exported)
    saved = project.save(session)
    fresh = [entry for entry in entries_of(project) if entry.object_id not in before]
    lengths = [piece.length for piece in cut_file(len(exported), CountingFile(exported)) if piece.tensor]
    found = [entry for entry in fresh if entry.encoding == Encoding.CAST]
    assert len(found) >= 4  # two tensors in two parts
    assert sum(entry.raw_length for entry in found) > 0.98 * sum(lengths)
    if not together:
        assert saved.base.record.stored_bytes < 0.02 * len(exported)
        assert decoded == []
    check_store(project.store)
    files = {MASTER.encode(): master, EXPORT.encode(): exported}
    check_restores(project, [(saved.base.record, files)], tmp_path / "out")


def test_a_first_save_finds_masters_too(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    alone = SampleProject(tmp_path / "alone")
    for one in (project, alone):
        one.write(MASTER, safetensors(arrays))
    project.write("model-bf16.safetensors", bf16_of(arrays))
    for one in (project, alone):
        one.begin().end("finished")
    assert store_bytes(project.store) - store_bytes(alone.store) < 0.02 * len(bf16_of(arrays))
    assert casts(project) >= 4


def test_a_file_may_come_from_several_and_several_from_one(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    names = list(arrays)
    files = {
        b"a.safetensors": safetensors({name: arrays[name] for name in names[:1]}),
        b"b.safetensors": safetensors({name: arrays[name] for name in names[1:]}),
        b"c.safetensors": bf16_of({name: arrays[name] for name in ("embedding", "head")}),
        b"d.safetensors": fp16_of({name: arrays[name] for name in ("embedding", "head")}),
    }
    for name, content in files.items():
        project.write(name, content)
    session = project.begin()
    assert casts(project) == 3 + 3
    record = project.save(session, "a.safetensors").base.record
    check_restores(project, [(record, files)], tmp_path / "out")


SPECIAL = [0x7F800000, 0xFF800000, 0x80000000, 0, 1, 0x80000001, 0x33000001, 0x477FF000, 0x7F7FFFFF, 0x3F808000]


@pytest.mark.parametrize("export", [bf16_of, fp16_of])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_special_values_round_as_they_should(project: SampleProject, tmp_path: Path, export: Write) -> None:
    arrays = model()
    arrays["head"].view(np.uint32)[1000 : 1000 + len(SPECIAL)] = SPECIAL
    content = export(arrays)
    project.write(MASTER, safetensors(arrays))
    project.write(EXPORT, content)
    record = project.save(project.begin()).base.record
    assert casts(project) >= 5
    check_restores(project, [(record, {EXPORT.encode(): content})], tmp_path / "out")


@pytest.mark.parametrize(("bits", "count"), [(0x7FC0, 5), (0x7F81, 4), (0xFFC0, 4)])
def test_only_the_nan_of_the_specification_is_a_cast(
    project: SampleProject, tmp_path: Path, bits: int, count: int
) -> None:
    arrays = model()
    halves: dict[str, Array] = {name: bfloat16(one) for name, one in arrays.items()}
    arrays["head"].view(np.uint32)[7] = 0x7F812345
    halves["head"][7] = bits
    content = bf16_of(halves)
    project.write(MASTER, safetensors(arrays))
    project.write(EXPORT, content)
    record = project.save(project.begin()).base.record
    assert casts(project) == count
    check_restores(project, [(record, {EXPORT.encode(): content})], tmp_path / "out")


def test_what_is_cut_off_and_not_rounded_is_no_cast(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    content = bf16_of({name: (one.view(np.uint32) >> 16).astype(np.uint16) for name, one in arrays.items()})
    project.write(MASTER, safetensors(arrays))
    project.write(EXPORT, content)
    record = project.save(project.begin()).base.record
    assert casts(project) == 0
    check_restores(project, [(record, {EXPORT.encode(): content})], tmp_path / "out")


def test_only_pieces_that_differ_are_stored(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    project.write(MASTER, safetensors(arrays))
    session = project.begin()
    content = bf16_of({**arrays, "layer": trained(arrays, 1)["layer"] + np.float32(0.01)})
    project.write(EXPORT, content)
    saved = project.save(session)
    assert casts(project) == 3  # the embedding in two parts, and the head
    assert saved.base.record.stored_bytes > 0.3 * 2 * arrays["layer"].size
    check_restores(project, [(saved.base.record, {EXPORT.encode(): content})], tmp_path / "out")


def test_a_master_that_was_removed_is_read_from_the_store(
    project: SampleProject, tmp_path: Path, decoded: list[int]
) -> None:
    arrays = model()
    path = project.write(MASTER, safetensors(arrays))
    session = project.begin()
    path.unlink()
    content = bf16_of(arrays)
    project.write(EXPORT, content)
    record = project.save(session).base.record
    assert casts(project) >= 5
    assert decoded
    check_restores(project, [(record, {EXPORT.encode(): content})], tmp_path / "out")
    check_store(project.store)


def test_a_master_that_changed_meanwhile_is_none(project: SampleProject, tmp_path: Path) -> None:
    arrays = model()
    project.write(MASTER, safetensors(arrays))
    session = project.begin()
    later = trained(arrays, 1)
    later["embedding"][:700_000] = arrays["embedding"][:700_000]  # the sample is as it was, and the piece is not
    project.write(MASTER, safetensors({**later, "embedding": later["embedding"]}))
    content = bf16_of(arrays)
    project.write(EXPORT, content)
    record = project.save(session, EXPORT).base.record
    check_restores(project, [(record, {EXPORT.encode(): content})], tmp_path / "out")
    check_store(project.store)


def test_files_without_a_master_are_saved_as_ever(
    project: SampleProject, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(cast, "encode", lambda *given: tried.append(1))
    arrays = model()
    project.write("other.safetensors", safetensors({name.upper(): one for name, one in arrays.items()}))
    project.write("third.safetensors", safetensors({**arrays, "embedding": arrays["embedding"][1:]}))
    session = project.begin()
    project.write(EXPORT, bf16_of({"embedding": arrays["embedding"]}))
    project.save(session)
    assert tried == []
    assert decoded == []


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_master_that_cannot_be_read_is_named_with_what_lies_on_it(
    project: SampleProject, tmp_path: Path, how: str
) -> None:
    arrays = {"embedding": model()["embedding"]}
    master, content = safetensors(arrays), bf16_of(arrays)
    path = project.write(MASTER, master)
    session = project.begin()
    (pack,) = [path for path in store_files(project.store, "packs") if path.stat().st_size > 1 << 20]
    path.unlink()
    project.write(EXPORT, content)
    record = project.save(session).base.record
    assert casts(project) == 2
    spoilt = bytearray(pack.read_bytes())
    for entry in entries_of(project):
        if entry.encoding == Encoding.PLANES:
            spoilt[entry.offset + entry.length - 1000] ^= 255  # among the exponents: others may be rounded away
    pack.unlink()
    if how == "damaged":
        pack.write_bytes(spoilt)
    with pytest.raises(CorruptionError) as raised:
        project.restore(record, tmp_path / "out")
    causes: list[BaseException | None] = [raised.value]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__)
    text = " ".join(map(str, causes))
    assert any(blob_id(piece).hex() in text for piece in pieces_of(content))
    assert any(blob_id(piece).hex() in text for piece in pieces_of(master))
    assert " cannot be read, for it builds on this: " in text


def pieces_of(content: bytes) -> list[bytes]:
    found = cut_file(len(content), CountingFile(content))
    return [content[piece.offset : piece.offset + piece.length] for piece in found]


def test_a_series_of_both_restores_and_stays_shallow(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    arrays: Arrays = {name: model()[name] for name in ("head", "layer")}
    saves = []
    for seed in range(9):
        files = {MASTER.encode(): safetensors(arrays), EXPORT.encode(): bf16_of(arrays)}
        if seed >= 6:  # from here on the export is trained by itself
            files = {EXPORT.encode(): bf16_of(trained({n: one * np.float32(1.001) for n, one in arrays.items()}, seed))}
        for name, content in files.items():
            project.write(name, content)
        saves.append((project.save(session).base.record, files))
        arrays = trained(arrays, seed)
    found = entries_of(project)
    assert casts(project) >= 6 * 3
    assert max(entry.depth for entry in found) <= MAX_DEPTH
    assert {entry.raw_length % 4 for entry in found if entry.encoding == Encoding.CAST} == {0}
    check_store(project.store)
    check_restores(project, saves, tmp_path / "out")


def test_an_export_outlives_the_commits_of_its_master(project: SampleProject, tmp_path: Path) -> None:
    session = project.begin()
    arrays: Arrays = {"head": model()["head"]}
    path = project.write(MASTER, safetensors(arrays))
    project.write(EXPORT, bf16_of(arrays))
    project.save(session)
    path.unlink()
    for number in range(40):  # until the locator is written whole
        for one in range(40):
            project.write(f"notes/{one}", f"{number} {one}")
        record = project.save(session).base.record
    assert casts(project) == 1
    check_store(project.store)
    check_restores(project, [(record, {EXPORT.encode(): bf16_of(arrays)})], tmp_path / "out")
