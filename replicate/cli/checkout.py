"""`replicate checkout`: bring a commit's files back."""

from __future__ import annotations

import os
import time

import click

from replicate.cli.options import clean_path, directory_option, find, json_option, open_history, quiet_option
from replicate.cli.render import echo_json
from replicate.console import ConsoleReporter
from replicate.errors import InvalidInputError
from replicate.restoring import checkout
from replicate.revisions import label
from replicate.text import format_bytes, format_seconds, plural


@click.command()
@click.argument("revision")
@click.argument("paths", nargs=-1)
@click.option("-o", "--output-directory", "output", metavar="DIR", help="Restore into DIR, not into the worktree")
@click.option("--path", "more_paths", multiple=True, metavar="PATH", help="Restore only PATH; as PATHS")
@click.option("-f", "--force", is_flag=True, help="Overwrite changes that are in no checkpoint")
@click.option("--exact", is_flag=True, help="Remove files that the commit does not have, unless they are ignored")
@quiet_option
@json_option
@directory_option
def command(
    revision: str,
    paths: tuple[str, ...],
    output: str | None,
    more_paths: tuple[str, ...],
    force: bool,
    exact: bool,
    quiet: bool,
    as_json: bool,
    directory: str,
) -> None:
    """Restore the files of a commit, or only PATHS of it

    PATHS are those in the commit: relative to the project, with `/`. Files that are equal are not touched, other files
    stay. Nothing is written if changes that are in no checkpoint would be lost.
    """
    repository, history = open_history(directory)
    found = find(history, revision, quiet=quiet)
    wanted = [clean_path(path) for path in (*paths, *more_paths, *filter(None, [found.path]))]
    if exact and wanted:
        raise InvalidInputError("--exact restores a whole commit; it does not go with paths")
    if output is not None and not os.path.isdir(output) and os.path.lexists(output):
        raise InvalidInputError(f"-o {output} is no folder", hint="name a folder, or one that does not exist yet")
    target = repository.project.root if output is None else os.path.abspath(output)
    reporter = ConsoleReporter(quiet=quiet)
    started = time.monotonic()
    done = checkout(repository, found.record, target, reporter, paths=wanted, force=force, exact=exact)
    if as_json:
        echo_json(
            {
                "id": found.record.commit_id.hex(),
                "directory": target,
                "paths": done.paths,
                "written": done.written,
                "removed": done.removed,
                "bytes": done.size_bytes,
            }
        )
        return
    parts = [f"checked out {label(found.record)} into {_shown(target)}"]
    if done.written:
        parts.append(f"{plural(done.written, 'file')} written, {format_bytes(done.size_bytes)}")
    else:
        parts.append("every file was there")
    if done.removed:
        parts.append(f"{done.removed:,} removed")
    parts.append(format_seconds(time.monotonic() - started))
    reporter.notice(" · ".join(parts))
    if not wanted:
        reporter.notice(f"it was made by: {found.experiment.command_of(found.record)}")


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
