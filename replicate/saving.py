"""One save: worktree → objects → commit → published record. Floor 6. SPEC §12.

The order is I1's. What the index vouches for is not opened; what the previous commit holds is not stored again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from replicate.errors import CorruptionError, InvalidInputError, NotFoundError, StorageError
from replicate.objects.codecs.patch import PatchBase
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.ids import Kind, ObjectID, blob_id
from replicate.objects.locator import read_locator
from replicate.objects.model import (
    MAX_LINK_BYTES,
    Commit,
    Mode,
    PathList,
    TreeEntry,
    commit_id,
    decode_tree,
    directory_size,
    encode_commit,
    encode_tree,
)
from replicate.objects.writer import ObjectWriter, Stored
from replicate.refs import CommitRecord
from replicate.refs.store import packset_of
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.worktree.index import FINE_GRAIN_NS, Index, Stat
from replicate.worktree.reading import ChangedWhileRead, OpenFile, open_file
from replicate.worktree.scan import Scan, Scanner, join
from replicate.worktree.times import WorktreeClock

MAX_NESTING = 1_000
_ASK_BYTES = 10 * 10**9
_WAIT_BYTES = 1 << 20
_ATTEMPTS = 3
_LENIENT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """A directory as it was saved: its tree, its total bytes and files, and what a later tree may be a patch on."""

    tree: ObjectID
    size_bytes: int
    files: int
    entries: tuple[TreeEntry, ...]
    patch_base: PatchBase | None


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that a save builds on, and its directories by path."""

    record: CommitRecord
    stored: Stored
    directories: Mapping[bytes, DirectoryState]


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path that the caller named: where it goes in the tree, and the absolute path that it is read from."""

    path: bytes
    source: bytes


@dataclass(slots=True)
class _Item:
    """An entry of the tree to be saved that comes from the disk."""

    path: bytes
    mode: Mode
    stat: Stat
    source: bytes
    key: bytes
    named: bool
    object_id: ObjectID | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did."""

    base: Base
    files: int
    size_bytes: int
    new_bytes: int
    duration_ns: int


_Listing = dict[bytes, "_Item | TreeEntry"]


def load_base(repository: Repository, record: CommitRecord) -> Base | None:
    """Return a commit as the base of a save, or None when any of it is not at hand: then nothing relies on it."""
    objects = repository.objects(record.locator)
    try:
        locator = read_locator(repository.transport, record.locator)
        packset = repository.refs.read_packset(record.packset)
        directories: dict[bytes, DirectoryState] = {}
        _load_directory(objects.read, objects.read_patch_base, record.commit.tree, b"", directories)
    except (CorruptionError, NotFoundError):
        return None
    at = record.packset.at
    stored = Stored(record.locator, locator.older, locator.total, locator.whole, packset, at, record.meta)
    return Base(record, stored, directories)


def _load_directory(
    read: Callable[[ObjectID, Kind], bytes],
    read_patch_base: Callable[[ObjectID, bytes], PatchBase | None],
    tree: ObjectID,
    folder: bytes,
    found: dict[bytes, DirectoryState],
) -> DirectoryState:
    data = read(tree, Kind.TREE)
    entries = tuple(decode_tree(data, f"tree {tree.hex()}"))
    files = 0
    for entry in entries:
        if entry.mode is Mode.DIRECTORY:
            files += _load_directory(read, read_patch_base, entry.object_id, join(folder, entry.name), found).files
        elif entry.mode.is_file:
            files += 1
    state = DirectoryState(tree, directory_size(entries), files, entries, read_patch_base(tree, data))
    found[folder] = state
    return state


