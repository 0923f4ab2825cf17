from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, paths_of, read_folder

FILES = {"model.bin", "replicate.yaml", "train.py"}


def read(path: Path) -> str:
    return path.read_text()


def test_a_checkpoint_is_restored_and_told_with_what_made_it(shell: Shell, vision: Vision) -> None:
    best = vision.baseline.ids[1]
    result = shell("checkout", best)
    assert read(vision.project.root / "model.bin") == "baseline 1\n"
    first, second = result.err.splitlines()
    assert first.startswith(f"checked out {best[:7]} (step 1) into . · 1 file written, 11 B · ")
    assert second == "it was made by: python train.py"
    assert (result.out, result.code) == ("", 0)


def test_of_an_experiment_the_best_is_taken_and_told(shell: Shell, vision: Vision) -> None:
    result = shell("checkout", "baseline")
    best = vision.baseline.ids[1][:7]
    assert read(vision.project.root / "model.bin") == "baseline 1\n"
    assert result.err.splitlines()[0] == (
        f"{vision.baseline.short} is an experiment: taking its best checkpoint, {best} (step 1)"
    )


@pytest.mark.parametrize(
    ("revision", "content"),
    [
        ("baseline@latest", "baseline 2\n"),
        ("baseline@best", "baseline 1\n"),
        ("baseline@latest~2", "baseline 0\n"),
        ("latest", "warmup\n"),
    ],
)
def test_a_revision_names_the_checkpoint(
    shell: Shell, vision: Vision, tmp_path: Path, revision: str, content: str
) -> None:
    assert shell("checkout", "-q", revision, "-o", str(tmp_path / "out")).code == 0
    assert read(tmp_path / "out" / "model.bin") == content


def test_what_is_there_is_not_written_again(shell: Shell, vision: Vision) -> None:
    before = os.stat(vision.project.root / "model.bin").st_mtime_ns
    result = shell("checkout", "latest")
    assert os.stat(vision.project.root / "model.bin").st_mtime_ns == before
    assert " into . · every file was there · " in result.err


def test_the_commit_checked_out_is_what_status_compares_with(shell: Shell, vision: Vision) -> None:
    assert shell("checkout", "-q", "baseline@best").code == 0
    assert shell("status", "--json").json["head"] == vision.baseline.ids[1]
    assert shell("status", "--json").json["changes"] == []


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_tells_nothing(shell: Shell, vision: Vision, flag: str) -> None:
    result = shell("checkout", flag, "baseline")
    assert (result.out, result.err, result.code) == ("", "", 0)
    assert read(vision.project.root / "model.bin") == "baseline 1\n"


# -- elsewhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-o", "--output-directory"])
def test_another_folder_is_made_and_the_worktree_left_alone(
    shell: Shell, vision: Vision, tmp_path: Path, flag: str
) -> None:
    target = tmp_path / "else" / "where"
    before = read_folder(vision.project.root)
    result = shell("checkout", "baseline@best", flag, str(target))
    assert paths_of(target) == FILES
    assert read(target / "model.bin") == "baseline 1\n"
    assert read_folder(vision.project.root) == before
    assert shell("status", "--json").json["head"] == vision.warmup.ids[0]
    assert f" into {target} · 3 files written, 46 B · " in result.err


def test_a_folder_below_the_current_one_is_shown_relative(shell: Shell, vision: Vision) -> None:
    assert " into restored · 3 files" in shell("checkout", "baseline@best", "-o", "restored").err


def test_an_output_that_is_a_file_is_refused(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: -o train.py is no folder\nhint: name a folder, or one that does not exist yet\n",
        *("checkout", "latest", "-o", "train.py"),
    )
    assert read(vision.project.root / "train.py") == "print('training')\n"


def test_an_output_below_a_file_is_refused(shell: Shell, vision: Vision) -> None:
    target = vision.project.root / "train.py" / "out"
    shell.fails(
        6, f"error: cannot write into {target}: Not a directory\n", *("checkout", "latest", "-o", "train.py/out")
    )


# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep(project: SampleProject) -> SampleProject:
    """An experiment `deep` with folders, whose worktree is gone."""
    for name in ("data/a.txt", "data/b.txt", "src/deep/c.txt"):
        project.write(name, name)
    project.begin({}, name="deep").end("finished")
    for name in ("data/a.txt", "data/b.txt", "src/deep/c.txt"):
        (project.root / name).unlink()
    return project


@pytest.mark.parametrize(
    ("arguments", "restored"),
    [
        (("deep@start", "data/a.txt"), {"data/a.txt"}),
        (("deep@start", "data"), {"data/a.txt", "data/b.txt"}),
        (("deep@start", "data/"), {"data/a.txt", "data/b.txt"}),
        (("deep@start", "./data/../src"), {"src/deep/c.txt"}),
        (("deep@start", "data/a.txt", "src"), {"data/a.txt", "src/deep/c.txt"}),
        (("deep@start", "--path", "data/b.txt"), {"data/b.txt"}),
        (("deep@start", "--path", "data/b.txt", "--path", "src"), {"data/b.txt", "src/deep/c.txt"}),
        (("deep@start:src/deep",), {"src/deep/c.txt"}),
        (("deep@start:data", "src"), {"data/a.txt", "data/b.txt", "src/deep/c.txt"}),
        (("deep@start", "."), {"data/a.txt", "data/b.txt", "src/deep/c.txt"}),
    ],
)
def test_only_the_named_paths_are_restored(
    shell: Shell, deep: SampleProject, arguments: tuple[str, ...], restored: set[str]
) -> None:
    result = shell("checkout", *arguments)
    assert {path for path in paths_of(deep.root) if path.endswith(".txt")} == restored
    assert "it was made by" not in result.err
    assert result.code == 0


@pytest.mark.parametrize(
    ("path", "restored"),
    [
        ("deep/c.txt", "src/deep/c.txt"),
        (".", "src/deep/c.txt"),
        ("../data/b.txt", "data/b.txt"),
        ("data/a.txt", "data/a.txt"),
        ("{root}/data/a.txt", "data/a.txt"),
    ],
)
def test_paths_are_relative_to_the_current_folder_or_else_to_the_project(
    shell: Shell, deep: SampleProject, monkeypatch: pytest.MonkeyPatch, path: str, restored: str
) -> None:
    monkeypatch.chdir(deep.root / "src")
    assert shell("checkout", "-q", "deep@start", path.format(root=deep.root)).code == 0
    assert {path for path in paths_of(deep.root) if path.endswith(".txt")} == {restored}


