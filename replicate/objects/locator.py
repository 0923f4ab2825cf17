"""Locators: where every object of a commit's closure lies. SPEC §8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicate.errors import CorruptionError, InvalidInputError, KeyNotFoundError
from replicate.objects import canonical
from replicate.objects.codecs import MAX_RAW_BYTES, Encoding, zstd
from replicate.objects.frames import MAX_PACK_BYTES, FrameRef
from replicate.objects.ids import ID_BYTES, Kind, ObjectID, object_id
from replicate.objects.pack import (
    FRAME,
    Entry,
    Place,
    decode_entries,
    encode_entries,
    frame_payload,
    pack_key,
)
from replicate.transport import Range, Transport, prefetch, read_sound

MAX_OLDER = 16


class Locations(Protocol):
    """Knows where objects lie."""

    def find(self, object_id: ObjectID) -> Sequence[Place]:
        """Return every known place of an object, best first; empty when there is none."""


@dataclass(frozen=True, slots=True)
class Locator:
    """One locator frame's content. `own` are the entries of the pack that holds it."""

    own: tuple[Entry, ...]
    places: tuple[Place, ...]
    older: tuple[FrameRef, ...] = ()
    total: int = 0
    whole: int = 0
    spread: int = 0

    def encode(self) -> bytes:
        """Return the canonical map of SPEC §8; `InvalidInputError` when it is larger than a reader accepts."""
        by_pack: dict[bytes, list[Entry]] = defaultdict(list)
        sizes: dict[bytes, int] = {}
        for place in self.places:
            by_pack[place.pack].append(place.entry)
            sizes[place.pack] = max(place.pack_bytes, sizes.get(place.pack, 0))  # one of them may not know it
        if self.own:
            by_pack[b""] = list(self.own)
        packs = [[pack, sizes.get(pack, 0), encode_entries(by_pack[pack])] for pack in sorted(by_pack)]
        spread = {"spread": self.spread} if self.spread else {}
        data = canonical.encode(
            {
                **spread,
                "v": 1,
                "packs": packs,
                "older": [ref.encode() for ref in self.older],
                "total": self.total,
                "whole": self.whole,
            }
        )
        if len(data) > MAX_RAW_BYTES:
            count = len(self.own) + len(self.places)
            raise InvalidInputError(f"a commit of {count:,} objects is too large to be saved")
        return data

    @classmethod
    def decode(cls, data: bytes, holder: ObjectID, holder_bytes: int, where: str) -> Locator:
        """Read a locator that lies in the pack `holder`; `CorruptionError` for anything that is not one."""

        def damaged(why: str) -> CorruptionError:
            return CorruptionError(f"{where} is damaged: {why}", where=where)

        fields = canonical.decode(data, where)
        if not isinstance(fields, dict) or type(fields.get("v")) is not int or fields["v"] != 1:
            raise damaged("not a locator")
        if not isinstance(fields.get("packs"), list):
            raise damaged("it names no packs")
        older, total, whole = fields.get("older"), fields.get("total"), fields.get("whole")
        if not isinstance(older, list) or len(older) > MAX_OLDER:
            raise damaged(f"it names more than {MAX_OLDER} older locators")
        spread = fields.get("spread", 0)
        if type(total) is not int or type(whole) is not int or type(spread) is not int or min(total, whole, spread) < 0:
            raise damaged("it has no totals")
        places: list[Place] = []
        previous: bytes | None = None
        for section in fields["packs"]:
            if not (isinstance(section, list) and len(section) == 3 and isinstance(section[0], bytes)):
                raise damaged("not [pack, size, entries]")
            pack, size, table = section
            if type(size) is not int or not isinstance(table, bytes) or len(pack) not in (0, ID_BYTES):
                raise damaged("not [pack, size, entries]")
            if size < 0 or (size and not pack):
                raise damaged("a pack has a wrong size")
            if previous is not None and pack <= previous:
                raise damaged("its packs are not in order")
            previous = pack
            name, size = (ObjectID(pack), size) if pack else (holder, holder_bytes)
            limit = size if 0 < size <= MAX_PACK_BYTES else MAX_PACK_BYTES
            places += [Place(name, size, entry) for entry in decode_entries(table, where, limit=limit)]
        refs = tuple(FrameRef.decode(ref, where, holder) for ref in older)
        return cls((), tuple(places), refs, total, whole, spread)


