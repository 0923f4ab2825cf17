"""Level 2: is everything that a commit consists of where its locator says? SPEC §8, I5, I7. Level 4: whole files too.

Commits are looked at one after the other, and what two of them share is looked at once: locators lead from one view to
the next, and a tree that is whole stays whole as long as no object leaves the view.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from replicate.base import MAX_NESTING
from replicate.errors import CorruptionError, ObjectNotFoundError, ReplicateError, UnsupportedFormatError
from replicate.maintenance.packs import Packs
from replicate.maintenance.report import Findings, Paths, Target
from replicate.objects.codecs import BASED, Encoding
from replicate.objects.codecs.concat import Chunk
from replicate.objects.decoding import check_entry, place_name
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.locator import Locator, read_locator
from replicate.objects.model import Mode, TreeEntry, directory_size
from replicate.objects.pack import Entry, Place, pack_key
from replicate.objects.store import ObjectStore
from replicate.transport import Transport

_KEPT_TREE_ENTRIES = 150_000
_IN_PACK = re.compile(r"(?:(?P<object>\w+ [0-9a-f]{64}) in )?(?:pack |packs/../)(?P<pack>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class _Frame:
    """A locator frame in the view: what it lists that is sound, and what is not, with where the damage is."""

    sound: tuple[Place, ...]
    broken: tuple[tuple[Place, str], ...]
    older: tuple[FrameRef, ...]
    packs: frozenset[ObjectID]


class View:
    """The places that one commit's locator and its older ones tell, compared with the packs. A `Locations`."""

    def __init__(self, transport: Transport, packs: Packs, findings: Findings) -> None:
        self._transport = transport
        self._packs = packs
        self._findings = findings
        self._frames: dict[FrameRef, _Frame] = {}
        self._sound: dict[ObjectID, list[Place]] = {}
        self._broken: dict[ObjectID, list[str]] = {}
        self._unreadable: dict[FrameRef, str] = {}
        self.losses = 0

    def find(self, object_id: ObjectID) -> Sequence[Place]:
        """Return the sound places of an object."""
        return self._sound.get(object_id, ())

    def entry(self, object_id: ObjectID, kind: Kind) -> Entry | None:
        """Return the entry of an object's first sound place; a list of chunks only if it is nowhere in one piece."""
        found = [place.entry for place in self._sound.get(object_id, ()) if place.entry.kind == kind]
        return min(found, key=lambda entry: entry.encoding == Encoding.CONCAT, default=None)

    def broken(self, object_id: ObjectID) -> str | None:
        """Return where the damage is at a place of an object, None when no place of it is damaged."""
        return next(iter(self._broken.get(object_id, ())), None)

    def why_not(self, object_id: ObjectID, kind: Kind) -> str:
        """Return where the damage is because of which an object has no sound place."""
        broken = self.broken(object_id)
        if broken is not None:
            return broken
        name = f"{kind.name.lower()} {object_id.hex()}"
        return self._findings.add("closure", name, f"no locator of the checkpoint says where {name} lies")

    @property
    def packs(self) -> frozenset[ObjectID]:
        """Every pack that the locators name, or that holds one of them."""
        return frozenset(ref.pack for ref in self._frames).union(*(frame.packs for frame in self._frames.values()))

    def move_to(self, ref: FrameRef) -> str | None:
        """Show what a locator leads to.

        Returns:
            Where the damage is because of which it, or an older one that it names, cannot be read: then the view is as
            it was. Else None.
        """
        wanted: dict[FrameRef, _Frame] = {}
        left = [ref]
        while left:
            one = left.pop()
            if one in wanted:
                continue
            if one in self._unreadable:
                return self._unreadable[one]
            try:
                wanted[one] = self._frames.get(one) or self._read(one)
            except ReplicateError as exc:
                self._unreadable[one] = self._why_unreadable(one, exc)
                return self._unreadable[one]
            if one == ref:
                left += reversed(wanted[one].older)
        self._show(wanted)
        return None

    def _why_unreadable(self, ref: FrameRef, exc: ReplicateError) -> str:
        """Return where the damage is because of which a locator cannot be read: its pack, if that is damaged."""
        key = pack_key(ref.pack)
        if self._packs.size(ref.pack) is None:
            return self._findings.add("pack-missing", key, f"pack {ref.pack.hex()} is not in the store")
        self._packs.entries(ref.pack)  # hears of a damaged footer
        if self._findings.knows(key):
            return key
        if isinstance(exc, CorruptionError):
            return self._findings.add("locator", f"{key}@{ref.offset}", exc.message)
        return self._findings.add("unreadable", key, exc.message, 2)

    def _show(self, wanted: dict[FrameRef, _Frame]) -> None:
        added = [frame for one, frame in wanted.items() if one not in self._frames]
        removed = [frame for one, frame in self._frames.items() if one not in wanted]
        self._frames = wanted
        for frame in added:
            for place in frame.sound:
                self._sound.setdefault(place.entry.object_id, []).append(place)
            for place, where in frame.broken:
                self._broken.setdefault(place.entry.object_id, []).append(where)
        for frame in removed:
            for place in frame.sound:
                self._remove(place)
            for place, where in frame.broken:
                left = self._broken[place.entry.object_id]
                left.remove(where)
                if not left:
                    del self._broken[place.entry.object_id]

    def _remove(self, place: Place) -> None:
        left = self._sound[place.entry.object_id]
        left.remove(place)
        if not left:
            del self._sound[place.entry.object_id]
            self.losses += 1

    def _read(self, ref: FrameRef) -> _Frame:
        locator = read_locator(self._transport, ref)
        by_pack: dict[ObjectID, list[Place]] = {}
        for place in locator.places:
            by_pack.setdefault(place.pack, []).append(place)
        sound: list[Place] = []
        broken: list[tuple[Place, str]] = []
        for pack, places in by_pack.items():
            self._judge(ref, pack, places, sound, broken)
        return _Frame(tuple(sound), tuple(broken), locator.older, _packs_of(locator))

    def _judge(
        self,
        ref: FrameRef,
        pack: ObjectID,
        places: Sequence[Place],
        sound: list[Place],
        broken: list[tuple[Place, str]],
    ) -> None:
        """Compare what a locator says of one pack with the pack."""
        size = self._packs.size(pack)
        key = pack_key(pack)
        if size is None:
            self._findings.add("pack-missing", key, f"pack {pack.hex()} is not in the store")
            broken += [(place, key) for place in places]
            return
        claimed = max(place.pack_bytes for place in places)
        if claimed and claimed != size:
            why = f"pack {pack.hex()} has {size:,} bytes where its locators say {claimed:,}"
            self._findings.add("pack-size", key, why, 2)
        entries = self._packs.entries(pack)
        for place in places:
            where = self._why_broken(ref, place, size, entries)
            if where is None:
                sound.append(place)
            else:
                broken.append((place, where))

    def _why_broken(self, ref: FrameRef, place: Place, size: int, entries: frozenset[Entry] | None) -> str | None:
        """Return where the damage is because of which an object cannot be read at a place, None when there is none."""
        entry, key = place.entry, pack_key(place.pack)
        if entries is not None and entry not in entries:
            self._packs.read_all(place.pack)
            if self._findings.knows(key):  # it is not the pack that the locator means
                return key
            why = f"the locator in pack {ref.pack.hex()} does not fit pack {place.pack.hex()}: there is no such frame"
            return self._findings.add("locator-entry", f"{pack_key(ref.pack)}@{ref.offset}", why)
        if entry.offset + entry.length > size or self._packs.is_bad(place):
            return self._findings.add("pack-footer", key, f"pack {place.pack.hex()} does not hold what it should")
        try:
            if entry.encoding != Encoding.CONCAT:
                check_entry(entry, Kind(entry.kind), place_name(place))
            elif entry.depth or entry.kind != Kind.BLOB:
                raise CorruptionError(f"{place_name(place)} is damaged: no concat is like this (I7)", where=key)
        except UnsupportedFormatError as exc:
            return self._findings.add("encoding", _name(place), exc.message)
        except ValueError:  # a kind of a later version
            return self._findings.add("encoding", f"{key}@{entry.offset}", f"kind {entry.kind} is not known")
        except CorruptionError as exc:
            return self._findings.add("object", _name(place), exc.message)
        return None


