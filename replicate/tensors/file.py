"""One weight file that is open: its tensors, and the bytes of each, read only when they are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from replicate.errors import TensorNotFoundError, WeightsFileError
from replicate.objects.cutting import Format, Read, npz, recognise, torch_zip
from replicate.objects.cutting.header import HeaderReader, Surprise
from replicate.tensors.values import Extent, Source, Span, Tensor
from replicate.text import plural

if TYPE_CHECKING:  # numpy is loaded when an array is asked for
    from numpy.typing import NDArray

_READ_BYTES = 4 << 20
_SUGGESTIONS = 3
_MAX_COMPARED_NAMES = 20_000


class TensorFile:
    """A weight file. Safe to use from one thread at a time.

    Attributes:
        format: `safetensors`, `gguf`, `npy`, `npz` or `torch`.
    """

    def __init__(self, path: str, size_bytes: int, read: Read) -> None:
        """Read the header.

        Args:
            path: How errors call the file.
            size_bytes: Its length.
            read: Returns bytes of it.

        Raises:
            WeightsFileError: It has none of these formats, or its header contradicts itself or the file's length.
        """
        self._path = path
        self._read = read
        file = HeaderReader(size_bytes, read)
        with self._telling():
            form = recognise(file)
        if form is None:
            raise WeightsFileError(
                f"{path!r} is no weight file that is known here",
                hint="these are: safetensors, torch (zip), GGUF, npy and npz; open() reads any file",
            )
        self.format = form.NAME
        with self._telling():
            self._source = _open(file, form, read)

    def tensors(self) -> list[Tensor]:
        """Return all tensors. Of npz this reads the header of each.

        Raises:
            WeightsFileError: The header of one is damaged.
        """
        with self._telling():
            return self._source.tensors()

    def find(self, name: str | None) -> Span:
        """Return where a tensor lies; None stands for the only one.

        Raises:
            TensorNotFoundError: There is none of that name, or there are several. WeightsFileError: It is damaged.
        """
        with self._telling():
            if name is None:
                found = self._source.tensors()
                if len(found) != 1:
                    raise TensorNotFoundError(
                        f"{self._path!r} has {plural(len(found), 'tensor')}",
                        hint="name one of those that tensors() lists",
                    )
                name = found[0].name
            span = self._source.find(name)
        if span is None:
            raise TensorNotFoundError(f"{self._path!r} has no tensor {name!r}", hint=self._suggest(name))
        return span

    def array(self, name: str | None) -> NDArray[Any]:
        """Return a tensor as an array of its own, which may be written to; see `Checkpoint.tensor`.

        Raises:
            TensorNotFoundError, WeightsFileError: As `find`; and for arrays of Python objects or several fields.
        """
        from replicate.tensors.dtypes import to_array

        span = self.find(name)
        if span.is_raw and self.format in (npz.NAME, "npy"):
            raise WeightsFileError(
                f"{span.tensor.name or 'the array'!r} in {self._path!r} is no array of plain items",
                hint="it has several fields, or Python objects: numpy.load(checkpoint.open(PATH)) reads the former",
            )
        with self._telling():
            data = self._bytes(span)
            shape = (span.content_length,) if span.is_raw or span.tensor.shape is None else span.tensor.shape
            return to_array(data, span.item, span.tensor.dtype, shape, span.strides)

    def items(self, span: Span) -> NDArray[Any]:
        """Return the items of a span as they are stored, in the order of the shape, slowest dimension first.

        Raises:
            WeightsFileError: The file is not what its header says.
        """
        from replicate.tensors.dtypes import to_array

        with self._telling():
            shape = (span.content_length,) if span.is_raw or span.tensor.shape is None else span.tensor.shape
            return to_array(self._bytes(span), span.item, None, shape, span.strides).ravel()

    def extent(self, name: str) -> Extent:
        """Return a part of the file that a tensor which `tensors` lists is known by. Nothing is read."""
        return self._source.extent(name)

    def blocks(self, span: Span, block_bytes: int, wanted: Callable[[int], bool]) -> Iterator[NDArray[Any] | None]:
        """Yield the items of a span as they are stored, `block_bytes` at a time; None for a block that is not wanted.

        Raises:
            WeightsFileError: The file is not what its header says.
        """
        import numpy as np  # slow to load

        with self._telling():
            parts = self._inflated(span, block_bytes) if span.skipped is not None else None
            for number, at in enumerate(range(0, span.content_length, block_bytes)):
                length = min(block_bytes, span.content_length - at)
                if parts is not None:
                    yield np.frombuffer(next(parts), span.item)
                elif wanted(number):
                    yield np.frombuffer(self._exactly(span.offset + at, length), span.item)
                else:
                    yield None

    def _bytes(self, span: Span) -> NDArray[Any]:
        import numpy as np  # slow to load

        data = np.empty(span.content_length, np.uint8)
        at = 0
        if span.skipped is not None:
            for part in self._inflated(span, _READ_BYTES):
                data[at : at + len(part)] = np.frombuffer(part, np.uint8)
                at += len(part)
            return data
        while at < span.content_length:
            part = self._exactly(span.offset + at, min(_READ_BYTES, span.content_length - at))
            data[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        return data

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise Surprise("it became shorter")
        return data

    def _inflated(self, span: Span, block_bytes: int) -> Iterator[bytes]:
        """Yield the content of a compressed span, `block_bytes` at a time and then the rest, exactly as long."""
        from replicate.tensors.archives import inflate

        skip, left = span.skipped or 0, span.content_length
        held = bytearray()
        for part in inflate(self._read, span.offset, span.length):
            held += part[skip:]
            skip -= min(skip, len(part))
            while left and len(held) >= min(block_bytes, left):
                taken = min(block_bytes, left)
                yield bytes(held[:taken])
                del held[:taken]
                left -= taken
            if not left:
                return
        if left:
            raise Surprise("an entry ends too early")

    def _suggest(self, name: str) -> str:
        names = self._source.names()[:_MAX_COMPARED_NAMES]
        close = [one for one in names if name and name in one][:_SUGGESTIONS] if len(name) > 2 else []
        close = close or difflib.get_close_matches(name, names, _SUGGESTIONS)
        return f"did you mean {' or '.join(map(repr, close))}?" if close else "tensors() lists what there is"

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Surprise as exc:
            raise WeightsFileError(
                f"the tensors of {self._path!r} cannot be read: {exc}", hint="open() reads the file as it is"
            ) from exc


def _open(file: HeaderReader, form: Format, read: Read) -> Source:
    if form.NAME == npz.NAME:  # the modules load numpy, which is slow
        from replicate.tensors.archives import ArchiveOfArrays

        return ArchiveOfArrays(file, read)
    if form.NAME == torch_zip.NAME:
        from replicate.tensors.torch_file import TorchFile

        return TorchFile(file, read)
    from replicate.tensors.listed import ListedFile

    return ListedFile(file, form)
