"""What tests save and restore: folders with files, a project in them, and a session on it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from replicate.capture import Capture
from replicate.config import Project
from replicate.experiment_history import ExperimentHistory
from replicate.history import History
from replicate.host import Host
from replicate.maintenance.fsck import fsck
from replicate.maintenance.report import Report
from replicate.objects.codecs import Encoding
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.locator import read_framed
from replicate.objects.pack import Place, read_footer
from replicate.objects.store import ObjectStore
from replicate.refs import CommitRecord
from replicate.reporting import SilentReporter
from replicate.repository import Repository
from replicate.restoring import Restored, checkout
from replicate.saving import Saved
from replicate.session import Session, select_paths
from replicate.transport import LocalTransport, Transport
from replicate.worktree.index import FINE_GRAIN_NS
from tests.builders import Known

CAPTURE = Capture({"python": "3.11.0"}, {b"packages.json": b"[]\n"}, "python train.py", "me@here")

Content = tuple[Literal["file", "executable", "link", "folder"], bytes]


class Events(SilentReporter):
    """Keeps what a reporter is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.warnings: list[str] = []
        self.tasks: list[tuple[str, int, int]] = []

    def begin(self, task: str, files: int, size_bytes: int) -> None:
        """Keep the task."""
        self.tasks.append((task, files, size_bytes))

    def notice(self, message: str) -> None:
        """Keep the notice."""
        self.notices.append(message)

    def warn(self, message: str) -> None:
        """Keep the warning."""
        self.warnings.append(message)


