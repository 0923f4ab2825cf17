"""`replicate status`: where checkpoints go, and what the worktree has that the last one does not."""

from __future__ import annotations

import os

import click

from replicate.cli.options import directory_option, json_option, open_history
from replicate.cli.render import Cell, cell_text, echo_json, echo_table, json_path, name_commit, quote_path
from replicate.comparing import compare_worktree
from replicate.experiment import status
from replicate.history import ExperimentHistory
from replicate.refs import CommitRecord
from replicate.revisions import label
from replicate.summary import ExperimentSummary
from replicate.text import plural

_SHOWN = 50


@click.command()
@json_option
@directory_option
def command(as_json: bool, directory: str) -> None:
    """Show where checkpoints go and what changed in the worktree

    M modified, A not in the commit yet, D deleted; compared with the commit that was saved or checked out last.
    """
    repository, history = open_history(directory)
    head = repository.read_head()
    changes = compare_worktree(repository, head) if head else []
    running = [one for one in history.summaries if status(one, repository) == "running"]
    if as_json:
        echo_json(
            {
                "project": repository.project.root,
                "repository": repository.project.store,
                "experiments": len(history.summaries),
                "running": [one.experiment_id.hex() for one in running],
                "head": head.commit_id.hex() if head else None,
                "changes": [{"change": change.letter, **json_path(change.path)} for change in changes],
            }
        )
        return
    rows: list[list[Cell]] = [
        ["repository", f"{_shown(repository.project.store)}, {plural(len(history.summaries), 'experiment')}"]
    ]
    if running:
        rows.append(["running", ", ".join(_title(one) for one in running)])
    if head is None:
        rows.append(["worktree", "not saved or checked out here yet" if history.summaries else "not saved yet"])
    else:
        of_head = history.experiment(head.name.experiment, hidden=True)
        name = "".join(map(cell_text, name_commit(of_head, head))) if of_head else label(head)
        rows.append(["worktree", f"{name}, {'with changes' if changes else 'no changes'}"])
        rows += [["", line] for line in _removed(of_head, head)]
    echo_table(rows)
    for change in changes[:_SHOWN]:
        click.echo(f"            {change.letter}  {quote_path(change.path)}")
    if len(changes) > _SHOWN:
        click.echo(f"            … {len(changes) - _SHOWN:,} more, --json lists all")


def _removed(experiment: ExperimentHistory | None, head: CommitRecord) -> list[str]:
    """Return what is to be told of a commit that is in no list any more."""
    if experiment is None:
        return ["its experiment is incomplete: the start is not in the store"]
    if not experiment.hides(head):
        return []
    what, short = ("experiment", experiment.experiment_id) if experiment.is_hidden else ("checkpoint", head.commit_id)
    return [f"the {what} was removed, `replicate undo {short.short}` brings it back"]


def _title(experiment: ExperimentSummary) -> str:
    name = experiment.name
    return experiment.experiment_id.short + (f" {name}" if name else "")


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
