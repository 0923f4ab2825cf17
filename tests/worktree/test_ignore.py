"""Which paths are not saved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicate.worktree.ignore import is_built_in, is_environment, is_secret
from replicate.worktree.scan import Scan, Scanner


def scanned(root: Path, found: Scan | None = None) -> set[str]:
    """Return the paths that a save of the whole folder holds."""
    scan = found or Scanner(str(root)).scan()
    return {os.fsdecode(os.path.join(folder, name)) for folder, listing in scan.directories.items() for name in listing}


def named(root: Path, path: str) -> set[str]:
    """Return the paths that a save of one named path holds."""
    found = Scan()
    assert Scanner(str(root)).scan_named(path.encode(), found)
    return scanned(root, found)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_pattern_holds_for_its_folder_and_below(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "*.log\n", "a.log": "", "d/b.log": "", "d/e/c.log": "", "d/e/keep": ""})
    assert scanned(tmp_path) == {".replicateignore", "d", "d/e", "d/e/keep"}


def test_a_pattern_of_a_nested_file_does_not_hold_above_it(tmp_path: Path) -> None:
    write(tmp_path, {"d/.replicateignore": "*.log\n", "a.log": "", "d/b.log": "", "e/c.log": ""})
    assert scanned(tmp_path) == {"a.log", "d", "d/.replicateignore", "e", "e/c.log"}


def test_an_anchored_pattern_holds_in_its_own_folder_only(tmp_path: Path) -> None:
    write(tmp_path, {"d/.replicateignore": "/x\n", "x": "", "d/x": "", "d/e/x": ""})
    assert scanned(tmp_path) == {"x", "d", "d/.replicateignore", "d/e", "d/e/x"}


def test_a_pattern_with_a_slash_at_its_end_means_folders(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "out/\n", "out/a": "", "d/out": ""})
    assert scanned(tmp_path) == {".replicateignore", "d", "d/out"}


def test_a_later_line_takes_back_what_an_earlier_one_ignores(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "*.log\n!keep.log\n", "a.log": "", "keep.log": "", "d/keep.log": ""})
    assert scanned(tmp_path) == {".replicateignore", "keep.log", "d", "d/keep.log"}


def test_a_nested_file_takes_back_what_the_one_above_ignores(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "*.log\n", "d/.replicateignore": "!b.log\n", "d/b.log": "", "d/c.log": ""})
    assert scanned(tmp_path) == {".replicateignore", "d", "d/.replicateignore", "d/b.log"}


def test_a_nested_file_may_ignore_what_the_one_above_takes_back(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "*.log\n!b.log\n", "d/.replicateignore": "b.*\n", "b.log": "", "d/b.log": ""})
    assert scanned(tmp_path) == {".replicateignore", "b.log", "d", "d/.replicateignore"}


def test_nothing_below_an_ignored_folder_is_taken_back(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "d/\n!d/keep\n", "d/.replicateignore": "!*\n", "d/keep": ""})
    assert scanned(tmp_path) == {".replicateignore"}


def test_comments_and_empty_lines_ignore_nothing(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "# a\n\n   \n", "a": "", "# a": ""})
    assert scanned(tmp_path) == {".replicateignore", "a", "# a"}


@pytest.mark.parametrize("line", ["!", "\\", "a\\", "[", "/", "//", "\x00"])
def test_a_line_that_is_no_pattern_ignores_nothing_and_the_others_hold(tmp_path: Path, line: str) -> None:
    write(tmp_path, {".replicateignore": f"x\n{line}\ny\n", "x": "", "y": "", "z": ""})
    assert scanned(tmp_path) == {".replicateignore", "z"}


def test_windows_line_ends_are_line_ends(tmp_path: Path) -> None:
    (tmp_path / ".replicateignore").write_bytes(b"a\r\nb\r\n")
    write(tmp_path, {"a": "", "b": "", "c": ""})
    assert scanned(tmp_path) == {".replicateignore", "c"}


def test_a_byte_order_mark_belongs_to_no_pattern(tmp_path: Path) -> None:
    (tmp_path / ".replicateignore").write_bytes(b"\xef\xbb\xbfa\n")
    write(tmp_path, {"a": "", "b": ""})
    assert scanned(tmp_path) == {".replicateignore", "b"}


def test_patterns_match_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"a\xff.log", b"b\xff.txt", b"c\xfe"):
        with open(os.path.join(root, name), "wb"):
            pass
    (tmp_path / ".replicateignore").write_bytes(b"*.log\nc\xfe\n")
    assert scanned(tmp_path) == {".replicateignore", os.fsdecode(b"b\xff.txt")}


def test_an_ignore_file_that_is_a_folder_or_pipe_is_no_ignore_file(tmp_path: Path) -> None:
    write(tmp_path, {"d/.replicateignore/a": "", "e/b": ""})
    os.mkfifo(tmp_path / "e" / ".replicateignore")
    assert scanned(tmp_path) == {"d", "d/.replicateignore", "d/.replicateignore/a", "e", "e/b"}


def test_gitignore_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*.pt\n", "weights.pt": ""})
    assert scanned(tmp_path) == {".gitignore", "weights.pt"}


@pytest.mark.parametrize(
    "name",
    [
        ".git",
        ".replicate",
        ".hg",
        ".svn",
        "__pycache__",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".ipynb_checkpoints",
        "node_modules",
        ".DS_Store",
        ".replicate-tmp-0123456789abcdef",
    ],
)
def test_what_is_built_in_stays_out_at_every_depth(tmp_path: Path, name: str) -> None:
    write(tmp_path, {f"{name}/a": "", f"d/{name}/a": "", "d/b": ""})
    assert is_built_in(name.encode())
    assert scanned(tmp_path) == {"d", "d/b"}


@pytest.mark.parametrize("name", ["git", ".gitattributes", ".github", "pycache", ".replicateignore", ".DS_Store2"])
def test_names_that_only_resemble_built_in_ones_are_saved(name: str) -> None:
    assert not is_built_in(name.encode())


def test_no_ignore_file_takes_back_what_is_built_in(tmp_path: Path) -> None:
    write(
        tmp_path, {".replicateignore": "!.git\n!.env\n!__pycache__/\n", ".git/a": "", ".env": "", "__pycache__/a": ""}
    )
    assert scanned(tmp_path) == {".replicateignore"}


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        "server.pem",
        "tls.key",
        "store.p12",
        "id_rsa",
        "id_rsa.pub",
        "id_ed25519",
        ".netrc",
        ".pypirc",
        ".aws",
        ".ssh",
        ".gcloud",
        "credentials.json",
        "credentials-prod.json",
        ".git-credentials",
    ],
)
def test_names_that_usually_mean_secrets_stay_out_and_are_listed(tmp_path: Path, name: str) -> None:
    write(tmp_path, {f"d/{name}": "", "d/b": ""})
    found = Scanner(str(tmp_path)).scan()
    assert is_secret(name.encode())
    assert scanned(tmp_path, found) == {"d", "d/b"}
    assert found.secrets == [f"d/{name}".encode()]


@pytest.mark.parametrize(
    "name", ["env", ".envrc", "environment.env", "pem", "key", "monkey.py", "credentials.py", "aws"]
)
def test_names_that_only_resemble_secrets_are_saved(name: str) -> None:
    assert not is_secret(name.encode())


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history"])
def test_virtual_environments_stay_out_whatever_they_are_called(tmp_path: Path, mark: str) -> None:
    write(tmp_path, {f"d/my-env/{mark}": "", "d/my-env/lib/site.py": "", "d/a": ""})
    assert is_environment([mark.partition("/")[0].encode(), b"lib"])
    assert scanned(tmp_path) == {"d", "d/a"}


def test_a_project_inside_a_virtual_environment_is_saved(tmp_path: Path) -> None:
    write(tmp_path, {"pyvenv.cfg": "", "train.py": ""})
    assert scanned(tmp_path) == {"pyvenv.cfg", "train.py"}


@pytest.mark.parametrize("path", ["a.log", "d/b.log", ".env", ".git", "venv", "__pycache__/m.pyc", ".aws"])
def test_a_named_path_is_never_ignored(tmp_path: Path, path: str) -> None:
    write(
        tmp_path,
        {
            ".replicateignore": "*.log\n",
            "a.log": "",
            "d/b.log": "",
            ".env": "",
            ".git/head": "",
            "venv/pyvenv.cfg": "",
            "__pycache__/m.pyc": "",
            ".aws/config": "",
        },
    )
    assert path in named(tmp_path, path)


def test_ignore_files_do_not_hold_inside_a_named_folder(tmp_path: Path) -> None:
    write(tmp_path, {".replicateignore": "*.log\n", "d/.replicateignore": "x\n", "d/a.log": "", "d/x": ""})
    assert named(tmp_path, "d") == {"d", "d/.replicateignore", "d/a.log", "d/x"}


def test_what_is_built_in_stays_out_of_a_named_folder(tmp_path: Path) -> None:
    write(tmp_path, {"d/.git/a": "", "d/.env": "", "d/e/venv/pyvenv.cfg": "", "d/b": ""})
    assert named(tmp_path, "d") == {"d", "d/b", "d/e"}