class SampleProject:
    """A project in a folder, on the real disk. Writes fast: nothing is synced unless `durability` says so."""

    def __init__(
        self,
        root: Path,
        *,
        durability: Literal["safe", "fast"] = "fast",
        store: Path | None = None,
        transport: Transport | None = None,
        host: Host | None = None,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = Path(os.path.realpath(root))
        self.config = Project(str(self.root), str(store or self.root / ".replicate"), durability)
        self.transport = transport
        self.host = host or Host()
        self.events = Events()

    @property
    def store(self) -> Path:
        """The store's folder."""
        return Path(self.config.store)

    def write(self, name: str | bytes, content: str | bytes = b"", *, executable: bool = False) -> Path:
        """Write a file and the folders above it."""
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.root), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if executable:
            path.chmod(0o755)
        return path

    def open(self) -> Repository:
        """Open the store anew, as another process would."""
        return Repository(self.config, self.host, self.events, self.transport)

    def begin(self, params: Mapping[str, Any] | None = None, **given: Any) -> Session:
        """Start an experiment: save the worktree as its root commit."""
        repository = self.open()
        repository.create()
        session = Session(repository, self.events, CAPTURE)
        session.begin(
            params or {},
            given.get("name"),
            given.get("tags", ()),
            given.get("primary_metric"),
            given.get("parent"),
        )
        return session

    def resume(self, experiment: ObjectID | None = None) -> Session:
        """Continue an experiment after its newest checkpoint; the newest experiment when none is given."""
        repository = self.open()
        history = repository.history()
        found = history.experiment(experiment) if experiment else history.experiments[-1]
        assert found is not None
        session = Session(repository, self.events, CAPTURE)
        session.resume(found, found.heads[-1])
        return session

    def save(
        self,
        session: Session,
        path: Any = None,
        *,
        step: Any = None,
        metrics: Mapping[str, Any] | None = None,
        primary_metric: tuple[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Saved:
        """Save a checkpoint; relative paths are relative to `cwd`, by default the root."""
        selection = select_paths(str(self.root), str(cwd or self.root), path)
        return session.checkpoint(selection, step, metrics, primary_metric)

    def history(self) -> History:
        """Return what a fresh look at the store shows."""
        return self.open().history()

    def experiment(self) -> ExperimentHistory:
        """Return the only experiment, as a fresh look at the store shows it."""
        (found,) = self.history().experiments
        return found

    def restore(
        self,
        saved: Saved | CommitRecord,
        target: Path,
        *,
        paths: Sequence[bytes] = (),
        force: bool = False,
        exact: bool = False,
    ) -> Restored:
        """Check a commit out by a fresh look at the store."""
        record = saved if isinstance(saved, CommitRecord) else saved.base.record
        return checkout(self.open(), record, str(target), self.events, paths=paths, force=force, exact=exact)

    def settle(self) -> None:
        """Wait until no file in the project is racy any more."""
        wait_until_settled(self.root)


def read_folder(folder: Path | str) -> dict[bytes, Content]:
    """Return everything in a folder by its path: type and content. The store and its files are left out."""
    found: dict[bytes, Content] = {}
    pending = [b""]
    while pending:
        above = pending.pop()
        with os.scandir(os.path.join(os.fsencode(folder), above)) as listing:
            for entry in listing:
                if entry.name == b".replicate":
                    continue
                path = above + b"/" + entry.name if above else entry.name
                found[path] = _content(entry)
                if found[path][0] == "folder":
                    pending.append(path)
    return found


def _content(entry: os.DirEntry[bytes]) -> Content:
    if entry.is_symlink():
        return "link", os.readlink(entry.path)
    if entry.is_dir():
        return "folder", b""
    executable = entry.stat().st_mode & stat.S_IXUSR
    with open(entry.path, "rb") as file:
        return ("executable" if executable else "file"), file.read()


def paths_of(folder: Path | str) -> set[str]:
    """Return the paths of everything in a folder but the store."""
    return {os.fsdecode(path) for path in read_folder(folder)}


def wait_until_settled(folder: Path, changed_ns: int = 0) -> None:
    """Return when the file system's clock is more than a grain after `changed_ns`, and after everything done so far."""
    probe = folder / ".replicate-tmp-test-probe"
    probe.write_bytes(b"")
    until = max(changed_ns, probe.stat().st_mtime_ns) + FINE_GRAIN_NS
    try:
        while probe.stat().st_mtime_ns <= until:
            time.sleep(0.004)
            os.utime(probe)
    finally:
        probe.unlink()


def check_store(store: Path, level: int = 4) -> Report:
    """Check that a store is whole, every byte of it; return what else was found."""
    report = fsck(LocalTransport(store), str(store), SilentReporter(), level=level)
    assert report.damage == ()
    return report


def store_files(store: Path, *parts: str) -> list[Path]:
    """Return the files that a store keeps, without what is this machine's only."""
    found = []
    for top in parts or ("ctl", "packs", "refs", "cat"):
        found += [path for path in (store / top).rglob("*") if path.is_file()]
    return found


def store_bytes(store: Path) -> int:
    """Return the length of all files that a store keeps."""
    return sum(path.stat().st_size for path in store_files(store))


def allocated_bytes(store: Path) -> int:
    """Return what the store takes on the disk, folders and this machine's part included."""
    return sum(path.lstat().st_blocks * 512 for path in [store, *store.rglob("*")])


def reads_everything() -> bool:
    """Tell whether file permissions mean nothing to this process, as is so for root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0)
        try:
            os.listdir(folder)
        except PermissionError:
            return False
        finally:
            os.chmod(folder, 0o700)
    return True


def make_deep(folder: Path, name: str, depth: int) -> None:
    """Make folders of one name in one another; their path may be longer than the system allows."""
    above = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)


def remove_deep(folder: Path) -> None:
    """Remove what is in a folder, however deep: `shutil.rmtree` calls itself, and ends at Python's limit."""
    for path, (kind, _) in sorted(read_folder(folder).items(), reverse=True):
        full = os.path.join(os.fsencode(folder), path)
        if kind == "folder":
            os.rmdir(full)
        else:
            os.unlink(full)


def run_script(root: Path, text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a training script in a project, with warnings as errors, and return how it ended."""
    (root / "train.py").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", "train.py", *arguments],
        cwd=root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    """Run `git` as somebody who has no settings of their own."""
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def everything_in(store: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a store as it lies there, and every object, locator and packset list in it decoded.

    Blobs that are a list of chunks come as their chunks.
    """
    transport = LocalTransport(str(store))
    places: list[Place] = []
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if path.is_file():
            yield name, name.encode() + b"\n" + path.read_bytes()
        if path.is_file() and name.startswith("packs/"):
            pack, size = ObjectID.parse(path.name), path.stat().st_size
            places += [Place(pack, size, entry) for entry in read_footer(transport, pack, size)]
    objects = ObjectStore(transport, Known(places))
    for place in places:
        entry, name = place.entry, f"{place.pack.short} {place.entry.object_id.short}"
        if entry.kind in (Kind.LOCATOR, Kind.PACKSET):
            yield name, read_framed(transport, FrameRef(place.pack, entry.offset, entry.length), Kind(entry.kind))[1]
        elif entry.encoding != Encoding.CONCAT:
            yield name, objects.read(entry.object_id, Kind(entry.kind))
