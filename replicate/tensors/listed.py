"""Files whose header tells of all their tensors: safetensors, GGUF, npy."""

from __future__ import annotations

import math

from replicate.objects.cutting import Format, header, npy
from replicate.objects.cutting.header import HeaderReader, Surprise
from replicate.objects.cutting.pieces import check_tensors
from replicate.tensors.dtypes import describe_numpy, dtype_of, item_of
from replicate.tensors.values import Extent, Span, Tensor


class ListedFile:
    """See `Source`. The header is read at once."""

    def __init__(self, file: HeaderReader, form: Format) -> None:
        found = check_tensors(form.find_tensors(file), file.size_bytes)
        span = numpy_span if form.NAME == npy.NAME else _span
        self._spans = {one.name: span(one) for one in found}

    def tensors(self) -> list[Tensor]:
        """See `Source`."""
        return [span.tensor for span in self._spans.values()]

    def names(self) -> list[str]:
        """See `Source`."""
        return list(self._spans)

    def extent(self, name: str) -> Extent:
        """See `Source`."""
        span = self._spans[name]
        return Extent(span.offset, span.length, (span.item, span.strides))

    def find(self, name: str) -> Span | None:
        """See `Source`."""
        return self._spans.get(name)


def _span(found: header.Tensor) -> Span:
    dtype = dtype_of(found.dtype)
    tensor = Tensor(found.name, dtype, found.shape, found.length)
    item = item_of(dtype)
    if item is None:
        return Span(tensor, found.offset, found.length, "|u1", 1, found.length, is_raw=True)
    return Span(tensor, found.offset, found.length, item, int(item[2:]), found.length)


def numpy_span(found: header.Tensor, *, skipped: int | None = None, packed: tuple[int, int] | None = None) -> Span:
    """Return where the array of an npy file lies.

    Args:
        found: What its header tells.
        skipped: The length of the header if the file is compressed.
        packed: Offset and length of the compressed file.
    """
    offset, length = packed or (found.offset, found.length)
    if found.dtype is None or found.shape is None:  # several fields, or Python objects, which nobody unpickles here
        tensor = Tensor(found.name, None, found.shape, found.length)
        return Span(tensor, offset, length, "|u1", 1, found.length, is_raw=True, skipped=skipped)
    dtype, item_bytes = describe_numpy(found.dtype)
    if math.prod(found.shape) * item_bytes != found.length:
        raise Surprise("an array's shape does not fit its length")
    strides = _column_major(found.shape) if found.is_column_major and len(found.shape) > 1 else None
    tensor = Tensor(found.name, dtype, found.shape, found.length)
    return Span(tensor, offset, length, found.dtype, item_bytes, found.length, strides, skipped=skipped)


def _column_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps = [1]
    for size in shape[:-1]:
        steps.append(steps[-1] * size)
    return tuple(steps)
