from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replicate.objects.ids import blob_id
from replicate.session import Session
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import CAPTURE, SampleProject, read_folder
from tests.weights import npz, safetensors

NOTICES = (
    "{baseline} is an experiment: taking its best checkpoint, {best} (step 1)\n"
    "{warmup} is an experiment: taking its best checkpoint, {only} (step 10)\n"
)


class Changed:
    """A project in two checkpoints, between which much changes."""

    def __init__(self, project: SampleProject) -> None:
        self.project = project
        project.write("train.py", "import x\n\n\ndef train():\n    return 1\n")
        project.write("gone.py", "a\nb\n")
        project.write("old.md", "moved\n")
        project.write("model.bin", b"\0" * 100)
        project.write("run.sh", "run\n")
        session = project.begin({"lr": 0.1, "opt": {"name": "sgd"}}, name="one", primary_metric=("loss", "minimize"))
        first = project.save(session, step=0, metrics={"loss": 0.5, "acc": 0.5})
        project.write("train.py", "import x\n\n\ndef train():\n    return 2\n")
        (project.root / "gone.py").unlink()
        (project.root / "old.md").rename(project.root / "new.md")
        project.write("model.bin", b"\0" * 2000)
        project.write("run.sh", "run\n", executable=True)
        project.write("größe.txt", "gr\xf6\xdfe".encode("latin-1"))
        (project.root / "empty").mkdir()
        os.symlink("train.py", project.root / "link")
        second = project.save(session, step=1, metrics={"loss": 0.25, "acc": 0.25, "new": 1})
        session.end("finished")
        self.experiment = session.experiment_id.short
        self.first, self.second = (one.base.record.commit_id.short for one in (first, second))


@pytest.fixture
def changed(project: SampleProject) -> Changed:
    return Changed(project)


def test_two_checkpoints_are_compared(shell: Shell, changed: Changed) -> None:
    result = shell("diff", changed.first, changed.second)
    assert result.raw.decode(errors="replace").splitlines() == [
        f"Comparing {changed.first} (step 0 of {changed.experiment} one) with "
        f"{changed.second} (step 1 of {changed.experiment} one)",
        "",
        "metrics    acc   0.5 → 0.25  −50.0 %",
        "           loss  0.5 → 0.25  −50.0 %",
        "           new   1 (added)",
        "files      A  empty/",
        "           D  gone.py        −2",
        "           A  größe.txt  +1",
        "           A  link       +1      link",
        "           M  model.bin          100 B → 2.0 KB",
        "           R  new.md             from old.md",
        "           M  run.sh             file → executable",
        "           M  train.py   +1  −1",
        "           …  1 file equal",
        "",
        "--- /dev/null",
        "+++ b/größe.txt",
        "@@ -0,0 +1 @@",
        "+gr��e",
        "\\ No newline at end of file",
        "",
        "--- /dev/null",
        "+++ b/link",
        "@@ -0,0 +1 @@",
        "+train.py",
        "\\ No newline at end of file",
        "",
        "--- a/train.py",
        "+++ b/train.py",
        "@@ -2,4 +2,4 @@ import x",
        " ",
        " ",
        " def train():",
        "-    return 1",
        "+    return 2",
        "",
        "-p shows the text of 1 more file",
    ]
    assert (result.err, result.code) == ("", 0)


def test_experiments_are_compared_by_their_best_checkpoints(shell: Shell, vision: Vision) -> None:
    result = shell("diff", "baseline", "warmup")
    baseline, warmup = vision.baseline, vision.warmup
    assert result.lines == [
        f"Comparing {baseline.ids[1][:7]} (step 1 of {baseline.short} baseline) with "
        f"{warmup.ids[0][:7]} (step 10 of {warmup.short} warmup)",
        "",
        "params     lr    0.1 → 0.01",
        "metrics    acc   0.75 → 0.25   −66.7 %",
        "           loss  0.25 → 0.75  +200.0 %",
        "files      M  model.bin  +1  −1",
        "           …  2 files equal",
        "",
        "--- a/model.bin",
        "+++ b/model.bin",
        "@@ -1 +1 @@",
        "-baseline 1",
        "+warmup",
    ]
    assert result.err == NOTICES.format(
        baseline=baseline.short, best=baseline.ids[1][:7], warmup=warmup.short, only=warmup.ids[0][:7]
    )


