"""`replicate show`: one experiment, checkpoint, or file of it."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from typing import Any

import click

from replicate.checkpoints import Checkpoint
from replicate.cli.options import StorePlace, find, find_itself, json_option, open_history, store_option
from replicate.cli.render import (
    Cell,
    echo_json,
    echo_line,
    echo_table,
    json_path,
    quote_path,
    status_cell,
    terminal_width,
)
from replicate.cli.tensors import echo_listed
from replicate.diff.lines import is_binary
from replicate.environment import Environment, Package
from replicate.errors import InvalidInputError, PathNotFoundError, WeightsFileError
from replicate.experiment import Experiment
from replicate.objects.model import Mode
from replicate.presenting import json_value, split_author
from replicate.repository import Repository
from replicate.restoring import BlobReader, find_file, open_file
from replicate.revisions import Resolution
from replicate.tensors import TensorFile
from replicate.text import align_numbers, format_age, format_bytes, format_seconds, format_value, plural
from replicate.worktree.trees import find_entry

_FILES = 20
_CHECKPOINTS = 10
_FRAMEWORKS = (
    *("accelerate", "jax", "keras", "lightgbm", "lightning", "numpy", "pandas", "pytorch-lightning", "scikit-learn"),
    *("tensorflow", "torch", "transformers", "xgboost"),
)
_PACKAGES = 8
_PATHS = 5
_COMMANDS = 5
_WIDTH = 80
_MARGIN = 13  # what stands before a text: the indent, the widest title, and a space at each side
_INTERRUPTED = 130


@click.command()
@click.argument("revision")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show all files and checkpoints, and long params whole")
@click.option("-p", "--patch", is_flag=True, help="Print what was in no Git commit when it began, for `git apply`")
@json_option
@store_option
def command(revision: str, show_all: bool, patch: bool, as_json: bool, store: StorePlace) -> None:
    """Show an experiment or a checkpoint, or with ID:PATH a file of it

    A file is written to stdout as it is; of a binary one a terminal shows the size, or the tensors in it.
    """
    repository, history = open_history(store)
    found = find(history, revision) if ":" in revision else find_itself(history, revision)
    if patch:
        if as_json or found.path is not None:
            raise click.UsageError("-p goes with an experiment or a checkpoint alone")
        _write_patch(repository, found)
        return
    if found.path is not None:
        if as_json:
            raise InvalidInputError(
                "--json goes with an experiment or a checkpoint", hint="`replicate ls-tree --json` lists a folder"
            )
        _show_path(repository, found, show_all)
        return
    experiment = Experiment(repository, found.experiment, repository.reporter)
    if found.is_whole_experiment:
        environment = _environment(repository, found)
        if as_json:
            echo_json(
                experiment.to_json()
                | {
                    "capture": json_value(_capture(found)),
                    "end": _end(found),
                    "packages": experiment.packages,
                    "imported": list(experiment.imported_packages),
                    "machine": json_value(environment.machine),
                    "git_patch": environment.patch.decode("utf-8", "backslashreplace") or None,
                    "checkpoints": [one.to_json() for one in experiment.checkpoints],
                }
            )
        else:
            _show_experiment(experiment, found, environment, show_all)
        return
    own = found.record.commit_id
    checkpoint = Checkpoint(repository, found.record, repository.reporter, found.experiment.tags_of(own))
    if as_json:
        echo_json(
            checkpoint.to_json()
            | {
                "note": found.experiment.note_of(own),
                "params": experiment.to_json()["params"],
                "command": found.experiment.command_of(found.record),
                "tree": [
                    {
                        **json_path(os.fsencode(file.path)),
                        "bytes": file.size_bytes,
                        "kind": file.kind,
                        "id": file.object_id,
                    }
                    for file in checkpoint.files()
                ],
            }
        )
    else:
        _show_checkpoint(found, checkpoint, experiment, show_all)


def _capture(found: Resolution) -> dict[str, object]:
    starts = found.experiment.starts
    return dict(starts[0].capture) if starts else {}


def _environment(repository: Repository, found: Resolution) -> Environment:
    """Return what was recorded beside the session: of the first one, or of the one that saved a checkpoint."""
    starts = found.experiment.starts
    first = starts[0] if starts else None
    return Environment(repository, first if found.is_whole_experiment else found.experiment.start_of(found.record))


def _end(found: Resolution) -> dict[str, Any] | None:
    """Return how the newest session ended, None while that is not known."""
    newest = found.experiment.newest_session
    end = found.experiment.ends.get(newest.name.session) if newest else None
    if end is None:
        return None
    exception = json_value(dict(end.exception)) if end.exception else None
    return {"status": end.status, "exit": end.exit_code, "exception": exception}


def _write_patch(repository: Repository, found: Resolution) -> None:
    data = _environment(repository, found).patch
    if not data:
        raise PathNotFoundError(
            f"{found.record.commit_id.short} has no patch: no change since a Git commit was recorded",
            hint="its files are all in the checkpoint: `replicate ls-tree -r`, `replicate checkout -o DIR`",
        )
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _show_experiment(experiment: Experiment, found: Resolution, environment: Environment, show_all: bool) -> None:
    capture = _capture(found)
    echo_line(["experiment ", (experiment.id, "yellow")])
    rows: list[list[Cell]] = []
    if experiment.name:
        rows.append(["name", experiment.name])
    if experiment.tags:
        rows.append(["tags", ", ".join(experiment.tags)])
    rows += _note(experiment.note)
    rows.append(["started", _time(experiment.created.timestamp())])
    end = _end(found)
    rows.append(["status", _status(experiment, end)])
    if experiment.exception and experiment.status == "failed":
        rows += [["", (line, "red")] for line in experiment.exception.splitlines()]
    if end and end["exit"]:
        rows.append(["exit", str(end["exit"])])
    duration = experiment.duration
    if duration is not None:
        rows.append(["duration", format_seconds(duration.total_seconds())])
    rows += _command_rows(found, show_all)
    rows.append(["author", f"{experiment.user} on {experiment.host}"])
    if capture.get("cwd"):
        rows.append(["folder", str(capture["cwd"])])
    if experiment.python_version:
        rows.append(["python", experiment.python_version])
    rows += _origin_rows(capture)
    if environment.packages:
        rows += _wrapped("packages", _packages_line(environment.packages, show_all))
    start = experiment.start
    rows.append(["files", f"{plural(start.file_count, 'file')} at the start, {format_bytes(start.size_bytes)}"])
    if experiment.primary_metric:
        rows.append(["primary", "{} ({})".format(*experiment.primary_metric)])
    echo_table(rows, indent="  ")
    _show_values("params", experiment.params, show_all)
    trace = ((end or {}).get("exception") or {}).get("traceback")
    if trace and show_all:
        click.echo("\ntraceback")
        for line in str(trace).splitlines():
            echo_line(["  ", line])
    if experiment.checkpoints:
        click.echo("\ncheckpoints")
        _show_checkpoints(experiment, show_all)


def _status(experiment: Experiment, end: dict[str, Any] | None) -> Cell:
    """Return how it goes or ended; when it was stopped, by what."""
    if experiment.status != "stopped":
        return status_cell(experiment)
    if end is None:
        return "stopped · no end was recorded: it was killed, or the machine went down"
    is_interrupt = end["exit"] == _INTERRUPTED or (end["exception"] or {}).get("type") == "KeyboardInterrupt"
    return "stopped · interrupted" if is_interrupt else "stopped"


def _command_rows(found: Resolution, show_all: bool) -> list[list[Cell]]:
    """Return how it was started, each time that it was another way: an experiment that was resumed has several."""
    given = [start.capture.get("command") for start in found.experiment.starts]
    commands = [found.experiment.root.commit.command]
    for command in given:
        if isinstance(command, str) and command != commands[-1]:
            commands.append(command)
    shown = commands if show_all or len(commands) <= _COMMANDS + 1 else [commands[0], *commands[1 - _COMMANDS :]]
    rows: list[list[Cell]] = [["command" if number == 0 else "then", one] for number, one in enumerate(shown)]
    if len(shown) < len(commands):
        rows.insert(1, ["", f"… {len(commands) - len(shown):,} more, --all shows them"])
    return rows


def _wrapped(title: str, text: str) -> list[list[Cell]]:
    """Return rows for a long text: on a terminal it goes on below, beside the title."""
    limit = terminal_width()
    if limit is None:
        return [[title, text]]
    width = max(limit - _MARGIN, _MARGIN)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [["" if number else title, line] for number, line in enumerate(lines)]


def _origin_rows(capture: dict[str, Any]) -> list[list[Cell]]:
    """Return rows for Git and the machine. What a store holds is not trusted to be what it should."""
    rows: list[list[Cell]] = []
    git = capture.get("git")
    if isinstance(git, dict):
        branch = f" on {git['branch']}" if git.get("branch") else ""
        commit = str(git["commit"])[:7] if git.get("commit") else "no commit yet"
        rows.append(["git", f"{commit}{branch}{' (dirty)' if git.get('dirty') else ''}"])
        if git.get("remote"):
            rows.append(["remote", str(git["remote"])])
    if capture.get("notebook") not in (None, True):
        rows.append(["notebook", str(capture["notebook"])])
    cpu, memory, gpus = capture.get("cpu"), capture.get("memory"), capture.get("gpus")
    parts = []
    if isinstance(cpu, dict):
        parts.append(f"{cpu.get('count', '?')} × {cpu.get('model', '')}")
    if isinstance(memory, int):
        parts.append(format_bytes(memory))
    if parts:
        rows.append(["machine", ", ".join(parts)])
    names = [_gpu_line(gpu) for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []
    if names:
        counted = {name: names.count(name) for name in names}
        rows.append(["gpus", ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counted.items())])
    return rows


def _gpu_line(gpu: dict[str, Any]) -> str:
    memory = gpu.get("memory")
    return str(gpu.get("name", "")) + (f" ({format_bytes(memory)})" if isinstance(memory, int) else "")


def _packages_line(packages: list[Package], show_all: bool) -> str:
    """Return the imported packages, well-known ones first, and how many more are installed."""
    used = [one for one in packages if one.is_imported] or [one for one in packages if one.name.lower() in _FRAMEWORKS]
    used.sort(key=lambda one: one.name.lower() not in _FRAMEWORKS)
    rest = [one for one in packages if one not in used]
    if show_all:
        used, rest = used + rest, []
    shown = used if show_all or len(used) <= _PACKAGES + 2 else used[:_PACKAGES]
    text = ", ".join(f"{one.name} {one.version}" for one in shown)
    hidden = len(used) - len(shown)
    more = [f"{hidden:,} more imported"] if hidden else []
    if rest:
        more.append(f"{len(rest):,} {'others ' if used else ''}installed")
    return "; ".join(filter(None, [text, " and ".join(more)]))


def _note(note: str) -> list[list[Cell]]:
    return [["" if number else "note", line] for number, line in enumerate(note.splitlines())]


def _show_checkpoints(experiment: Experiment, show_all: bool) -> None:
    """List the last checkpoints, oldest first, and the best one before them if it is none of them."""
    checkpoints = experiment.checkpoints
    best = experiment.best()
    last = checkpoints if show_all else checkpoints[-_CHECKPOINTS:]
    shown = list(last)
    if best and all(one.id != best.id for one in last):
        shown.insert(0, best)
    primary = experiment.primary_metric[0] if experiment.primary_metric else None
    names = sorted({name for one in shown for name in one.metrics}, key=lambda name: (name != primary, name))
    columns = [
        align_numbers([format_value(one.metrics[name], 12) if name in one.metrics else "" for one in shown])
        for name in names
    ]
    rows: list[list[Cell]] = [["", "step", *names]]
    for number, one in enumerate(shown):
        mark: Cell = ("best", "green") if best and best.id == one.id else ""
        marks = [mark, *one.tags] if mark else one.tags
        rows.append([(one.short_id, "yellow"), str(one.step), *(column[number] for column in columns), *marks])
    hidden = len(checkpoints) - len(shown)
    before = len(shown) - len(last)
    notes = {before: (0, f"… {hidden:,} more, --all shows them")} if hidden else {}
    echo_table(rows, indent="  ", notes=notes, fit=not show_all)


def _show_checkpoint(found: Resolution, checkpoint: Checkpoint, experiment: Experiment, show_all: bool) -> None:
    commit = found.record.commit
    echo_line(["start " if commit.is_root else "checkpoint ", (checkpoint.id, "yellow")])
    rows: list[list[Cell]] = []
    if checkpoint.step is not None:
        rows.append(["step", str(checkpoint.step)])
    name = f" {experiment.name}" if experiment.name else ""
    rows.append(["experiment", f"{experiment.short_id}{name}"])
    if checkpoint.tags:
        rows.append(["tags", ", ".join(checkpoint.tags)])
    rows += _note(found.experiment.note_of(found.record.commit_id))
    by = [f" {word} {part}" for word, part in zip(("by", "on"), split_author(commit.author), strict=True) if part]
    rows.append(["saved", "".join([_time(checkpoint.created.timestamp()), *by])])
    rows.append(["command", found.experiment.command_of(found.record)])
    size = f"{format_bytes(checkpoint.size_bytes)}, {format_bytes(checkpoint.new_bytes)} new"
    rows.append(["files", f"{plural(checkpoint.file_count, 'file')}, {size}"])
    for what, listed in (("changed while saved", commit.unstable), ("not saved", commit.skipped)):
        if listed:
            more = f" and {listed.count - _PATHS:,} more" if listed.count > _PATHS else ""
            rows.append([what, ", ".join(quote_path(path) for path in listed.paths[:_PATHS]) + more])
    echo_table(rows, indent="  ")
    _show_values("metrics", checkpoint.metrics, show_all, checkpoint.primary_metric)
    _show_values("params", experiment.params, show_all)
    files = checkpoint.files()
    if files:
        click.echo("\nfiles")
        shown = files if show_all or len(files) <= _FILES + 5 else files[:_FILES]
        echo_table(
            [[format_bytes(file.size_bytes), quote_path(os.fsencode(file.path))] for file in shown],
            right=frozenset({0}),
            indent="  ",
        )
        if len(shown) < len(files):
            click.echo(f"  … {len(files) - len(shown):,} more, --all shows them")


def _show_values(title: str, values: dict[str, Any], show_all: bool, goal: tuple[str, str] | None = None) -> None:
    """List params or metrics; floats with every digit."""
    if not values:
        return
    click.echo(f"\n{title}")
    width = sys.maxsize if show_all else _WIDTH
    texts = [repr(value) if isinstance(value, float) else format_value(value, width) for value in values.values()]
    marks = [goal[1] if goal and goal[0] == name else "" for name in values]
    echo_table([list(row) for row in zip(values, texts, marks, strict=True)], indent="  ", fit=not show_all)


def _show_path(repository: Repository, found: Resolution, show_all: bool) -> None:
    """Write a file to stdout, or list a folder. A terminal is told what a binary file is, and not given its bytes."""
    objects = repository.objects(found.record.locator)
    path = os.fsencode(found.path or "").strip(b"/")
    entry = find_entry(objects, found.record.commit.tree, path)
    if entry is None:
        raise PathNotFoundError(
            f"{found.record.commit_id.short} has no {found.path!r}",
            hint=f"`replicate ls-tree -r {found.record.commit_id.short}` lists its files",
        )
    if entry.mode is Mode.DIRECTORY:
        for child in objects.read_tree(entry.object_id):
            click.echo(quote_path(child.name) + ("/" if child.mode is Mode.DIRECTORY else ""))
        return
    if entry.mode is Mode.SYMLINK:
        click.echo(quote_path(objects.read(entry.object_id, claimed_bytes=entry.size_bytes)))
        return
    with open_file(objects, found.record.commit.tree, os.fsdecode(path)) as file:
        data = file.read(1 << 20)
        if sys.stdout.isatty() and is_binary(data):
            _describe_binary(find_file(objects, found.record.commit.tree, os.fsdecode(path)), show_all)
            return
        out = sys.stdout.buffer
        sys.stdout.flush()
        while data:
            out.write(data)
            data = file.read(1 << 20)
    out.flush()


def _describe_binary(file: BlobReader, show_all: bool) -> None:
    """List the tensors of a weight file; of another tell the size."""
    size = format_bytes(file.size_bytes)
    try:
        tensors = TensorFile("", file.size_bytes, file.read_at).tensors()
    except WeightsFileError:
        click.echo(f"binary, {size} (pipe it, or use `replicate checkout`, to get the bytes)")
        return
    echo_listed(tensors, show_all=show_all)
    total = f"{plural(len(tensors), 'tensor')}, {size}"
    click.echo(f"{total} (pipe it, or use `replicate checkout`, to get the bytes)", err=True)


def _time(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))} ({format_age(time.time() - seconds)})"
