"""`replicate verify-pack`: every byte of some packs."""

from __future__ import annotations

import os

import click

from replicate.cli.options import directory_option, json_option
from replicate.cli.render import cell_text, echo_json
from replicate.config import require_project
from replicate.errors import (
    AmbiguousRevisionError,
    CorruptionError,
    InvalidInputError,
    ObjectNotFoundError,
    StorageError,
)
from replicate.maintenance.packs import examine
from replicate.objects.codecs import Encoding
from replicate.objects.frames import MAX_PACK_BYTES
from replicate.objects.ids import Kind, ObjectID, pack_id
from replicate.objects.pack import Entry
from replicate.revisions import MIN_PREFIX_DIGITS
from replicate.transport import LocalTransport

_DIGITS = frozenset("0123456789abcdef")


@click.command()
@click.argument("packs", nargs=-1, required=True, metavar="PACK...")
@click.option("-v", "--verbose", is_flag=True, help="List the objects: id, kind, encoding, depth, size, stored, offset")
@json_option
@directory_option
def command(packs: tuple[str, ...], verbose: bool, as_json: bool, directory: str) -> int:
    """Check every byte of packs, and list what is in them

    PACK is a prefix of a pack's id (4 digits or more), or the path of a pack file, which needs no project. Prints the
    id and `ok`, or `damaged` and what is wrong, one line each; exits with 5 then.
    """
    code = 0
    shown = []
    for given in packs:
        pack, path = _find(given, directory)
        data = _read(path)
        entries, wrong, bad = examine(data, pack if pack is not None else pack_id(data))
        name = (pack or pack_id(data)).hex()
        code = CorruptionError.exit_code if wrong or bad else code
        ordered = sorted(entries, key=lambda entry: entry.offset)
        if as_json:
            shown.append(
                {
                    "pack": name,
                    "bytes": len(data),
                    "damage": [error.message for error in (*wrong, *bad.values())],
                    "objects": [_json(entry, bad.get(entry)) for entry in ordered],
                }
            )
            continue
        click.echo(f"{name} {'damaged' if wrong or bad else 'ok'}")
        if verbose:
            for entry in ordered:
                stored = f"{entry.depth} {entry.raw_length} {entry.length} {entry.offset}"
                click.echo(f"{entry.object_id.hex()} {_kind(entry)} {_encoding(entry)} {stored}")
        for error in (*wrong, *bad.values()):
            click.echo(f"damage: {cell_text(error.message)}")
    if as_json:
        echo_json(shown)
    return code


def _find(given: str, directory: str) -> tuple[ObjectID | None, str]:
    """Return a pack's id, None when its name does not tell it, and its path."""
    if "/" in given or os.path.isfile(given):
        name = os.path.basename(given)
        return (ObjectID.parse(name) if len(name) == 64 and set(name) <= _DIGITS else None), given
    if not set(given) <= _DIGITS or not MIN_PREFIX_DIGITS <= len(given) <= 64:
        raise InvalidInputError(
            f"{given!r} is no pack", hint=f"give {MIN_PREFIX_DIGITS} digits or more of its id, or its path"
        )
    store = require_project(directory).store
    keys = [info.key for info in LocalTransport(store).list(f"packs/{given[:2]}/{given}", details=False)]
    if not keys:
        raise ObjectNotFoundError(f"no pack has an id that begins with {given}", object_id=given)
    if len(keys) > 1:
        raise AmbiguousRevisionError(
            f"{given} matches {len(keys)} packs",
            candidates=[os.path.basename(key) for key in keys],
            hint="type more digits",
        )
    return ObjectID.parse(os.path.basename(keys[0])), os.path.join(store, keys[0])


def _read(path: str) -> bytes:
    try:
        size = os.stat(path).st_size
        if size > MAX_PACK_BYTES:
            raise CorruptionError(f"{path}: {size:,} bytes is no size of a pack", where=path)
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as exc:
        raise ObjectNotFoundError(f"{path} does not exist", object_id=path) from exc
    except OSError as exc:
        raise StorageError(f"cannot read {path}: {exc.strerror}", operation="read") from exc


def _kind(entry: Entry) -> str:
    return Kind(entry.kind).name.lower() if entry.kind in list(Kind) else f"kind-{entry.kind}"


def _encoding(entry: Entry) -> str:
    return Encoding(entry.encoding).name.lower() if entry.encoding in list(Encoding) else f"encoding-{entry.encoding}"


def _json(entry: Entry, error: CorruptionError | None) -> dict[str, object]:
    return {
        "id": entry.object_id.hex(),
        "kind": _kind(entry),
        "encoding": _encoding(entry),
        "depth": entry.depth,
        "bytes": entry.raw_length,
        "stored": entry.length,
        "offset": entry.offset,
        "damage": error.message if error else None,
    }
