"""Writing a commit's files into a folder. SPEC §14, I6.

Nothing is written before it is known that nothing unsaved would be overwritten. Every file is written under a temporary
name, verified by its id, and renamed. Directories are opened one by one without following links, so no path of a
hostile tree leads out of the target.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import stat as stat_bits
import unicodedata
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from replicate.errors import (
    ConflictError,
    CorruptionError,
    ObjectNotFoundError,
    PathNotFoundError,
    StorageError,
    StorageFullError,
    WorktreeModifiedError,
)
from replicate.objects.ids import SHORT_DIGITS, Buffer, ObjectID, blob_id
from replicate.objects.model import MAX_LINK_BYTES, Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.reporting import Reporter
from replicate.text import printable
from replicate.worktree.index import Stat
from replicate.worktree.scan import Scanner, join, mode_of
from replicate.worktree.trees import find_entry, iter_tree

_OPEN_FOLDERS = 64
_SMALL_BYTES = 4 << 20
_HINT = "a copy of the store may have it whole, `replicate fsck` tells what else is damaged"
_LONG_ID = re.compile(r"\b[0-9a-f]{64}\b", re.ASCII)


@dataclass(slots=True)
class Plan:
    """What a checkout is going to do.

    Attributes:
        wanted: Every path to be there and its entry, directories first.
        writes: The paths among them whose content, type or exec bit differs now.
        removals: Paths to be removed: extras, and what stands where a folder is wanted.
        left: Paths that were to be kept as they are, and are otherwise in the tree, or extras.
    """

    wanted: dict[bytes, TreeEntry] = field(default_factory=dict)
    writes: list[bytes] = field(default_factory=list)
    removals: list[bytes] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)


class Checkout:
    """Writes one tree into one folder.

    Args:
        objects: The commit's objects.
        target: The folder; created if it is not there.
        reporter: Hears of progress.
        is_retained: Tells whether a blob is in some commit, so that its bytes may be overwritten.
        known: Returns the blob that a path holds if its stat proves it; saves hashing.
    """

    def __init__(
        self,
        objects: ObjectStore,
        target: str,
        reporter: Reporter,
        *,
        is_retained: Callable[[ObjectID], bool],
        known: Callable[[bytes, os.stat_result], ObjectID | None] = lambda path, stat: None,
    ) -> None:
        self._objects = objects
        self._target = os.fsencode(os.path.realpath(target))
        self._reporter = reporter
        self._is_retained = is_retained
        self._known = known
        self._folders: OrderedDict[bytes, int] = OrderedDict()

    def plan(
        self,
        tree: ObjectID,
        *,
        paths: Iterable[bytes] = (),
        force: bool = False,
        extras: Scanner | None = None,
        kept: frozenset[bytes] = frozenset(),
    ) -> Plan:
        """Look at tree and folder and return what is to be done; writes nothing.

        Args:
            tree: The commit's tree.
            paths: Only these paths and what is below them; none means everything.
            force: Overwrite bytes that are in no commit too.
            extras: Scans the target; what it finds beyond the tree is removed. None removes nothing.
            kept: Files that stay as they are where they are there.

        Raises:
            PathNotFoundError: The tree has no such path.
            WorktreeModifiedError: Bytes that are in no commit would be lost.
            StorageError: The target cannot be looked at.
            ConflictError: A folder or a device stands where a file is wanted.
        """
        plan = Plan(self._wanted(tree, list(paths)))
        self._check_collisions(plan.wanted)
        lost: list[bytes] = []
        kept = frozenset(path for path in kept if os.path.lexists(os.path.join(self._target, path)))
        try:
            self._compare_all(plan, lost)
            if extras is not None:
                self._find_extras(extras, plan, lost)
            plan.left = [path for path in (*plan.writes, *plan.removals) if path in kept]
            for listed in (plan.writes, plan.removals, lost):
                listed[:] = [path for path in listed if path not in kept]
        except OSError as exc:
            name = os.fsdecode(exc.filename or self._target)
            raise StorageError(f"cannot look at {name[:200]}: {exc.strerror or exc}", operation="read") from exc
        if lost and not force:
            raise self._modified(lost)
        return plan

    def run(self, plan: Plan) -> list[tuple[bytes, Stat, ObjectID]]:
        """Do what was planned; return the regular files that were written with their new stats.

        When this raises, files written so far are whole and verified; the others are as before.
        """
        files = [path for path in plan.writes if plan.wanted[path].mode.is_file]
        self._reporter.begin("checking out", len(files), sum(plan.wanted[path].size_bytes for path in files))
        try:
            os.makedirs(self._target, exist_ok=True)
            for path in sorted(plan.removals, reverse=True):
                self._remove(path)
            for path, entry in plan.wanted.items():
                if entry.mode is Mode.DIRECTORY:
                    self._make_folder(path)
            written = self._write_files(files, plan)
            for path in plan.writes:
                if plan.wanted[path].mode is Mode.SYMLINK:
                    self._write_link(path, plan.wanted[path])
        except OSError as exc:
            raise self._storage_error(exc) from exc
        finally:
            self._reporter.finish()
            self._close_folders()
        return written

    # -- planning ------------------------------------------------------------------------------------------------

    def _wanted(self, tree: ObjectID, paths: list[bytes]) -> dict[bytes, TreeEntry]:
        if not paths:
            return dict(iter_tree(self._objects, tree))
        wanted: dict[bytes, TreeEntry] = {}
        for path in paths:
            entry = find_entry(self._objects, tree, path)
            if entry is None:
                raise PathNotFoundError(
                    f"the checkpoint has no {os.fsdecode(path)!r}", hint="checkpoint.files() lists its files"
                )
            above = b""
            for name in path.split(b"/")[:-1]:
                above = join(above, name)
                wanted.setdefault(above, TreeEntry(name, Mode.DIRECTORY, 0, entry.object_id))
            if path:
                wanted[path] = entry
            if entry.mode is Mode.DIRECTORY:
                wanted.update(iter_tree(self._objects, entry.object_id, path))
        return wanted

    def _check_collisions(self, wanted: Collection[bytes]) -> None:
        """Refuse names that this file system would take for one another."""
        groups: dict[str, list[bytes]] = defaultdict(list)
        for path in wanted:
            text = path.decode("utf-8", "surrogateescape")
            groups[unicodedata.normalize("NFC", text).casefold()].append(path)
        colliding = next((group for group in groups.values() if len(group) > 1), None)
        if colliding and self._folds_names():
            names = " and ".join(repr(os.fsdecode(path)) for path in colliding[:2])
            raise ConflictError(
                f"{names} would be one file on the file system of {os.fsdecode(self._target)}; nothing was written",
                hint="check out on a file system that tells them apart",
            )

    def _folds_names(self) -> bool:
        folder = self._target
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        stem = f".replicate-tmp-{secrets.token_hex(6)}"
        probe = os.path.join(folder, f"{stem}-\u00e9a".encode())
        try:
            with open(probe, "xb"):
                pass
        except OSError:
            return True  # cannot tell, cannot write either
        try:
            return any(
                os.path.lexists(os.path.join(folder, other.encode()))
                for other in (f"{stem}-\u00e9A", f"{stem}-e\u0301a")
            )
        finally:
            os.unlink(probe)

    def _compare_all(self, plan: Plan, lost: list[bytes]) -> None:
        cleared: set[bytes] = set()  # folders that are no folders now: what seems to lie in them lies elsewhere
        for path, entry in plan.wanted.items():
            if cleared and path.rpartition(b"/")[0] in cleared:
                if entry.mode is Mode.DIRECTORY:
                    cleared.add(path)
                else:
                    plan.writes.append(path)
            elif self._compare(path, entry, plan, lost):
                cleared.add(path)

    def _compare(self, path: bytes, entry: TreeEntry, plan: Plan, lost: list[bytes]) -> bool:
        """Note what has to be done for one wanted path, and whether unsaved bytes would be lost by it.

        Returns whether a file or link has to make room for a folder.
        """
        full = os.path.join(self._target, path)
        try:
            info = os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            if entry.mode is not Mode.DIRECTORY:
                plan.writes.append(path)
            return False
        mode = mode_of(info)
        if mode is entry.mode is Mode.DIRECTORY:
            return False
        if mode is None or mode is Mode.DIRECTORY:
            what = "a folder" if mode is Mode.DIRECTORY else "a device, pipe or socket"
            raise ConflictError(
                f"{os.fsdecode(full)} is {what} where the checkpoint has a file; nothing was written",
                hint="move it away, or restore elsewhere with -o DIR",
            )
        found = self._content(path, full, mode, info)
        if entry.mode is Mode.DIRECTORY:
            plan.removals.append(path)
        elif found == entry.object_id and mode is entry.mode:
            return False
        else:
            plan.writes.append(path)
        if found != entry.object_id and (found is None or not self._is_retained(found)):
            lost.append(path)
        return entry.mode is Mode.DIRECTORY

    def _content(self, path: bytes, full: bytes, mode: Mode, info: os.stat_result) -> ObjectID | None:
        """Return the blob that a file or link holds now, or None when it cannot be read."""
        try:
            if mode is Mode.SYMLINK:
                return blob_id(os.readlink(full))
            known = self._known(path, info)
            return known if known is not None else hash_file(full)
        except OSError:
            return None

    def _find_extras(self, extras: Scanner, plan: Plan, lost: list[bytes]) -> None:
        if not os.path.isdir(self._target):
            return
        for folder, listing in extras.scan().directories.items():
            for name, (mode, _) in listing.items():
                path = join(folder, name)
                if path in plan.wanted:
                    continue
                plan.removals.append(path)
                if mode is Mode.DIRECTORY:
                    continue
                full = os.path.join(self._target, path)
                found = self._content(path, full, mode, os.lstat(full))
                if found is None or not self._is_retained(found):
                    lost.append(path)

    def _modified(self, lost: list[bytes]) -> WorktreeModifiedError:
        names = [os.fsdecode(path) for path in sorted(lost)]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        verb = "has" if len(names) == 1 else "have"
        return WorktreeModifiedError(
            f"{shown} {verb} changes that are in no checkpoint; nothing was written",
            paths=names,
            hint="save them with `replicate checkpoint --name before`, restore elsewhere with -o DIR, "
            "or overwrite with -f",
        )

    # -- writing -------------------------------------------------------------------------------------------------

    def _write_files(self, files: list[bytes], plan: Plan) -> list[tuple[bytes, Stat, ObjectID]]:
        written: list[tuple[bytes, Stat, ObjectID]] = []
        by_id: dict[ObjectID, list[bytes]] = defaultdict(list)
        for path in files:
            by_id[plan.wanted[path].object_id].append(path)
        small = [one for one, paths in by_id.items() if plan.wanted[paths[0]].size_bytes <= _SMALL_BYTES]
        for wanted, data in self._read_many(small):
            for path in by_id.pop(wanted):
                written.append(self._write_file(path, plan.wanted[path], functools.partial(_write_whole, data)))
        for wanted in self._objects.in_turn([*by_id]):
            for path in by_id[wanted]:
                copy = functools.partial(self._copy, path, plan.wanted[path])
                written.append(self._write_file(path, plan.wanted[path], copy))
        return written

    def _read_many(self, wanted: Sequence[ObjectID]) -> Iterator[tuple[ObjectID, bytes]]:
        """Yield blobs, up to one that is damaged or missing: whoever reads the rest one by one knows whose it is."""
        with contextlib.suppress(CorruptionError, ObjectNotFoundError):
            yield from self._objects.read_many(wanted)

    def _write_file(self, path: bytes, entry: TreeEntry, write: Callable[[int], int]) -> tuple[bytes, Stat, ObjectID]:
        """Write one file; `write` is given where to, and returns how much it wrote there."""
        folder, _, name = path.rpartition(b"/")
        parent = self._folder(folder)
        temp = _temporary_name()
        bits = 0o777 if entry.mode is Mode.EXECUTABLE else 0o666
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, bits, dir_fd=parent)
        try:
            try:
                size = write(fd)
                if size != entry.size_bytes:
                    where = f"blob {entry.object_id.hex()}"
                    found = CorruptionError(
                        f"{where} is damaged: it has another length than its tree says", where=where
                    )
                    raise _telling_path(path, found)
            finally:
                os.close(fd)
            parent = self._folder(folder)  # reading may have closed it
            os.rename(temp, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp, dir_fd=self._folder(folder))
            raise
        self._reporter.advance(1, size if size <= _SMALL_BYTES else 0)
        return path, Stat.of(os.stat(name, dir_fd=parent, follow_symlinks=False)), entry.object_id

    def _copy(self, path: bytes, entry: TreeEntry, fd: int) -> int:
        """Write a blob to an open file and return its length."""

        def advance(length: int) -> None:
            if entry.size_bytes > _SMALL_BYTES:  # of a smaller one its end is told
                self._reporter.advance(0, length)

        try:
            self._objects.copy_blob(
                entry.object_id, functools.partial(_write_at, fd), advance, claimed_bytes=entry.size_bytes
            )
        except (CorruptionError, ObjectNotFoundError) as exc:
            raise _telling_path(path, exc) from exc
        return entry.size_bytes

    def _write_link(self, path: bytes, entry: TreeEntry) -> None:
        try:
            target = self._objects.read(entry.object_id, claimed_bytes=entry.size_bytes)
        except (CorruptionError, ObjectNotFoundError) as exc:
            raise _telling_path(path, exc) from exc
        if not 0 < len(target) <= MAX_LINK_BYTES or b"\0" in target:
            where = f"blob {entry.object_id.hex()}"
            found = CorruptionError(f"{where} is damaged: it is no target of a link", where=where)
            raise _telling_path(path, found)
        folder, _, name = path.rpartition(b"/")
        parent = self._folder(folder)
        temp = _temporary_name()
        os.symlink(target, temp, dir_fd=parent)
        try:
            os.rename(temp, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(temp, dir_fd=parent)
            raise

    def _make_folder(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._folder(above))

    def _remove(self, path: bytes) -> None:
        """Remove a file or link, or a folder that is empty by now; one that is not (ignored files) stays."""
        above, _, name = path.rpartition(b"/")
        parent = self._folder(above)
        try:
            os.unlink(name, dir_fd=parent)
        except (IsADirectoryError, PermissionError):
            if not stat_bits.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise
            self._close_folders()
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=self._folder(above))

    def _folder(self, path: bytes) -> int:
        """Return an open directory of the target, reached from its root without following a link."""
        missing = []
        while path not in self._folders and path:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if path not in self._folders:
            self._keep_open(path, os.open(self._target, flags))
        fd = self._folders[path]
        self._folders.move_to_end(path)
        for name in reversed(missing):
            path = join(path, name)
            fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)
            self._keep_open(path, fd)
        return fd

    def _keep_open(self, path: bytes, fd: int) -> None:
        while len(self._folders) >= _OPEN_FOLDERS:
            os.close(self._folders.popitem(last=False)[1])
        self._folders[path] = fd

    def _close_folders(self) -> None:
        while self._folders:
            os.close(self._folders.popitem()[1])

    def _storage_error(self, exc: OSError) -> StorageError:
        target = os.fsdecode(self._target)
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self._target).free
            return StorageFullError(
                f"no space left in {target}, {free:,} bytes free; the files written so far are whole",
                needed_bytes=0,
                operation="write",
                hint="free some space and check out again: what is there is not written twice",
            )
        return StorageError(f"cannot write into {target}: {exc.strerror or exc}", operation="write")


def hash_file(path: bytes) -> ObjectID:
    """Return the blob id of a file, read in pieces; OSError when it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        hasher = blake3()
        while piece := os.read(fd, 1 << 20):
            hasher.update(piece)
        return ObjectID(hasher.digest())
    finally:
        os.close(fd)


def _telling_path(path: bytes, exc: CorruptionError | ObjectNotFoundError) -> CorruptionError | ObjectNotFoundError:
    """Return an error that names the file first; ids are short in its sentence and whole in its hint."""
    name = printable(os.fsdecode(path))
    why = _LONG_ID.sub(lambda match: match[0][:SHORT_DIGITS], exc.message)
    message = f"{name} cannot be restored: {why}; files written so far are whole"
    if isinstance(exc, CorruptionError):
        hint = f"{_HINT}; this is {exc.where}"
        return CorruptionError(message, where=exc.where, hint=hint)
    hint = exc.hint or f"{_HINT}; this is object {exc.object_id}"
    return ObjectNotFoundError(message, object_id=exc.object_id, hint=hint)


def _temporary_name() -> bytes:
    return b".replicate-tmp-" + secrets.token_hex(8).encode()


def _write_whole(data: bytes, fd: int) -> int:
    _write_at(fd, 0, data)
    return len(data)


def _write_at(fd: int, offset: int, data: Buffer) -> None:
    view = memoryview(data)
    while len(view):
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
