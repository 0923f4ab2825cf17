"""What every command says about a project, a store, a revision or an argument that is wrong. Whole messages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from replicate.collection import ExperimentCollection
from replicate.errors import InvalidInputError
from replicate.objects.ids import ObjectID, blob_id
from replicate.objects.pack import pack_key
from tests.builders import noise
from tests.cli.conftest import Ran, Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files

READING = [
    ("ls",),
    ("log",),
    ("status",),
    ("show", "latest"),
    ("checkout", "latest"),
    ("cat-file", "latest"),
    ("ls-tree", "latest"),
    ("rev-parse", "latest"),
]
NAMING = ("log", "show", "checkout", "cat-file", "ls-tree", "rev-parse")
reading = pytest.mark.parametrize("arguments", READING, ids=[arguments[0] for arguments in READING])
VALUES = "pass a number, text, or a list or dict of these"
WHOLE = "a copy of the store may have it whole, `replicate fsck` tells what else is damaged"
ELSEWHERE = "hint: what does not need it stays readable; a copy of the store may have the file whole\n"
UPGRADE = "hint: upgrade replicate: pip install --upgrade replicate-vc\n"


# -- commands and folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lsa", "; did you mean 'ls'?"),
        ("list", "; did you mean 'ls'?"),
        ("restore", "; did you mean 'checkout'?"),
        ("save", "; did you mean 'checkpoint'?"),
        ("chekout", "; did you mean 'checkout'?"),
        ("cat_file", "; did you mean 'cat-file'?"),
        ("frobnicate", ""),
    ],
)
def test_an_unknown_command_suggests_a_near_one(shell: Shell, tmp_path: Path, name: str, near: str) -> None:
    shell.fails(2, f"error: no command '{name}'{near}\nhint: see `replicate --help`\n", name)


def test_an_unknown_option_is_told(shell: Shell) -> None:
    shell.fails(2, "error: no such option '--foo'\nhint: see `replicate ls --help`\n", "ls", "--foo")


def test_a_project_without_a_command_is_told(shell: Shell, project: SampleProject) -> None:
    shell.fails(2, "error: missing command\nhint: see `replicate --help`\n", "-D", str(project.root))


@reading
def test_outside_of_a_project_reading_commands_say_where_to_go(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    shell.fails(
        3,
        f"error: {tmp_path} is not in a project: no replicate.yaml and no .replicate here or above\n"
        "hint: go to a project's folder, name one with -D DIR, or start one with `replicate checkpoint`\n",
        *arguments,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_a_terminal_would_obey_is_printed_harmlessly(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a\nhint: b\x1b[31m"
    root.mkdir()
    monkeypatch.chdir(root)
    shown = f"{tmp_path}/a·hint: b·[31m"
    result = shell("ls")
    assert result.err.splitlines()[0].startswith(f"error: {shown} is not in a project: ")
    assert len(result.err.splitlines()) == 2
    (root / "replicate.yaml").write_text("repository: ../team\n")
    result = shell("checkpoint", "-q")
    assert (result.code, result.err.splitlines()[-2:]) == (
        0,
        [
            f"warning: checkpoints are not pushed: there is no store at {tmp_path}/team",
            "hint: correct the place, or make a store there with `replicate push --create`",
        ],
    )
    (root / "replicate.yaml").write_text("repository: team\n")
    assert shell("ls").err.splitlines() == [
        f"warning: there is no store at {shown}/team; only what is on this machine is shown",
        "hint: `replicate push --create` makes one",
        "* not pushed yet, as far as is known here · 1 experiment",
    ]
    assert shell("status").rows[1][0:2] == ["repository", f"{shown}/team,".split()[0]]


@reading
@pytest.mark.parametrize("flag", ["-D", "--project-directory"])
def test_another_project_can_be_named(
    shell: Shell,
    vision: Vision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    flag: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *rest = arguments
    assert shell(name, flag, "project", *rest).code == 0
    assert shell(flag, "project/..", flag, "project", name, *rest).code == 0
    (vision.project.root / "sub").mkdir()
    assert shell(name, *rest, flag, "project/sub").code == 0


@reading
def test_a_folder_that_does_not_exist_is_told(shell: Shell, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    message = f"error: -D {tmp_path}/nope: there is no such folder\n"
    shell.fails(2, message, "-D", f"{tmp_path}/nope", *arguments)
    shell.fails(2, message, *arguments, "-D", f"{tmp_path}/nope")


def test_a_current_folder_that_is_gone_is_told(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    shell.fails(2, "error: the current folder does not exist any more\nhint: `cd` somewhere else\n", "ls")


# -- replicate.yaml --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\nstorre: x\n", " line 2: unknown key 'storre'\nhint: did you mean 'store'?\n"),
        (
            "frobnicate: x\n",
            " line 1: unknown key 'frobnicate'\n"
            "hint: the keys are repository, store, cache, durability, effort, endpoint, profile, region, anonymous\n",
        ),
        ("store: a\n\nstore: b\n", " line 3: 'store' is there twice\n"),
        ("store:\n", " line 1: 'store' needs a value that is text\n"),
        ("store: ''\n", " line 1: 'store' needs a value that is text\n"),
        ("store: [a]\n", " line 1: 'store' needs a value that is text\n"),
        ("durability: sometimes\n", " line 1: durability is safe or fast, not 'sometimes'\n"),
        ("- store\n", " line 1: not `key: value` lines\n"),
        ("just text\n", " line 1: not `key: value` lines\n"),
        ("a: b: c\n", " line 1: not YAML: mapping values are not allowed here\n"),
        ("store: {\n", " line 2: not YAML: expected the node content, but found '<stream end>'\n"),
    ],
)
def test_a_wrong_line_of_the_configuration_is_told(
    shell: Shell, project: SampleProject, text: str, message: str
) -> None:
    path = project.write("replicate.yaml", text)
    for command in ("ls", "checkpoint"):
        shell.fails(2, f"error: {path}{message}", command)
    assert not project.store.exists()


def test_a_configuration_that_is_no_text_is_told(shell: Shell, project: SampleProject) -> None:
    path = project.write("replicate.yaml", b"store: \xff\n")
    shell.fails(2, f"error: {path} is not UTF-8 text\n", "ls")


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_configuration_means_the_defaults(shell: Shell, project: SampleProject, text: str) -> None:
    project.write("replicate.yaml", text)
    shell.fails(1, "no experiments yet\n", "ls")


# -- the store's format ----------------------------------------------------------------------------------------------


@reading
def test_a_store_of_a_newer_format_is_refused_with_its_version(
    shell: Shell, vision: Vision, arguments: tuple[str, ...]
) -> None:
    store = vision.project.store
    (store / "ctl" / "v1").rename(store / "ctl" / "v2")
    shell.fails(7, f"error: {store} has format 2; this version reads format 1\n{UPGRADE}", *arguments)


@reading
def test_a_store_that_uses_what_is_not_known_is_refused(
    shell: Shell, vision: Vision, arguments: tuple[str, ...]
) -> None:
    store = vision.project.store
    (store / "ctl" / "feat~read~frobnication").touch()
    shell.fails(7, f"error: {store} uses frobnication, which this version cannot read\n{UPGRADE}", *arguments)


def test_a_store_that_may_only_be_read_is_not_saved_into(shell: Shell, vision: Vision) -> None:
    store = vision.project.store
    (store / "ctl" / "feat~write~frobnication").touch()
    before = store_files(store, "refs")
    for arguments in ((), ("--new",)):
        shell.fails(
            7,
            f"error: {store} was changed by a newer version (feat~write~frobnication); "
            f"this one cannot save into it\n{UPGRADE}",
            *("checkpoint", "-q", *arguments),
        )
    assert store_files(store, "refs") == before
    assert shell("ls", "-q").lines == [vision.warmup.id, vision.baseline.id]


def test_a_marker_that_is_none_is_told(shell: Shell, vision: Vision) -> None:
    store = vision.project.store
    (store / "ctl" / "v1").chmod(0o644)
    (store / "ctl" / "v1").write_text("something else\n")
    shell.fails(
        5,
        f"error: {store}/ctl/v1 is damaged: not the marker of a store\n"
        "hint: if the rest is intact, delete that file: the next save writes it again\n",
        "ls",
    )


# -- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def records(vision: Vision, ran: Ran, kind: str) -> list[Path]:
    """The records of an experiment of one kind, oldest first."""
    return sorted(
        one for one in store_files(vision.project.store, "refs") if f"{ran.id}~" in one.name and kind in one.name
    )


def test_a_damaged_record_is_told_and_the_others_are_listed(shell: Shell, vision: Vision) -> None:
    path = records(vision, vision.baseline, "~c~")[-1]
    flip(path, -1)
    result = shell("ls", "--json")
    key = path.relative_to(vision.project.store)
    assert result.err == (f"warning: ref record {key} is damaged: its bytes do not match its name; it is left out\n")
    assert [one["num_checkpoints"] for one in result.json] == [1, 2]
    assert result.code == 0


def test_an_experiment_whose_start_is_damaged_is_told(shell: Shell, vision: Vision) -> None:
    path = records(vision, vision.baseline, f"~c~{vision.baseline.id}")[0]
    flip(path, -1)
    result = shell("ls", "-q")
    key = path.relative_to(vision.project.store)
    assert result.err == (
        f"warning: ref record {key} is damaged: its bytes do not match its name; it is left out\n"
        f"warning: experiment {vision.baseline.short} is incomplete: its start is not in the store\n"
    )
    assert result.lines == [vision.warmup.id]


@pytest.mark.parametrize("command", [("checkout", "-q", "latest"), ("show", "latest:data.bin"), ("cat-file", "id")])
def test_a_damaged_pack_is_told_with_the_object(shell: Shell, vision: Vision, command: tuple[str, ...]) -> None:
    content = noise(5_000)
    vision.project.write("data.bin", content)
    assert shell("checkpoint", "-q").code == 0
    (pack,) = (one for one in store_files(vision.project.store, "packs") if content in one.read_bytes())
    flip(pack, pack.read_bytes().index(content) + 2_500)
    (vision.project.root / "data.bin").unlink()
    blob = blob_id(content).hex()
    message = f"error: blob {blob} in pack {pack.name} is damaged: its bytes do not match its id\n{ELSEWHERE}"
    if command[0] == "checkout":
        why = f"blob {blob[:7]} in pack {pack.name[:7]} is damaged: its bytes do not match its id"
        message = (
            f"error: data.bin cannot be restored: {why}; files written so far are whole\n"
            f"hint: {WHOLE}; this is blob {blob} in pack {pack.name}\n"
        )
    shell.fails(
        5,
        message,
        *(blob if word == "id" else word for word in command),
    )
    assert not (vision.project.root / "data.bin").exists()
    assert shell("checkout", "-q", "baseline@best").code == 0


def test_a_missing_pack_is_told_with_the_object(shell: Shell, vision: Vision) -> None:
    content = noise(2_000_000)
    vision.project.write("data.bin", content)
    assert shell("checkpoint", "-q").code == 0
    (pack,) = (one for one in store_files(vision.project.store, "packs") if content in one.read_bytes())
    pack.unlink()
    (vision.project.root / "data.bin").unlink()
    shell.fails(
        5,
        f"error: data.bin cannot be restored: object {blob_id(content).short} cannot be read: pack {pack.name[:7]} "
        f"is missing; files written so far are whole\nhint: {WHOLE}; this is {pack_key(ObjectID.parse(pack.name))}\n",
        *("checkout", "-q", "latest"),
    )
    assert shell("checkout", "-q", "baseline@best").code == 0


# -- revisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", NAMING)
def test_a_prefix_that_nothing_has_is_told(shell: Shell, vision: Vision, command: str) -> None:
    known = [vision.baseline.id, vision.warmup.id, *vision.baseline.ids, *vision.warmup.ids]
    prefix = next(f"{n:06x}" for n in range(1 << 24) if not any(one.startswith(f"{n:06x}") for one in known))
    message = f"error: no experiment or checkpoint has an id that begins with {prefix}\n"
    hint = "hint: `replicate ls` shows what there is\n"
    if command in ("cat-file", "ls-tree"):  # any object will do for these
        message, hint = f"error: no object has an id that begins with {prefix}\n", ""
    shell.fails(3, message + hint, command, prefix)


@pytest.mark.parametrize("command", NAMING)
def test_a_prefix_that_is_too_short_is_told(shell: Shell, vision: Vision, command: str) -> None:
    shell.fails(2, "error: abc is too short: an id needs at least 4 digits\n", command, "abc")


@pytest.fixture
def short_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one digit do as a prefix: two ids that share four do not come up by chance."""
    monkeypatch.setattr("replicate.revisions.MIN_PREFIX_DIGITS", 1)
    monkeypatch.setattr("replicate.cli.cat_file.MIN_PREFIX_DIGITS", 1)


