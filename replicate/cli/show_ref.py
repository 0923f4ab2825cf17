"""`replicate show-ref`: the ref records of a store, one by one."""

from __future__ import annotations

import re

import click

from replicate.cli.options import StorePlace, describe, json_option, open_repository, store_option
from replicate.cli.render import echo_json
from replicate.objects.ids import ObjectID
from replicate.refs.names import NO_SUBJECT
from replicate.repository import Repository
from replicate.revisions import resolve_experiment

_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


@click.command()
@click.option("-e", "--experiment", metavar="REVISION", help="List the records of this experiment only")
@click.option("-z", "with_nul", is_flag=True, help="End lines with NUL")
@json_option
@store_option
def command(experiment: str | None, with_nul: bool, as_json: bool, store: StorePlace) -> None:
    """List ref records: kind, experiment, seq, session, subject, hash

    Everything that was ever published, also what is hidden; in the order of their keys. Damaged records are told on
    stderr and left out.
    """
    repository = open_repository(store)
    names = [one.name for one in repository.refs.list(_experiment(repository, experiment))]
    if as_json:
        echo_json(
            [
                {
                    "kind": name.kind,
                    "experiment": name.experiment.hex(),
                    "seq": name.seq,
                    "session": name.session,
                    "subject": None if name.subject == NO_SUBJECT else name.subject,
                    "hash": name.record_hash,
                    "key": name.key,
                }
                for name in names
            ]
        )
        return
    for name in names:
        words = (name.kind, name.experiment.hex(), str(name.seq), name.session, name.subject, name.record_hash)
        click.echo(" ".join(words) + ("\0" if with_nul else "\n"), nl=False)


def _experiment(repository: Repository, revision: str | None) -> ObjectID | None:
    """Return the id of an experiment; a whole one is taken as it is, as its root may be what is damaged."""
    if revision is None or _ID.fullmatch(revision):
        return None if revision is None else ObjectID.parse(revision)
    return resolve_experiment(repository.history(), revision, describe=describe).experiment_id
