from __future__ import annotations

import json
import math
import os
import re
import time

import numpy as np
import pytest

from replicate.capture import Capture
from replicate.text import columns, format_bytes
from tests.builders import noise
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, run_script, store_files
from tests.weights import npz, safetensors


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are shown as the machine's clock shows them; here that is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_an_experiment_is_shown_with_what_made_it(shell: Shell, vision: Vision) -> None:
    baseline = vision.baseline
    first, second, third = (one[:7] for one in baseline.ids)
    result = shell("show", "baseline")
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(baseline.session.head.commit.time_ns / 1e9))
    assert result.lines[0] == f"experiment {baseline.id}"
    assert result.lines[2].startswith(f"  started   {started[:14]}")
    assert result.lines[2].endswith(" (2 hours ago)")
    assert [result.lines[1], *result.lines[3:]] == [
        "  name      baseline",
        "  status    finished",
        "  duration  4.0 s",
        "  command   python train.py",
        "  author    me on here",
        "  python    3.11.0",
        "  files     2 files at the start, 35 B",
        "  primary   loss (minimize)",
        "",
        "params",
        "  lr     0.1",
        "  model  resnet",
        "",
        "checkpoints",
        "           step  loss  acc",
        f"  {first}  0     1     0",
        f"  {second}  1     0.25  0.75  best",
        f"  {third}  2     0.5   0.5",
    ]
    assert (result.err, result.code) == ("", 0)


def test_a_failed_experiment_shows_the_whole_message(shell: Shell, project: SampleProject) -> None:
    project.begin({}, name="bad", tags=["paper", "draft"]).end("failed", ValueError("first\nsecond"))
    lines = shell("show", "bad").lines
    assert lines[2] == "  tags     draft, paper"
    assert lines[4:7] == ["  status   failed", "           ValueError: first", "           second"]


def test_of_many_checkpoints_the_last_ten_and_the_best_are_shown(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="long", primary_metric=("loss", "minimize"))
    for step in range(14):
        project.save(session, (), step=step, metrics={"loss": float(step)})
    session.end("finished")
    rows = shell("show", "long").rows
    steps = [row[1] for row in rows[rows.index(["checkpoints"]) + 2 :]]
    assert steps == ["0", "3", *(str(step) for step in range(4, 14))]
    assert "  … 3 more, --all shows them" in shell("show", "long").lines
    for flag in ("-a", "--all"):
        assert len(shell("show", "long", flag).rows) == len(rows) - 1 + 3


def test_hidden_checkpoints_are_counted_where_they_are(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="long")
    for step in range(11):
        project.save(session, (), step=step)
    session.end("finished")
    lines = shell("show", "long").lines
    assert lines[-11] == "  … 1 more, --all shows them"
    assert lines[-12] == "           step"


def test_a_checkpoint_is_shown_with_metrics_params_and_files(shell: Shell, vision: Vision) -> None:
    vision.project.write("sub/ünï.txt", "x")
    session = vision.project.resume()
    saved = vision.project.save(session, step=11, metrics={"loss": 1 / 3, "note": "good"})
    session.end("finished")
    commit = saved.base.record.commit_id
    result = shell("show", commit.hex()[:9])
    user, _, host = saved.base.record.commit.author.partition("@")
    assert re.fullmatch(rf"  saved       [-0-9]+ [0-9:]+ \(.+\) by {user} on {re.escape(host)}", result.lines[3])
    assert [*result.lines[:3], *result.lines[4:]] == [
        f"checkpoint {commit.hex()}",
        "  step        11",
        f"  experiment  {vision.warmup.short} warmup",
        "  command     python train.py",
        "  files       4 files, 43 B, 1 B new",
        "",
        "metrics",
        "  loss  0.3333333333333333  minimize",
        "  note  good",
        "",
        "params",
        "  lr     0.01",
        "  model  resnet",
        "",
        "files",
        "   7 B  model.bin",
        "  17 B  replicate.yaml",
        "   1 B  sub/ünï.txt",
        "  18 B  train.py",
    ]
    assert (result.err, result.code) == ("", 0)


