"""`replicate log`: the history of checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click

from replicate.checkpoints import Checkpoint
from replicate.cli.marks import Marks, mark_unpushed
from replicate.cli.options import StorePlace, find_itself, json_option, open_history, store_option
from replicate.cli.render import (
    Cell,
    echo_json,
    echo_line,
    echo_table,
    first_line,
    status_cell,
    table_width,
    terminal_width,
)
from replicate.errors import InvalidInputError
from replicate.experiment import Experiment
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.presenting import describe_new
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.text import align_numbers, format_age, format_bytes, format_value, plural

_METRICS = 6
_SIZES = 2  # in a row's tail, after the age: all bytes, new bytes


@click.command()
@click.argument("revision", required=False)
@click.option("-n", "--number", type=click.IntRange(1), help="At most so many checkpoints")
@json_option
@store_option
def command(revision: str | None, number: int | None, as_json: bool, store: StorePlace) -> int:
    """Show the history of checkpoints, newest first

    Of one experiment, given its id or name (or a checkpoint, from which it goes back); of all by time without one.
    * marks what is not pushed yet. Exits with 1 when there is none.
    """
    repository, history = open_history(store)
    marks = Marks(repository, history)
    if revision is None:
        records = history.newest_checkpoints(number)
        if as_json:
            echo_json([_json(repository, marks, history.experiment_of(record), record) for record in records])
        else:
            _print_all(history, marks, records)
        return 0 if records else 1
    found = find_itself(history, revision)
    if found.path is not None:
        raise InvalidInputError(
            f"{revision} names a file; log shows checkpoints", hint="leave out what follows the colon"
        )
    experiment = found.experiment
    records = list(experiment.checkpoints) if found.is_whole_experiment else _line(experiment, found.record)
    newest = list(reversed(records))[:number]
    if as_json:
        echo_json([_json(repository, marks, experiment, record) for record in newest])
    else:
        _print_one(repository, experiment, newest, marks, complete=len(newest) == len(records))
    return 0


def _json(repository: Repository, marks: Marks, experiment: ExperimentHistory, record: CommitRecord) -> dict[str, Any]:
    shown = Checkpoint(repository, record, repository.reporter, experiment.tags_of(record.commit_id)).to_json()
    return shown | marks.json(experiment.experiment_id, record.commit_id)


def _line(experiment: ExperimentHistory, record: CommitRecord) -> list[CommitRecord]:
    """Return a checkpoint and those that it continues, oldest first."""
    line = []
    at: CommitRecord | None = record
    while at is not None and not at.commit.is_root:
        line.append(at)
        at = experiment.before(at)
    return line[::-1]


def _print_all(history: History, marks: Marks, records: list[CommitRecord]) -> None:
    if not records:
        click.echo("no checkpoints yet", err=True)
        return
    heads: list[list[Cell]] = []
    metrics = []
    is_marked = False
    for record, texts in zip(records, _metrics(records), strict=True):
        experiment = history.experiment_of(record)
        name = experiment.name
        of = f"of {experiment.experiment_id.short}" + (f" {name}" if name else "")
        unpushed = marks.commits(record.name.experiment)
        is_marked |= record.commit_id in unpushed
        heads.append([mark_unpushed(record.commit_id, unpushed), _step(record), of])
        metrics.append([texts[one] for one in _primary_first(texts, experiment)])
    _echo_rows(heads, metrics, [_tail(record) for record in records])
    if is_marked:
        click.echo(marks.legend, err=True)


def _print_one(
    repository: Repository,
    history: ExperimentHistory,
    records: list[CommitRecord],
    marks: Marks,
    *,
    complete: bool,
) -> None:
    unpushed = marks.commits(history.experiment_id)
    _print_title(Experiment(repository, history, repository.reporter), history)
    texts = _metrics(records)
    names = _primary_first({name for one in texts for name in one}, history)
    heads: list[list[Cell]] = [[mark_unpushed(record.commit_id, unpushed), _step(record)] for record in records]
    metrics = [[one.get(name, "") for name in names] for one in texts]
    tails = [[*_tail(record), _marks(record, history, records)] for record in records]
    if complete:
        heads.append([mark_unpushed(history.root.commit_id, unpushed), "start"])
        metrics.append([])
        tails.append(_tail(history.root))
    _echo_rows(heads, metrics, tails, indent="  ")
    if not complete:
        click.echo("  …")
    if any(record.commit_id in unpushed for record in (records if not complete else [*records, history.root])):
        click.echo(marks.legend, err=True)


def _print_title(experiment: Experiment, history: ExperimentHistory) -> None:
    title: list[Cell] = [
        "experiment ",
        (experiment.short_id, "yellow"),
        f"  {experiment.name}" if experiment.name else "",
    ]
    title += ["  ", status_cell(experiment)]
    age = format_age(time.time() - experiment.created.timestamp())
    title.append(f", started {age} by {experiment.user} on {experiment.host}")
    if experiment.python_version:
        title.append(f", python {experiment.python_version}")
    echo_line(title, fit=True)
    if experiment.exception and experiment.status == "failed":
        echo_line([(first_line(experiment.exception), "red")], fit=True)
    echo_line([experiment.command], fit=True)
    if experiment.tags:
        echo_line([f"tags: {', '.join(experiment.tags)}"], fit=True)
    if experiment.is_forked:
        echo_line(
            [f"forked: {plural(len(history.heads), 'head')}, {', '.join(one.commit_id.short for one in history.heads)}"]
        )
    click.echo()


def _echo_rows(heads: list[list[Cell]], metrics: list[list[str]], tails: list[list[Cell]], indent: str = "") -> None:
    """Print rows of three parts as the terminal has room for them.

    First both sizes are left out, then metrics from the last, with `…` for those left out, then the age. One is kept.
    """
    limit = terminal_width()
    most = max((len(one) for one in metrics), default=0)
    least = min(most, 1)
    forms = [(min(most, _METRICS), _SIZES + 1)]
    forms += [(count, 1) for count in range(min(most, _METRICS), least - 1, -1)]
    forms.append((least, 0))
    for count, right in forms:
        rows = []
        for head, values, tail in zip(heads, metrics, tails, strict=True):
            shown: list[Cell] = [*values[:count], *[""] * (count - len(values))]
            more = ["…" if any(values[count:]) else ""] if count < most else []
            rows.append([*head, *shown, *more, *tail[:right], *tail[_SIZES + 1 :]])
        if limit is None or table_width(rows, indent) <= limit:
            break
    first = len(heads[0]) + count + (count < most) if rows else 0
    echo_table(rows, right=frozenset(range(first, first + right)), indent=indent, fit=True)


def _metrics(records: list[CommitRecord]) -> list[dict[str, str]]:
    """Return every record's metrics as text by name, the numbers of one name with their points in line."""
    shown: list[dict[str, str]] = [{} for _ in records]
    for name in dict.fromkeys(name for record in records for name in record.commit.metrics):
        having = [number for number, record in enumerate(records) if name in record.commit.metrics]
        texts = align_numbers([format_value(records[number].commit.metrics[name], 12) for number in having])
        for number, text in zip(having, texts, strict=True):
            shown[number][name] = f"{name} {text}"
    return shown


def _primary_first(names: Iterable[str], history: ExperimentHistory) -> list[str]:
    primary = history.primary_metric[0] if history.primary_metric else None
    return sorted(names, key=lambda name: (name != primary, name))


def _step(record: CommitRecord) -> str:
    return f"step {record.commit.step}"


def _tail(record: CommitRecord) -> list[Cell]:
    new = plural(record.files, "file") if record.commit.is_root else describe_new(record)
    return [format_age(time.time() - record.commit.time_ns / 1e9), format_bytes(record.bytes), new]


def _marks(record: CommitRecord, history: ExperimentHistory, newest: list[CommitRecord]) -> Cell:
    marks = []
    if history.best is record:
        marks.append("best")
    marks += history.tags_of(record.commit_id)
    if len(history.heads) > 1:
        below = [*newest, history.root][newest.index(record) + 1]
        if record.commit.parents[0] != below.commit_id:
            marks.append(f"after {record.commit.parents[0].short}")
    if record.commit.unstable:
        marks.append("changed while saved: " + plural(record.commit.unstable.count, "file"))
    if record.commit.skipped:
        marks.append("not saved: " + plural(record.commit.skipped.count, "file"))
    return "  ".join(marks), "green" if history.best is record else ""