@pytest.mark.parametrize("command", NAMING)
def test_a_prefix_of_several_experiments_lists_them(
    shell: Shell, project: SampleProject, short_prefixes: None, command: str
) -> None:
    ids: list[str] = []
    while len({one[0] for one in ids}) == len(ids):
        session = project.begin({}, name=f"run-{len(ids)}" if len(ids) % 2 else None)
        session.end("finished")
        ids.append(session.experiment_id.hex())
    digit = ids[-1][0]
    numbers = [number for number, one in enumerate(ids) if one[0] == digit]
    shown = [f"{ids[n][:7]} ({f'run-{n}, ' if n % 2 else ''}2 hours ago)" for n in numbers]
    digits = next(n for n in range(64) if ids[numbers[0]][n] != ids[numbers[1]][n])
    shell.fails(
        2,
        f"error: {digit} matches 2 experiments: {', '.join(shown)}\n"
        f"hint: type {'one more digit' if digits == 1 else f'{digits} more digits'}\n",
        *(command, digit),
    )


def test_a_prefix_of_several_checkpoints_lists_their_steps(
    shell: Shell, project: SampleProject, short_prefixes: None
) -> None:
    session = project.begin({}, name="run")
    ids: list[str] = [session.experiment_id.hex()]
    digit = ids[0][0]
    while digit == ids[0][0] or [one[0] for one in ids].count(digit) < 2:
        ids.append(project.save(session, (), step=len(ids)).base.record.commit_id.hex())
        digit = ids[-1][0]
    session.end("finished")
    numbers = [number for number, one in enumerate(ids) if one[0] == digit]
    result = shell("show", digit)
    listed = ", ".join(f"{ids[number][:7]} (step {number})" for number in numbers)
    assert result.err.splitlines()[0] == f"error: {digit} matches {len(numbers)} checkpoints: {listed}"
    assert (result.raw, result.code) == (b"", 2)


