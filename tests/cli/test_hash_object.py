from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.objects.ids import blob_id
from tests.builders import noise
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files

EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no project, with two files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def test_files_are_hashed_in_the_order_given(shell: Shell, folder: Path) -> None:
    result = shell("hash-object", "empty", "a.txt")
    assert (result.lines, result.err, result.code) == ([EMPTY, blob_id(b"hello\n").hex()], "", 0)


def test_a_file_of_many_pieces_is_hashed_as_a_whole(shell: Shell, folder: Path) -> None:
    content = bytes(range(256)) * 20_000
    (folder / "big.bin").write_bytes(content)
    assert shell("hash-object", "big.bin").lines == [blob_id(content).hex()]


def test_the_id_is_what_b3sum_prints(shell: Shell, folder: Path) -> None:
    if not shutil.which("b3sum"):
        pytest.skip("b3sum is not installed")
    printed = subprocess.run(["b3sum", "--no-names", "a.txt"], capture_output=True, text=True, check=True).stdout
    assert shell("hash-object", "a.txt").out == printed


def test_standard_input_is_hashed(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert shell("hash-object", "--stdin", "empty").lines == [blob_id(b"hello\n").hex(), EMPTY]


def test_a_link_is_followed(shell: Shell, folder: Path) -> None:
    os.symlink("a.txt", folder / "link")
    assert shell("hash-object", "link").lines == [blob_id(b"hello\n").hex()]


def test_a_file_that_does_not_exist_is_refused(shell: Shell, folder: Path) -> None:
    shell.fails(3, "error: nope does not exist\n", "hash-object", "nope")


def test_a_folder_is_refused(shell: Shell, folder: Path) -> None:
    shell.fails(3, "error: . is a folder\nhint: name a file\n", "hash-object", ".")


def test_it_needs_a_file(shell: Shell, folder: Path) -> None:
    shell.fails(2, "error: name a FILE, or use --stdin\nhint: see `replicate hash-object --help`\n", "hash-object")


def test_input_that_cannot_be_read_is_told(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Broken()))
    shell.fails(6, "error: cannot read standard input: Input/output error\n", "hash-object", "--stdin")


# -- many files


def feed(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    """Put bytes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))


@pytest.mark.parametrize("option", ["--batch", "--stdin-paths"])
def test_names_are_read_from_standard_input(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    feed(monkeypatch, b"empty\na.txt")
    assert shell("hash-object", option).lines == [EMPTY, blob_id(b"hello\n").hex()]


def test_names_may_end_with_nul(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "odd\n\udcff").write_bytes(b"odd")
    feed(monkeypatch, b"empty\0odd\n\xff\0")
    assert shell("hash-object", "--batch", "-z").lines == [EMPTY, blob_id(b"odd").hex()]


def test_a_name_that_is_not_there_ends_the_list(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"empty\nnope\na.txt\n")
    result = shell("hash-object", "--batch")
    assert (result.lines, result.err, result.code) == ([EMPTY], "error: nope does not exist\n", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "a.txt"), "--batch reads names from standard input; it does not go with FILE or --stdin"),
        (("--batch", "--stdin"), "--batch reads names from standard input; it does not go with FILE or --stdin"),
        (("-z", "a.txt"), "-z goes with --batch"),
    ],
)
def test_options_that_exclude_each_other(shell: Shell, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    shell.fails(2, f"error: {message}\nhint: see `replicate hash-object --help`\n", "hash-object", *arguments)


# -- storing


def test_w_stores_what_it_hashes(shell: Shell, project: SampleProject) -> None:
    project.write("big.bin", noise(9_000_000))
    project.write("empty")
    result = shell("hash-object", "-w", "big.bin", "train.py", "empty", "big.bin")
    big = blob_id(noise(9_000_000)).hex()
    assert (result.lines, result.err) == ([big, shell("hash-object", "train.py").lines[0], EMPTY, big], "")
    assert shell("cat-file", big).raw == noise(9_000_000)
    assert shell("cat-file", EMPTY).raw == b""


@pytest.mark.parametrize("size", [0, 5, 4 << 20, (4 << 20) + 1, 9_000_000])
def test_w_stores_standard_input(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    feed(monkeypatch, noise(size))
    (blob,) = shell("hash-object", "-w", "--stdin").lines
    assert blob == blob_id(noise(size)).hex()
    assert shell("cat-file", blob).raw == noise(size)
    assert list((project.store / "local" / "tmp").glob("*")) == []


def test_w_stores_nothing_twice(shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("big.bin", noise(9_000_000))
    assert shell("hash-object", "-w", "big.bin").code == 0
    packs = store_files(project.store, "packs")
    feed(monkeypatch, noise(9_000_000))
    assert shell("hash-object", "-w", "big.bin", "--stdin").code == 0
    assert store_files(project.store, "packs") == packs


def test_many_files_go_into_one_pack(shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"f{number}" for number in range(50)]
    for name in names:
        project.write(name, name)
    feed(monkeypatch, "\n".join(names).encode())
    assert shell("hash-object", "-w", "--batch").lines == [blob_id(name.encode()).hex() for name in names]
    assert len(store_files(project.store, "packs")) == 1


def test_nothing_is_stored_when_a_file_is_not_there(shell: Shell, project: SampleProject) -> None:
    shell.fails(3, "error: nope does not exist\n", "hash-object", "-w", "train.py", "nope")
    assert store_files(project.store, "packs") == []


def test_w_needs_a_project(shell: Shell, folder: Path) -> None:
    assert shell("hash-object", "-w", "a.txt").code == 3
    assert not (folder / ".replicate").exists()


def test_w_refuses_a_store_that_asks_for_more(shell: Shell, project: SampleProject) -> None:
    assert shell("hash-object", "-w", "train.py").code == 0
    (project.store / "ctl" / "feat~write~later").write_bytes(b"")
    project.write("other", "other")
    result = shell("hash-object", "-w", "other")
    assert (result.raw, result.code) == (b"", 7)
