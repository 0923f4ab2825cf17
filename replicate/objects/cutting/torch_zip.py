"""torch: what `torch.save` writes, a zip archive of `NAME/data.pkl` and storages `NAME/data/0`, `NAME/data/1`, ...

The pickle is not read. So the dtype is not known, and the length of items is guessed from how bytes repeat.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from replicate.objects.cutting.header import HeaderReader, Surprise, Tensor
from replicate.objects.cutting.zip_directory import first_name, locate, read_directory

NAME = "torch"

SAMPLED_BYTES = 64 << 10
"""Storages below this size have the item size of the one before."""
_SAMPLE_BYTES = 4096
_MAX_SAMPLES = 4096
_MIN_BITS = 1.0
_ALIKE_BITS = 0.75
_LIKELY_ITEM_BYTES = 4
PICKLE = "data.pkl"
_FOLDERS = ("data", "constants", "tensors")


def recognises(head: bytes) -> bool:
    """Tell whether it begins as a zip archive whose first entry is in a folder. Repacked archives have any order."""
    name = first_name(head)
    return name is not None and "/" in name


def find_tensors(file: HeaderReader) -> Iterator[Tensor]:
    """Yield the storages in the order of the file, named without the archive's folder, which changes with its name."""
    entries = sorted(read_directory(file), key=lambda entry: entry.header_offset)
    folders = [folder for folder, _, rest in (entry.name.partition("/") for entry in entries) if rest == PICKLE]
    if len(folders) != 1:
        raise Surprise("it is not what torch writes")
    samples = 0
    likely = _LIKELY_ITEM_BYTES
    for entry in entries:
        folder, _, name = entry.name.partition("/")
        if folder != folders[0] or not is_storage(name):
            continue
        offset = locate(file, entry)
        if not entry.is_stored:
            yield Tensor(name, offset, entry.length)
            continue
        if entry.length >= SAMPLED_BYTES and samples < _MAX_SAMPLES:
            samples += 1
            middle = entry.length // 2 & -8
            likely = guess_item_bytes(file.read(offset + middle, _SAMPLE_BYTES))
        yield Tensor(name, offset, entry.length, math.gcd(entry.length, likely) if entry.length else 1)


def is_storage(name: str) -> bool:
    """Tell whether an entry, named without the archive's folder, is a storage."""
    folder, _, rest = name.partition("/")
    return folder in _FOLDERS and bool(rest)


def guess_item_bytes(sample: bytes) -> int:
    """Return after how many bytes, 1, 2, 4 or 8, the same kind of byte comes again; 4 if hardly anything differs."""
    bits = [_entropy(sample[place::8]) for place in range(8)]
    if max(bits) < _MIN_BITS:
        return _LIKELY_ITEM_BYTES
    for period in (1, 2, 4):
        if all(abs(bits[place] - bits[place % period]) < _ALIKE_BITS for place in range(8)):
            return period
    return 8


def _entropy(values: bytes) -> float:
    """Return the bits that a value takes at the least."""
    total = len(values)
    return -sum(count / total * math.log2(count / total) for count in Counter(values).values())
