"""`replicate commit-tree`: make a commit of a tree that the store holds."""

from __future__ import annotations

import click

from replicate.capture import capture
from replicate.cli.cat_file import ObjectFinder
from replicate.cli.options import directory_option, find, open_history, parse_pairs, parse_primary
from replicate.errors import InvalidInputError
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.refs import CommitRecord
from replicate.revisions import check_experiment_name
from replicate.session import Session
from replicate.values import check_primary_metric, check_step, normalise


@click.command()
@click.argument("tree", metavar="TREE")
@click.option("-p", "--parent", metavar="REVISION", help="Make a checkpoint after this commit")
@click.option("-e", "--experiment", metavar="REVISION", help="Make a checkpoint after the newest of this experiment")
@click.option("--new", is_flag=True, help="Start an experiment; with -p, as forked from that commit")
@click.option("--step", type=int, help="Step of a checkpoint; one more than the parent's by default")
@click.option("-m", "--metric", "metrics", multiple=True, metavar="NAME=VALUE", help="A metric of a checkpoint")
@click.option("--primary-metric", "primary", metavar="NAME:GOAL", help="What `best` means: loss:minimize")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A param of a new experiment")
@click.option("--name", help="The name of a new experiment")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag of a new experiment")
@directory_option
def command(
    tree: str,
    parent: str | None,
    experiment: str | None,
    new: bool,
    step: int | None,
    metrics: tuple[str, ...],
    primary: str | None,
    params: tuple[str, ...],
    name: str | None,
    tags: tuple[str, ...],
    directory: str,
) -> None:
    """Commit a tree that the store holds, publish the commit, and print its id

    Without -p and -e it starts an experiment. TREE is an id, REVISION:PATH, or a revision, whose tree is meant. All
    that is below it has to be in the store. The worktree has no part in it, and `status` does not follow.
    """
    is_root = new or (parent is None and experiment is None)
    _check(is_root, parent, experiment, for_root=(params, name, tags), for_checkpoint=(step, metrics))
    values = normalise(parse_pairs(metrics, "--metric"), "metrics")
    given = normalise(parse_pairs(params, "--param"), "params")
    goal = check_primary_metric(parse_primary(primary), None if is_root else values)
    check_step(step)
    for word in (*(() if name is None else (name,)), *tags):
        check_experiment_name(word)
    repository, history = open_history(directory)
    _, wanted = ObjectFinder(repository, history).find_tree(tree)
    after = _after(history, parent, experiment)
    session = Session(repository, repository.reporter, capture(repository.host, repository.project.root))
    if is_root or after is None:
        saved = session.begin(given, name, tags, goal, after[1] if after else None, tree=wanted)
    else:
        saved = session.append(*after, wanted, step, values, goal)
    session.end("finished")
    click.echo(saved.base.record.commit_id.hex())


def _check(
    is_root: bool,
    parent: str | None,
    experiment: str | None,
    *,
    for_root: tuple[object, ...],
    for_checkpoint: tuple[object, ...],
) -> None:
    if experiment and (parent or is_root):
        raise click.UsageError("-e does not go with -p and --new")
    if is_root and any(one not in (None, ()) for one in for_checkpoint):
        raise click.UsageError("--step and --metric belong to a checkpoint: name its parent with -p or -e")
    if not is_root and any(one not in (None, ()) for one in for_root):
        raise click.UsageError(
            "--param, --name and --tag belong to a new experiment: leave -p and -e out, or add --new"
        )


def _after(
    history: History, parent: str | None, experiment: str | None
) -> tuple[ExperimentHistory, CommitRecord] | None:
    """Return the commit that the new one follows, and the experiment that it is of."""
    revision = parent or experiment
    if revision is None:
        return None
    found = find(history, revision, plumbing=True)
    if found.path is not None:
        raise InvalidInputError(f"{revision} names a path, not a commit", hint="leave out what follows the colon")
    return found.experiment, found.experiment.heads[-1] if experiment else found.record
