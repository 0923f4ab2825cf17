"""`replicate show`: one experiment, checkpoint, or file of it."""

from __future__ import annotations

import os
import sys
import time

import click

from replicate.checkpoints import Checkpoint
from replicate.cli.options import directory_option, find, json_option, open_history
from replicate.cli.render import Cell, echo_json, echo_table, json_path, quote_path
from replicate.errors import PathNotFoundError
from replicate.experiment import Experiment
from replicate.objects.model import Mode
from replicate.repository import Repository
from replicate.restoring import open_file
from replicate.revisions import Resolution
from replicate.text import format_age, format_bytes, format_seconds, format_value, plural
from replicate.worktree.checkout import find_entry

_FILES = 20
_CHECKPOINTS = 10


@click.command()
@click.argument("revision")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show all files and checkpoints")
@json_option
@directory_option
def command(revision: str, show_all: bool, as_json: bool, directory: str) -> None:
    """Show an experiment or a checkpoint, or with ID:PATH a file of it"""
    repository, history = open_history(directory)
    found = find(history, revision, plumbing=":" not in revision)
    if found.path is not None:
        _show_path(repository, found)
        return
    experiment = Experiment(repository, found.experiment, repository.reporter)
    if found.is_whole_experiment:
        if as_json:
            echo_json(
                experiment.to_json()
                | {"capture": _capture(found), "checkpoints": [one.to_json() for one in experiment.checkpoints]}
            )
        else:
            _show_experiment(experiment, found, show_all)
        return
    checkpoint = Checkpoint(repository, found.record, repository.reporter)
    if as_json:
        echo_json(
            checkpoint.to_json()
            | {
                "params": experiment.to_json()["params"],
                "command": experiment.command,
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
        _show_checkpoint(checkpoint, experiment, show_all)


def _capture(found: Resolution) -> dict[str, object]:
    starts = found.experiment.starts
    return dict(starts[0].capture) if starts else {}


def _show_experiment(experiment: Experiment, found: Resolution, show_all: bool) -> None:
    capture = _capture(found)
    click.echo(f"experiment {click.style(experiment.id, fg='yellow')}")
    rows: list[list[Cell]] = []
    if experiment.name:
        rows.append(["name", experiment.name])
    if experiment.tags:
        rows.append(["tags", ", ".join(experiment.tags)])
    rows.append(["started", _time(experiment.created.timestamp())])
    status = experiment.status
    if experiment.exception and status == "failed":
        status_text = f"failed: {experiment.exception.splitlines()[0]}"
    else:
        status_text = status
    rows.append(["status", status_text])
    duration = experiment.duration
    if duration is not None:
        rows.append(["duration", format_seconds(duration.total_seconds())])
    rows.append(["command", experiment.command])
    rows.append(["author", f"{experiment.user} on {experiment.host}"])
    if capture.get("cwd"):
        rows.append(["folder", str(capture["cwd"])])
    if experiment.python_version:
        rows.append(["python", experiment.python_version])
    start = experiment.start
    rows.append(["files", f"{plural(start.file_count, 'file')} at the start, {format_bytes(start.size_bytes)}"])
    if experiment.primary_metric:
        rows.append(["primary", "{} ({})".format(*experiment.primary_metric)])
    echo_table(rows, indent="  ")
    if experiment.params:
        click.echo("\nparams")
        echo_table([[name, format_value(value, 80)] for name, value in experiment.params.items()], indent="  ")
    checkpoints = experiment.checkpoints
    if checkpoints:
        best = experiment.best()
        click.echo("\ncheckpoints")
        shown = checkpoints if show_all else checkpoints[-_CHECKPOINTS:]
        names = list(shown.metrics)
        table: list[list[Cell]] = [["", "step", *names]]
        for one in shown:
            mark = "best" if best and best.id == one.id else ""
            values = [format_value(one.metrics[name], 12) if name in one.metrics else "" for name in names]
            table.append([(one.short_id, "yellow"), str(one.step), *values, (mark, "green")])
        echo_table(table, indent="  ")
        if len(shown) < len(checkpoints):
            click.echo(f"  … {len(checkpoints) - len(shown)} before these, --all shows them")


def _show_checkpoint(checkpoint: Checkpoint, experiment: Experiment, show_all: bool) -> None:
    word = "start" if checkpoint.step is None and checkpoint.seq == 0 else "checkpoint"
    click.echo(f"{word} {click.style(checkpoint.id, fg='yellow')}")
    rows: list[list[Cell]] = []
    if checkpoint.step is not None:
        rows.append(["step", str(checkpoint.step)])
    name = f" {experiment.name}" if experiment.name else ""
    rows.append(["experiment", f"{experiment.short_id}{name}"])
    rows.append(["saved", _time(checkpoint.created.timestamp())])
    rows.append(["command", experiment.command])
    size = f"{format_bytes(checkpoint.size_bytes)}, {format_bytes(checkpoint.new_bytes)} new"
    rows.append(["files", f"{plural(checkpoint.file_count, 'file')}, {size}"])
    for what, paths in (("changed while saved", checkpoint.unstable), ("not saved", checkpoint.skipped)):
        if paths:
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            rows.append([what, ", ".join(quote_path(os.fsencode(path)) for path in paths[:5]) + more])
    echo_table(rows, indent="  ")
    for title, values in (("metrics", checkpoint.metrics), ("params", experiment.params)):
        if values:
            click.echo(f"\n{title}")
            goal = checkpoint.primary_metric if title == "metrics" else None
            echo_table(
                [
                    [
                        key,
                        repr(value) if isinstance(value, float) else format_value(value, 80),
                        goal[1] if goal and goal[0] == key else "",
                    ]
                    for key, value in values.items()
                ],
                indent="  ",
            )
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


def _show_path(repository: Repository, found: Resolution) -> None:
    """Write a file to stdout, or list a folder."""
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
        click.echo(objects.read(entry.object_id))
        return
    out = sys.stdout.buffer
    sys.stdout.flush()
    with open_file(objects, found.record.commit.tree, os.fsdecode(path)) as file:
        while data := file.read(1 << 20):
            out.write(data)
    out.flush()


def _time(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))} ({format_age(time.time() - seconds)})"
