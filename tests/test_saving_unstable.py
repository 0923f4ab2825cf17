"""Files that change, vanish or turn into something else while they are saved: training goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate import saving
from replicate.errors import StorageError
from replicate.objects.cutting import MAX_PIECE_BYTES
from replicate.objects.cutting.pieces import cut_without_tensors
from replicate.objects.writer import ObjectWriter
from replicate.saving import Saved
from replicate.session import Session
from replicate.worktree.reading import ChangedWhileRead
from tests.conftest import Watch
from tests.projects import Events, SampleProject, read_folder

MIB = 1 << 20
PIECES = 12 * MIB
ATTEMPTS = 6


class Interfering(Events):
    """A reporter that changes a file whenever a piece of it is done: between the two looks at the file."""

    def __init__(self) -> None:
        super().__init__()
        self.interfere: Callable[[], None] | None = None
        self.times = 0

    def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
        """Interfere with the first piece of every attempt to read a large file."""
        if files or self.interfere is None:
            return
        self.times += 1
        self.interfere()


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    found = SampleProject(tmp_path / "w")
    found.events = Interfering()
    found.write("a", "1")
    return found


@pytest.fixture
def session(project: SampleProject) -> Session:
    return project.begin()


def interfere(project: SampleProject, change: Callable[[], None], *, once: bool = False) -> None:
    """Do this with every piece of a large file that is saved, or with the first only."""
    events = project.events
    assert isinstance(events, Interfering)

    def first() -> None:
        events.interfere = None
        change()

    events.interfere = first if once else change


def restored(project: SampleProject, saved: Saved) -> dict[str, bytes]:
    target = project.root.parent / f"out-{saved.base.record.commit_id.short}"
    project.restore(saved, target)
    return {os.fsdecode(path): content for path, (kind, content) in read_folder(target).items() if kind == "file"}


def unstable(saved: Saved) -> tuple[bytes, ...]:
    listed = saved.base.record.commit.unstable
    return listed.paths if listed else ()


def skipped(saved: Saved) -> tuple[bytes, ...]:
    listed = saved.base.record.commit.skipped
    return listed.paths if listed else ()


def append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


# -- files that grow ------------------------------------------------------------------------------------------------


def test_of_a_log_that_grows_while_it_is_saved_the_beginning_is_saved(project: SampleProject, session: Session) -> None:
    content = os.urandom(PIECES)
    log = project.write("train.log", content)
    interfere(project, lambda: append(log, b"more\n"))
    saved = project.save(session)
    assert restored(project, saved) == {"a": b"1", "train.log": content}
    assert unstable(saved) == (b"train.log",)
    assert project.events.warnings == []
    assert log.stat().st_size > PIECES


def test_what_a_log_grew_by_is_in_the_next_checkpoint(project: SampleProject, session: Session) -> None:
    log = project.write("train.log", os.urandom(PIECES))
    interfere(project, lambda: append(log, b"more\n"), once=True)
    project.save(session)
    saved = project.save(session)
    assert restored(project, saved)["train.log"] == log.read_bytes()
    assert unstable(saved) == ()


def test_a_named_log_may_grow(project: SampleProject, session: Session) -> None:
    content = os.urandom(PIECES)
    log = project.write("train.log", content)
    interfere(project, lambda: append(log, b"more\n"))
    saved = project.save(session, "train.log")
    assert restored(project, saved)["train.log"] == content
    assert unstable(saved) == (b"train.log",)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("size", [0, 100, 60_000, 65_536, MIB])
def test_a_log_that_grew_after_it_was_listed_is_saved_as_it_is(
    project: SampleProject, session: Session, watch: Watch, size: int, named: bool
) -> None:
    log = project.write("train.log", b"x" * size)
    grown = threading.Event()

    def grow(event: str, path: str) -> None:
        if event == "open" and path == str(log) and not grown.is_set():
            grown.set()
            append(log, b"y" * 10_000)

    watch(grow)
    saved = project.save(session, "train.log" if named else None)
    assert restored(project, saved)["train.log"] == b"x" * size + b"y" * 10_000
    assert skipped(saved) == ()
    assert project.events.warnings == []


# -- files that are rewritten ---------------------------------------------------------------------------------------


def test_weights_that_are_cut_short_once_are_saved_as_they_are_afterwards(
    project: SampleProject, session: Session
) -> None:
    weights = project.write("weights.pt", os.urandom(PIECES))
    interfere(project, lambda: os.truncate(weights, 5 * MIB), once=True)
    saved = project.save(session)
    assert restored(project, saved)["weights.pt"] == weights.read_bytes()
    assert (unstable(saved), skipped(saved)) == ((), ())
    assert project.events.warnings == []


def test_weights_that_are_rewritten_all_the_time_are_saved_as_read_and_listed(
    project: SampleProject, session: Session
) -> None:
    weights = project.write("weights.pt", bytes(PIECES))
    before = weights.stat().st_mtime_ns

    def rewrite() -> None:
        nonlocal before
        before += 1_000_000_000
        with open(weights, "r+b") as file:
            file.write(os.urandom(100))
        os.utime(weights, ns=(before, before))

    interfere(project, rewrite)
    saved = project.save(session)
    assert len(restored(project, saved)["weights.pt"]) == PIECES
    assert unstable(saved) == (b"weights.pt",)
    assert project.events.warnings == ["changed while they were saved, and saved as read: weights.pt"]


def test_weights_that_are_cut_short_all_the_time_are_listed_and_training_goes_on(
    project: SampleProject, session: Session
) -> None:
    weights = project.write("weights.pt", os.urandom(40 * MIB))
    interfere(project, lambda: os.truncate(weights, max(5 * MIB, weights.stat().st_size - 5 * MIB)))
    saved = project.save(session)
    assert {*unstable(saved), *skipped(saved)} <= {b"weights.pt"}
    content = restored(project, saved)
    assert content["a"] == b"1"
    again = project.save(session)
    assert restored(project, again)["weights.pt"] == weights.read_bytes()


def test_weights_that_shrink_with_every_look_are_skipped(
    project: SampleProject, session: Session, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = project.write("weights.pt", b"x" * 1000)
    looks = 0
    real = os.fstat

    def shrink(fd: int) -> os.stat_result:
        """Shrink the file right after it was looked at."""
        nonlocal looks
        info = real(fd)
        if info.st_ino == weights.stat().st_ino:
            looks += 1
            os.truncate(weights, 1000 - looks)
        return info

    monkeypatch.setattr(os, "fstat", shrink)
    saved = project.save(session)
    monkeypatch.undo()
    assert looks >= ATTEMPTS
    assert skipped(saved) == (b"weights.pt",)
    assert project.events.warnings == ["not saved: weights.pt (it changed all the time while it was read)"]
    assert restored(project, saved) == {"a": b"1"}


def test_a_named_path_that_keeps_changing_is_an_error_and_nothing_is_saved(
    project: SampleProject, session: Session
) -> None:
    weights = project.write("weights.pt", os.urandom(PIECES))
    changed = weights.stat().st_mtime_ns

    def rewrite() -> None:
        nonlocal changed
        changed += 1_000_000_000
        os.utime(weights, ns=(changed, changed))

    interfere(project, rewrite)
    with pytest.raises(StorageError) as raised:
        project.save(session, "weights.pt")
    assert str(raised.value) == (
        f"{weights} changed while it was saved, 3 times in a row; nothing was saved "
        "(hint: save after the file was written, from the process that writes it)"
    )
    assert project.experiment().checkpoints == ()
    interfere(project, lambda: None)
    assert restored(project, project.save(session, "weights.pt"))["weights.pt"] == weights.read_bytes()


def test_a_piece_that_is_gone_fails_the_file_as_such_whichever_piece_it_is(project: SampleProject) -> None:
    class Shortened:
        """A file of three pieces: the last is gone before the first is read."""

        size_bytes = PIECES

        def __init__(self) -> None:
            self.gone = threading.Event()

        def read_into(self, offset: int, buffer: memoryview) -> None:
            if offset == PIECES - MAX_PIECE_BYTES:
                self.gone.set()
                raise ChangedWhileRead
            if offset == 0:
                self.gone.wait()

    repository = project.open()
    repository.index.begin_save()
    for _ in range(20):
        writer = ObjectWriter(repository.transport, repository.index, random=os.urandom, durable=False, workers=3)
        with pytest.raises(ChangedWhileRead):
            writer.write_large(Shortened(), cut_without_tensors(PIECES), lambda size: None)
        writer.close()


def test_a_file_that_another_replaces_while_it_is_saved_is_saved_as_one_of_both(
    project: SampleProject, session: Session
) -> None:
    old, new = os.urandom(PIECES), os.urandom(PIECES)
    weights = project.write("weights.pt", old)

    def replace() -> None:
        project.write(".replicate-tmp-new", new).rename(weights)

    interfere(project, replace, once=True)
    saved = project.save(session)
    assert restored(project, saved)["weights.pt"] in (old, new)
    assert unstable(saved) == ()


def test_small_files_that_a_thread_rewrites_never_fail_a_save(project: SampleProject, session: Session) -> None:
    path = project.root / "state.json"
    path.write_bytes(b"a" * 50_000)
    stop = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            with open(path, "r+b") as file:
                file.write(bytes([97 + turn % 26]) * 50_000)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        saves = [project.save(session) for _ in range(20)]
    finally:
        stop.set()
        writer.join()
    for saved in saves:
        content = restored(project, saved)
        assert set(content) | {os.fsdecode(one) for one in skipped(saved)} == {"a", "state.json"}
        assert len(content.get("state.json", b"x" * 50_000)) == 50_000
    assert restored(project, project.save(session))["state.json"] == path.read_bytes()


# -- files that vanish or turn into something else ------------------------------------------------------------------


def at_first_opening(watch: Watch, path: Path, act: Callable[[], object]) -> None:
    done = threading.Event()

    def listen(event: str, opened: str) -> None:
        if event == "open" and opened == str(path) and not done.is_set():
            done.set()
            act()

    watch(listen)


def test_a_file_that_is_removed_while_it_is_saved_is_left_out_without_a_word(
    project: SampleProject, session: Session, watch: Watch
) -> None:
    path = project.write("b", "2")
    at_first_opening(watch, path, path.unlink)
    saved = project.save(session)
    assert restored(project, saved) == {"a": b"1"}
    assert (unstable(saved), skipped(saved)) == ((), ())
    assert project.events.warnings == []


def test_a_named_file_that_is_removed_while_it_is_saved_is_an_error(
    project: SampleProject, session: Session, watch: Watch
) -> None:
    path = project.write("b", "2")
    at_first_opening(watch, path, path.unlink)
    with pytest.raises(StorageError) as raised:
        project.save(session, "b")
    assert raised.value.message == f"cannot read {path}: No such file or directory"


@pytest.mark.parametrize(
    ("turn_into", "why"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "Too many levels of symbolic links"),
        (lambda path: path.mkdir(), "not a regular file any more"),
        (lambda path: os.mkfifo(path), "not a regular file any more"),
    ],
)
def test_a_file_that_turns_into_something_else_is_skipped(
    project: SampleProject, session: Session, watch: Watch, turn_into: Callable[[Path], None], why: str
) -> None:
    path = project.write("b", "2")

    def turn() -> None:
        path.unlink()
        turn_into(path)

    at_first_opening(watch, path, turn)
    saved = project.save(session)
    assert restored(project, saved) == {"a": b"1"}
    assert skipped(saved) == (b"b",)
    assert project.events.warnings == [f"not saved: b ({why})"]


def test_a_folder_that_is_removed_while_it_is_saved_is_left_out(
    project: SampleProject, session: Session, watch: Watch
) -> None:
    path = project.write("d/b", "2")

    def remove() -> None:
        path.unlink()
        path.parent.rmdir()

    at_first_opening(watch, path, remove)
    assert restored(project, project.save(session)) == {"a": b"1"}


def test_a_hundred_paths_are_listed_and_all_are_counted(project: SampleProject, session: Session, watch: Watch) -> None:
    for number in range(150):
        project.write(f"f{number:03}", "x")

    def remove(event: str, path: str) -> None:
        if event == "open" and "/f" in path and os.path.isfile(path):
            os.unlink(path)
            os.mkfifo(path)

    watch(remove)
    saved = project.save(session)
    listed = saved.base.record.commit.skipped
    assert listed is not None
    assert listed.count == 150
    assert listed.paths == tuple(b"f%03d" % number for number in range(100))
    assert project.events.warnings == ["not saved: f000 (not a regular file any more) and 149 more"]


def test_skipped_files_with_long_paths_do_not_fail_the_save(
    project: SampleProject, session: Session, watch: Watch
) -> None:
    folder = "/".join(["d" * 250] * 4)
    for number in range(100):
        project.write(f"{folder}/f{number:03}", "x")

    def remove(event: str, path: str) -> None:
        if event == "open" and "/f" in path and os.path.isfile(path):
            os.unlink(path)
            os.mkfifo(path)

    watch(remove)
    saved = project.save(session)
    listed = saved.base.record.commit.skipped
    assert listed is not None
    assert listed.count == 100
    assert 0 < len(listed.paths) < 100


# -- what is told ---------------------------------------------------------------------------------------------------


def test_very_much_new_data_is_told_with_its_largest_parts(
    project: SampleProject, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saving._ASK_BYTES == 10 * 10**9
    monkeypatch.setattr(saving, "_ASK_BYTES", 440_000_000)
    for name, size in [("data/x", 250_000_000), ("data/y", 50_000_000), ("m.pt", 150_000_000), ("b", 1_000_000)]:
        os.truncate(project.write(name), size)
    project.save(session)
    assert project.events.warnings == [
        "about to save 0.5 GB of new data: data/ 0.3 GB, m.pt 0.1 GB, b 0.0 GB; "
        "to leave something out, add it as a line to .replicateignore"
    ]
    project.save(session)
    assert len(project.events.warnings) == 1
