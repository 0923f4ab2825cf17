from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.objects.ids import blob_id
from tests.cli.shell import Shell

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
