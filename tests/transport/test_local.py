from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.errors import KeyNotFoundError, StorageError, StorageFullError
from replicate.transport import LocalTransport, Transport
from replicate.transport.local import Disk, Durability, sync_file
from tests.transport.contract import DATA, TransportContract


class TestLocalTransport(TransportContract):
    @pytest.fixture(params=["fast", "safe"])
    def transport(self, tmp_path: Path, request: pytest.FixtureRequest) -> Transport:
        durability: Durability = request.param
        return LocalTransport(tmp_path / "store", durability=durability)


class RecordingDisk(Disk):
    """Notes every call that changes the disk; may be told to fail or to act first."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.calls: list[tuple[str, ...]] = []
        self.before: dict[str, Callable[[], None]] = {}

    def _note(self, call: str, *paths: str) -> None:
        self.calls.append((call, *map(self._name, paths)))
        act = self.before.pop(call, None)
        if act is not None:
            act()

    def _name(self, path: str) -> str:
        name = os.path.relpath(path, self.root)
        return "local/tmp/TEMP" if os.path.dirname(name) == "local/tmp" else name

    def write(self, path: str, data: bytes | bytearray | memoryview, *, sync: bool) -> None:
        self._note("write and sync" if sync else "write", path)
        super().write(path, data, sync=sync)

    def sync(self, path: str) -> None:
        self._note("sync", path)
        super().sync(path)

    def link(self, source: str, target: str) -> None:
        self._note("link", source, target)
        super().link(source, target)

    def rename(self, source: str, target: str) -> None:
        self._note("rename", source, target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._note("unlink", path)
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._note("mkdir", path)
        super().mkdir(path)

    def sync_directory(self, path: str) -> None:
        self._note("sync directory", path)
        super().sync_directory(path)


def failing(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def disk(store: Path) -> RecordingDisk:
    return RecordingDisk(store)


@pytest.fixture
def transport(store: Path, disk: RecordingDisk) -> LocalTransport:
    return LocalTransport(store, disk=disk)


def settled(transport: LocalTransport, disk: RecordingDisk) -> None:
    """Have the folders made and known, so that only the next put's calls are recorded."""
    transport.put("packs/aa/first", b"first")
    disk.calls.clear()


# -- the order of a durable put


def test_a_safe_put_syncs_bytes_before_the_name_and_the_name_before_it_returns(
    transport: LocalTransport, disk: RecordingDisk
) -> None:
    settled(transport, disk)
    transport.put("packs/aa/one", DATA)
    assert disk.calls == [
        ("write and sync", "local/tmp/TEMP"),
        ("link", "local/tmp/TEMP", "packs/aa/one"),
        ("unlink", "local/tmp/TEMP"),
        ("sync directory", "packs/aa"),
    ]


def test_a_fast_put_syncs_nothing(store: Path, disk: RecordingDisk) -> None:
    transport = LocalTransport(store, durability="fast", disk=disk)
    settled(transport, disk)
    transport.put("packs/aa/one", DATA)
    transport.put("packs/aa/one", DATA)
    assert disk.calls == [
        ("write", "local/tmp/TEMP"),
        ("link", "local/tmp/TEMP", "packs/aa/one"),
        ("unlink", "local/tmp/TEMP"),
    ]


def test_a_new_folders_name_is_made_durable_in_its_parent(transport: LocalTransport, disk: RecordingDisk) -> None:
    transport.put("packs/aa/one", DATA)
    made = disk.calls[: disk.calls.index(("write and sync", "local/tmp/TEMP"))]
    for folder, parent in ((".", ".."), ("packs", "."), ("packs/aa", "packs"), ("local", "."), ("local/tmp", "local")):
        begun = made.index(("mkdir", folder))
        assert made[begun + 1] == ("sync directory", parent)
    settled(transport, disk)
    transport.put("packs/ab/one", DATA)
    assert disk.calls[:2] == [("mkdir", "packs/ab"), ("sync directory", "packs")]


