"""`replicate rm`: remove from every list what is not wanted any more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from replicate.cli.options import (
    StorePlace,
    describe,
    directory_option,
    find_itself,
    json_option,
    open_history,
    push_soon,
    quiet_option,
)
from replicate.cli.render import echo_json
from replicate.console import ConsoleReporter
from replicate.errors import ConflictError, InvalidInputError, RevisionNotFoundError
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.lifecycle import check_is_checkpoint, remove_checkpoints, remove_experiment
from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.revisions import label, resolve_hidden
from replicate.text import plural


@dataclass
class _Wanted:
    """What revisions name: whole experiments, checkpoints by experiment, and what was removed before."""

    whole: dict[ObjectID, ExperimentHistory] = field(default_factory=dict)
    single: dict[ObjectID, tuple[ExperimentHistory, dict[ObjectID, CommitRecord]]] = field(default_factory=dict)
    already: list[tuple[str, ObjectID]] = field(default_factory=list)

    @property
    def checkpoints(self) -> list[tuple[ExperimentHistory, Sequence[CommitRecord]]]:
        """Checkpoints by experiment, of those that are not removed as a whole."""
        return [
            (experiment, list(records.values()))
            for one, (experiment, records) in self.single.items()
            if one not in self.whole
        ]


@click.command()
@click.argument("revisions", metavar="REVISION...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Remove experiments that are running too, without asking")
@quiet_option
@json_option
@directory_option
def command(revisions: tuple[str, ...], force: bool, quiet: bool, as_json: bool, directory: str) -> None:
    """Remove experiments or checkpoints from every list; `undo` brings them back

    An experiment alone means all of it. Nothing is deleted, and no space is freed yet. What a running experiment
    saves after it was removed is visible.
    """
    repository, history = open_history(StorePlace(directory))
    reporter = ConsoleReporter(quiet=quiet)
    wanted = _Wanted()
    for revision in revisions:  # all are found before anything is removed
        _find(history, revision, wanted, quiet=quiet)
    for experiment in wanted.whole.values():
        _ask(repository, experiment, force=force)
    for experiment in wanted.whole.values():
        remove_experiment(repository, experiment, force=True)
        title = f"{experiment.experiment_id.short}{' ' + experiment.name if experiment.name else ''}"
        count = plural(len(experiment.checkpoints), "checkpoint")
        reporter.notice(f"removed experiment {title} · {count} · undo with `replicate undo {_short(experiment)}`")
    for experiment, records in wanted.checkpoints:
        remove_checkpoints(repository, experiment, records)
        for record in records:
            short = record.commit_id.short
            of = _short(experiment)
            reporter.notice(f"removed checkpoint {label(record)} of {of} · undo with `replicate undo {short}`")
    for text, _ in wanted.already:
        reporter.notice(f"{text} is removed already; `replicate undo {text}` brings it back")
    if wanted.whole or wanted.single:
        push_soon(repository)
        reporter.notice("nothing is freed yet")
    if as_json:
        echo_json(
            {
                "experiments": [one.hex() for one in wanted.whole],
                "checkpoints": [record.commit_id.hex() for _, records in wanted.checkpoints for record in records],
                "already": [one.hex() for _, one in wanted.already],
            }
        )


def _short(experiment: ExperimentHistory) -> str:
    return experiment.experiment_id.short


def _find(history: History, revision: str, wanted: _Wanted, *, quiet: bool) -> None:
    """Add what a revision names; refuse the start of an experiment, and files."""
    try:
        found = find_itself(history, revision, quiet=quiet)
    except RevisionNotFoundError as missing:
        try:
            experiment, record = resolve_hidden(history, revision, describe=describe)
        except RevisionNotFoundError:
            raise missing from None
        wanted.already.append((revision, record.commit_id if record else experiment.experiment_id))
        return
    if found.path is not None:
        raise InvalidInputError(
            f"{revision} names a file; a checkpoint is removed as a whole", hint="leave out what follows the colon"
        )
    experiment = found.experiment
    if found.is_whole_experiment:
        wanted.whole[experiment.experiment_id] = experiment
    else:
        check_is_checkpoint(found.record)
        _, records = wanted.single.setdefault(experiment.experiment_id, (experiment, {}))
        records[found.record.commit_id] = found.record


def _ask(repository: Repository, experiment: ExperimentHistory, *, force: bool) -> None:
    """Ask about an experiment that is running; where nobody can answer, refuse."""
    if force or not repository.liveness.running(experiment.summary):
        return
    short = _short(experiment)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConflictError(
            f"experiment {short} is running; nothing was removed",
            hint="remove it all the same with -f; what it saves from then on stays visible",
        )
    question = f"experiment {short} is running, and what it saves from now on will be visible. Remove it?"
    if not click.confirm(question, err=True):
        raise ConflictError("nothing was removed")