def test_without_a_revision_the_worktree_is_compared_with_what_was_saved_last(shell: Shell, vision: Vision) -> None:
    vision.project.write("train.py", "print('better')\n")
    result = shell("diff")
    head = vision.warmup.ids[0][:7]
    assert result.lines[0] == f"Comparing {head} (step 10 of {vision.warmup.short} warmup) with the worktree"
    assert result.lines[2:] == [
        "files      M  train.py  +1  −1",
        "           …  2 files equal",
        "",
        "--- a/train.py",
        "+++ b/train.py",
        "@@ -1 +1 @@",
        "-print('training')",
        "+print('better')",
    ]
    assert result.err == ""


def test_one_revision_is_compared_with_the_worktree(shell: Shell, vision: Vision) -> None:
    vision.project.write("new.txt", "x")
    assert shell("diff", "--name-only", "baseline@start").lines == ["model.bin", "new.txt"]


def test_the_start_of_an_experiment_is_called_so(shell: Shell, vision: Vision) -> None:
    line = shell("diff", "baseline@start", "warmup@start").lines[0]
    assert line == (
        f"Comparing {vision.baseline.short} (start of {vision.baseline.short} baseline) with "
        f"{vision.warmup.short} (start of {vision.warmup.short} warmup)"
    )


def test_equal_commits_have_no_differences(shell: Shell, vision: Vision) -> None:
    for form in ([], ["-p"], ["--stat"]):
        result = shell("diff", "baseline@best", "baseline@best", "--exit-code", *form)
        assert (result.raw, result.err, result.code) == (b"", "no differences\n", 0)
    assert shell("diff", "--name-only").raw == b""


def test_exit_code_tells_whether_anything_differs(shell: Shell, vision: Vision) -> None:
    for form in ([], ["-p"], ["--stat"], ["--name-only"], ["--json"]):
        assert shell("diff", "baseline@best", "warmup@best", *form).code == 0
        assert shell("diff", "baseline@best", "warmup@best", "--exit-code", *form).code == 1


def test_values_that_look_alike_are_shown_in_full(shell: Shell, project: SampleProject) -> None:
    session = project.begin({"lr": 0.1})
    project.save(session, (), metrics={"loss": 0.12345678, "text": "x" * 60 + "a", "none": None})
    project.save(session, (), metrics={"loss": 0.12345679, "text": "x" * 60 + "b", "none": "none"})
    rows = shell("diff", "latest~1", "latest").lines[2:]
    assert rows == [
        "metrics    loss  0.12345678 → 0.12345679        +8e-06 %",
        "           none  None → 'none'",
        "           text  …xxxxxxxxxxa' → …xxxxxxxxxxb'",
        "files      …  2 files equal",
    ]


def test_many_packages_are_counted_and_those_imported_come_first(shell: Shell, project: SampleProject) -> None:
    for version in ("1.0", "2.0"):
        packages = [{"name": f"p{number:02}", "version": version, "imported": number == 19} for number in range(20)]
        git = {"commit": version[0] * 40, "branch": "main", "dirty": version == "2.0"}
        files = {b"packages.json": json.dumps(packages).encode()}
        repository = project.open()
        repository.create()
        session = Session(repository, project.events, replace(CAPTURE, summary={"git": git}, files=files))
        session.begin({}, f"v{version[0]}", (), None, None)
        session.end("finished")
    lines = shell("diff", "v1@start", "v2@start").lines[2:]
    assert lines == [
        "packages   p19     1.0 → 2.0",
        *(f"           p{number:02}     1.0 → 2.0" for number in range(9)),
        "           …  10 more, --json lists all",
        "git        commit  1111111 → 2222222",
        "           dirty   no → yes",
        "files      …  2 files equal",
    ]


# -- other forms


