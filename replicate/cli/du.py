"""`replicate du`: what the store holds, and for whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from replicate.cli.holdings import echo_files, encodings_json, encodings_text
from replicate.cli.options import StorePlace, clean_path, find, find_itself, json_option, open_history, store_option
from replicate.cli.render import Cell, echo_json, echo_table
from replicate.encodings import Encodings, measure_files, measure_packs
from replicate.errors import InvalidInputError, RevisionNotFoundError
from replicate.evicted import EvictedPack, read_evicted
from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.repository import Repository
from replicate.revisions import resolve_hidden
from replicate.text import format_bytes, plural
from replicate.usage import CommitUsage, ExperimentUsage, Usage, measure


@click.command()
@click.argument("revisions", metavar="[REVISION]...", nargs=-1)
@click.option("--encodings", "with_encodings", is_flag=True, help="Also tell which encodings hold what was stored")
@click.option("--files", "with_files", is_flag=True, help="List the files of one checkpoint, and what holds them")
@json_option
@store_option
def command(
    revisions: tuple[str, ...], with_encodings: bool, with_files: bool, as_json: bool, store: StorePlace
) -> int:
    """Show what experiments take in the store, or the checkpoints of some, or the files of one

    The store is that of this machine; -R names another.
    LOGICAL is the sum of all files, STORED what was written to hold them: what an earlier checkpoint holds too counts
    there. Experiments and files come largest first, checkpoints in order. What was removed counts: nothing is freed
    yet. Exits with 1 when there is none. REVISION:PATH lists files at a path and below. HELD BY tells of each encoding
    what it holds, and in how many bytes, or which file is equal; for files whoever wrote them, but not the bases that
    deltas refer to. Encodings of many experiments take a while: the end of every pack is read.
    """
    repository, history = open_history(store.directory if store.place is None else store)
    if with_files or any(":" in revision for revision in revisions):
        _print_files(repository, history, revisions, as_json=as_json)
        return 0
    wanted = [_find(history, revision) for revision in revisions]
    usage = measure(repository)
    held = _Held(repository) if with_encodings else None
    missing = set(usage.missing)
    evicted = [one for one in read_evicted(repository.project.store) if one.pack in missing] if missing else []
    if wanted:
        _print_commits(usage, wanted, held, as_json=as_json)
    elif as_json:
        echo_json(_json(usage, held, evicted))
    elif usage.experiments:
        _print_experiments(usage, held)
    else:
        click.echo("no experiments yet", err=True)
    if usage.experiments and not as_json:
        _tell(usage, {one.pack: one for one in evicted}, is_whole=not wanted)
    return 0 if wanted or usage.experiments else 1


def _find(history: History, revision: str) -> tuple[ObjectID, ObjectID | None]:
    """Return experiment and commit that a revision names, None for all of the experiment; removed ones too."""
    try:
        found = find_itself(history, revision)
    except RevisionNotFoundError as missing:
        try:
            experiment, record = resolve_hidden(history, revision)
        except RevisionNotFoundError:
            raise missing from None
        return experiment.experiment_id, record.commit_id if record else None
    return found.experiment.experiment_id, None if found.is_whole_experiment else found.record.commit_id


class _Held:
    """What encodings hold, read from packs, and their sum."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.total = Encodings()

    def read(self, packs: Iterable[tuple[ObjectID, int]]) -> Encodings:
        """Return what encodings hold in some packs."""
        found = measure_packs(self._repository, packs)
        self.total.merge(found)
        return found


def _print_files(repository: Repository, history: History, revisions: Sequence[str], *, as_json: bool) -> None:
    if len(revisions) != 1:
        raise InvalidInputError("files are listed of one checkpoint", hint="`replicate du ID --files`, or ID:PATH")
    found = find(history, revisions[0])
    path = clean_path(found.path) if found.path else b""
    usage = measure(repository)
    commits = (commit for one in usage.experiments for commit in one.commits)
    commit = next((one for one in commits if one.commit_id == found.record.commit_id), None)
    own = dict(commit.packs) if commit else {}
    files = measure_files(repository, found.record, own, path)
    echo_files(files, sum(own.values()) if not path else None, as_json=as_json)


