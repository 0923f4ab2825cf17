"""`replicate pull`: copy experiments from another store."""

from __future__ import annotations

import click

from replicate.cli.options import directory_option, json_option, quiet_option
from replicate.cli.syncing import open_other, select, sync_options, tell
from replicate.config import find_project, new_project
from replicate.console import ConsoleReporter
from replicate.host import Host
from replicate.repository import Repository
from replicate.sync import pull, remote_history


@click.command()
@click.argument("revisions", metavar="[EXPERIMENT]...", nargs=-1)
@sync_options
@quiet_option
@json_option
@directory_option
def command(
    revisions: tuple[str, ...],
    place: str | None,
    dry_run: bool,
    jobs: int,
    quiet: bool,
    as_json: bool,
    directory: str,
) -> None:
    """Copy experiments from another store: `repository` in replicate.yaml, or -R URL

    Without EXPERIMENT everything that is not here yet. A revision that names a checkpoint copies what that one needs.
    What was pulled lists and restores without the network. Safe to interrupt and to repeat.
    """
    reporter = ConsoleReporter(quiet=quiet)
    project = find_project(directory)
    is_new = project is None
    project = project or new_project(directory)
    repository = Repository(project, Host(), reporter)
    remote = open_other(project, place, repository.host)
    selection = select(remote_history(repository, remote, reporter), revisions, quiet=quiet) if revisions else None
    done = pull(repository, remote, selection, dry_run=dry_run, jobs=jobs, reporter=reporter)
    if is_new and not dry_run:
        reporter.notice(f"new project: checkpoints are stored in {project.store}")
    tell(done, reporter, verb="pull", dry_run=dry_run, as_json=as_json)