@pytest.mark.parametrize(
    ("revision", "line"),
    [
        ("baseline@best", "  step        1"),
        ("baseline@latest", "  step        2"),
        ("baseline@latest~1", "  step        1"),
        ("latest", "  step        10"),
        ("best", "  step        10"),
    ],
)
def test_a_revision_names_a_checkpoint(shell: Shell, vision: Vision, revision: str, line: str) -> None:
    assert shell("show", revision).lines[1] == line


def test_the_start_is_shown_as_such(shell: Shell, vision: Vision) -> None:
    lines = shell("show", "warmup@start").lines
    assert lines[0] == f"start {vision.warmup.id}"
    assert lines[1] == f"  experiment  {vision.warmup.short} warmup"


def test_of_many_files_the_first_are_shown(shell: Shell, project: SampleProject) -> None:
    for number in range(30):
        project.write(f"data/{number:02}.txt", "x")
    project.begin({}, name="files").end("finished")
    assert shell("show", "files@start").lines[-2:] == ["  1 B  data/19.txt", "  … 12 more, --all shows them"]
    assert shell("show", "files@start", "--all").lines[-1] == "  18 B  train.py"


def test_a_long_param_is_cut_unless_all_is_shown(shell: Shell, project: SampleProject) -> None:
    project.begin({"note": "x" * 100}, name="long").end("finished")
    assert shell("show", "long").lines[-1] == f"  note  {'x' * 79}…"
    assert shell("show", "long", "-a").lines[-1] == f"  note  {'x' * 100}"


def test_floats_are_shown_with_every_digit(shell: Shell, project: SampleProject) -> None:
    session = project.begin({"lr": 1 / 3}, name="exact")
    project.save(session, step=0, metrics={"gap": math.inf, "loss": math.nan, "count": 3})
    session.end("finished")
    lines = shell("show", "exact@latest").lines
    assert lines[lines.index("metrics") + 1 :][:6] == [
        "  count  3",
        "  gap    inf",
        "  loss   nan",
        "",
        "params",
        "  lr  0.3333333333333333",
    ]


def test_what_was_not_saved_is_told(shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch) -> None:
    session = project.begin({}, name="partial")

    def skip(save: object, listings: object) -> None:
        save._skipped.update({b"%d.txt" % number: "denied" for number in range(7)})  # type: ignore[attr-defined]

    monkeypatch.setattr("replicate.saving.Save._store_items", skip)
    project.save(session, step=0)
    session.end("finished")
    assert "  not saved   0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more" in shell("show", "partial@latest").lines


def test_names_of_files_are_quoted_as_git_does(shell: Shell, project: SampleProject) -> None:
    for name in (b"new\nline", b"not-utf8-\xff", b'quo"te', b"back\\slash", b"\xc2\x9bcsi", "größe".encode()):
        project.write(name, "x")
    project.begin({}, name="odd").end("finished")
    shown = [line.split("B  ")[1] for line in shell("show", "odd@start").lines[-8:]]
    assert shown == [
        '"back\\\\slash"',
        "größe",
        '"new\\nline"',
        '"not-utf8-\\377"',
        '"quo\\"te"',
        "replicate.yaml",
        "train.py",
        '"\\302\\233csi"',
    ]


def test_what_a_terminal_would_obey_is_not_printed(shell: Shell, project: SampleProject) -> None:
    session = project.begin({"\x1b[1m": "\x1b[2J"})
    project.save(session, step=0, metrics={"\x1b[31mloss": "\x1b[2J"})
    session.end("failed", ValueError("\x1b[2Jgone"))
    for revision in (session.experiment_id.short, "latest"):
        assert "\x1b" not in shell("show", revision).out