def _print_experiments(usage: Usage, held: _Held | None) -> None:
    names = [one.name or "" for one in usage.experiments]
    rows: list[list[Cell]] = [["EXPERIMENT", "NAME" if any(names) else "", "CHECKPOINTS", "LOGICAL", "STORED"]]
    if held:
        rows[0] += ["", "HELD BY"]
    for one in sorted(usage.experiments, key=lambda one: (-one.stored, -one.time_ns)):
        count = sum(commit.seq > 0 for commit in one.commits)
        sizes = [format_bytes(one.logical), format_bytes(one.stored)]
        title: Cell = (one.experiment_id.short, "yellow")
        rows.append([title, one.name or "", f"{count:,}", *sizes, "removed" if one.is_hidden else ""])
        rows[-1] += [encodings_text(held.read(one.packs))] if held else []
    logical = format_bytes(sum(one.logical for one in usage.experiments))
    if usage.unreferred:
        rows.append(["in none", "", "", "", format_bytes(usage.unreferred)])
    rows.append(["records", "", "", "", format_bytes(usage.records)])
    rows.append(["total", "", "", logical, format_bytes(usage.total)])
    rows[-1] += ["", encodings_text(held.total)] if held else []
    if not any(names):
        rows = [[row[0], *row[2:]] for row in rows]
    echo_table(rows, right=frozenset({2, 3, 4} if any(names) else {1, 2, 3}), fit=True)


def _tell(usage: Usage, evicted: Mapping[ObjectID, EvictedPack], *, is_whole: bool) -> None:
    if any(commit.is_hidden for one in usage.experiments for commit in one.commits):
        size = format_bytes(usage.removed)
        click.echo(f"{size} are in packs that only removed checkpoints need; nothing is freed yet", err=True)
    for place in sorted({one.place for one in evicted.values()}) if is_whole else ():
        sizes = [one.size_bytes for one in evicted.values() if one.place == place]
        click.echo(f"{format_bytes(sum(sizes))} in {plural(len(sizes), 'pack')} lie only in {place}", err=True)
    missing = len(usage.missing) - len(evicted)
    if missing:
        are = "is" if missing == 1 else "are"
        click.echo(f"warning: {plural(missing, 'pack')} {are} missing, see `replicate fsck`", err=True)


def _print_commits(
    usage: Usage, wanted: Sequence[tuple[ObjectID, ObjectID | None]], held: _Held | None, *, as_json: bool
) -> None:
    chosen: dict[ObjectID, tuple[ExperimentUsage, CommitUsage]] = {}
    sessions = 0
    for experiment in usage.experiments:
        asked = {commit for one, commit in wanted if one == experiment.experiment_id}
        chosen |= {
            commit.commit_id: (experiment, commit)
            for commit in experiment.commits
            if None in asked or commit.commit_id in asked
        }
        sessions += experiment.sessions if None in asked else 0
    if as_json:
        echo_json(
            [_commit_json(commit, held) | {"experiment": of.experiment_id.hex()} for of, commit in chosen.values()]
        )
        return
    several = len({of.experiment_id for of, _ in chosen.values()}) > 1
    rows: list[list[Cell]] = [["CHECKPOINT", "STEP", "LOGICAL", "STORED", *(["", "HELD BY"] if held else [])]]
    for of, one in chosen.values():
        step = "start" if one.seq == 0 else str(one.step)
        marks = [f"of {of.experiment_id.short}"] if several else []
        marks += ["removed"] if one.is_hidden else []
        sizes = [format_bytes(one.logical), format_bytes(one.stored)]
        rows.append([(one.commit_id.short, "yellow"), step, *sizes, "  ".join(marks)])
        rows[-1] += [encodings_text(held.read(one.packs))] if held else []
    if sessions:
        rows.append(["sessions", "", "", format_bytes(sessions)])
    commits = [commit for _, commit in chosen.values()]
    stored = sessions + sum(one.stored for one in commits)
    rows.append(["total", "", format_bytes(sum(one.logical for one in commits)), format_bytes(stored)])
    rows[-1] += ["", encodings_text(held.total)] if held else []
    echo_table(rows, right=frozenset({1, 2, 3}), fit=True)


def _json(usage: Usage, held: _Held | None, evicted: Sequence[EvictedPack]) -> dict[str, Any]:
    given_up = {one.pack for one in evicted}
    return {
        "experiments": [
            {
                "id": one.experiment_id.hex(),
                "name": one.name,
                "checkpoints": sum(commit.seq > 0 for commit in one.commits),
                "bytes": one.logical,
                "stored_bytes": one.stored,
                "removed": one.is_hidden,
                **({"encodings": encodings_json(held.read(one.packs))} if held else {}),
            }
            for one in sorted(usage.experiments, key=lambda one: (-one.stored, -one.time_ns))
        ],
        "packs_bytes": usage.packs,
        "records_bytes": usage.records,
        "in_none_bytes": usage.unreferred,
        "removed_bytes": usage.removed,
        "evicted_packs": [one.pack.hex() for one in evicted],
        "missing_packs": [pack.hex() for pack in usage.missing if pack not in given_up],
    }


def _commit_json(commit: CommitUsage, held: _Held | None) -> dict[str, Any]:
    return {
        "id": commit.commit_id.hex(),
        "seq": commit.seq,
        "step": commit.step,
        "bytes": commit.logical,
        "stored_bytes": commit.stored,
        "removed": commit.is_hidden,
        **({"encodings": encodings_json(held.read(commit.packs))} if held else {}),
    }