def test_stat_lists_every_file(shell: Shell, changed: Changed) -> None:
    assert shell("diff", "--stat", changed.first, changed.second, "--", "train.py", "gone.py", "model.bin").lines == [
        "D  gone.py        −2",
        "M  model.bin          100 B → 2.0 KB",
        "M  train.py   +1  −1",
        "3 files, +1 −3",
    ]


def test_many_files_are_counted_and_stat_lists_them(shell: Shell, project: SampleProject) -> None:
    session = project.begin()
    for number in range(60):
        project.write(f"data/{number:02}.csv", "1\n")
    project.save(session)
    lines = shell("diff", "latest~1", "latest").lines
    assert lines[2 + 50] == "           …  10 more, --stat lists all"
    assert shell("diff", "latest~1", "latest", "--stat").lines[-1] == "60 files, +60 −0"


def test_names_are_printed_one_a_line_or_with_nul(shell: Shell, project: SampleProject) -> None:
    project.begin()
    project.write(b"\xff\n", "x")
    project.write("größe", "x")
    assert shell("diff", "--name-only").raw == 'größe\n"\\377\\n"\n'.encode()
    assert shell("diff", "--name-only", "-z").raw == "größe\0".encode() + b"\xff\n\0"


def test_json_has_everything(shell: Shell, changed: Changed) -> None:
    found = shell("diff", "--json", changed.first, changed.second).json
    assert found["before"].startswith(changed.first)
    assert found["after"].startswith(changed.second)
    assert found["metrics"][1] == {"name": "loss", "change": "changed", "before": 0.5, "after": 0.25, "percent": -50.0}
    assert (found["params"], found["packages"], found["git"], found["command"]) == ([], [], [], None)
    assert [one["change"] for one in found["files"]] == [
        *("added", "removed", "added", "added", "changed", "renamed", "changed", "changed"),
    ]
    assert found["files"][4] == {
        "change": "changed",
        "before": {"path": "model.bin", "kind": "file", "bytes": 100, "id": blob_id(bytes(100)).hex()},
        "after": {"path": "model.bin", "kind": "file", "bytes": 2000, "id": blob_id(bytes(2000)).hex()},
        "lines_added": None,
        "lines_removed": None,
        "note": "binary",
        "tensors": None,
    }
    assert [found["files"][7][key] for key in ("lines_added", "lines_removed", "note")] == [1, 1, None]


def test_json_of_the_worktree_has_no_second_commit(shell: Shell, vision: Vision) -> None:
    vision.project.write(b"\xff", "x")
    found = shell("diff", "--json").json
    assert found["after"] is None
    assert found["files"][0]["after"] == {
        "path": "\\xff",
        "path_hex": "ff",
        "kind": "file",
        "bytes": 1,
        "id": None,
    }


# -- patches


@pytest.mark.parametrize("tool", [["git", "apply", "--whitespace=nowarn"], ["patch", "-p1", "--quiet", "-i"]])
def test_a_patch_makes_one_commit_of_the_other(shell: Shell, changed: Changed, tmp_path: Path, tool: list[str]) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    project = changed.project
    project.write("with space.txt", "1\n\n")
    project.write('qu"ote\t.txt', "1\r\n2")
    project.write("größe.txt", "größe\n")
    (project.root / "link").unlink()
    project.write("link", "a file now\n")
    (project.root / "run.sh").unlink()
    assert shell("checkpoint", "-q").code == 0
    before, after = tmp_path / "before", tmp_path / "after"
    assert shell("checkout", changed.first, "-o", str(before), "-q").code == 0
    assert shell("checkout", "latest", "-o", str(after), "-q").code == 0
    patch = tmp_path / "made.patch"
    patch.write_bytes(shell("diff", "-p", changed.first, "latest").raw)
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    subprocess.run([*tool, str(patch)], cwd=before, env=environment, check=True)
    made, wanted = read_folder(before), read_folder(after)
    for path in (b"empty", b"model.bin"):  # which patches cannot tell of
        made.pop(path, None)
        wanted.pop(path, None)
    assert made == wanted