def test_a_folder_that_somebody_else_made_is_synced_once_too(store: Path, disk: RecordingDisk) -> None:
    (store / "packs" / "aa").mkdir(parents=True)
    transport = LocalTransport(store, disk=disk)
    transport.put("packs/aa/one", DATA)
    assert ("mkdir", "packs/aa") not in disk.calls
    assert disk.calls.count(("sync directory", "packs")) == 1
    transport.put("packs/aa/two", DATA)
    assert disk.calls.count(("sync directory", "packs")) == 1


def test_a_repeated_put_writes_nothing_but_syncs_what_the_first_may_not_have(
    transport: LocalTransport, disk: RecordingDisk
) -> None:
    settled(transport, disk)
    transport.put("packs/aa/first", b"first")
    assert disk.calls == [("sync", "packs/aa/first"), ("sync directory", "packs/aa")]


@pytest.mark.parametrize("torn", [b"", DATA[:50], DATA + b"x", bytes(100)])
def test_a_torn_file_is_replaced_by_a_rename(
    transport: LocalTransport, disk: RecordingDisk, store: Path, torn: bytes
) -> None:
    settled(transport, disk)
    (store / "packs/aa/one").write_bytes(torn)
    transport.put("packs/aa/one", DATA)
    assert disk.calls == [
        ("write and sync", "local/tmp/TEMP"),
        ("link", "local/tmp/TEMP", "packs/aa/one"),
        ("rename", "local/tmp/TEMP", "packs/aa/one"),
        ("sync directory", "packs/aa"),
    ]
    assert transport.get("packs/aa/one") == DATA


def test_above_a_mebibyte_equal_sizes_are_taken_for_equal_bytes(transport: LocalTransport, store: Path) -> None:
    size = (1 << 20) + 1
    transport.put("packs/aa/one", bytes(size))
    transport.put("packs/aa/one", b"\1" * size)
    assert transport.get("packs/aa/one") == bytes(size)
    transport.put("packs/aa/one", bytes(size + 1))
    assert (store / "packs/aa/one").stat().st_size == size + 1


def test_two_writers_of_one_key_at_once_do_no_harm(transport: LocalTransport, disk: RecordingDisk, store: Path) -> None:
    settled(transport, disk)
    disk.before["link"] = lambda: LocalTransport(store, durability="fast").put("packs/aa/one", DATA)
    transport.put("packs/aa/one", DATA)
    assert transport.get("packs/aa/one") == DATA
    assert ("rename", "local/tmp/TEMP", "packs/aa/one") not in disk.calls
    assert disk.calls[-3:] == [
        ("sync", "packs/aa/one"),
        ("unlink", "local/tmp/TEMP"),
        ("sync directory", "packs/aa"),
    ]


