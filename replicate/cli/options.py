"""Options and openings that several commands share."""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from replicate.config import cache_folder, find_project, mode, require_project, storage_options
from replicate.console import ConsoleReporter
from replicate.errors import InvalidInputError, ReplicateError, StorageError
from replicate.filters import parse_value
from replicate.history import History
from replicate.host import Host
from replicate.repository import Repository
from replicate.revisions import Resolution, resolve, resolve_itself
from replicate.summary import ExperimentSummary
from replicate.text import format_age
from replicate.united import open_united

_F = TypeVar("_F", bound=Callable[..., Any])

_MAX_ITEM_BYTES = 1 << 20
_READING = re.compile(r"`replicate (ls-tree|ls|log|show|diff|checkout|cat-file|fsck|du)\b(?! -R| --)")  # in hints

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON")


def _hear_quiet(context: click.Context, parameter: click.Parameter, is_quiet: bool) -> bool:
    if is_quiet:
        logging.getLogger("replicate").setLevel(logging.WARNING)
    return is_quiet


quiet_option = click.option("-q", "--quiet", is_flag=True, callback=_hear_quiet, help="Tell warnings and errors only")


def directory_option(function: _F) -> _F:
    """Let a command take `-D` too, and give it the folder that it works in as `directory`."""

    @click.option("-D", "--project-directory", metavar="DIR", help="Work in the project that DIR lies in")
    @click.pass_obj
    @functools.wraps(function)
    def wrapped(above: str | None, project_directory: str | None, *args: Any, **kwargs: Any) -> Any:
        directory = project_directory or above or "."
        if not os.path.isdir(directory):
            raise InvalidInputError(f"-D {directory}: there is no such folder")
        try:
            os.getcwd()
        except OSError as exc:
            raise InvalidInputError("the current folder does not exist any more", hint="`cd` somewhere else") from exc
        return function(*args, directory=directory, **kwargs)

    return wrapped  # type: ignore[return-value]


place_option = click.option(
    "-R", "--repository", "place", metavar="URL", help="Another store than the project's: a URL, or a folder"
)


@dataclass(frozen=True, slots=True)
class StorePlace:
    """What a command reads: what the project that `directory` lies in has; with `place` the store there instead."""

    directory: str
    place: str | None = None

    def storage_options(self) -> Mapping[str, str]:
        """Return what `replicate.yaml` says of the storage, if there is one; see `config.storage_options`."""
        return storage_options(self.place or "", find_project(self.directory))


def store_option(function: _F) -> _F:
    """Let a command that only reads take `-R` and `-D`, and give it what to read as `store`."""

    @place_option
    @directory_option
    @functools.wraps(function)
    def wrapped(*args: Any, place: str | None, directory: str, **kwargs: Any) -> Any:
        if place == "":
            raise InvalidInputError("-R '': there is no such store", hint="name a URL, or a folder")
        try:
            return function(*args, store=StorePlace(directory, place), **kwargs)
        except ReplicateError as exc:
            if place is not None and exc.hint:
                exc.hint = _READING.sub(lambda match: f"{match[0]} -R {shlex.quote(place)}", exc.hint)
            raise

    return wrapped  # type: ignore[return-value]


def open_repository(where: str | StorePlace, *, quiet: bool = False, lists: bool = False) -> Repository:
    """Open a store: of the project that a folder lies in the one on this machine, for who writes to it.

    A `StorePlace` is read: the project's store together with the repository that it is copied to, or the place there.
    With `lists` the records there are asked for at once.
    """
    reporter = ConsoleReporter(quiet=quiet)
    if isinstance(where, str):
        return Repository(require_project(where), Host(), reporter)
    if where.place is None:
        project = require_project(where.directory)
        return open_united(project, Host(), reporter, is_offline=mode() == "offline")
    options = where.storage_options()
    return Repository.elsewhere(where.place, Host(), reporter, options, caches=cache_folder(), lists=lists)


