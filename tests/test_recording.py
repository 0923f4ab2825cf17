"""`init()` and `checkpoint()`: the current experiment of a process, and how it ends with the process."""

from __future__ import annotations

import argparse
import atexit
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import replicate
from replicate.collection import ExperimentCollection
from replicate.errors import (
    ConfigError,
    InvalidInputError,
    ReplicateError,
    RevisionNotFoundError,
    SessionError,
    StorageError,
)
from replicate.experiment import Experiment, ExperimentList
from replicate.recording import InertExperiment, Recorder
from tests.projects import Events, SampleProject, run_script

LOSS = ("loss", "minimize")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a script, which is the current one. There is no project yet."""
    folder = Path(os.path.realpath(tmp_path)) / "w"
    folder.mkdir()
    (folder / "train.py").write_text("pass\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def recorder(events: Events, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """What `replicate.init` and `replicate.checkpoint` call, with nothing left behind in this process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "exit", sys.exit)
    found = Recorder(lambda quiet: events)
    yield found
    found._end_current()
    atexit.unregister(found._at_exit)


def listed(root: Path) -> ExperimentList:
    """Return the experiments as another process sees them."""
    return ExperimentCollection(root).list()


def only(root: Path) -> Experiment:
    (found,) = listed(root)
    return found


def refusal(recorder: Recorder, **given: Any) -> str:
    with pytest.raises(InvalidInputError) as raised:
        recorder.init(**given)
    return str(raised.value)


# -- init -----------------------------------------------------------------------------------------------------------


def test_init_begins_a_project_in_the_current_folder_and_says_so_once(
    recorder: Recorder, root: Path, events: Events
) -> None:
    experiment = recorder.init()
    assert events.notices == [
        f"new project: checkpoints are stored in {root}/.replicate",
        f"experiment {experiment.short_id} · 1 file",
    ]
    assert (root / ".replicate" / ".gitignore").read_text() == "*\n"
    recorder.init(name="second")
    assert len(events.notices) == 3
    assert events.notices[2].endswith(" second · 1 file")


def test_init_finds_the_project_above_the_current_folder(
    recorder: Recorder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".replicate").mkdir()
    (root / "src").mkdir()
    monkeypatch.chdir(root / "src")
    recorder.init()
    assert not (root / "src" / ".replicate").exists()
    assert [file.path for file in only(root).start.files()] == ["train.py"]


def test_init_takes_a_path(recorder: Recorder, root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    recorder.init(tmp_path / "other")
    assert (tmp_path / "other" / ".replicate").is_dir()
    assert not (root / ".replicate").exists()


def test_init_of_a_path_that_is_not_there_is_refused(recorder: Recorder, root: Path) -> None:
    assert refusal(recorder, path="missing") == (
        "'missing' does not exist (hint: path is a folder of the project; a name is given as name=)"
    )
    told = refusal(recorder, path={"lr": 0.1})
    assert told == "path is a mapping: {'lr': 0.1} (hint: did you mean init(params=...)?)"
    assert refusal(recorder, path=3) == "path is of type int: 3 (hint: path is a folder of the project)"


def test_init_records_what_it_is_given(recorder: Recorder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(root / "train.py"), "--lr", "0.1", "--token", "abc"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--lr", "0.1", "--token", "abc"])
    recorder.init(params={"lr": 0.1, "api_key": "abc"}, name="base", tags=["b", "a"], primary_metric=LOSS)
    found = only(root)
    assert found.params == {"lr": 0.1, "api_key": "***"}
    assert (found.name, found.tags, found.primary_metric) == ("base", ["a", "b"], LOSS)
    assert found.command == "python train.py --lr 0.1 --token ***"
    assert found.python_version == ".".join(str(part) for part in sys.version_info[:3])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_error": "ignore"}, 'on_error is \'ignore\'; it must be "raise" or "warn"'),
        ({"params": [1]}, "params is of type list; it must be a mapping of names to values"),
        (
            {"params": {"data": b""}},
            "params['data'] is a builtins.bytes, which cannot be stored "
            "(hint: pass a number, text, or a list or dict of these)",
        ),
        (
            {"primary_metric": "loss"},
            'primary_metric is \'loss\'; it must be (name, goal) (hint: for example ("loss", "minimize"))',
        ),
        (
            {"primary_metric": ("loss", "low")},
            "the goal of primary metric 'loss' is 'low'; it must be minimize or maximize",
        ),
        ({"name": "a@b"}, "'a@b' is no name: it must not hold @ ~ : / or control characters"),
        ({"name": 3}, "3 is no name: it must be Unicode text"),
        ({"tags": "baseline"}, "tags is the text 'baseline'; it must be a list of texts"),
        ({"tags": ["a", ""]}, "'' is no name: 1 to 100 bytes, no space at the ends"),
        (
            {"resume": "latest", "name": "a"},
            "resume= continues an experiment as it is: give no params, name, tags or parent",
        ),
        (
            {"resume": True, "params": {"lr": 1}},
            "resume= continues an experiment as it is: give no params, name, tags or parent",
        ),
    ],
)
def test_wrong_arguments_are_refused_and_no_project_is_begun(
    recorder: Recorder, root: Path, given: dict[str, Any], message: str
) -> None:
    assert refusal(recorder, **given) == message
    assert sorted(os.listdir(root)) == ["train.py"]


