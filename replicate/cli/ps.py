"""`replicate ps`: what is running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from replicate.cli.options import StorePlace, json_option, open_history, store_option
from replicate.cli.render import Cell, echo_json, echo_table, first_line, status_cell
from replicate.experiment import Experiment
from replicate.experiment_history import ExperimentHistory
from replicate.presenting import json_time, to_datetime
from replicate.refs import CommitRecord, StartRecord
from replicate.repository import Repository
from replicate.summary import ExperimentSummary
from replicate.text import format_age

_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class _Row:
    """One session: of an experiment that runs, or the newest of one that ended."""

    experiment: Experiment
    start: StartRecord
    saved: CommitRecord | None
    is_running: bool
    is_removed: bool

    @property
    def status(self) -> str:
        status = "running" if self.is_running else self.experiment.status
        return f"{status}, removed" if self.is_removed else status

    @property
    def started_ns(self) -> int:
        return self.start.time_ns

    def fact(self, key: str) -> str:
        value = self.start.capture.get(key)
        return "" if value is None else str(value)


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="Show also what ended within the last day")
@json_option
@store_option
def command(show_all: bool, as_json: bool, store: StorePlace) -> int:
    """List what is running

    A line for every process that writes to an experiment: on this machine, or on another whose heartbeat is younger
    than two minutes. Exits with 1 when there is none.
    """
    repository, history = open_history(store)
    now = time.time_ns()
    rows: list[_Row] = []
    for one in (*history.summaries, *history.hidden):
        running = _sessions(repository, one, now, show_all)
        if running or (running is not None and not one.is_hidden):
            rows += _rows(repository, history.experiment(one.experiment_id, hidden=True), running)
    rows.sort(key=lambda row: (not row.is_running, -row.started_ns))
    if as_json:
        echo_json([_json(row) for row in rows])
    elif rows:
        _table(rows, now)
    else:
        click.echo("nothing is running" + (", and nothing ended within the last day" if show_all else ""), err=True)
    return 0 if rows else 1


def _sessions(repository: Repository, summary: ExperimentSummary, now_ns: int, show_all: bool) -> set[str] | None:
    """Return the sessions of an experiment that run; None when it is not listed. Its summary alone tells."""
    running = {one.session for one in repository.liveness.running(summary)}
    saved_ns = summary.latest.time_ns if summary.latest else 0
    last_ns = max(summary.ended_ns, summary.time_ns, saved_ns, *(one.time_ns for one in summary.sessions))
    return running if running or (show_all and now_ns - last_ns < _DAY_NS) else None


def _rows(repository: Repository, known: ExperimentHistory | None, running: set[str]) -> Iterator[_Row]:
    """Yield the sessions of an experiment that run; of one that does not the newest."""
    if known is None:
        return
    experiment = Experiment(repository, known, repository.reporter)
    for start in [one for one in known.starts if one.name.session in running] or known.starts[-1:]:
        own = [one for one in known.checkpoints if one.name.session == start.name.session]
        yield _Row(experiment, start, own[-1] if own else None, start.name.session in running, known.is_hidden)


def _status(row: _Row) -> Cell:
    cell = status_cell(row.experiment)
    return row.status, cell[1] if isinstance(cell, tuple) else ""


def _table(rows: list[_Row], now_ns: int) -> None:
    """Print the rows; columns without anything in them are left out."""
    columns: dict[str, list[Cell]] = {
        "EXPERIMENT": [(row.experiment.short_id, "yellow") for row in rows],
        "NAME": [row.experiment.name or "" for row in rows],
        "STATUS": [] if all(row.status == "running" for row in rows) else [_status(row) for row in rows],
        "HOST": [row.fact("host") for row in rows],
        "PID": [row.fact("pid") for row in rows],
        "STARTED": [_age(row.started_ns, now_ns) for row in rows],
        "STEP": [str(row.saved.commit.step) if row.saved else "" for row in rows],
        "SAVED": [_age(row.saved.commit.time_ns, now_ns) if row.saved else "" for row in rows],
        "COMMAND": [row.fact("command") for row in rows],
    }
    shown = {title: cells for title, cells in columns.items() if any(cell != "" for cell in cells)}
    status = list(shown).index("STATUS") if "STATUS" in shown else 0
    notes: dict[int, tuple[int, Cell]] = {
        number: (status, (first_line(row.experiment.exception), "red"))
        for number, row in enumerate(rows, 1)
        if row.status == "failed" and row.experiment.exception
    }
    table: list[list[Cell]] = [list(shown), *(list(cells) for cells in zip(*shown.values(), strict=True))]
    echo_table(table, notes=notes, fit=True)


def _age(time_ns: int, now_ns: int) -> str:
    return format_age((now_ns - time_ns) / 1e9)


def _json(row: _Row) -> dict[str, Any]:
    pid = row.start.capture.get("pid")
    return {
        "id": row.experiment.id,
        "name": row.experiment.name,
        "status": row.status,
        "exception": row.experiment.exception if row.status == "failed" else None,
        "session": row.start.name.session,
        "host": row.fact("host"),
        "user": row.fact("user"),
        "pid": pid if isinstance(pid, int) else None,
        "started": json_time(to_datetime(row.started_ns)),
        "step": row.saved.commit.step if row.saved else None,
        "saved": json_time(to_datetime(row.saved.commit.time_ns)) if row.saved else None,
        "command": row.fact("command"),
    }
