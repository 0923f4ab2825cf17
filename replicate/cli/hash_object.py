"""`replicate hash-object`: the id that a file's bytes have; -w stores them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import click
from blake3 import blake3

from replicate.assembling import assembling
from replicate.cli.options import directory_option, open_repository, stdin_items
from replicate.errors import PathNotFoundError, StorageError
from replicate.objects.ids import ObjectID
from replicate.worktree.checkout import hash_file


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("-w", "--write", is_flag=True, help="Store the bytes too; ids are printed when they are durable")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the bytes from standard input")
@click.option("--batch", "--stdin-paths", "batch", is_flag=True, help="Read the names of files from standard input")
@click.option("-z", "with_nul", is_flag=True, help="With --batch: names end with NUL")
@directory_option
def command(files: tuple[str, ...], write: bool, from_stdin: bool, batch: bool, with_nul: bool, directory: str) -> None:
    """Print the blob id of files: the BLAKE3 of their bytes

    One line per file, in order. Needs no project but for -w.
    """
    if not files and not from_stdin and not batch:
        raise click.UsageError("name a FILE, or use --stdin")
    if batch and (files or from_stdin):
        raise click.UsageError("--batch reads names from standard input; it does not go with FILE or --stdin")
    if with_nul and not batch:
        raise click.UsageError("-z goes with --batch")
    names = map(os.fsdecode, stdin_items(with_nul=with_nul)) if batch else iter(files)
    if not write:
        for blob in _ids(names, from_stdin, _hash_stream, hash_file):
            click.echo(blob.hex())
        return
    with assembling(open_repository(directory)) as assembly:
        blobs = list(_ids(names, from_stdin, assembly.add_stream, assembly.add_file))
    for blob in blobs:
        click.echo(blob.hex())


def _ids(
    names: Iterator[str],
    from_stdin: bool,
    of_stream: Callable[[BinaryIO], ObjectID],
    of_file: Callable[[bytes], ObjectID],
) -> Iterator[ObjectID]:
    """Yield the ids of standard input, if it is wanted, and of files, as `of_stream` and `of_file` give them."""
    if from_stdin:
        with _reading("standard input"):
            blob = of_stream(sys.stdin.buffer)
        yield blob
    for name in names:
        path = os.path.realpath(os.fsencode(name))
        if os.path.isdir(path):
            raise PathNotFoundError(f"{name} is a folder", hint="name a file")
        with _reading(name):
            blob = of_file(path)
        yield blob


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise PathNotFoundError(f"{name} does not exist") from exc
    except OSError as exc:
        raise StorageError(f"cannot read {name}: {exc.strerror or exc}", operation="read") from exc


def _hash_stream(stream: BinaryIO) -> ObjectID:
    hasher = blake3()
    while data := stream.read(1 << 20):
        hasher.update(data)
    return ObjectID(hasher.digest())
