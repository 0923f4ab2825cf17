"""Encoding 2: items rotated left by one bit and split into byte planes, each coded on its own. SPEC §7.1.

No match is worth looking for in weights: what can be had is the entropy of the exponents, and zstd with a hash table of
64 entries is a fast Huffman coder that any zstd decoder reads. Loads numpy: import it in functions.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import zstandard

from replicate.objects.codecs import zstd
from replicate.objects.codecs.items import (
    ITEM_BYTES,
    Bytes,
    Items,
    blocks,
    can_compute,
    check_decodable,
    damaged,
    gather,
    merge,
    output,
    rotate,
    rotate_back,
    sample,
    scratch,
    split,
    spread,
    whole_items,
    with_tail,
)
from replicate.objects.ids import Buffer

WORTH_BITS = 7.9  # of a byte; 4,096 random ones seem to have 7.955
_HUFFMAN = zstandard.ZstdCompressionParameters(
    compression_level=1,
    strategy=zstandard.STRATEGY_FAST,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
    window_log=20,
    write_content_size=1,
)
_local = threading.local()
_SIZE = struct.Struct("<I")
_IS_SPARSE = 1 << 31  # of a section's length
_SPARSE_BELOW = 0.25  # of a plane's length
_SPARSE_RUNS = 4
_SPARSE_RUN = 8 << 10


def encode(data: Buffer, item_bytes: int) -> bytes | None:
    """Return the payload, or None when it would not be smaller than `data`, as a sample tells or a trial.

    Raises:
        ValueError: `item_bytes` is not 1, 2, 4 or 8.
    """
    source = whole_items(data, item_bytes)
    if not can_compute() or not source.size:
        return None
    worth = worth_coding(_rotated_sample(source))
    if not any(worth):
        return None
    planes = plane_space(source)
    for block in blocks(source):
        rotated = scratch("rotated", block.stop - block.start, item_bytes)
        rotate(source[block], rotated)
        split(rotated, planes[:, block])
    return join_sections(bytes([item_bytes]), code_planes(planes, worth), data, item_bytes)


def decode(payload: Buffer, raw_length: int, where: str) -> bytes:
    """Return the `raw_length` bytes that a payload stands for; `where` names the object in errors.

    Raises:
        CorruptionError: It stands for no bytes, or for so many others.
        UnsupportedFormatError: This machine is big-endian.
    """
    return bytes(decode_view(payload, raw_length, where))


def decode_view(payload: Buffer, raw_length: int, where: str) -> Buffer:
    """Return as `decode` does, in this thread's memory: valid until the thread decodes something else."""
    check_decodable(raw_length, where)
    view = memoryview(payload)
    item_bytes = view[0] if len(view) else 0
    if item_bytes not in ITEM_BYTES:
        raise damaged(where, "its items have no length that there is")
    size, tail = divmod(raw_length, item_bytes)
    sections, rest = cut_sections(view[1:], [size] * item_bytes, tail, where)
    planes = decode_planes(sections, size, where)
    out = output(size, item_bytes)
    for block in blocks(out):
        merge(rows(planes, block), out[block])
        rotate_back(out[block], out[block])
    return with_tail(out, rest)


def sampled_bits(data: Buffer, item_bytes: int) -> float:
    """Return how many bits an item would take, as a sample tells."""
    source = whole_items(data, item_bytes)
    return sum(plane_bits(_rotated_sample(source))) if source.size else 0.0


def _rotated_sample(source: Items) -> Items:
    (found,) = sample(source)
    rotate(found, found)
    return found


# -- planes, for deltas too


def plane_bits(items: Items) -> list[float]:
    """Return the order-0 entropy of each plane of some items, in bits for an item: from 0 to 8."""
    if not items.size:
        return [0.0] * items.itemsize
    columns = items.view(np.uint8).reshape(items.size, items.itemsize)
    found = []
    for index in range(items.itemsize):
        counts = np.bincount(columns[:, index], minlength=256)
        counts = counts[counts > 0]
        found.append(float(np.log2(items.size) - counts @ np.log2(counts) / items.size))
    return found


def worth_coding(items: Items) -> list[bool]:
    """Tell of each plane, by a sample of the items, whether it is worth a trial."""
    return [bits < WORTH_BITS for bits in plane_bits(items)]


def plane_space(items: Items) -> Bytes:
    """Return memory for the planes of some items, one a row."""
    return scratch("planes", items.nbytes).reshape(items.itemsize, items.size)


class Section(NamedTuple):
    """What stands for a plane, as `code` made it. `is_sparse`: which bytes are not 0, and these."""

    data: Buffer
    is_sparse: bool = False


def code_planes(planes: Bytes, worth: Sequence[bool]) -> list[Section]:
    """Return the sections for planes, of which those that are not worth a trial stay as they are."""
    return [code(plane) if try_it else Section(plane.data) for plane, try_it in zip(planes, worth, strict=True)]


def code(plane: Bytes) -> Section:
    """Return the smallest section for a plane: nothing if it is 0, a zstd frame, what is not 0, or the plane itself."""
    if _seems_sparse(plane):
        sparse = _code_sparse(plane)
        if len(sparse) < plane.size:
            return Section(sparse, True)
    whole = _code_whole(plane)
    if not len(whole) or len(whole) >= _SPARSE_BELOW * plane.size:
        return Section(whole)
    sparse = _code_sparse(plane)
    return Section(sparse, True) if len(sparse) < len(whole) else Section(whole)


