"""One save: worktree → objects → commit → published record. Floor 6. SPEC §12.

The order is I1's. What the index vouches for is not opened; what the previous commit holds is not stored again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replicate.base import Base, DirectoryState, load_directories
from replicate.earlier import EarlierFiles
from replicate.errors import CorruptionError, ObjectNotFoundError, StorageError, StorageFullError
from replicate.masters import Masters
from replicate.objects.choosing import MIN_CUT_BYTES, cut
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.ids import Kind, ObjectID, blob_id
from replicate.objects.model import (
    MAX_LINK_BYTES,
    Commit,
    Mode,
    PathList,
    TreeEntry,
    commit_id,
    directory_size,
    encode_commit,
    encode_tree,
)
from replicate.objects.store import ObjectStore
from replicate.objects.writer import ObjectWriter, Stored
from replicate.refs import CommitRecord
from replicate.refs.store import packset_of
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.selection import Item, Listing, NamedPath, Selection, in_order, select_named, select_worktree
from replicate.text import path_text, some_paths
from replicate.worktree.index import FINE_GRAIN_NS, Index
from replicate.worktree.reading import ChangedWhileRead, OpenFile, open_file, read_small
from replicate.worktree.scan import join
from replicate.worktree.times import WorktreeClock

_ASK_BYTES = 10 * 10**9
_WAIT_BYTES = 1 << 20
_ATTEMPTS = 3
_LENIENT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did. `base` is what the next one builds on."""

    base: Base
    files: int
    size_bytes: int
    new_bytes: int
    duration_ns: int


