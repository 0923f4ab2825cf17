"""Writing the objects of one save: deduplicate, encode, fill packs. SPEC §6–§8, §12.

Memory is bounded whatever the sizes: a few pack buffers of 34 MiB (up to 68 MiB for one large object; touched only as
far as used) and one 4 MiB piece per worker. Three threads put packs while the next fills. The order is I1's: every
data pack is durable before the meta pack is put; publishing the record is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

from blake3 import blake3

from replicate.errors import CorruptionError, NotFoundError, ObjectNotFoundError
from replicate.objects import canonical
from replicate.objects.choosing import MAX_DEPTH, BaseBlob, Earlier, Encoded, climb, encode
from replicate.objects.codecs import Encoding, concat, patch, zstd
from replicate.objects.codecs.concat import Chunk
from replicate.objects.codecs.patch import PatchBase
from replicate.objects.cutting import MAX_PIECE_BYTES, Piece
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Buffer, Kind, ObjectID, blob_id, object_id
from replicate.objects.index import ObjectIndex
from replicate.objects.locator import MAX_OLDER, Locator, LocatorView, read_locator
from replicate.objects.pack import Entry, PackBuffer, Place
from replicate.objects.putting import PackPuts
from replicate.objects.reuse import chain, references, reusable
from replicate.objects.store import ObjectStore
from replicate.objects.turns import Turns
from replicate.transport import Transport

INLINE_BYTES = 1 << 20
MAX_INLINE_PACKS = 400
_LISTED_PACK_BYTES = 256  # more than an id in a packset list; two for its frame
OWN_PACKS_BYTES = 64 << 20
_DEAD_SLACK = 1024
_SPREAD_SLACK = 64


class PieceSource(Protocol):
    """A big blob that can be read in pieces, from any thread."""

    size_bytes: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; raise when that is not possible."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a commit is stored: what its record says (SPEC §9.2) and what the next save builds on."""

    locator: FrameRef
    older: tuple[FrameRef, ...]
    total: int
    whole: int
    packset: frozenset[ObjectID]
    packset_at: FrameRef | None
    meta: tuple[ObjectID, ...]
    spread: int = 0


