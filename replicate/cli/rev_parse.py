"""`replicate rev-parse`: revisions to ids."""

from __future__ import annotations

import click

from replicate.cli.cat_file import ObjectFinder
from replicate.cli.options import directory_option, find, open_history


@click.command()
@click.argument("revisions", nargs=-1, required=True, metavar="REVISION...")
@click.option("--short", is_flag=True, help="Print 7 digits")
@directory_option
def command(revisions: tuple[str, ...], short: bool, directory: str) -> None:
    """Print the ids that revisions mean, one per line

    An experiment alone means its root commit. REVISION:PATH gives the id of a blob or tree.
    """
    repository, history = open_history(directory)
    finder = ObjectFinder(repository, history)
    for revision in revisions:
        if ":" in revision:
            wanted = finder.find(revision)[1]
        else:
            wanted = find(history, revision, plumbing=True).record.commit_id
        click.echo(wanted.short if short else wanted.hex())
