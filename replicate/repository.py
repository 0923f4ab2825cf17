"""A thin handle on one project's store: knows the layout of SPEC §5, opens the parts, no algorithms. Floor 5."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from replicate.config import Project
from replicate.errors import CorruptionError, KeyNotFoundError, StorageError, UnsupportedFormatError
from replicate.history import History
from replicate.host import Host
from replicate.liveness import Liveness
from replicate.objects.ids import blob_id
from replicate.overview import Overview
from replicate.refs import CommitRecord, RecordName, RefStore
from replicate.refs.cache import ShardCache
from replicate.reporting import Reporter
from replicate.transport import LocalTransport, Transport

if TYPE_CHECKING:  # what reads and writes packs is loaded when the first one is needed: a listing needs none
    from replicate.objects.frames import FrameRef
    from replicate.objects.index import ObjectIndex
    from replicate.objects.locator import LocatorView
    from replicate.objects.store import ObjectStore
    from replicate.objects.writer import ObjectWriter
    from replicate.worktree.index import Index

MARKER_KEY = "ctl/v1"
_LEFTOVER_NS = 86_400 * 10**9
_MAX_READERS = 8
MARKER = b"replicate store, format 1\n"

_held: set[int] = set()


def _let_go() -> None:
    """Close what this process, a fork, inherited: a session must not seem to run for as long as a child of it does."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def check_format(transport: Transport, store: str) -> None:
    """Refuse a store that this version cannot read. A store that does not exist yet is an empty one.

    Raises:
        UnsupportedFormatError: It needs a newer version. CorruptionError: Its marker is none.
    """
    names = [info.key.removeprefix("ctl/") for info in transport.list("ctl/")]
    check_readable(names, store)
    # A marker that is cut short is a torn write: the next save puts it again (I0).
    if "v1" in names and not MARKER.startswith(transport.get(MARKER_KEY).rstrip(b"\0")):
        raise CorruptionError(
            f"{store}/{MARKER_KEY} is damaged: not the marker of a store",
            where=MARKER_KEY,
            hint="if the rest is intact, delete that file: the next save writes it again",
        )


def check_readable(names: Collection[str], store: str) -> None:
    """Raise `UnsupportedFormatError` if a store whose `ctl/` holds these names cannot be read by this version."""
    unknown = [name.removeprefix("feat~read~") for name in names if name.startswith("feat~read~")]
    newer = sorted(name for name in names if name[:1] == "v" and name[1:].isdigit() and name != "v1")
    if unknown:
        raise UnsupportedFormatError(
            f"{store} uses {', '.join(sorted(unknown))}, which this version cannot read",
            hint="upgrade replicate: pip install --upgrade replicate-vc",
        )
    if newer and "v1" not in names:
        raise UnsupportedFormatError(
            f"{store} has format {newer[-1][1:]}; this version reads format 1",
            hint="upgrade replicate: pip install --upgrade replicate-vc",
        )


def check_writable(names: Iterable[str], store: str) -> None:
    """Raise `UnsupportedFormatError` if this version may not publish where `ctl/` holds these names (SPEC §5.2)."""
    for name in names:
        if name.startswith(("feat~read~", "feat~write~", "p~")):
            raise UnsupportedFormatError(
                f"{store} was changed by a newer version ({name}); this one cannot save into it",
                hint="upgrade replicate: pip install --upgrade replicate-vc",
            )


