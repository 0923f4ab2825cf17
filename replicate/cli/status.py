"""`replicate status`: where checkpoints go, and what the worktree has that the last one does not."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from replicate.background import Outage, read_outage
from replicate.cli.options import directory_option, json_option, open_history
from replicate.cli.render import Cell, cell_text, echo_json, echo_table, json_path, name_commit, quote_path
from replicate.comparing import compare_worktree
from replicate.config import mode
from replicate.console import ConsoleReporter
from replicate.errors import InvalidInputError
from replicate.evicted import EvictedPack, read_evicted
from replicate.experiment import status
from replicate.experiment_history import ExperimentHistory
from replicate.presenting import json_time, to_datetime
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.revisions import label
from replicate.summary import ExperimentSummary
from replicate.text import format_age, format_bytes, plural

if TYPE_CHECKING:
    from replicate.sync.pending import Pending

_SHOWN = 50


@click.command()
@json_option
@directory_option
def command(as_json: bool, directory: str) -> None:
    """Show where checkpoints go and what changed in the worktree

    M modified, A not in the commit yet, D deleted; compared with the commit that was saved or checked out last.
    """
    repository, history = open_history(directory)
    head = repository.read_head()
    changes = compare_worktree(repository, head) if head else []
    running = [one for one in history.summaries if status(one, repository) == "running"]
    project = repository.project
    elsewhere = _look_elsewhere(repository) if project.repository else None
    evicted = read_evicted(project.store)
    if as_json:
        outage = read_outage(project)
        echo_json(
            {
                "project": project.root,
                "store": project.store,
                "repository": elsewhere[0] if elsewhere else project.store,
                "pending": _pending_json(elsewhere[1]) if elsewhere else None,
                "outage": _outage_json(outage) if outage else None,
                "evicted": {"packs": len(evicted), "bytes": sum(one.size_bytes for one in evicted)},
                "experiments": len(history.summaries),
                "running": [one.experiment_id.hex() for one in running],
                "head": head.commit_id.hex() if head else None,
                "changes": [{"change": change.letter, **json_path(change.path)} for change in changes],
            }
        )
        return
    held = f"{_shown(project.store)}, {plural(len(history.summaries), 'experiment')}"
    rows: list[list[Cell]] = [["store", held]]
    if elsewhere:
        rows.append(["repository", f"{elsewhere[0]}, {_describe(elsewhere[1])}"])
        rows += [["", line] for line in (*_offline(), *_outage(read_outage(project)))]
    rows += [["", line] for line in _partial(evicted, elsewhere[0] if elsewhere else "")]
    if running:
        rows.append(["running", ", ".join(_title(one) for one in running)])
    if head is None:
        rows.append(["worktree", "not saved or checked out here yet" if history.summaries else "not saved yet"])
    else:
        of_head = history.experiment(head.name.experiment, hidden=True)
        name = "".join(map(cell_text, name_commit(of_head, head))) if of_head else label(head)
        rows.append(["worktree", f"{name}, {'with changes' if changes else 'no changes'}"])
        rows += [["", line] for line in _removed(of_head, head)]
    echo_table(rows)
    indent = " " * (max(len(cell_text(row[0])) for row in rows) + 2)
    for change in changes[:_SHOWN]:
        click.echo(f"{indent}{change.letter}  {quote_path(change.path)}")
    if len(changes) > _SHOWN:
        click.echo(f"{indent}… {len(changes) - _SHOWN:,} more, --json lists all")


def _look_elsewhere(repository: Repository) -> tuple[str, Pending]:
    """Return the place of the repository, and what is not pushed there; no request is made.

    Where `replicate.yaml` names none that can be, that is told, and nothing counts as pushed.
    """
    from replicate.cli.syncing import open_other
    from replicate.sync.pending import pending
    from replicate.sync.transfer import place_of

    try:
        place = place_of(open_other(repository.project, None, repository.host))
    except InvalidInputError as exc:
        ConsoleReporter().warn(exc.message + (f"\nhint: {exc.hint}" if exc.hint else ""))
        place = repository.project.repository
    return place, pending(repository, place)


def _describe(pending: Pending) -> str:
    """Return: to push: 2 checkpoints (8.4 MB)."""
    if not pending.records:
        return "everything pushed, as far as is known here"
    what = [plural(pending.experiments, "experiment")] if pending.experiments else []
    what += [plural(pending.checkpoints, "checkpoint")] if pending.checkpoints else []
    size = f" ({format_bytes(pending.size_bytes)})" if pending.size_bytes else ""
    return f"to push: {', '.join(what) or plural(pending.records, 'record')}{size}"


def _pending_json(pending: Pending) -> dict[str, int]:
    return {
        "experiments": pending.experiments,
        "checkpoints": pending.checkpoints,
        "records": pending.records,
        "bytes": pending.size_bytes,
    }


def _outage_json(outage: Outage) -> dict[str, str]:
    return {"since": json_time(to_datetime(outage.since_ns)), "message": outage.message, "hint": outage.hint}


def _offline() -> list[str]:
    return ["offline: nothing is pushed until REPLICATE_MODE is unset"] if mode() == "offline" else []


def _outage(outage: Outage | None) -> list[str]:
    if outage is None:
        return []
    since = format_age(time.time() - outage.since_ns / 1e9)
    return [f"push fails, first {since}: {outage.message}", *([f"hint: {outage.hint}"] if outage.hint else [])]


def _partial(evicted: Sequence[EvictedPack], repository: str) -> list[str]:
    """Return what is told of packs that were evicted; projects that share a store may have several repositories."""
    told = []
    for place in sorted({one.place for one in evicted}):
        sizes = [one.size_bytes for one in evicted if one.place == place]
        where = "there" if place == repository else f"in {place}"
        packs = plural(len(sizes), "pack")
        told.append(f"this machine's store is partial: {format_bytes(sum(sizes))} in {packs} lie only {where}")
    return told


def _removed(experiment: ExperimentHistory | None, head: CommitRecord) -> list[str]:
    """Return what is to be told of a commit that is in no list any more."""
    if experiment is None:
        return ["its experiment is incomplete: the start is not in the store"]
    if not experiment.hides(head):
        return []
    what, short = ("experiment", experiment.experiment_id) if experiment.is_hidden else ("checkpoint", head.commit_id)
    return [f"the {what} was removed, `replicate undo {short.short}` brings it back"]


def _title(experiment: ExperimentSummary) -> str:
    name = experiment.name
    return experiment.experiment_id.short + (f" {name}" if name else "")


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
