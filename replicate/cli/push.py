"""`replicate push`: copy experiments to another store."""

from __future__ import annotations

import functools
import os
import sys

import click

from replicate.background import OPTION, PipeReporter, note_outage
from replicate.cli.options import directory_option, json_option, open_repository, quiet_option
from replicate.cli.syncing import open_other, select, sync_options, tell
from replicate.console import ConsoleReporter
from replicate.errors import ReplicateError, StorageError
from replicate.objects.ids import ObjectID
from replicate.reporting import Reporter
from replicate.repository import Repository, open_elsewhere
from replicate.sync import Copied, create_store, push
from replicate.sync.evicting import evict_to_limit
from replicate.sync.transfer import place_of
from replicate.transport import LocalTransport, Transport

_BACKGROUND_JOBS = 4


@click.command()
@click.argument("revisions", metavar="[EXPERIMENT]...", nargs=-1)
@sync_options
@click.option("--create", is_flag=True, help="Make a store if the place is empty, and the bucket if there is none")
@click.option("--verify", is_flag=True, help="Do not rely on what was pushed before: look at what is there")
@click.option(OPTION, "in_background", is_flag=True, hidden=True, help="Push until the program at stdin ends")
@quiet_option
@json_option
@directory_option
def command(
    revisions: tuple[str, ...],
    place: str | None,
    dry_run: bool,
    jobs: int,
    create: bool,
    verify: bool,
    in_background: bool,
    quiet: bool,
    as_json: bool,
    directory: str,
) -> int:
    """Copy experiments to another store: `repository` in replicate.yaml, or -R URL

    Without EXPERIMENT everything that is not there yet. A revision that names a checkpoint copies that one. Safe to
    interrupt and to repeat: it goes on where it stopped. Several machines may push at once.
    """
    if create and dry_run:
        raise click.UsageError("--create makes a store; it does not go with --dry-run")
    repository = open_repository(directory, quiet=quiet)
    if in_background:
        return _follow(repository)
    reporter = ConsoleReporter(quiet=quiet)
    remote = open_other(repository.project, place, repository.host)
    selection = select(repository.history(), revisions, quiet=quiet) if revisions else None
    if create and create_store(remote, repository.host):
        reporter.notice(f"made a store at {place_of(remote)}")
    done = push(repository, remote, selection, dry_run=dry_run, jobs=jobs, afresh=verify, reporter=reporter)
    if place is None and selection is None and not dry_run and not done.left:
        note_outage(repository.project, repository.host, None)
    tell(done, reporter, verb="push", dry_run=dry_run, as_json=as_json)
    if place is None and not dry_run:
        evict_to_limit(repository, remote, reporter)
    return 0


def _follow(repository: Repository) -> int:
    """Push for the program whose pipe is our stdin until it has ended; return the exit code."""
    from replicate.sync.following import Following
    from replicate.transport.remote import Patience

    os.nice(10)  # training comes first

    connect = functools.partial(open_other, repository.project, None, repository.host)
    try:
        remote, beats = connect(Patience()), connect(Patience(attempts=2, timeout=10.0))
    except ReplicateError as exc:  # whoever started this is told
        note_outage(repository.project, repository.host, (exc.message, exc.hint or ""))
        raise

    if isinstance(beats, LocalTransport):
        beats.require_store()

    def copy(reporter: Reporter, is_brief: bool) -> Copied:
        to = connect() if is_brief else remote
        done = push(repository, to, jobs=_BACKGROUND_JOBS, reporter=reporter)
        if not done.left:
            evict_to_limit(repository, to, reporter)
        return done

    reporter = PipeReporter(sys.stdout.fileno())
    following = Following(repository, beats, copy, reporter)
    is_pushed = following.run(sys.stdin.fileno())
    code = 0 if is_pushed else StorageError.exit_code
    reporter.end(code)
    if is_pushed and following.experiment is not None:
        _fold(repository, remote, following.experiment)
    return code


def _fold(repository: Repository, remote: Transport, experiment: ObjectID) -> None:
    """Fold the repository's old records when there are many, as a session does with its own store's."""
    from replicate.maintenance.folding import StoreElsewhere, fold_when_due

    found = open_elsewhere(place_of(remote), remote, repository.cache_path("elsewhere"))
    fold_when_due(StoreElsewhere(found.transport, found.place, repository.reporter), experiment)
