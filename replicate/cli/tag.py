"""`replicate tag`: words for commits, names and notes."""

from __future__ import annotations

from typing import Any

import click

from replicate.cli.options import (
    StorePlace,
    directory_option,
    find_itself,
    json_option,
    open_history,
    push_soon,
    quiet_option,
)
from replicate.cli.render import Cell, echo_json, echo_table
from replicate.console import ConsoleReporter
from replicate.errors import ConflictError, InvalidInputError, NotFoundError
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.lifecycle import Change, Holder, change_tags, holders
from replicate.objects.ids import ObjectID
from replicate.repository import Repository
from replicate.revisions import Resolution


@click.command()
@click.argument("revision", required=False)
@click.argument("tags", metavar="[TAG]...", nargs=-1)
@click.option("-d", "--delete", "remove", multiple=True, metavar="TAG", help="Take a tag away; without REVISION too")
@click.option("--name", metavar="NAME", help='Name the experiment; "" takes its name away')
@click.option("--note", metavar="TEXT", help='Replace the note; "" takes it away')
@click.option("-f", "--force", is_flag=True, help="Move a word that is another's tag or name")
@quiet_option
@json_option
@directory_option
def command(
    revision: str | None,
    tags: tuple[str, ...],
    remove: tuple[str, ...],
    name: str | None,
    note: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    directory: str,
) -> int:
    """Give tags, a name or a note to an experiment or a checkpoint, or list all tags

    A tag is a revision: it means the one commit that has it, in the whole store. An experiment alone means the
    experiment itself. With REVISION only, its tags, name and note are printed. Exits with 1 when there is none.
    """
    is_change = bool(tags or remove or name is not None or note is not None)
    repository, history = open_history(StorePlace(directory))
    if revision is None:
        if remove and name is None and note is None and not (force or as_json):
            _take_away(repository, history, tuple(dict.fromkeys(remove)), quiet=quiet)
            return 0
        if is_change or force:
            raise click.UsageError("name the REVISION whose tags, name or note are to change")
        return _list(history, as_json=as_json)
    found = find_itself(history, revision, quiet=quiet)
    if found.path is not None:
        raise InvalidInputError(
            f"{revision} names a file; tags are for commits", hint="leave out what follows the colon"
        )
    own = found.record.commit_id
    if is_change:
        experiment_id = found.experiment.experiment_id
        _check_removed(history, own, remove)
        change = Change(experiment_id, own, tuple(dict.fromkeys(tags)), tuple(dict.fromkeys(remove)), name, note)
        changes = change_tags(repository, history, change, force=force)
        push_soon(repository)
        if not quiet:
            _tell(ConsoleReporter(), changes)
        history = repository.history()
        after = history.experiment(experiment_id)
        assert after is not None
        found = Resolution(after.commits[own], after)
    if as_json:
        echo_json(_json(found))
    elif not is_change:
        return _print(found, ConsoleReporter(quiet=quiet))
    return 0


def _take_away(repository: Repository, history: History, tags: tuple[str, ...], *, quiet: bool) -> None:
    """Take tags from the commits that have them: a tag means one."""
    changes = []
    for tag in tags:
        having = _having(history, tag)
        if not having:
            raise NotFoundError(f"nothing is tagged {tag!r}", hint="`replicate tag` lists all tags")
        if len(having) > 1:
            raise ConflictError(
                f"{len(having)} commits are tagged {tag!r}: {_listed(having)}",
                hint=f"name one: `replicate tag {having[0].commit.short} -d {tag}`",
            )
        changes.append(Change(having[0].experiment, having[0].commit, remove=(tag,)))
    for change in changes:
        done = change_tags(repository, history, change)
        if not quiet:
            _tell(ConsoleReporter(), done)
    push_soon(repository)


def _having(history: History, tag: str) -> list[Holder]:
    return [one for one in holders(history, tag) if one.role == "tag"]


def _listed(having: list[Holder]) -> str:
    return ", ".join(one.commit.short for one in having[:3]) + (", …" if len(having) > 3 else "")


def _check_removed(history: History, own: ObjectID, tags: tuple[str, ...]) -> None:
    """Refuse to take away a tag that a commit has not, and say which one has it."""
    for tag in tags:
        having = _having(history, tag)
        if having and own not in [one.commit for one in having]:
            raise NotFoundError(
                f"{own.short} has no tag {tag!r}: it is that of {_listed(having)}",
                hint=f"`replicate tag {having[0].commit.short} -d {tag}` takes it away",
            )


def _tell(reporter: ConsoleReporter, changes: list[Change]) -> None:
    for change in changes:
        done = []
        if change.add:
            done.append(f"tagged {', '.join(change.add)}")
        if change.remove:
            done.append(f"not tagged {', '.join(change.remove)} any more")
        if change.name is not None:
            done.append(f"named {change.name}" if change.name else "without a name")
        if change.note is not None:
            done.append("noted" if change.note else "without a note")
        reporter.notice(f"{change.commit.short} is {' · '.join(done)}")


def _print(found: Resolution, reporter: ConsoleReporter) -> int:
    experiment, own = found.experiment, found.record.commit_id
    rows: list[list[Cell]] = []
    if found.record.commit.is_root and experiment.name:
        rows.append(["name", experiment.name])
    if experiment.tags_of(own):
        rows.append(["tags", ", ".join(experiment.tags_of(own))])
    for number, line in enumerate(experiment.note_of(own).splitlines()):
        rows.append(["" if number else "note", line])
    echo_table(rows)
    if not rows:
        reporter.notice(f"{own.short} has no tags, name or note")
    return 0 if rows else 1


def _json(found: Resolution) -> dict[str, Any]:
    own = found.record.commit_id
    return {
        "id": own.hex(),
        "experiment": found.experiment.experiment_id.hex(),
        "name": found.experiment.name if found.record.commit.is_root else None,
        "tags": list(found.experiment.tags_of(own)),
        "note": found.experiment.note_of(own),
    }


def _list(history: History, *, as_json: bool) -> int:
    listed: list[tuple[str, ObjectID, ExperimentHistory | None, str | None]] = []
    for one in history.summaries:
        listed += [(tag, one.experiment_id, None, one.name) for tag in one.tags]
        experiment = history.experiment(one.experiment_id) if one.checkpoint_tags else None
        for commit, tags in one.checkpoint_tags.items():
            listed += [(tag, commit, experiment, one.name) for tag in tags]
    listed.sort(key=lambda item: item[:2])
    if as_json:
        echo_json(
            [
                {
                    "tag": tag,
                    "id": commit.hex(),
                    "experiment": (experiment.experiment_id if experiment else commit).hex(),
                    "name": name,
                }
                for tag, commit, experiment, name in listed
            ]
        )
    elif listed:
        echo_table([[tag, (commit.short, "yellow"), *_what(commit, of, name)] for tag, commit, of, name in listed])
    else:
        click.echo("no tags yet", err=True)
    return 0 if listed else 1


def _what(commit: ObjectID, of: ExperimentHistory | None, name: str | None) -> list[Cell]:
    named = f" {name}" if name else ""
    if of is None:
        return [f"experiment{named}"]
    return [f"step {of.commits[commit].commit.step} of {of.experiment_id.short}{named}"]
