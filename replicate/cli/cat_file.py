"""`replicate cat-file`: one object, as it is."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Sequence

import click

from replicate.cli.options import StorePlace, find, open_history, stdin_items, store_option
from replicate.cli.render import MODE_NAMES, echo_json, json_path
from replicate.errors import (
    AmbiguousRevisionError,
    InvalidInputError,
    NotFoundError,
    ObjectNotFoundError,
    PathNotFoundError,
    RevisionNotFoundError,
)
from replicate.history import History
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.model import Commit, Mode, decode_tree
from replicate.objects.store import ObjectStore
from replicate.presenting import json_value
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.revisions import MIN_PREFIX_DIGITS
from replicate.worktree.trees import find_entry

_MOST = 10


@click.command()
@click.argument("name", required=False, metavar="[OBJECT]")
@click.option("-t", "what", flag_value="type", help="Print its kind: blob, tree or commit")
@click.option("-s", "what", flag_value="size", help="Print its length in bytes")
@click.option("-p", "what", flag_value="pretty", help="Print trees and commits as JSON (the default)")
@click.option("--raw", "what", flag_value="raw", help="Print the bytes that the id is the hash of")
@click.option("--batch", "batch", flag_value="content", help="Read OBJECTs from stdin; print id, kind, size and bytes")
@click.option("--batch-check", "batch", flag_value="check", help="Read OBJECTs from stdin; print id, kind and size")
@click.option("-z", "with_nul", is_flag=True, help="With --batch: lines end with NUL, in input and output")
@store_option
def command(name: str | None, what: str | None, batch: str | None, with_nul: bool, store: StorePlace) -> None:
    """Print an object: blobs as they are, trees and commits as JSON

    OBJECT is an id or a prefix of one (4 digits or more), a revision, or REVISION:PATH. See docs/plumbing.md for what
    --batch prints.
    """
    if (name is None) != (batch is not None) or (batch and what) or (with_nul and not batch):
        raise click.UsageError("name one OBJECT, or use --batch or --batch-check alone")
    finder = ObjectFinder(*open_history(store))
    if name is None:
        end = b"\0" if with_nul else b"\n"
        for item in stdin_items(with_nul=with_nul):
            _answer(finder, item, end, with_content=batch == "content")
    else:
        _print(*finder.find(name), what)


def _answer(finder: ObjectFinder, item: bytes, end: bytes, *, with_content: bool) -> None:
    """Print what --batch does for one name; at once, for who asks one after the other."""
    out = sys.stdout.buffer
    try:
        objects, wanted, kind = finder.find(os.fsdecode(item))
    except (NotFoundError, InvalidInputError) as exc:
        out.write(item + (b" ambiguous" if isinstance(exc, AmbiguousRevisionError) else b" missing") + end)
        out.flush()
        return
    pieces = objects.iter_blob(wanted) if kind is Kind.BLOB else iter([objects.read(wanted, kind)])
    first = next(pieces, b"") if with_content or kind is not Kind.BLOB else b""
    size = _blob_bytes(objects, wanted) if kind is Kind.BLOB else len(first)
    out.write(f"{wanted.hex()} {kind.name.lower()} {size}".encode() + end)
    if with_content:
        for piece in itertools.chain([first], pieces):
            out.write(piece)
        out.write(end)
    out.flush()


def _print(objects: ObjectStore, wanted: ObjectID, kind: Kind, what: str | None) -> None:
    if what == "type":
        click.echo(kind.name.lower())
        return
    if kind is Kind.BLOB:
        if what == "size":
            click.echo(str(_blob_bytes(objects, wanted)))
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


def _blob_bytes(objects: ObjectStore, blob: ObjectID) -> int:
    return sum(chunk.length for chunk in objects.read_chunks(blob))


Found = tuple[ObjectStore, ObjectID, Kind]
"""An object's id and kind, and the objects to read it from."""


class ObjectFinder:
    """Tells what objects' names mean; what was looked up for one serves the next."""

    def __init__(self, repository: Repository, history: History) -> None:
        self._repository = repository
        self._history = history
        self._closures: dict[ObjectID, ObjectStore] = {}

    def find(self, name: str) -> Found:
        """Return what a name means: `REVISION:PATH`, a revision's commit, or an id prefix of any object."""
        if ":" in name:
            found = find(self._history, name, plumbing=True)
            objects = self._closure(found.record)
            path = os.fsencode(found.path or "").strip(b"/")
            entry = find_entry(objects, found.record.commit.tree, path)
            if entry is None:
                raise PathNotFoundError(f"{found.record.commit_id.short} has no {found.path!r}")
            return objects, entry.object_id, Kind.TREE if entry.mode is Mode.DIRECTORY else Kind.BLOB
        is_hex = MIN_PREFIX_DIGITS <= len(name) <= 64 and not set(name) - set("0123456789abcdef")
        matches = self._find_ids(name) if is_hex and len(name) == 64 else []
        if not matches:
            try:
                found = find(self._history, name, plumbing=True)
                return self._closure(found.record), found.record.commit_id, Kind.COMMIT
            except RevisionNotFoundError:
                if not is_hex:
                    raise
            matches = self._find_ids(name)
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
        return self._all, wanted, Kind(kind)

    def find_tree(self, name: str) -> tuple[ObjectStore, ObjectID]:
        """Return the tree that a name means; of a commit, its tree."""
        objects, wanted, kind = self.find(name)
        if kind is Kind.COMMIT:
            return objects, objects.read_commit(wanted).tree
        if kind is Kind.BLOB:
            raise PathNotFoundError(f"{name} is a file, not a folder", hint="`replicate cat-file` prints it")
        return objects, wanted

    def _closure(self, record: CommitRecord) -> ObjectStore:
        if record.commit_id not in self._closures:
            self._closures[record.commit_id] = self._repository.objects(record.locator)
        return self._closures[record.commit_id]

    @functools.cached_property
    def _all(self) -> ObjectStore:
        return self._repository.all_objects()

    def _find_ids(self, prefix: str) -> Sequence[tuple[ObjectID, int]]:
        assert self._all  # it brings the index up to date
        return self._repository.find_objects(prefix, _MOST)


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
