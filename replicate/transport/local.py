"""A store in a folder: temporary file, fsync, link, directory fsync. SPEC §12.

fsspec's local file system tears files, ignores exclusive creation and never syncs, hence our own. Every call to the
operating system that changes the disk goes through `Disk`, so that tests can stop at each one and forget what was not
synced.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from replicate.errors import KeyNotFoundError, StorageError, StorageFullError, StorageMissingError
from replicate.transport.protocol import KeyInfo, validate_key

Durability = Literal["fast", "safe"]
_COMPARE_LIMIT = 1 << 20
_DIRECT_BYTES = 4 << 20
_BLOCK_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Disk:
    """The operating system's calls that change a disk, one method each."""

    def write(self, path: str, data: bytes | bytearray | memoryview, *, sync: bool) -> None:
        """Create `path` (it must not exist), read-only, with `data`; fsync it when `sync`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            view = memoryview(data)
            if sync and len(view) >= _DIRECT_BYTES:
                view = _write_directly(fd, view)
            while len(view):
                view = view[os.write(fd, view[: 1 << 26]) :]
            if sync:
                sync_file(fd)
        finally:
            os.close(fd)

    def sync(self, path: str) -> None:
        """Make the bytes of a file durable that somebody else wrote."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_file(fd)
        finally:
            os.close(fd)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; raise FileExistsError when it is taken."""
        os.link(source, target)

    def rename(self, source: str, target: str) -> None:
        """Move a file over a name."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        """Create one directory; one that exists is fine."""
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_directly(fd: int, view: memoryview) -> memoryview:
    """Write past the page cache, as far as the file system and the alignment allow; return what is left.

    A pack that is synced at once gains nothing from the cache, costs a copy to get there, and pushes out what the
    training reads.
    """
    direct = getattr(os, "O_DIRECT", 0)
    if not direct:
        return view
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct)
        while len(view) >= _BLOCK_BYTES:
            count = os.write(fd, view[: len(view) // _BLOCK_BYTES * _BLOCK_BYTES])
            view = view[count:]
            if count % _BLOCK_BYTES:
                break
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return view


def sync_file(fd: int) -> None:
    """Make a file's bytes durable, also on macOS, where fsync alone stops at the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    else:
        os.fsync(fd)


