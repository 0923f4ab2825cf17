"""Reading objects: from a place in a pack to verified bytes. SPEC §6–§8, I6, I7.

Nothing that a store says is believed: frames are checked against their entries, decoding ends because depths fall, and
every object is hashed before its bytes are given out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from blake3 import blake3

from replicate.errors import (
    CorruptionError,
    KeyNotFoundError,
    ObjectNotFoundError,
    ReplicateError,
    StorageUnreachableError,
    UnsupportedFormatError,
)
from replicate.objects.ahead import WINDOW_BYTES, Ahead
from replicate.objects.codecs import BASED, MAX_RAW_BYTES, Encoding, base_id, concat, patch
from replicate.objects.codecs.concat import Chunk
from replicate.objects.codecs.patch import PatchBase
from replicate.objects.decoding import apply, check_entry, decode_whole, is_right, place_name, verified
from replicate.objects.ids import Buffer, Kind, ObjectID
from replicate.objects.locator import Locations
from replicate.objects.model import Commit, TreeEntry, decode_commit, decode_tree, directory_size
from replicate.objects.pack import Place, frame_payload, pack_key
from replicate.objects.turns import Turns
from replicate.threads import worker_pool
from replicate.transport import ReadsAhead, Transport, read_sound

_ELSEWHERE = (CorruptionError, UnsupportedFormatError, ObjectNotFoundError)  # another copy may be sound
_MAX_FRAMES = 1_024
_MAX_WAITING_BYTES = 4 * MAX_RAW_BYTES
_READ_AHEAD = 8 << 20
_MAX_AHEAD_BYTES = 64 << 20
_GAP = 64 << 10
_GIVEN_BACK_BYTES = 24 << 20

_T = TypeVar("_T")

FrameReader = Callable[[Place], memoryview]


class ObjectStore:
    """Reads objects of one store whose places `locations` knows. Holds no state; safe to use from any thread.

    Args:
        transport: The store.
        locations: Where its objects lie.
        workers: Threads that decode the pieces of a big blob ahead of who reads it.
        evicted_to: Returns where a pack lies that was given up here, "" if it was not.
    """

    def __init__(
        self,
        transport: Transport,
        locations: Locations,
        workers: int = 1,
        evicted_to: Callable[[ObjectID], str] = lambda pack: "",
    ) -> None:
        self._transport = transport
        self._locations = locations
        self._workers = workers
        self._evicted_to = evicted_to
        self._ahead = Ahead(transport, locations)

    def expect(self, wanted: Iterable[ObjectID]) -> None:
        """Fetch blobs of at most 64 MiB that will be read soon, and what they build on, if storage is elsewhere."""
        if self._ahead.is_useful:
            self._ahead.expect(wanted)

    def expect_trees(self) -> None:
        """Fetch all trees and lists of chunks, which are going to be read one by one, if storage is elsewhere."""
        if self._ahead.is_useful and isinstance(self._locations, Iterable):
            self._ahead.expect_all(self._locations)

    def read_tree(self, tree: ObjectID, *, claimed_bytes: int | None = None) -> list[TreeEntry]:
        """Return a directory's entries, in name order.

        `claimed_bytes` is what its parent says it holds; a tree that disagrees is corrupt (SPEC §4.2).
        """
        where = f"tree {tree.hex()}"
        entries = decode_tree(self.read(tree, Kind.TREE), where)
        if claimed_bytes is not None and directory_size(entries) != claimed_bytes:
            raise CorruptionError(f"{where} is damaged: its parent claims another size", where=where)
        return entries

    def read_patch_base(self, tree: ObjectID, data: bytes) -> PatchBase | None:
        """Return what a later version of the tree `data` may be a patch on: itself, or the base that it lies on."""
        if len(data) < patch.MIN_BYTES:
            return None
        places = self._places(tree, Kind.TREE)
        if any(place.entry.encoding != Encoding.PATCH for place in places):
            return PatchBase(tree, data)
        base = base_id(self._read_payload(places[0]), place_name(places[0]))
        if all(place.entry.depth for place in self._locations.find(base)):
            return None  # another writer's: a patch on a patch
        return PatchBase(base, self.read(base, Kind.TREE))

    def read_commit(self, commit: ObjectID) -> Commit:
        """Return a commit."""
        return decode_commit(self.read(commit, Kind.COMMIT), f"commit {commit.hex()}")

    def read(self, wanted: ObjectID, kind: Kind = Kind.BLOB, *, claimed_bytes: int | None = None) -> bytes:
        """Return the whole object, verified by its id. A big blob is assembled in memory: prefer `iter_blob`.

        `claimed_bytes` is what the tree says of a blob; one that disagrees is not assembled.

        Raises:
            ObjectNotFoundError: The store lacks it, or a piece or base of it; or that was evicted, and lies elsewhere.
            CorruptionError: What is stored is not this object; names object and pack.
            UnsupportedFormatError: It is stored in an encoding of a later version.
        """
        if kind is Kind.BLOB:
            return b"".join(self.iter_blob(wanted, claimed_bytes=claimed_bytes))
        return bytes(self._first(wanted, kind, lambda place: self._decode(place, kind)))

    def read_view(self, wanted: ObjectID, *, is_verified: bool = True) -> Buffer:
        """Return a blob that is one frame; raises as `read`. Valid until this thread reads something else.

        Without `is_verified` it may be damaged: for who verifies a whole that it is part of.
        """
        return self._first(wanted, Kind.BLOB, lambda place: self._decode(place, Kind.BLOB, is_verified=is_verified))

    def iter_blob(self, wanted: ObjectID, *, claimed_bytes: int | None = None) -> Iterator[bytes]:
        """Yield a blob's bytes in pieces of at most 64 MiB; raises after the last piece if the whole is not the blob.

        Each piece is verified before it is given out; so is a small blob's only piece. `claimed_bytes` is what the tree
        says of its length; when it disagrees, this raises before the first piece (SPEC §4.2).
        """
        chunks = self.read_chunks(wanted)
        if len(chunks) == 1:
            whole = bytes(self.read_view(wanted))
            _check_length(wanted, len(whole), claimed_bytes)
            yield whole
            return
        _check_length(wanted, sum(chunk.length for chunk in chunks), claimed_bytes)
        hasher = blake3()
        with worker_pool(self._workers, "replicate-read") as pool:
            for data in self._side_by_side(chunks, lambda number, chunk: self.read_chunk(chunk, wanted), pool):
                hasher.update(data)
                yield data
        _check_whole(wanted, hasher)

    def copy_blob(
        self,
        wanted: ObjectID,
        write: Callable[[int, Buffer], None],
        advance: Callable[[int], None],
        *,
        claimed_bytes: int,
    ) -> None:
        """Have a blob written in pieces by the threads that decode them; raises as `iter_blob`.

        What was written is the blob once this has returned: its id proves all pieces together. If it does not, they are
        written once more, each verified by its own id, which tells what is damaged, or is read around.

        Args:
            wanted: The blob.
            write: Takes an offset and the bytes there, valid until it returns; called from several threads, in any
                order, and for a damaged blob twice.
            advance: Hears in this thread of bytes that were written.
            claimed_bytes: What the tree says of its length.
        """
        chunks = self.read_chunks(wanted)
        if len(chunks) == 1:
            for data in self.iter_blob(wanted, claimed_bytes=claimed_bytes):
                write(0, data)
                advance(len(data))
            return
        _check_length(wanted, sum(chunk.length for chunk in chunks), claimed_bytes)
        if self._copy_chunks(chunks, wanted, write, advance, is_verified=False).digest() != wanted:
            _check_whole(wanted, self._copy_chunks(chunks, wanted, write, lambda size: None, is_verified=True))

    def _copy_chunks(
        self,
        chunks: Sequence[Chunk],
        wanted: ObjectID,
        write: Callable[[int, Buffer], None],
        advance: Callable[[int], None],
        *,
        is_verified: bool,
    ) -> blake3:
        """Have chunks written, and return the hasher of them all; with `is_verified` each is what its id names."""
        starts = [0, *itertools.accumulate(chunk.length for chunk in chunks)]
        hasher = blake3()
        turns = Turns()

        def work(number: int, chunk: Chunk) -> int:
            try:
                data = self._read_chunk(chunk, wanted, is_verified=is_verified)
                turns.act(lambda: write(starts[number], data))
                turns.wait(number)
                hasher.update(data)
            except BaseException as exc:
                turns.stop(exc)
                raise
            turns.next()
            return chunk.length

        with worker_pool(self._workers, "replicate-read") as pool:
            try:
                for length in self._side_by_side(chunks, work, pool):
                    advance(length)
            except BaseException as exc:
                turns.stop(exc)  # whoever asked for it may close what is written to, even before all threads have ended
                raise
        return hasher

    def in_turn(self, wanted: Sequence[ObjectID]) -> Iterator[ObjectID]:
        """Yield blobs that will be read with `iter_blob` in this order: those of a few MiB are fetched together."""

        def chunks(blob: ObjectID) -> list[ObjectID]:
            try:
                found = self.read_chunks(blob)
            except _ELSEWHERE:  # told by who reads it
                return []
            return [one.object_id for one in found] if sum(one.length for one in found) < WINDOW_BYTES else []

        return self._ahead.in_windows(wanted, chunks)

    def read_chunks(self, wanted: ObjectID) -> list[Chunk]:
        """Return the pieces of a blob: one that is the blob itself unless it is stored as a concat."""
        places = self._places(wanted, Kind.BLOB)
        concats = [place for place in places if place.entry.encoding == Encoding.CONCAT]
        whole = [place.entry for place in places if place.entry.encoding != Encoding.CONCAT]
        if concats:
            try:
                return self._first(wanted, Kind.BLOB, self._decode_concat, concats)
            except CorruptionError:
                if not whole:
                    raise
        return [Chunk(wanted, whole[0].raw_length)]

    def _side_by_side(
        self, chunks: Sequence[Chunk], work: Callable[[int, Chunk], _T], pool: ThreadPoolExecutor
    ) -> Iterator[_T]:
        """Yield what `work` makes of chunks and their numbers, in order, while threads work on a few that follow."""
        coming = self._ahead.in_windows(list(enumerate(chunks)), lambda one: [one[1].object_id])
        if self._workers < 2:
            for number, chunk in coming:
                yield work(number, chunk)
            return
        waiting: deque[tuple[int, Future[_T]]] = deque()
        held = 0
        bytes(_GIVEN_BACK_BYTES)  # the C library keeps freed memory of such sizes for later once this was freed
        for number, chunk in coming:
            held += chunk.length
            while waiting and (len(waiting) > self._workers or held > _MAX_AHEAD_BYTES):
                length, first = waiting.popleft()
                found = first.result()
                held -= length
                yield found
            waiting.append((chunk.length, pool.submit(work, number, chunk)))
        while waiting:
            yield waiting.popleft()[1].result()

    def read_chunk(self, chunk: Chunk, whole: ObjectID) -> bytes:
        """Return one chunk of the blob `whole`, verified by the chunk's id and length."""
        return bytes(self._read_chunk(chunk, whole))

    def _read_chunk(self, chunk: Chunk, whole: ObjectID, *, is_verified: bool = True) -> Buffer:
        """Return as `read_chunk`; the bytes may be in memory that this thread uses again when it reads."""
        try:
            data = self.read_view(chunk.object_id, is_verified=is_verified)
            if not is_verified and len(data) != chunk.length:  # it is damaged: another copy may not be
                data = self.read_view(chunk.object_id)
        except ObjectNotFoundError as exc:
            if exc.object_id != chunk.object_id.hex() or chunk.object_id == whole:
                raise
            raise ObjectNotFoundError(
                f"chunk {chunk.object_id.hex()} of blob {whole.hex()} is not in the store", object_id=exc.object_id
            ) from exc
        if len(data) != chunk.length:
            where = f"blob {whole.hex()}"
            raise CorruptionError(f"{where} is damaged: chunk {chunk.object_id.hex()} has another length", where=where)
        return data

    def read_many(self, wanted: Sequence[ObjectID]) -> Iterator[tuple[ObjectID, bytes]]:
        """Yield blobs of at most 64 MiB in the order in which they lie, with few reads. Each is verified.

        Objects next to each other in a pack are read at once, at most 8 MiB ahead.
        """
        placed = sorted(
            (self._places(one, Kind.BLOB)[0] for one in wanted), key=lambda place: (place.pack, place.entry.offset)
        )
        coming = self._ahead.in_windows(placed, lambda place: [place.entry.object_id])
        start = 0
        while start < len(placed):
            first = placed[start]
            end, stop = start, first.entry.offset
            while (
                end < len(placed)
                and placed[end].pack == first.pack
                and placed[end].entry.offset <= stop + _GAP
                and placed[end].entry.offset + placed[end].entry.length - first.entry.offset <= _READ_AHEAD
            ):
                stop = max(stop, placed[end].entry.offset + placed[end].entry.length)
                end += 1
            end = max(end, start + 1)
            deque(itertools.islice(coming, end - start), 0)
            yield from self._read_run(placed[start:end])
            start = end

    def _read_run(self, places: Sequence[Place]) -> Iterator[tuple[ObjectID, bytes]]:
        origin = places[0].entry.offset
        stop = max(place.entry.offset + place.entry.length for place in places)
        try:
            data = self._get(places[0], origin, stop)
        except (KeyNotFoundError, ObjectNotFoundError):
            data = memoryview(b"")

        def frame(place: Place) -> memoryview:
            begin = place.entry.offset - origin
            return data[begin : begin + place.entry.length]

        for place in places:
            wanted = place.entry.object_id
            try:
                yield wanted, bytes(self._decode(place, Kind.BLOB, frame))
            except _ELSEWHERE:  # another copy tells better what is wrong if it is not sound; or this is a concat
                chunks = self.read_chunks(wanted)
                if len(chunks) > 1 and sum(chunk.length for chunk in chunks) > MAX_RAW_BYTES:
                    where = place_name(place)
                    raise CorruptionError(f"{where} is damaged: it is larger than its tree says", where=where) from None
                yield wanted, self.read(wanted)

    def _places(self, wanted: ObjectID, kind: Kind) -> list[Place]:
        places = [place for place in self._locations.find(wanted) if place.entry.kind == kind]
        if not places:
            raise ObjectNotFoundError(f"{kind.name.lower()} {wanted.hex()} is not in the store", object_id=wanted.hex())
        return places

    def _first(
        self, wanted: ObjectID, kind: Kind, decode: Callable[[Place], _T], places: Sequence[Place] | None = None
    ) -> _T:
        """Return what `decode` makes of the first place that is sound; of several failures the first is raised."""
        failure: ReplicateError | None = None
        for place in places or self._places(wanted, kind):
            try:
                return decode(place)
            except _ELSEWHERE as exc:
                failure = failure or exc
        assert failure is not None  # there is at least one place
        raise failure

    def _decode_concat(self, place: Place) -> list[Chunk]:
        where = place_name(place)
        if place.entry.depth:
            raise CorruptionError(f"{where} is damaged: a concat has depth 0", where=where)

        def read() -> list[Chunk]:
            return concat.decode(self._read_payload(place), place.entry.raw_length, where)

        return read_sound(self._transport, pack_key(place.pack), read)

    def _read_frame(self, place: Place) -> memoryview:
        entry = place.entry
        key = pack_key(place.pack)
        try:
            return self._get(place, entry.offset, entry.offset + entry.length)
        except KeyNotFoundError as exc:
            raise CorruptionError(
                f"object {entry.object_id.hex()} cannot be read: pack {place.pack.hex()} is missing", where=key
            ) from exc

    def _get(self, place: Place, start: int, end: int) -> memoryview:
        """Return bytes of an object's pack; where it is known to lie elsewhere, that is told."""
        try:
            return memoryview(self._transport.get(pack_key(place.pack), start, end))
        except (KeyNotFoundError, StorageUnreachableError) as exc:
            elsewhere = self._evicted_to(place.pack)
            if not elsewhere:
                raise
            wanted = place.entry.object_id.hex()
            raise ObjectNotFoundError(
                f"object {wanted} cannot be read here: it was evicted, and lies in {elsewhere}",
                object_id=wanted,
                hint=f"read it there with -R {elsewhere}, or bring it back: `replicate pull -R {elsewhere} EXPERIMENT`",
            ) from exc

    def _read_again(self, place: Place) -> memoryview:
        """Return a frame as it lies in the store: what was kept of its pack may be what is wrong."""
        if isinstance(self._transport, ReadsAhead):
            self._transport.forget(pack_key(place.pack))
        return self._read_frame(place)

    def _read_payload(
        self, place: Place, read_frame: FrameReader | None = None, *, checksum: bool = True
    ) -> memoryview:
        frame = (read_frame or self._read_frame)(place)
        return frame_payload(frame, place.entry, f"pack {place.pack.hex()}", checksum=checksum)

    def _decode(
        self, place: Place, kind: Kind, read_frame: FrameReader | None = None, *, is_verified: bool = True
    ) -> Buffer:
        """Return an object's bytes from one place, verified by its id, which proves every frame that went into it.

        What is wrong is decoded once more with every check on the way, to tell what is damaged, or to read around it.
        The bytes may lie in memory that this thread uses again when it decodes.
        """
        check_entry(place.entry, kind, place_name(place))
        try:
            data = self._decode_frame(place, kind, read_frame, thorough=False)
            if not is_verified or is_right(data, place, kind):
                return data
        except _ELSEWHERE:
            pass
        return verified(self._decode_frame(place, kind, read_frame, thorough=True), place, kind)

    def _decode_frame(self, place: Place, kind: Kind, read_frame: FrameReader | None, *, thorough: bool) -> Buffer:
        read_frame = read_frame or (self._read_again if thorough else self._read_frame)
        payload = self._read_payload(place, read_frame, checksum=thorough)
        if place.entry.encoding in BASED:
            return self._decode_based(place, kind, payload, thorough=thorough)
        return decode_whole(place, payload)

    def _decode_based(self, place: Place, kind: Kind, payload: memoryview, *, thorough: bool) -> Buffer:
        """Return what a frame with a base stands for. The base may have one too, of smaller depth, so this ends (I7).

        A base that cannot be read is tried at its other places. There is no recursion: depth may be 255. Payloads that
        wait for their bases are dropped when they are many, and read again. Checksums and the ids of bases are checked
        only if `thorough`.
        """
        held = len(payload)
        waiting: list[tuple[Place, memoryview | None, Iterator[Place]]] = [
            (place, payload, self._base_places(place, kind, payload))
        ]
        failure: ReplicateError | None = None
        frames = 0
        while waiting:
            base = next(waiting[-1][2], None)
            if base is None:  # no copy of this base can be read
                waiting.pop()
                continue
            frames += 1
            if frames > _MAX_FRAMES:
                where = place_name(place)
                raise CorruptionError(f"{where} is damaged: more than {_MAX_FRAMES:,} frames to decode", where=where)
            try:
                check_entry(base.entry, kind, place_name(base))
                read_frame = self._read_again if thorough else self._read_frame
                inner = self._read_payload(base, read_frame, checksum=thorough)
                if base.entry.encoding in BASED:
                    held += len(inner)
                    kept = inner if held <= _MAX_WAITING_BYTES else None
                    waiting.append((base, kept, self._base_places(base, kind, inner)))
                    continue
                data = decode_whole(base, inner)
                if thorough:
                    verified(data, base, kind)
                while waiting:
                    based, waited, _ = waiting.pop()
                    data = apply(based, self._read_payload(based) if waited is None else waited, data)
                    if thorough:
                        verified(data, based, kind)
                return data
            except _ELSEWHERE as exc:
                failure = failure or exc
        assert failure is not None  # each frame has a place for its base, or raises
        if isinstance(failure, CorruptionError) and place.entry.object_id.hex() not in failure.message:
            message = f"{place_name(place)} cannot be read, for it builds on this: {failure.message}"
            raise CorruptionError(message, where=failure.where) from failure
        raise failure

    def _base_places(self, based: Place, kind: Kind, payload: memoryview) -> Iterator[Place]:
        """Return where the base of a frame lies at a smaller depth, the smallest first."""
        where, depth = place_name(based), based.entry.depth
        base = base_id(payload, where)
        places = [place for place in self._locations.find(base) if place.entry.kind == kind]
        lower = [place for place in places if place.entry.depth < depth and place.entry.encoding != Encoding.CONCAT]
        if places and not lower:
            raise CorruptionError(
                f"{where} is damaged: its base {base.hex()} does not lie at a smaller depth (I7)", where=where
            )
        if not lower:
            raise ObjectNotFoundError(f"base {base.hex()} of {where} is not in the store", object_id=base.hex())
        return iter(sorted(lower, key=lambda place: place.entry.depth))


def _check_length(blob: ObjectID, length: int, claimed_bytes: int | None) -> None:
    if claimed_bytes is not None and length != claimed_bytes:
        where = f"blob {blob.hex()}"
        raise CorruptionError(f"{where} is damaged: it has another length than its tree says", where=where)


def _check_whole(blob: ObjectID, hasher: blake3) -> None:
    if hasher.digest() != blob:
        where = f"blob {blob.hex()}"
        raise CorruptionError(f"{where} is damaged: its chunks do not match its id", where=where)
