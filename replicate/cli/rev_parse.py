"""`replicate rev-parse`: revisions to ids."""

from __future__ import annotations

import click

from replicate.cli.cat_file import ObjectFinder
from replicate.cli.options import StorePlace, find, open_history, store_option


@click.command()
@click.argument("revisions", nargs=-1, required=True, metavar="REVISION...")
@click.option("--short", is_flag=True, help="Print 7 digits")
@store_option
def command(revisions: tuple[str, ...], short: bool, store: StorePlace) -> None:
    """Print the ids that revisions mean, one per line

    An experiment alone means its root commit. REVISION:PATH gives the id of a blob or tree.
    """
    repository, history = open_history(store)
    finder = ObjectFinder(repository, history)
    for revision in revisions:
        if ":" in revision:
            wanted = finder.find(revision)[1]
        else:
            wanted = find(history, revision, plumbing=True).record.commit_id
        click.echo(wanted.short if short else wanted.hex())
