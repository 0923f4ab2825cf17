"""What lies where in a zip archive, zip64 included. Nothing is decompressed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from replicate.objects.cutting.header import MAX_TENSORS, HeaderReader, Surprise

_LOCAL_MAGIC = b"PK\x03\x04"
_LOCAL_BYTES = 30
_LOCAL_LENGTHS = struct.Struct("<HH")
_ENTRY = struct.Struct("<4s4xHH8xIIHHHH6xI")
_ENTRY_MAGIC = b"PK\x01\x02"
_END = struct.Struct("<4sHHHHIIH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sIQI")
_LOCATOR_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4s12xIIQQQQ")
_END64_MAGIC = b"PK\x06\x06"
_MAX_COMMENT_BYTES = 0xFFFF
_WIDE = 0xFFFFFFFF
_ENCRYPTED = 1
_DEFLATED = 8


class Entry(NamedTuple):
    """A file in an archive.

    Attributes:
        name: As the directory has it; bytes that are not UTF-8 are escaped.
        is_stored: Neither compressed nor encrypted.
        length: How many bytes it takes in the archive.
        header_offset: Where its local header is.
        end_limit: Where the directory begins: it ends before.
        name_bytes: What the local header must repeat.
        is_deflated: Compressed with deflate, and not encrypted.
        content_bytes: How long it says it is when it is not compressed.
    """

    name: str
    is_stored: bool
    length: int
    header_offset: int
    end_limit: int
    name_bytes: bytes
    is_deflated: bool
    content_bytes: int


class _Extent(NamedTuple):
    offset: int
    length: int
    entries: int


def first_name(head: bytes) -> str | None:
    """Return the name in the local header that a file begins with, or None if it does not begin with one."""
    if len(head) < _LOCAL_BYTES or not head.startswith(_LOCAL_MAGIC):
        return None
    name_length, _ = _LOCAL_LENGTHS.unpack_from(head, 26)
    return _text(head[_LOCAL_BYTES : _LOCAL_BYTES + name_length])


def locate(file: HeaderReader, entry: Entry) -> int:
    """Return where the bytes of an entry begin, which only its local header tells. One small read.

    Raises:
        Surprise: There is no header of that entry, or its bytes end beyond where the directory begins.
    """
    name_length = len(entry.name_bytes)
    header = file.read(entry.header_offset, _LOCAL_BYTES + name_length)
    found_length, extra_length = _LOCAL_LENGTHS.unpack_from(header, 26)
    if not header.startswith(_LOCAL_MAGIC) or found_length != name_length or header[30:] != entry.name_bytes:
        raise Surprise("an entry is not where its directory says")
    offset = entry.header_offset + len(header) + int(extra_length)
    if offset + entry.length > entry.end_limit:
        raise Surprise("an entry is not all there")
    return offset


def read_directory(file: HeaderReader) -> Iterator[Entry]:
    """Yield the entries in the order of the directory. Three reads.

    Raises:
        Surprise: The directory is not sound, or is spread over several disks.
    """
    extent = _find_directory(file)
    data = file.read(extent.offset, extent.length)
    at = 0
    for _ in range(extent.entries):
        if at + _ENTRY.size > len(data):
            raise Surprise("its directory is too short")
        magic, flags, method, packed, length, name_length, extra_length, comment_length, disk, offset = (
            _ENTRY.unpack_from(data, at)
        )
        begin = at + _ENTRY.size
        middle = begin + name_length
        at = middle + extra_length + comment_length
        if magic != _ENTRY_MAGIC or at > len(data):
            raise Surprise("its directory is damaged")
        if _WIDE in (packed, length, offset):
            length, packed, offset = _widened(data[middle : middle + extra_length], length, packed, offset)
        is_stored, is_deflated = (method == wanted and not flags & _ENCRYPTED for wanted in (0, _DEFLATED))
        if disk not in (0, 0xFFFF) or (is_stored and packed != length):
            raise Surprise("an entry contradicts itself")
        name = data[begin:middle]
        yield Entry(_text(name), is_stored, packed, offset, extent.offset, name, is_deflated, length)
    if at != len(data):
        raise Surprise("its directory is too long")


def _find_directory(file: HeaderReader) -> _Extent:
    tail_offset = max(0, file.size_bytes - _END.size - _MAX_COMMENT_BYTES)
    tail = file.read(tail_offset, file.size_bytes - tail_offset)
    at = len(tail) - _END.size
    while True:
        at = tail.rfind(_END_MAGIC, 0, max(0, at + len(_END_MAGIC)))
        if at < 0:
            raise Surprise("it has no directory")
        if at + _END.size <= len(tail):
            _, disk, first_disk, here, count, length, offset, comment_length = _END.unpack_from(tail, at)
            if at + _END.size + comment_length == len(tail):
                break
        at -= 1
    end = tail_offset + at
    if disk not in (0, 0xFFFF) or first_disk not in (0, 0xFFFF):
        raise Surprise("it has several disks")
    if 0xFFFF in (here, count) or _WIDE in (length, offset):
        end, here, count, length, offset = _read_end64(file, end)
    if here != count or count > MAX_TENSORS or offset + length > end:
        raise Surprise("its directory is not where it says")
    return _Extent(offset, length, count)


def _read_end64(file: HeaderReader, end: int) -> tuple[int, int, int, int, int]:
    magic, disk, offset, disks = _LOCATOR.unpack(file.read(end - _LOCATOR.size, _LOCATOR.size))
    if magic != _LOCATOR_MAGIC or disk or disks > 1 or offset + _END64.size > end:
        raise Surprise("it has no directory of 64 bits")
    found = _END64.unpack(file.read(offset, _END64.size))
    if found[0] != _END64_MAGIC or found[1] or found[2]:
        raise Surprise("its directory of 64 bits is damaged")
    _, _, _, here, count, length, directory_offset = found
    return offset, here, count, length, directory_offset


def _widened(extra: bytes, *values: int) -> list[int]:
    """Return the values with those that are 2³² - 1 replaced by what the zip64 field of an entry has for them."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = _LOCAL_LENGTHS.unpack_from(extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + size]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                return [next(wide) if value == _WIDE else value for value in values]
            except StopIteration:
                raise Surprise("an entry lacks its length") from None
        at += 4 + size
    return list(values)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