class Save:
    """One save of a worktree into its store. Used once.

    Args:
        repository: The store; it exists.
        index: The worktree's stat cache, kept by the caller between saves.
        base: The commit whose files are kept where the save names only some, and whose objects are not stored again.
        reporter: Hears of progress.
        told: What the user was told before in this session and need not hear again; added to.
        generation: The seq of the commit to be: it spaces the bases of weights.
    """

    def __init__(
        self,
        repository: Repository,
        index: Index,
        base: Base | None,
        reporter: Reporter,
        told: set[str] | None = None,
        generation: int = 0,
    ) -> None:
        self._told = told if told is not None else set()
        self._repository = repository
        self._host = repository.host
        self._index = index
        self._base = base
        self._generation = generation
        self._reporter = reporter
        self._trusted = False
        self._new_bytes = 0
        self._before: tuple[bytes | None, dict[bytes, ObjectID]] = (None, {})
        self._clock = WorktreeClock(repository.host, repository.project.root, repository.local_path("tmp"))
        self._unstable: list[bytes] = []
        self._grown: list[bytes] = []
        self._skipped: dict[bytes, str] = {}
        self._directories: dict[bytes, DirectoryState] = {}
        self._writer = repository.writer(max(1, min(8, self._host.cpu_count)))

    def run(
        self,
        named: tuple[NamedPath, ...] | None,
        make_commit: Callable[[ObjectID, PathList | None, PathList | None], Commit],
        session: str,
        extra: Callable[[ObjectWriter], None] = lambda writer: None,
        *,
        tree: ObjectID | None = None,
    ) -> Saved:
        """Save, publish, and return what was saved. When it raises nothing was published.

        Args:
            named: None for the whole worktree; otherwise the paths that replace those of the base.
            make_commit: Makes the commit from its tree, the unstable and the skipped paths.
            session: The session's 16 hex digits.
            extra: Stores more objects in the same packs.
            tree: Commit this tree, which the store holds with all that is below it; no file is looked at.
        """
        started = self._host.monotonic_ns()
        try:
            with self._repository.saving():
                self._repository.index.begin_save()
                self._trusted = self._is_base_sound()
                root = self._store(named) if tree is None else self._adopt(tree)
                self._new_bytes = self._writer.new_bytes
                extra(self._writer)
                commit = make_commit(
                    root.tree, PathList.of([*self._unstable, *self._grown]), PathList.of(self._skipped)
                )
                record, stored = self._publish(commit, root, session, started)
        except StorageFullError as exc:
            if self._repository.project.repository:  # a save does not wait for what is elsewhere
                exc.hint = "free some space: with `cache: 0` in replicate.yaml `replicate push` does; and save again"
            raise
        finally:
            self._writer.close()
        self._warn()
        base = Base(record, stored, self._directories)
        return Saved(base, root.files, root.size_bytes, self._new_bytes, record.duration_ns)

    def store_folder(self, folder: NamedPath | None) -> ObjectID:
        """Store a folder, or the whole worktree, without a commit; return its tree, durable with all that is below it.

        When it raises, or is killed, what was stored so far is in no commit and harms nothing.
        """
        try:
            with self._repository.saving():
                self._repository.check_writable()
                self._repository.index.begin_save()
                self._store(None if folder is None else (folder,))
                self._writer.finish_loose()
        finally:
            self._writer.close()
        self._warn()
        return self._directories[folder.path if folder else b""].tree

    def _store(self, named: tuple[NamedPath, ...] | None) -> DirectoryState:
        selection = self._select(named)
        self._store_items(selection)
        self._writer.flush()
        root = self._build(selection)
        self._index.save()
        return root

    def _adopt(self, tree: ObjectID) -> DirectoryState:
        """Take over a tree that the store holds, and make sure that all that is below it can be relied on."""
        objects = ObjectStore(self._repository.transport, self._repository.index)
        self._directories.update(load_directories(objects, tree))
        trusted = self._base.directories.values() if self._base and self._trusted else ()
        known = {state.tree for state in trusted}
        known_files = {(one.object_id, one.size_bytes) for state in trusted for one in state.entries}
        for folder, state in self._directories.items():
            if state.tree not in known and self._writer.held_length(state.tree, Kind.TREE) is None:
                raise ObjectNotFoundError(f"tree {state.tree.hex()} is not in the store", object_id=state.tree.hex())
            for entry in state.entries:
                path = join(folder, entry.name)
                if entry.mode is Mode.DIRECTORY:
                    size: int | None = self._directories[path].size_bytes
                elif (entry.object_id, entry.size_bytes) in known_files:
                    continue
                else:
                    size = self._writer.held_length(entry.object_id, Kind.BLOB)
                self._check_adopted(path, entry, size)
        return self._directories[b""]

    @staticmethod
    def _check_adopted(path: bytes, entry: TreeEntry, size: int | None) -> None:
        wanted = entry.object_id.hex()
        if size is None:
            raise ObjectNotFoundError(
                f"{path_text(path)} cannot be committed: blob {wanted} is not in the store",
                object_id=wanted,
                hint="store the file: `replicate hash-object -w FILE`",
            )
        if size != entry.size_bytes:
            where = f"object {wanted}"
            raise CorruptionError(f"{path_text(path)} cannot be committed: its tree claims another size", where=where)

    def _is_base_sound(self) -> bool:
        """Tell whether every pack of the base may be relied on; a dedup index that was lost meanwhile is rebuilt."""
        if self._base is None:
            return False
        index = self._repository.index
        if all(index.is_sound(pack) for pack in self._base.stored.packset):
            return True
        index.refresh()
        index.begin_save()
        return all(index.is_sound(pack) for pack in self._base.stored.packset)

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
            "new_bytes": self._new_bytes,
            "stored": self._writer.stored_bytes,
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

    def _select(self, named: tuple[NamedPath, ...] | None) -> Selection:
        selection = None
        if named is None or any(not one.path for one in named):
            selection = select_worktree(self._repository, self._index, self._base if self._trusted else None)
        if selection is None or named:
            selection = select_named(self._repository, self._base, named or (), selection)
        self._skipped.update(selection.unreadable)
        self._tell_once("not saved, being sockets, pipes or devices", selection.special)
        self._tell_once("not saved, as they may hold secrets (name them to save them)", selection.secrets)
        return selection

    def _tell_once(self, what: str, paths: list[bytes]) -> None:
        if paths and what not in self._told:
            self._told.add(what)
            self._reporter.notice(f"{what}: {some_paths(paths)}")

    # -- storing -------------------------------------------------------------------------------------------------

    def _store_items(self, selection: Selection) -> None:
        """Give every item of the listings its object, reading what nothing vouches for."""
        listings = selection.listings
        read_at, grain = self._clock.read()
        waiting: list[Item] = []
        for folder, listing in listings.items():
            if folder in selection.kept:
                continue
            for name, item in listing.items():
                if isinstance(item, TreeEntry):
                    if not self._trusted:
                        self._require(item, join(folder, name))
                elif item.mode is Mode.SYMLINK:
                    self._store_link(item)
                elif item.mode is not Mode.DIRECTORY:
                    known = self._index.lookup_stat(item.key, item.stat)
                    if known is not None and self._holds(item.path, known):
                        item.object_id, item.size_bytes = known, item.stat.size
                    else:
                        waiting.append(item)
        self._warn_of_size(waiting)
        if not waiting:
            return
        self._reporter.begin("saving", len(waiting), sum(item.stat.size for item in waiting))
        try:
            limit = read_at - grain
            fresh = [item for item in waiting if item.stat.changed_ns >= limit]
            is_worth_it = self._base is None or sum(item.stat.size for item in fresh) >= _WAIT_BYTES
            if grain != FINE_GRAIN_NS or not is_worth_it:
                fresh = []
            late = {id(item) for item in fresh}
            for item in in_order(one for one in waiting if id(one) not in late):
                self._store_file(item, read_at, grain)
            if fresh:
                # Read now they would be racy, and read again by the next save; a grain later they are not.
                read_at = self._clock.settle(max(item.stat.changed_ns for item in fresh))
            for item in in_order(fresh):
                self._store_file(item, read_at, grain)
        finally:
            self._reporter.finish()

    def _holds(self, path: bytes, wanted: ObjectID) -> bool:
        """Tell whether a blob need not be stored: the base has it at this path, or the store holds it."""
        if self._trusted and self._base is not None:
            folder, _, name = path.rpartition(b"/")
            if self._before[0] != folder:
                state = self._base.directories.get(folder)
                self._before = (folder, {entry.name: entry.object_id for entry in state.entries} if state else {})
            if self._before[1].get(name) == wanted:
                return True
        return self._writer.holds(wanted)

    def _require(self, entry: TreeEntry, path: bytes) -> None:
        """Make sure that an entry kept from the base is in the store."""
        if entry.mode is Mode.DIRECTORY or self._trusted or self._writer.holds(entry.object_id):
            return
        raise CorruptionError(
            f"{os.fsdecode(path)} cannot be kept from the last save: {entry.object_id.hex()} is damaged or gone",
            where=f"blob {entry.object_id.hex()}",
            hint="save the whole worktree: checkpoint() without a path",
        )

    def _store_file(self, item: Item, read_at: int, grain: int) -> None:
        attempts = _ATTEMPTS if item.named else _ATTEMPTS + _LENIENT_ATTEMPTS
        for attempt in range(attempts):
            try:
                if item.stat.size <= MIN_CUT_BYTES and not attempt:  # it may be larger by now
                    data, before, after = read_small(item.source, MIN_CUT_BYTES)
                    item.object_id = self._writer.write_blob(data)
                else:
                    with open_file(item.source) as file:
                        item.object_id = self._store_content(item, file)
                        before, after = file.stat, file.look_again()
            except ChangedWhileRead:
                continue
            except OSError as exc:
                self._cannot_read(item, exc)
                return
            item.size_bytes = before.size
            self._reporter.advance(1, before.size if before.size <= MAX_PIECE_BYTES else 0)
            if after == before:
                self._index.update(item.key, before, item.object_id, read_at_ns=read_at, grain_ns=grain)
                return
            self._index.forget(item.key)
            if after.size > before.size and after.ino == before.ino:
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

    def _store_content(self, item: Item, file: OpenFile) -> ObjectID:
        pieces = cut(file.size_bytes, file.read)
        earlier = self._bases.find(item.path, file.size_bytes, pieces, file.read) if pieces else None
        if len(pieces) <= 1:
            return self._writer.write_blob(file.read_all(), pieces[0] if pieces else None, earlier)
        counts = file.size_bytes > MAX_PIECE_BYTES  # of a smaller one the caller tells
        stored = functools.partial(self._bases.add, item.path, item.source, pieces)
        return self._writer.write_large(
            file, pieces, lambda size: self._reporter.advance(0, size * counts), earlier, stored
        )

    @functools.cached_property
    def _bases(self) -> Masters:
        """The files that weights may be stored on: of this save, and of the base where that can be relied on."""
        if self._base is None or not self._trusted:
            return Masters(None)
        objects = self._repository.objects(self._base.stored.locator)
        root = os.fsencode(self._repository.project.root)
        return Masters(EarlierFiles(objects, self._base.directories, root, self._generation))

    def _store_link(self, item: Item) -> None:
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
        if not self._holds(item.path, item.object_id):
            self._writer.write_blob(target)

    def _cannot_read(self, item: Item, exc: OSError) -> None:
        reason = exc.strerror or str(exc)
        if item.named:
            raise StorageError(f"cannot read {os.fsdecode(item.source)}: {reason}", operation="read") from exc
        self._drop(item, None if isinstance(exc, FileNotFoundError) else reason)

    def _drop(self, item: Item, why: str | None) -> None:
        """Leave an item out; `why` is None when it was removed meanwhile."""
        item.object_id = None
        self._index.forget(item.key)
        if why is not None:
            self._skipped[item.path] = why

    # -- trees ---------------------------------------------------------------------------------------------------

    def _build(self, selection: Selection) -> DirectoryState:
        """Write the trees of the listed directories, deepest first, and return the root's state."""
        base = self._base.directories if self._base else {}
        listings = selection.listings
        if selection.keeps_rest:
            self._directories.update(base)
            self._forget_gone(listings)
            if not self._trusted:
                self._list_rest(listings)
            if b"" not in self._directories:
                listings.setdefault(b"", {})
        for folder in sorted(listings, key=lambda path: path.count(b"/") + bool(path), reverse=True):
            before = base.get(folder)
            if folder in selection.kept and before is not None and self._is_as_before(folder, before):
                self._directories[folder] = before
            else:
                self._directories[folder] = self._build_directory(folder, listings[folder], before)
        if not selection.keeps_rest:
            self._forget_index(listings)
        return self._directories[b""]

    def _is_as_before(self, folder: bytes, before: DirectoryState) -> bool:
        """Tell whether the folders in a directory, which are built already, are the same as in the base."""
        return all(
            self._directories[join(folder, entry.name)].tree == entry.object_id
            for entry in before.entries
            if entry.mode is Mode.DIRECTORY
        )

    def _forget_index(self, listings: dict[bytes, Listing]) -> None:
        """Drop what the index knows of files that are gone, when it knows more files than there are."""
        files = self._directories[b""].files
        if len(self._index) > files:
            self._index.keep_only(join(folder, name) for folder, listing in listings.items() for name in listing)

    def _forget_gone(self, listings: dict[bytes, Listing]) -> None:
        """Drop the states of directories that a listing no longer has as such, and of what is below them."""
        for path in sorted(filter(None, self._directories), key=lambda path: path.count(b"/")):
            above, _, name = path.rpartition(b"/")
            listing = listings.get(above)
            entry = listing.get(name) if listing is not None else None
            is_gone = listing is not None and (entry is None or entry.mode is not Mode.DIRECTORY)
            if is_gone or above not in self._directories:
                del self._directories[path]

    def _list_rest(self, listings: dict[bytes, Listing]) -> None:
        """List every kept directory too: the base's trees cannot be relied on and are written again."""
        for folder, state in self._directories.items():
            if folder not in listings:
                listings[folder] = {entry.name: entry for entry in state.entries}
                for entry in state.entries:
                    self._require(entry, join(folder, entry.name))

    def _build_directory(self, folder: bytes, listing: Listing, before: DirectoryState | None) -> DirectoryState:
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

    def _warn_of_size(self, waiting: list[Item]) -> None:
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
            self._reporter.warn(f"changed while they were saved, and saved as read: {some_paths(self._unstable)}")
        if self._skipped:
            path = min(self._skipped)
            more = f" and {len(self._skipped) - 1} more" if len(self._skipped) > 1 else ""
            self._reporter.warn(f"not saved: {path_text(path)} ({self._skipped[path]}){more}")
