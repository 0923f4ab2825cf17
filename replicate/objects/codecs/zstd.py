"""Encoding 1: one zstd frame that declares its content size. SPEC §7."""

from __future__ import annotations

import threading

import zstandard

from replicate.errors import CorruptionError
from replicate.objects.ids import Buffer

LEVEL = 3
MAX_WINDOW_BYTES = 128 << 20
_SAMPLE_BYTES = 16 << 10
_WORTH = 0.97
_BLOCK_HEADER_BYTES = 3
_local = threading.local()


def encode(data: Buffer) -> bytes | None:
    """Return the payload, or None when it would not be smaller. Large data that a sample shows random is not tried."""
    size = len(data)
    if size > 4 * _SAMPLE_BYTES and not _is_compressible(memoryview(data)):
        return None
    payload = _compressor().compress(data)
    return payload if len(payload) < size else None


def _is_compressible(view: memoryview) -> bool:
    """Compress three samples: beginning, middle, end. Any of them decides."""
    last = len(view) - _SAMPLE_BYTES
    compressor = _compressor()
    return any(
        len(compressor.compress(view[start : start + _SAMPLE_BYTES])) < _WORTH * _SAMPLE_BYTES
        for start in (0, last // 2, last)
    )


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    return found


def decompress(payload: Buffer, raw_length: int, where: str, dictionary: Buffer | None = None) -> bytes:
    """Return the content of a zstd frame of exactly `raw_length` bytes.

    The declared content size and window are checked before memory is allocated. `where` names the object in errors.
    """
    check_frame(payload, raw_length, where)
    try:
        data = bytes(_decompressor(dictionary).decompress(payload, max_output_size=raw_length, allow_extra_data=False))
    except (zstandard.ZstdError, ValueError) as exc:
        raise _damaged(where, f"zstd says {exc}") from exc
    if len(data) != raw_length:
        raise _damaged(where, "it decodes to another length")
    return data


def check_frame(payload: Buffer, raw_length: int, where: str) -> None:
    """Check what a zstd frame says of itself, before memory is allocated for its `raw_length` bytes."""
    try:
        parameters = zstandard.get_frame_parameters(payload)
    except (zstandard.ZstdError, ValueError) as exc:
        raise _damaged(where, f"zstd says {exc}") from exc
    if parameters.content_size != raw_length:
        raise _damaged(where, "its zstd frame is of another length")
    if parameters.dict_id:
        raise _damaged(where, "its zstd frame wants a dictionary")
    if parameters.window_size > MAX_WINDOW_BYTES:
        raise _damaged(where, "its zstd frame wants too much memory")


def _damaged(where: str, why: str) -> CorruptionError:
    return CorruptionError(f"{where} is damaged: {why}", where=where)


def decompress_into(payload: Buffer, out: memoryview, where: str) -> None:
    """Fill `out` with the content of a zstd frame for which `check_frame` was called; raises as `decompress` does."""
    try:
        if _frame_bytes(memoryview(payload)) != len(payload):
            raise _damaged(where, "something lies after its zstd frame")
        done = _decompressor(None).stream_reader(payload).readinto(out)
    except (zstandard.ZstdError, ValueError) as exc:
        raise _damaged(where, f"zstd says {exc}") from exc
    if done != len(out):
        raise _damaged(where, "it decodes to another length")


def _frame_bytes(view: memoryview) -> int:
    """Return where a zstd frame ends, as its blocks tell; beyond its end if it is cut short."""
    at = zstandard.frame_header_size(view)
    is_last = False
    while not is_last and at < len(view):
        header = int.from_bytes(view[at : at + _BLOCK_HEADER_BYTES], "little")
        is_last, is_repeated, size = bool(header & 1), header >> 1 & 3 == 1, header >> 3
        at += _BLOCK_HEADER_BYTES + (1 if is_repeated else size)
    return at + 4 * zstandard.get_frame_parameters(view).has_checksum if is_last else len(view) + 1


def _decompressor(dictionary: Buffer | None) -> zstandard.ZstdDecompressor:
    if dictionary is not None:
        content = zstandard.ZstdCompressionDict(bytes(dictionary), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdDecompressor(dict_data=content, max_window_size=MAX_WINDOW_BYTES)
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return found