def test_a_name_of_several_means_the_newest_and_is_told(shell: Shell, vision: Vision) -> None:
    session = vision.project.begin({}, name="baseline")
    session.end("finished")
    result = shell("rev-parse", "baseline")
    assert result.lines == [session.experiment_id.hex()]
    assert result.err == f"2 experiments are named baseline; taking the newest, {session.experiment_id.short}\n"


# -- permissions -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions mean nothing to root")
def test_a_store_that_cannot_be_read_is_told(shell: Shell, vision: Vision) -> None:
    refs = vision.project.store / "refs"
    refs.chmod(0)
    try:
        shell.fails(6, f"error: cannot list {refs}/: Permission denied\n", "ls")
    finally:
        refs.chmod(0o755)


# -- the same from Python: the error says what the command would


class Unstorable:
    """A value of no type that can be stored."""


@pytest.mark.parametrize(
    ("metrics", "message", "hint"),
    [
        ({1: 2.0}, "metrics has the name 1, a int; names are text", None),
        ({"": 2.0}, "metrics has an empty name", None),
        ({None: 2.0}, "metrics has the name None, a NoneType; names are text", None),
        ([("loss", 1)], "metrics is of type list; it must be a mapping of names to values", None),
        ("loss=1", "metrics is of type str; it must be a mapping of names to values", None),
        (
            {"loss": 1 << 64},
            "metrics['loss'] is 18446744073709551616, which does not fit into 64 bits",
            "pass it as text",
        ),
        ({"loss": b"1"}, "metrics['loss'] is a builtins.bytes, which cannot be stored", VALUES),
        ({"a": [0, 1j]}, "metrics['a'][1] is a builtins.complex, which cannot be stored", VALUES),
        ({"a": {"b": object}}, "metrics['a']['b'] is a builtins.type, which cannot be stored", VALUES),
        ({"a": Unstorable()}, f"metrics['a'] is a {__name__}.Unstorable, which cannot be stored", VALUES),
        ({"a": {2: 1}}, "metrics['a'] has the name 2, a int; names are text", None),
    ],
)
def test_a_metric_of_a_wrong_type_is_refused_and_nothing_saved(
    vision: Vision, metrics: Any, message: str, hint: str | None
) -> None:
    session = vision.project.resume()
    with pytest.raises(InvalidInputError) as caught:
        vision.project.save(session, step=11, metrics=metrics)
    session.end("finished")
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (message, hint, 2)
    assert len(vision.project.history().experiments[-1].checkpoints) == 1


