"""`replicate hash-object`: the id that a file's bytes have."""

from __future__ import annotations

import os
import sys

import click
from blake3 import blake3

from replicate.errors import PathNotFoundError, StorageError
from replicate.worktree.checkout import hash_file


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the bytes from standard input")
def command(files: tuple[str, ...], from_stdin: bool) -> None:
    """Print the blob id of files: the BLAKE3 of their bytes

    One line per file, in order. Needs no project.
    """
    if not files and not from_stdin:
        raise click.UsageError("name a FILE, or use --stdin")
    if from_stdin:
        hasher = blake3()
        try:
            while data := sys.stdin.buffer.read(1 << 20):
                hasher.update(data)
        except OSError as exc:
            raise StorageError(f"cannot read standard input: {exc.strerror}", operation="read") from exc
        click.echo(hasher.hexdigest())
    for name in files:
        path = os.path.realpath(os.fsencode(name))
        if os.path.isdir(path):
            raise PathNotFoundError(f"{name} is a folder", hint="name a file")
        try:
            click.echo(hash_file(path).hex())
        except FileNotFoundError as exc:
            raise PathNotFoundError(f"{name} does not exist") from exc
        except OSError as exc:
            raise StorageError(f"cannot read {name}: {exc.strerror}", operation="read") from exc
