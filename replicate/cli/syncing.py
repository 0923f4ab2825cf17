"""What `push` and `pull` share: where the other store is, what revisions select, and telling what was done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from replicate.cli.options import StorePlace, find_itself, place_option
from replicate.cli.render import echo_json
from replicate.config import Project
from replicate.errors import CorruptionError, InvalidInputError, ReplicateError, StorageError
from replicate.history import History
from replicate.host import Host
from replicate.objects.ids import ObjectID
from replicate.reporting import Reporter
from replicate.sync import Copied, Selection, is_damage
from replicate.text import format_bytes, plural
from replicate.transport import LocalTransport, Transport

if TYPE_CHECKING:
    from replicate.transport.remote import Patience

_F = TypeVar("_F", bound=Callable[..., Any])
_TOLD_FAILURES = 5

_OPTIONS = (
    place_option,
    click.option("--dry-run", is_flag=True, help="Tell only what would be copied"),
    click.option(
        "-j", "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="How many transfers at a time"
    ),
)


def sync_options(function: _F) -> _F:
    """Give a command the options of both."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def open_other(project: Project, given: str | None, host: Host, patience: Patience | None = None) -> Transport:
    """Return the other store: the one that was named, else that of `replicate.yaml`.

    Storage elsewhere that has not answered yet is given up soon, as a person waits, unless `patience` says otherwise.

    Raises:
        InvalidInputError: None is named, or it is the project's own.
    """
    from replicate.transport.remote import brief_at_first, open_transport

    place = project.repository if given is None else given
    if not place:
        raise InvalidInputError(
            "there is no other store to copy from or to",
            hint="name one with -R URL, or as `repository: URL` in replicate.yaml",
        )
    options = StorePlace(project.root, place).storage_options()
    transport = open_transport(place, options, patience=patience or brief_at_first(), host=host)
    if isinstance(transport, LocalTransport) and os.path.realpath(transport.root) == os.path.realpath(project.store):
        raise InvalidInputError(f"{place} is this project's own store", hint="name another one with -R URL")
    return transport


def select(history: History, revisions: Sequence[str], *, quiet: bool) -> Selection | None:
    """Return what revisions mean: whole experiments, or single checkpoints of them; None for everything."""
    if not revisions:
        return None
    selected: dict[ObjectID, frozenset[ObjectID] | None] = {}
    for revision in revisions:
        found = find_itself(history, revision, quiet=quiet)
        if found.path is not None:
            raise InvalidInputError(
                f"{revision} names a file; checkpoints are copied as a whole", hint="leave out what follows the colon"
            )
        experiment = found.experiment.experiment_id
        before = selected.get(experiment, frozenset())
        is_whole = found.is_whole_experiment or before is None
        selected[experiment] = None if is_whole else (before or frozenset()) | {found.record.commit_id}
    return selected


def tell(done: Copied, reporter: Reporter, *, verb: str, dry_run: bool, as_json: bool) -> None:
    """Tell what was copied, and raise what went wrong.

    Args:
        done: What was copied.
        reporter: Hears of it.
        verb: `push` or `pull`.
        dry_run: Whether it only would be.
        as_json: Print it as JSON too.

    Raises:
        CorruptionError, StorageError: Something was left.
    """
    if as_json:
        echo_json(_json(done, dry_run=dry_run))
    for failure in done.failures[:_TOLD_FAILURES]:
        reporter.warn(failure.error.message)
    if len(done.failures) > _TOLD_FAILURES:
        reporter.warn(f"and {plural(len(done.failures) - _TOLD_FAILURES, 'more failure')}")
    if done.records or done.packs:
        reporter.notice(f"{'would ' + verb if dry_run else verb + 'ed'} {_describe(done)}")
    elif not done.failures:
        reporter.notice(f"there is nothing to {verb} yet" if done.is_empty else "everything is there already")
    if done.failures or done.left:
        raise _error(done, verb)


def _describe(done: Copied) -> str:
    """Return: 2 experiments, 14 checkpoints: 84 MB in 16 packs."""
    what = [plural(len(done.experiments), "experiment")] if done.experiments else []
    what += [plural(done.checkpoints, "checkpoint")] if done.checkpoints else []
    size = f"{format_bytes(done.size_bytes)} in {plural(done.packs, 'pack')}" if done.packs else ""
    return f"{', '.join(what)}: {size or plural(done.records, 'record')}" if what else size


def _error(done: Copied, verb: str) -> ReplicateError:
    left = f"{plural(done.left or len(done.failures), 'record')} could not be {verb}ed; what was {verb}ed stays"
    last = done.failures[-1].error if done.failures else None
    if is_damage(done):
        return CorruptionError(left, where=done.failures[0].key, hint=last.hint if last else None)
    hint = last.hint if last and last.hint else f"repeat `replicate {verb}`: it goes on from there"
    return StorageError(left, key=done.failures[-1].key if done.failures else "", hint=hint)


def _json(done: Copied, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "experiments": [one.hex() for one in done.experiments],
        "checkpoints": done.checkpoints,
        "records": done.records,
        "packs": done.packs,
        "bytes": done.size_bytes,
        "left": done.left,
        "failures": [{"key": one.key, "kind": one.error.kind, "message": one.error.message} for one in done.failures],
    }