def open_history(where: str | StorePlace) -> tuple[Repository, History]:
    """Open a store as `open_repository` does, and read its records."""
    repository = open_repository(where, lists=True)
    history = repository.history()
    for experiment in history.rootless:
        repository.reporter.warn(f"experiment {experiment.short} is incomplete: its start is not in the store")
    return repository, history


def push_soon(repository: Repository) -> None:
    """Have what a command published pushed by a process of its own, for which nobody waits."""
    if not repository.project.repository:
        return
    from replicate.background import background_push  # what starts processes is loaded where one is started

    push = background_push(repository.project, repository.host)
    if push is not None:
        push.leave()


def find(history: History, revision: str, *, plumbing: bool = False, quiet: bool = False) -> Resolution:
    """Resolve a revision and tell which of several was taken."""
    return _told(resolve(history, revision, plumbing=plumbing, describe=describe), quiet)


def find_itself(history: History, revision: str, *, quiet: bool = False) -> Resolution:
    """As `find`, but an experiment alone means itself."""
    return _told(resolve_itself(history, revision, describe=describe), quiet)


def _told(found: Resolution, quiet: bool) -> Resolution:
    reporter = ConsoleReporter(quiet=quiet)
    for notice in found.notices:
        reporter.notice(notice)
    return found


def describe(experiment: ExperimentSummary) -> str:
    """Return name and age of an experiment, to tell it from others."""
    age = format_age(time.time() - experiment.time_ns / 1e9)
    return f"{experiment.name}, {age}" if experiment.name else age


def parse_primary(text: str | None) -> tuple[str, str] | None:
    """Read `NAME:GOAL`; the goal is checked elsewhere."""
    if text is None:
        return None
    name, colon, goal = text.rpartition(":")
    if not colon:
        raise InvalidInputError(f"--primary-metric {text}: it must be NAME:minimize or NAME:maximize")
    return name, goal


def stdin_items(*, with_nul: bool) -> Iterator[bytes]:
    """Yield what stdin lists: one a line, or each ended by NUL; as soon as it is there. The last needs no end."""
    end = b"\0" if with_nul else b"\n"
    rest = b""
    try:
        while data := sys.stdin.buffer.read1(1 << 16):  # type: ignore[union-attr]
            *whole, rest = (rest + data).split(end)
            yield from whole
            if len(rest) > _MAX_ITEM_BYTES:
                what = "NUL" if with_nul else "a newline"
                raise InvalidInputError(f"standard input holds more than {_MAX_ITEM_BYTES:,} bytes without {what}")
    except OSError as exc:
        raise StorageError(f"cannot read standard input: {exc.strerror}", operation="read") from exc
    if rest:
        yield rest


def clean_path(path: str) -> bytes:
    """Return a path of a commit, relative to the project, as trees have it; b"" is the whole commit."""
    if not path:
        raise InvalidInputError("'' is no path", hint="name no path to mean the whole commit")
    cleaned = os.path.normpath(os.fsencode(path)).strip(b"/")
    return b"" if cleaned == b"." else cleaned


def project_path(root: str, path: str, exists: Callable[[bytes], bool]) -> bytes:
    """Return a path that was typed as trees have it: relative to the current folder when that lies in the project.

    When only the path relative to the project exists, it is that one.
    """
    in_project = clean_path(path)
    full = os.path.normpath(os.path.join(os.getcwdb(), os.fsencode(path)))
    top = os.fsencode(root)
    if full != top and not full.startswith(os.path.join(top, b"")):
        return in_project
    here = full[len(top) :].strip(b"/")
    return in_project if not exists(here) and exists(in_project) else here


def parse_pairs(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """Read `name=value` options; values are numbers, true, false, none, JSON, or text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInputError(f"{option} {pair}: it must be NAME=VALUE")
        values[name] = parse_value(value)
    return values
