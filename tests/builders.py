"""What tests build: packs frame by frame, sound or not, and small saves in memory."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import zstandard
from blake3 import blake3

from replicate.objects.codecs import Encoding, concat
from replicate.objects.codecs.concat import Chunk
from replicate.objects.ids import Kind, ObjectID, blob_id, object_id, pack_id
from replicate.objects.model import Mode, TreeEntry, encode_tree
from replicate.objects.pack import (
    END_MAGIC,
    ENTRY,
    FRAME,
    FRAME_MAGIC,
    HEADER,
    PACK_MAGIC,
    TRAILER,
    Entry,
    Place,
    encode_entries,
    pack_key,
)
from replicate.objects.store import ObjectStore
from replicate.transport import MemoryTransport, Transport

NONCE = bytes(range(16))


def numbered_random() -> Callable[[int], bytes]:
    """Return what stands for randomness: bytes that never come twice and are the same in every run."""
    numbers = itertools.count()
    return lambda size: blake3(struct.pack("<Q", next(numbers))).digest(size)


def noise(size: int, seed: str = "") -> bytes:
    """Return bytes that do not compress, the same for the same arguments."""
    return blake3(seed.encode()).digest(size)


def some_id(name: str) -> ObjectID:
    """Return an id of nothing, the same for the same name."""
    return ObjectID(noise(32, name))


def entry(name: str | bytes, content: bytes = b"hello\n", mode: Mode = Mode.FILE) -> TreeEntry:
    """Return a tree's entry for a file or a link of some content."""
    raw = name.encode() if isinstance(name, str) else name
    return TreeEntry(raw, mode, len(content), blob_id(content))


def many_entries(count: int, changed: dict[int, bytes] | None = None) -> list[TreeEntry]:
    """Return a folder of so many files, each with its own content; some may have another."""
    changes = changed or {}
    return [entry(f"{number:05}.txt", changes.get(number, b"%d" % number)) for number in range(count)]


@dataclass(frozen=True)
class Frame:
    """A frame of a pack; sound unless told otherwise."""

    content: bytes
    kind: int = Kind.BLOB
    encoding: int = Encoding.RAW
    payload: bytes | None = None
    depth: int = 0
    raw_length: int | None = None
    claimed: ObjectID | None = None

    @property
    def object_id(self) -> ObjectID:
        """The id that the frame claims."""
        return self.claimed or object_id(Kind(self.kind), self.content)

    @property
    def stored(self) -> bytes:
        """The payload."""
        return self.content if self.payload is None else self.payload

    def entry(self, offset: int) -> Entry:
        """Return the table's entry for the frame at an offset."""
        length = len(self.content) if self.raw_length is None else self.raw_length
        size = FRAME.size + len(self.stored)
        return Entry(self.object_id, self.kind, self.encoding, self.depth, offset, size, length)

    def encode(self) -> bytes:
        """Return header and payload."""
        made = self.entry(0)
        numbers = (self.kind, self.encoding, self.depth, 0, made.raw_length, len(self.stored))
        head = FRAME.pack(FRAME_MAGIC, *numbers, self.object_id, 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head + (self.stored if self.encoding else b""))) + self.stored


def zstd_frame(content: bytes, kind: int = Kind.BLOB) -> Frame:
    """Return a frame in encoding zstd."""
    return Frame(content, kind, Encoding.ZSTD, zstandard.ZstdCompressor().compress(content))


def concat_frame(*chunks: bytes) -> Frame:
    """Return the frame that lists some chunks."""
    listed = concat.encode([Chunk(blob_id(chunk), len(chunk)) for chunk in chunks])
    return Frame(b"".join(chunks), Kind.BLOB, Encoding.CONCAT, listed)


def patch_frame(base: bytes, content: bytes, kind: Kind = Kind.TREE, depth: int = 1) -> Frame:
    """Return a frame in encoding patch."""
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    payload = object_id(kind, base) + zstandard.ZstdCompressor(dict_data=dictionary).compress(content)
    return Frame(content, kind, Encoding.PATCH, payload, depth)


def seal(body: bytes, table: bytes, footer: bytes | None = None) -> bytes:
    """Return header and frames with a footer and a trailer that fit."""
    stored = zstandard.ZstdCompressor().compress(table) if footer is None else footer
    count = len(table) // ENTRY.size
    return (
        body + stored + TRAILER.pack(len(body), len(stored), len(table), count, 0, blake3(stored).digest(), END_MAGIC)
    )


@dataclass(frozen=True)
class BuiltPack:
    """A pack and where its frames lie."""

    pack_id: ObjectID
    data: bytes
    entries: tuple[Entry, ...]

    @property
    def key(self) -> str:
        """The pack's storage key."""
        return pack_key(self.pack_id)

    @property
    def places(self) -> list[Place]:
        """Where every object lies."""
        return [Place(self.pack_id, len(self.data), one) for one in self.entries]


def build_pack(frames: Sequence[Frame], nonce: bytes = NONCE, *, is_meta: bool = False) -> BuiltPack:
    """Return a pack of these frames, in this order, whatever they claim."""
    body = HEADER.pack(PACK_MAGIC, int(is_meta), bytes(6), nonce)
    entries = []
    for frame in frames:
        entries.append(frame.entry(len(body)))
        body += frame.encode()
    data = seal(body, encode_entries(entries))
    return BuiltPack(pack_id(data), data, tuple(entries))


class Known:
    """Locations from a list."""

    def __init__(self, places: Iterable[Place] = ()) -> None:
        self.places = list(places)

    def find(self, object_id: ObjectID) -> Sequence[Place]:
        """See `Locations.find`."""
        return [place for place in self.places if place.entry.object_id == object_id]


def store_of(*packs: BuiltPack, transport: Transport | None = None) -> ObjectStore:
    """Return the objects of some packs, put into a store."""
    store = transport or MemoryTransport()
    for pack in packs:
        store.put(pack.key, pack.data)
    return ObjectStore(store, Known(place for pack in packs for place in pack.places))


def tree_frame(entries: Iterable[TreeEntry]) -> Frame:
    """Return a frame that holds a tree."""
    return Frame(encode_tree(entries), Kind.TREE)
