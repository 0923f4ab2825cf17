from __future__ import annotations

import math

import pytest

from replicate.objects.ids import Kind, blob_id, object_id
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject

TRAINING = blob_id(b"print('training')\n").hex()


def test_a_blob_is_printed_as_it_is(shell: Shell, project: SampleProject) -> None:
    content = bytes(range(256)) * 20_000
    project.write("data.bin", content)
    project.begin({}).end("finished")
    result = shell("cat-file", blob_id(content).hex())
    assert (result.raw, result.err, result.code) == (content, "", 0)


@pytest.mark.parametrize("digits", [4, 12, 64])
def test_an_object_is_found_by_a_prefix(shell: Shell, vision: Vision, digits: int) -> None:
    assert shell("cat-file", TRAINING[:digits]).out == "print('training')\n"


def test_an_object_is_found_by_revision_and_path(shell: Shell, vision: Vision) -> None:
    assert shell("cat-file", "baseline@best:model.bin").out == "baseline 1\n"
    assert shell("cat-file", "-t", "baseline@best:").out == "tree\n"
    assert shell("cat-file", "-t", "baseline@best").out == "commit\n"


def test_an_experiment_means_its_root(shell: Shell, vision: Vision) -> None:
    shown = shell("cat-file", "baseline")
    assert (shown.json["kind"], shown.err) == ("root", "")


@pytest.mark.parametrize(("revision", "kind"), [("latest", "commit"), ("latest:", "tree"), ("latest:train.py", "blob")])
def test_t_prints_the_kind(shell: Shell, vision: Vision, revision: str, kind: str) -> None:
    assert shell("cat-file", "-t", revision).out == f"{kind}\n"


def test_s_prints_the_length(shell: Shell, vision: Vision) -> None:
    assert shell("cat-file", "-s", "latest:train.py").out == "18\n"
    assert shell("cat-file", "-s", "latest:").out == f"{len(shell('cat-file', '--raw', 'latest:').raw)}\n"
    vision.project.write("big.bin", bytes(5_000_000))
    assert shell("checkpoint", "-q").code == 0
    assert shell("cat-file", "-s", "latest:big.bin").out == "5000000\n"


@pytest.mark.parametrize(
    ("revision", "kind"), [("latest", Kind.COMMIT), ("latest:", Kind.TREE), ("latest:train.py", Kind.BLOB)]
)
def test_raw_prints_what_the_id_is_the_hash_of(shell: Shell, vision: Vision, revision: str, kind: Kind) -> None:
    raw = shell("cat-file", "--raw", revision).raw
    assert object_id(kind, raw).hex() == shell("rev-parse", revision).lines[0]


def test_a_tree_is_printed_as_json(shell: Shell, project: SampleProject) -> None:
    project.write("sub/a", "x")
    project.write(b"\xff", "x", executable=True)
    project.begin({}, name="tree").end("finished")
    for flags in ((), ("-p",)):
        config, folder, script, odd = shell("cat-file", *flags, "tree@start:").json
        assert folder == {"name": "sub", "mode": "tree", "bytes": 1, "id": shell("rev-parse", "tree:sub").lines[0]}
        assert (config["name"], script["name"]) == ("replicate.yaml", "train.py")
        assert (odd["name"], odd["name_hex"], odd["mode"]) == ("\\xff", "ff", "exec")


def test_a_commit_is_printed_as_json(shell: Shell, project: SampleProject) -> None:
    session = project.begin({"clip": math.inf}, name="odd", tags=["paper"], primary_metric=("loss", "minimize"))
    project.save(session, step=3, metrics={"loss": math.nan})
    session.end("finished")
    root = shell("cat-file", "-p", "odd@start").json
    assert set(root) == {
        "kind",
        "tree",
        "parents",
        "author",
        "time_ns",
        "experiment",
        "seq",
        "step",
        "metrics",
        "params",
        "command",
        "name",
        "tags",
        "primary_metric",
    }
    assert (root["kind"], root["name"], root["tags"], root["parents"]) == ("root", "odd", ["paper"], [])
    assert root["params"] == {"clip": "Infinity"}
    checkpoint = shell("cat-file", "odd@latest").json
    assert (checkpoint["kind"], checkpoint["seq"], checkpoint["step"]) == ("checkpoint", 1, 3)
    assert checkpoint["parents"] == [checkpoint["experiment"]] == [session.experiment_id.hex()]
    assert checkpoint["metrics"] == {"loss": "NaN"}
    assert checkpoint["primary_metric"] == {"name": "loss", "goal": "minimize"}


def test_an_object_that_is_not_there_is_told(shell: Shell, vision: Vision) -> None:
    missing = next(f"{number:04x}" for number in range(1 << 16) if shell("cat-file", f"{number:04x}").code == 3)
    shell.fails(3, f"error: no object has an id that begins with {missing}\n", "cat-file", missing)


def test_a_path_that_is_not_there_is_told(shell: Shell, vision: Vision) -> None:
    short = vision.warmup.ids[0][:7]
    shell.fails(3, f"error: {short} has no 'nope'\n", "cat-file", "latest:nope")


def test_an_ambiguous_prefix_lists_the_objects(shell: Shell, project: SampleProject) -> None:
    ids: dict[str, str] = {}
    for number in range(100_000):
        found = blob_id(b"%d" % number).hex()
        if found[:4] in ids:
            break
        ids[found[:4]] = str(number)
    project.write("one", ids[found[:4]])
    project.write("two", str(number))
    project.begin({}).end("finished")
    result = shell("cat-file", found[:4])
    message, hint = result.err.splitlines()
    assert message.startswith(f"error: {found[:4]} matches 2 objects: ")
    assert message.count("(blob)") == 2
    assert f"{found[:12]} (blob)" in message
    assert (hint, result.code, result.raw) == ("hint: type more digits", 2, b"")


@pytest.mark.parametrize("name", ["DEADBEEF", "nothing", "not/hex"])
def test_a_name_that_is_no_prefix_is_told(shell: Shell, vision: Vision, name: str) -> None:
    shell.fails(
        3, f"error: no experiment is named '{name}'\nhint: `replicate ls` shows what there is\n", "cat-file", name
    )