def test_the_bytes_of_a_patch_are_those_of_the_files(shell: Shell, changed: Changed) -> None:
    paths = ("größe.txt", "model.bin", "new.md", "old.md")
    assert shell("diff", "-p", changed.first, changed.second, "--", *paths).raw == (
        "diff --git a/größe.txt b/größe.txt\nnew file mode 100644\n".encode()
        + "--- /dev/null\n+++ b/größe.txt\n@@ -0,0 +1 @@\n".encode()
        + b"+gr\xf6\xdfe\n\\ No newline at end of file\n"
        b"# a/model.bin and b/model.bin differ: binary\n"
        b"diff --git a/old.md b/new.md\nsimilarity index 100%\nrename from old.md\nrename to new.md\n"
    )


# -- on a terminal


def test_a_terminal_is_given_nothing_that_it_would_obey(shell: Shell, project: SampleProject) -> None:
    project.begin({}, name="one")
    project.write("evil.py", b"\x1b[31mred\x07\r\n\tind\xe9nt\n\xc2\x9b2J\n" + b"x" * 2000)
    project.write(b"\x1b]0;title.py", "1")
    shell.widen(100)
    for form in ([], ["-p"], ["--stat"], ["--name-only"]):
        result = shell("diff", *form)
        assert all(char.isprintable() or char == "\n" for char in result.out), form
    lines = shell("diff", "-p", "--", "evil.py").lines
    assert lines[-5:] == ["+·[31mred·␍", "+    indént", "+·2J", "+" + "x" * 998 + "…", "\\ No newline at end of file"]


def test_line_ends_that_all_lines_have_are_not_shown(shell: Shell, project: SampleProject) -> None:
    project.write("dos.py", "a\r\nb\r\n")
    project.begin({}, name="one")
    project.write("dos.py", "a\r\nc\r\n")
    shell.widen(100)
    assert shell("diff", "-p").lines[-3:] == [" a", "-b", "+c"]
    project.write("dos.py", "a\nb\n")
    assert shell("diff", "-p").lines[-4:] == ["-a␍", "-b␍", "+a", "+b"]


