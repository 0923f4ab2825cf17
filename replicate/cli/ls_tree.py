"""`replicate ls-tree`: the entries of a tree."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

from replicate.cli.cat_file import ObjectFinder
from replicate.cli.options import StorePlace, json_option, open_history, store_option
from replicate.cli.render import MODE_NAMES, echo_json, json_path, quote_path
from replicate.objects.model import Mode, TreeEntry
from replicate.worktree.trees import iter_tree


@click.command()
@click.argument("name", metavar="TREE")
@click.option("-r", "recursive", is_flag=True, help="List what is in folders too; folders themselves only when empty")
@click.option("-z", "with_nul", is_flag=True, help="End entries with NUL and do not quote names")
@click.option("--name-only", is_flag=True, help="Print paths only")
@json_option
@store_option
def command(name: str, recursive: bool, with_nul: bool, name_only: bool, as_json: bool, store: StorePlace) -> None:
    """List a tree: mode, size, id and path of each entry

    TREE is a revision, REVISION:PATH, or a tree's id. Modes are file, exec, link and tree.
    """
    objects, wanted = ObjectFinder(*open_history(store)).find_tree(name)
    entries: Iterable[tuple[bytes, TreeEntry]]
    if recursive:
        listed = list(iter_tree(objects, wanted))
        filled = {path.rpartition(b"/")[0] for path, _ in listed}
        entries = [(path, entry) for path, entry in listed if entry.mode is not Mode.DIRECTORY or path not in filled]
    else:
        entries = [(entry.name, entry) for entry in objects.read_tree(wanted)]
    if as_json:
        echo_json(
            [
                {
                    **json_path(path),
                    "mode": MODE_NAMES[entry.mode],
                    "bytes": entry.size_bytes,
                    "id": entry.object_id.hex(),
                }
                for path, entry in entries
            ]
        )
        return
    out = sys.stdout.buffer
    sys.stdout.flush()
    for path, entry in entries:
        shown = path if with_nul else os.fsencode(quote_path(path))
        head = b"" if name_only else f"{MODE_NAMES[entry.mode]} {entry.size_bytes} {entry.object_id.hex()}\t".encode()
        out.write(head + shown + (b"\0" if with_nul else b"\n"))
    out.flush()
