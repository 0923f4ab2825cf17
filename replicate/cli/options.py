"""Options and openings that several commands share."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from replicate.config import require_project
from replicate.console import ConsoleReporter
from replicate.errors import InvalidInputError
from replicate.filters import parse_value
from replicate.history import ExperimentHistory, History
from replicate.host import Host
from replicate.repository import Repository
from replicate.revisions import Resolution, resolve
from replicate.text import format_age

_F = TypeVar("_F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Tell warnings and errors only")


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


def open_repository(directory: str, *, quiet: bool = False) -> Repository:
    """Open the store of the project that a folder lies in."""
    return Repository(require_project(directory), Host(), ConsoleReporter(quiet=quiet))


def open_history(directory: str) -> tuple[Repository, History]:
    """Open the store of the project that a folder lies in, and read its records."""
    repository = open_repository(directory)
    history = History(repository.refs.list())
    for experiment in history.rootless:
        repository.reporter.warn(f"experiment {experiment.short} is incomplete: its start is not in the store")
    return repository, history


def find(history: History, revision: str, *, plumbing: bool = False, quiet: bool = False) -> Resolution:
    """Resolve a revision and tell which of several was taken."""
    found = resolve(history, revision, plumbing=plumbing, describe=describe)
    reporter = ConsoleReporter(quiet=quiet)
    for notice in found.notices:
        reporter.notice(notice)
    return found


def describe(experiment: ExperimentHistory) -> str:
    """Return name and age of an experiment, to tell it from others."""
    age = format_age(time.time() - experiment.root.commit.time_ns / 1e9)
    return f"{experiment.root.commit.name}, {age}" if experiment.root.commit.name else age


def parse_pairs(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """Read `name=value` options; values are numbers, true, false, none, JSON, or text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInputError(f"{option} {pair}: it must be NAME=VALUE")
        values[name] = parse_value(value)
    return values
