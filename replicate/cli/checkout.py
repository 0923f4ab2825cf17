"""`replicate checkout`: bring a commit's files back."""

from __future__ import annotations

import os
import time

import click

from replicate.cli.options import (
    StorePlace,
    clean_path,
    find,
    json_option,
    open_history,
    project_path,
    quiet_option,
    store_option,
)
from replicate.cli.render import echo_json, quote_path
from replicate.console import ConsoleReporter
from replicate.errors import InvalidInputError, PathNotFoundError
from replicate.repository import Repository
from replicate.restoring import checkout
from replicate.revisions import Resolution, label
from replicate.text import format_bytes, format_seconds, plural
from replicate.worktree.trees import find_entry

_PATHS = 3


@click.command()
@click.argument("revision")
@click.argument("paths", nargs=-1)
@click.option("-o", "--output-directory", "output", metavar="DIR", help="Restore into DIR, not into the worktree")
@click.option("--path", "more_paths", multiple=True, metavar="PATH", help="Restore only PATH; as PATHS")
@click.option("-f", "--force", is_flag=True, help="Overwrite changes that are in no checkpoint")
@click.option("--exact", is_flag=True, help="Remove files that the commit does not have, unless they are ignored")
@quiet_option
@json_option
@store_option
def command(
    revision: str,
    paths: tuple[str, ...],
    output: str | None,
    more_paths: tuple[str, ...],
    force: bool,
    exact: bool,
    quiet: bool,
    as_json: bool,
    store: StorePlace,
) -> None:
    """Restore the files of a commit, or only PATHS of it

    PATHS are relative to the current folder, or else to the project. Files that are equal are not touched, other files
    stay. Nothing is written if changes that are in no checkpoint would be lost. With -R a folder is named by -o.
    """
    if store.place is not None and output is None:
        raise click.UsageError("-R reads a store that has no worktree here: name a folder to restore into with -o DIR")
    repository, history = open_history(store)
    found = find(history, revision, quiet=quiet)
    wanted = _resolve(repository, found, (*paths, *more_paths))
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
    if wanted:
        into = "" if output is None else f" into {_shown(target)}"
        parts = [f"restored {_listed(wanted)} from {label(found.record)}{into}"]
    else:
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


def _resolve(repository: Repository, found: Resolution, paths: tuple[str, ...]) -> list[bytes]:
    """Return the paths that were given, as the commit has them."""
    objects, tree = repository.objects(found.record.locator), found.record.commit.tree

    def exists(path: bytes) -> bool:
        return find_entry(objects, tree, path) is not None

    wanted = [project_path(repository.project.root, path, exists) for path in paths]
    wanted += [clean_path(found.path)] if found.path else []
    for path in wanted:
        if not exists(path):
            short = found.record.commit_id.short
            raise PathNotFoundError(
                f"{short} has no '{quote_path(path)}'", hint=f"`replicate ls-tree -r {short}` lists its files"
            )
    return wanted


def _listed(paths: list[bytes]) -> str:
    shown = ", ".join(quote_path(path) or "." for path in paths[:_PATHS])
    return shown + (f" and {len(paths) - _PATHS:,} more" if len(paths) > _PATHS else "")


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
