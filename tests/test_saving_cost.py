"""What saving costs: reads, store files and store bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicate.saving import Saved
from tests.projects import SampleProject, allocated_bytes, read_folder, store_bytes, store_files

MIB = 1 << 20


@pytest.fixture
def project(tmp_path: Path) -> Iterator[SampleProject]:
    """A project that is removed at once: the ones here are large."""
    yield SampleProject(tmp_path / "w")
    shutil.rmtree(tmp_path / "w")


def write_noise(path: Path, size: int, seed: int) -> None:
    """Write bytes that neither compress nor repeat, fast: one random MiB, in every MiB xor-ed with another number."""
    block = int.from_bytes(os.urandom(MIB), "little")
    with open(path, "wb") as file:
        for number in range(size // MIB):
            stamp = (seed * 1_000_003 + number + 1).to_bytes(8, "little") * (MIB // 8)
            file.write((block ^ int.from_bytes(stamp, "little")).to_bytes(MIB, "little"))


# -- reads ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_worktree_is_saved_without_opening_a_file(project: SampleProject, opened: list[str]) -> None:
    for number in range(50):
        project.write(f"d{number % 5}/f{number}", f"{number}")
    project.write("large", os.urandom(9 * MIB))
    (project.root / "link").symlink_to("large")
    project.settle()
    session = project.begin()
    opened.clear()
    saved = project.save(session)
    assert opened == []
    assert saved.new_bytes == 0


def test_an_unchanged_worktree_is_saved_by_another_process_without_opening_a_file(
    project: SampleProject, opened: list[str]
) -> None:
    for number in range(50):
        project.write(f"d{number % 5}/f{number}", f"{number}")
    project.settle()
    project.begin().end("finished")
    opened.clear()
    project.save(project.resume())
    project.begin()
    assert opened == []


def test_only_what_changed_is_opened(project: SampleProject, opened: list[str]) -> None:
    for number in range(50):
        project.write(f"f{number}", f"{number}")
    project.settle()
    session = project.begin()
    project.write("f7", "changed")
    project.write("new", "new")
    (project.root / "f8").unlink()
    opened.clear()
    project.save(session)
    assert sorted(os.path.basename(path) for path in opened) == ["f7", "new"]


def test_a_named_folder_costs_no_more_than_the_whole_worktree(project: SampleProject) -> None:
    for number in range(3_000):
        project.write(f"d/{number}/f", f"{number}")
    session = project.begin()
    project.settle()
    project.save(session, "d")
    whole = min(project.save(session).duration_ns for _ in range(3))
    named = min(project.save(session, "d").duration_ns for _ in range(3))
    assert named < 5 * whole


def test_a_file_that_moved_is_read_and_not_stored_again(project: SampleProject) -> None:
    project.write("a", os.urandom(9 * MIB))
    session = project.begin()
    before = store_bytes(project.store)
    (project.root / "d").mkdir()
    (project.root / "a").rename(project.root / "d" / "b")
    saved = project.save(session)
    assert saved.new_bytes == 0
    assert store_bytes(project.store) - before < 10_000


def test_an_unchanged_save_reads_no_pack_but_frame_heads(project: SampleProject, tmp_path: Path) -> None:
    project.write("a", os.urandom(9 * MIB))
    project.settle()
    session = project.begin()
    before = store_bytes(project.store)
    for _ in range(10):
        project.save(session)
    assert store_bytes(project.store) - before < 20_000


# -- store files ----------------------------------------------------------------------------------------------------


def test_two_thousand_new_small_files_make_at_most_three_store_files(project: SampleProject) -> None:
    session = project.begin()
    before = set(store_files(project.store, "packs", "refs"))
    for number in range(2_000):
        project.write(f"d{number % 10}/f{number}", os.urandom(1_000))
    saved = project.save(session)
    assert saved.files == 2_000
    assert len(set(store_files(project.store, "packs", "refs")) - before) <= 3


def test_an_unchanged_save_makes_two_store_files(project: SampleProject) -> None:
    project.write("a", "1")
    session = project.begin()
    before = set(store_files(project.store))
    project.save(session)
    assert len(set(store_files(project.store)) - before) == 2


def test_a_finished_save_leaves_no_temporary_file(project: SampleProject) -> None:
    project.write("a", "1")
    project.write("b", os.urandom(9 * MIB))
    project.save(project.begin())
    assert list((project.store / "local" / "tmp").iterdir()) == []


# -- store bytes ----------------------------------------------------------------------------------------------------


def test_five_hundred_mebibytes_saved_twice_are_stored_once(project: SampleProject) -> None:
    size = 500 * MIB
    for number in range(5):
        write_noise(project.root / f"weights-{number}.bin", size // 5, number)
    session = project.begin()
    project.save(session)
    project.save(session)
    session.end("finished")
    project.save(project.begin())
    assert size * 0.999 < store_bytes(project.store) <= size * 1.001


def test_a_file_that_grows_is_stored_again_from_its_last_piece_on(project: SampleProject) -> None:
    path = project.root / "train.log"
    write_noise(path, 40 * MIB, 1)
    session = project.begin()
    before = store_bytes(project.store)
    with open(path, "ab") as file:
        file.write(os.urandom(1000))
    project.save(session)
    assert store_bytes(project.store) - before < 10_000


def flat(number: int) -> str:
    return f"f{number:05}.txt"


def nested(number: int) -> str:
    return f"d{number // 100:03}/f{number % 100:02}.txt"


# Each takes about a minute: the flat folder is left to the soak.
@pytest.mark.parametrize("layout", [pytest.param(flat, marks=pytest.mark.soak), nested])
def test_a_hundred_saves_that_change_one_of_twenty_thousand_files_add_at_most_five_megabytes(
    project: SampleProject, tmp_path: Path, layout: Callable[[int], str]
) -> None:
    for number in range(20_000):
        path = project.root / layout(number)
        if number % 100 == 0:
            path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n")
    session = project.begin()
    before = allocated_bytes(project.store)
    content = {}
    saves: list[Saved] = []
    for number in range(100):
        name = layout(number * 7919 % 20_000)
        content[os.fsencode(name)] = f"changed {number}\n".encode()
        project.write(name, content[os.fsencode(name)])
        saves.append(project.save(session))
    added = allocated_bytes(project.store) - before
    assert added <= 5_000_000
    assert len(store_files(project.store, "packs", "refs")) <= 205
    assert saves[-1].files == 20_000
    project.restore(saves[-1], tmp_path / "out", paths=list(content))
    found = read_folder(tmp_path / "out")
    assert {path: found[path][1] for path in content} == content
