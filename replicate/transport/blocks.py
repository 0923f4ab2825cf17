"""Parts of keys kept in a folder, as files that prove themselves.

Of a pack blocks of 256 KiB are kept, those of one request in one file: a file costs more than its bytes. What is torn
or altered counts as not there. All of it may be deleted at any time, and several processes may share it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence

from blake3 import blake3

BLOCK_BYTES = 256 << 10
WHOLE = -1
"""The number of the one block of a key that is kept as a whole."""
_HASH_BYTES = 16
_MOST_BLOCKS = 1 << 12
_KNOWN_KEYS = 1 << 12
_LIMIT_BYTES = 20 * 10**9
_PARTS = 1024  # of the limit: the unit in which processes tell one another how much they have kept
_DUE_PARTS = 64
_LEAST_FREE = 8  # after a clean-up at least an eighth of the limit is free


def default_limit(folder: str) -> int:
    """Return how many bytes a cache may hold: 20 GB, or a tenth of the disk if that is less."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        return min(_LIMIT_BYTES, shutil.disk_usage(folder).total // 10)
    except OSError:
        return _LIMIT_BYTES


class BlockFolder:
    """Files that prove themselves: `<aa>/<hash of the key>~<first>~<stop>`, the hashes of some blocks and their bytes.

    Never raises: what cannot be read is not there, and what cannot be written is not kept. Safe to use from any thread.

    Attributes:
        is_usable: Whether nothing has failed to be written yet.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._unit = max(1, limit_bytes // _PARTS)
        self._untold = self._unit  # the first file tells of a process that may end before it has kept much
        self._lock = threading.Lock()
        self._files: dict[str, dict[int, tuple[int, int]]] = {}
        self.is_usable = True

    def has(self, key: str, number: int) -> bool:
        """Tell whether there is a file with a block, sound or not."""
        if number == WHOLE:
            return os.path.exists(self._path(key, WHOLE, 0))
        return number in self._find(key)

    def read(self, key: str, first: int, stop: int) -> dict[int, memoryview]:
        """Return those blocks from `first` to `stop` that are there whole."""
        places = self._find(key)
        wanted: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number in range(first, stop):
            if number in places:
                wanted[places[number]].append(number)
        found: dict[int, memoryview] = {}
        for (begin, behind), numbers in wanted.items():
            own = self._read(key, begin, behind, numbers[0], numbers[-1] + 1)
            found |= {number: own[number] for number in numbers if number in own}
        return found

    def read_whole(self, key: str) -> bytes | None:
        """Return what a key holds; None if it was not kept as a whole."""
        data = self._read(key, WHOLE, 0, WHOLE, 0).get(WHOLE)
        return None if data is None else bytes(data)

    def _read(self, key: str, begin: int, behind: int, first: int, stop: int) -> dict[int, memoryview]:
        """Return blocks `first` to `stop` of one file; none if one of them is not what it was."""
        path = self._path(key, begin, behind)
        head = (behind - begin) * _HASH_BYTES
        try:
            with open(path, "rb", buffering=0) as file:
                length = (stop - first) * BLOCK_BYTES if begin != WHOLE else os.fstat(file.fileno()).st_size
                hashes = os.pread(file.fileno(), head, 0)
                data = os.pread(file.fileno(), length, head + (first - begin) * BLOCK_BYTES)
            os.utime(path)  # it was used
        except OSError:
            self._drop(key, begin, behind)
            return {}
        found = {first: memoryview(data)} if begin == WHOLE else dict(enumerate(cut(memoryview(data)), first))
        for number in range(first, stop):
            at = (number - begin) * _HASH_BYTES
            if number not in found or hashes[at : at + _HASH_BYTES] != _seal(key, number, found[number]):
                self._drop(key, begin, behind)
                return {}
        return found

    def write(self, key: str, first: int, data: bytes | memoryview) -> None:
        """Keep the bytes of a key from a block on, or all of them if `first` is that of the whole."""
        blocks = [memoryview(data)] if first == WHOLE else [*cut(memoryview(data))]
        stop = first + len(blocks)
        path = self._path(key, first, stop)
        temp = f"{path}.{secrets.token_hex(6)}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(temp, "wb", buffering=0) as file:
                file.write(b"".join([_seal(key, number, block) for number, block in enumerate(blocks, first)]))
                written = file.write(data)
            if written < len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.replace(temp, path)
            self._tell(len(data))
        except OSError:  # a full disk, or one that is read only
            self.is_usable = False
            with contextlib.suppress(OSError):
                os.unlink(temp)
            return
        if first != WHOLE:
            places = self._find(key)
            with self._lock:
                places |= dict.fromkeys(range(first, stop), (first, stop))

    def forget(self, key: str) -> bool:
        """Delete everything of a key; tell whether there was anything."""
        with self._lock:
            self._files.pop(key, None)
        found = False
        for name in self._names(key):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name[:2], name))
                found = True
        return found

    def _drop(self, key: str, first: int, stop: int) -> None:
        """Delete a file that is not what it was, or is gone."""
        with self._lock:
            self._files.pop(key, None)
        with contextlib.suppress(OSError):
            os.unlink(self._path(key, first, stop))

    def _find(self, key: str) -> dict[int, tuple[int, int]]:
        """Return the files of a pack's blocks, as this process found them when it first looked."""
        with self._lock:
            known = self._files.get(key)
        if known is None:
            known = {}
            for name in self._names(key):
                numbers = name.split("~")[1:]
                if len(numbers) == 2 and all(one.isdecimal() for one in numbers):
                    first, stop = map(int, numbers)
                    known |= dict.fromkeys(range(first, min(stop, first + _MOST_BLOCKS)), (first, stop))
            with self._lock:
                if len(self._files) >= _KNOWN_KEYS:
                    self._files.clear()
                known = self._files.setdefault(key, known)
        return known

    def _names(self, key: str) -> Sequence[str]:
        stem = _stem(key)
        try:
            return [name for name in os.listdir(os.path.join(self._folder, stem[:2])) if name.startswith(f"{stem}~")]
        except OSError:
            return []

    def _path(self, key: str, first: int, stop: int) -> str:
        stem = _stem(key)
        numbers = "whole" if first == WHOLE else f"{first}~{stop}"
        return os.path.join(self._folder, stem[:2], f"{stem}~{numbers}")

    def _tell(self, size: int) -> None:
        """Count what was kept, together with other processes, and clean up when a sixteenth of the limit is new."""
        with self._lock:
            self._untold += size
            parts, self._untold = divmod(self._untold, self._unit)
        if not parts:
            return
        path = os.path.join(self._folder, "grown")
        with open(path, "ab") as file:
            file.write(b"." * parts)
            told = file.tell()
        if told >= _DUE_PARTS:
            with contextlib.suppress(FileNotFoundError):  # another process cleans up at the same time
                os.unlink(path)
            self._clean_up()

    def _clean_up(self) -> None:
        """Delete what was used least recently until an eighth of the limit is free."""
        found: list[tuple[int, int, str]] = []
        for folder in _entries(self._folder):
            for entry in _entries(folder.path) if folder.is_dir() else ():
                with contextlib.suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    found.append((info.st_mtime_ns, max(info.st_size, info.st_blocks * 512), entry.path))
        size = sum(one[1] for one in found)
        for _, own, path in sorted(found):
            if size <= self._limit - self._limit // _LEAST_FREE:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            size -= own


def _stem(key: str) -> str:
    return blake3(key.encode()).hexdigest(16)


def cut(data: memoryview) -> Iterator[memoryview]:
    """Yield the blocks of what begins with one; the last may be shorter."""
    for at in range(0, len(data), BLOCK_BYTES):
        yield data[at : at + BLOCK_BYTES]


def _seal(key: str, number: int, data: bytes | memoryview) -> bytes:
    return blake3(f"{key} {number}\n".encode()).update(data).digest(_HASH_BYTES)


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [*entries]
    except OSError:
        return ()
