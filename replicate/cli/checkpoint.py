"""`replicate checkpoint`: save from a shell."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import click

from replicate.background import background_push, finish_pushes
from replicate.capture import capture
from replicate.checkpoints import Checkpoint
from replicate.cli.options import directory_option, find, json_option, parse_pairs, parse_primary, quiet_option
from replicate.cli.render import echo_json
from replicate.config import find_project, new_project
from replicate.console import ConsoleReporter
from replicate.errors import ConflictError, InvalidInputError, ReplicateError
from replicate.experiment import status
from replicate.experiment_history import ExperimentHistory
from replicate.host import Host
from replicate.presenting import describe_saved
from replicate.refs import CommitRecord
from replicate.repository import Repository
from replicate.revisions import check_experiment_name, label
from replicate.selection import NamedPath
from replicate.session import Session, select_paths
from replicate.text import format_bytes, format_seconds, plural
from replicate.values import check_primary_metric, check_step, normalise


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--step", type=int, help="Step; one more than the last by default")
@click.option("-m", "--metric", "metrics", multiple=True, metavar="NAME=VALUE", help="A metric; may be repeated")
@click.option("--primary-metric", "primary", metavar="NAME:GOAL", help="What `best` means: loss:minimize")
@click.option("--metrics-only", is_flag=True, help="Save no file")
@click.option("-e", "--experiment", metavar="REVISION", help="Continue this experiment, or this checkpoint")
@click.option("--new", is_flag=True, help="Start a new experiment")
@click.option("--name", help="Start a new experiment with this name")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A param of a new experiment")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag of a new experiment")
@quiet_option
@json_option
@directory_option
def command(
    paths: tuple[str, ...],
    step: int | None,
    metrics: tuple[str, ...],
    primary: str | None,
    metrics_only: bool,
    experiment: str | None,
    new: bool,
    name: str | None,
    params: tuple[str, ...],
    tags: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    directory: str,
) -> None:
    """Save the worktree, or only PATHs of it, with step and metrics

    Continues the experiment that the worktree was last saved in or checked out from (`replicate status` tells), or
    starts one when there is none, or with --new, --name, --param or --tag.
    """
    new = new or name is not None or bool(params or tags)
    if experiment and new:
        raise click.UsageError("-e continues an experiment; it does not go with --new, --name, --param or --tag")
    if metrics_only and paths:
        raise click.UsageError("--metrics-only saves no file; it does not go with PATHs")
    values = normalise(parse_pairs(metrics, "--metric"), "metrics")
    given = normalise(parse_pairs(params, "--param"), "params")
    goal = check_primary_metric(parse_primary(primary), values)
    check_step(step)
    for word in (*(() if name is None else (name,)), *tags):
        check_experiment_name(word)
    reporter = ConsoleReporter(quiet=quiet)
    project = find_project(directory)
    if project is None:
        project = new_project(directory)
        reporter.notice(f"new project: checkpoints are stored in {project.store}")
    selection = () if metrics_only else (_select(project.root, paths) if paths else None)
    repository = Repository(project, Host(), reporter)
    named = None if experiment is None else _named(repository, experiment)
    repository.create()
    continued = named or (None if new else _at_head(repository))
    push = background_push(project, repository.host)
    session = Session(repository, reporter, capture(repository.host, project.root), push)
    if continued is None:
        start = session.begin(given, name, tags, goal, None)
        files = f"{plural(start.files, 'file')}, {format_bytes(start.size_bytes)}"
        duration = format_seconds(start.duration_ns / 1e9)
        reporter.notice(f"experiment {_title(start.base.record)} · {files} · {duration}")
    else:
        session.resume(*continued)
        reporter.notice(f"continuing {_title(continued[0].root)}{_fork(*continued)}, --new starts another")
    record = _save(session, selection, step, values, goal)
    reporter.notice(describe_saved(record, record.commit.primary_metric))
    if as_json:
        echo_json(Checkpoint(repository, record, reporter).to_json())
    finish_pushes(reporter)


def _save(
    session: Session,
    selection: tuple[NamedPath, ...] | None,
    step: int | None,
    metrics: dict[str, Any],
    goal: tuple[str, str] | None,
) -> CommitRecord:
    """Save one checkpoint and end the session with it."""
    try:
        saved = session.checkpoint(selection, step, metrics, goal)
    except BaseException as exc:
        with contextlib.suppress(ReplicateError):  # what went wrong first is what is told
            session.end("stopped" if isinstance(exc, KeyboardInterrupt) else "failed", exception=exc)
        raise
    session.end("finished")
    return saved.base.record


def _title(root: CommitRecord) -> str:
    return root.commit_id.short + (f" {root.commit.name}" if root.commit.name else "")


def _select(root: str, paths: tuple[str, ...]) -> tuple[NamedPath, ...] | None:
    """Return what the paths name; all of it is there, so that a typing error starts no experiment."""
    selection = select_paths(root, os.getcwd(), paths)
    for one in selection or ():
        if not os.path.lexists(one.source):
            raise InvalidInputError(
                f"cannot save {os.fsdecode(one.source)}: it does not exist",
                hint="paths are relative to the current folder",
            )
    return selection


def _named(repository: Repository, revision: str) -> tuple[ExperimentHistory, CommitRecord]:
    """Return the experiment that a revision names and the commit to go on from."""
    found = find(repository.history(), revision, plumbing=True)
    return found.experiment, found.experiment.heads[-1] if found.is_whole_experiment else found.record


def _fork(experiment: ExperimentHistory, after: CommitRecord) -> str:
    """Return what is to be told of a commit that others continued before."""
    is_head = any(head.commit_id == after.commit_id for head in experiment.heads)
    return "" if is_head else f" after {label(after)}, which forks it"


def _at_head(repository: Repository) -> tuple[ExperimentHistory, CommitRecord] | None:
    """Return the experiment and the commit that the worktree was last saved in or checked out from, if there is one."""
    history = repository.history()
    head = repository.read_head()
    of_head = history.experiment(head.name.experiment) if head else None
    absent = repository.head_name if head is None else None
    if absent is not None and repository.project.repository:
        short = absent.experiment.short
        raise ConflictError(
            f"the worktree was checked out from experiment {short}, which is not on this machine",
            hint=f"`replicate pull {short}` it to continue it, or start another with --new",
        )
    if head is None or of_head is None:
        return None
    if status(of_head.summary, repository) == "running":
        raise ConflictError(
            f"experiment {of_head.experiment_id.short} is running; a checkpoint from here would fork it",
            hint=f"start another with --new, or fork it with -e {of_head.experiment_id.short}",
        )
    return of_head, head
