"""Packs: many objects in one write-once file. SPEC §6.

Bytes in, bytes out; the writing side fills one reused buffer, the reading side trusts nothing.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import zstandard
from blake3 import blake3

from replicate.errors import CorruptionError
from replicate.objects.codecs import MAX_RAW_BYTES, Encoding, fill, zstd
from replicate.objects.frames import MAX_PACK_BYTES
from replicate.objects.ids import Buffer, Kind, ObjectID, object_id, pack_id
from replicate.transport import Range, Transport, prefetch

PACK_BYTES = 68 << 20
TARGET_BYTES = 34 << 20
HEADER = struct.Struct("<8sH6s16s")
FRAME = struct.Struct("<4sBBBBQQ32sI")
ENTRY = struct.Struct("<32sBBBBIIQ")
TRAILER = struct.Struct("<QIIII32s8s")
PACK_MAGIC = b"RPLPACK\x01"
FRAME_MAGIC = b"OBJ1"
END_MAGIC = b"RPLEND\x00\x01"
FLAG_META = 1
NO_NONCE = bytes(16)
"""Of a pack that holds pieces of one file alone, none on a base: equal files make equal packs."""
_MAX_ENTRIES = 4_000_000
_KINDS = frozenset(Kind)
_SUFFIX_BYTES = 64 << 10


class Entry(NamedTuple):
    """Where one frame lies in its pack, and what it is. `length` counts the frame's header."""

    object_id: ObjectID
    kind: int
    encoding: int
    depth: int
    offset: int
    length: int
    raw_length: int


class Place(NamedTuple):
    """Where one object lies in a store. `pack_bytes` is the pack's size."""

    pack: ObjectID
    pack_bytes: int
    entry: Entry


def pack_key(pack: ObjectID) -> str:
    """Return the storage key of a pack."""
    name = pack.hex()
    return f"packs/{name[:2]}/{name}"


def is_reproducible(header: Buffer) -> bool:
    """Tell whether the pack that begins with these 32 bytes is one that other machines may have made as well."""
    if len(header) != HEADER.size:
        return False
    magic, _, _, nonce = HEADER.unpack(header)
    return bool(magic == PACK_MAGIC and nonce == NO_NONCE)


def is_meta(header: Buffer) -> bool:
    """Tell whether the pack that begins with these 32 bytes says that it is a meta pack."""
    return len(header) == HEADER.size and bool(HEADER.unpack(header)[1] & FLAG_META)


class PackBuffer:
    """One pack being filled, in memory that is used again for the next.

    At most 68 MiB; only what is used is ever touched. Ask `fits` before adding: any one object fits an empty buffer.
    """

    def __init__(self) -> None:
        self._data = mmap.mmap(-1, PACK_BYTES)
        self.entries: list[Entry] = []
        self.used = HEADER.size

    @property
    def is_empty(self) -> bool:
        """Whether no frame was added since the last `clear`."""
        return not self.entries

    def fits(self, stored: int, frames: int = 1) -> bool:
        """Tell whether a frame with a payload of so many bytes (or several frames) and its footer entry still fit."""
        footer = (len(self.entries) + frames + 1) * ENTRY.size + 1024
        most = PACK_BYTES if self.is_empty else TARGET_BYTES
        return self.used + FRAME.size + stored + footer + TRAILER.size <= most

    def add(self, kind: int, encoding: int, depth: int, raw_length: int, object_id: ObjectID, payload: Buffer) -> Entry:
        """Append a frame and return its entry."""
        stored = len(payload)
        end = self.used + FRAME.size + stored
        head = FRAME.pack(FRAME_MAGIC, kind, encoding, depth, 0, raw_length, stored, object_id, 0)[:-4]
        crc = _checksum(encoding, head, payload)
        start = self.used
        self._data[start : start + FRAME.size] = head + crc.to_bytes(4, "little")
        self._data[start + FRAME.size : end] = payload
        self.used = end
        entry = Entry(object_id, kind, encoding, depth, start, FRAME.size + stored, raw_length)
        self.entries.append(entry)
        return entry

    def take_frames(self, other: PackBuffer) -> None:
        """Append every frame of another buffer; frames do not depend on their position."""
        shift = self.used - HEADER.size
        end = self.used + other.used - HEADER.size
        self._data[self.used : end] = memoryview(other._data)[HEADER.size : other.used]
        self.entries += [entry._replace(offset=entry.offset + shift) for entry in other.entries]
        self.used = end

    def seal(self, nonce: bytes, *, is_meta: bool) -> tuple[ObjectID, memoryview]:
        """Finish the pack and return its id and its bytes, valid until `clear`."""
        HEADER.pack_into(self._data, 0, PACK_MAGIC, FLAG_META if is_meta else 0, bytes(6), nonce)
        table = encode_entries(self.entries)
        footer = zstandard.ZstdCompressor(level=1).compress(table)
        trailer = TRAILER.pack(
            self.used, len(footer), len(table), len(self.entries), 0, blake3(footer).digest(), END_MAGIC
        )
        end = self.used + len(footer) + len(trailer)
        self._data[self.used : end] = footer + trailer
        view = memoryview(self._data)[:end]
        return pack_id(view), view

    def clear(self) -> None:
        """Forget the frames, keep the memory."""
        self.entries = []
        self.used = HEADER.size


