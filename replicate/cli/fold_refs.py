"""`replicate fold-refs`: fold old ref records into catalogs."""

from __future__ import annotations

import click

from replicate.cli.options import directory_option, json_option, open_repository
from replicate.cli.render import echo_json
from replicate.maintenance.folding import fold
from replicate.text import plural


@click.command()
@json_option
@directory_option
def command(as_json: bool, directory: str) -> None:
    """Fold ref records that are a day old into catalogs, which list faster

    A record is deleted a day after a catalog that holds it was written, by a later fold. Nothing else changes: every
    command shows the same before and after. Safe to run at any time, by several at once, and to interrupt. A session
    that ends does it too, once a day at most, when there are some 25,000 records of two days or more.
    """
    done = fold(open_repository(directory))
    if as_json:
        echo_json({"records": done.records, "catalogs": list(done.catalogs), "deleted": done.deleted})
        return
    click.echo(
        f"{plural(done.records, 'record')} folded into {plural(len(done.catalogs), 'catalog')}, "
        f"{plural(done.deleted, 'key')} deleted that catalogs hold"
    )
