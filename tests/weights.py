"""Files of weights as libraries write them, built by hand where that needs a large library, and broken on demand."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SAFETENSORS = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint8": "U8", "bool": "BOOL"}


class CountingFile:
    """Bytes that count how they are read. Beyond the end of `head` there are zeros, up to `size_bytes`."""

    def __init__(self, head: bytes, size_bytes: int | None = None) -> None:
        self._head = head
        self.size_bytes = len(head) if size_bytes is None else size_bytes
        self.reads: list[tuple[int, int]] = []

    def __call__(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size_bytes
        self.reads.append((offset, length))
        return self._head[offset : offset + length].ljust(length, b"\0")

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


def weights(count: int, dtype: str = "float32", seed: int = 0) -> Array:
    """Return numbers as those of a trained layer are: normal, none zero."""
    return np.random.default_rng(seed).normal(0, 0.02, count).astype(dtype)


def bfloat16(values: Array) -> bytes:
    """Return the bytes of float32 numbers without their last 16 bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def safetensors_of(header: object, data: bytes = b"", *, length: int | None = None, text: bytes | None = None) -> bytes:
    """Return a file of any header, JSON or not, which may lie about its length."""
    body = json.dumps(header, separators=(",", ":")).encode() if text is None else text
    body += b" " * (-len(body) % 8)
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def safetensors(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return what `safetensors` writes for these arrays in this order."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, array in arrays.items():
        dtype = _SAFETENSORS[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    return safetensors_of(header, b"".join(array.tobytes() for array in arrays.values()))


def npy(array: Array) -> bytes:
    """Return what `numpy.save` writes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(arrays: Mapping[str, Array], save: Callable[..., None] = np.savez) -> bytes:
    """Return what `numpy.savez` writes."""
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def torch_zip(
    storages: Sequence[bytes],
    *,
    stem: str = "archive",
    order: Sequence[int] | None = None,
    compression: int = zipfile.ZIP_STORED,
    zip64: bool = False,
    pickle: bytes = b"\x80\x02}q\x00.",
) -> bytes:
    """Return an archive laid out as `torch.save` does: storages stored, each aligned to 64 bytes by an extra field."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        members = [(f"{stem}/data.pkl", pickle), (f"{stem}/byteorder", b"little")]
        members += [(f"{stem}/data/{number}", data) for number, data in enumerate(storages)]
        members += [(f"{stem}/version", b"3\n"), (f"{stem}/.data/serialization_id", b"0" * 40)]
        for number in order or range(len(members)):
            name, data = members[number]
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = compression
            zip64_bytes = 20 if zip64 else 0
            padding = -(stream.tell() + 30 + len(name) + zip64_bytes + 4) % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(data)
    return stream.getvalue()


def wide_zip(name: bytes, data: bytes, *, stem: bytes = b"archive") -> bytes:
    """Return a torch archive of one storage whose directory has its numbers in zip64 fields only."""
    entries = b""
    body = b""
    wide = 0xFFFFFFFF
    for path, content in ((stem + b"/data.pkl", b"."), (stem + b"/" + name, data)):
        extra = struct.pack("<HHQQQ", 1, 24, len(content), len(content), len(body))
        entries += struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            *(b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, wide, wide, len(path), len(extra), 0, 0, 0, 0, wide),
        )
        entries += path + extra
        body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 0, 0, wide, wide, len(path), 0) + path + content
    end = len(body) + len(entries)
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(entries), len(body))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    return body + entries + end64 + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, wide, wide, 0)


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf_value(key: bytes, kind: int, value: bytes) -> bytes:
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf_strings(texts: Iterable[bytes]) -> bytes:
    """Return the value of an array of strings."""
    listed = list(texts)
    return struct.pack("<IQ", 8, len(listed)) + b"".join(map(gguf_text, listed))


def gguf(
    tensors: Sequence[tuple[str, tuple[int, ...], int, bytes]],
    values: Sequence[bytes] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    tensor_count: int | None = None,
    value_count: int | None = None,
) -> bytes:
    """Return a file of tensors given as (name, shape slowest first, type, bytes)."""
    described = b""
    data = b""
    for name, shape, kind, content in tensors:
        described += gguf_text(name.encode()) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data)
        )
        data += content + bytes(-len(content) % alignment)
    head = struct.pack(
        "<4sIQQ",
        *(b"GGUF", version),
        len(tensors) if tensor_count is None else tensor_count,
        len(values) if value_count is None else value_count,
    )
    head += b"".join(values) + described
    return head + bytes(-len(head) % alignment) + data