def test_wrong_arguments_leave_the_current_experiment_running(recorder: Recorder, root: Path) -> None:
    experiment = recorder.init()
    refusal(recorder, name="a@b")
    assert experiment.is_running()
    recorder.checkpoint()
    assert len(only(root).checkpoints) == 1


def test_a_second_init_ends_the_first_session(recorder: Recorder, root: Path) -> None:
    first = recorder.init()
    recorder.init()
    assert [found.status for found in listed(root)] == ["finished", "running"]
    with pytest.raises(SessionError, match="has ended"):
        first.checkpoint()


@pytest.mark.parametrize("place", ["/", "~", "/tmp"])
def test_no_project_is_begun_where_everything_would_be_saved(recorder: Recorder, place: str) -> None:
    folder = os.path.expanduser(place)
    if os.path.exists(os.path.join(folder, ".replicate")) or os.path.exists(os.path.join(folder, "replicate.yaml")):
        pytest.skip("this machine has a project there")
    assert "is no place for a project" in refusal(recorder, path=folder)
    assert not os.path.exists(os.path.join(folder, ".replicate"))


# -- checkpoint -----------------------------------------------------------------------------------------------------


def test_checkpoint_begins_an_experiment_when_there_is_none(recorder: Recorder, root: Path) -> None:
    saved = recorder.checkpoint(metrics={"loss": 1.0})
    assert saved.is_saved
    assert only(root).checkpoints[0].id == saved.id


def test_checkpoint_after_the_end_begins_another_experiment(recorder: Recorder, root: Path) -> None:
    recorder.init().stop()
    recorder.checkpoint()
    assert [len(found.checkpoints) for found in listed(root)] == [0, 1]


def test_checkpoint_tells_what_it_saved(recorder: Recorder, root: Path, events: Events) -> None:
    recorder.init(primary_metric=LOSS)
    (root / "weights").write_bytes(b"x" * 1_000)
    saved = recorder.checkpoint(step=3, metrics={"loss": 0.12345})
    told = f"checkpoint {saved.short_id} · step 3 · loss 0.1235 · 1.0 KB, 1.0 KB new · "
    assert re.fullmatch(re.escape(told) + r"[\d.]+ (ms|s)", events.notices[-1])