class LocalTransport:
    """The five verbs on a folder.

    Args:
        root: The store's folder; created with the first put.
        durability: `safe` survives power loss once put returns; `fast` survives a killed process only.
        disk: Where changes go; tests pass their own.
        when_full: What to do when the disk is full; by default to free space on that of the folder.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        durability: Durability = "safe",
        disk: Disk | None = None,
        when_full: str = "",
    ) -> None:
        self.root = os.path.abspath(root)
        self._when_full = when_full or f"free some space on the disk of {self.root}, and repeat"
        self.durability: Durability = durability
        self._disk = disk or Disk()
        self._known: set[str] = set()
        self._is_store = False

    def require_store(self) -> None:
        """Put nothing any more where no store is: a disk that is not mounted leaves an empty folder in its place."""
        self._is_store = True

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """See `Transport.put`."""
        final = self._path(key)
        if self._is_store and not os.path.isdir(os.path.join(self.root, "ctl")):
            raise StorageMissingError(
                f"the store at {self.root} is not there any more",
                key=key,
                operation="write",
                hint="mount its disk again, or put it back",
            )
        try:
            try:
                self._put(key, final, data, replace)
            except FileNotFoundError:  # the folder was removed under us: make it again
                self._known.clear()
                self._put(key, final, data, replace)
        except OSError as exc:
            raise self._storage_error(exc, key, "write", len(data)) from exc

    def _put(self, key: str, final: str, data: bytes | bytearray | memoryview, replace: bool) -> None:
        safe = self.durability == "safe"
        folder = os.path.dirname(final)
        if not replace and self._holds(final, data):
            if safe:  # the writer before us may not have synced, or not have lived to sync the name
                self._make_folder(folder)
                self._disk.sync(final)
                self._disk.sync_directory(folder)
            return
        self._make_folder(folder)
        temp_folder = os.path.join(self.root, "local", "tmp")
        self._make_folder(temp_folder)
        temp = os.path.join(temp_folder, os.urandom(8).hex())
        try:
            self._disk.write(temp, data, sync=safe)
            self._publish(temp, final, data, replace)
        finally:
            if os.path.lexists(temp):
                self._disk.unlink(temp)
        if safe:
            self._disk.sync_directory(folder)

    def _publish(self, temp: str, final: str, data: bytes | bytearray | memoryview, replace: bool) -> None:
        if replace:
            self._disk.rename(temp, final)
            return
        try:
            self._disk.link(temp, final)
        except FileExistsError:
            if not self._holds(final, data):
                self._disk.rename(temp, final)
            elif self.durability == "safe":
                self._disk.sync(final)
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES):
                raise
            self._disk.rename(temp, final)  # a file system without hard links

    @staticmethod
    def _holds(final: str, data: bytes | bytearray | memoryview) -> bool:
        """Tell whether `final` holds `data`: by size, and by bytes up to 1 MiB."""
        try:
            if os.stat(final).st_size != len(data):
                return False
            if len(data) > _COMPARE_LIMIT:
                return True
            with open(final, "rb") as file:
                return file.read() == data
        except FileNotFoundError:
            return False

    def _make_folder(self, folder: str) -> None:
        """Create a folder and its parents, and make their names durable.

        A folder that exists is synced too, once: who made it may have died before.
        """
        if folder in self._known:
            return
        parent = os.path.dirname(folder)
        if folder == self.root:
            os.makedirs(parent, exist_ok=True)
        else:
            self._make_folder(parent)
        if not os.path.isdir(folder):
            self._disk.mkdir(folder)
        if self.durability == "safe":
            self._disk.sync_directory(parent)
        self._known.add(folder)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Transport.get`."""
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode):
                    raise IsADirectoryError(errno.EISDIR, "not a file")
                begin, stop, _ = slice(start, end).indices(info.st_size)
                return _read_exactly(fd, begin, max(0, stop - begin))
            finally:
                os.close(fd)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise KeyNotFoundError(f"{key} is not in the store", key=key) from exc
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise KeyNotFoundError(f"{key} is not in the store: it is a link that leads nowhere", key=key) from exc
            raise self._storage_error(exc, key, "read", 0) from exc

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """See `Transport.list`. `local/` is never listed; the storage time is the file's ctime."""
        folder, _, start = prefix.rpartition("/")
        if folder:
            validate_key(folder)
        found: list[KeyInfo] = []
        if folder.split("/")[0] != "local":
            try:
                self._walk(folder, start, details, found)
            except OSError as exc:
                raise self._storage_error(exc, prefix, "list", 0) from exc
        return iter(found)

    def _walk(self, folder: str, start: str, details: bool, found: builtins.list[KeyInfo]) -> None:
        above = f"{folder}/" if folder else ""
        if not details:
            self._walk_names(folder, start, above, found)
            return
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                listed = [entry for entry in entries if entry.name.startswith(start)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in listed:
            if not entry.is_dir(follow_symlinks=False):
                found += filter(None, [_info(above, entry)])
            elif above + entry.name != "local":
                self._walk(above + entry.name, "", details, found)

    def _walk_names(self, folder: str, start: str, above: str, found: builtins.list[KeyInfo]) -> None:
        """Add keys by their names alone; a name with `~` is taken as a file's, as no folder of the layout has one."""
        try:
            names = [name for name in os.listdir(os.path.join(self.root, folder)) if name.startswith(start)]
        except (FileNotFoundError, NotADirectoryError):
            return
        found += [KeyInfo(above + name, None, None) for name in names if "~" in name]
        for name in names:
            if "~" not in name:
                path = os.path.join(self.root, folder, name)
                if not os.path.isdir(path) or os.path.islink(path):
                    found.append(KeyInfo(above + name, None, None))
                elif above + name != "local":
                    self._walk_names(above + name, "", f"{above}{name}/", found)

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """See `Transport.delete`."""
        left = []
        for key in keys:
            path = self._path(key)
            try:
                self._disk.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                left.append(key)
        return left

    def probe(self) -> int:
        """See `Transport.probe`."""
        folder = os.path.join(self.root, "local", "tmp")
        path = os.path.join(folder, "probe-" + os.urandom(8).hex())
        try:
            if not os.path.isdir(folder):  # not yet there, or removed under us
                self._known.clear()
            self._make_folder(folder)
            self._disk.write(path, b"", sync=False)
            time_ns = os.stat(path).st_ctime_ns
            self._disk.unlink(path)
        except OSError as exc:
            raise self._storage_error(exc, "probe", "write", 0) from exc
        return time_ns

    def _path(self, key: str) -> str:
        return os.path.join(self.root, validate_key(key))

    def _storage_error(self, exc: OSError, key: str, operation: str, size: int) -> StorageError:
        where = os.path.join(self.root, key)
        if exc.errno in _FULL:
            try:
                free = shutil.disk_usage(self.root).free
            except OSError:
                free = 0
            return StorageFullError(
                f"no space left to write {where}: {size:,} bytes needed, {free:,} free; the store is intact",
                needed_bytes=size,
                key=key,
                operation=operation,
                hint=self._when_full,
            )
        reason = exc.strerror or str(exc)
        return StorageError(f"cannot {operation} {where}: {reason}", key=key, operation=operation)


def _info(above: str, entry: os.DirEntry[str]) -> KeyInfo | None:
    try:
        info = entry.stat()
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP):  # deleted while we list, or a link that leads nowhere
            return None
        raise
    return KeyInfo(above + entry.name, info.st_size, info.st_ctime_ns)


def _read_exactly(fd: int, begin: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(fd, min(length, 1 << 30), begin)
        if not part:
            break
        parts.append(part)
        begin += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
