"""`replicate rev-list`: the ids of commits, by their parents."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import click

from replicate.cli.options import StorePlace, find, json_option, open_history, store_option
from replicate.cli.render import echo_json
from replicate.errors import InvalidInputError
from replicate.history import History
from replicate.refs import CommitRecord
from replicate.walking import newest_first, reachable


@click.command()
@click.argument("revisions", nargs=-1, metavar="[REVISION]...")
@click.option("--all", "everything", is_flag=True, help="List the commits of every experiment")
@click.option("--parents", "with_parents", is_flag=True, help="Print the parent's id after each")
@click.option("-n", "--max-count", "limit", type=click.IntRange(min=0), metavar="N", help="Print at most N")
@json_option
@store_option
def command(
    revisions: tuple[str, ...],
    everything: bool,
    with_parents: bool,
    limit: int | None,
    as_json: bool,
    store: StorePlace,
) -> None:
    """List the ids of commits that revisions lead to, newest first

    A commit and all that it follows; an experiment alone: all of its commits. ^X leaves out X and all that X follows;
    X..Y is ^X Y.
    """
    if not revisions and not everything:
        raise click.UsageError("name a REVISION, or use --all")
    _, history = open_history(store)
    wanted = list(history.records()) if everything else []
    unwanted: list[CommitRecord] = []
    for revision in revisions:
        for text, is_wanted in _split(revision):
            (wanted if is_wanted else unwanted).extend(_tips(history, text))
    without = reachable(history, unwanted)
    commits = {one: record for one, record in reachable(history, wanted).items() if one not in without}
    _print(history, itertools.islice(newest_first(history, commits), limit), with_parents, as_json)


def _split(text: str) -> list[tuple[str, bool]]:
    """Return the revisions in an argument, and whether their commits are wanted."""
    below, dots, above = text.partition("..")
    if dots:
        if not below or not above:
            raise InvalidInputError(f"{text!r} is no range: it must be X..Y")
        return [(below, False), (above, True)]
    return [(text.removeprefix("^"), not text.startswith("^"))]


def _tips(history: History, revision: str) -> tuple[CommitRecord, ...]:
    """Return the commits that a revision names: of an experiment alone, every one that none follows."""
    found = find(history, revision, plumbing=True)
    if found.path is not None:
        raise InvalidInputError(f"{revision} names a path, not a commit", hint="leave out what follows the colon")
    return found.experiment.heads if found.is_whole_experiment else (found.record,)


def _print(history: History, records: Iterable[CommitRecord], with_parents: bool, as_json: bool) -> None:
    listed = []
    for record in records:
        parent = history.parent_of(record) if with_parents or as_json else None
        if as_json:
            listed.append(
                {
                    "id": record.commit_id.hex(),
                    "parent": parent.commit_id.hex() if parent else None,
                    "experiment": record.name.experiment.hex(),
                    "seq": record.commit.seq,
                    "step": record.commit.step,
                    "time_ns": record.commit.time_ns,
                }
            )
        else:
            click.echo(" ".join(one.commit_id.hex() for one in (record, parent) if one is not None))
    if as_json:
        echo_json(listed)
