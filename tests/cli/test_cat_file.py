from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicate.objects.ids import Kind, blob_id, object_id
from replicate.transport import KeyInfo, LocalTransport
from tests.builders import noise
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files

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
        3,
        f"error: no experiment or tag is named '{name}'\nhint: `replicate ls` shows what there is\n",
        "cat-file",
        name,
    )


# -- many objects


Feed = Callable[[bytes], None]


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    """Put bytes on standard input."""
    return lambda given: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))


def test_batch_prints_a_line_and_the_bytes(shell: Shell, vision: Vision, feed: Feed) -> None:
    tree = shell("rev-parse", "latest:").lines[0]
    feed(f"latest:train.py\n{tree}\nbaseline\n{TRAINING[:12]}\n".encode())
    blob = f"{TRAINING} blob 18\nprint('training')\n\n".encode()
    expected = [blob]
    for name, wanted, kind in ((tree, tree, "tree"), ("baseline", vision.baseline.id, "commit")):
        raw = shell("cat-file", "--raw", name).raw
        expected.append(f"{wanted} {kind} {len(raw)}\n".encode() + raw + b"\n")
    result = shell("cat-file", "--batch")
    assert (result.raw, result.err, result.code) == (b"".join([*expected, blob]), "", 0)


def test_batch_check_prints_lines_only(shell: Shell, project: SampleProject, feed: Feed) -> None:
    project.write("big.bin", bytes(9_000_000))
    project.write("empty")
    project.begin({}, name="one").end("finished")
    feed(b"one:big.bin\none:empty\none:\n")
    big, empty = blob_id(bytes(9_000_000)).hex(), blob_id(b"").hex()
    lines = shell("cat-file", "--batch-check").lines
    assert lines[:2] == [f"{big} blob 9000000", f"{empty} blob 0"]
    assert lines[2] == f"{shell('rev-parse', 'one:').lines[0]} tree {shell('cat-file', '-s', 'one:').lines[0]}"


def test_a_large_blob_comes_whole(shell: Shell, project: SampleProject, feed: Feed) -> None:
    content = bytes(range(256)) * 40_000
    project.write("big.bin", content)
    project.begin({}, name="one").end("finished")
    feed(b"one:big.bin")
    assert (
        shell("cat-file", "--batch").raw == f"{blob_id(content).hex()} blob {len(content)}\n".encode() + content + b"\n"
    )


@pytest.mark.parametrize("option", ["--batch", "--batch-check"])
@pytest.mark.parametrize(
    "name",
    [b"ab" * 32, b"nothing", b"latest:nope", b"abc", b"", b"baseline@newest", b"latest~9", b"\xff", b"a b", b":"],
)
def test_what_is_not_there_is_missing(shell: Shell, vision: Vision, feed: Feed, option: str, name: bytes) -> None:
    feed(name + b"\nlatest:nope\n")
    result = shell("cat-file", option)
    assert (result.raw, result.err, result.code) == (name + b" missing\nlatest:nope missing\n", "", 0)


def test_what_means_several_objects_is_ambiguous(
    shell: Shell, vision: Vision, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.revisions.MIN_PREFIX_DIGITS", 0)
    monkeypatch.setattr("replicate.cli.cat_file.MIN_PREFIX_DIGITS", 1)
    for number in range(40):  # so many that two of them share the first digit
        vision.project.write(f"f{number}", str(number))
    assert shell("checkpoint", "-q").code == 0
    digit = next(one for one in "0123456789abcdef" if shell("cat-file", one).code == 2)
    feed(digit.encode())
    assert shell("cat-file", "--batch").out == f"{digit} ambiguous\n"


def test_z_ends_names_and_lines_with_nul(shell: Shell, project: SampleProject, feed: Feed) -> None:
    project.write(b"odd\n\xff", "x")
    project.begin({}, name="one").end("finished")
    feed(b"one:odd\n\xff\0one:no\npe\0")
    blob = blob_id(b"x").hex().encode()
    assert shell("cat-file", "--batch", "-z").raw == blob + b" blob 1\0x\0one:no\npe missing\0"


def test_notices_do_not_get_into_the_answers(shell: Shell, vision: Vision, feed: Feed) -> None:
    vision.project.begin({}, name="baseline").end("finished")
    feed(b"baseline\n")
    result = shell("cat-file", "--batch-check")
    assert "2 experiments are named baseline" in result.err
    assert len(result.lines) == 1


def test_damage_ends_the_answers(shell: Shell, vision: Vision, feed: Feed) -> None:
    content = noise(5_000)
    vision.project.write("data.bin", content)
    assert shell("checkpoint", "-q").code == 0
    (pack,) = (one for one in store_files(vision.project.store, "packs") if content in one.read_bytes())
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes().replace(content, content[::-1]))
    feed(b"latest:train.py\nlatest:data.bin\nlatest:train.py\n")
    result = shell("cat-file", "--batch")
    assert result.out == f"{TRAINING} blob 18\nprint('training')\n\n"
    assert result.err.startswith(f"error: blob {blob_id(content).hex()} in pack {pack.name} is damaged")
    assert result.code == 5


def test_the_packs_are_listed_once_for_many_names(
    shell: Shell, vision: Vision, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    list_keys = LocalTransport.list

    def count(self: LocalTransport, prefix: str, **given: Any) -> Iterator[KeyInfo]:
        listed.append(prefix)
        return list_keys(self, prefix, **given)

    monkeypatch.setattr(LocalTransport, "list", count)
    feed(f"{TRAINING}\n{TRAINING[:10]}\nlatest:train.py\n".encode() * 20)
    assert len(shell("cat-file", "--batch-check").lines) == 60
    assert listed.count("packs/") == 1


@pytest.mark.parametrize(
    "arguments",
    [(), ("latest", "--batch"), ("-t", "--batch"), ("latest", "-z"), ("--raw",), ("latest", "--batch-check")],
)
def test_one_object_or_a_batch(shell: Shell, vision: Vision, arguments: tuple[str, ...]) -> None:
    shell.fails(
        2,
        "error: name one OBJECT, or use --batch or --batch-check alone\nhint: see `replicate cat-file --help`\n",
        *("cat-file", *arguments),
    )