@pytest.mark.parametrize(
    ("primary", "message", "hint"),
    [
        (("f1", "maximize"), "primary metric 'f1' is not in metrics (given: loss, acc)", None),
        (("loss", "min"), "the goal of primary metric 'loss' is 'min'; it must be minimize or maximize", None),
        ("loss", "primary_metric is 'loss'; it must be (name, goal)", 'for example ("loss", "minimize")'),
        (("loss",), "primary_metric is ('loss',); it must be (name, goal)", 'for example ("loss", "minimize")'),
        ((1, 2), "primary_metric is (1, 2); it must be (name, goal)", 'for example ("loss", "minimize")'),
    ],
)
def test_a_primary_metric_that_is_none_is_refused(vision: Vision, primary: Any, message: str, hint: str | None) -> None:
    session = vision.project.resume()
    with pytest.raises(InvalidInputError) as caught:
        vision.project.save(session, metrics={"loss": 1.0, "acc": 0.5}, primary_metric=primary)
    session.end("finished")
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_checkpoint_is_no_experiment_in_python_either(vision: Vision) -> None:
    checkpoint = vision.baseline.ids[0][:8]
    with pytest.raises(InvalidInputError) as caught:
        ExperimentCollection(vision.project.root).get(checkpoint)
    assert str(caught.value) == (
        f"{checkpoint} is a checkpoint (step 0) where an experiment is expected "
        f"(hint: its experiment is {vision.baseline.short})"
    )