class ObjectWriter:
    """Collects the objects of one save. Not for use from several threads, though it uses some.

    Args:
        transport: The store.
        index: Its dedup index; `begin_save` has been called.
        random: Returns so many random bytes.
        durable: Whether a put survives power loss.
        workers: Threads that read, hash and encode big blobs.
        effort: Whether to try encodings of weights that are slow.
    """

    def __init__(
        self,
        transport: Transport,
        index: ObjectIndex,
        *,
        random: Callable[[int], bytes],
        durable: bool,
        workers: int,
        effort: Literal["normal", "high"] = "normal",
    ) -> None:
        self._transport = transport
        self._index = index
        self._objects = ObjectStore(transport, index)
        self._puts = PackPuts(transport, random)
        self._durable = durable
        self._effort = effort
        self._lock = threading.Lock()
        self._small = PackBuffer()
        self._meta = PackBuffer()
        self._current = self._small
        self._own: PackBuffer | None = None
        self._new: set[bytes] = set()
        self._new_whole: dict[bytes, int] = {}  # of these, the depths of the blobs that are one frame
        self._relied: dict[bytes, Place] = {}
        self._chunks: dict[bytes, list[Chunk]] = {}
        self._bases: dict[bytes, ObjectID] = {}
        self._pieces = ThreadPoolExecutor(workers, "replicate-piece")
        self._buffers = threading.local()
        self.new_bytes = 0

    @property
    def stored_bytes(self) -> int:
        """The length of the packs that were put."""
        return sum(size for _, size, _ in self._puts.sealed)

    def close(self) -> None:
        """End the threads. What was put and not published is garbage that harms nothing."""
        self._pieces.shutdown(cancel_futures=True)
        self._puts.close()

    def write_blob(self, data: Buffer, piece: Piece | None = None, earlier: Earlier | None = None) -> ObjectID:
        """Store a blob of at most 4 MiB and return its id. `piece` and `earlier` are of a file that is one piece."""
        wanted = blob_id(data)
        self._add_blob(wanted, data, *self._encode(wanted, data, piece, earlier))
        return wanted

    def write_large(
        self,
        source: PieceSource,
        pieces: Sequence[Piece],
        advance: Callable[[int], None],
        earlier: Earlier | None = None,
        stored: Callable[[Sequence[Chunk]], None] = lambda chunks: None,
    ) -> ObjectID:
        """Store a blob of two or more pieces and return its id.

        The pieces that `source` gives are hashed and stored from the same memory, so what is stored is what the id
        names even if the source changes. `advance` is called in this thread with the bytes that are done. When reading
        fails, nothing refers to the pieces stored so far.

        Args:
            source: The blob.
            pieces: Where to cut it.
            advance: Hears of progress.
            earlier: A version of it on which pieces may be stored as differences, and what they may be rounded from.
            stored: Hears of what the pieces are stored as, when all are.
        """
        if source.size_bytes >= OWN_PACKS_BYTES:
            self._own = self._current = self._own or self._puts.take_buffer()
        hasher = blake3()
        hashing, storing = Turns(), Turns()
        futures = [
            self._pieces.submit(self._work_piece, source, number, piece, hasher, hashing, storing, earlier)
            for number, piece in enumerate(pieces)
        ]
        chunks = []
        try:
            for future in futures:
                chunk = future.result()
                chunks.append(chunk)
                advance(chunk.length)
        except BaseException as exc:
            hashing.stop(exc)
            storing.stop(exc)
            for future in futures:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception()
            raise
        finally:
            if self._own is not None:
                self._end_own_packs()
        wanted = ObjectID(hasher.digest())
        self._write_concat(wanted, source.size_bytes, chunks)
        stored(chunks)
        return wanted

    def _work_piece(
        self,
        source: PieceSource,
        number: int,
        piece: Piece,
        hasher: blake3,
        hashing: Turns,
        storing: Turns,
        earlier: Earlier | None,
    ) -> Chunk:
        """Hash and store a piece, both in its turn: the order of frames depends on the file alone."""
        buffer = getattr(self._buffers, "piece", None)
        if buffer is None:
            buffer = self._buffers.piece = memoryview(bytearray(MAX_PIECE_BYTES))
        view = buffer[: piece.length]
        try:
            source.read_into(piece.offset, view)
            hashing.wait(number)
            hasher.update(view)
        except BaseException as exc:
            hashing.stop(exc)
            raise
        hashing.next()
        chunk = Chunk(blob_id(view), piece.length)
        encoded = self._encode(chunk.object_id, view, piece, earlier)
        storing.wait(number)
        self._add_blob(chunk.object_id, view, *encoded)
        storing.next()
        return chunk

    def _encode(
        self, wanted: ObjectID, data: Buffer, piece: Piece | None, earlier: Earlier | None
    ) -> tuple[Encoded | None, list[Place]]:
        """Encode a blob that is one frame, and tell what it lies on.

        None when it is known as one frame: a list of chunks cannot be a chunk (I7).
        """
        if self._holds_whole(wanted):
            return None, []
        links: list[Place] = []

        def find_base() -> BaseBlob | None:
            links[:] = self._find_links(piece, earlier, len(data))
            return (
                self._read_base(links[0].entry.object_id, links[0].entry.depth, len(data), earlier) if links else None
            )

        def find_master() -> BaseBlob | None:
            master = earlier.masters.get((piece.tensor, piece.part)) if earlier and piece else None
            if master is None:
                return None
            depth = self._new_whole.get(master.object_id)  # what lies below one of this save is relied on by then
            if depth is None:
                links[:] = chain(self._transport, self._index, master.object_id) or ()
                depth = links[0].entry.depth if links else MAX_DEPTH
            return self._read_base(master.object_id, depth, master.length, earlier) if depth < MAX_DEPTH else None

        return encode(data, piece, find_base, find_master, ordered=self._effort == "high"), links

    def _read_base(self, base: ObjectID, depth: int, length: int, earlier: Earlier | None) -> BaseBlob | None:
        """Return a base with its bytes; None when it cannot be read: nothing is built on it, and `fsck` tells of it."""
        try:
            data = earlier.read(base, length) if earlier else None
            return BaseBlob(base, depth, data or self._objects.read_view(base))
        except (CorruptionError, NotFoundError):
            return None

    def _add_blob(self, wanted: ObjectID, data: Buffer, encoded: Encoded | None, links: Sequence[Place]) -> None:
        """Add an encoded blob to the current data pack, if it is not there yet."""
        with self._lock:
            if encoded is not None and wanted not in self._new_whole:
                if encoded.base is not None:
                    self._bases[wanted] = encoded.base
                    self._relied.update((link.entry.object_id, link) for link in links)
                self._append(Kind.BLOB, encoded, len(data), wanted)
                self.new_bytes += len(data)

    def _find_links(self, piece: Piece | None, earlier: Earlier | None, length: int) -> Sequence[Place]:
        """Return the base that a piece should have, and what decoding that needs; nothing when there is none."""
        before = earlier.pieces.get((piece.tensor, piece.part)) if earlier and piece else None
        if earlier is None or before is None or before.length != length:
            return ()
        links = chain(self._transport, self._index, before.object_id)
        return climb(links, earlier.links) if links else ()

    def _write_concat(self, wanted: ObjectID, size_bytes: int, chunks: list[Chunk]) -> None:
        if self.holds(wanted):
            return
        self._chunks[wanted] = chunks
        self._add_meta(Kind.BLOB, Encoding.CONCAT, 0, size_bytes, wanted, concat.encode(chunks))

    def write_tree(self, data: bytes, base: PatchBase | None = None) -> tuple[ObjectID, PatchBase | None]:
        """Store an encoded tree; return its id, and what a later version of the directory may be a patch on.

        `base` is what an earlier save returned for the directory; the previous commit's closure must hold it.
        """
        wanted = object_id(Kind.TREE, data)
        if wanted in self._new:
            return wanted, base if base and self._bases.get(wanted) == base.tree else None
        if wanted in self._relied or self._reuse(wanted):
            return wanted, None if self._relied[wanted].entry.depth else PatchBase(wanted, data)
        if base is not None and len(data) >= patch.MIN_BYTES:
            payload = patch.encode(data, base)
            if payload is not None:
                self._bases[wanted] = base.tree
                self._add_meta(Kind.TREE, Encoding.PATCH, 1, len(data), wanted, payload)
                return wanted, base
        self.write_meta(Kind.TREE, data)
        return wanted, PatchBase(wanted, data) if len(data) >= patch.MIN_BYTES else None

    def write_meta(self, kind: Kind, data: bytes) -> Entry:
        """Store an object of any kind in the meta pack, and return its entry there."""
        payload = zstd.encode(data)
        encoding = Encoding.RAW if payload is None else Encoding.ZSTD
        return self._add_meta(kind, encoding, 0, len(data), object_id(kind, data), data if payload is None else payload)

    def holds(self, wanted: ObjectID) -> bool:
        """Tell whether this save has the object already, or can rely on a copy that the store holds."""
        return wanted in self._new or wanted in self._relied or self._reuse(wanted)

    def held_length(self, wanted: ObjectID, kind: Kind) -> int | None:
        """Return the length of an object that the store held before this save and that it can rely on, else None."""
        place = self._relied.get(wanted) if self.holds(wanted) else None
        return place.entry.raw_length if place is not None and place.entry.kind == kind else None

    def _reuse(self, wanted: ObjectID) -> bool:
        """Rely on a copy that the store holds, with all that it refers to."""
        return self._rely(reusable(self._transport, self._index, wanted))

    def _holds_whole(self, wanted: ObjectID) -> bool:
        """Tell whether this save has a blob as one frame, or can rely on such a copy."""
        with self._lock:
            relied = self._relied.get(wanted)
            if wanted in self._new_whole or (relied is not None and relied.entry.encoding != Encoding.CONCAT):
                return True
        return self._rely(chain(self._transport, self._index, wanted))

    def _rely(self, places: Iterable[Place] | None) -> bool:
        if places is None:
            return False
        with self._lock:
            self._relied.update((place.entry.object_id, place) for place in places)
        return True

    # -- packs ---------------------------------------------------------------------------------------------------

    def _append(self, kind: Kind, encoded: Encoded, raw_length: int, wanted: ObjectID) -> None:
        """Add a frame to the current data pack. The lock is held."""
        encoding, depth, payload, _ = encoded
        if not self._current.fits(len(payload)):
            full, self._current = self._current, self._puts.take_buffer()
            is_own = full is self._own
            if is_own:
                self._own = self._current
            else:
                self._small = self._current
            self._puts.start(full, is_own=is_own)
        self._current.add(kind, encoding, depth, raw_length, wanted, payload)
        self._new.add(wanted)
        self._new_whole[wanted] = depth

    def flush(self) -> None:
        """Begin to put what small blobs there are, unless they are few enough for the meta pack; does not wait."""
        with self._lock:
            if self._small.used >= INLINE_BYTES:
                full, self._small = self._small, self._puts.take_buffer()
                self._current = self._small
                self._puts.start(full)

    def _end_own_packs(self) -> None:
        assert self._own is not None
        with self._lock:
            own, self._own, self._current = self._own, None, self._small
            self._puts.start(own, is_own=True)

    def _add_meta(
        self, kind: Kind, encoding: Encoding, depth: int, raw_length: int, wanted: ObjectID, payload: Buffer
    ) -> Entry:
        with self._lock:
            if not self._meta.fits(len(payload)):
                full, self._meta = self._meta, self._puts.take_buffer()
                self._puts.start(full, is_meta=True)
            self._new.add(wanted)
            return self._meta.add(kind, encoding, depth, raw_length, wanted, payload)

    # -- the end of a save ---------------------------------------------------------------------------------------

    def finish(self, previous: Stored | None, live: Callable[[], Iterable[ObjectID]]) -> Stored:
        """Put what is left, with a locator, and return how the commit is stored. Everything is durable on return.

        Args:
            previous: The commit whose closure this one shares objects with.
            live: Gives the commit's own trees and blobs (not their chunks and bases), when the locator is to be
                written whole.
        """
        with self._lock:
            self._puts.wait()
            if not self._small.is_empty:
                fits = self._meta.fits(self._small.used, len(self._small.entries))
                is_listed = any(entry.object_id in self._chunks for entry in self._small.entries)  # as chunks, there
                inline = self._small.used < INLINE_BYTES and fits and not is_listed
                if inline and not any(pack not in self._puts.meta for pack, _, _ in self._puts.sealed):
                    self._meta.take_frames(self._small)
                    self._small.clear()
                else:
                    self._puts.start(self._small)
                    self._puts.wait()
        locator, packs = self._make_locator(previous, live)
        encoded = locator.encode()
        if locator.own and not self._meta.fits(len(encoded) + _LISTED_PACK_BYTES * (len(packs) + 1)):
            with self._lock:  # it tells of the pack that it lies in, so that must not end in between
                full, self._meta = self._meta, self._puts.take_buffer()
                self._puts.start(full, is_meta=True)
                self._puts.wait()
            locator, packs = self._make_locator(previous, live)
            encoded = locator.encode()
        packs |= {pack for pack, _, _ in self._puts.sealed}
        entry = self.write_meta(Kind.LOCATOR, encoded)
        listed: Entry | None = None
        if len(packs) >= MAX_INLINE_PACKS:
            listed = self.write_meta(Kind.PACKSET, canonical.encode(sorted(packs)))
        self._put_last(self._meta)
        meta_pack = self._puts.sealed[-1][0]
        return Stored(
            FrameRef(meta_pack, entry.offset, entry.length),
            locator.older,
            locator.total,
            locator.whole,
            frozenset(packs | {meta_pack}),
            FrameRef(meta_pack, listed.offset, listed.length) if listed else None,
            tuple(self._puts.meta),
            locator.spread,
        )

    def finish_loose(self) -> None:
        """Put what is left, for commits that are made later: no locator. Everything is durable on return."""
        self._put_last(self._small, self._meta)

    def _put_last(self, *buffers: PackBuffer) -> None:
        """Put buffers one after the other, unless they are empty; every pack is durable then, and the index knows."""
        with self._lock:
            for buffer in buffers:
                self._puts.start(buffer, is_meta=buffer is self._meta)
                self._puts.wait()
        for pack, size, entries in self._puts.sealed:
            self._index.add(pack, size, entries, durable=self._durable)

    def _make_locator(
        self, previous: Stored | None, live: Callable[[], Iterable[ObjectID]]
    ) -> tuple[Locator, set[ObjectID]]:
        """Return this save's locator and the older packs that its closure may need."""
        own = tuple(self._meta.entries)
        places = [Place(pack, size, entry) for pack, size, entries in self._puts.sealed for entry in entries]
        places += self._relied.values()
        count = len(own) + len(places)
        if previous is None:
            packs = {place.pack for place in places}
            return Locator(own, _once(places), (), count, count, len(packs) + 1), packs
        total = previous.total + count
        is_stale = total * 3 > previous.whole * 4 + _DEAD_SLACK
        if is_stale or len(previous.packset) > 2 * previous.spread + _SPREAD_SLACK:
            return self._make_whole(previous, own, places, live)
        older = (previous.locator, *previous.older)
        if len(older) > MAX_OLDER:
            older, merged = self._merge(older)
            places += merged
        packs = {*previous.packset, *(place.pack for place in places)}
        return Locator(own, _once(places), older, total, previous.whole, previous.spread), packs

    def _merge(self, older: Sequence[FrameRef]) -> tuple[tuple[FrameRef, ...], list[Place]]:
        """Take the content of all older locators but the largest into this one."""
        largest = max(older, key=lambda ref: ref.length)
        merged = [
            self._sized(place) for ref in older if ref != largest for place in read_locator(self._transport, ref).places
        ]
        return (largest,), merged

    def _sized(self, place: Place) -> Place:
        """Return a place with the size of its pack, which a locator does not know of its own pack."""
        return place if place.pack_bytes else place._replace(pack_bytes=self._index.pack_bytes(place.pack))

    def _make_whole(
        self, previous: Stored, own: tuple[Entry, ...], places: list[Place], live: Callable[[], Iterable[ObjectID]]
    ) -> tuple[Locator, set[ObjectID]]:
        """Return a locator of exactly the closure, with nothing older."""
        view = LocatorView(self._transport, [previous.locator])
        fresh = {entry.object_id for entry in own} | {place.entry.object_id for place in places}
        kept: dict[bytes, Place] = {}
        waiting = list(live())
        while waiting:
            wanted = waiting.pop()
            if wanted in kept:
                continue
            if wanted in fresh:
                if wanted in self._new:
                    waiting += [chunk.object_id for chunk in self._chunks.get(wanted, ())]
                    waiting += [base for base in (self._bases.get(wanted),) if base is not None]
                continue
            found = view.find(wanted)
            if not found:
                raise ObjectNotFoundError(
                    f"object {wanted.hex()} of the commit to be saved is not in the store", object_id=wanted.hex()
                )
            # Of both, one piece can be a chunk of another blob; a list of chunks cannot.
            place = min(found, key=lambda one: (one.entry.encoding == Encoding.CONCAT, one.entry.depth))
            kept[wanted] = self._sized(place)
            waiting += references(self._transport, place)
        places += kept.values()
        count = len(own) + len(places)
        packs = {place.pack for place in places}
        return Locator(own, _once(places), (), count, count, len(packs) + 1), packs


def _once(places: Iterable[Place]) -> tuple[Place, ...]:
    """Return places without repeats: an entry table lists an object once per pack."""
    return tuple({(place.pack, place.entry.object_id): place for place in places}.values())
