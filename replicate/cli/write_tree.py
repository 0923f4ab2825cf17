"""`replicate write-tree`: store a tree, from a list of its entries or from a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import click

from replicate.assembling import GivenEntry, assembling
from replicate.cli.options import directory_option, open_repository, stdin_items
from replicate.cli.render import MODE_NAMES, unquote_path
from replicate.errors import InvalidInputError, PathNotFoundError
from replicate.objects.ids import ObjectID
from replicate.repository import Repository
from replicate.saving import Save
from replicate.selection import NamedPath

_LINE = re.compile(rb"(?P<mode>[a-z]+) (?P<size>-|[0-9]{1,19}) (?P<id>[0-9a-f]{64})\t(?P<path>.+)", re.DOTALL)
_MODES = {name.encode(): mode for mode, name in MODE_NAMES.items()}


@click.command()
@click.argument("folder", required=False, metavar="[FOLDER]")
@click.option("-z", "with_nul", is_flag=True, help="Entries end with NUL and names are not quoted")
@directory_option
def command(folder: str | None, with_nul: bool, directory: str) -> None:
    """Store a tree and print its id: of a FOLDER, or of the entries on stdin

    Entries are what ls-tree prints, with -r too: `MODE SIZE ID<tab>PATH`. MODE is file, exec, link or tree; a SIZE of -
    is looked up. The objects that they name are in the store already. The empty list is the empty tree.
    """
    if folder is not None and with_nul:
        raise click.UsageError("-z tells how entries on stdin end; it does not go with FOLDER")
    repository = open_repository(directory)
    if folder is None:
        with assembling(repository) as assembly:
            tree = assembly.add_tree(_entries(with_nul=with_nul))
    else:
        tree = _store_folder(repository, folder)
    click.echo(tree.hex())


def _entries(*, with_nul: bool) -> Iterator[GivenEntry]:
    """Yield the entries on standard input."""
    for number, line in enumerate(stdin_items(with_nul=with_nul), 1):
        match = _LINE.fullmatch(line)
        if match is None or match["mode"] not in _MODES:
            raise InvalidInputError(
                f"entry {number} is {os.fsdecode(line)[:200]!r}; it must be MODE SIZE ID<tab>PATH",
                hint=f"MODE is {', '.join(MODE_NAMES.values())}; SIZE may be -; ID has 64 digits",
            )
        path = match["path"] if with_nul else unquote_path(match["path"])
        size = None if match["size"] == b"-" else int(match["size"])
        yield GivenEntry(path, _MODES[match["mode"]], size, ObjectID.parse(match["id"].decode()))


def _store_folder(repository: Repository, folder: str) -> ObjectID:
    """Store what a save of the folder holds: of the project's own, all that is not ignored."""
    full = os.path.realpath(os.fsencode(folder))
    if not os.path.isdir(full):
        problem = "is no folder" if os.path.lexists(full) else "does not exist"
        raise PathNotFoundError(f"{folder} {problem}", hint="name a folder; `replicate hash-object -w` stores a file")
    root = os.fsencode(repository.project.root)
    inside = full.startswith(os.path.join(root, b""))
    named = None if full == root else NamedPath(os.path.relpath(full, root) if inside else b"folder", full)
    repository.create()
    repository.index.refresh()
    return Save(repository, repository.worktree_index(), None, repository.reporter).store_folder(named)
