"""`replicate undo`: bring back what was removed."""

from __future__ import annotations

import time
from typing import Any

import click

from replicate.cli.options import (
    StorePlace,
    describe,
    directory_option,
    json_option,
    open_history,
    push_soon,
    quiet_option,
)
from replicate.cli.render import Cell, echo_json, echo_table
from replicate.console import ConsoleReporter
from replicate.errors import RevisionNotFoundError
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.lifecycle import take_back, tombstones_on
from replicate.objects.ids import ObjectID
from replicate.presenting import json_time, to_datetime
from replicate.refs import CommitRecord, TombstoneRecord
from replicate.revisions import label, resolve_hidden, resolve_itself
from replicate.text import format_age, plural

_SHOWN = 5


@click.command()
@click.argument("revisions", metavar="[REVISION]...", nargs=-1)
@quiet_option
@json_option
@directory_option
def command(revisions: tuple[str, ...], quiet: bool, as_json: bool, directory: str) -> int:
    """Bring back what was removed, or list what can be

    An experiment alone means all that was removed of it. What was removed in one go with a checkpoint comes back with
    it. Without REVISION it lists, and exits with 1 when nothing is removed.
    """
    repository, history = open_history(StorePlace(directory))
    if not revisions:
        return _list(history, as_json=as_json)
    reporter = ConsoleReporter(quiet=quiet)
    found: dict[ObjectID, tuple[ExperimentHistory, dict[str, TombstoneRecord], set[ObjectID]]] = {}
    visible = []
    for revision in revisions:  # all are found before anything is brought back
        try:
            experiment, record = resolve_hidden(history, revision, describe=describe)
        except RevisionNotFoundError:
            if not _is_visible(history, revision):
                raise
            visible.append(revision)
            continue
        _, tombstones, asked = found.setdefault(experiment.experiment_id, (experiment, {}, set()))
        tombstones.update((one.name.record_hash, one) for one in tombstones_on(experiment, record))
        asked.update([record.commit_id] if record else experiment.commits)
    came_back: list[CommitRecord] = []
    for experiment, tombstones, asked in found.values():
        back = take_back(repository, experiment, list(tombstones.values()))
        _tell(reporter, experiment, back, asked)
        came_back += back
    if found:
        push_soon(repository)
    for revision in visible:
        reporter.notice(f"{revision} is not removed")
    if as_json:
        echo_json({"back": [one.commit_id.hex() for one in came_back]})
    return 0


def _is_visible(history: History, revision: str) -> bool:
    try:
        resolve_itself(history, revision)
    except RevisionNotFoundError:
        return False
    return True


def _tell(
    reporter: ConsoleReporter, experiment: ExperimentHistory, back: tuple[CommitRecord, ...], asked: set[ObjectID]
) -> None:
    short = experiment.experiment_id.short
    checkpoints = [one for one in back if not one.commit.is_root]
    if len(checkpoints) < len(back) and experiment.is_hidden:
        title = f"{short} {experiment.name}" if experiment.name else short
        line = f"brought back experiment {title} · {plural(len(checkpoints), 'checkpoint')}"
    elif len(checkpoints) > _SHOWN:
        line = f"brought back {plural(len(checkpoints), 'checkpoint')} of {short}"
    else:
        names = ", ".join(map(label, checkpoints))
        line = f"brought back {names} of {short}" if names else f"nothing of {short} came back: it was removed again"
    more = sum(one.commit_id not in asked for one in back)
    reporter.notice(line + (f" · {plural(more, 'commit')} of these had been removed with it" if more else ""))


def _list(history: History, *, as_json: bool) -> int:
    rows = [
        row
        for summary in (*history.hidden, *(one for one in history.summaries if one.removed))
        if (experiment := history.experiment(summary.experiment_id, hidden=True)) is not None
        for row in _removed(experiment)
    ]
    rows.sort(key=lambda row: -row[1].time_ns)
    if as_json:
        echo_json([_json(*row) for row in rows])
    elif rows:
        echo_table([_cells(*row) for row in rows], fit=True)
        click.echo("`replicate undo ID` brings it back; nothing is freed yet", err=True)
    else:
        click.echo("nothing is removed", err=True)
    return 0 if rows else 1


_Row = tuple[ExperimentHistory, TombstoneRecord, "CommitRecord | None"]


def _removed(experiment: ExperimentHistory) -> list[_Row]:
    """Return what is removed of an experiment: itself, or checkpoints; each with the removal that hid it first."""
    removals = sorted(experiment.tombstones, key=lambda one: one.time_ns)
    if experiment.is_hidden:
        whole = [one for one in removals if one.hides(experiment.root)] or removals
        return [(experiment, whole[0], None)]
    rows: list[_Row] = []
    for record in experiment.hidden:
        if not record.commit.is_root:
            rows.append((experiment, next(iter(tombstones_on(experiment, record))), record))
    return rows


def _cells(experiment: ExperimentHistory, tombstone: TombstoneRecord, record: CommitRecord | None) -> list[Cell]:
    count = sum(not one.commit.is_root for one in experiment.hidden)
    short = experiment.experiment_id.short
    if record is None:
        what, of = f"experiment, {plural(count, 'checkpoint')}", experiment.name or ""
    else:
        what, of = f"step {record.commit.step}", f"of {short}{' ' + experiment.name if experiment.name else ''}"
    age = format_age(time.time() - tombstone.time_ns / 1e9)
    own = record.commit_id if record else experiment.experiment_id
    return [(own.short, "yellow"), what, of, f"removed {age} by {tombstone.author}"]


def _json(experiment: ExperimentHistory, tombstone: TombstoneRecord, record: CommitRecord | None) -> dict[str, Any]:
    return {
        "id": (record.commit_id if record else experiment.experiment_id).hex(),
        "kind": "checkpoint" if record else "experiment",
        "experiment": experiment.experiment_id.hex(),
        "name": experiment.name,
        "step": record.commit.step if record else None,
        "removed": json_time(to_datetime(tombstone.time_ns)),
        "removed_by": tombstone.author,
    }