class Save:
    """One save of a worktree into its store. Used once.

    Args:
        repository: The store; it exists.
        index: The worktree's stat cache, kept by the caller between saves.
        base: The commit whose files are kept where the save names only some, and whose objects are not stored again.
        reporter: Hears of progress.
        told: What the user was told before in this session and need not hear again; added to.
    """

    def __init__(
        self, repository: Repository, index: Index, base: Base | None, reporter: Reporter, told: set[str] | None = None
    ) -> None:
        self._told = told if told is not None else set()
        self._repository = repository
        self._host = repository.host
        self._index = index
        self._base = base
        self._reporter = reporter
        self._trusted = False
        self._clock = WorktreeClock(repository.host, repository.project.root, repository.local_path("tmp"))
        self._unstable: list[bytes] = []
        self._grown: list[bytes] = []
        self._skipped: dict[bytes, str] = {}
        self._directories: dict[bytes, DirectoryState] = {}
        self._writer = ObjectWriter(
            repository.transport,
            repository.index,
            random=self._host.random,
            durable=repository.project.durability == "safe",
            workers=max(1, min(8, self._host.cpu_count)),
        )

    def run(
        self,
        selection: tuple[NamedPath, ...] | None,
        make_commit: Callable[[ObjectID, PathList | None, PathList | None], Commit],
        session: str,
        extra: Callable[[ObjectWriter], None] = lambda writer: None,
    ) -> Saved:
        """Save, publish, and return what was saved. When it raises nothing was published.

        Args:
            selection: None for the whole worktree; otherwise the paths that replace those of the base.
            make_commit: Makes the commit from its tree, the unstable and the skipped paths.
            session: The session's 16 hex digits.
            extra: Stores more objects in the same packs.
        """
        started = self._host.monotonic_ns()
        try:
            with self._repository.saving():
                self._repository.index.begin_save()
                self._trusted = self._base is not None and all(
                    self._repository.index.is_sound(pack) for pack in self._base.stored.packset
                )
                if selection is None:
                    listings = self._scan_worktree()
                else:
                    listings = self._scan_named(selection)
                self._store_items(listings)
                root = self._build(listings, keep=selection is not None)
                extra(self._writer)
                commit = make_commit(
                    root.tree, PathList.of([*self._unstable, *self._grown]), PathList.of(self._skipped)
                )
                record, stored = self._publish(commit, root, session, started)
        finally:
            self._writer.close()
        self._index.save()
        self._warn()
        base = Base(record, stored, self._directories)
        return Saved(base, root.files, root.size_bytes, self._writer.new_bytes, record.duration_ns)

    def _publish(self, commit: Commit, root: DirectoryState, session: str, started: int) -> tuple[CommitRecord, Stored]:
        encoded = encode_commit(commit)
        self._writer.write_meta(Kind.COMMIT, encoded)
        stored = self._writer.finish(self._base.stored if self._base and self._trusted else None, self._live)
        self._repository.check_writable()
        wanted = commit_id(encoded)
        fields = {
            "commit": encoded,
            **packset_of(stored).fields(),
            "meta": [bytes(pack) for pack in stored.meta],
            "locator": stored.locator.encode(),
            "files": root.files,
            "bytes": root.size_bytes,
            "new_bytes": self._writer.new_bytes,
            "duration": self._host.monotonic_ns() - started,
        }
        record = self._repository.refs.publish(
            commit.experiment or wanted, commit.seq, session, "c", fields, wanted.hex()
        )
        assert isinstance(record, CommitRecord)
        return record, stored

    def _live(self) -> Iterator[ObjectID]:
        for state in self._directories.values():
            yield state.tree
            for entry in state.entries:
                if entry.mode is not Mode.DIRECTORY:
                    yield entry.object_id

    # -- what is to be saved -------------------------------------------------------------------------------------

    def _scanner(self) -> Scanner:
        root = self._repository.project.root
        store = os.path.relpath(self._repository.project.store, root)
        return Scanner(root, () if store.startswith("..") else (os.fsencode(store),))

    def _scan_worktree(self) -> dict[bytes, _Listing]:
        try:
            scan = self._scanner().scan()
        except OSError as exc:
            raise StorageError(f"cannot read {self._repository.project.root}: {exc.strerror}") from exc
        root = os.fsencode(self._repository.project.root)
        self._note(scan)
        return self._listings(scan, b"", b"", root, named=False)

    def _scan_named(self, selection: tuple[NamedPath, ...]) -> dict[bytes, _Listing]:
        """Return the listings of every directory that differs from the base's because of the named paths."""
        listings: dict[bytes, _Listing] = {}
        for named in selection:
            if not named.path:
                return self._scan_worktree()
            in_worktree = named.source == self._absolute(named.path)
            folder, name = os.path.split(named.source)
            scanner, local = (self._scanner(), named.path) if in_worktree else (Scanner(os.fsdecode(folder)), name)
            scan = Scan()
            if not scanner.scan_named(local, scan):
                why = "is no file, folder or link" if scan.special else "does not exist"
                raise InvalidInputError(
                    f"cannot save {os.fsdecode(named.source)}: it {why}",
                    hint="paths are relative to the current folder",
                )
            if scan.unreadable:
                path, why = scan.unreadable[0]
                raise StorageError(f"cannot read {os.fsdecode(os.path.join(folder, path))}: {why}", operation="read")
            self._note(scan)
            base = os.fsencode(self._repository.project.root) if in_worktree else folder
            parent = local.rpartition(b"/")[0]
            ((mode, stat),) = [scan.directories.pop(parent)[local.rpartition(b"/")[2]]]
            self._graft(listings, named.path)
            for found, listing in self._listings(
                scan, local, named.path, base, named=True, outside=not in_worktree
            ).items():
                listings[found] = listing
            source = os.path.join(base, local)
            key = named.path if in_worktree else source
            above, _, leaf = named.path.rpartition(b"/")
            listings[above][leaf] = _Item(named.path, mode, stat, source, key, named=True)
        return listings

    def _absolute(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self._repository.project.root), path)

    def _graft(self, listings: dict[bytes, _Listing], path: bytes) -> None:
        """Make `path` free to be replaced: list its parents, which become directories, and forget what is below it."""
        below = path + b"/"
        for folder in [folder for folder in listings if folder == path or folder.startswith(below)]:
            del listings[folder]
        folder = b""
        for name in [b"", *path.split(b"/")[:-1]]:
            if name:
                parent, folder = folder, join(folder, name)
                entry = listings[parent].get(name)
                if not (isinstance(entry, TreeEntry | _Item) and entry.mode is Mode.DIRECTORY):
                    listings[parent][name] = _Item(folder, Mode.DIRECTORY, Stat(0, 0, 0, 0, 0), b"", b"", named=True)
                    listings[folder] = {}
                    continue
            if folder not in listings:
                state = self._base.directories.get(folder) if self._base else None
                listings[folder] = {entry.name: entry for entry in state.entries} if state else {}

    @staticmethod
    def _listings(
        scan: Scan, local: bytes, path: bytes, base: bytes, *, named: bool, outside: bool = False
    ) -> dict[bytes, _Listing]:
        """Return a scan's directories as listings, moved from `local` in the scan to `path` in the tree."""
        listings: dict[bytes, _Listing] = {}
        for folder, entries in scan.directories.items():
            if folder.count(b"/") >= MAX_NESTING:
                raise InvalidInputError(f"{os.fsdecode(folder)[:100]}… is nested deeper than {MAX_NESTING:,} folders")
            target = path + folder[len(local) :] if local != path else folder
            prefix = target + b"/" if target else b""
            source = os.path.join(base, folder) + b"/"
            key = source if outside else (folder + b"/" if folder else b"")
            listings[target] = {
                name: _Item(prefix + name, mode, stat, source + name, key + name, named)
                for name, (mode, stat) in entries.items()
            }
        return listings

    def _note(self, scan: Scan) -> None:
        for path, why in scan.unreadable:
            self._skipped[path] = why
        self._tell_once("not saved, being sockets, pipes or devices", scan.special)
        self._tell_once("not saved, as they may hold secrets (name them to save them)", scan.secrets)

    def _tell_once(self, what: str, paths: list[bytes]) -> None:
        if paths and what not in self._told:
            self._told.add(what)
            self._reporter.notice(f"{what}: {_some(paths)}")

    # -- storing -------------------------------------------------------------------------------------------------

    def _store_items(self, listings: dict[bytes, _Listing]) -> None:
        """Give every item of the listings its object, reading what nothing vouches for."""
        read_at, grain = self._clock.read()
        waiting: list[_Item] = []
        for folder, listing in listings.items():
            state = self._base.directories.get(folder) if self._base else None
            before = {entry.name: entry.object_id for entry in state.entries} if state else {}
            for name, item in listing.items():
                if isinstance(item, TreeEntry):
                    self._require(item, join(folder, name))
                elif item.mode.is_file:
                    known = self._index.lookup(item.key, item.stat)
                    if known is not None and (
                        (self._trusted and before.get(name) == known) or self._writer.holds(known)
                    ):
                        item.object_id, item.size_bytes = known, item.stat.size
                    else:
                        waiting.append(item)
                elif item.mode is Mode.SYMLINK:
                    self._store_link(item, before.get(name))
        self._warn_of_size(waiting)
        if not waiting:
            return
        self._reporter.begin("saving", len(waiting), sum(item.stat.size for item in waiting))
        try:
            limit = read_at - grain
            fresh = [item for item in waiting if item.stat.changed_ns >= limit]
            wait = grain == FINE_GRAIN_NS and sum(item.stat.size for item in fresh) >= _WAIT_BYTES
            settled = not wait
            for item in sorted(waiting, key=lambda item: (wait and item.stat.changed_ns >= limit, item.stat.size)):
                if not settled and item.stat.changed_ns >= limit:
                    read_at = self._clock.settle(max(one.stat.changed_ns for one in fresh))
                    settled = True
                self._store_file(item, read_at, grain)
        finally:
            self._reporter.finish()

    def _require(self, entry: TreeEntry, path: bytes) -> None:
        """Make sure that an entry kept from the base is in the store."""
        if entry.mode is Mode.DIRECTORY or self._trusted or self._writer.holds(entry.object_id):
            return
        raise CorruptionError(
            f"{os.fsdecode(path)} cannot be kept from the checkpoint before: {entry.object_id.hex()} is damaged or gone",
            where=f"blob {entry.object_id.hex()}",
            hint="save the whole worktree: checkpoint() without a path",
        )

    def _store_file(self, item: _Item, read_at: int, grain: int) -> None:
        attempts = _ATTEMPTS if item.named else _ATTEMPTS + _LENIENT_ATTEMPTS
        for attempt in range(attempts):
            try:
                with open_file(item.source) as file:
                    item.object_id = self._store_content(file)
                    after = file.look_again()
                    item.size_bytes = file.size_bytes
            except ChangedWhileRead:
                continue
            except OSError as exc:
                self._cannot_read(item, exc)
                return
            self._reporter.advance(1, file.size_bytes if file.size_bytes <= MAX_PIECE_BYTES else 0)
            if after == file.stat:
                self._index.update(item.key, file.stat, item.object_id, read_at_ns=read_at, grain_ns=grain)
                return
            self._index.forget(item.key)
            if after.size > file.stat.size and after.ino == file.stat.ino:
                self._grown.append(item.path)
                return
            if attempt >= _ATTEMPTS - 1 and not item.named:
                self._unstable.append(item.path)
                return
        if item.named:
            raise StorageError(
                f"{os.fsdecode(item.source)} changed while it was saved, {_ATTEMPTS} times in a row; nothing was saved",
                operation="read",
                hint="save after the file was written, from the process that writes it",
            )
        self._drop(item, "it changed all the time while it was read")

    def _store_content(self, file: OpenFile) -> ObjectID:
        if file.size_bytes <= MAX_PIECE_BYTES:
            return self._writer.write_blob(file.read_all())
        return self._writer.write_large(file, lambda size: self._reporter.advance(0, size))

    def _store_link(self, item: _Item, before: ObjectID | None) -> None:
        try:
            target = os.readlink(item.source)
        except OSError as exc:
            self._cannot_read(item, exc)
            return
        if not 0 < len(target) <= MAX_LINK_BYTES:
            self._drop(item, "its target is too long")
            return
        item.size_bytes = len(target)
        item.object_id = blob_id(target)
        if not (self._trusted and before == item.object_id):
            self._writer.write_blob(target)

    def _cannot_read(self, item: _Item, exc: OSError) -> None:
        reason = exc.strerror or str(exc)
        if item.named:
            raise StorageError(f"cannot read {os.fsdecode(item.source)}: {reason}", operation="read") from exc
        self._drop(item, None if isinstance(exc, FileNotFoundError) else reason)

    def _drop(self, item: _Item, why: str | None) -> None:
        """Leave an item out; `why` is None when it was removed meanwhile."""
        item.object_id = None
        self._index.forget(item.key)
        if why is not None:
            self._skipped[item.path] = why

    # -- trees ---------------------------------------------------------------------------------------------------

    def _build(self, listings: dict[bytes, _Listing], *, keep: bool) -> DirectoryState:
        """Write the trees of the listed directories, deepest first, and return the root's state."""
        base = self._base.directories if self._base else {}
        if keep:
            self._directories.update(base)
            if not listings:
                listings = {b"": {entry.name: entry for entry in base[b""].entries}} if base else {b"": {}}
            for folder in listings:
                self._forget_below(folder, listings[folder])
            if not self._trusted:
                self._list_rest(listings)
        for folder in sorted(listings, key=lambda path: path.count(b"/") + bool(path), reverse=True):
            self._directories[folder] = self._build_directory(folder, listings[folder], base.get(folder))
        if not keep:
            self._index.keep_only(
                item.key for listing in listings.values() for item in listing.values() if isinstance(item, _Item)
            )
        return self._directories[b""]

    def _forget_below(self, folder: bytes, listing: _Listing) -> None:
        """Drop the states of subdirectories that the listing of their parent no longer has as such."""
        for path in [path for path in self._directories if path.startswith(join(folder, b""))]:
            name = path[len(join(folder, b"")) :].partition(b"/")[0]
            entry = listing.get(name)
            if path and (entry is None or entry.mode is not Mode.DIRECTORY):
                del self._directories[path]

    def _list_rest(self, listings: dict[bytes, _Listing]) -> None:
        """List every kept directory too: the base's trees cannot be relied on and are written again."""
        for folder, state in self._directories.items():
            if folder not in listings:
                listings[folder] = {entry.name: entry for entry in state.entries}
                for entry in state.entries:
                    self._require(entry, join(folder, entry.name))

    def _build_directory(self, folder: bytes, listing: _Listing, before: DirectoryState | None) -> DirectoryState:
        entries = []
        files = 0
        for name, item in listing.items():
            if item.mode is Mode.DIRECTORY:
                state = self._directories[join(folder, name)]
                files += state.files
                entries.append(TreeEntry(name, Mode.DIRECTORY, state.size_bytes, state.tree))
            elif item.object_id is not None:
                files += item.mode.is_file
                entries.append(TreeEntry(name, item.mode, item.size_bytes, item.object_id))
        entries.sort()
        ordered = tuple(entries)
        if before is not None and self._trusted and before.entries == ordered:
            return before
        patch_base = before.patch_base if before is not None and self._trusted else None
        tree, patch_base = self._writer.write_tree(encode_tree(ordered), patch_base)
        return DirectoryState(tree, directory_size(ordered), files, ordered, patch_base)

    # -- telling -------------------------------------------------------------------------------------------------

    def _warn_of_size(self, waiting: list[_Item]) -> None:
        total = sum(item.stat.size for item in waiting)
        if total <= _ASK_BYTES:
            return
        sizes: dict[bytes, int] = {}
        for item in waiting:
            top = item.path.split(b"/", 1)
            name = top[0] + b"/" if len(top) > 1 else top[0]
            sizes[name] = sizes.get(name, 0) + item.stat.size
        largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:3]
        listed = ", ".join(f"{os.fsdecode(name)} {size / 1e9:.1f} GB" for name, size in largest)
        self._reporter.warn(
            f"about to save {total / 1e9:.1f} GB of new data: {listed}; "
            "to leave something out, add it as a line to .replicateignore"
        )

    def _warn(self) -> None:
        if self._unstable:
            self._reporter.warn(f"changed while they were saved, and saved as read: {_some(self._unstable)}")
        if self._skipped:
            path, why = next(iter(self._skipped.items()))
            more = f" and {len(self._skipped) - 1} more" if len(self._skipped) > 1 else ""
            self._reporter.warn(f"not saved: {os.fsdecode(path)} ({why}){more}")


def _some(paths: list[bytes]) -> str:
    """Return the first few of some paths as text."""
    shown = ", ".join(ascii_safe(path) for path in sorted(paths)[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def ascii_safe(path: bytes) -> str:
    """Return a path as text; what is not UTF-8 or not printable is shown as `\\x..`."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
