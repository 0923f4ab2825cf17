"""npz: a zip archive of npy files. Those that are compressed are spans of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from replicate.objects.cutting import npy
from replicate.objects.cutting.header import HeaderReader, Tensor
from replicate.objects.cutting.zip_directory import first_name, locate, read_directory

NAME = "npz"

_SUFFIX = ".npy"


def recognises(head: bytes) -> bool:
    """Tell whether it begins as a zip archive does whose first entry is an npy file."""
    name = first_name(head)
    return name is not None and name.endswith(_SUFFIX)


def find_tensors(file: HeaderReader) -> Iterator[Tensor]:
    """Yield the arrays by the names that `numpy.load` gives them."""
    for entry in read_directory(file):
        if entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            offset = locate(file, entry)
            if entry.is_stored:
                yield npy.read_array(file, name, offset, entry.length)
            else:
                yield Tensor(name, offset, entry.length)
