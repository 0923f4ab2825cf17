from __future__ import annotations

import os

import pytest

from replicate.objects.ids import blob_id
from tests.cli.shell import Shell
from tests.projects import SampleProject


@pytest.fixture
def tree(project: SampleProject) -> SampleProject:
    """An experiment `tree` with every kind of entry."""
    project.write("data/deep/a.txt", "a")
    project.write("run.sh", "x", executable=True)
    project.write(b"odd\n\xff", "x")
    os.symlink("train.py", project.root / "link")
    (project.root / "empty").mkdir()
    project.begin({}, name="tree").end("finished")
    return project


def test_entries_have_mode_size_id_and_path(shell: Shell, tree: SampleProject) -> None:
    result = shell("ls-tree", "tree")
    ids = {line.split("\t")[1]: line.split()[2] for line in result.lines}
    assert result.lines == [
        f"tree 1 {ids['data']}\tdata",
        f"tree 0 {ids['empty']}\tempty",
        f"link 8 {blob_id(b'train.py').hex()}\tlink",
        f'file 1 {blob_id(b"x").hex()}\t"odd\\n\\377"',
        f"file 17 {blob_id(b'durability: fast' + bytes([10])).hex()}\treplicate.yaml",
        f"exec 1 {blob_id(b'x').hex()}\trun.sh",
        f"file 18 {blob_id(b'print(' + repr('training').encode() + b')' + bytes([10])).hex()}\ttrain.py",
    ]
    assert (result.err, result.code) == ("", 0)


def test_r_lists_what_is_in_folders_and_folders_only_when_empty(shell: Shell, tree: SampleProject) -> None:
    result = shell("ls-tree", "-r", "--name-only", "tree")
    assert result.lines == [
        "data/deep/a.txt",
        "empty",
        "link",
        '"odd\\n\\377"',
        "replicate.yaml",
        "run.sh",
        "train.py",
    ]


def test_z_ends_entries_with_nul_and_quotes_nothing(shell: Shell, tree: SampleProject) -> None:
    names = shell("ls-tree", "-z", "--name-only", "tree").raw.split(b"\0")
    assert names == [b"data", b"empty", b"link", b"odd\n\xff", b"replicate.yaml", b"run.sh", b"train.py", b""]
    first = shell("ls-tree", "-z", "tree").raw.split(b"\0")[3]
    assert first == b"file 1 " + blob_id(b"x").hex().encode() + b"\todd\n\xff"


@pytest.mark.parametrize("name", ["tree:data", "tree:data/", "id"])
def test_a_folder_is_named_by_path_or_id(shell: Shell, tree: SampleProject, name: str) -> None:
    given = shell("rev-parse", "tree:data").lines[0] if name == "id" else name
    assert shell("ls-tree", "-r", "--name-only", given).lines == ["deep/a.txt"]


def test_json_has_every_entry(shell: Shell, tree: SampleProject) -> None:
    result = shell("ls-tree", "--json", "-r", "tree")
    listed = {one["path"]: one for one in result.json}
    assert listed["data/deep/a.txt"] == {
        "path": "data/deep/a.txt",
        "mode": "file",
        "bytes": 1,
        "id": blob_id(b"a").hex(),
    }
    assert listed["odd\n\\xff"]["path_hex"] == "6f64640aff"
    assert [one["mode"] for one in result.json] == ["file", "tree", "link", "file", "file", "exec", "file"]
    assert (result.err, result.code) == ("", 0)


def test_a_file_is_refused(shell: Shell, tree: SampleProject) -> None:
    shell.fails(
        3,
        "error: tree:train.py is a file, not a folder\nhint: `replicate cat-file` prints it\n",
        *("ls-tree", "tree:train.py"),
    )


def test_a_path_that_is_not_there_is_refused(shell: Shell, tree: SampleProject) -> None:
    short = shell("rev-parse", "--short", "tree").lines[0]
    shell.fails(3, f"error: {short} has no 'train.py/x'\n", "ls-tree", "tree:train.py/x")