def test_paths_are_relative_to_the_current_folder(
    recorder: Recorder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.init()
    (root / "d").mkdir()
    (root / "d" / "a").write_text("a")
    (root / "b").write_text("b")
    monkeypatch.chdir(root / "d")
    saved = recorder.checkpoint("a")
    assert [file.path for file in saved.files()] == ["d/a", "train.py"]


# -- resume and parent ----------------------------------------------------------------------------------------------


def test_resume_continues_the_steps_and_keeps_what_was_given(recorder: Recorder, root: Path, events: Events) -> None:
    first = recorder.init(params={"lr": 0.1}, name="base", primary_metric=LOSS)
    recorder.checkpoint(step=7, metrics={"loss": 1})
    again = recorder.init(resume="base")
    assert again.id == first.id
    assert again.params == {"lr": 0.1}
    assert events.notices[-1] == f"continuing {first.short_id} base"
    assert recorder.checkpoint(metrics={"loss": 2}).step == 8
    assert only(root).primary_metric == LOSS


def test_resume_tells_what_changed_since(recorder: Recorder, root: Path, events: Events) -> None:
    recorder.init()
    saved = recorder.checkpoint(step=7)
    recorder.init(resume=True)
    assert events.notices[-1] == f"continuing {saved.experiment_id[:7]}"
    (root / "train.py").write_text("changed\n")
    (root / "new").write_text("new\n")
    recorder.init(resume=True)
    assert events.notices[-1] == (
        f"2 changes in the worktree since {saved.short_id} (step 7), which is continued; "
        "checkpoint() saves everything, checkpoint(path) only what it names"
    )


def test_resume_takes_an_id_a_name_an_experiment_or_true_for_the_newest(recorder: Recorder, root: Path) -> None:
    recorder.init(name="first").stop()
    second = recorder.init(name="second")
    for resume in (second.id, second.short_id, "second", second, True, only_named(root, "second")):
        assert recorder.init(resume=resume).id == second.id
    assert len(listed(root)) == 2


def only_named(root: Path, name: str) -> Experiment:
    (found,) = [one for one in listed(root) if one.name == name]
    return found


def test_resume_may_change_the_primary_metric(recorder: Recorder, root: Path) -> None:
    recorder.init(primary_metric=LOSS)
    recorder.checkpoint(metrics={"loss": 1, "accuracy": 0.1})
    recorder.init(resume=True, primary_metric=("accuracy", "maximize"))
    recorder.checkpoint(metrics={"loss": 2, "accuracy": 0.5})
    best = only(root).best()
    assert best is not None
    assert (best.step, best.primary_metric) == (1, ("accuracy", "maximize"))


def test_resume_of_nothing_is_an_error(recorder: Recorder, root: Path) -> None:
    with pytest.raises(RevisionNotFoundError) as raised:
        recorder.init(resume=True)
    assert str(raised.value) == "there is no experiment to resume (hint: replicate.init() starts one)"
    with pytest.raises(RevisionNotFoundError, match="no experiment or tag is named 'nobody'"):
        recorder.init(resume="nobody")


def test_a_failed_resume_leaves_no_experiment_and_no_running_session(recorder: Recorder, root: Path) -> None:
    recorder.init(name="a").stop()
    with pytest.raises(RevisionNotFoundError):
        recorder.init(resume="nobody")
    assert [found.status for found in listed(root)] == ["finished"]
    recorder.checkpoint()
    assert len(listed(root)) == 2


def test_parent_is_kept_as_the_commit_that_it_was_forked_from(recorder: Recorder, root: Path) -> None:
    recorder.init(name="base")
    saved = recorder.checkpoint()
    for parent in (saved, saved.id, saved.short_id, "base"):
        forked = recorder.init(parent=parent)
        record = next(one for one in listed(root) if one.id == forked.id).start._record
        assert [parent.hex() for parent in record.commit.parents] == [saved.id]


def test_a_parent_that_is_not_there_is_an_error(recorder: Recorder, root: Path) -> None:
    with pytest.raises(RevisionNotFoundError):
        recorder.init(parent="abcd1234")
    assert list(listed(root)) == []


# -- where nothing is recorded --------------------------------------------------------------------------------------


def use_everything(experiment: Experiment) -> None:
    """Use every public attribute and method of an experiment on which nothing is recorded."""
    saved = experiment.checkpoint("missing", step=3, metrics={"loss": 1.0}, primary_metric=LOSS)
    assert (saved.is_saved, saved.step, saved.metrics, saved.id) == (False, 3, {"loss": 1.0}, "")
    assert experiment.checkpoint().step == 4
    for name in dir(Experiment):
        if name.startswith("_") or name in ("checkpoint", "open", "checkout"):
            continue
        found = getattr(experiment, name)
        if callable(found):
            found()
    assert list(experiment.checkpoints) == []
    assert not experiment.is_running()
    for read in (lambda: experiment.open("a"), lambda: experiment.checkout("out"), lambda: saved.open("a")):
        with pytest.raises(ReplicateError, match="not"):
            read()
    assert (repr(experiment), saved.files()) == ("<Experiment, not recorded>", [])
    assert isinstance(experiment._repr_html_(), str)
    assert isinstance(saved.to_json(), dict)
    with experiment as entered:
        assert entered is experiment


def test_nothing_is_recorded_when_disabled(recorder: Recorder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_MODE", "disabled")
    experiment = recorder.init(params={"lr": 0.1}, name="base", tags=["a"])
    assert isinstance(experiment, InertExperiment)
    assert (experiment.params, experiment.name, experiment.tags) == ({"lr": 0.1}, "base", ["a"])
    use_everything(experiment)
    assert not recorder.checkpoint().is_saved
    assert sorted(os.listdir(root)) == ["train.py"]


def test_nothing_is_recorded_on_other_ranks_and_one_line_says_so(
    recorder: Recorder, root: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    use_everything(recorder.init())
    assert events.notices == ["nothing is recorded on rank 1; rank 0 does (rank0_only=False overrides)"]
    assert sorted(os.listdir(root)) == ["train.py"]
    recorder.init(rank0_only=False)
    assert len(listed(root)) == 1


def test_a_wrong_mode_is_an_error(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_MODE", "off")
    with pytest.raises(ConfigError):
        recorder.init()


def test_wrong_arguments_are_refused_when_disabled_too(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_MODE", "disabled")
    assert refusal(recorder, name="a@b") == "'a@b' is no name: it must not hold @ ~ : / or control characters"


# -- storage that fails ---------------------------------------------------------------------------------------------


def block(root: Path) -> None:
    """Put a file where the store is to lie."""
    (root / "replicate.yaml").write_text("store: blocked/store\n")
    (root / "blocked").write_text("a file")


def test_storage_that_fails_raises_unless_told_otherwise(recorder: Recorder, root: Path) -> None:
    block(root)
    with pytest.raises(StorageError):
        recorder.init()


def test_storage_that_fails_at_the_start_becomes_a_warning_when_told(
    recorder: Recorder, root: Path, events: Events
) -> None:
    block(root)
    experiment = recorder.init(on_error="warn")
    assert isinstance(experiment, InertExperiment)
    assert events.warnings == [f"nothing is recorded: cannot create {root}/blocked/store: Not a directory"]
    use_everything(experiment)
    assert not recorder.checkpoint().is_saved


def spoil(root: Path) -> None:
    """Make the store unable to take another pack or record."""
    for name in ("packs", "refs"):
        (root / ".replicate" / name).rename(root / ".replicate" / f"{name}-before")
        (root / ".replicate" / name).write_text("a file")


def heal(root: Path) -> None:
    for name in ("packs", "refs"):
        (root / ".replicate" / name).unlink()
        (root / ".replicate" / f"{name}-before").rename(root / ".replicate" / name)


def test_storage_that_fails_later_becomes_a_warning_and_training_goes_on(
    recorder: Recorder, root: Path, events: Events
) -> None:
    experiment = recorder.init(on_error="warn")
    recorder.checkpoint()
    spoil(root)
    (root / "new").write_text("new")
    saved = recorder.checkpoint(step=5, metrics={"loss": 1})
    assert (saved.is_saved, saved.step, saved.metrics) == (False, 5, {"loss": 1})
    assert len(events.warnings) == 1
    assert events.warnings[0].startswith("checkpoint not saved: cannot write ")
    heal(root)
    assert recorder.checkpoint().is_saved
    assert [one.step for one in experiment.checkpoints] == [0, 1]
    assert only(root).checkpoints.step == [0, 1]


def test_storage_that_fails_later_raises_unless_told_otherwise(recorder: Recorder, root: Path) -> None:
    recorder.init()
    recorder.checkpoint()
    spoil(root)
    (root / "new").write_text("new")
    with pytest.raises(StorageError) as raised:
        recorder.checkpoint(step=5)
    assert raised.value.operation == "write"
    heal(root)
    assert recorder.checkpoint().is_saved
    assert only(root).checkpoints.step == [0, 1]


def test_an_end_that_cannot_be_recorded_raises_but_never_hides_what_ended_the_training(
    recorder: Recorder, root: Path
) -> None:
    experiment = recorder.init()
    spoil(root)
    with pytest.raises(StorageError):
        experiment.stop()
    heal(root)
    experiment = recorder.init()
    spoil(root)
    with pytest.raises(ZeroDivisionError), experiment:
        raise ZeroDivisionError
    heal(root)


def test_an_end_that_cannot_be_recorded_becomes_a_warning_when_told(
    recorder: Recorder, root: Path, events: Events
) -> None:
    with recorder.init(on_error="warn"):
        spoil(root)
    assert len(events.warnings) == 1
    assert events.warnings[0].startswith("the end of the experiment is not recorded: cannot write ")
    heal(root)
    assert only(root).status == "stopped"


def test_wrong_arguments_raise_whatever_is_told(recorder: Recorder, root: Path) -> None:
    recorder.init(on_error="warn")
    with pytest.raises(InvalidInputError):
        recorder.checkpoint("missing")


def test_an_error_of_the_training_is_not_hidden_by_an_end_that_fails(recorder: Recorder, root: Path) -> None:
    experiment = recorder.init(on_error="warn")
    spoil(root)
    with pytest.raises(ZeroDivisionError), experiment:
        raise ZeroDivisionError
    heal(root)


# -- the end of the process -----------------------------------------------------------------------------------------

BEGIN = "import os, sys, signal\nimport replicate\nexperiment = replicate.init()\n"


@pytest.mark.parametrize(
    ("rest", "code", "status", "exception"),
    [
        ("", 0, "finished", None),
        ("experiment.stop()", 0, "finished", None),
        ("sys.exit(0)", 0, "finished", None),
        ("sys.exit()", 0, "finished", None),
        ("sys.exit(3)", 3, "failed", "SystemExit: 3"),
        ("sys.exit('no data')", 1, "failed", "SystemExit: no data"),
        ("def main(): sys.exit(259)\nmain()", 3, "failed", "SystemExit: 259"),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass", 0, "finished", None),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    raise ValueError('x')", 1, "failed", "ValueError: x"),
        (
            "from threading import Thread\nt = Thread(target=sys.exit, args=(3,))\nt.start(); t.join()",
            0,
            "finished",
            None,
        ),
        ("raise ValueError('no data')", 1, "failed", "ValueError: no data"),
        ("raise KeyboardInterrupt", 130, "stopped", "KeyboardInterrupt"),
        ("signal.raise_signal(signal.SIGINT)", 130, "stopped", "KeyboardInterrupt"),
        ("with experiment: pass", 0, "finished", None),
        ("with experiment: raise ValueError('no data')", 1, "failed", "ValueError: no data"),
        ("with experiment: raise KeyboardInterrupt", 130, "stopped", "KeyboardInterrupt"),
        ("with experiment: sys.exit(0)", 0, "finished", None),
        ("with experiment: sys.exit(3)", 3, "failed", "SystemExit: 3"),
        ("os._exit(0)", 0, "stopped", None),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "stopped", None),
    ],
)
def test_how_a_process_ends_is_recorded(root: Path, rest: str, code: int, status: str, exception: str | None) -> None:
    ended = run_script(root, BEGIN + rest)
    assert ended.returncode in (code, code - 256, 128 - code), ended.stderr
    found = only(root)
    assert (found.status, found.exception) == (status, exception)
    assert "Traceback" not in ended.stderr or exception is not None


def test_a_caught_exception_fails_nothing(root: Path) -> None:
    run_script(root, BEGIN + "try:\n    raise ValueError\nexcept ValueError:\n    pass\n")
    assert only(root).status == "finished"


def test_an_exception_of_a_thread_does_not_end_the_experiment(root: Path) -> None:
    rest = (
        "import threading\ndef work():\n    raise ValueError\nt = threading.Thread(target=work)\nt.start()\nt.join()\n"
    )
    run_script(root, BEGIN + rest)
    assert only(root).status == "finished"


def test_the_hook_for_exceptions_that_was_there_before_is_called(root: Path) -> None:
    script = (
        "import sys\nsys.excepthook = lambda *args: print('seen', args[0].__name__)\n" + BEGIN + "raise ValueError\n"
    )
    assert run_script(root, script).stdout == "seen ValueError\n"


def test_a_running_experiment_is_seen_as_such_by_others(root: Path) -> None:
    (root / "train.py").write_text(BEGIN + "print('begun', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert only(root).status == "running"
        process.communicate(b"")
    assert only(root).status == "finished"


def test_a_killed_experiment_is_stopped_and_can_be_continued(root: Path) -> None:
    run_script(root, BEGIN + "experiment.checkpoint()\nos.kill(os.getpid(), signal.SIGKILL)\n")
    found = only(root)
    assert (found.status, len(found.checkpoints)) == ("stopped", 1)
    ended = run_script(root, "import replicate\nreplicate.init(resume=True)\nreplicate.checkpoint()\n")
    assert ended.returncode == 0, ended.stderr
    assert only(root).checkpoints.step == [0, 1]


def test_two_lines_in_a_script_are_enough(root: Path) -> None:
    ended = run_script(root, "import replicate\nreplicate.init(params={'lr': 1})\nreplicate.checkpoint(step=0)\n")
    assert (ended.returncode, ended.stdout) == (0, "")
    lines = ended.stderr.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["new", "experiment", "checkpoint"]


def test_quiet_is_quiet(root: Path) -> None:
    ended = run_script(root, "import replicate\nreplicate.init(quiet=True)\nreplicate.checkpoint(step=0)\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_names_are_bytes_whatever_the_locale_is(root: Path, tmp_path: Path) -> None:
    names = [b"\xff", "\u00e9".encode(), b"plain"]
    for name in names:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(name)
    script = "import replicate\nreplicate.init(params={'name': 'caf\u00e9'})\nreplicate.checkpoint()\n"
    ended = run_script(root, script, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert ended.returncode == 0, ended.stderr
    found = only(root)
    assert found.params == {"name": "caf\u00e9"}
    assert {os.fsencode(file.path) for file in found.checkpoints[0].files()} == {*names, b"train.py"}


def test_a_closed_stderr_is_no_reason_to_fail(root: Path) -> None:
    script = "import os, sys\nos.close(2)\nimport replicate\nreplicate.init()\nreplicate.checkpoint()\n"
    assert run_script(root, script).returncode == 0
    assert only(root).checkpoints.step == [0]


def test_a_script_that_closes_its_experiment_saves_nothing_at_exit(root: Path) -> None:
    run_script(root, BEGIN + "experiment.stop()\nimport shutil\nshutil.rmtree('.replicate')\n")
    assert not (root / ".replicate").exists()


# -- forks ----------------------------------------------------------------------------------------------------------

FORK = (
    BEGIN
    + """
pid = os.fork()
if pid == 0:
    try:
        replicate.checkpoint()
    except replicate.ReplicateError as exc:
        print(type(exc).__name__, exc, flush=True)
    try:
        experiment.checkpoint()
    except replicate.ReplicateError as exc:
        print(type(exc).__name__, exc, flush=True)
    sys.exit(0)
os.waitpid(pid, 0)
replicate.checkpoint()
"""
)


def test_a_forked_process_must_call_init_itself_and_ends_nothing(root: Path) -> None:
    ended = run_script(root, FORK)
    assert ended.returncode == 0, ended.stderr
    message = (
        "SessionError this process was forked from the one that called replicate.init() "
        "(hint: call replicate.init() in this process too)\n"
    )
    assert ended.stdout == message * 2
    found = only(root)
    assert (found.status, len(found.checkpoints)) == ("finished", 1)


def test_a_forked_process_may_begin_its_own_experiment(root: Path) -> None:
    script = (
        BEGIN
        + """
pid = os.fork()
if pid == 0:
    replicate.init(name="child")
    replicate.checkpoint()
    sys.exit(0)
os.waitpid(pid, 0)
replicate.checkpoint()
replicate.checkpoint()
"""
    )
    ended = run_script(root, script)
    assert ended.returncode == 0, ended.stderr
    assert {(found.name, found.status, len(found.checkpoints)) for found in listed(root)} == {
        (None, "finished", 2),
        ("child", "finished", 1),
    }


def test_a_forked_process_goes_on_when_nothing_is_recorded(root: Path) -> None:
    script = BEGIN + "pid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n"
    script += "print(replicate.checkpoint(step=1).is_saved, flush=True)\n"
    ended = run_script(root, script, REPLICATE_MODE="disabled")
    assert (ended.returncode, ended.stdout) == (0, "False\nFalse\n"), ended.stderr


def test_workers_of_multiprocessing_end_nothing(root: Path) -> None:
    script = """
import multiprocessing, replicate

def work(number):
    return number + 1

if __name__ == "__main__":
    replicate.init()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(10))
    replicate.checkpoint()
"""
    ended = run_script(root, script)
    assert ended.returncode == 0, ended.stderr
    found = only(root)
    assert (found.status, len(found.checkpoints)) == ("finished", 1)


# -- the package ----------------------------------------------------------------------------------------------------


def test_the_public_functions_use_one_recorder(root: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replicate._state, "recorder", recorder)
    experiment = replicate.init(name="base")
    saved = replicate.checkpoint(metrics={"loss": 1})
    assert [one.id for one in replicate.experiments.list()] == [experiment.id]
    assert replicate.experiments.get("base").latest() is not None
    assert replicate.experiments.checkpoint(saved.short_id).id == saved.id
    with pytest.raises(RevisionNotFoundError):
        replicate.experiments.get("nobody")


def test_signals_are_left_alone(root: Path, recorder: Recorder) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    recorder.init()
    recorder.checkpoint()
    assert {number: signal.getsignal(number) for number in before} == before


def test_resuming_what_runs_elsewhere_warns_of_the_fork(recorder: Recorder, root: Path, events: Events) -> None:
    running = SampleProject(root).begin({}, name="busy")
    recorder.init(resume="busy")
    short = running.experiment_id.short
    assert events.warnings == [f"{short} is running: what both save from here on forks it"]
    running.end("finished")


def test_arguments_of_argparse_are_no_params_but_their_vars_are(recorder: Recorder) -> None:
    with pytest.raises(InvalidInputError) as caught:
        recorder.init(params=argparse.Namespace(lr=1))  # type: ignore[arg-type]
    assert caught.value.hint == "did you mean params=vars(...)?"


@pytest.mark.parametrize("wrong", [{"step": "x"}, {"metrics": {"a": object()}}, {"primary_metric": ("a", "best")}])
def test_a_wrong_argument_begins_no_experiment(recorder: Recorder, root: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        recorder.checkpoint(**wrong)
    assert not (root / ".replicate").exists()
