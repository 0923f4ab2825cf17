"""`replicate push`: copy experiments to another store."""

from __future__ import annotations

import click

from replicate.cli.options import directory_option, json_option, open_repository, quiet_option
from replicate.cli.syncing import open_other, select, sync_options, tell
from replicate.console import ConsoleReporter
from replicate.sync import create_store, push
from replicate.sync.transfer import place_of


@click.command()
@click.argument("revisions", metavar="[EXPERIMENT]...", nargs=-1)
@sync_options
@click.option("--create", is_flag=True, help="Make a store if the place is empty, and the bucket if there is none")
@click.option("--verify", is_flag=True, help="Do not rely on what was pushed before: look at what is there")
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
    quiet: bool,
    as_json: bool,
    directory: str,
) -> None:
    """Copy experiments to another store: `repository` in replicate.yaml, or -R URL

    Without EXPERIMENT everything that is not there yet. A revision that names a checkpoint copies that one. Safe to
    interrupt and to repeat: it goes on where it stopped. Several machines may push at once.
    """
    if create and dry_run:
        raise click.UsageError("--create makes a store; it does not go with --dry-run")
    repository = open_repository(directory, quiet=quiet)
    reporter = ConsoleReporter(quiet=quiet)
    remote = open_other(repository.project, place, repository.host)
    selection = select(repository.history(), revisions, quiet=quiet) if revisions else None
    if create and create_store(remote, repository.host):
        reporter.notice(f"made a store at {place_of(remote)}")
    done = push(repository, remote, selection, dry_run=dry_run, jobs=jobs, afresh=verify, reporter=reporter)
    tell(done, reporter, verb="push", dry_run=dry_run, as_json=as_json)