def test_colours_are_for_terminals_that_want_them(
    shell: Shell, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("diff", changed.first, changed.second)
    assert b"\x1b" not in shell(*arguments).raw
    shell.widen(100)
    assert b"\x1b" not in shell(*arguments).raw
    monkeypatch.delenv("NO_COLOR")
    coloured = shell(*arguments).out
    assert f"\x1b[33m{changed.first}\x1b[0m" in coloured
    assert "0.5 → 0.25  \x1b[32m−50.0 %\x1b[0m" in coloured  # the primary metric got better
    assert "0.5 → 0.25  −50.0 %" in coloured  # of the other nobody knows
    assert "\x1b[1m--- a/train.py\x1b[0m\n" in coloured
    assert "\x1b[36m@@ -2,4 +2,4 @@ import x\x1b[0m\n" in coloured


def test_what_differs_in_a_line_is_marked_on_a_terminal(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("train.py", "rate = 0.1  # small\nsame = 1\nquite another line\nsame = 2\none\n")
    project.begin({}, name="one")
    project.write("train.py", "rate = 0.01  # small\nsame = 1\nx\nsame = 2\none\ntwo\n")
    shell.widen(100)
    monkeypatch.delenv("NO_COLOR")
    red, green, marked, end = "\x1b[31m", "\x1b[32m", "\x1b[7m", "\x1b[0m"
    assert shell("diff", "-p").lines[-8:] == [
        f"{red}-rate = 0.{end}{red}1  # small{end}",
        f"{green}+rate = 0.{end}{green}{marked}0{end}{green}1  # small{end}",
        " same = 1",
        f"{red}-quite another line{end}",
        f"{green}+x{end}",
        " same = 2",
        " one",
        f"{green}+two{end}",
    ]


def test_lines_fit_the_terminal_but_code_is_whole(shell: Shell, changed: Changed) -> None:
    changed.project.write("train.py", "y = " + "1 + " * 30 + "1\n")
    shell.widen(50)
    lines = shell("diff", changed.first).lines
    at = lines.index("--- a/train.py")
    assert max(map(len, lines[:at])) == 50
    assert lines[0].endswith("…")
    assert "+y = " + "1 + " * 30 + "1" in lines[at:]


def test_long_text_is_cut(shell: Shell, project: SampleProject) -> None:
    project.begin({}, name="one")
    project.write("big.py", "".join(f"{number}\n" for number in range(500)))
    assert shell("diff").lines[-1] == "… 303 lines more, -p shows them"
    for form in ("-p", "--exit-code"):
        lines = shell("diff", form, "--", "big.py").lines
        assert len([line for line in lines if line.startswith("+")]) == 501


def test_the_text_of_small_files_is_shown_whatever_they_are(shell: Shell, project: SampleProject) -> None:
    for name in ("config.json", "table.csv", "notes.txt", "model.cfg", "LICENSE"):
        project.write(name, "old\n")
    project.begin({}, name="one")
    for name in ("config.json", "table.csv", "notes.txt", "model.cfg", "LICENSE"):
        project.write(name, "new\n")
    lines = shell("diff").lines
    assert [line for line in lines if line.startswith("+++")] == [
        *("+++ b/LICENSE", "+++ b/config.json", "+++ b/model.cfg", "+++ b/notes.txt", "+++ b/table.csv"),
    ]
    assert lines.count("+new") == 5
    assert lines[-1] == "+new"


def test_text_that_is_left_out_is_told_of_and_shown_when_its_file_is_named(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("folder/gone.py", "1\n")
    project.write("wide.json", "1" * 66_000)
    project.begin({}, name="one")
    (project.root / "folder/gone.py").unlink()
    project.write("wide.json", "2" * 66_000)
    project.write("long.csv", "".join(f"{number}\n" for number in range(198)))
    lines = shell("diff").lines
    assert lines[-2:] == ["", "-p shows the text of 3 more files"]
    assert not any(line.startswith("+++") for line in lines)
    for name, text in (("long.csv", "+197"), ("wide.json", "+" + "2" * 66_000), ("folder/gone.py", "-1")):
        assert text in shell("diff", "--", name).lines
    assert shell("diff", "--", "folder").lines[-1] == "-p shows the text of 1 more file"
    project.write("long.csv", "".join(f"{number}\n" for number in range(197)))
    assert shell("diff").lines[-1] == "-p shows the text of 2 more files"


def test_paths_are_relative_to_the_current_folder_or_else_to_the_project(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("sub/train.py", "sub\n")
    project.write("sub/gone.py", "gone\n")
    project.begin({}, name="one").end("finished")
    project.write("train.py", "other\n")
    project.write("sub/train.py", "other\n")
    (project.root / "sub/gone.py").unlink()
    monkeypatch.chdir(project.root / "sub")
    for paths, names in (
        (["train.py"], ["sub/train.py"]),
        (["gone.py"], ["sub/gone.py"]),
        (["sub/gone.py"], ["sub/gone.py"]),
        (["../train.py"], ["train.py"]),
        (["."], ["sub/gone.py", "sub/train.py"]),
        ([], ["sub/gone.py", "sub/train.py", "train.py"]),
    ):
        assert shell("diff", "--name-only", "--", *paths).lines == names
    assert shell("checkpoint", "-q").code == 0
    assert shell("diff", "one@start", "latest", "--name-only", "--", "train.py").lines == ["sub/train.py"]
    assert shell("diff", "--", "nothing.py").err.startswith("error: neither ")


# -- bad input


def test_two_paths_are_compared(shell: Shell, vision: Vision) -> None:
    vision.project.write("train.py", "print('better')\n")
    assert shell("checkpoint", "-q").code == 0
    lines = shell("diff", "baseline@best:train.py", "latest:train.py").lines
    assert lines[2] == "files      M  train.py  +1  −1"
    assert lines[-2:] == ["-print('training')", "+print('better')"]
    assert shell("diff", "baseline@best:train.py", "baseline@best:model.bin", "--stat").lines == [
        "M  model.bin  +1  −1  from train.py",
        "1 file, +1 −1",
    ]
    vision.project.write("train.py", "print('best')\n")
    assert shell("diff", "latest:train.py").lines[-1] == "+print('best')"


def test_what_is_not_there_cannot_be_compared(shell: Shell, vision: Vision) -> None:
    best, only = vision.baseline.ids[1][:7], vision.warmup.ids[0][:7]
    shell.fails(
        3,
        f"error: neither {best} nor {only} has 'nothing'\nhint: `replicate ls-tree -r {best}` lists files\n",
        *("diff", "baseline@best", "warmup@best", "--", "train.py", "nothing"),
    )
    shell.fails(
        3,
        f"error: {best} has no 'nothing'\nhint: `replicate ls-tree -r {best}` lists its files\n",
        *("diff", "baseline@best", "baseline@best", "--", "nothing"),
    )
    shell.fails(
        3,
        f"error: neither {best} nor the worktree has 'nothing'\nhint: `replicate ls-tree -r {best}` lists files\n",
        *("diff", "baseline@best", "--", "nothing"),
    )
    shell.fails(
        3,
        f"error: {best} has no 'nothing'\nhint: `replicate ls-tree -r {best}` lists its files\n",
        *("diff", "baseline@best:nothing", "warmup@best:train.py"),
    )


def test_of_a_path_that_lies_in_a_folder_the_whole_is_told(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="layers")
    shorts = []
    for step in range(2):
        project.write("weights/deep/model.bin", f"{step}")
        project.write("weights/model.bin", f"{step}")
        shorts.append(project.save(session, step=step).base.record.commit_id.short)
    for typed, meant in (
        ("model.bin", "weights/deep/model.bin or weights/model.bin"),
        ("deep/model.bin", "weights/deep/model.bin"),
        ("deep", "weights/deep"),
        ("weight/mode.bin", "weights/model.bin or weights/deep/model.bin or weights/deep"),
    ):
        shell.fails(
            3,
            f"error: neither {shorts[0]} nor {shorts[1]} has '{typed}'\nhint: did you mean {meant}?\n",
            *("diff", *shorts, "--", typed),
        )


def test_a_path_in_the_place_of_a_revision_is_told(shell: Shell, vision: Vision) -> None:
    result = shell("diff", "train.py")
    assert (result.code, result.raw) == (3, b"")
    assert result.err.endswith("\nhint: paths come after --: `replicate diff -- train.py`\n")
    assert shell("diff", "nonsense").err.endswith("\nhint: `replicate ls` shows what there is\n")


def test_arguments_that_make_no_sense_are_refused(shell: Shell, vision: Vision) -> None:
    shell.fails(2, "error: -z goes with --name-only\n", "diff", "-z")
    shell.fails(
        2,
        "error: 'latest' is one revision too many; paths come after --\nhint: see `replicate diff --help`\n",
        *("diff", "baseline", "warmup", "latest"),
    )
    shell.fails(
        2,
        "error: a revision with a path is compared with another such, and with nothing after --\n"
        "hint: `replicate diff A B -- train.py` compares one path of two commits\n",
        *("diff", "baseline@best:train.py", "warmup@best"),
    )
    shell.fails(
        2,
        "error: '' is no path\nhint: name no path to mean the whole commit\n",
        *("diff", "baseline@best", "warmup@best", "--", ""),
    )


def test_a_project_without_a_save_has_nothing_to_compare(shell: Shell, project: SampleProject) -> None:
    shell.fails(
        3,
        "error: nothing was saved or checked out here yet\nhint: name a commit: `replicate diff latest`\n",
        "diff",
    )


def test_huge_and_binary_files_are_shown_by_size(shell: Shell, project: SampleProject) -> None:
    project.write("big.txt", "x\n" * (1 << 20))
    project.write("model.pt", b"\0" * 10)
    project.begin({}, name="one")
    project.write("big.txt", "x\n" * (1 << 20) + "y")
    project.write("model.pt", b"\0" * 9 + b"\1")
    lines = shell("diff").lines
    assert lines[2:] == [
        "files      M  big.txt       2.1 MB",
        "           M  model.pt      10 B",
        "           …  2 files equal",
    ]
    assert shell("diff", "-p").raw == (
        b"# a/big.txt and b/big.txt differ: more than 1 MiB\n# a/model.pt and b/model.pt differ: binary\n"
    )


# -- weight files


@pytest.fixture
def layers(project: SampleProject) -> SampleProject:
    """Two checkpoints of a weight file of ten tensors: eight move, more and more, one comes, one goes."""
    session = project.begin({}, name="layers")
    base = {f"layers.{number}.weight": np.full(100, 2, "float32") for number in range(9)}
    project.write("model.safetensors", safetensors({**base, "gone": np.zeros(3)}))
    project.save(session, step=0)
    moved = {name: array + np.float32(number / 8) for number, (name, array) in enumerate(base.items())}
    moved["layers.1.weight"][0] = np.nan
    project.write("model.safetensors", safetensors({**moved, "new": np.zeros((2, 2))}))
    project.save(session, step=1)
    return project


def test_of_a_weight_file_the_largest_changes_are_shown(shell: Shell, layers: SampleProject) -> None:
    lines = shell("diff", "latest~1", "latest").lines[2:]
    assert lines == [
        "files      M  model.safetensors      new NaN or inf in 1 tensor, 4.4 KB, 8 of 10 tensors changed, max |Δ| 1, "
        "1 added, 1 removed",
        "           …  2 files equal",
        "",
        "model.safetensors",
        "     TENSOR           ‖Δ‖/‖A‖  MAX |Δ|  MEAN |Δ|  CHANGED  NAN, INF  TYPE",
        "  M  layers.1.weight   0.0625    0.125     0.125    100 %     0 → 1  float32 [100]",
        "  A  new                                                             float64 [2, 2]",
        "  D  gone                                                            float64 [3]",
        "  M  layers.8.weight      0.5        1         1    100 %            float32 [100]",
        "  M  layers.7.weight    0.438    0.875     0.875    100 %            float32 [100]",
        "  …  5 more tensors, `-- PATH` lists all",
    ]


def test_a_weight_file_that_is_named_shows_all_its_tensors(shell: Shell, layers: SampleProject) -> None:
    rows = shell("diff", "latest~1", "latest", "--", "model.safetensors").rows[5:]
    assert [row[1] for row in rows[1:]] == [*(f"layers.{number}.weight" for number in range(1, 9)), "new", "gone"]
    assert rows[1][-5:] == ["0", "→", "1", "float32", "[100]"]


def test_nan_is_told_first_in_every_file_and_never_cut(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="layers")
    base = {f"model.layers.{number}.self_attention.weight": np.full((1, 100), 2.0) for number in range(9)}
    for step in range(2):
        for file in range(5):
            arrays = {name: array + step * (9 - at) for at, (name, array) in enumerate(base.items())}
            if file == 4:
                arrays["model.layers.8.self_attention.weight"][0, :50] = np.inf if step else 2
                arrays["model.layers.7.self_attention.weight"][0, :60] = 2 if step else np.nan
            project.write(f"folder/{file}.safetensors", safetensors(arrays))
        project.save(session, step=step)
    shell.widen(66)
    lines = shell("diff", "latest~1", "latest").lines
    assert "M  folder/4.safetensors      new NaN or inf in 1 tenso…" in lines[6]
    assert [line.split()[0] for line in lines if "  names begin with" in line] == [
        f"folder/{file}.safetensors" for file in (0, 1, 2, 4)
    ]
    assert lines[-8:] == [
        "folder/4.safetensors  names begin with model.layers.",
        "     TENSOR                   MAX |Δ|  NAN, INF  TYPE",
        "  M  8.self_attention.weight        1    0 → 50  float64 [1, 100]",
        "  M  7.self_attention.weight        2    60 → 0  float64 [1, 100]",
        "  M  0.self_attention.weight        9            float64 [1, 100]",
        "  M  1.self_attention.weight        8            float64 [1, 100]",
        "  M  2.self_attention.weight        7            float64 [1, 100]",
        "  …  4 more tensors, `-- PATH` lists all",
    ]
    named = shell("diff", "latest~1", "latest", "--", "folder/4.safetensors")
    assert [row[1].split(".")[0] for row in named.rows[-9:]] == [*"870123456"]


def test_the_state_of_an_optimizer_comes_after_the_weights(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="layers")
    for step in range(2):
        arrays = {"optimizer.step": np.full(1, step + 1.0), "model.weight": np.full(9, 1 + step / 8)}
        project.write("model.npz", npz(arrays))
        project.save(session, step=step)
    result = shell("diff", "latest~1", "latest")
    assert "2 of 2 tensors changed, max |Δ| 0.125" in result.out
    assert [row[1] for row in result.rows[-2:]] == ["model.weight", "optimizer.step"]


def test_narrow_terminals_keep_the_ends_of_names(shell: Shell, layers: SampleProject, project: SampleProject) -> None:
    session = project.resume()
    name = "model.decoder.layers.0.self_attention.q_proj.weight"
    for step in (2, 3):
        project.write("model.safetensors", safetensors({name: np.full(100, step, "float32")}))
        project.save(session, step=step)
    shell.widen(80)
    lines = shell("diff", "latest~1", "latest").lines
    assert lines[-2:] == [
        "     TENSOR                             ‖Δ‖/‖A‖  MAX |Δ|  CHANGED  TYPE",
        "  M  …s.0.self_attention.q_proj.weight      0.5        1    100 %  float32 [100]",
    ]
    for step in (4, 5):
        arrays = {name.replace("0", f"{number}"): np.full((128, 4096), step, "float32") for number in range(2)}
        project.write("model.safetensors", safetensors(arrays))
        project.save(session, step=step)
    assert shell("diff", "latest~1", "latest").lines[-4:] == [
        "model.safetensors  names begin with model.decoder.layers.",
        "     TENSOR                          MAX |Δ|  CHANGED  TYPE",
        "  M  0.self_attention.q_proj.weight        1    100 %  float32 [128, 4096]",
        "  M  1.self_attention.q_proj.weight        1    100 %  float32 [128, 4096]",
    ]
    shell.widen(120)
    assert name in shell("diff", "latest~1", "latest").out


def test_a_large_weight_file_is_compared_when_it_is_named(
    shell: Shell, layers: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.cli.tensors._READ_BYTES", 100)
    result = shell("diff", "latest~1", "latest")
    assert "at most 9 of 10 tensors changed, 1 added, 1 removed" in result.out
    assert result.lines[-1] == "  …  6 more tensors, `-- PATH` compares their values"
    assert shell("diff", "latest~1", "latest", "--json").json["files"][0]["tensors"]["compared"] is False
    assert "8 of 10 tensors changed" in shell("diff", "latest~1", "latest", "--", "model.safetensors").out


def test_json_tells_of_tensors(shell: Shell, layers: SampleProject) -> None:
    (file,) = shell("diff", "latest~1", "latest", "--json").json["files"]
    assert (file["tensors"]["count"], file["tensors"]["compared"], len(file["tensors"]["changes"])) == (10, True, 10)
    first, *_, gone = file["tensors"]["changes"]
    tensor = {"dtype": "float32", "shape": [100], "bytes": 400}
    assert first == {
        "name": "layers.1.weight",
        "change": "changed",
        "before": tensor,
        "after": tensor,
        "max_change": 0.125,
        "mean_change": 0.125,
        "relative_change": 0.0625,
        "changed_share": 1.0,
        "nonfinite_before": 0,
        "nonfinite_after": 1,
    }
    assert (gone["name"], gone["change"], gone["after"], gone["max_change"]) == ("gone", "removed", None, None)


def test_weight_files_of_the_worktree_are_compared(shell: Shell, layers: SampleProject) -> None:
    layers.write("model.safetensors", safetensors({"new": np.ones((2, 2))}))
    assert "1 of 1 tensor changed, max |Δ| 1, 9 removed" in shell("diff").out