def test_the_command_is_shown_whole_on_a_terminal(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.begin({}, name="long").end("failed", ValueError("x" * 100))
    shell.widen(40)
    assert max(map(columns, shell("show", "long").lines)) > 100


def test_params_and_packages_fit_the_terminal(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"name": f"package{number}", "version": "1.2.3", "imported": True} for number in range(8)]
    captured = Capture({}, {b"packages.json": json.dumps(listed).encode()}, "python train.py", "me@here")
    monkeypatch.setattr("tests.projects.CAPTURE", captured)
    project.begin({"text": "x" * 100}, name="wide").end("finished")
    shell.widen(50)
    lines = shell("show", "wide").lines[1:]
    assert max(map(columns, lines)) == 50
    assert lines[-1] == f"  text  {'x' * 41}…"
    packages = " ".join(" ".join(lines).partition("packages")[2].partition("files")[0].split())
    assert packages == ", ".join(f"package{number} 1.2.3" for number in range(8))
    assert shell("show", "wide", "--all").lines[-1] == f"  text  {'x' * 100}"


def test_how_an_experiment_was_stopped_is_told(shell: Shell, project: SampleProject) -> None:
    def status(name: str) -> str:
        (line,) = [line for line in shell("show", name).lines if line.startswith("  status")]
        return " ".join(line.split()[1:])

    project.begin({}, name="interrupted").end("stopped", KeyboardInterrupt(), 130)
    project.begin({}, name="ended").end("stopped")
    killed = "import os, replicate; replicate.init(name='killed'); os.kill(os.getpid(), 9)"
    assert run_script(project.root, killed).returncode == -9
    assert [status(name) for name in ("interrupted", "ended", "killed")] == [
        "stopped · interrupted",
        "stopped",
        "stopped · no end was recorded: it was killed, or the machine went down",
    ]


