"""Object ids: 32 bytes of BLAKE3, and the contexts that keep kinds apart. SPEC §3."""

from __future__ import annotations

import enum
import re

from blake3 import blake3

from replicate.errors import InvalidInputError

ID_BYTES = 32
SHORT_DIGITS = 7
_HEX_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)

Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """What a frame holds. SPEC §6."""

    BLOB = 1
    TREE = 2
    COMMIT = 3
    LOCATOR = 4
    PACKSET = 5


class ObjectID(bytes):
    """The id of an object: 32 bytes that compare, hash and sort as such."""

    __slots__ = ()

    def __new__(cls, digest: Buffer) -> ObjectID:
        """Make an id of 32 bytes; `InvalidInputError` for any other length."""
        if len(digest) != ID_BYTES:
            raise InvalidInputError(f"an object id has {ID_BYTES} bytes, not {len(digest)}")
        return super().__new__(cls, digest)

    @classmethod
    def parse(cls, text: str) -> ObjectID:
        """Read 64 lower-case hex digits; `InvalidInputError` for anything else."""
        if not _HEX_ID.fullmatch(text):
            raise InvalidInputError(f"not an object id: {text!r} (64 lower-case hex digits)")
        return cls(bytes.fromhex(text))

    @property
    def short(self) -> str:
        """The first 7 digits, for people."""
        return self.hex()[:SHORT_DIGITS]

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"ObjectID({self.hex()})"


_CONTEXTS = {
    Kind.TREE: "replicate 2026 v1 tree",
    Kind.COMMIT: "replicate 2026 v1 commit",
    Kind.LOCATOR: "replicate 2026 v1 locator",
    Kind.PACKSET: "replicate 2026 v1 packset",
}
# One keyed hasher per context, copied for every use: deriving the key costs more than hashing a small tree.
_HASHERS = {kind: blake3(derive_key_context=context) for kind, context in _CONTEXTS.items()}
_PACK_HASHER = blake3(derive_key_context="replicate 2026 v1 pack")
_RECORD_HASHER = blake3(derive_key_context="replicate 2026 v1 record")
_CATALOG_HASHER = blake3(derive_key_context="replicate 2026 v1 catalog")


def blob_id(data: Buffer) -> ObjectID:
    """Return the id of a blob: the plain BLAKE3 of its bytes, as `b3sum` prints it."""
    return ObjectID(blake3(data).digest())


def object_id(kind: Kind, data: Buffer) -> ObjectID:
    """Return the id of an object of any kind from its bytes."""
    if kind is Kind.BLOB:
        return blob_id(data)
    hasher = _HASHERS[kind].copy()
    hasher.update(data)
    return ObjectID(hasher.digest())


def pack_id(data: Buffer) -> ObjectID:
    """Return the name of a pack from all of its bytes."""
    hasher = _PACK_HASHER.copy()
    hasher.update(data)
    return ObjectID(hasher.digest())


def record_hash(data: Buffer) -> str:
    """Return the 32 hex digits that name a ref record's bytes."""
    hasher = _RECORD_HASHER.copy()
    hasher.update(data)
    return hasher.digest(16).hex()


def catalog_hash(data: Buffer) -> str:
    """Return the 32 hex digits that name a catalog's bytes."""
    hasher = _CATALOG_HASHER.copy()
    hasher.update(data)
    return hasher.digest(16).hex()
