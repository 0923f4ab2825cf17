"""`replicate doctor`: does the storage do what a store needs?"""

from __future__ import annotations

import click

from replicate.cli.options import StorePlace, json_option, store_option
from replicate.cli.render import Cell, echo_json, echo_line, echo_table
from replicate.config import require_project
from replicate.errors import StorageError
from replicate.host import Host
from replicate.maintenance.doctor import Finding, examine
from replicate.repository import open_store
from replicate.text import plural
from replicate.transport import LocalTransport, Transport


@click.command()
@json_option
@store_option
def command(as_json: bool, store: StorePlace) -> int:
    """Try out whether the storage of the repository does what a store needs

    Writes some keys, 8 MiB in all, and deletes them: nothing is left behind, and nothing else is touched. Exits with 6
    when something is wrong.
    """
    transport, place = _open(store)
    findings = []
    rows: list[list[Cell]] = []
    for finding in examine(transport, place, Host()):
        findings.append(finding)
        rows.append([finding.name, ("ok", "green") if finding.is_ok else ("wrong", "red"), finding.text])
        rows += [["", "", f"do: {finding.advice}"]] if finding.advice else []
    wrong = sum(not one.is_ok for one in findings)
    if as_json:
        echo_json({"repository": place, "ok": not wrong, "findings": [_json(one) for one in findings]})
    else:
        echo_line([place])
        echo_table(rows)
        told = f"{plural(wrong, 'thing')} {'is' if wrong == 1 else 'are'} wrong" if wrong else "all is in order"
        click.echo(told, err=True)
    return StorageError.exit_code if wrong else 0


def _open(store: StorePlace) -> tuple[Transport, str]:
    """Return the storage that was named, else that of the project."""
    if store.place is not None:
        return open_store(store.place, Host(), store.storage_options()), store.place
    project = require_project(store.directory)
    if not project.repository:
        return LocalTransport(project.store, durability=project.durability), project.store
    return open_store(project.repository, Host(), project.storage), project.repository


def _json(finding: Finding) -> dict[str, object]:
    return {
        "name": finding.name,
        "ok": finding.is_ok,
        "text": finding.text,
        "advice": finding.advice,
        "value": finding.value,
    }