def _checksum(encoding: int, head: Buffer, payload: Buffer) -> int:
    """Return a frame's CRC. A raw payload is left out: its id proves it, and checking it twice costs a pass."""
    crc = zlib.crc32(head)
    return crc if encoding == Encoding.RAW else zlib.crc32(payload, crc)


def encode_entries(entries: Iterable[Entry]) -> bytes:
    """Return the entry table of some entries."""
    rows = sorted((e.object_id, e.kind, e.encoding, e.depth, 0, e.offset, e.length, e.raw_length) for e in entries)
    pack = ENTRY.pack
    return b"".join([pack(*row) for row in rows])


def decode_entries(table: bytes, where: str, *, limit: int = MAX_PACK_BYTES) -> list[Entry]:
    """Return the entries of a table, checked one by one.

    Args:
        table: The bytes.
        where: Names the table in errors.
        limit: No frame may end beyond this offset.
    """

    def damaged(why: str) -> CorruptionError:
        return CorruptionError(f"{where} is damaged: {why}", where=where)

    if len(table) % ENTRY.size or len(table) // ENTRY.size > _MAX_ENTRIES:
        raise damaged("the entry table has a wrong length")
    entries = []
    previous: tuple[bytes, int] = (b"", -1)
    for digest, kind, encoding, depth, zero, offset, length, raw_length in ENTRY.iter_unpack(table):
        if (digest, kind) <= previous:
            raise damaged("the entry table is not in order")
        previous = (digest, kind)
        if zero:
            raise damaged("a reserved byte of an entry is not zero")
        if offset < HEADER.size or length < FRAME.size or offset + length > limit:
            raise damaged("an entry lies outside of the pack")
        entries.append(Entry(ObjectID(digest), kind, encoding, depth, offset, length, raw_length))
    return entries


def frame_payload(data: Buffer, entry: Entry, where: str, *, checksum: bool = True) -> memoryview:
    """Return the payload of a frame, whose bytes are `data`, after every check that needs no decoding.

    Without `checksum` the caller checks the id of what it decodes, which proves more, and reads no byte twice.

    Raises:
        CorruptionError: The frame is not the one that the entry names, or was altered.
    """

    def damaged(why: str) -> CorruptionError:
        return CorruptionError(f"object {entry.object_id.hex()} in {where} is damaged: {why}", where=where)

    view = memoryview(data)
    if len(view) != entry.length or entry.length < FRAME.size:
        raise damaged("the frame is cut short")
    magic, kind, encoding, depth, zero, raw_length, stored, digest, crc = FRAME.unpack_from(view)
    expected = (entry.kind, entry.encoding, entry.depth, entry.raw_length, entry.object_id)
    if magic != FRAME_MAGIC or zero or (kind, encoding, depth, raw_length, digest) != expected:
        raise damaged("the frame is not the one that its entry names")
    if stored != entry.length - FRAME.size:
        raise damaged("the frame's length disagrees with its entry")
    payload = view[FRAME.size :]
    if checksum and _checksum(encoding, view[: FRAME.size - 4], payload) != crc:
        raise damaged("its checksum does not match")
    return payload


def names_object(header: Buffer, entry: Entry) -> bool:
    """Tell whether the first 60 bytes of a frame are those of the object that `entry` names."""
    if len(header) < FRAME.size:
        return False
    magic, kind, encoding, depth, zero, raw_length, stored, digest, _ = FRAME.unpack_from(header)
    return (
        magic == FRAME_MAGIC
        and not zero
        and (kind, encoding, depth, raw_length, digest, stored + FRAME.size)
        == (entry.kind, entry.encoding, entry.depth, entry.raw_length, entry.object_id, entry.length)
    )


def expect_footers(transport: Transport, packs: Mapping[ObjectID, int]) -> None:
    """Fetch the footers of packs of these sizes, which will be read soon, if storage is elsewhere."""
    prefetch(
        transport, [Range(pack_key(pack), max(0, size - _SUFFIX_BYTES), size) for pack, size in packs.items() if size]
    )


