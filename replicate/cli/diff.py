"""`replicate diff`: what differs between two commits, or a commit and the worktree."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from replicate.cli.difference import difference_json, echo_difference, echo_stat
from replicate.cli.options import StorePlace, clean_path, find, open_history, project_path, store_option
from replicate.cli.patches import echo_patch
from replicate.cli.render import Cell, echo_json, name_commit, quote_path
from replicate.diff import Difference, Side, diff_commits, diff_entries, diff_worktree
from replicate.errors import InvalidInputError, PathNotFoundError, RevisionNotFoundError
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.revisions import Resolution
from replicate.worktree.trees import find_entry, iter_tree

_SUGGESTIONS = 3


class _DiffCommand(click.Command):
    """Keeps what follows `--` apart from the revisions."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["paths"] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- PATH...]"]


@click.command(cls=_DiffCommand)
@click.argument("revisions", nargs=-1, metavar="[A [B]]")
@click.option("-p", "--patch", "form", flag_value="patch", help="Print a patch of all text files and nothing else")
@click.option("--stat", "form", flag_value="stat", help="List all files that differ, with lines or sizes")
@click.option("--name-only", "form", flag_value="names", help="Print the paths of files that differ")
@click.option("--json", "form", flag_value="json", help="Print JSON")
@click.option("-z", "with_nul", is_flag=True, help="With --name-only: end paths with NUL and do not quote them")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when anything differs")
@store_option
@click.pass_context
def command(
    ctx: click.Context,
    revisions: tuple[str, ...],
    form: str | None,
    with_nul: bool,
    exit_code: bool,
    store: StorePlace,
) -> int:
    """Show what differs between two commits, or a commit and the worktree

    A and B are revisions; without B the worktree is compared with A, without A with the commit that was saved or
    checked out last. PATHs, files and folders, limit which files are compared; they are relative to the current
    folder, or else to the project. A:PATH B:PATH compares two files. Of experiments params, metrics, packages, Git
    commit and command are compared too. Of weight files the tensors that changed most are shown, and all of them if the
    file is a PATH: Δ is by how much their values changed, ‖Δ‖/‖A‖ how large that is beside what they were. Those in
    which NaN or infinities appeared or went come first, with how many there were and are.
    """
    if with_nul and form != "names":
        raise InvalidInputError("-z goes with --name-only")
    repository, history = open_history(store)
    asked = _ask(repository, history, revisions, ctx.meta["paths"])
    difference = asked.difference
    if form == "json":
        echo_json(difference_json(difference, asked.named))
    elif form == "names":
        _echo_names(difference, with_nul)
    elif not difference:
        click.echo("no differences", err=True)
    elif form == "patch":
        echo_patch(difference)
    elif form == "stat":
        echo_stat(difference)
    else:
        echo_difference(difference, asked.title, asked.files, asked.named)
    return 1 if exit_code and difference else 0


@dataclass(frozen=True)
class _Asked:
    """What differs.

    Attributes:
        title: What is compared, in words.
        files: How many files the last of the two has, when all are compared.
        named: The paths that were asked for.
    """

    difference: Difference
    title: list[Cell]
    files: int | None = None
    named: frozenset[str] = frozenset()


def _ask(repository: Repository, history: History, revisions: Sequence[str], paths: Sequence[str]) -> _Asked:
    if len(revisions) > 2:
        raise click.UsageError(
            f"{revisions[2]!r} is one revision too many; paths come after --", click.get_current_context()
        )
    if repository.is_elsewhere and len(revisions) < 2:
        raise click.UsageError(
            "-R reads a store that has no worktree here: name two revisions", click.get_current_context()
        )
    if not revisions:
        head = repository.read_head()
        experiment = history.experiment(head.name.experiment, hidden=True) if head else None
        if head is None or experiment is None:
            raise RevisionNotFoundError(
                "nothing was saved or checked out here yet", hint="name a commit: `replicate diff latest`"
            )
        return _with_worktree(repository, experiment, head, paths)
    found = [_find(history, revision) for revision in revisions]
    sides = [Side(repository, one.experiment, one.record) for one in found]
    named = [clean_path(one.path) for one in found if one.path]
    if named and (paths or len(named) < len(found)):
        raise InvalidInputError(
            "a revision with a path is compared with another such, and with nothing after --",
            hint=f"`replicate diff A B -- {os.fsdecode(named[0])}` compares one path of two commits",
        )
    if len(sides) == 1:
        return _with_worktree(repository, found[0].experiment, found[0].record, paths, named)
    title: list[Cell] = ["Comparing ", *_name(sides[0]), " with ", *_name(sides[1])]
    if named:
        return _Asked(diff_entries(sides[0], named[0], sides[1], named[1]), title, None, _names(named))
    wanted = _resolve(repository, [side.record for side in sides], paths)
    files = None if wanted else sides[1].record.files
    return _Asked(diff_commits(sides[0], sides[1], wanted), title, files, _names(wanted))


