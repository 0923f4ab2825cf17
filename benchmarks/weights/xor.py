"""What was published for weights with a base: xor with the file before, byte planes, zstd -1 on each.

Without a base, the first file is planes only. Pieces of 4 MiB are coded on two threads; a plane that zstd does not make
smaller is kept as it is.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import zstandard
from numpy.typing import NDArray

PIECE_BYTES = 4 << 20
THREADS = 2
_FILE = struct.Struct("<QB?")  # length, bytes of an item, whether there is a base
_PLANE = struct.Struct("<?I")  # whether it is compressed, length
_local = threading.local()


def encode(data: bytes | bytearray, base: bytes | None, item_bytes: int) -> list[bytes]:
    """Return a file as buffers to write one after another; a base of another length is no base."""
    if base is not None and len(base) != len(data):
        base = None
    starts = range(0, len(data), PIECE_BYTES)

    def piece(start: int) -> list[bytes]:
        size = min(PIECE_BYTES, len(data) - start)
        items = np.frombuffer(data, np.uint8, size, start)
        if base is not None:
            items = np.bitwise_xor(items, np.frombuffer(base, np.uint8, size, start))
        return list(_planes(items, item_bytes))

    with ThreadPoolExecutor(THREADS) as pool:
        coded = [buffer for buffers in pool.map(piece, starts) for buffer in buffers]
    return [_FILE.pack(len(data), item_bytes, base is not None), *coded]


def decode(coded: bytes, base: bytes | None) -> bytes:
    """Return the file. `base` is ignored if it was coded without."""
    length, item_bytes, has_base = _FILE.unpack_from(coded)
    found = np.empty(length, np.uint8)
    work, at = [], _FILE.size
    for start in range(0, length, PIECE_BYTES):
        stop = min(start + PIECE_BYTES, length)
        planes = []
        for _ in range(item_bytes + 1):
            is_compressed, size = _PLANE.unpack_from(coded, at)
            planes.append((is_compressed, at + _PLANE.size, size))
            at += _PLANE.size + size
        work.append((start, stop, planes))

    def piece(one: tuple[int, int, list[tuple[bool, int, int]]]) -> None:
        start, stop, planes = one
        whole = (stop - start) // item_bytes * item_bytes
        for number, (is_compressed, at, size) in enumerate(planes):
            column = coded[at : at + size]
            if is_compressed:
                column = zstandard.ZstdDecompressor().decompress(column)
            places = (
                slice(start + number, start + whole, item_bytes) if number < item_bytes else slice(start + whole, stop)
            )
            found[places] = np.frombuffer(column, np.uint8)
        if has_base:
            assert base is not None
            np.bitwise_xor(found[start:stop], np.frombuffer(base, np.uint8, stop - start, start), out=found[start:stop])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(piece, work))
    return found.tobytes()


def _planes(items: NDArray[np.uint8], item_bytes: int) -> Iterator[bytes]:
    """Yield each plane and what is left over, each after its header."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=1)
    whole = len(items) // item_bytes * item_bytes
    for column in (*items[:whole].reshape(-1, item_bytes).T, items[whole:]):
        plane = column.tobytes()
        smaller = _local.compressor.compress(plane)
        is_compressed = len(smaller) < len(plane)
        kept = smaller if is_compressed else plane
        yield _PLANE.pack(is_compressed, len(kept))
        yield kept