def read_footer(transport: Transport, pack: ObjectID, pack_bytes: int) -> list[Entry]:
    """Return a pack's entries from its footer: one read of 64 KiB, a second one when the footer is larger.

    Raises:
        CorruptionError: The footer is not intact. KeyNotFoundError: No such pack.
    """
    key = pack_key(pack)
    return decode_footer(lambda start, end: transport.get(key, start, end), pack, pack_bytes)


def decode_footer(read: Callable[[int, int], Buffer], pack: ObjectID, pack_bytes: int) -> list[Entry]:
    """Return a pack's entries; `read` gives the bytes from one offset to another."""
    key = pack_key(pack)

    def damaged(why: str) -> CorruptionError:
        return CorruptionError(f"pack {pack.hex()} is damaged: {why}", where=key)

    if not HEADER.size + TRAILER.size <= pack_bytes <= MAX_PACK_BYTES:
        raise damaged(f"{pack_bytes:,} bytes is no size of a pack")
    tail = read(max(0, pack_bytes - _SUFFIX_BYTES), pack_bytes)
    if len(tail) < TRAILER.size:
        raise damaged("it is cut short")
    offset, stored, table_bytes, count, zero, digest, magic = TRAILER.unpack_from(tail, len(tail) - TRAILER.size)
    if magic != END_MAGIC or zero:
        raise damaged("it has no trailer")
    if offset < HEADER.size or offset + stored + TRAILER.size != pack_bytes:
        raise damaged("its footer and trailer do not fill it")
    if table_bytes != count * ENTRY.size or HEADER.size + count * FRAME.size > offset:
        raise damaged("its trailer lies about the number of entries")
    if stored + TRAILER.size > len(tail):
        tail = read(offset, pack_bytes)
    footer = tail[len(tail) - TRAILER.size - stored : len(tail) - TRAILER.size]
    if len(footer) != stored or blake3(footer).digest() != digest:
        raise damaged("its footer does not match its hash")
    try:
        table = zstd.decompress(footer, table_bytes, f"pack {pack.hex()}")
        entries = decode_entries(table, f"pack {pack.hex()}", limit=offset)
    except CorruptionError as exc:
        raise CorruptionError(exc.message, where=key) from exc
    end = HEADER.size
    for entry in sorted(entries, key=lambda one: one.offset):
        if entry.offset != end:
            raise damaged("its frames do not lie one after another")
        end += entry.length
    if end != offset:
        raise damaged("its frames do not reach to its footer")
    return entries


def verify_pack(transport: Transport, pack: ObjectID, pack_bytes: int) -> list[Entry]:
    """Return a pack's entries after checking header, footer, name, and every object that stands alone."""
    entries = read_footer(transport, pack, pack_bytes)
    key = pack_key(pack)
    data = memoryview(transport.get(key, 0, pack_bytes))
    verify_name(data, pack)
    for entry in entries:
        verify_frame(data[entry.offset : entry.offset + entry.length], entry, f"pack {pack.hex()}")
    return entries


def verify_name(data: Buffer, pack: ObjectID) -> None:
    """Check that the bytes of a whole pack match its name, and its header; `CorruptionError` that names its key."""
    key = pack_key(pack)
    if pack_id(data) != pack:
        raise CorruptionError(f"pack {pack.hex()} is damaged: its bytes do not match its name", where=key)
    magic, flags, reserved, _ = HEADER.unpack_from(data)
    if magic != PACK_MAGIC or flags & ~FLAG_META or any(reserved):
        raise CorruptionError(f"pack {pack.hex()} is damaged: its header is not one of format 1", where=key)


def verify_frame(data: Buffer, entry: Entry, where: str) -> None:
    """Check a frame, whose bytes are `data`; and by its id what it holds, if it can be decoded without other objects.

    Raises:
        CorruptionError: The frame is not the one that the entry names, or was altered.
    """
    payload = frame_payload(data, entry, where)
    content = _decode_alone(payload, entry, where) if entry.kind in _KINDS else None
    if content is not None and object_id(Kind(entry.kind), content) != entry.object_id:
        raise CorruptionError(
            f"object {entry.object_id.hex()} in {where} is damaged: its bytes do not match its id", where=where
        )


def _decode_alone(payload: memoryview, entry: Entry, where: str) -> Buffer | None:
    """Return the bytes of an object that no other is needed for, or None."""
    if entry.encoding == Encoding.RAW:
        return payload
    if entry.raw_length > MAX_RAW_BYTES:
        return None
    if entry.encoding == Encoding.ZSTD:
        return zstd.decompress(payload, entry.raw_length, where)
    if entry.encoding == Encoding.PLANES:
        from replicate.objects.codecs import planes  # loads numpy

        return planes.decode(payload, entry.raw_length, where)
    return fill.decode(payload, entry.raw_length, where) if entry.encoding == Encoding.FILL else None
