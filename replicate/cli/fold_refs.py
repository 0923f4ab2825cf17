"""`replicate fold-refs`: fold old ref records into catalogs."""

from __future__ import annotations

import click

from replicate.cli.options import StorePlace, json_option, open_repository, store_option
from replicate.cli.render import echo_json
from replicate.config import cache_folder
from replicate.console import ConsoleReporter
from replicate.host import Host
from replicate.maintenance.folding import Foldable, StoreElsewhere, fold
from replicate.repository import open_elsewhere, open_store
from replicate.text import plural


@click.command()
@store_option
@json_option
def command(store: StorePlace, as_json: bool) -> None:
    """Fold ref records that are a day old into catalogs, which list faster

    A record is deleted a day after a catalog that holds it was written, by a later fold. Nothing else changes: every
    command shows the same before and after. Safe to run at any time, by several at once, and to interrupt. A session
    that ends does it too, here and in the repository that it is pushed to, once a day at most, when there are some
    25,000 records of two days or more.
    """
    done = fold(_open(store))
    if as_json:
        echo_json({"records": done.records, "catalogs": list(done.catalogs), "deleted": done.deleted})
        return
    click.echo(
        f"{plural(done.records, 'record')} folded into {plural(len(done.catalogs), 'catalog')}, "
        f"{plural(done.deleted, 'key')} deleted that catalogs hold"
    )


def _open(store: StorePlace) -> Foldable:
    if store.place is None:
        return open_repository(store.directory)
    transport = open_store(store.place, Host(), store.storage_options())
    found = open_elsewhere(store.place, transport, cache_folder())
    return StoreElsewhere(found.transport, found.place, ConsoleReporter())