def test_a_heartbeat_is_renamed_over_the_one_before(transport: LocalTransport, disk: RecordingDisk) -> None:
    transport.put("beats/a", b"1", replace=True)
    disk.calls.clear()
    transport.put("beats/a", b"2", replace=True)
    assert [call[0] for call in disk.calls] == ["write and sync", "rename", "sync directory"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_hard_links_is_served_by_renaming(
    transport: LocalTransport, disk: RecordingDisk, store: Path, number: int
) -> None:
    settled(transport, disk)
    disk.before["link"] = failing(number)
    transport.put("packs/aa/one", DATA)
    assert transport.get("packs/aa/one") == DATA
    assert os.listdir(store / "local/tmp") == []


def test_stored_files_are_read_only(transport: LocalTransport, store: Path) -> None:
    transport.put("packs/aa/one", DATA)
    assert stat.S_IMODE((store / "packs/aa/one").stat().st_mode) & 0o222 == 0


# -- failures


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write and sync", "mkdir", "link", "sync directory"])
def test_a_full_disk_is_told_with_what_is_needed_and_the_store_stays_intact(
    transport: LocalTransport, disk: RecordingDisk, store: Path, call: str, number: int
) -> None:
    settled(transport, disk)
    disk.before[call] = failing(number)
    with pytest.raises(StorageFullError) as caught:
        transport.put("packs/ab/one", bytes(1_234))
    error = caught.value
    assert error.message.startswith(f"no space left to write {store}/packs/ab/one: 1,234 bytes needed, ")
    assert error.message.endswith(" free; the store is intact")
    assert error.hint == f"free some space on the disk of {store}, and repeat"
    assert (error.key, error.operation, error.needed_bytes, error.exit_code) == ("packs/ab/one", "write", 1_234, 6)
    assert os.listdir(store / "local/tmp") == []
    assert transport.get("packs/aa/first") == b"first"
    transport.put("packs/ab/one", bytes(1_234))  # repeating is safe
    assert transport.get("packs/ab/one") == bytes(1_234)


def test_a_write_that_fails_halfway_leaves_neither_key_nor_temporary_file(
    transport: LocalTransport, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.put("packs/aa/first", b"first")

    def torn(fd: int, data: memoryview) -> int:
        if len(data) < 50:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data[:10])

    real = os.write
    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(StorageError) as caught:
        transport.put("packs/aa/one", DATA)
    assert str(caught.value) == f"cannot write {store}/packs/aa/one: Input/output error"
    assert (caught.value.key, caught.value.operation) == ("packs/aa/one", "write")
    assert not isinstance(caught.value, StorageFullError)
    assert os.listdir(store / "local/tmp") == []
    assert [info.key for info in transport.list("")] == ["packs/aa/first"]


def test_short_writes_are_continued(transport: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    transport.put("packs/aa/one", DATA)
    assert transport.get("packs/aa/one") == DATA


@pytest.mark.parametrize("size", [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, (5 << 20) + 4_095])
@pytest.mark.parametrize("offset", [0, 1, 512])
def test_large_data_is_written_whole_whatever_its_size_and_its_place_in_memory(
    transport: LocalTransport, size: int, offset: int
) -> None:
    memory = mmap.mmap(-1, size + offset)
    for at in range(0, size + offset, 4_000):
        memory[at : at + 4] = at.to_bytes(4, "little")[: len(memory) - at]
    with memoryview(memory) as whole, whole[offset:] as view:
        transport.put("packs/aa/one", view)
        assert transport.get("packs/aa/one") == view


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="the page cache cannot be passed by here")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_the_page_cache_cannot_be_passed_by_it_is_used(
    transport: LocalTransport, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.write
    direct = 0

    def write(fd: int, data: memoryview) -> int:
        nonlocal direct
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            direct += 1
            if direct > 1:
                raise OSError(number, os.strerror(number))
            return real(fd, data[:4_096])
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    data = os.urandom(4_096) + bytes(5 << 20)
    transport.put("packs/aa/one", mapped(data))
    assert transport.get("packs/aa/one") == data


def mapped(data: bytes) -> memoryview:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memoryview(memory)


def test_leftovers_of_a_killed_writer_are_neither_listed_nor_in_the_way(transport: LocalTransport, store: Path) -> None:
    (store / "local/tmp").mkdir(parents=True)
    (store / "local/tmp/0123456789abcdef").write_bytes(b"half")
    transport.put("packs/aa/one", DATA)
    assert [info.key for info in transport.list("")] == ["packs/aa/one"]
    assert os.listdir(store / "local/tmp") == ["0123456789abcdef"]


@pytest.mark.parametrize("gone", ["", "packs", "packs/aa", "local", "local/tmp"])
def test_a_folder_that_was_removed_under_us_is_made_again(transport: LocalTransport, store: Path, gone: str) -> None:
    transport.put("packs/aa/one", DATA)
    transport.probe()
    shutil.rmtree(store / gone)
    assert transport.probe() > 0
    transport.put("packs/aa/two", DATA)
    assert transport.get("packs/aa/two") == DATA


@pytest.mark.parametrize("call", ["write and sync", "link", "sync directory"])
def test_a_folder_that_is_removed_during_a_put_is_made_again(
    transport: LocalTransport, disk: RecordingDisk, store: Path, call: str
) -> None:
    settled(transport, disk)
    disk.before[call] = lambda: shutil.rmtree(store)
    transport.put("packs/aa/one", DATA)
    assert transport.get("packs/aa/one") == DATA


def test_a_file_where_a_folder_should_be_is_an_error_that_names_the_key(transport: LocalTransport, store: Path) -> None:
    store.mkdir()
    (store / "packs").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        transport.put("packs/aa/one", DATA)
    assert str(caught.value) == f"cannot write {store}/packs/aa/one: Not a directory"


def test_a_folder_where_a_key_should_be_is_an_error(transport: LocalTransport, store: Path) -> None:
    (store / "packs/aa/one").mkdir(parents=True)
    with pytest.raises(StorageError) as caught:
        transport.put("packs/aa/one", DATA)
    assert str(caught.value) == f"cannot write {store}/packs/aa/one: Is a directory"
    assert list(transport.delete(["packs/aa/one"])) == ["packs/aa/one"]


def test_a_read_that_fails_names_the_key(transport: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    transport.put("packs/aa/one", DATA)

    def fail(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError) as caught:
        transport.get("packs/aa/one")
    assert str(caught.value) == f"cannot read {transport.root}/packs/aa/one: Input/output error"
    assert (caught.value.key, caught.value.operation) == ("packs/aa/one", "read")


def test_a_listing_that_fails_names_the_prefix(transport: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    transport.put("refs/aa/one", DATA)

    def fail(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(StorageError) as caught:
        list(transport.list("refs/aa/o"))
    assert str(caught.value) == f"cannot list {transport.root}/refs/aa/o: Permission denied"


def test_what_could_not_be_deleted_is_told(transport: LocalTransport, disk: RecordingDisk) -> None:
    transport.put("packs/aa/one", DATA)
    transport.put("packs/aa/two", DATA)
    disk.before["unlink"] = failing(errno.EACCES)
    assert list(transport.delete(["packs/aa/one", "packs/aa/two"])) == ["packs/aa/one"]
    assert [info.key for info in transport.list("")] == ["packs/aa/one"]


# -- what lies in a store that we did not put there


def test_links_that_lead_nowhere_are_not_listed(transport: LocalTransport, store: Path) -> None:
    transport.put("refs/aa/one", DATA)
    (store / "refs/aa/loop").symlink_to("loop")
    (store / "refs/aa/none").symlink_to("nothing")
    assert [info.key for info in transport.list("")] == ["refs/aa/one"]


def test_a_link_to_a_folder_is_not_followed_by_a_listing(transport: LocalTransport, store: Path) -> None:
    transport.put("refs/aa/one", DATA)
    (store / "refs/ab").symlink_to(store / "refs")
    assert {info.key for info in transport.list("refs/")} == {"refs/aa/one", "refs/ab"}
    with pytest.raises(KeyNotFoundError):
        transport.get("refs/ab")


def test_a_pipe_is_not_a_key_and_does_not_block(transport: LocalTransport, store: Path) -> None:
    transport.put("refs/aa/one", DATA)
    os.mkfifo(store / "refs/aa/pipe")
    with pytest.raises(KeyNotFoundError):
        transport.get("refs/aa/pipe")


@pytest.mark.parametrize("prefix", ["../", "../other/", "refs/../../", "/etc/"])
def test_a_listing_never_leaves_the_store(transport: LocalTransport, store: Path, prefix: str) -> None:
    transport.put("refs/aa/one", DATA)
    (store.parent / "other").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a storage key"):
        list(transport.list(prefix))


def test_reading_creates_nothing(transport: LocalTransport, store: Path) -> None:
    assert list(transport.list("")) == []
    with pytest.raises(KeyNotFoundError):
        transport.get("ctl/v1")
    assert transport.delete(["ctl/v1"]) == []
    assert not store.exists()


def test_listed_time_is_when_the_key_was_put(transport: LocalTransport, store: Path) -> None:
    transport.put("ctl/a", b"")
    os.utime(store / "ctl/a", ns=(1, 1))
    (info,) = transport.list("ctl/")
    assert info.time_ns == (store / "ctl/a").stat().st_ctime_ns


def test_a_file_can_be_synced(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.write(b"x")
        file.flush()
        sync_file(file.fileno())
