"""`replicate fsck`: is everything in the store as it was saved?"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import click

from replicate.cli.options import StorePlace, find, json_option, quiet_option, store_option
from replicate.cli.render import echo_json, echo_line, json_path, quote_path
from replicate.config import require_project
from replicate.console import ConsoleReporter
from replicate.errors import CorruptionError
from replicate.history import History
from replicate.host import Host
from replicate.maintenance.fsck import DEFAULT_LEVEL, LEVELS, fsck
from replicate.maintenance.report import Affected, Damage, Report
from replicate.objects.ids import ObjectID
from replicate.refs import RefStore
from replicate.repository import no_store_at, open_store
from replicate.text import format_bytes, format_seconds, plural
from replicate.transport import LocalTransport, Transport

_SHOWN_PATHS = 3
_UNREAD = {
    0: "packs were not looked for, and the bytes of files not read",
    1: "packs were not looked into, and the bytes of files not read",
    2: "the bytes of files were not read",
}
_LONG_ID = re.compile(r"\b([0-9a-f]{7})[0-9a-f]{57}\b")  # in a sentence, beside the whole key below it


@click.command()
@click.argument("revisions", nargs=-1, metavar="[REVISION]...")
@click.option(
    "--level",
    type=click.Choice([str(level) for level in LEVELS]),
    help="0 records, 1 packs are there, 2 what lies where (the default), 4 every byte",
)
@click.option("--full", is_flag=True, help="Read and check every byte: --level 4")
@json_option
@quiet_option
@store_option
def command(
    revisions: tuple[str, ...], level: str | None, full: bool, as_json: bool, quiet: bool, store: StorePlace
) -> int:
    """Check that the store is whole, and tell what any damage affects

    With REVISIONs only what these commits need is looked into; an experiment means all of it. Nothing is written. Exits
    with 5 when there is damage.
    """
    wanted = max(LEVELS) if full else int(level or DEFAULT_LEVEL)
    if level is not None and int(level) != wanted:
        raise click.UsageError(f"--full is --level {wanted}; it does not go with --level {level}")
    transport, place = _open(store)
    reporter = ConsoleReporter(quiet=quiet)
    began = time.monotonic()
    commits = _commits(transport, revisions) if revisions else None
    report = fsck(transport, place, reporter, level=wanted, commits=commits)
    if as_json:
        echo_json(_json(report))
    else:
        for damage in report.damage:
            _echo_damage(damage, wanted)
        if not quiet:
            _echo_summary(report, time.monotonic() - began, len(commits) if commits is not None else None)
    return CorruptionError.exit_code if report.damage else 0


def _open(store: StorePlace) -> tuple[Transport, str]:
    """Return the transport and the name of a store; nothing of it is cached, as it is the store that is checked."""
    if store.place is None:
        project = require_project(store.directory)
        return LocalTransport(project.store), project.store
    transport = open_store(store.place, Host(), store.storage_options())
    if not any(True for _ in transport.list("ctl/")):
        raise no_store_at(store.place)
    return transport, store.place


def _commits(transport: Transport, revisions: Sequence[str]) -> frozenset[ObjectID]:
    """Return the commits that revisions mean; of an experiment all, hidden ones too."""
    history = History.of(RefStore(transport, lambda error: None).list())
    found: set[ObjectID] = set()
    for revision in revisions:
        one = find(history, revision, plumbing=True)
        found |= set(one.experiment.commits) if one.is_whole_experiment else {one.record.commit_id}
    return frozenset(found)


def _echo_damage(damage: Damage, level: int) -> None:
    echo_line([("damage", "red"), ": ", _LONG_ID.sub(r"\1", damage.why)])
    echo_line(["  where    ", damage.where])
    for number, affected in enumerate(damage.affects):
        echo_line(["           " if number else "  affects  ", _effect(affected, level)])
    echo_line(["  do       ", damage.advice])


def _effect(affected: Affected, level: int) -> str:
    """Return what damage means for an experiment: 3 checkpoints of experiment 3f2a9c1, from step 4: model.pt."""
    experiment = f"experiment {affected.experiment.short}" + (f" {affected.name}" if affected.name else "")
    if not affected.commits:
        return f"{experiment}: {affected.part}"
    checkpoints = [one for one in affected.commits if one.seq]
    words = [] if len(checkpoints) == len(affected.commits) else ["the start"]
    since = ""
    if len(checkpoints) == 1:
        (one,) = checkpoints
        words.append(f"checkpoint {one.commit_id.short}" + (f" (step {one.step})" if one.step is not None else ""))
    elif checkpoints:
        words.append(plural(len(checkpoints), "checkpoint"))
        since = f", from step {checkpoints[0].step}" if checkpoints[0].step is not None else ""
    text = f"{' and '.join(words)} of {experiment}{since}"
    if affected.is_whole:
        return f"{text}: all of it"
    if affected.paths:
        shown = ", ".join(map(quote_path, affected.paths[:_SHOWN_PATHS]))
        more = affected.path_count - min(len(affected.paths), _SHOWN_PATHS)
        return f"{text}: {shown}" + (f" and {more:,} more" if more else "")
    return f"{text}: no file of it" if level == max(LEVELS) else text


def _echo_summary(report: Report, seconds: float, chosen: int | None) -> None:
    for note in report.notes:
        size = f" ({format_bytes(note.size_bytes)})" if note.size_bytes else ""
        echo_line([f"note: {note.count:,} " if note.count > 1 else "note: ", note.text, size])
    unread = _UNREAD.get(report.level, "")
    places = "no damage found" if unread else "no damage"
    if report.damage:
        places = f"{plural(len(report.damage), 'place')} damaged"
    scope = "" if chosen is None else f"; looked into {plural(chosen, 'commit')}"
    echo_line(
        [
            f"{plural(report.experiments, 'experiment')}, {plural(report.checkpoints, 'checkpoint')}, "
            f"{plural(report.packs, 'pack')} ({format_bytes(report.pack_bytes)}){scope}: ",
            (places, "red" if report.damage else "green"),
            unread and f" · {unread}, --full reads them",
            f" · {format_seconds(seconds)}",
        ]
    )


def _json(report: Report) -> dict[str, object]:
    return {
        "level": report.level,
        "experiments": report.experiments,
        "checkpoints": report.checkpoints,
        "packs": report.packs,
        "pack_bytes": report.pack_bytes,
        "damage": [
            {
                "level": one.level,
                "kind": one.kind,
                "where": one.where,
                "why": one.why,
                "affects": [_affected_json(affected) for affected in one.affects],
                "advice": one.advice,
            }
            for one in report.damage
        ],
        "notes": [
            {"kind": note.kind, "count": note.count, "bytes": note.size_bytes, "text": note.text}
            for note in report.notes
        ],
    }


def _affected_json(affected: Affected) -> dict[str, object]:
    return {
        "experiment": affected.experiment.hex(),
        "name": affected.name,
        "commits": [{"id": one.commit_id.hex(), "seq": one.seq, "step": one.step} for one in affected.commits],
        "all": affected.is_whole,
        "paths": [json_path(path) for path in affected.paths],
        "path_count": affected.path_count,
        "part": affected.part or None,
    }
