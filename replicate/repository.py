"""A thin handle on one project's store: knows the layout of SPEC §5, opens the parts, no algorithms. Floor 5."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from replicate.config import STORE_NAME, Project
from replicate.errors import (
    CorruptionError,
    InvalidInputError,
    KeyNotFoundError,
    StorageError,
    StorageMissingError,
    UnsupportedFormatError,
)
from replicate.history import History
from replicate.host import Host
from replicate.liveness import Liveness
from replicate.objects.ids import ObjectID, blob_id
from replicate.overview import Overview
from replicate.refs import CommitRecord, RecordName, RefStore
from replicate.refs.cache import ShardCache
from replicate.reporting import Reporter
from replicate.transport import LocalTransport, Transport, is_url

if TYPE_CHECKING:  # what reads and writes packs is loaded when the first one is needed: a listing needs none
    from replicate.objects.frames import FrameRef
    from replicate.objects.index import ObjectIndex
    from replicate.objects.locator import LocatorView
    from replicate.objects.store import ObjectStore
    from replicate.objects.writer import ObjectWriter
    from replicate.worktree.index import Index

MARKER_KEY = "ctl/v1"
_WHEN_FULL = "free some space, or move the store with `store:` in replicate.yaml, and save again"
_LEFTOVER_NS = 86_400 * 10**9
_MAX_READERS = 8
MARKER = b"replicate store, format 1\n"

_held: set[int] = set()


def _let_go() -> None:
    """Close what this process, a fork, inherited: a session must not seem to run for as long as a child of it does."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def check_format(transport: Transport, store: str, *, by_size: bool = False) -> Collection[str]:
    """Refuse a store that this version cannot read, and return the names in its `ctl/`.

    A store that does not exist yet is an empty one. With `by_size` a marker of the right size is not read: storage
    elsewhere tears nothing, and a request is saved.

    Raises:
        UnsupportedFormatError: It needs a newer version. CorruptionError: Its marker is none.
    """
    sizes = {info.key.removeprefix("ctl/"): info.size for info in transport.list("ctl/")}
    names = sizes.keys()
    check_readable(names, store)
    if by_size and sizes.get("v1") == len(MARKER):
        return names
    # A marker that is cut short is a torn write: the next save puts it again (I0).
    if "v1" in names and not MARKER.startswith(transport.get(MARKER_KEY).rstrip(b"\0")):
        raise CorruptionError(
            f"{store}/{MARKER_KEY} is damaged: not the marker of a store",
            where=MARKER_KEY,
            hint="if the rest is intact, delete that file: the next save writes it again",
        )
    return names


def open_store(place: str, host: Host, options: Mapping[str, str] | None = None) -> Transport:
    """Return the transport of a store somewhere, for a reader. Raises as `transport.remote.open_transport`."""
    if not is_url(place):
        return LocalTransport(os.path.realpath(os.path.expanduser(place)))
    from replicate.transport.remote import brief_at_first, open_transport  # what needs fsspec is loaded for a URL only

    return open_transport(place, options, patience=brief_at_first(), host=host)


class Elsewhere(NamedTuple):
    """A store that is only read: its place, its transport, and the folder for what this machine knows of it."""

    place: str
    transport: Transport
    caches: str


def open_elsewhere(
    place: str, transport: Transport, caches: str, limit_bytes: int | None = None, *, lists: bool = False
) -> Elsewhere:
    """Look at a store that is to be read, in one request; what is read of a URL is kept in a folder in `caches`.

    With `lists` its records are asked for in the same moment: whoever opens it lists them next.

    Raises:
        As `Repository.elsewhere`.
    """
    is_folder = isinstance(transport, LocalTransport)
    store = transport.root if isinstance(transport, LocalTransport) else place
    begun = {"refs/": transport.list("refs/", details=False)} if lists and not is_folder else {}
    names = check_format(transport, store, by_size=not is_folder)
    if "v1" not in names:
        raise no_store_at(store)
    identity = "\n".join([store, *sorted(one for one in names if one.startswith("store~"))])
    own = os.path.join(caches, blob_id(identity.encode("utf-8", "surrogateescape")).hex()[:32])
    if not is_folder:
        from replicate.transport.blocks import default_limit
        from replicate.transport.caching import CachingTransport

        limit = default_limit(caches) if limit_bytes is None else limit_bytes
        transport = CachingTransport(transport, os.path.join(own, "blocks"), limit, begun)
    return Elsewhere(store, transport, own)


