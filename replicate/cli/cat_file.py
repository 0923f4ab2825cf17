"""`replicate cat-file`: one object, as it is."""

from __future__ import annotations

import os
import sys

import click

from replicate.cli.options import directory_option, find, open_history
from replicate.cli.render import MODE_NAMES, echo_json, json_path
from replicate.errors import AmbiguousRevisionError, ObjectNotFoundError, PathNotFoundError, RevisionNotFoundError
from replicate.history import History
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.model import Commit, Mode, decode_tree
from replicate.objects.store import ObjectStore
from replicate.presenting import json_value
from replicate.repository import Repository
from replicate.revisions import MIN_PREFIX_DIGITS
from replicate.worktree.checkout import find_entry

_MOST = 10


@click.command()
@click.argument("name", metavar="OBJECT")
@click.option("-t", "what", flag_value="type", help="Print its kind: blob, tree or commit")
@click.option("-s", "what", flag_value="size", help="Print its length in bytes")
@click.option("-p", "what", flag_value="pretty", help="Print trees and commits as JSON (the default)")
@click.option("--raw", "what", flag_value="raw", help="Print the bytes that the id is the hash of")
@directory_option
def command(name: str, what: str | None, directory: str) -> None:
    """Print an object: blobs as they are, trees and commits as JSON

    OBJECT is an id or a prefix of one (4 digits or more), a revision, or REVISION:PATH.
    """
    repository, history = open_history(directory)
    objects, wanted, kind = find_object(repository, history, name)
    if what == "type":
        click.echo(kind.name.lower())
        return
    if kind is Kind.BLOB:
        if what == "size":
            click.echo(str(sum(chunk.length for chunk in objects.read_chunks(wanted))))
            return
        sys.stdout.flush()
        for piece in objects.iter_blob(wanted):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    data = objects.read(wanted, kind)
    if what == "size":
        click.echo(str(len(data)))
    elif what == "raw":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    elif kind is Kind.TREE:
        echo_json(
            [
                {
                    **{key.replace("path", "name"): value for key, value in json_path(entry.name).items()},
                    "mode": MODE_NAMES[entry.mode],
                    "bytes": entry.size_bytes,
                    "id": entry.object_id.hex(),
                }
                for entry in decode_tree(data, f"tree {wanted.hex()}")
            ]
        )
    else:
        echo_json(_commit_json(objects.read_commit(wanted)))


def find_object(repository: Repository, history: History, name: str) -> tuple[ObjectStore, ObjectID, Kind]:
    """Return what an object's name means: `REVISION:PATH`, a revision's commit, or an id prefix of any object."""
    if ":" in name:
        found = find(history, name, plumbing=True)
        objects = repository.objects(found.record.locator)
        path = os.fsencode(found.path or "").strip(b"/")
        entry = find_entry(objects, found.record.commit.tree, path)
        if entry is None:
            raise PathNotFoundError(f"{found.record.commit_id.short} has no {found.path!r}")
        return objects, entry.object_id, Kind.TREE if entry.mode is Mode.DIRECTORY else Kind.BLOB
    try:
        found = find(history, name, plumbing=True)
        return repository.objects(found.record.locator), found.record.commit_id, Kind.COMMIT
    except RevisionNotFoundError:
        if len(name) < MIN_PREFIX_DIGITS or not all(char in "0123456789abcdef" for char in name) or len(name) > 64:
            raise
    objects = repository.all_objects()
    matches = repository.index.find_prefix(name, _MOST)
    if not matches:
        raise ObjectNotFoundError(f"no object has an id that begins with {name}", object_id=name)
    if len(matches) > 1:
        ids = [f"{one.hex()[:12]} ({Kind(kind).name.lower()})" for one, kind in matches]
        more = ", …" if len(matches) == _MOST else ""
        raise AmbiguousRevisionError(
            f"{name} matches {len(matches)}{' or more' if more else ''} objects: {', '.join(ids)}{more}",
            candidates=[one.hex() for one, _ in matches],
            hint="type more digits",
        )
    ((wanted, kind),) = matches
    return objects, wanted, Kind(kind)


def _commit_json(commit: Commit) -> dict[str, object]:
    primary = commit.primary_metric
    return {
        "kind": "root" if commit.is_root else "checkpoint",
        "tree": commit.tree.hex(),
        "parents": [parent.hex() for parent in commit.parents],
        "author": commit.author,
        "time_ns": commit.time_ns,
        "experiment": commit.experiment.hex() if commit.experiment else None,
        "seq": commit.seq,
        "step": commit.step,
        "metrics": json_value(dict(commit.metrics)),
        "params": json_value(dict(commit.params)),
        "command": commit.command,
        "name": commit.name,
        "tags": list(commit.tags),
        "primary_metric": {"name": primary[0], "goal": primary[1]} if primary else None,
    }
