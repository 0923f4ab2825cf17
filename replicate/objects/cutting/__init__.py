"""Where big blobs are cut: at their tensors. Cuts never change an id (SPEC §7).

A format is a module with what `header.Format` says, and a line in `FORMATS`. It reads untrusted bytes: nothing is
unpickled or decompressed, no length is believed, and a file that surprises is cut at multiples of 4 MiB.
"""

from __future__ import annotations

from typing import NamedTuple

from replicate.objects.cutting import gguf, npy, npz, safetensors, torch_zip
from replicate.objects.cutting.fixed import MAX_PIECE_BYTES, cut_fixed
from replicate.objects.cutting.header import HEAD_BYTES, Format, HeaderReader, Read, Surprise, Tensor
from replicate.objects.cutting.pieces import Piece, check_tensors, cut_at_tensors, cut_without_tensors

FORMATS: tuple[Format, ...] = (
    safetensors,
    gguf,
    npy,
    npz,
    torch_zip,
)

__all__ = [
    "FORMATS",
    "MAX_PIECE_BYTES",
    "Format",
    "Listing",
    "Piece",
    "Read",
    "Tensor",
    "cut_file",
    "cut_fixed",
    "list_tensors",
    "recognise",
]


class Listing(NamedTuple):
    """A file's format (`safetensors`, `gguf`, `npy`, `npz`, `torch`) and its tensors in the order of the file."""

    format: str
    tensors: list[Tensor]


def cut_file(size_bytes: int, read: Read) -> list[Piece]:
    """Return pieces that cover the file exactly, in order, none empty, none above 4 MiB. Equal bytes give equal pieces.

    A tensor of 256 KiB or more begins a piece, and has one for every 4 MiB. Smaller neighbours of one item size share
    pieces of up to 1 MiB, with gaps and tensors of less than 4 KiB between them. For items of 2 bytes, half of that.
    Content never raises; what `read` raises passes.

    At most 64 MiB are read: the whole header of safetensors in three reads, that of GGUF by the MiB, that of npy in two
    or three; of a zip archive the directory in five at most, then two small reads (three for long npy headers) for each
    entry. Memory is about the header's bytes and 600 for each tensor, of which there are at most 250,000.
    """
    listing = list_tensors(size_bytes, read)
    return cut_without_tensors(size_bytes) if listing is None else cut_at_tensors(listing.tensors, size_bytes)


def list_tensors(size_bytes: int, read: Read) -> Listing | None:
    """Return what the file's header tells of its tensors, checked; None if it has no known format, or is damaged.

    Reads as `cut_file` does. The tensors of a torch file are its storages, named by their entries (`data/0`), without
    dtype and shape; the length of their items is a guess from a sample of them.
    """
    file = HeaderReader(size_bytes, read)
    try:
        found = recognise(file)
        return Listing(found.NAME, check_tensors(found.find_tensors(file), size_bytes)) if found else None
    except Surprise:
        return None


def recognise(file: HeaderReader) -> Format | None:
    """Return the format that a file seems to have by its first 4 KiB, or None.

    Raises:
        Surprise: It became shorter.
    """
    head = file.read(0, min(file.size_bytes, HEAD_BYTES))
    return next((one for one in FORMATS if one.recognises(head)), None)
