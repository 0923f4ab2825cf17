"""npz: an array in each entry of a zip archive, stored or deflated."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from replicate.objects.cutting import npy
from replicate.objects.cutting.header import HeaderReader, Read, Surprise
from replicate.objects.cutting.zip_directory import Entry, locate, read_directory
from replicate.tensors.listed import numpy_span
from replicate.tensors.values import Extent, Span, Tensor

_SUFFIX = ".npy"
_MAX_HEAD_BYTES = 2 << 20
_STEP_BYTES = 1 << 20
_SMALL_STEP_BYTES = 4 << 10
_MAX_INFLATED_BYTES = 64 << 20
_MAX_RATIO = 1_032
"""What deflate can make of a byte."""


def list_entries(file: HeaderReader) -> dict[str, Entry]:
    """Return the entries of an archive by name, in order of the file. Each ends where the next begins.

    Raises:
        Surprise: The directory is not sound, or two entries have one name.
    """
    found = sorted(read_directory(file), key=lambda one: one.header_offset)
    limits = [one.header_offset for one in found[1:]]
    limits += [one.end_limit for one in found[-1:]]
    entries = {one.name: one._replace(end_limit=limit) for one, limit in zip(found, limits, strict=True)}
    if len(entries) < len(found):
        raise Surprise("two entries have one name")
    return entries


def check_content(entry: Entry) -> None:
    """Check that an entry may have the content that it claims.

    Raises:
        Surprise: It may not, or it is compressed in a way that is not known, or encrypted.
    """
    if not entry.is_stored and not entry.is_deflated:
        raise Surprise(f"entry {entry.name} is encrypted, or compressed with something else than deflate")
    if entry.is_deflated and entry.content_bytes > (entry.length + 64) * _MAX_RATIO:
        raise Surprise(f"entry {entry.name} claims more than its bytes can hold")


def entry_extent(entry: Entry, view: object = None) -> Extent:
    """Return where an entry of `list_entries` lies, with its local header."""
    return Extent(entry.header_offset, entry.end_limit - entry.header_offset, view)


def inflate(read: Read, offset: int, length: int, step: int = _STEP_BYTES) -> Iterator[bytes]:
    """Yield what deflated bytes of a file stand for, at most `step` bytes at a time, which are read at a time too.

    Raises:
        Surprise: They stand for nothing.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    end = offset + length
    try:
        while not stream.eof:
            data = stream.unconsumed_tail
            if not data and offset < end:
                data = read(offset, min(step, end - offset))
                offset += len(data)
            found = stream.decompress(data, step)
            if not data and not found:
                raise Surprise("an entry ends too early")
            if found:
                yield found
    except zlib.error as exc:
        raise Surprise("an entry cannot be inflated") from exc


class ArchiveOfArrays:
    """An npz file; see `Source`. The header of an array is read when it is asked for."""

    def __init__(self, file: HeaderReader, read: Read) -> None:
        self._file = file
        self._read = read
        self._inflated = 0
        listed = list_entries(file).items()
        self._entries = {name.removesuffix(_SUFFIX): entry for name, entry in listed if name.endswith(_SUFFIX)}

    def tensors(self) -> list[Tensor]:
        """See `Source`."""
        return [self._span(name).tensor for name in self._entries]

    def names(self) -> list[str]:
        """See `Source`."""
        return list(self._entries)

    def extent(self, name: str) -> Extent:
        """See `Source`."""
        return entry_extent(self._entries[name])

    def find(self, name: str) -> Span | None:
        """See `Source`."""
        return self._span(name) if name in self._entries else None

    def _span(self, name: str) -> Span:
        entry = self._entries[name]
        check_content(entry)
        offset = locate(self._file, entry)
        if entry.is_stored:
            return numpy_span(npy.read_array(self._file, name, offset, entry.length))
        head = bytearray()
        for part in inflate(self._read, offset, entry.length, _SMALL_STEP_BYTES):
            head += part
            if len(head) >= min(_head_bytes(bytes(head[:12])), entry.content_bytes):
                break
        self._inflated += len(head)
        if self._inflated > _MAX_INFLATED_BYTES:
            raise Surprise("its arrays have too long descriptions")
        inner = HeaderReader(entry.content_bytes, lambda start, length: bytes(head[start : start + length]))
        found = npy.read_array(inner, name, 0, entry.content_bytes)
        return numpy_span(found, skipped=found.offset, packed=(offset, entry.length))


def _head_bytes(head: bytes) -> int:
    """Return how much of an npy file tells what it is, as far as its beginning tells."""
    wide = len(head) > 6 and head[6] != 1
    return min(_MAX_HEAD_BYTES, max(128, 12 + int.from_bytes(head[8 : 12 if wide else 10], "little")))
