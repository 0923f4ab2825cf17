from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.objects.ids import Kind, blob_id, object_id
from replicate.objects.model import MAX_LINK_BYTES, Mode, TreeEntry, encode_tree
from tests.cli.conftest import Vision
from tests.cli.shell import Result, Shell
from tests.projects import SampleProject, read_folder, store_files

TRAINING = blob_id(b"print('training')\n").hex()
EMPTY_TREE = object_id(Kind.TREE, encode_tree([])).hex()
MISSING = "ab" * 32
Write = Callable[..., Result]


@pytest.fixture
def write(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Run `write-tree` with bytes on its standard input."""

    def run(given: bytes, *arguments: str) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        return shell("write-tree", *arguments)

    return run


@pytest.mark.parametrize("flags", [(), ("-r",), ("-z",), ("-r", "-z")])
def test_what_ls_tree_prints_gives_the_same_tree(
    shell: Shell, write: Write, project: SampleProject, flags: tuple[str, ...]
) -> None:
    project.write("data/deep/a.txt", "a")
    project.write(b'odd "\n\t\xff\\', "x")
    project.write("größe", "x")
    project.write("run.sh", "x", executable=True)
    os.symlink("run.sh", project.root / "link")
    (project.root / "empty").mkdir()
    project.begin({}, name="tree").end("finished")
    listed = shell("ls-tree", *flags, "tree").raw
    result = write(listed, *(flag for flag in flags if flag == "-z"))
    assert (result.lines, result.err, result.code) == (shell("rev-parse", "tree:").lines, "", 0)


def test_entries_may_come_in_any_order_and_without_sizes(write: Write, vision: Vision) -> None:
    lines = [f"exec - {TRAINING}\tb/c\n", f"file 18 {TRAINING}\ta\n", f"tree - {EMPTY_TREE}\tb/d\n"]
    write(b"")
    forward, backward = write("".join(lines).encode()), write("".join(reversed(lines)).encode().rstrip())
    blob = blob_id(b"print('training')\n")
    below = encode_tree(
        [TreeEntry(b"c", Mode.EXECUTABLE, 18, blob), TreeEntry(b"d", Mode.DIRECTORY, 0, object_id(Kind.TREE, b"\x90"))]
    )
    tree = encode_tree(
        [TreeEntry(b"a", Mode.FILE, 18, blob), TreeEntry(b"b", Mode.DIRECTORY, 18, object_id(Kind.TREE, below))]
    )
    assert forward.lines == backward.lines == [object_id(Kind.TREE, tree).hex()]


def test_nothing_is_the_empty_tree(write: Write, shell: Shell, project: SampleProject) -> None:
    assert write(b"").lines == [EMPTY_TREE]
    assert shell("ls-tree", EMPTY_TREE).out == ""


def test_a_tree_that_is_there_is_not_stored_again(write: Write, project: SampleProject) -> None:
    assert write(b"").code == 0
    packs = store_files(project.store, "packs")
    assert write(b"").code == 0
    assert store_files(project.store, "packs") == packs


# -- entries that are refused


FORM = "hint: MODE is file, exec, link, tree; SIZE may be -; ID has 64 digits\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "file",
        f"file {TRAINING}\ta",
        f"file 18 {TRAINING} a",
        f"file 18 {TRAINING}\t",
        f"100644 18 {TRAINING}\ta",
        f"commit 18 {TRAINING}\ta",
        f"file -1 {TRAINING}\ta",
        f"file 1_8 {TRAINING}\ta",
        f"file {'9' * 20} {TRAINING}\ta",
        f"file 18 {TRAINING[:-1]}\ta",
        f"file 18 {TRAINING.upper()}\ta",
        f"file  18 {TRAINING}\ta",
        f" file 18 {TRAINING}\ta",
    ],
)
def test_a_line_that_is_no_entry_is_told(write: Write, vision: Vision, line: str) -> None:
    result = write(f"file - {TRAINING}\tok\n{line}\n".encode())
    assert result.err == f"error: entry 2 is {line!r}; it must be MODE SIZE ID<tab>PATH\n".replace("\\t", "\\t") + FORM
    assert (result.raw, result.code) == (b"", 2)


@pytest.mark.parametrize(("arguments", "end"), [((), "a newline"), (("-z",), "NUL")])
def test_input_without_an_end_is_refused(
    write: Write, project: SampleProject, arguments: tuple[str, ...], end: str
) -> None:
    result = write(b"x" * (3 << 20), *arguments)
    assert result.err == f"error: standard input holds more than 1,048,576 bytes without {end}\n"
    assert (result.raw, result.code) == (b"", 2)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("..", "a name has no '/' and no NUL, and is not '.' or '..'"),
        ("a/../b", "a name has no '/' and no NUL, and is not '.' or '..'"),
        ("./a", "a name has no '/' and no NUL, and is not '.' or '..'"),
        ("/a", "a name has 1 to 255 bytes"),
        ("a/", "a name has 1 to 255 bytes"),
        ("a//b", "a name has 1 to 255 bytes"),
        ("n" * 256, "a name has 1 to 255 bytes"),
    ],
)
def test_a_path_that_is_not_allowed_is_told(write: Write, vision: Vision, path: str, why: str) -> None:
    result = write(f"file - {TRAINING}\t{path}\n".encode())
    assert (result.err, result.code) == (f"error: {path!r} cannot stand in a tree: {why}\n", 2)


def test_a_nul_in_a_quoted_path_is_refused(write: Write, vision: Vision) -> None:
    assert "cannot stand in a tree" in write(f'file - {TRAINING}\t"a\\000b"\n'.encode()).err


@pytest.mark.parametrize("path", ['"a', '"a"b"', '"a\\"', '"\\q"', '"\\400"', '"\\1"'])
def test_quotes_that_are_not_whole_are_told(write: Write, vision: Vision, path: str) -> None:
    result = write(f"file - {TRAINING}\t{path}\n".encode())
    assert result.err == f"error: {path} is no path: the quotes or escapes in it are not whole\n"
    assert result.code == 2


def test_with_z_nothing_is_quoted(write: Write, shell: Shell, vision: Vision) -> None:
    tree = write(f'file - {TRAINING}\t"a\n\0'.encode(), "-z").lines[0]
    assert shell("ls-tree", "-z", "--name-only", tree).raw == b'"a\n\0'


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "a"], "'a' is given twice"),
        (["a", "a/b"], "'a/b' lies in 'a', which is given as an entry of its own"),
        (["a/b", "a"], "'a' is given as an entry, and as a folder of other paths"),
        (["a/b/c", "a/b"], "'a/b' is given as an entry, and as a folder of other paths"),
    ],
)
def test_paths_that_exclude_each_other_are_told(write: Write, vision: Vision, paths: list[str], message: str) -> None:
    result = write("".join(f"file - {TRAINING}\t{path}\n" for path in paths).encode())
    assert (result.err, result.code) == (f"error: {message}\n", 2)


def test_a_path_below_a_tree_that_is_named_by_id_is_refused(write: Write, vision: Vision) -> None:
    result = write(f"tree - {EMPTY_TREE}\ta\nfile - {TRAINING}\ta/b\n".encode())
    assert result.code == 3  # no commit has an empty folder yet
    assert write(b"").code == 0
    result = write(f"tree - {EMPTY_TREE}\ta\nfile - {TRAINING}\ta/b\n".encode())
    assert result.err == "error: 'a/b' lies in 'a', which is given as an entry of its own\n"


@pytest.mark.parametrize(("mode", "kind"), [("file", "blob"), ("exec", "blob"), ("link", "blob"), ("tree", "tree")])
def test_an_object_that_is_not_in_the_store_is_told(write: Write, vision: Vision, mode: str, kind: str) -> None:
    command = "write-tree" if kind == "tree" else "hash-object -w FILE"
    result = write(f"{mode} - {MISSING}\ta\n".encode())
    assert result.err == (
        f"error: 'a': {kind} {MISSING} is not in the store\nhint: store it first, with `replicate {command}`\n"
    )
    assert result.code == 3


def test_an_object_of_another_kind_is_told(write: Write, shell: Shell, vision: Vision) -> None:
    tree, commit = shell("rev-parse", "latest:", "latest").lines
    for mode, wanted in (("file", tree), ("link", tree), ("exec", commit), ("tree", commit), ("tree", TRAINING)):
        result = write(f"{mode} - {wanted}\ta\n".encode())
        kind = "tree" if mode == "tree" else "blob"
        assert result.err.startswith(f"error: 'a': {kind} {wanted} is not in the store\n")
        assert result.code == 3


def test_a_wrong_size_is_told(write: Write, vision: Vision) -> None:
    result = write(f"file 17 {TRAINING}\ta\n".encode())
    assert result.err == "error: 'a' has 18 bytes, not 17\nhint: write - for the size to have it looked up\n"
    assert result.code == 2


@pytest.mark.parametrize("content", [b"", b"a\0b", b"x" * (MAX_LINK_BYTES + 1)])
def test_a_link_to_what_is_no_path_is_refused(
    write: Write, shell: Shell, project: SampleProject, content: bytes
) -> None:
    project.write("target", content)
    blob = shell("hash-object", "-w", "target").lines[0]
    result = write(f"link - {blob}\ta\n".encode())
    assert result.err == "error: 'a': a link's target has 1 to 4,095 bytes and no NUL\n"
    assert result.code == 2


def test_folders_nested_too_deep_are_refused(write: Write, vision: Vision) -> None:
    path = "d/" * 1_000 + "f"
    result = write(f"file - {TRAINING}\t{path}\n".encode())
    assert result.err == f"error: {path[:100]!r}… is nested deeper than 1,000 folders\n"
    assert write(f"file - {TRAINING}\t{path[2:]}\n".encode()).code == 0


def test_nothing_is_stored_when_an_entry_is_refused(write: Write, vision: Vision) -> None:
    packs = store_files(vision.project.store, "packs")
    assert write(f"file - {TRAINING}\tnew/name\nfile - {MISSING}\ta\n".encode()).code == 3
    assert store_files(vision.project.store, "packs") == packs


# -- a folder


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_folder_is_stored_as_it_is(
    write: Write, shell: Shell, project: SampleProject, tmp_path: Path, where: str
) -> None:
    folder = project.root / "in" / "here" if where == "inside" else tmp_path / "elsewhere"
    (folder / "deep" / "empty").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(bytes(5_000_000))
    os.symlink("deep", folder / "link")
    result = shell("write-tree", str(folder))
    assert (result.err, result.code) == ("", 0)
    (tree,) = result.lines
    (commit,) = shell("commit-tree", tree).lines
    assert shell("checkout", "-q", commit, "-o", str(tmp_path / "out")).code == 0
    assert read_folder(tmp_path / "out") == read_folder(folder)


def test_the_project_is_stored_as_a_checkpoint_would_hold_it(shell: Shell, project: SampleProject) -> None:
    project.write(".replicateignore", "*.tmp\n")
    project.write("a.tmp")
    (tree,) = shell("write-tree", ".").lines
    assert shell("ls-tree", "--name-only", tree).lines == [".replicateignore", "replicate.yaml", "train.py"]
    assert shell("checkpoint", "-q").code == 0
    assert shell("rev-parse", "latest:").lines == [tree]


@pytest.mark.parametrize(("name", "problem"), [("nope", "does not exist"), ("train.py", "is no folder")])
def test_what_is_no_folder_is_told(shell: Shell, project: SampleProject, name: str, problem: str) -> None:
    hint = "hint: name a folder; `replicate hash-object -w` stores a file\n"
    shell.fails(3, f"error: {name} {problem}\n{hint}", "write-tree", name)


def test_z_does_not_go_with_a_folder(shell: Shell, project: SampleProject) -> None:
    shell.fails(
        2,
        "error: -z tells how entries on stdin end; it does not go with FOLDER\n"
        "hint: see `replicate write-tree --help`\n",
        *("write-tree", "-z", "."),
    )


def test_it_needs_a_project(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("write-tree", ".").code == 3
    assert list(tmp_path.iterdir()) == []
