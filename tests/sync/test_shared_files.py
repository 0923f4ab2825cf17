"""A big file that two machines save makes the same packs, and a store that both push to holds them once. SPEC §6."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replicate.errors import UnsupportedFormatError
from replicate.host import Host
from replicate.objects.codecs import Encoding
from replicate.objects.ids import ObjectID
from replicate.objects.pack import HEADER, Entry, is_reproducible, pack_key, read_footer
from replicate.refs import CommitRecord
from replicate.transport import LocalTransport
from tests.builders import noise
from tests.projects import SampleProject, check_store, read_folder
from tests.sync.stores import MIB, Remote, local, new_remote, pull_from, push_to, view_of
from tests.weights import safetensors, weights


def random_file() -> bytes:
    return noise(80 * MIB)


def weights_file(step: float = 0.0) -> bytes:
    """Return weights of 80 MB, of which two large tensors and some small ones are equal."""
    one, two = weights(8 << 20, seed=1), weights(3 << 20, seed=2)
    small = {f"norm.{number}": np.ones(4096, np.float32) for number in range(8)}
    return safetensors({"one": one + np.float32(step), "two": two, **small, "three": two, "four": two, "five": two})


def text_file() -> bytes:
    """Return what zstd finds matches and uneven bytes in, in pieces that take it differently long."""
    parts = [np.frombuffer(noise(8 * MIB, f"{n}"), np.uint8) % (3 + 20 * n) + 32 for n in range(10)]
    return b"".join(part.astype(np.uint8).tobytes() for part in parts) + b"again and again\n" * 100_000


@pytest.fixture(scope="module", params=[random_file, weights_file, text_file])
def content(request: pytest.FixtureRequest) -> bytes:
    made: bytes = request.param()
    return made


def machine(folder: Path, content: bytes, workers: int, note: str = "") -> tuple[SampleProject, CommitRecord]:
    """Return a project that saved a model, and the record."""
    project = SampleProject(folder, host=replace(Host(), cpu_count=workers))
    project.write("model.bin", content)
    project.write("train.py", note)
    session = project.begin()
    session.end("finished")
    return project, session.head


def entries_of(project: SampleProject) -> dict[ObjectID, list[Entry]]:
    """Return the entries of every reproducible pack of a store."""
    store = local(project)
    packs = {ObjectID.parse(info.key.rpartition("/")[2]): info.size or 0 for info in store.list("packs/")}
    return {
        pack: read_footer(store, pack, size)
        for pack, size in packs.items()
        if is_reproducible(store.get(pack_key(pack), 0, HEADER.size))
    }


def test_two_machines_that_save_one_file_store_it_once(tmp_path: Path, content: bytes) -> None:
    one, _ = machine(tmp_path / "one", content, 1, "of one\n")
    two, record = machine(tmp_path / "two", content, 5, "of two\n")
    shared = entries_of(one)
    assert len(shared) >= 2
    assert shared.keys() == entries_of(two).keys()
    remote = new_remote()
    push_to(one, remote)
    remote.counted()
    assert push_to(two, remote).left == 0
    put = {key for verb, key in remote.requests if verb == "put"}
    assert put.isdisjoint(map(pack_key, shared))
    assert remote.counted()["put packs"] == 2  # of the commit and of the start of the session
    third = view_of(tmp_path / "third", remote)
    third.restore(record, tmp_path / "restored")
    assert read_folder(tmp_path / "restored") == read_folder(two.root)


def test_a_known_store_is_asked_for_two_packs_and_then_for_the_others(tmp_path: Path) -> None:
    content = random_file() + noise(30 * MIB, "more")
    one, _ = machine(tmp_path / "one", content, 2)
    two = SampleProject(tmp_path / "two")
    two.begin().end("finished")
    remote = new_remote()
    push_to(one, remote)
    push_to(two, remote)
    two.write("model.bin", content)
    session = two.resume()
    two.save(session)
    remote.counted()
    assert push_to(two, remote).left == 0
    assert len(entries_of(two)) == 4
    assert remote.counted() == {"list packs": 4, "put packs": 2, "put refs": 2, "list ctl": 2}


def test_a_new_large_file_is_looked_for_twice(tmp_path: Path) -> None:
    remote = new_remote()
    project = SampleProject(tmp_path / "one")
    project.begin().end("finished")
    push_to(project, remote)
    project.write("model.bin", noise(150 * MIB))
    session = project.resume()
    project.save(session)
    remote.counted()
    push_to(project, remote)
    packs = len(entries_of(project))
    assert packs == 5
    assert remote.counted() == {"list packs": 2, "put packs": packs + 2, "put refs": 2, "list ctl": 2}


def test_a_pack_that_is_cut_short_there_is_put_again(tmp_path: Path) -> None:
    content = random_file()
    one, _ = machine(tmp_path / "one", content, 2)
    two, record = machine(tmp_path / "two", content, 2)
    store = LocalTransport(tmp_path / "remote", durability="fast")
    remote = new_remote(store)
    push_to(one, remote)
    torn = min(entries_of(one))
    path = tmp_path / "remote" / pack_key(torn)
    path.write_bytes(path.read_bytes()[:-1])
    assert push_to(two, remote).left == 0
    check_store(tmp_path / "remote")
    view_of(tmp_path / "third", remote).restore(record, tmp_path / "restored")


def test_a_pack_with_a_base_has_a_name_of_its_own(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "one")
    project.write("model.safetensors", weights_file())
    session = project.begin()
    before = entries_of(project)
    project.write("model.safetensors", weights_file(1e-6))
    saved = project.save(session)
    session.end("finished")
    assert entries_of(project).keys() == before.keys()
    store = local(project)
    sizes = {pack: store.list(pack_key(pack)) for pack in saved.base.stored.packset}
    entries = [entry for pack, (info,) in sizes.items() for entry in read_footer(store, pack, info.size or 0)]
    assert any(entry.encoding == Encoding.DELTA and entry.depth == 1 for entry in entries)


def test_packs_of_a_file_hold_nothing_else(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "one")
    project.write("one.bin", random_file())
    project.write("two.bin", noise(70 * MIB, "two"))
    project.write("small.bin", noise(3 * MIB, "small"))
    project.begin().end("finished")
    alone: set[ObjectID] = set()
    for name in ("one", "two"):
        other = SampleProject(tmp_path / name)
        other.write(f"{name}.bin", (project.root / f"{name}.bin").read_bytes())
        other.begin().end("finished")
        alone |= entries_of(other).keys()
    assert entries_of(project).keys() == alone


def test_a_pack_that_lost_its_blocks_is_replaced_by_the_same_one(tmp_path: Path) -> None:
    content = random_file()
    project, _ = machine(tmp_path / "one", content, 2)
    lost = min(entries_of(project))
    path = project.store / pack_key(lost)
    data = path.read_bytes()
    path.write_bytes(data[:MIB] + bytes(len(data) - MIB))
    for db in project.store.rglob("objects.db"):
        db.unlink()
    session = project.begin()
    session.end("finished")
    assert path.read_bytes() == data
    check_store(project.store)


def test_a_pack_that_is_there_again_is_no_second_one(tmp_path: Path) -> None:
    content = random_file()
    project, _ = machine(tmp_path / "one", content, 2)
    before = entries_of(project)
    for db in project.store.rglob("objects.db"):
        db.unlink()
    project.begin().end("finished")
    assert entries_of(project) == before
    check_store(project.store)


@pytest.mark.parametrize("is_done", [False, True])
def test_a_pack_found_in_place_is_not_relied_on_where_a_plan_is(tmp_path: Path, is_done: bool) -> None:
    content = random_file()
    one, _ = machine(tmp_path / "one", content, 2)
    two, _ = machine(tmp_path / "two", content, 2)
    remote = new_remote()
    push_to(one, remote)
    records = remote.present("refs/")

    def condemn(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("packs/"):
            remote.inner.put("ctl/p~" + "0" * 32, b"")
            if is_done:
                remote.inner.put("ctl/d~" + "0" * 32, b"")

    remote.before = condemn
    with pytest.raises(UnsupportedFormatError):
        push_to(two, remote)
    remote.before = lambda verb, key: None
    assert two.store.exists()
    with pytest.raises(UnsupportedFormatError):
        push_to(two, remote)
    assert len(remote.present("refs/") - records) <= 3  # put before the listing that told, and not confirmed


def test_pulling_what_was_saved_here_too_changes_nothing(tmp_path: Path) -> None:
    content = random_file()
    one, record = machine(tmp_path / "one", content, 1)
    two, _ = machine(tmp_path / "two", content, 3)
    remote: Remote = new_remote()
    push_to(one, remote)
    before = entries_of(two)
    remote.counted()
    assert pull_from(two, remote).packs == 2
    assert remote.counted()["get packs"] == 2
    assert entries_of(two) == before
    two.restore(record, tmp_path / "restored")
