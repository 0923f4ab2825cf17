"""`replicate ls`: what ran."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from replicate.cli.marks import Marks, mark_unpushed
from replicate.cli.options import StorePlace, json_option, open_history, store_option
from replicate.cli.render import (
    Cell,
    cell_text,
    cell_texts,
    echo_json,
    echo_table,
    first_line,
    status_cell,
    terminal_width,
)
from replicate.errors import InvalidInputError
from replicate.experiment import Experiment
from replicate.filters import Filter, is_known, remarks, sort_experiments, suggestion, value_of
from replicate.objects.ids import ObjectID
from replicate.summary import CheckpointSummary
from replicate.text import align_numbers, cut, format_age, format_value, plural, printable, widest

_COLUMN = 24
_NARROWER = (16, 12)
_METRICS = 3
_LESS_NEEDED = ("started", "host", "user", "latest")
_KEPT = 3
_NAMED = 3
_TITLES = {"created": "started", "step": "latest", "tag": "tags"}


@click.command()
@click.option("-f", "--filter", "filters", multiple=True, metavar="EXPR", help='Only what fulfils it, as "loss < 0.2"')
@click.option("-s", "--sort", metavar="NAME[-desc]", help="Sort; newest first by default")
@click.option("-n", "--number", type=click.IntRange(1), help="At most so many")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show all params, not only those that differ")
@click.option("-q", "--quiet", is_flag=True, help="Print whole ids only")
@json_option
@store_option
def command(
    filters: tuple[str, ...],
    sort: str | None,
    number: int | None,
    show_all: bool,
    quiet: bool,
    as_json: bool,
    store: StorePlace,
) -> int:
    """List experiments

    Those on this machine and in the repository; * marks what is not pushed yet. Exits with 1 when there is none.
    """
    if quiet and (as_json or show_all):
        raise click.UsageError("-q prints ids only; it goes with neither --json nor --all")
    conditions = [Filter.parse(text) for text in filters]
    repository, history = open_history(store)
    experiments = [Experiment(repository, one, repository.reporter) for one in history.summaries]
    wanted = [condition.name for condition in conditions]
    for remark in remarks(conditions, experiments):
        click.echo(printable(remark), err=True)
    if sort is not None:
        wanted.insert(0, sort.removesuffix("-desc").removesuffix("-asc"))
        _check_sort(experiments, wanted[0])
    experiments = [one for one in experiments if all(condition.matches(one) for condition in conditions)]
    experiments = sort_experiments(experiments, sort or "created-desc")[:number]
    marks = Marks(repository, history)
    if as_json:
        echo_json([one.to_json() | marks.json(one.summary.experiment_id) for one in experiments])
    elif quiet:
        for one in experiments:
            click.echo(one.id)
    elif experiments:
        _table(experiments, show_all, list(dict.fromkeys(wanted)), marks)
    else:
        click.echo("no experiments" + (" match" if filters else " yet"), err=True)
    return 0 if experiments else 1


def _check_sort(experiments: list[Experiment], name: str) -> None:
    """Refuse to sort by what no experiment has: the order would be an accident, and `-n 1` would take any."""
    if not experiments or is_known(experiments, name):
        return
    raise InvalidInputError(
        f"cannot sort by {name!r}: no experiment has it",
        hint=suggestion(experiments, name) or "-s takes a metric, a param, or created; add -desc to turn it round",
    )


def _table(experiments: list[Experiment], show_all: bool, wanted: list[str], marks: Marks) -> None:
    """Print a line for each; those that are not pushed are marked."""
    unpushed = marks.experiments
    params = _param_names(experiments, show_all)
    table = _columns(experiments, params, unpushed)
    _pin(table, experiments, wanted)
    dropped = _fit(table, keep=show_all)
    statuses = [column.name for column in table].index("status")
    notes: dict[int, tuple[int, Cell]] = {}
    for number, one in enumerate(experiments):
        if one.status == "failed" and one.exception:
            notes[number + 1] = (statuses, (first_line(one.exception), "red"))
    rows = zip(*(column.shown for column in table), strict=True)
    echo_table(list(rows), notes=notes, fit=not show_all)
    tail = [marks.legend] if any(one.summary.experiment_id in unpushed for one in experiments) else []
    tail.append(plural(len(experiments), "experiment"))
    if dropped:
        more = f" and {len(dropped) - _NAMED:,} more" if len(dropped) > _NAMED else ""
        tail.append(f"no room for {', '.join(dropped[:_NAMED])}{more}: --all shows all")
    elif len(experiments) > 1 and len(params) < len({name for one in experiments for name in one.params}):
        tail.append("params that differ are shown, --all shows the rest")
    forked = [one.short_id for one in experiments if one.is_forked]
    if forked:
        tail.append(f"{len(forked):,} forked, see `replicate log {forked[0]}`")
    click.echo(printable(" · ".join(tail)), err=True)


@dataclass
class _Column:
    name: str
    cells: list[Cell]
    is_param: bool = False
    most: int = _COLUMN
    is_pinned: bool = False

    @property
    def shown(self) -> list[Cell]:
        is_narrow = self.full_width <= self.most  # of most columns there is nothing to cut in 10,000 rows
        cells = self.cells if is_narrow else [_cut(cell, self.most) for cell in self.cells]
        return [cut(printable(self.name.upper()), self.most), *cells]

    @functools.cached_property
    def full_width(self) -> int:
        return widest(cell_texts([self.name, *self.cells]))

    @property
    def width(self) -> int:
        return min(self.full_width, self.most)


def _columns(experiments: list[Experiment], params: list[str], unpushed: Collection[ObjectID]) -> list[_Column]:
    now = time.time()
    bests = [one.summary.best for one in experiments]
    latest = [one.summary.latest for one in experiments]
    table = [_Column("experiment", [mark_unpushed(one.summary.experiment_id, unpushed) for one in experiments])]
    if any(one.name for one in experiments):
        table.append(_Column("name", [one.name or "" for one in experiments]))
    table.append(_Column("started", [format_age(now - one.created.timestamp()) for one in experiments]))
    table.append(_Column("status", [_status(one) for one in experiments]))
    for name, values in (("host", [one.host for one in experiments]), ("user", [one.user for one in experiments])):
        if len(set(values)) > 1:
            table.append(_Column(name, list(values)))
    if any(one.tags for one in experiments):
        table.append(_Column("tags", [", ".join(one.tags) for one in experiments]))
    table += [_Column(name, _cells([one.params for one in experiments], name), is_param=True) for name in params]
    if any(bests):
        table.append(_Column("best", [_step(best) for best in bests]))
        metrics = [found.metrics if (found := one.summary.best or one.summary.latest) else {} for one in experiments]
        for name in dict.fromkeys(one.primary_metric[0] for one in experiments if one.primary_metric):
            table.append(_Column(name, _cells(metrics, name)))
    if any(latest):
        table.append(_Column("latest", [_step(one) for one in latest]))
    if not any(bests):
        metrics = [one.metrics if one else {} for one in latest]
        for name in list(dict.fromkeys(name for one in metrics for name in one))[:_METRICS]:
            table.append(_Column(name, _cells(metrics, name)))
    return table


def _pin(table: list[_Column], experiments: list[Experiment], wanted: list[str]) -> None:
    """Keep the columns of what experiments were filtered or sorted by; params and other values come first."""
    at = [column.name for column in table].index("status") + 1
    for name in wanted:
        found = [column for column in table if column.name == _TITLES.get(name, name)]
        column = min(found, key=lambda one: one.is_param, default=None)  # a name means a param last
        if column is None:
            values = [{} if (value := value_of(one, name)) is None else {name: value} for one in experiments]
            if not any(values):
                continue
            column = _Column(name, _cells(values, name))
        elif column.is_param:
            table.remove(column)
        column.is_pinned = True
        if column not in table:
            table.insert(at, column)
            at += 1


def _fit(table: list[_Column], *, keep: bool) -> list[str]:
    """Make a table fit the terminal: cut wide params, then drop the widest ones unless all are to be kept.

    Returns the names of the columns that were dropped. Of short values more fit, and they tell experiments apart: the
    shortest params are dropped after all else.
    """
    limit = terminal_width()
    if limit is None:
        return []

    def is_too_wide() -> bool:
        return sum(column.width + 2 for column in table) - 2 > limit

    params = [column for column in table if column.is_param]
    for width in _NARROWER:
        for column in params:
            if is_too_wide():
                column.most = width
    dropped = []
    params = sorted((column for column in params if not column.is_pinned), key=lambda column: column.width)
    others = {column.name: column for column in table if not column.is_param and not column.is_pinned}
    droppable = [*params[:_KEPT], *(others[name] for name in _LESS_NEEDED if name in others), *params[_KEPT:]]
    droppable += [others["tags"]] if "tags" in others else []
    while droppable and not keep and is_too_wide():
        column = droppable.pop()
        table.remove(column)
        dropped.append(column.name)
    return dropped


def _param_names(experiments: list[Experiment], show_all: bool) -> list[str]:
    names = sorted({name for one in experiments for name in one.params})
    if show_all:
        return names
    if len(experiments) == 1:
        return [name for name in names if not isinstance(experiments[0].params[name], list | dict)]
    differing = []
    for name in names:
        values = [one.params[name] for one in experiments if name in one.params]
        if not any(isinstance(value, list | dict) for value in values) and any(value != values[0] for value in values):
            differing.append(name)
    return differing


def _cells(values: Sequence[Mapping[str, Any]], name: str) -> list[Cell]:
    return list(align_numbers([format_value(one[name], _COLUMN) if name in one else "" for one in values]))


def _cut(cell: Cell, width: int) -> Cell:
    text = cut(cell_text(cell), width)
    return text if isinstance(cell, str) else (text, cell[1])


def _status(experiment: Experiment) -> Cell:
    """Return how an experiment goes, and that it is forked: it has no one latest checkpoint then."""
    cell = status_cell(experiment)
    fork = ", forked" if experiment.is_forked else ""
    return cell + fork if isinstance(cell, str) else (cell[0] + fork, cell[1])


def _step(checkpoint: CheckpointSummary | None) -> str:
    return f"step {checkpoint.step}" if checkpoint else ""
