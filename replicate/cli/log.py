"""`replicate log`: the history of checkpoints."""

from __future__ import annotations

import time

import click

from replicate.checkpoints import Checkpoint
from replicate.cli.options import describe, directory_option, json_option, open_history
from replicate.cli.render import Cell, echo_json, echo_table
from replicate.experiment import Experiment
from replicate.history import ExperimentHistory, History
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.revisions import resolve
from replicate.text import format_age, format_bytes, format_value, plural

_METRICS = 6


@click.command()
@click.argument("revision", required=False)
@click.option("-n", "--number", type=click.IntRange(1), help="At most so many checkpoints")
@json_option
@directory_option
def command(revision: str | None, number: int | None, as_json: bool, directory: str) -> int:
    """Show the history of checkpoints, newest first

    Of one experiment, given its id or name (or a checkpoint, from which it goes back); of all by time without one.
    Exits with 1 when there is none.
    """
    repository, history = open_history(directory)
    if revision is None:
        records = [record for record in history.records() if not record.commit.is_root]
        records.sort(key=lambda record: (record.commit.time_ns, record.commit.seq), reverse=True)
        records = records[:number]
        if as_json:
            echo_json([Checkpoint(repository, record, repository.reporter).to_json() for record in records])
        else:
            _print_all(history, records)
        return 0 if records else 1
    found = resolve(history, revision, plumbing=True, describe=describe)
    experiment = found.experiment
    records = list(experiment.checkpoints) if found.is_whole_experiment else _line(experiment, found.record)
    newest = list(reversed(records))[:number]
    if as_json:
        echo_json([Checkpoint(repository, record, repository.reporter).to_json() for record in newest])
    else:
        _print_one(repository, experiment, newest, complete=len(newest) == len(records))
    return 0


def _line(experiment: ExperimentHistory, record: CommitRecord) -> list[CommitRecord]:
    """Return a checkpoint and those that it continues, oldest first."""
    by_id = {one.commit_id: one for one in experiment.checkpoints}
    line = []
    at: CommitRecord | None = None if record.commit.is_root else record
    while at is not None:
        line.append(at)
        at = by_id.get(at.commit.parents[0])
    return line[::-1]


def _print_all(history: History, records: list[CommitRecord]) -> None:
    if not records:
        click.echo("no checkpoints yet", err=True)
        return
    now = time.time()
    rows = []
    for record in records:
        experiment = history.experiment_of(record)
        name = experiment.root.commit.name
        of = experiment.experiment_id.short + (f" {name}" if name else "")
        rows.append(_row(record, experiment, now, ["of " + of]))
    echo_table(rows)


def _print_one(
    repository: Repository, history: ExperimentHistory, records: list[CommitRecord], *, complete: bool
) -> None:
    now = time.time()
    experiment = Experiment(repository, history, repository.reporter)
    name = f"  {experiment.name}" if experiment.name else ""
    age = format_age(now - experiment.created.timestamp())
    click.echo(
        f"experiment {click.style(experiment.short_id, fg='yellow')}{name}  {experiment.status}, started {age}"
        f" by {experiment.user} on {experiment.host}"
    )
    if experiment.exception and experiment.status == "failed":
        click.echo(click.style(experiment.exception.splitlines()[0], fg="red"))
    python = f"    python {experiment.python_version}" if experiment.python_version else ""
    click.echo(f"{experiment.command}{python}")
    if experiment.is_forked:
        heads = ", ".join(head.commit_id.short for head in history.heads)
        click.echo(f"forked: {plural(len(history.heads), 'head')}, {heads}")
    click.echo()
    rows = [_row(record, history, now, _marks(record, history)) for record in records]
    if complete:
        root = history.root
        files = plural(root.files, "file")
        rows.append([(root.commit_id.short, "yellow"), "start", age, files, format_bytes(root.bytes)])
        _echo_aligned(rows)
    else:
        _echo_aligned(rows)
        click.echo("  …")


def _echo_aligned(rows: list[list[Cell]]) -> None:
    echo_table(rows, indent="  ")


def _marks(record: CommitRecord, history: ExperimentHistory) -> list[str]:
    marks = []
    if history.best is record:
        marks.append("best")
    if len(history.heads) > 1 and record in history.heads:
        marks.append("head")
    if record.commit.unstable:
        marks.append("changed while saved: " + plural(record.commit.unstable.count, "file"))
    if record.commit.skipped:
        marks.append("not saved: " + plural(record.commit.skipped.count, "file"))
    return marks


def _row(record: CommitRecord, history: ExperimentHistory, now: float, marks: list[str]) -> list[Cell]:
    commit = record.commit
    names = list(commit.metrics)
    if history.primary_metric and history.primary_metric[0] in names:
        names.remove(history.primary_metric[0])
        names.insert(0, history.primary_metric[0])
    metrics = "  ".join(f"{name} {format_value(commit.metrics[name], 12)}" for name in names[:_METRICS])
    more = "  …" if len(names) > _METRICS else ""
    return [
        (record.commit_id.short, "yellow"),
        f"step {commit.step}",
        format_age(now - commit.time_ns / 1e9),
        metrics + more,
        format_bytes(record.bytes),
        f"{format_bytes(record.new_bytes)} new",
        ("  ".join(marks), "green" if "best" in marks else ""),
    ]
