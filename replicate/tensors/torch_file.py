"""torch: storages in a zip archive, and a pickle that names the tensors in them."""

from __future__ import annotations

import math

from replicate.objects.cutting import torch_zip
from replicate.objects.cutting.header import HeaderReader, Read, Surprise
from replicate.objects.cutting.zip_directory import Entry, locate
from replicate.tensors.archives import check_content, entry_extent, inflate, list_entries
from replicate.tensors.dtypes import ByteOrder, item_of
from replicate.tensors.torch_pickle import MAX_PICKLE_BYTES, View, read_views
from replicate.tensors.values import Extent, Span, Tensor

_BYTE_ORDERS: dict[bytes, ByteOrder] = {b"little": "<", b"big": ">"}


class TorchFile:
    """See `Source`. Only the directory and the pickle are read.

    Tensors have the names of the pickle if all of it can be followed and fits the storages; storages that none of them
    uses have those of their entries. `find` knows every storage by its entry's name in any case.
    """

    def __init__(self, file: HeaderReader, read: Read) -> None:
        self._file = file
        self._read = read
        entries = list_entries(file)
        folders = [folder for folder, _, rest in (name.partition("/") for name in entries) if rest == torch_zip.PICKLE]
        if len(folders) != 1:
            raise Surprise("it is not what torch writes")
        self._entries = {
            name.partition("/")[2]: entry for name, entry in entries.items() if name.startswith(folders[0] + "/")
        }
        self._storages = {name: entry for name, entry in self._entries.items() if torch_zip.is_storage(name)}
        order = self._entries.get("byteorder")
        self._order = _BYTE_ORDERS.get(self._content(order, 16), "<") if order else "<"
        try:
            views = read_views(self._content(self._entries[torch_zip.PICKLE], MAX_PICKLE_BYTES))
            self._named = {name: self._fitted(name, view) for name, view in views.items()}
        except Surprise:
            self._named = {}
        used = {entry for entry, _, _ in self._named.values()}
        self._loose = [name for name in self._storages if name not in used]

    def tensors(self) -> list[Tensor]:
        """See `Source`."""
        return [tensor for _, tensor, _ in self._named.values()] + [self._storage(name) for name in self._loose]

    def names(self) -> list[str]:
        """See `Source`."""
        return [*self._named, *self._storages]

    def find(self, name: str) -> Span | None:
        """See `Source`."""
        if name in self._named:
            entry_name, tensor, view = self._named[name]
            item = item_of(tensor.dtype, self._order)
            if item is None:
                return self.find(entry_name)
            item_bytes = int(item[2:])
            length = _extent(view) * item_bytes
            strides = None if view.strides == _row_major(view.shape) else view.strides
            return self._span(self._storages[entry_name], tensor, item, view.offset * item_bytes, length, strides)
        if name in self._storages:
            entry = self._storages[name]
            return self._span(entry, self._storage(name), "|u1", 0, entry.content_bytes, is_raw=True)
        return None

    def extent(self, name: str) -> Extent:
        """See `Source`."""
        if name not in self._named:
            return entry_extent(self._storages[name], self._order)
        entry_name, _, view = self._named[name]
        return entry_extent(self._storages[entry_name], (view[1:], self._order))

    def _storage(self, name: str) -> Tensor:
        return Tensor(name, None, None, self._storages[name].content_bytes)

    def _fitted(self, name: str, view: View) -> tuple[str, Tensor, View]:
        """Return the entry of a tensor's storage, and what it is; `Surprise` if it does not lie within."""
        entry_name = f"data/{view.storage}"
        entry = self._storages.get(entry_name)
        item = item_of(view.dtype)
        item_bytes = int(item[2:]) if item else 1
        if entry is None or (item and (view.offset + _extent(view)) * item_bytes > entry.content_bytes):
            raise Surprise("a tensor is not all in its storage")
        size = math.prod(view.shape) * item_bytes if item else entry.content_bytes
        return entry_name, Tensor(name, view.dtype, view.shape if item else None, size), view

    def _span(
        self,
        entry: Entry,
        tensor: Tensor,
        item: str,
        begin: int,
        length: int,
        strides: tuple[int, ...] | None = None,
        *,
        is_raw: bool = False,
    ) -> Span:
        check_content(entry)
        offset = locate(self._file, entry)
        item_bytes = int(item[2:])
        if entry.is_stored:
            return Span(tensor, offset + begin, length, item, item_bytes, length, strides, is_raw)
        return Span(tensor, offset, entry.length, item, item_bytes, length, strides, is_raw, begin)

    def _content(self, entry: Entry, limit: int) -> bytes:
        """Return the content of a small entry."""
        check_content(entry)
        if entry.content_bytes > limit:
            raise Surprise("an entry is too long")
        offset = locate(self._file, entry)
        if entry.is_stored:
            return self._file.read(offset, entry.length)
        content = b""
        for part in inflate(self._read, offset, entry.length):
            content += part
            if len(content) > limit:
                raise Surprise("an entry is too long")
        return content


def _extent(view: View) -> int:
    """Return how many items of its storage a view spans, from its first to its last."""
    if 0 in view.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(view.shape, view.strides, strict=True))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps: list[int] = []
    step = 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))