def test_a_path_means_that_in_the_current_folder_when_the_project_has_one_too(
    shell: Shell, project: SampleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("sub/train.py", "sub\n")
    project.begin({}, name="two").end("finished")
    (project.root / "train.py").unlink()
    (project.root / "sub/train.py").unlink()
    monkeypatch.chdir(project.root / "sub")
    assert shell("checkout", "-q", "two@start", "train.py").code == 0
    assert (project.root / "sub/train.py").exists()
    assert not (project.root / "train.py").exists()


def test_outside_of_the_project_paths_are_relative_to_it(
    shell: Shell, deep: SampleProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("-D", "project", "checkout", "-q", "deep@start", "data/a.txt").code == 0
    assert read(deep.root / "data" / "a.txt") == "data/a.txt"


def test_what_was_restored_is_named_and_not_said_to_be_checked_out(
    shell: Shell, deep: SampleProject, tmp_path: Path
) -> None:
    short = deep.experiment().experiment_id.short
    result = shell("checkout", "deep@start", "data/a.txt", "src")
    assert result.err.startswith(f"restored data/a.txt, src from {short} (start) · 2 files written, 24 B · ")
    result = shell("checkout", "deep@start", "data", "src", "train.py", "replicate.yaml", "-o", str(tmp_path / "out"))
    assert result.err.startswith(f"restored data, src, train.py and 1 more from {short} (start) into {tmp_path}/out · ")


def test_a_path_that_is_not_in_the_checkpoint_is_refused_and_nothing_written(shell: Shell, deep: SampleProject) -> None:
    short = deep.experiment().experiment_id.short
    shell.fails(
        3,
        f"error: {short} has no 'data/c.txt'\nhint: `replicate ls-tree -r {short}` lists its files\n",
        *("checkout", "deep@start", "data/a.txt", "data/c.txt"),
    )
    assert not (deep.root / "data" / "a.txt").exists()


def test_an_empty_path_is_refused(shell: Shell, deep: SampleProject) -> None:
    shell.fails(
        2,
        "error: '' is no path\nhint: name no path to mean the whole commit\n",
        *("checkout", "deep@start", ""),
    )


def test_restoring_some_paths_does_not_change_what_status_compares_with(shell: Shell, vision: Vision) -> None:
    assert shell("checkout", "-q", "baseline@best", "model.bin").code == 0
    status = shell("status", "--json").json
    assert status["head"] == vision.warmup.ids[0]
    assert status["changes"] == [{"change": "M", "path": "model.bin"}]


# -- changes that are in no checkpoint -------------------------------------------------------------------------------


REFUSED = (
    "error: {} changes that are in no checkpoint; nothing was written\n"
    "hint: save them with `replicate checkpoint --name before`, restore elsewhere with -o DIR, or overwrite with -f\n"
)


def test_unsaved_changes_are_not_overwritten(shell: Shell, vision: Vision) -> None:
    vision.project.write("train.py", "unsaved\n")
    shell.fails(4, REFUSED.format("train.py has"), "checkout", "-q", "baseline@best")
    assert read(vision.project.root / "train.py") == "unsaved\n"
    assert read(vision.project.root / "model.bin") == "warmup\n"


def test_of_many_unsaved_changes_three_are_named(shell: Shell, project: SampleProject) -> None:
    for number in range(5):
        project.write(f"{number}.txt", "saved")
    project.begin({}, name="many").end("finished")
    for number in range(5):
        project.write(f"{number}.txt", "unsaved")
    shell.fails(4, REFUSED.format("0.txt, 1.txt, 2.txt and 2 more have"), "checkout", "many@start")


@pytest.mark.parametrize("flag", ["-f", "--force"])
def test_force_overwrites_them(shell: Shell, vision: Vision, flag: str) -> None:
    vision.project.write("train.py", "unsaved\n")
    assert shell("checkout", "-q", "baseline@best", flag).code == 0
    assert read(vision.project.root / "train.py") == "print('training')\n"


def test_a_folder_where_a_file_belongs_is_refused(shell: Shell, vision: Vision) -> None:
    (vision.project.root / "model.bin").unlink()
    (vision.project.root / "model.bin").mkdir()
    shell.fails(
        4,
        f"error: {vision.project.root}/model.bin is a folder where the checkpoint has a file; nothing was written\n"
        "hint: move it away, or restore elsewhere with -o DIR\n",
        *("checkout", "-q", "latest"),
    )


def test_a_name_with_escape_codes_is_told_without_them(shell: Shell, project: SampleProject) -> None:
    project.write("a\x1b[2J.txt", "saved")
    project.begin({}, name="odd").end("finished")
    project.write("a\x1b[2J.txt", "unsaved")
    shell.fails(4, REFUSED.format("a·[2J.txt has"), "checkout", "odd@start")


# -- exact -----------------------------------------------------------------------------------------------------------


def test_exact_removes_what_the_commit_does_not_have(shell: Shell, vision: Vision) -> None:
    assert shell("checkout", "-q", "baseline@start").code == 0
    assert (vision.project.root / "model.bin").exists()
    result = shell("checkout", "baseline@start", "--exact")
    assert not (vision.project.root / "model.bin").exists()
    assert " into . · every file was there · 1 removed · " in result.err


def test_exact_refuses_to_remove_what_is_in_no_checkpoint(shell: Shell, vision: Vision) -> None:
    vision.project.write("notes.txt", "unsaved\n")
    shell.fails(4, REFUSED.format("notes.txt has"), "checkout", "-q", "latest", "--exact")
    assert (vision.project.root / "notes.txt").exists()


@pytest.mark.parametrize("arguments", [("latest", "train.py"), ("latest", "--path", "train.py"), ("latest:train.py",)])
def test_exact_does_not_go_with_paths(shell: Shell, vision: Vision, arguments: tuple[str, ...]) -> None:
    shell.fails(
        2,
        "error: --exact restores a whole commit; it does not go with paths\n",
        *("checkout", "-q", "--exact", *arguments),
    )


# -- json ------------------------------------------------------------------------------------------------------------


def test_json_tells_what_was_done(shell: Shell, vision: Vision) -> None:
    result = shell("checkout", "--json", "baseline@best")
    assert result.json == {
        "id": vision.baseline.ids[1],
        "directory": str(vision.project.root),
        "paths": 3,
        "written": 1,
        "removed": 0,
        "bytes": 11,
    }
    assert (result.err, result.code) == ("", 0)


def test_json_leaves_notices_on_stderr(shell: Shell, vision: Vision) -> None:
    result = shell("checkout", "--json", "baseline")
    assert result.json["id"] == vision.baseline.ids[1]
    assert result.err.endswith("(step 1)\n")


# -- wrong revisions -------------------------------------------------------------------------------------------------


def test_checkout_needs_a_revision(shell: Shell, vision: Vision) -> None:
    shell.fails(2, "error: missing argument 'REVISION'\nhint: see `replicate checkout --help`\n", "checkout")


def test_an_experiment_without_a_best_checkpoint_says_so(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="empty")
    session.end("finished")
    short = session.experiment_id.short
    shell.fails(
        3,
        f"error: experiment {short} has no checkpoint\nhint: {short}@start is its code at the start\n",
        *("checkout", "empty@best"),
    )


def test_an_experiment_without_checkpoints_gives_its_start(shell: Shell, project: SampleProject) -> None:
    session = project.begin({}, name="empty")
    session.end("finished")
    project.write("train.py", "unsaved\n")
    result = shell("checkout", "-f", "empty")
    assert result.err.startswith(f"{session.experiment_id.short} has no checkpoint: taking its start\n")
    assert read(project.root / "train.py") == "print('training')\n"


def test_no_checkpoint_at_all_says_so(shell: Shell, project: SampleProject) -> None:
    project.begin({}).end("finished")
    shell.fails(
        3, "error: there is no checkpoint yet\nhint: `replicate checkpoint` saves one\n", *("checkout", "latest")
    )


def test_no_primary_metric_says_so(shell: Shell, project: SampleProject) -> None:
    session = project.begin({})
    project.save(session, step=0, metrics={"loss": 1.0})
    session.end("finished")
    shell.fails(
        3,
        "error: no experiment has a primary metric\n"
        'hint: give one: checkpoint(..., primary_metric=("loss", "minimize"))\n',
        *("checkout", "best"),
    )


def test_the_configuration_of_the_project_stays_as_it_is(shell: Shell, vision: Vision, tmp_path: Path) -> None:
    config = vision.project.root / "replicate.yaml"
    config.write_text("effort: normal\n")
    shell("checkpoint", "--name", "configured", "-q")
    config.write_text(f"repository: {tmp_path}/team\n")
    shell("push", "--create", "-q")
    told = "replicate.yaml stays as it is here; name it to restore the one of "
    for revision in ("configured", vision.warmup.short):
        result = shell("checkout", revision, "--exact", "-f")
        assert (result.code, told in result.err) == (0, True)
        assert config.read_text() == f"repository: {tmp_path}/team\n"
    assert shell("checkout", "configured", "-o", "copy").code == 0
    assert (vision.project.root / "copy/replicate.yaml").read_text() == "effort: normal\n"
    assert shell("checkout", "configured", "replicate.yaml", "-f").code == 0
    assert config.read_text() == "effort: normal\n"