def no_store_at(place: str) -> StorageMissingError:
    """Return the error that there is no store in a place."""
    inner = os.path.join(place, STORE_NAME)
    hint = f"did you mean {inner}?" if os.path.isdir(inner) else "correct the URL or the path"
    return StorageMissingError(f"there is no store at {place}", operation="list", hint=hint)


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
        caches: A folder for this machine's caches of a store that is no project's; see `elsewhere`.
    """

    def __init__(
        self,
        project: Project,
        host: Host,
        reporter: Reporter,
        transport: Transport | None = None,
        *,
        caches: str | None = None,
    ) -> None:
        self.project = project
        self.host = host
        self.reporter = reporter
        self.transport: Transport = transport or LocalTransport(
            project.store, durability=project.durability, when_full=_WHEN_FULL
        )
        self.refs = RefStore(self.transport, self._tell_damage)
        self._caches = caches
        if caches is None:
            check_format(self.transport, project.store)

    @classmethod
    def elsewhere(
        cls,
        place: str,
        host: Host,
        reporter: Reporter,
        options: Mapping[str, str] | None = None,
        *,
        caches: str,
        transport: Transport | None = None,
        limit_bytes: int | None = None,
        lists: bool = False,
    ) -> Repository:
        """Open a store that is no project's, to read it.

        What is read of a URL is kept in `caches`, and never asked for again.

        Args:
            place: A URL, or the path of a folder.
            host: This machine.
            reporter: Hears of damaged records.
            options: As `transport.remote.open_transport` takes them.
            caches: The folder of this user's caches; it need not be there.
            transport: Of the place, if it is open already.
            limit_bytes: How much to keep there; by default 20 GB or a tenth of the disk, whichever is less.
            lists: Its records are listed next, so that they are asked for already.

        Raises:
            StorageMissingError: There is no store. StorageError: It cannot be reached.
            UnsupportedFormatError: It needs a newer version. CorruptionError: Its marker is none.
        """
        found = open_elsewhere(place, transport or open_store(place, host, options), caches, limit_bytes, lists=lists)
        # No path is in the project: its folder is one that nobody works in.
        own = Project(found.caches, found.place)
        return cls(own, host, reporter, found.transport, caches=found.caches)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is no project's store: there is no worktree, and nothing is written."""
        return self._caches is not None

    @property
    def own(self) -> Repository:
        """The store alone, without another one that is read together with it; see `replicate.united`."""
        return self

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
        if self._caches is not None:
            return os.path.join(self._caches, *parts)
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

        durable = self.project.durability == "safe" and not self.is_elsewhere  # making a pack durable writes it
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
        """Return the paths, relative to `folder`, of the stores that lie in it: none is ever saved into itself."""
        places = [self.project.store]
        if os.path.isabs(self.project.repository):  # no URL
            places.append(self.project.repository)
        paths = (os.path.relpath(os.path.realpath(place), folder) for place in places)
        return tuple(os.fsencode(path) for path in paths if path != ".." and not path.startswith("../"))

    # -- format --------------------------------------------------------------------------------------------------

    def create(self) -> bool:
        """Make the store if it is not there; return whether it was made. SPEC §5.1."""
        self._refuse_elsewhere()
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
        self._refuse_elsewhere()
        names = (info.key.removeprefix("ctl/") for info in self.transport.list("ctl/"))
        check_writable(names, self.project.store)

    def _refuse_elsewhere(self) -> None:
        if self.is_elsewhere:
            raise InvalidInputError(
                f"{self.project.store} is only read: it is no project's own store",
                hint="`replicate pull -R` it into a project, change it there, and push it",
            )

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

        workers = min(_MAX_READERS, self.host.cpu_count)
        return ObjectStore(self.transport, self.view(*locators), workers, self.evicted_to)

    def evicted_to(self, pack: ObjectID) -> str:
        """Return where a pack lies that is not in this store because it was evicted, "" if that is not known."""
        from replicate.evicted import read_evicted

        return next((one.place for one in read_evicted(self.project.store) if one.pack == pack), "")

    def find_objects(self, prefix: str, limit: int) -> Sequence[tuple[ObjectID, int]]:
        """Return up to `limit` (id, kind) of objects whose ids begin with some hex digits, as `all_objects` found."""
        return self.index.find_prefix(prefix, limit)

    def all_objects(self) -> ObjectStore:
        """Return every object in the store, by the dedup index brought up to date."""
        from replicate.objects.store import ObjectStore

        self.index.refresh()
        return ObjectStore(self.transport, self.index, evicted_to=self.evicted_to)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Hold `local/lock` shared: packs that this save relies on are not removed meanwhile."""
        with self._open_lock() as fd:
            with contextlib.suppress(OSError):  # on a file system without locks nothing is removed
                fcntl.flock(fd, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def without_saves(self) -> Iterator[bool]:
        """Hold `local/lock` exclusively, unless a save or a copy is under way, or there are no locks; tell whether."""
        with self._open_lock() as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    @contextlib.contextmanager
    def _open_lock(self) -> Iterator[int]:
        self._refuse_elsewhere()
        path = self.local_path("lock")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}", key="local/lock", operation="write") from exc
        try:
            yield fd
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
        return self._read_head(self._worktree_path("head"))

    def read_heads(self) -> Sequence[CommitRecord]:
        """Return what `read_head` does for every worktree on this machine that uses the store."""
        above = self.cache_path("worktree")
        folders = os.listdir(above) if os.path.isdir(above) else ()
        found = (self._read_head(os.path.join(above, folder, "head")) for folder in folders)
        return [record for record in found if record is not None]

    @property
    def head_name(self) -> RecordName | None:
        """The name of that commit's record, whether it is there or not."""
        return self._head_name(self._worktree_path("head"))

    @staticmethod
    def _head_name(path: str) -> RecordName | None:
        try:
            with open(path, encoding="ascii") as file:
                return RecordName.parse(file.read().strip())
        except (OSError, UnicodeDecodeError, CorruptionError):
            return None

    def _read_head(self, path: str) -> CommitRecord | None:
        name = self._head_name(path)
        record = self.refs.find(name) if name is not None else None
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

    def is_session_running(self, session: str) -> bool | None:
        """Tell whether a process on this machine holds a session; None if none ever did in this store."""
        try:
            fd = os.open(self.local_path("sessions", session), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
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
        # The locks of a session lie in the store that it saves to, so of another one only heartbeats tell.
        host = replace(self.host, name="") if self.is_elsewhere else self.host
        return Liveness(self.transport, host, self.is_session_running)