def _names(paths: list[bytes]) -> frozenset[str]:
    return frozenset(map(os.fsdecode, paths))


def _resolve(
    repository: Repository, records: Sequence[CommitRecord], paths: Sequence[str], named: Sequence[bytes] = ()
) -> list[bytes]:
    """Return paths, and those that are named as trees have them: one side has each. One record: the worktree too."""
    root = repository.project.root

    def exists(path: bytes) -> bool:
        if len(records) == 1 and os.path.lexists(os.path.join(os.fsencode(root), path)):
            return True
        return any(find_entry(repository.objects(one.locator), one.commit.tree, path) for one in records)

    wanted = [*named, *(project_path(root, path, exists) for path in paths)]
    missing = next((path for path in wanted if not exists(path)), None)
    if missing is not None:
        raise _not_found(repository, records, missing)
    return wanted


def _not_found(repository: Repository, records: Sequence[CommitRecord], path: bytes) -> PathNotFoundError:
    """Return the error for a path that neither side has; its hint names those that may be meant."""
    names = list(dict.fromkeys(one.commit_id.short for one in records))
    if len(records) == 1:
        names.append("the worktree")
    said = f"{names[0]} has no" if len(names) == 1 else f"neither {names[0]} nor {names[1]} has"
    known = {one for record in records for one, _ in iter_tree(repository.objects(record.locator), record.commit.tree)}
    near = sorted(one for one in known if one.endswith(b"/" + path))
    if not near:
        close = difflib.get_close_matches(os.fsdecode(path), map(os.fsdecode, sorted(known)), _SUGGESTIONS)
        near = [os.fsencode(one) for one in close]
    if near:
        hint = f"did you mean {' or '.join(map(quote_path, near[:_SUGGESTIONS]))}?"
    else:
        hint = f"`replicate ls-tree -r {names[0]}` lists {'its ' if len(names) == 1 else ''}files"
    return PathNotFoundError(f"{said} '{quote_path(path)}'", hint=hint)


def _find(history: History, revision: str) -> Resolution:
    try:
        return find(history, revision)
    except RevisionNotFoundError as exc:
        if "/" in revision or os.path.lexists(revision):
            raise RevisionNotFoundError(
                exc.message, hint=f"paths come after --: `replicate diff -- {revision}`"
            ) from exc
        raise


def _with_worktree(
    repository: Repository,
    experiment: ExperimentHistory,
    record: CommitRecord,
    paths: Sequence[str],
    named: Sequence[bytes] = (),
) -> _Asked:
    wanted = _resolve(repository, [record], paths, named)
    title: list[Cell] = ["Comparing ", *name_commit(experiment, record), " with the worktree"]
    files = None if wanted else record.files
    return _Asked(diff_worktree(repository, record, wanted), title, files, _names(wanted))


def _name(side: Side) -> list[Cell]:
    return name_commit(side.experiment, side.record)


def _echo_names(difference: Difference, with_nul: bool) -> None:
    sys.stdout.flush()
    for change in difference.files:
        path = os.fsencode(change.path)
        sys.stdout.buffer.write(path + b"\0" if with_nul else os.fsencode(quote_path(path)) + b"\n")
    sys.stdout.buffer.flush()