def _packs_of(locator: Locator) -> frozenset[ObjectID]:
    return frozenset(place.pack for place in locator.places) | {ref.pack for ref in locator.older}


def _name(place: Place) -> str:
    return f"{Kind(place.entry.kind).name.lower()} {place.entry.object_id.hex()}"


Problems = Mapping[str, Paths]
"""Where there is damage → the paths that cannot be read because of it."""


@dataclass(frozen=True, slots=True)
class _Walked:
    """A directory: its size, how deep it is nested, and what is wrong below it."""

    size_bytes: int
    height: int
    problems: Problems


@dataclass(slots=True)
class _Open:
    """A directory whose directories are being walked."""

    tree: ObjectID
    entries: list[TreeEntry]
    left: list[TreeEntry] = field(default_factory=list)


class Closures:
    """Checks closures one by one.

    Args:
        transport: The store.
        packs: What is known of its packs.
        findings: Hears of damage, and of what it affects.
        everything: Whether files are read and hashed that consist of several frames, or lie on others (level 4).
    """

    def __init__(self, transport: Transport, packs: Packs, findings: Findings, *, everything: bool) -> None:
        self._packs = packs
        self._findings = findings
        self._everything = everything
        self._view = View(transport, packs, findings)
        self._objects = ObjectStore(transport, self._view)
        self._walked: dict[ObjectID, _Walked] = {}
        self._damaged: set[ObjectID] = set()
        self._losses = 0
        self._trees: OrderedDict[ObjectID, list[TreeEntry]] = OrderedDict()
        self._held = 0
        self._read_blobs: dict[ObjectID, str | None] = {}

    def check(self, target: Target, packset: frozenset[ObjectID] | None) -> None:
        """Check one closure, and what its record says of it; None is a packset that cannot be read."""
        for pack in (packset or frozenset()) & self._packs.damaged:
            self._findings.affect(pack_key(pack), target)
        where = self._view.move_to(target.locator)
        if where is not None:
            self._findings.affect(where, target, is_whole=True)
            return
        self._forget()
        lacking = () if packset is None else sorted((self._view.packs | set(target.meta)) - packset)
        if lacking:
            why = f"its packset lacks pack {lacking[0].hex()}: a collection might delete what it needs"
            self._findings.affect(self._findings.add("packset", target.key, why, 2), target)
        if target.commit is not None:
            where = self._read_commit(target.commit.commit_id)
            if where is not None:
                self._findings.affect(where, target)
        walked = self._walk(target.tree)
        if walked.height - 1 > MAX_NESTING:
            name = f"tree {target.tree.hex()}"
            self._findings.affect(self._findings.add("object", name, f"{name} is nested too deep"), target)
        for where, paths in walked.problems.items():
            self._findings.affect(where, target, paths, is_whole=b"" in paths.first)

    def _why_unreadable(self, name: str, exc: ReplicateError, level: int | None = None) -> str:
        """Return where the damage is because of which an object that has a place cannot be read.

        That is the pack of the frame that is not as it should be, or another object that this one lies on; else itself.
        """
        if isinstance(exc, ObjectNotFoundError):
            broken = self._view.broken(ObjectID.parse(exc.object_id))
            if broken is not None:
                return broken
        if isinstance(exc, CorruptionError):
            named = _IN_PACK.fullmatch(exc.where)
            key = pack_key(ObjectID.parse(named["pack"])) if named else ""
            if named and (self._findings.knows(key) or not named["object"]):
                return self._findings.add("object", key, exc.message, level)
            if named:
                name = named["object"]
        return self._findings.add("object", name, exc.message, level)

    def _forget(self) -> None:
        """Keep of the directories walked only what the view cannot have changed."""
        if self._view.losses != self._losses:
            self._losses = self._view.losses
            self._walked.clear()
        for tree in self._damaged:
            self._walked.pop(tree, None)
        self._damaged.clear()

    def _read_commit(self, commit: ObjectID) -> str | None:
        if self._view.entry(commit, Kind.COMMIT) is None:
            return self._view.why_not(commit, Kind.COMMIT)
        try:
            self._objects.read_commit(commit)
        except ReplicateError as exc:
            return self._why_unreadable(f"commit {commit.hex()}", exc)
        return None

    # -- trees -------------------------------------------------------------------------------------------------------

    def _walk(self, root: ObjectID) -> _Walked:
        """Walk a directory and all below it, each that is not known yet; no recursion."""
        waiting: list[_Open] = []
        self._enter(root, waiting)
        while waiting:
            one = waiting[-1]
            if one.left:
                self._enter(one.left.pop().object_id, waiting)
            else:
                self._keep(one.tree, self._leave(one))
                waiting.pop()
        return self._walked[root]

    def _enter(self, tree: ObjectID, waiting: list[_Open]) -> None:
        if tree in self._walked:
            return
        try:
            entries = self._entries(tree)
        except ReplicateError as exc:
            where = (
                self._why_unreadable(f"tree {tree.hex()}", exc)
                if self._view.entry(tree, Kind.TREE)
                else self._view.why_not(tree, Kind.TREE)
            )
            self._keep(tree, _Walked(0, 1, {where: Paths(1, (b"",))}))
            return
        waiting.append(_Open(tree, entries, [one for one in entries if one.mode is Mode.DIRECTORY]))

    def _keep(self, tree: ObjectID, walked: _Walked) -> None:
        self._walked[tree] = walked
        if walked.problems:
            self._damaged.add(tree)

    def _entries(self, tree: ObjectID) -> list[TreeEntry]:
        """Return a directory's entries; those read last are kept, as long as the view knows where they lie."""
        found = self._trees.get(tree)
        if found is not None and self._view.entry(tree, Kind.TREE) is not None:
            self._trees.move_to_end(tree)
            return found
        found = self._trees[tree] = self._objects.read_tree(tree)
        self._held += len(found) + 1
        while self._held > _KEPT_TREE_ENTRIES and len(self._trees) > 1:
            self._held -= len(self._trees.popitem(last=False)[1]) + 1
        return found

    def _leave(self, one: _Open) -> _Walked:
        problems: dict[str, Paths] = {}
        height = 0
        for entry in one.entries:
            if entry.mode is not Mode.DIRECTORY:
                where = self._check_blob(entry)
                if where is not None:
                    problems[where] = problems.get(where, Paths()).add(Paths(1, (entry.name,)))
                continue
            below = self._walked[entry.object_id]
            height = max(height, below.height)
            for where, paths in below.problems.items():
                problems[where] = problems.get(where, Paths()).add(paths, entry.name + b"/")
            if below.size_bytes != entry.size_bytes and not below.problems:
                why = f"tree {one.tree.hex()} claims another size of {entry.name!r} than that has"
                where = self._findings.add("object", f"tree {one.tree.hex()}", why)
                problems[where] = problems.get(where, Paths()).add(Paths(1, (entry.name + b"/",)))
        return _Walked(directory_size(one.entries), height + 1, problems)

    # -- blobs -------------------------------------------------------------------------------------------------------

    def _check_blob(self, entry: TreeEntry) -> str | None:
        """Return where the damage is because of which a file or link cannot be read."""
        blob = entry.object_id
        placed = self._view.entry(blob, Kind.BLOB)
        if placed is None:
            return self._view.why_not(blob, Kind.BLOB)
        if placed.raw_length != entry.size_bytes:
            why = f"blob {blob.hex()} has {placed.raw_length:,} bytes where a tree says {entry.size_bytes:,}"
            return self._findings.add("object", f"blob {blob.hex()}", why)
        if placed.encoding == Encoding.CONCAT:
            return self._check_chunks(blob)
        return self._check_read(blob) if placed.encoding in BASED else None

    def _check_chunks(self, blob: ObjectID) -> str | None:
        try:
            chunks = self._objects.read_chunks(blob)
        except ReplicateError as exc:
            return self._why_unreadable(f"blob {blob.hex()}", exc)
        for chunk in chunks:
            where = self._check_chunk(chunk, blob)
            if where is not None:
                return where
        return self._check_read(blob, 4) if self._everything else None

    def _check_chunk(self, chunk: Chunk, blob: ObjectID) -> str | None:
        placed = self._view.entry(chunk.object_id, Kind.BLOB)
        if placed is None:
            return self._view.why_not(chunk.object_id, Kind.BLOB)
        if placed.raw_length != chunk.length or placed.encoding == Encoding.CONCAT:
            why = f"chunk {chunk.object_id.hex()} of blob {blob.hex()} is not what the list of chunks says (I7)"
            return self._findings.add("object", f"blob {blob.hex()}", why)
        return self._check_read(chunk.object_id) if placed.encoding in BASED else None

    def _lies_elsewhere(self, exc: ReplicateError) -> bool:
        """Tell whether something cannot be read because the pack that it lies in was evicted."""
        named = _IN_PACK.fullmatch(exc.where) if isinstance(exc, CorruptionError) else None
        return named is not None and self._packs.is_elsewhere(ObjectID.parse(named["pack"]))

    def _check_read(self, blob: ObjectID, level: int = 2) -> str | None:
        """Read a whole blob, once, and compare it with its id; what lies elsewhere is left out."""
        if blob not in self._read_blobs:
            self._read_blobs[blob] = None
            try:
                for _ in self._objects.iter_blob(blob):
                    pass
            except ReplicateError as exc:
                if not self._lies_elsewhere(exc):
                    self._read_blobs[blob] = self._why_unreadable(f"blob {blob.hex()}", exc, level)
        return self._read_blobs[blob]