class Repository:
    """The store of one project and this machine's caches of it.

    Args:
        project: Where it lies.
        host: This machine.
        reporter: Hears of damaged records.
        transport: The store; by default the project's folder.
    """

    def __init__(self, project: Project, host: Host, reporter: Reporter, transport: Transport | None = None) -> None:
        self.project = project
        self.host = host
        self.reporter = reporter
        self.transport: Transport = transport or LocalTransport(project.store, durability=project.durability)
        self.refs = RefStore(self.transport, self._tell_damage)
        check_format(self.transport, project.store)

    def _tell_damage(self, error: CorruptionError) -> None:
        self.reporter.warn(f"{error.message}; it is left out")

    def local_path(self, *parts: str) -> str:
        """Return a path in `local/`."""
        return os.path.join(self.project.store, "local", *parts)

    def cache_path(self, *parts: str) -> str:
        """Return a path among this machine's caches.

        They are bound to the store folder's device and inode and to the host, so that neither a copied store nor one
        that several machines share uses what another place knew (SPEC §5.3).
        """
        try:
            info = os.stat(self.project.store)
            binding = f"{info.st_dev} {info.st_ino} {self.host.name}"
        except FileNotFoundError:
            binding = self.host.name
        return self.local_path("cache", blob_id(os.fsencode(binding)).short, *parts)

    @functools.cached_property
    def index(self) -> ObjectIndex:
        """The dedup index."""
        from replicate.objects.index import ObjectIndex

        durable = self.project.durability == "safe"
        return ObjectIndex(self.cache_path("objects.db"), self.transport, self.host.boot_id, durable=durable)

    def writer(self, workers: int = 1) -> ObjectWriter:
        """Begin to write objects; `index.begin_save` has been called, or will be. The caller closes it."""
        from replicate.objects.writer import ObjectWriter

        return ObjectWriter(
            self.transport,
            self.index,
            random=self.host.random,
            durable=self.project.durability == "safe",
            workers=workers,
            effort=self.project.effort,
        )

    def excluded_paths(self, folder: str) -> tuple[bytes, ...]:
        """Return the store's path relative to `folder` if it lies in it: it is never saved into itself."""
        path = os.path.relpath(os.path.realpath(self.project.store), folder)
        return () if path == ".." or path.startswith("../") else (os.fsencode(path),)

    # -- format --------------------------------------------------------------------------------------------------

    def create(self) -> bool:
        """Make the store if it is not there; return whether it was made. SPEC §5.1."""
        with contextlib.suppress(KeyNotFoundError):
            if self.transport.get(MARKER_KEY) == MARKER:
                self.transport.put(MARKER_KEY, MARKER)  # whoever wrote it may not have lived to sync it (I1)
                return False
        is_new = not os.path.isdir(os.path.join(self.project.store, "ctl"))
        try:
            os.makedirs(self.project.store, exist_ok=True)
            with open(os.path.join(self.project.store, ".gitignore"), "w", encoding="ascii") as file:
                file.write("*\n")
        except OSError as exc:
            raise StorageError(f"cannot create {self.project.store}: {exc.strerror}", operation="write") from exc
        self.transport.put(f"ctl/store~{self.host.random(16).hex()}", b"")
        self.transport.put(MARKER_KEY, MARKER)
        return is_new

    def check_writable(self) -> None:
        """List `ctl/` and refuse to publish into a store that asks for more than this version knows (I3, SPEC §5.2)."""
        names = (info.key.removeprefix("ctl/") for info in self.transport.list("ctl/"))
        check_writable(names, self.project.store)

    def _write_local(self, path: str, text: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temp = f"{path}.{self.host.random(6).hex()}"
        with open(temp, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temp, path)

    # -- parts ---------------------------------------------------------------------------------------------------

    def history(self) -> History:
        """Return every experiment, as one look at the store shows them."""
        return History(Overview(self.refs, lambda: ShardCache(self.cache_path("refs.db"))))

    def view(self, *locators: FrameRef) -> LocatorView:
        """Return the locations of what locators lead to."""
        from replicate.objects.locator import LocatorView

        return LocatorView(self.transport, locators)

    def objects(self, *locators: FrameRef) -> ObjectStore:
        """Return the objects that locators lead to: those of the closures of their commits."""
        from replicate.objects.store import ObjectStore

        return ObjectStore(self.transport, self.view(*locators), min(_MAX_READERS, self.host.cpu_count))

    def all_objects(self) -> ObjectStore:
        """Return every object in the store, by the dedup index brought up to date."""
        from replicate.objects.store import ObjectStore

        self.index.refresh()
        return ObjectStore(self.transport, self.index)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Hold `local/lock` shared: packs that this save relies on are not collected meanwhile."""
        path = self.local_path("lock")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}", key="local/lock", operation="write") from exc
        try:
            with contextlib.suppress(OSError):  # a file system without locks has no local collection either
                fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    # -- the worktree's state --------------------------------------------------------------------------------------

    def _worktree_path(self, name: str) -> str:
        return self.cache_path("worktree", blob_id(os.fsencode(self.project.root)).short, name)

    def worktree_index(self) -> Index:
        """Open the worktree's stat cache."""
        from replicate.worktree.index import Index

        return Index(self._worktree_path("index.db"))

    def read_head(self) -> CommitRecord | None:
        """Return the record of the commit that the worktree was last saved as or checked out from, if it is there."""
        try:
            with open(self._worktree_path("head"), encoding="ascii") as file:
                name = RecordName.parse(file.read().strip())
        except (OSError, UnicodeDecodeError, CorruptionError):
            return None
        record = self.refs.find(name)
        return record if isinstance(record, CommitRecord) else None

    def write_head(self, record: CommitRecord) -> None:
        """Remember which commit the worktree holds."""
        with contextlib.suppress(OSError):  # derived (I4): the next save is slower, no more
            self._write_local(self._worktree_path("head"), record.name.key + "\n")

    def remove_leftovers(self) -> None:
        """Remove what killed processes left in `local/tmp`: files that are a day old."""
        folder = self.local_path("tmp")
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if self.host.now_ns() - entry.stat(follow_symlinks=False).st_mtime_ns > _LEFTOVER_NS:
                    os.unlink(entry.path)

    # -- sessions --------------------------------------------------------------------------------------------------

    def hold_session(self, session: str) -> int | None:
        """Lock `local/sessions/<session>` until the process ends or lets go of it: it is running.

        Returns:
            What `release_session` takes; None where the file system has no locks.
        """
        path = self.local_path("sessions", session)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        _held.add(fd)
        return fd

    def release_session(self, held: int) -> None:
        """Let go of a session that this process holds; a fork holds none."""
        if held in _held:
            _held.remove(held)
            os.close(held)

    def is_session_running(self, session: str) -> bool:
        """Tell whether a process on this machine holds a session."""
        try:
            fd = os.open(self.local_path("sessions", session), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    @functools.cached_property
    def liveness(self) -> Liveness:
        """Tells which sessions run, here and on other machines."""
        return Liveness(self.transport, self.host, self.is_session_running)