def _code_whole(plane: Bytes) -> Buffer:
    if not plane.size or not plane.max():
        return b""
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(compression_params=_HUFFMAN)
    frame = found.compress(plane.data)
    return frame if len(frame) < plane.size else plane.data


def _seems_sparse(plane: Bytes) -> bool:
    """Tell whether a plane is smaller as a list of what is not 0, by parts of it; coding it whole is slow then."""
    last = plane.size - _SPARSE_RUN
    if last < 2 * _SPARSE_RUNS * _SPARSE_RUN:
        return False
    starts = [number * last // (_SPARSE_RUNS - 1) for number in range(_SPARSE_RUNS)]
    parts = np.concatenate([plane[start : start + _SPARSE_RUN] for start in starts])
    return bool(2 * np.count_nonzero(parts) < parts.size) and len(_code_sparse(parts)) < len(_code_whole(parts))


def _code_sparse(plane: Bytes) -> Buffer:
    """Return which bytes of a plane are not 0, and these.

    A Huffman code spends a bit or more on every byte. Where most are 0, as the first ones of small differences are, one
    of eight bits that tell which are not is spent better.
    """
    chosen = np.not_equal(plane, 0, out=scratch("chosen", plane.size).view(np.bool_))
    mask = _code_whole(np.packbits(chosen, bitorder="little"))
    values = gather(plane, chosen, scratch("gathered", plane.size))
    return b"".join([_SIZE.pack(values.size), _SIZE.pack(len(mask)), mask, _code_whole(values)])


def _listed(sections: Sequence[Section]) -> list[Buffer]:
    """Return the lengths of sections, and the sections."""
    lengths = [_SIZE.pack(len(section.data) | (_IS_SPARSE if section.is_sparse else 0)) for section in sections]
    return [*lengths, *(section.data for section in sections)]


def join_sections(header: bytes, sections: Sequence[Section], data: Buffer, item_bytes: int) -> bytes | None:
    """Return a payload: header, the sections' lengths, the sections, the tail of `data`; None if it is not smaller."""
    tail = len(data) % item_bytes
    if len(header) + sum(_SIZE.size + len(section.data) for section in sections) + tail >= len(data):
        return None
    return b"".join([header, *_listed(sections), memoryview(data)[len(data) - tail :]])


def cut_sections(view: memoryview, sizes: Sequence[int], tail: int, where: str) -> tuple[list[Section], memoryview]:
    """Return the sections for planes of so many bytes, and the tail; undoes `join_sections` after the header."""
    at = _SIZE.size * len(sizes)
    if len(view) < at:
        raise damaged(where, "its list of planes is cut short")
    listed = [length for (length,) in _SIZE.iter_unpack(view[:at])]
    lengths = [length & ~_IS_SPARSE for length in listed]
    if any(length > size for length, size in zip(lengths, sizes, strict=True)):
        raise damaged(where, "a plane is longer than it can be")
    if any(length != claimed and length < 2 * _SIZE.size for length, claimed in zip(lengths, listed, strict=True)):
        raise damaged(where, "a list of bytes is cut short")
    if at + sum(lengths) + tail != len(view):
        raise damaged(where, "its planes do not fill it")
    found = []
    for length, claimed in zip(lengths, listed, strict=True):
        found.append(Section(view[at : at + length], claimed != length))
        at += length
    return found, view[at:]


def decode_plane(section: Section, size: int, where: str, name: str = "plane") -> Bytes | None:
    """Return the `size` bytes of a plane, or None if all are zero; undoes `code`.

    They lie in the section, or in this thread's memory of that name.
    """
    if section.is_sparse:
        return _decode_sparse(memoryview(section.data), size, where, scratch(name, size))
    if not len(section.data):
        return None
    if len(section.data) == size:
        return np.frombuffer(section.data, np.uint8)
    zstd.check_frame(section.data, size, where)
    out = scratch(name, size)
    zstd.decompress_into(section.data, out.data, where)
    return out


def _decode_sparse(view: memoryview, size: int, where: str, out: Bytes) -> Bytes:
    (count,), (mask_stored,) = _SIZE.unpack_from(view), _SIZE.unpack_from(view, _SIZE.size)
    mask_bytes, rest = (size + 7) // 8, view[2 * _SIZE.size :]
    if count > size or mask_stored > min(mask_bytes, len(rest)) or len(rest) - mask_stored > count:
        raise damaged(where, "a list of bytes has another length than it says")
    mask = decode_plane(Section(rest[:mask_stored]), mask_bytes, where, "mask")
    chosen = None if mask is None else np.unpackbits(mask, count=size, bitorder="little").view(np.bool_)
    if (0 if chosen is None else np.count_nonzero(chosen)) != count:
        raise damaged(where, "a list of bytes does not fit its mask")
    values = decode_plane(Section(rest[mask_stored:]), count, where, "listed")
    if values is None or chosen is None:
        out[:] = 0
    else:
        spread(values, chosen, out)
    return out


def decode_planes(sections: Sequence[Section], size: int, where: str) -> list[Bytes | None]:
    """Return the planes of `size` bytes that sections stand for, as `decode_plane` does."""
    return [decode_plane(section, size, where, f"plane{index}") for index, section in enumerate(sections)]


def rows(planes: Sequence[Bytes | None], block: slice) -> list[Bytes | None]:
    """Return a part of each plane."""
    return [None if plane is None else plane[block] for plane in planes]