def test_an_experiment_that_was_resumed_shows_every_other_command(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resume(command: str) -> None:
        started = Capture({"command": command}, {}, command, "me@here")
        monkeypatch.setattr("tests.projects.CAPTURE", started)
        project.resume().end("finished")

    def commands(*options: str) -> list[str]:
        lines = [" ".join(line.split()) for line in shell("show", "long", *options).lines]
        return lines[[line[:8] for line in lines].index("duration") + 1 : lines.index("author me on here")]

    session = project.begin({}, name="long")
    project.save(session, (), step=0)
    session.end("finished")
    for command in ("python train.py", "python train.py --more", "python train.py --more"):
        resume(command)
    assert commands() == ["command python train.py", "then python train.py --more"]
    for number in range(6):
        resume(f"python train.py {number}")
    assert commands() == [
        "command python train.py",
        "… 3 more, --all shows them",
        *(f"then python train.py {number}" for number in range(2, 6)),
    ]
    assert len(commands("--all")) == 8


ODD = {
    "git": {"commit": 5, "branch": "\x1b[2J", "dirty": True, "remote": ["x"]},
    "cpu": {"model": "\x1b[31m"},
    "memory": "much",
    "gpus": [
        1,
        {"name": b"x"},
        {"memory": 1 << 30},
        {"name": "A", "memory": 1 << 30},
        {"name": "A", "memory": 1 << 30},
    ],
    "notebook": 7,
    "cwd": ["x"],
}


def test_facts_that_are_not_what_they_should_be_are_shown_or_left_out(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Capture(dict(ODD), {b"packages.json": b"{", b"machine.json": b"[]"}, "python train.py", "me@here")
    monkeypatch.setattr("tests.projects.CAPTURE", odd)
    project.begin({}, name="odd").end("failed", ValueError("x"), 1)
    shown = shell("show", "odd", "--all")
    assert (shown.code, shown.err) == (0, "")
    assert "\x1b" not in shown.out
    rows = {row[0]: " ".join(row[1:]) for row in shown.rows if len(row) > 1}
    assert rows["git"] == "5 on ·[2J (dirty)"
    assert rows["gpus"] == "b'x', (1.1 GB), 2 × A (1.1 GB)"
    assert rows["exit"] == "1"
    assert shell("show", "odd", "--json").json["capture"]["gpus"][1] == {"name": "78"}


def test_imported_packages_come_first_and_the_rest_is_counted(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"name": f"pkg{number:02}", "version": "1", "imported": number < 14} for number in range(20)]
    listed.append({"name": "torch", "version": "2", "imported": True})
    captured = Capture({}, {b"packages.json": json.dumps(listed).encode()}, "python train.py", "me@here")
    monkeypatch.setattr("tests.projects.CAPTURE", captured)
    project.begin({}, name="many").end("finished")
    (line,) = [line for line in shell("show", "many").lines if line.startswith("  packages")]
    assert line == "  packages  torch 2, " + ", ".join(f"pkg{number:02} 1" for number in range(7)) + (
        "; 7 more imported and 6 others installed"
    )
    (line,) = [line for line in shell("show", "many", "--all").lines if line.startswith("  packages")]
    assert line == "  packages  torch 2, " + ", ".join(f"pkg{number:02} 1" for number in range(20))


def test_a_traceback_is_shown_with_everything(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="bad")
    try:
        raise ValueError("no data")
    except ValueError as exc:
        session.end("failed", exc, 1)
    assert "traceback" not in shell("show", "bad").lines
    lines = shell("show", "bad", "-a").lines
    assert lines[lines.index("traceback") + 1] == "  Traceback (most recent call last):"
    assert "  ValueError: no data" in lines


def test_without_changes_since_a_git_commit_there_is_no_patch(shell: Shell, vision: Vision) -> None:
    for revision, short in (("baseline", vision.baseline.short), ("baseline@start", vision.baseline.short)):
        shell.fails(
            3,
            f"error: {short} has no patch: no change since a Git commit was recorded\n"
            "hint: its files are all in the checkpoint: `replicate ls-tree -r`, `replicate checkout -o DIR`\n",
            *("show", revision, "--patch"),
        )
    assert shell("show", "baseline:train.py", "-p").code == 2


# -- json ------------------------------------------------------------------------------------------------------------


def test_json_of_an_experiment_has_its_checkpoints_and_what_was_captured(shell: Shell, vision: Vision) -> None:
    result = shell("show", "baseline", "--json")
    shown = result.json
    assert [one["id"] for one in shown["checkpoints"]] == vision.baseline.ids
    assert shown["capture"] == {"python": "3.11.0"}
    assert (shown["id"], shown["status"]) == (vision.baseline.id, "finished")
    assert (result.err, result.code) == ("", 0)


def test_json_of_a_checkpoint_has_its_tree(shell: Shell, vision: Vision) -> None:
    vision.project.write(b"\xff.txt", "x")
    script = vision.project.write("run.sh", "x", executable=True)
    os.symlink("train.py", vision.project.root / "link")
    session = vision.project.resume()
    vision.project.save(session, step=11, metrics={"loss": math.nan})
    session.end("finished")
    assert script.exists()
    shown = shell("show", "latest", "--json").json
    assert shown["metrics"] == {"loss": "NaN"}
    assert shown["params"] == {"lr": 0.01, "model": "resnet"}
    assert shown["command"] == "python train.py"
    tree = {one["path"]: one for one in shown["tree"]}
    assert {path: (one["kind"], one["bytes"]) for path, one in tree.items()} == {
        "link": ("symlink", 8),
        "model.bin": ("file", 7),
        "replicate.yaml": ("file", 17),
        "run.sh": ("executable", 1),
        "train.py": ("file", 18),
        "\\xff.txt": ("file", 1),
    }
    assert tree["\\xff.txt"]["path_hex"] == "ff2e747874"
    assert tree["train.py"]["id"] == shell("hash-object", "train.py").lines[0]


def test_json_does_not_go_with_a_path(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: --json goes with an experiment or a checkpoint\nhint: `replicate ls-tree --json` lists a folder\n",
        *("show", "latest:train.py", "--json"),
    )


# -- a path ----------------------------------------------------------------------------------------------------------


def test_a_file_is_printed_byte_for_byte(shell: Shell, project: SampleProject) -> None:
    content = bytes(range(256)) * 20_000
    project.write("data.bin", content)
    project.begin({}, name="raw").end("finished")
    result = shell("show", "raw@start:data.bin")
    assert (result.raw, result.err, result.code) == (content, "", 0)


def test_a_terminal_is_told_of_tensors_and_sizes_and_given_no_binary(shell: Shell, project: SampleProject) -> None:
    arrays = {f"layers.{number}": np.zeros((number, 10), "float32") for number in range(50)}
    files = {
        "model.safetensors": safetensors(arrays),
        "small.npz": npz({"a": np.zeros((2, 3)), "b": np.zeros((), "float32")}),
        "noise.bin": noise(1_234_567),
        "text.txt": b"text\n",
    }
    for path, content in files.items():
        project.write(path, content)
    project.save(project.begin())
    for path, content in files.items():
        assert shell("show", f"latest:{path}").raw == content
    shell.widen(80)
    bytes_are = "(pipe it, or use `replicate checkout`, to get the bytes)\n"
    assert shell("show", "latest:text.txt").out == "text\n"
    assert shell("show", "latest:noise.bin").out == f"binary, 1.2 MB {bytes_are}"
    small = shell("show", "latest:small.npz")
    assert small.lines == [
        "TENSOR  DTYPE    SHAPE   SIZE",
        "a       float64  [2, 3]  48 B",
        "b       float32  []       4 B",
    ]
    assert small.err == f"2 tensors, {format_bytes(len(files['small.npz']))} {bytes_are}"
    large = shell("show", "latest:model.safetensors").lines
    assert (large[-2].split()[0], large[-1]) == ("layers.39", "…  10 more tensors, --all lists them")
    assert len(shell("show", "--all", "latest:model.safetensors").lines) == 51


def test_of_an_experiment_the_best_is_taken_and_told(shell: Shell, vision: Vision) -> None:
    result = shell("show", "baseline:model.bin")
    best = vision.baseline.ids[1][:7]
    assert result.out == "baseline 1\n"
    assert result.err == f"{vision.baseline.short} is an experiment: taking its best checkpoint, {best} (step 1)\n"


def test_a_folder_lists_its_names(shell: Shell, project: SampleProject) -> None:
    project.write("data/a.txt", "x")
    project.write("data/deep/b.txt", "x")
    os.symlink("a.txt", project.root / "data" / "c")
    project.begin({}, name="tree").end("finished")
    assert shell("show", "tree@start:data").lines == ["a.txt", "c", "deep/"]
    assert shell("show", "tree@start:data/").lines == ["a.txt", "c", "deep/"]
    assert shell("show", "tree@start:").lines == ["data/", "replicate.yaml", "train.py"]
    assert shell("show", "tree@start:data/c").lines == ["a.txt"]


def test_a_path_that_is_not_there_is_refused(shell: Shell, vision: Vision) -> None:
    short = vision.warmup.ids[0][:7]
    shell.fails(
        3,
        f"error: {short} has no 'model.pt'\nhint: `replicate ls-tree -r {short}` lists its files\n",
        *("show", "latest:model.pt"),
    )


def test_show_needs_a_revision(shell: Shell, vision: Vision) -> None:
    shell.fails(2, "error: missing argument 'REVISION'\nhint: see `replicate show --help`\n", "show")


@pytest.mark.parametrize("seq", [0, 1])
@pytest.mark.parametrize("command", ["show", "log"])
def test_what_is_listed_but_damaged_is_told_as_such(shell: Shell, vision: Vision, command: str, seq: int) -> None:
    """`ls` knows what is in this machine's cache, and reads no record again."""
    assert shell("ls").code == 0
    path = next(
        one
        for one in store_files(vision.project.store, "refs")
        if f"{vision.baseline.id}~{seq:08}~" in one.name and "~c~" in one.name
    )
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    baseline, lost = vision.baseline.short, vision.baseline.ids[0]
    expected = {
        0: dict.fromkeys(("baseline", baseline, baseline[:4], lost), f"the records of experiment {baseline}"),
        1: dict.fromkeys((lost, lost[:7], "baseline@best~1"), f"the record of checkpoint {lost[:7]}"),
    }
    for revision, what in expected[seq].items():
        result = shell(command, revision)
        assert result.err.splitlines()[-2:] == [
            f"error: {what} cannot be read",
            "hint: `replicate fsck` tells what is damaged",
        ]
        assert (result.code, result.out) == (5, "")
    if seq:
        path.unlink()
        assert shell(command, lost).code == 3
