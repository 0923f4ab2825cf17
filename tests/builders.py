"""What tests build: packs frame by frame, sound or not, and small saves in memory."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard
from blake3 import blake3

from replicate.errors import CorruptionError
from replicate.objects.codecs import Encoding, concat
from replicate.objects.codecs.concat import Chunk
from replicate.objects.codecs.patch import PatchBase
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.cutting.pieces import cut_without_tensors
from replicate.objects.ids import Kind, ObjectID, blob_id, object_id, pack_id
from replicate.objects.index import ObjectIndex
from replicate.objects.locator import LocatorView
from replicate.objects.model import (
    Commit,
    Mode,
    TreeEntry,
    commit_id,
    decode_commit,
    directory_size,
    encode_commit,
    encode_tree,
)
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
from replicate.objects.writer import ObjectWriter, Stored
from replicate.refs import CommitRecord, RefStore
from replicate.refs.store import packset_of
from replicate.transport import MemoryTransport, Transport

NONCE = bytes(range(16))


def numbered_random() -> Callable[[int], bytes]:
    """Return what stands for randomness: bytes that never come twice and are the same in every run."""
    numbers = itertools.count()
    return lambda size: blake3(struct.pack("<Q", next(numbers))).digest(size)


def noise(size: int, seed: str = "") -> bytes:
    """Return bytes that do not compress, the same for the same arguments."""
    return blake3(seed.encode()).digest(size)


def refusal(call: Callable[[], object]) -> CorruptionError | None:
    """Return the error that a call raises on damaged bytes, or None when it takes them."""
    try:
        call()
    except CorruptionError as exc:
        return exc
    return None


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


def store_of(*packs: BuiltPack, transport: Transport | None = None, workers: int = 1) -> ObjectStore:
    """Return the objects of some packs, put into a store."""
    store = transport or MemoryTransport()
    for pack in packs:
        store.put(pack.key, pack.data)
    return ObjectStore(store, Known(place for pack in packs for place in pack.places), workers)


def tree_frame(entries: Iterable[TreeEntry]) -> Frame:
    """Return a frame that holds a tree."""
    return Frame(encode_tree(entries), Kind.TREE)


class BytesSource:
    """A big blob in memory; a `PieceSource`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See `PieceSource`."""
        buffer[:] = self._data[offset : offset + len(buffer)]


@dataclass(frozen=True)
class SavedFiles:
    """A commit that was saved, and what the next one builds on."""

    record: CommitRecord
    stored: Stored
    folders: Mapping[str, tuple[ObjectID, Sequence[TreeEntry], PatchBase | None]]


Folder = dict[str, "bytes | Folder"]


class SmallStore:
    """Saves and restores small commits: objects, refs and an index over a transport, without a worktree."""

    def __init__(
        self, folder: Path, transport: Transport | None = None, *, boot: str = "boot 1", durable: bool = True
    ) -> None:
        self.transport = transport or MemoryTransport()
        self.durable = durable
        self.random = numbered_random()
        self.index = ObjectIndex(str(folder / "objects.db"), self.transport, boot)
        self.damage: list[CorruptionError] = []
        self.refs = RefStore(self.transport, self.damage.append)

    def writer(self, workers: int = 2) -> ObjectWriter:
        """Begin a save."""
        self.index.begin_save()
        return ObjectWriter(self.transport, self.index, random=self.random, durable=self.durable, workers=workers)

    def save(
        self, files: Folder, previous: SavedFiles | None = None, *, relying: bool = True, metrics: float = 0.0
    ) -> SavedFiles:
        """Save a root, or a checkpoint after `previous`, which relies on what that one holds unless told not to."""
        writer = self.writer()
        base = previous if relying else None
        folders: dict[str, tuple[ObjectID, Sequence[TreeEntry], PatchBase | None]] = {}
        try:
            tree = self._write_folder(writer, "", files, base, folders).object_id
            commit = Commit(
                tree=tree,
                author="ada@engine",
                time_ns=1,
                parents=(previous.record.commit_id,) if previous else (),
                experiment=previous.record.name.experiment if previous else None,
                nonce=b"" if previous else self.random(16),
                seq=previous.record.commit.seq + 1 if previous else 0,
                metrics={"loss": metrics} if previous else {},
            )
            encoded = encode_commit(commit)
            writer.write_meta(Kind.COMMIT, encoded)
            live = [one for found, entries, _ in folders.values() for one in (found, *(e.object_id for e in entries))]
            stored = writer.finish(base.stored if base else None, lambda: live)
        finally:
            writer.close()
        record = publish(self.refs, encoded, stored)
        return SavedFiles(record, stored, folders)

    def _write_folder(
        self,
        writer: ObjectWriter,
        path: str,
        files: Folder,
        base: SavedFiles | None,
        folders: dict[str, tuple[ObjectID, Sequence[TreeEntry], PatchBase | None]],
    ) -> TreeEntry:
        before = base.folders.get(path) if base else None
        held = {one.object_id for one in before[1]} if before else set()
        entries = []
        for name, content in files.items():
            if isinstance(content, dict):
                made = self._write_folder(writer, f"{path}/{name}", content, base, folders)
                entries.append(made._replace(name=name.encode()))
                continue
            made = entry(name, content)
            entries.append(made)
            if made.object_id in held:
                continue
            if len(content) > MAX_PIECE_BYTES:
                writer.write_large(BytesSource(content), cut_without_tensors(len(content)), lambda size: None)
            else:
                writer.write_blob(content)
        data = encode_tree(entries)
        tree = object_id(Kind.TREE, data)
        if before and before[0] == tree:
            patch_base = before[2]
        else:
            tree, patch_base = writer.write_tree(data, before[2] if before else None)
        folders[path] = (tree, entries, patch_base)
        return TreeEntry(b"", Mode.DIRECTORY, directory_size(entries), tree)

    def locations(self, saved: SavedFiles | CommitRecord) -> LocatorView:
        """Return a fresh look at where the closure of a commit lies."""
        record = saved if isinstance(saved, CommitRecord) else saved.record
        return LocatorView(self.transport, [record.locator])

    def objects(self, saved: SavedFiles | CommitRecord) -> ObjectStore:
        """Return a fresh look at the objects of a commit."""
        return ObjectStore(self.transport, self.locations(saved))

    def restore(self, saved: SavedFiles | CommitRecord) -> Folder:
        """Return the files of a commit as they are read back, by its locator only."""
        record = saved if isinstance(saved, CommitRecord) else saved.record
        return read_folder(self.objects(saved), record.commit.tree)


def read_folder(objects: ObjectStore, tree: ObjectID, claimed_bytes: int | None = None) -> Folder:
    """Return the files of a tree, all verified."""
    found: Folder = {}
    for one in objects.read_tree(tree, claimed_bytes=claimed_bytes):
        if one.mode is Mode.DIRECTORY:
            found[one.name.decode()] = read_folder(objects, one.object_id, one.size_bytes)
        else:
            found[one.name.decode()] = objects.read(one.object_id)
    return found


SESSION = "5e" * 8


def publish(refs: RefStore, encoded: bytes, stored: Stored) -> CommitRecord:
    """Publish a commit that was stored."""
    wanted = commit_id(encoded)
    commit = decode_commit(encoded, "a new commit")
    fields = {
        "commit": encoded,
        **packset_of(stored).fields(),
        "meta": [bytes(pack) for pack in stored.meta],
        "locator": stored.locator.encode(),
    }
    record = refs.publish(commit.experiment or wanted, commit.seq, SESSION, "c", fields, wanted.hex())
    assert isinstance(record, CommitRecord)
    return record
