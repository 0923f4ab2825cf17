"""`replicate ls`: what ran."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click

from replicate.checkpoints import Checkpoint
from replicate.cli.options import directory_option, json_option, open_history
from replicate.cli.render import Cell, cell_text, echo_json, echo_table, terminal_width
from replicate.experiment import Experiment
from replicate.filters import Filter, sort_experiments
from replicate.text import format_age, format_value, plural

_COLUMN = 24


@click.command()
@click.option("-f", "--filter", "filters", multiple=True, metavar="EXPR", help='Only what fulfils it, as "loss < 0.2"')
@click.option("-s", "--sort", default="created-desc", metavar="NAME[-desc]", help="Sort; newest first by default")
@click.option("-n", "--number", type=click.IntRange(1), help="At most so many")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show all params, not only those that differ")
@click.option("-q", "--quiet", is_flag=True, help="Print whole ids only")
@json_option
@directory_option
def command(
    filters: tuple[str, ...],
    sort: str,
    number: int | None,
    show_all: bool,
    quiet: bool,
    as_json: bool,
    directory: str,
) -> int:
    """List experiments

    Exits with 1 when there is none.
    """
    if quiet and (as_json or show_all):
        raise click.UsageError("-q prints ids only; it goes with neither --json nor --all")
    conditions = [Filter.parse(text) for text in filters]
    repository, history = open_history(directory)
    experiments = [Experiment(repository, one, repository.reporter) for one in history.experiments]
    experiments = [one for one in experiments if all(condition.matches(one) for condition in conditions)]
    experiments = sort_experiments(experiments, sort)[:number]
    if as_json:
        echo_json([one.to_json() for one in experiments])
    elif quiet:
        for one in experiments:
            click.echo(one.id)
    elif experiments:
        _table(experiments, show_all)
    else:
        click.echo("no experiments" + (" match" if filters else " yet"), err=True)
    return 0 if experiments else 1


def _table(experiments: list[Experiment], show_all: bool) -> None:
    columns = _columns(experiments, _param_names(experiments, show_all))
    hidden = _fit(columns)
    statuses = [column.head for column in columns].index("STATUS")
    rows: list[list[Cell]] = [[column.head for column in columns]]
    notes: dict[int, tuple[int, str]] = {}
    for number, one in enumerate(experiments):
        rows.append([column.cells[number] for column in columns])
        if one.status == "failed" and one.exception:
            notes[number + 1] = (statuses, click.style(one.exception.splitlines()[0][:120], fg="red"))
    echo_table(rows, notes=notes)
    tail = [plural(len(experiments), "experiment")]
    if hidden:
        tail.append(f"{plural(hidden, 'param')} more, --all shows them")
    elif not show_all and len(experiments) > 1:
        tail.append("params that differ are shown, --all shows the rest")
    forks = sum(one.is_forked for one in experiments)
    if forks:
        tail.append(f"{forks} with a fork, which `replicate log` shows")
    click.echo(" · ".join(tail), err=True)


@dataclass(slots=True)
class _Column:
    head: str
    cells: list[Cell]
    is_param: bool = False


def _columns(experiments: list[Experiment], params: list[str]) -> list[_Column]:
    now = time.time()
    bests = [one.best() for one in experiments]
    columns = [_Column("EXPERIMENT", [(one.short_id, "yellow") for one in experiments])]
    if any(one.name for one in experiments):
        columns.append(_Column("NAME", [one.name or "" for one in experiments]))
    columns.append(_Column("STARTED", [format_age(now - one.created.timestamp()) for one in experiments]))
    columns.append(_Column("STATUS", [_status(one) for one in experiments]))
    for head, values in (("HOST", [one.host for one in experiments]), ("USER", [one.user for one in experiments])):
        if len(set(values)) > 1:
            columns.append(_Column(head, list(values)))
    columns += [_Column(name.upper(), [_cell(one.params, name) for one in experiments], True) for name in params]
    if any(bests):
        columns.append(_Column("BEST", [_step(best) for best in bests]))
        for name in dict.fromkeys(one.primary_metric[0] for one in experiments if one.primary_metric):
            columns.append(_Column(name.upper(), [_cell(best.metrics, name) if best else "" for best in bests]))
    columns.append(_Column("LATEST", [_step(one.latest()) for one in experiments]))
    return columns


def _fit(columns: list[_Column]) -> int:
    """Drop param columns from the right until the table fits the terminal; return how many went."""
    width = terminal_width()
    hidden = 0
    while width:
        total = (
            sum(2 + max(len(column.head), *(len(cell_text(cell)) for cell in column.cells)) for column in columns) - 2
        )
        params = [column for column in columns if column.is_param]
        if total <= width or not params:
            break
        columns.remove(params[-1])
        hidden += 1
    return hidden


def _param_names(experiments: list[Experiment], show_all: bool) -> list[str]:
    names = sorted({name for one in experiments for name in one.params})
    if show_all:
        return names
    if len(experiments) == 1:
        return [name for name in names if not isinstance(experiments[0].params[name], list | dict)]
    missing = object()
    return [
        name
        for name in names
        if any(one.params.get(name, missing) != experiments[0].params.get(name, missing) for one in experiments)
        and not any(isinstance(one.params.get(name), list | dict) for one in experiments)
    ]


def _status(experiment: Experiment) -> Cell:
    status = experiment.status
    return status, {"running": "green", "failed": "red"}.get(status, "")


def _cell(values: dict[str, Any], name: str) -> str:
    return format_value(values[name], _COLUMN) if name in values else ""


def _step(checkpoint: Checkpoint | None) -> str:
    return f"step {checkpoint.step}" if checkpoint else ""
