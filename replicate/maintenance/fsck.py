"""Checking a store: nothing is written, and nothing that is found stops the check. Floor 6. SPEC appendix A.

Levels, each with those below it:
0   marker and features, every key, every record and catalog     `Keys`, `Records`
1   every pack that a record names is there                      `Presence`
2   footers, locators, trees: closures are complete              `Packs`, `Closures`
4   every byte: packs, objects, whole files (3 is part of it)    `Packs`, `Closures`
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Set

from replicate.errors import CorruptionError, InvalidInputError, ReplicateError
from replicate.evicted import EvictedPack, read_evicted
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
_HIDING = ("record", "catalog", "unreadable")  # damage because of which a record may be unknown


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
        store: Its folder: what it is called in errors, and where `local/tmp` is looked into. Packs that were evicted
            from it are no damage; what lies in them is not looked into.
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
    evicted = {one.pack: one for one in read_evicted(store)}
    presence = Presence(transport, keys, findings, evicted.keys())
    referenced: set[ObjectID] = set()
    chosen: set[ObjectID] = set()
    for target in records.check(reporter):
        if level >= 1:
            packs = presence.packs_of(target) or _named(target)
            referenced |= packs
            if _is_wanted(target, commits):
                presence.check(target, packs)
                chosen |= packs
    if level >= 2:
        elsewhere = {pack: one.size_bytes for pack, one in evicted.items() if pack not in keys.sizes}
        looked_into = Packs(transport, keys.sizes, findings, elsewhere, everything=level >= 4)
        looked_into.check(chosen, reporter)
        closures = Closures(transport, looked_into, findings, everything=level >= 4)
        reporter.begin("checking commits", records.closures, 0)
        try:
            for target in records.targets():
                if _is_wanted(target, commits):
                    closures.check(target, presence.packs_of(target))
                reporter.advance(1, 0)
        finally:
            reporter.finish()
    damage = findings.damage()
    if level >= 1:
        is_known = presence.is_complete and not any(one.kind in _HIDING for one in damage)
        findings.notes += _unreferenced(keys, referenced, is_known=is_known)
        findings.notes += _elsewhere(evicted[pack] for pack in referenced & evicted.keys() - keys.sizes.keys())
    findings.notes += _leftovers(store)
    size = sum(keys.sizes.values())
    return Report(level, records.experiments, records.checkpoints, len(keys.sizes), size, damage, tuple(findings.notes))


def _is_wanted(target: Target, commits: Set[ObjectID] | None) -> bool:
    if commits is None:
        return True
    return (target.commit.commit_id if target.commit else target.experiment) in commits


def _named(target: Target) -> frozenset[ObjectID]:
    """Return the packs that a record itself names."""
    at = target.packset.at
    return frozenset([*target.meta, target.locator.pack, *([at.pack] if at else [])])


class Presence:
    """Level 1: every pack that a record names is there, with a size that a pack can have.

    Attributes:
        is_complete: Whether every packset could be read.
    """

    def __init__(self, transport: Transport, keys: Keys, findings: Findings, evicted: Set[ObjectID]) -> None:
        self._transport = transport
        self._evicted = evicted
        self._refs = RefStore(transport, lambda error: None)
        self._keys = keys
        self._findings = findings
        self.is_complete = True

    def packs_of(self, target: Target) -> frozenset[ObjectID] | None:
        """Return the packset that a record names, None when it cannot be read."""
        try:
            return self._refs.read_packset(target.packset)
        except ReplicateError as exc:
            self.is_complete = False
            self._findings.affect(self._why_unreadable(target, exc), target)
            return None

    def _why_unreadable(self, target: Target, exc: ReplicateError) -> str:
        """Return where the damage is because of which a packset cannot be read: the pack that it lies in."""
        at = target.packset.at
        assert at is not None  # else the record holds it
        key = pack_key(at.pack)
        if at.pack not in self._keys.sizes:
            self._keys.list_packs_again(self._transport)
        size = self._keys.sizes.get(at.pack)
        if size is None:
            return self._findings.add("pack-missing", key, f"pack {at.pack.hex()} is not in the store")
        if at.offset + at.length > size:
            why = f"pack {at.pack.hex()} is cut short: {size:,} bytes, and a packset in it ends later"
            return self._findings.add("pack-size", key, why)
        return self._findings.add("object" if isinstance(exc, CorruptionError) else "unreadable", key, exc.message, 1)

    def check(self, target: Target, packs: Set[ObjectID]) -> None:
        """Check the packs of one record."""
        packs = packs - (self._evicted - self._keys.sizes.keys())
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


def _unreferenced(keys: Keys, referenced: Set[ObjectID], *, is_known: bool) -> list[Note]:
    sizes = [size for pack, size in keys.sizes.items() if pack not in referenced]
    text = "packs that no checkpoint needs: left by saves that did not finish, or that are under way"
    if not is_known:
        text = "packs that are needed only by what is damaged above, or by no checkpoint: keep them"
    return [Note("unreferenced-packs", len(sizes), sum(sizes), text)] if sizes else []


def _elsewhere(evicted: Iterable[EvictedPack]) -> list[Note]:
    by_place: dict[str, list[int]] = {}
    for one in evicted:
        by_place.setdefault(one.place, []).append(one.size_bytes)
    return [
        Note("evicted-packs", len(sizes), sum(sizes), f"packs lie only in {place}, and were not looked into")
        for place, sizes in sorted(by_place.items())
    ]


def _leftovers(store: str) -> list[Note]:
    sizes = []
    try:
        with os.scandir(os.path.join(store, "local", "tmp")) as listing:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in listing]
    except OSError:  # there is none, or it changes under us
        return []
    text = "temporary files in local/tmp: the next save removes those that are a day old"
    return [Note("temporary-files", len(sizes), sum(sizes), text)] if sizes else []
