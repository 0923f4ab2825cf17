"""Any other file system that fsspec reaches, through its blocking calls, each in a thread that may be left alone.

What can put a whole file at once does so; elsewhere a file is written beside, in `local/tmp`, and gets its name when
it is complete.
"""

from __future__ import annotations

import errno
import posixpath
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from replicate.transport.remote.driver import Entry, Kind, Patience, Piece, Trouble, nanoseconds
from replicate.transport.remote.location import Location, StorageOptions
from replicate.transport.remote.loop import in_thread

T = TypeVar("T")
_PUT_WHOLE = ("memory", "az", "abfs")
_TIMES = ("LastModified", "last_modified", "created", "mtime", "modified")
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NETWORK = (ConnectionError, TimeoutError, EOFError)
_NETWORK_NUMBERS = (
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EPIPE,
    errno.EBADF,
)
_STATUS: dict[int, Kind] = {401: "login", 403: "denied", 404: "absent", 408: "passing", 409: "exists", 429: "passing"}


class FileDriver:
    """Calls of one file system.

    Args:
        system: The file system of fsspec.
        root: What stands before every path: a container, or /.
        store: The store's folder, for files that are being written; "" where `puts_whole`.
        puts_whole: A reader never sees a part of what is being put.
    """

    def __init__(self, system: Any, root: str, store: str, *, puts_whole: bool) -> None:
        self._system = system
        self._root = root
        self._store = store
        self._puts_whole = puts_whole
        self._made: set[str] = set()

    async def put(self, path: str, data: bytes, *, only_new: bool) -> None:
        """See `Driver.put`."""
        await self._call(lambda system: self._put(system, self._root + path, data, only_new))

    async def get(self, path: str, start: int, end: int | None) -> Piece:
        """See `Driver.get`."""
        return await self._call(lambda system: self._get(system, self._root + path, start, end))

    async def page(self, prefix: str, token: str | None) -> tuple[Sequence[Entry], str | None]:
        """See `Driver.page`. All comes in one page."""
        folder = prefix.rpartition("/")[0]
        return await self._call(lambda system: list(self._walk(system, folder, prefix))), None

    async def delete(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Driver.delete`."""
        return await self._call(lambda system: [path for path in paths if not self._delete(system, self._root + path)])

    async def stamp(self, path: str) -> int:
        """See `Driver.stamp`."""

        def stamp(system: Any) -> int:
            self._put(system, self._root + path, b"", False)
            time = _time(system.info(self._root + path))
            if time is None:
                raise Trouble("unsupported", "it does not tell when a file was written")
            return time

        return await self._call(stamp)

    async def date(self) -> int:
        """See `Driver.date`."""
        raise Trouble("denied", "its time cannot be known without writing")

    async def create_place(self) -> None:
        """See `Driver.create_place`."""
        place = self._root.rstrip("/")

        def create(system: Any) -> None:
            if place and self._puts_whole:  # a container; its makedirs would do nothing
                system.mkdir(place, create_parents=True, exist_ok=True)
            elif place:
                system.makedirs(place, exist_ok=True)

        await self._call(create)

    async def close(self) -> None:
        """See `Driver.close`."""

    async def _call(self, call: Callable[[Any], T]) -> T:
        return await in_thread(lambda: translated(lambda: call(self._system)))

    def _put(self, system: Any, path: str, data: bytes, only_new: bool) -> None:
        if self._puts_whole:
            system.pipe_file(path, data, mode="create" if only_new else "overwrite")
            return
        if only_new and _is_there(system, path):
            raise Trouble("exists")
        try:
            self._put_beside(system, path, data)
        except FileNotFoundError:  # the folder was removed under us: make it again
            self._made.clear()
            self._put_beside(system, path, data)

    def _put_beside(self, system: Any, path: str, data: bytes) -> None:
        beside = self._beside()
        for folder in (posixpath.dirname(beside), posixpath.dirname(path)):
            if folder not in self._made:
                _make_folder(system, folder)
                self._made.add(folder)
        try:
            self._write(system, beside, data)
            self._rename(system, beside, path)
        except BaseException:
            self._delete(system, beside)
            raise

    def _beside(self) -> str:
        return f"{self._store}/local/tmp/{secrets.token_hex(8)}"

    def _write(self, system: Any, path: str, data: bytes) -> None:
        system.pipe_file(path, data)

    def _rename(self, system: Any, source: str, target: str) -> None:
        system.mv(source, target)

    def _get(self, system: Any, path: str, start: int, end: int | None) -> Piece:
        info = system.info(path)
        if info["type"] == "directory":
            raise Trouble("absent")
        size = int(info["size"])
        first, last, _ = slice(start, end).indices(size)
        data = self._read(system, path, first, last) if last > first else b""
        if len(data) != max(0, last - first):
            raise Trouble("unreachable", f"{len(data):,} of {last - first:,} bytes came")
        return Piece(data, first, size)

    def _read(self, system: Any, path: str, start: int, end: int) -> bytes:
        data: bytes = system.cat_file(path, start=start, end=end)
        return data

    def _walk(self, system: Any, folder: str, prefix: str) -> Iterator[Entry]:
        """Yield the files below a folder; an error ends it, a folder that is gone does not."""
        try:
            listed = system.ls((self._root + folder).rstrip("/") or "/", detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        for info in listed:
            path = info["name"].rstrip("/")
            path = path if path.startswith(self._root) else "/" + path
            path = path.removeprefix(self._root)
            if not path.startswith(prefix) and not prefix.startswith(path + "/"):
                continue
            if folder and not path.startswith(folder + "/"):
                continue  # a file where a folder was asked for
            if info["type"] == "directory":
                yield from self._walk(system, path, prefix)
            else:
                yield Entry(path, info.get("size"), _time(info))

    def _delete(self, system: Any, path: str) -> bool:
        try:
            system.rm_file(path)
        except _GONE:
            return not _is_there(system, path)
        except PermissionError:
            return False
        return True


def _make_folder(system: Any, folder: str) -> None:
    """Create a folder and its parents, though others may be creating them at the same time."""
    for _ in range(folder.count("/")):
        try:
            system.makedirs(folder, exist_ok=True)
        except OSError:
            if system.isdir(folder):
                return
        else:
            return
    system.makedirs(folder, exist_ok=True)


def _is_there(system: Any, path: str) -> bool:
    try:
        return bool(system.info(path)["type"] != "directory")
    except (FileNotFoundError, NotADirectoryError):
        return False


def _time(info: Mapping[str, Any]) -> int | None:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return nanoseconds(value)
        if isinstance(value, int | float):
            return int(value * 1_000_000_000)
    return None


def translated(call: Callable[[], T]) -> T:
    """Return what a call of a file system returns; turn what it raises into `Trouble`."""
    try:
        return call()
    except Trouble:
        raise
    except FileExistsError as exc:
        raise Trouble("exists") from exc
    except _GONE as exc:
        raise Trouble("absent", exc) from exc
    except PermissionError as exc:
        raise Trouble("denied", exc.strerror or exc) from exc
    except _NETWORK as exc:
        raise Trouble("unreachable", str(exc) or type(exc).__name__) from exc
    except shutil.Error as exc:
        raise Trouble("failed", exc) from exc
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Trouble("full") from exc
        kind: Kind = "unreachable" if exc.errno in _NETWORK_NUMBERS else "failed"
        raise Trouble(kind, exc.strerror or exc) from exc
    except Exception as exc:  # of a library that we cannot know: it ends here, as an error of storage
        raise _foreign(exc) from exc


def _foreign(exc: Exception) -> Trouble:
    """Turn an exception of an HTTP library into `Trouble`, by its status where it has one."""
    status = getattr(exc, "status_code", None)
    name = type(exc).__name__
    if isinstance(status, int):
        kind = _STATUS.get(status, "passing" if status >= 500 else "failed")
        code = getattr(exc, "error_code", None)
        return Trouble("no place" if code == "ContainerNotFound" else kind, f"{code or status}: {exc}")
    if isinstance(exc, ImportError):
        return Trouble("failed", exc, hint="install what it asks for")
    if "Auth" in name or "Credential" in name:
        return Trouble("login", exc)
    if "Request" in name or "Connection" in name or "Timeout" in name or "SSH" in name:
        return Trouble("unreachable", exc)
    return Trouble("failed", f"{name}: {exc}")


async def connect(location: Location, options: StorageOptions, patience: Patience) -> FileDriver:
    """Return a driver for any file system that fsspec knows."""
    import fsspec

    def make() -> tuple[Any, str]:
        kind: Any = fsspec.get_filesystem_class(location.scheme)
        told = kind._get_kwargs_from_urls(location.url)
        if location.scheme in ("az", "abfs"):
            told["anon"] = options.anonymous
        system = kind(skip_instance_cache=True, use_listings_cache=False, **told)
        path: str = kind._strip_protocol(location.url)
        return system, path.rstrip("/").removesuffix(location.root).rstrip("/") + "/"

    system, root = await in_thread(lambda: translated(make))
    return FileDriver(system, root, root + location.root, puts_whole=location.scheme in _PUT_WHOLE)