def read_framed(transport: Transport, ref: FrameRef, kind: Kind) -> tuple[ObjectID, bytes]:
    """Return id and bytes of a frame of a kind that refers to no other object, checked by id."""
    return read_sound(transport, pack_key(ref.pack), lambda: _read_framed(transport, ref, kind))


def _read_framed(transport: Transport, ref: FrameRef, kind: Kind) -> tuple[ObjectID, bytes]:
    where = f"pack {ref.pack.hex()}"

    def damaged(why: str) -> CorruptionError:
        return CorruptionError(f"the {kind.name.lower()} in {where} is damaged: {why}", where=where)

    key = pack_key(ref.pack)
    try:
        data = transport.get(key, ref.offset, ref.offset + ref.length)
    except KeyNotFoundError as exc:
        raise CorruptionError(f"the {kind.name.lower()} cannot be read: {where} is missing", where=key) from exc
    if len(data) != ref.length or ref.length < FRAME.size:
        raise damaged("the pack is cut short")
    _, found, encoding, depth, _, raw_length, _, digest, _ = FRAME.unpack_from(data)
    if found != kind or encoding not in (Encoding.RAW, Encoding.ZSTD) or depth or raw_length > MAX_RAW_BYTES:
        raise damaged("the frame is of another kind")
    entry = Entry(ObjectID(digest), found, encoding, depth, ref.offset, ref.length, raw_length)
    payload = frame_payload(data, entry, where)
    content = bytes(payload) if encoding == Encoding.RAW else zstd.decompress(payload, raw_length, where)
    if object_id(kind, content) != entry.object_id:
        raise damaged("its bytes do not match its id")
    return entry.object_id, content


def read_locator(transport: Transport, ref: FrameRef) -> Locator:
    """Return the locator at a place. The size of its own pack is not known from it: entries there carry 0."""
    _, content = read_framed(transport, ref, Kind.LOCATOR)
    return Locator.decode(content, ref.pack, 0, f"the locator in pack {ref.pack.hex()}")


@dataclass
class LocatorView:
    """The locations of the closures of commits: locators and the older ones that they name, read on first use."""

    transport: Transport
    refs: Sequence[FrameRef]
    _places: dict[bytes, list[Place]] = field(default_factory=dict)
    _loaded: bool = False

    def find(self, object_id: ObjectID) -> Sequence[Place]:
        """See `Locations.find`."""
        return self._load().get(object_id, ())

    def __iter__(self) -> Iterator[Place]:
        for places in self._load().values():
            yield from places

    def __len__(self) -> int:
        return len(self._load())

    def _load(self) -> Mapping[bytes, list[Place]]:
        if not self._loaded:
            older: dict[FrameRef, None] = {}  # of two commits they are mostly the same
            self._expect(self.refs)
            for ref in dict.fromkeys(self.refs):
                locator = read_locator(self.transport, ref)
                self._add(locator.places)
                older |= dict.fromkeys(locator.older)
            others = [one for one in older if one not in self.refs]
            self._expect(others)
            for ref in others:
                self._add(read_locator(self.transport, ref).places)
            self._loaded = True
        return self._places

    def _expect(self, refs: Iterable[FrameRef]) -> None:
        prefetch(self.transport, [Range(pack_key(ref.pack), ref.offset, ref.offset + ref.length) for ref in refs])

    def _add(self, places: Iterable[Place]) -> None:
        known = self._places
        for place in places:
            known.setdefault(place.entry.object_id, []).append(place)
