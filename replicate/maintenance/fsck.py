"""Checking a store: nothing is written, and nothing that is found stops the check. Floor 6. SPEC appendix A.

Levels, each with those below it:
0   marker and features, every key, every record and catalog     `Keys`, `Records`
1   every pack that a record names is there                      `Presence`
2   footers, locators, trees: closures are complete              `Packs`, `Closures`
4   every byte: packs, objects, whole files (3 is part of it)    `Packs`, `Closures`
"""

from __future__ import annotations

import os
from collections.abc import Set

from replicate.errors import InvalidInputError, ReplicateError
from replicate.maintenance.closures import Closures
from replicate.maintenance.packs import Packs, is_plausible
from replicate.maintenance.records import Keys, Records
from replicate.maintenance.report import Findings, Note, Report, Target
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.refs import RefStore
from replicate.reporting import Reporter
from replicate.transport import Transport

LEVELS = (0, 1, 2, 4)
DEFAULT_LEVEL = 2


def fsck(
    transport: Transport,
    store: str,
    reporter: Reporter,
    *,
    level: int = DEFAULT_LEVEL,
    commits: Set[ObjectID] | None = None,
) -> Report:
    """Check a store; reads only.

    Args:
        transport: The store.
        store: Its folder: what it is called in errors, and where `local/tmp` is looked into.
        reporter: Hears of progress.
        level: How thoroughly: 0, 1, 2 or 4.
        commits: Look only at the packs and files of these commits, and of sessions that began with one of them. Every
            record is looked at all the same.

    Raises:
        UnsupportedFormatError: The store is of a newer format. StorageError: It cannot be listed.
    """
    if level not in LEVELS:
        raise InvalidInputError(f"{level} is no level of a check", hint="the levels are 0, 1, 2 and 4")
    findings = Findings()
    keys = Keys(transport, findings, store)
    records = Records(transport, keys, findings)
    presence = Presence(transport, keys, findings)
    referenced: set[ObjectID] = set()
    chosen: set[ObjectID] = set()
    for target in records.check(reporter):
        if level >= 1:
            packs = presence.packs_of(target)
            referenced |= packs
            if _is_wanted(target, commits):
                presence.check(target, packs)
                chosen |= packs
    if level >= 2:
        looked_into = Packs(transport, keys.sizes, findings, everything=level >= 4)
        looked_into.check(chosen, reporter)
        closures = Closures(transport, looked_into, findings, everything=level >= 4)
        reporter.begin("checking checkpoints", records.closures, 0)
        try:
            for target in records.targets():
                if _is_wanted(target, commits):
                    closures.check(target, presence.packs_of(target))
                reporter.advance(1, 0)
        finally:
            reporter.finish()
    if level >= 1:
        findings.notes += _unreferenced(keys, referenced)
    findings.notes += _leftovers(store)
    size = sum(keys.sizes.values())
    damage = findings.damage()
    return Report(level, records.experiments, records.checkpoints, len(keys.sizes), size, damage, tuple(findings.notes))


def _is_wanted(target: Target, commits: Set[ObjectID] | None) -> bool:
    if commits is None:
        return True
    return (target.commit.commit_id if target.commit else target.experiment) in commits


class Presence:
    """Level 1: every pack that a record names is there, with a size that a pack can have."""

    def __init__(self, transport: Transport, keys: Keys, findings: Findings) -> None:
        self._transport = transport
        self._refs = RefStore(transport, lambda error: None)
        self._keys = keys
        self._findings = findings

    def packs_of(self, target: Target) -> frozenset[ObjectID]:
        """Return the packset that a record names, as much of it as can be read."""
        try:
            return self._refs.read_packset(target.packset)
        except ReplicateError as exc:
            self._findings.affect(self._findings.add("packset", target.key, exc.message), target)
        at = target.packset.at
        return frozenset([at.pack]) if at else frozenset()

    def check(self, target: Target, packs: Set[ObjectID]) -> None:
        """Check the packs of one record."""
        if not packs <= self._keys.sizes.keys():
            self._keys.list_packs_again(self._transport)
        for pack in packs:
            key, size = pack_key(pack), self._keys.sizes.get(pack)
            if size is None:
                self._findings.add("pack-missing", key, f"pack {pack.hex()} is not in the store")
                self._findings.affect(key, target)
            elif not is_plausible(size):
                self._findings.add("pack-size", key, f"pack {pack.hex()}: {size:,} bytes is no size of a pack")
                self._findings.affect(key, target)


def _unreferenced(keys: Keys, referenced: Set[ObjectID]) -> list[Note]:
    sizes = [size for pack, size in keys.sizes.items() if pack not in referenced]
    text = "packs that no checkpoint needs: left by saves that did not finish, or that are under way"
    return [Note("unreferenced-packs", len(sizes), sum(sizes), text)] if sizes else []


def _leftovers(store: str) -> list[Note]:
    sizes = []
    try:
        with os.scandir(os.path.join(store, "local", "tmp")) as listing:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in listing]
    except OSError:  # there is none, or it changes under us
        return []
    text = "temporary files in local/tmp: the next save removes those that are a day old"
    return [Note("temporary-files", len(sizes), sum(sizes), text)] if sizes else []
