"""Packs under check: their footers, or with level 4 every byte of them. Some are read while one is looked into."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from replicate.errors import CorruptionError, KeyNotFoundError, ReplicateError, StorageError
from replicate.maintenance.report import Findings
from replicate.objects.frames import MAX_PACK_BYTES
from replicate.objects.ids import Buffer, ObjectID
from replicate.objects.pack import (
    HEADER,
    TRAILER,
    Entry,
    Place,
    decode_footer,
    pack_key,
    read_footer,
    verify_frame,
    verify_name,
)
from replicate.reporting import Reporter
from replicate.threads import DEFAULT_JOBS, side_by_side
from replicate.transport import Transport

_KEPT_ENTRIES = 200_000


def examine(data: Buffer, pack: ObjectID) -> tuple[list[Entry], list[CorruptionError], dict[Entry, CorruptionError]]:
    """Check every byte of a pack.

    Returns:
        Its entries, none when its footer is damaged; what is wrong with the pack; what is wrong with which entry.
    """
    view = memoryview(data)
    wrong: list[CorruptionError] = []
    entries: list[Entry] = []
    bad: dict[Entry, CorruptionError] = {}
    try:
        entries = decode_footer(lambda start, end: view[start:end], pack, len(view))
    except CorruptionError as exc:
        wrong.append(exc)
    if len(view) >= HEADER.size:
        try:
            verify_name(view, pack)
        except CorruptionError as exc:
            wrong.append(exc)
    for entry in entries:
        try:
            verify_frame(view[entry.offset : entry.offset + entry.length], entry, f"pack {pack.hex()}")
        except CorruptionError as exc:
            bad[entry] = exc
    return entries, wrong, bad


class Packs:
    """What is known of the packs of a store.

    Args:
        transport: The store.
        sizes: Every pack that was listed, with its size.
        findings: Hears of damage.
        elsewhere: Packs that were evicted, with their sizes: they count as sound, and are not looked into.
        everything: Whether frames are read and decoded (level 4).
    """

    def __init__(
        self,
        transport: Transport,
        sizes: Mapping[ObjectID, int],
        findings: Findings,
        elsewhere: Mapping[ObjectID, int],
        *,
        everything: bool,
    ) -> None:
        self._transport = transport
        self._sizes = sizes
        self._findings = findings
        self._elsewhere = elsewhere
        self._everything = everything
        self.damaged: set[ObjectID] = set()
        self._bad: dict[ObjectID, frozenset[int]] = {}  # offsets of frames
        self._without_footer: set[ObjectID] = set()
        self._read_whole: set[ObjectID] = set()
        self._entries: OrderedDict[ObjectID, frozenset[Entry]] = OrderedDict()
        self._kept = 0

    def check(self, wanted: Iterable[ObjectID], reporter: Reporter) -> None:
        """Check packs, each once: footers (level 2), or names, headers and every frame too (levels 3 and 4)."""
        packs = sorted(pack for pack in wanted if pack in self._sizes)
        if self._everything:
            self._read_whole.update(packs)
        tasks = [(pack, self._sizes[pack] if self._is_read_whole(pack) else 0) for pack in packs]
        reporter.begin("checking packs", len(packs), sum(self._sizes[pack] for pack in packs))
        try:
            for pack, found in side_by_side(tasks, self._read, DEFAULT_JOBS, in_order=True):
                self._judge(pack, found)
                del found  # before others are read
                reporter.advance(1, self._sizes[pack])
        finally:
            reporter.finish()

    def read_all(self, pack: ObjectID) -> None:
        """Check every byte of a listed pack, if that was not done: it does not hold what a locator says of it."""
        if pack in self._read_whole:
            return
        self._read_whole.add(pack)
        try:
            self._judge(pack, self._read(pack))
        except ReplicateError as exc:
            self._judge(pack, exc)

    def _is_read_whole(self, pack: ObjectID) -> bool:
        return pack in self._read_whole and self._sizes[pack] <= MAX_PACK_BYTES

    def _read(self, pack: ObjectID) -> bytes | Sequence[Entry]:
        """Return every byte of a pack, or what its footer lists."""
        if self._is_read_whole(pack):
            return self._transport.get(pack_key(pack))
        return read_footer(self._transport, pack, self._sizes[pack])

    def _judge(self, pack: ObjectID, found: bytes | Sequence[Entry] | ReplicateError) -> None:
        if isinstance(found, bytes):
            self._examine(pack, found)
        elif isinstance(found, CorruptionError):
            self._lose(pack, "pack-footer", found.message)
        elif isinstance(found, StorageError):
            self._lose(pack, "unreadable", found.message)
        elif isinstance(found, KeyNotFoundError):
            self._lose(pack, "pack-missing", f"pack {pack.hex()} was listed, but it is not there")
        elif isinstance(found, ReplicateError):
            raise found
        else:
            self._keep(pack, found)

    def _examine(self, pack: ObjectID, data: bytes) -> None:
        entries, wrong, bad = examine(data, pack)
        if wrong or bad:
            first = next(iter(bad.values()), None)
            kind = "pack-bytes" if wrong else "pack-content"
            if wrong and not entries and not bad:
                kind = "pack-footer"
                self._without_footer.add(pack)
            why = wrong[0].message if wrong else ""
            if first:
                why += f"{'; ' if why else ''}{first.message}" + (
                    f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
                )
            self._findings.add(kind, pack_key(pack), why)
            self.damaged.add(pack)
        self._bad[pack] = frozenset(entry.offset for entry in bad)
        if pack not in self._without_footer:
            self._keep(pack, entries)

    def _lose(self, pack: ObjectID, kind: str, why: str) -> None:
        self._without_footer.add(pack)
        self.damaged.add(pack)
        self._findings.add(kind, pack_key(pack), why)

    def _keep(self, pack: ObjectID, entries: Iterable[Entry]) -> frozenset[Entry]:
        kept = self._entries[pack] = frozenset(entries)
        self._kept += len(kept)
        while self._kept > _KEPT_ENTRIES and len(self._entries) > 1:
            self._kept -= len(self._entries.popitem(last=False)[1])
        return kept

    def entries(self, pack: ObjectID) -> frozenset[Entry] | None:
        """Return the entries of a listed pack; None when its footer cannot be read, or it lies elsewhere."""
        if pack in self._without_footer or pack in self._elsewhere:
            return None
        found = self._entries.get(pack)
        if found is not None:
            self._entries.move_to_end(pack)
            return found
        try:
            return self._keep(pack, read_footer(self._transport, pack, self._sizes[pack]))
        except CorruptionError as exc:
            self._lose(pack, "pack-footer", exc.message)
        except ReplicateError as exc:
            self._lose(pack, "unreadable", exc.message)
        return None

    def size(self, pack: ObjectID) -> int | None:
        """Return a pack's size, None when it is neither there nor elsewhere."""
        return self._sizes.get(pack, self._elsewhere.get(pack))

    def is_elsewhere(self, pack: ObjectID) -> bool:
        """Tell whether a pack was evicted: what lies in it cannot be read here."""
        return pack in self._elsewhere

    def is_bad(self, place: Place) -> bool:
        """Tell whether the frame at a place is known to be damaged; where nothing but the frame can tell, read it."""
        pack, entry = place.pack, place.entry
        if pack in self._without_footer and self._everything:
            try:
                data = self._transport.get(pack_key(pack), entry.offset, entry.offset + entry.length)
                verify_frame(data, entry, f"pack {pack.hex()}")
            except ReplicateError:
                return True
        return entry.offset in self._bad.get(pack, ())


def is_plausible(size: int) -> bool:
    """Tell whether a pack can have a size."""
    return HEADER.size + TRAILER.size <= size <= MAX_PACK_BYTES
