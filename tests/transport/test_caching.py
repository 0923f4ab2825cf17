"""What a transport keeps of what it read: the contract holds, and nothing that was kept can do harm."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from replicate.errors import KeyNotFoundError, StorageUnreachableError
from replicate.transport import MemoryTransport, Range, ReadsAhead, Transport, prefetch, read_sound
from replicate.transport.blocks import BLOCK_BYTES, BlockFolder
from replicate.transport.caching import GAP_BYTES, REQUEST_BYTES, CachingTransport
from tests.elsewhere import CountedStorage, Request
from tests.transport.contract import TransportContract

PACK = "packs/aa/one"
DATA = bytes(os.urandom(3 * BLOCK_BYTES + 1_000))


class TestCachingTransport(TransportContract):
    @pytest.fixture
    def transport(self, tmp_path: Path) -> Transport:
        return CachingTransport(MemoryTransport(itertools.count(1).__next__), str(tmp_path / "cache"), 1 << 30)


@pytest.fixture
def storage() -> CountedStorage:
    inner = MemoryTransport()
    inner.put(PACK, DATA)
    inner.put("refs/aa/one", b"a record")
    inner.put("cat/h~one", b"a catalog")
    return CountedStorage(inner)


def cached(storage: Transport, folder: Path, limit_bytes: int = 1 << 30) -> CachingTransport:
    return CachingTransport(storage, str(folder / "cache"), limit_bytes)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "cache").rglob("*~*") if path.is_file())


def test_every_range_is_right_before_and_after_it_was_kept(storage: CountedStorage, tmp_path: Path) -> None:
    edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, len(DATA) - 1, len(DATA)]
    edges += [len(DATA) + 1, 9 * BLOCK_BYTES]
    for start, end in itertools.combinations(edges, 2):
        for caching in (cached(storage, tmp_path / f"{start}-{end}"), cached(storage, tmp_path)):
            for _ in range(2):
                assert caching.get(PACK, start, end) == DATA[start:end]
    assert cached(storage, tmp_path).get(PACK, -10) == DATA[-10:]
    assert cached(storage, tmp_path).get(PACK) == DATA


def test_what_was_read_once_is_not_asked_for_again(storage: CountedStorage, tmp_path: Path) -> None:
    for expected in (5, 0):
        caching = cached(storage, tmp_path)
        storage.requests.clear()
        for key, end in (("refs/aa/one", 100), ("cat/h~one", 100), (PACK, 10), (PACK, 2 * BLOCK_BYTES)):
            caching.get(key, 0, end)
        caching.get(PACK, 3 * BLOCK_BYTES, 9 * BLOCK_BYTES)  # beyond the end
        assert len(storage.requests) == expected


def test_only_blocks_that_are_needed_are_read(storage: CountedStorage, tmp_path: Path) -> None:
    caching = cached(storage, tmp_path)
    caching.get(PACK, BLOCK_BYTES + 5, BLOCK_BYTES + 6)
    caching.get(PACK, 0, 3 * BLOCK_BYTES)
    assert storage.requests == [
        Request("get", PACK, BLOCK_BYTES, 2 * BLOCK_BYTES),
        Request("get", PACK, 0, BLOCK_BYTES),
        Request("get", PACK, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES),
    ]


def test_a_record_that_is_longer_than_was_asked_is_not_kept_as_a_whole(storage: CountedStorage, tmp_path: Path) -> None:
    assert cached(storage, tmp_path).get("refs/aa/one", 0, 3) == b"a r"
    assert cached(storage, tmp_path).get("refs/aa/one", 0, 100) == b"a record"
    assert cached(storage, tmp_path).get("refs/aa/one", 0, 3) == b"a r"


def test_what_may_change_is_not_kept(storage: CountedStorage, tmp_path: Path) -> None:
    caching = cached(storage, tmp_path)
    for data in (b"one", b"two"):
        storage.put("ctl/v1", data)
        storage.put("beats/x", data, replace=True)
        assert caching.get("ctl/v1", 0, 10) == caching.get("beats/x", 0, 10) == data


@pytest.mark.parametrize("harm", ["cut", "empty", "altered", "swapped", "gone"])
def test_a_kept_file_that_is_not_whole_counts_as_none(storage: CountedStorage, tmp_path: Path, harm: str) -> None:
    for start, end in ((0, 2 * BLOCK_BYTES), (2 * BLOCK_BYTES, len(DATA))):
        cached(storage, tmp_path).get(PACK, start, end)
    first, second = files(tmp_path)
    whole = first.read_bytes()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    first.write_bytes({"cut": whole[:-5], "empty": b"", "altered": altered}.get(harm, second.read_bytes()))
    if harm == "gone":
        first.unlink()
    storage.requests.clear()
    for _ in range(2):
        assert cached(storage, tmp_path).get(PACK, 0, len(DATA)) == DATA
        assert len(storage.requests) == 1


def test_what_was_kept_can_be_forgotten(storage: CountedStorage, tmp_path: Path) -> None:
    caching = cached(storage, tmp_path)
    assert not caching.forget(PACK)
    caching.get(PACK, 0, 10)
    caching.get("refs/aa/one", 0, 100)
    assert caching.forget(PACK)
    assert not caching.forget(PACK)
    storage.requests.clear()
    caching.get("refs/aa/one", 0, 100)
    assert storage.requests == []
    caching.get(PACK, 0, 10)
    assert len(storage.requests) == 1


def test_a_torn_key_that_is_put_again_is_read_again(storage: CountedStorage, tmp_path: Path) -> None:
    caching = cached(storage, tmp_path)
    storage.put("packs/aa/two", DATA[:100])
    assert caching.get("packs/aa/two", 0, 1_000) == DATA[:100]
    caching.put("packs/aa/two", DATA)
    assert caching.get("packs/aa/two", 0, 1_000) == DATA[:1_000]
    caching.delete(["packs/aa/two"])
    with pytest.raises(KeyNotFoundError):
        caching.get("packs/aa/two", 0, 1_000)


# -- reading ahead


def test_ranges_near_to_one_another_are_read_at_once(tmp_path: Path) -> None:
    inner = MemoryTransport()
    data = os.urandom(20 << 20)
    inner.put(PACK, data)
    storage = CountedStorage(inner)
    caching = cached(storage, tmp_path)
    near = 10 + GAP_BYTES
    ranges = [(0, 10), (near, near + 10), (5 << 20, (5 << 20) + 10)]
    caching.prefetch([Range(PACK, *one) for one in ranges])
    assert len(storage.requests) == 2
    for start, end in ranges:
        assert caching.get(PACK, start, end) == data[start:end]
    caching.prefetch([Range(PACK, *one) for one in ranges])
    assert len(storage.requests) == 2
    caching.prefetch([Range(PACK, 0, len(data))])
    assert all((one.end or 0) - one.start <= REQUEST_BYTES for one in storage.requests)
    assert caching.get(PACK, 0, len(data)) == data


def test_eight_requests_for_packs_are_under_way(tmp_path: Path) -> None:
    inner = MemoryTransport()
    for number in range(16):
        inner.put(f"packs/aa/{number}", DATA)
    storage = CountedStorage(inner, at_once=8)
    cached(storage, tmp_path).prefetch([Range(f"packs/aa/{number}", 0, 10) for number in range(16)])
    assert storage.most_at_once == 8


def test_what_is_not_there_is_passed_over(storage: CountedStorage, tmp_path: Path) -> None:
    caching = cached(storage, tmp_path)
    caching.prefetch([Range("packs/aa/no", 0, 10), Range(PACK, 0, 10), Range("refs/aa/no", 0, 10)])
    storage.requests.clear()
    assert caching.get(PACK, 0, 10) == DATA[:10]
    assert storage.requests == []


def test_what_cannot_be_reached_is_told_at_once(storage: CountedStorage, tmp_path: Path) -> None:
    class Down(CountedStorage):
        def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            raise StorageUnreachableError("down", key=key, operation="read")

    with pytest.raises(StorageUnreachableError):
        cached(Down(storage), tmp_path).prefetch([Range(f"refs/aa/{number}", 0, 10) for number in range(100)])


def test_a_transport_that_keeps_nothing_is_not_told(storage: CountedStorage, tmp_path: Path) -> None:
    assert isinstance(cached(storage, tmp_path), ReadsAhead)
    prefetch(storage, [Range(PACK, 0, 10)])
    assert storage.requests == []
    assert read_sound(storage, PACK, lambda: 1) == 1


# -- how much is kept


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    limit = 64 * BLOCK_BYTES
    folder = BlockFolder(str(tmp_path / "cache"), limit)
    block = bytes(BLOCK_BYTES)
    folder.write("packs/aa/used", 0, block)
    for number in range(400):
        folder.write(f"packs/aa/{number}", 0, block)
        os.utime(tmp_path / "cache", ns=(0, 0))
        assert folder.read("packs/aa/used", 0, 1)[0] == block
        assert sum(path.stat().st_size for path in files(tmp_path)) <= limit + limit // 8
    assert folder.read("packs/aa/399", 0, 1)[0] == block
    assert folder.read("packs/aa/0", 0, 1) == {}


def test_processes_that_keep_little_each_are_counted_too(tmp_path: Path) -> None:
    limit = 64 * BLOCK_BYTES
    for number in range(400):
        BlockFolder(str(tmp_path / "cache"), limit).write(f"packs/aa/{number}", 0, bytes(BLOCK_BYTES))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= limit + limit // 8


def test_leftovers_of_killed_processes_go_in_time(tmp_path: Path) -> None:
    limit = 64 * BLOCK_BYTES
    (tmp_path / "cache" / "aa").mkdir(parents=True)
    leftover = tmp_path / "cache" / "aa" / "x~0.123456789abc"
    leftover.write_bytes(bytes(BLOCK_BYTES))
    os.utime(leftover, (1, 1))
    folder = BlockFolder(str(tmp_path / "cache"), limit)
    for number in range(100):
        folder.write(f"packs/aa/{number}", 0, bytes(BLOCK_BYTES))
    assert not leftover.exists()


def test_the_cache_may_be_deleted_at_any_time(storage: CountedStorage, tmp_path: Path) -> None:
    caching = cached(storage, tmp_path)
    for start in range(0, len(DATA), BLOCK_BYTES // 2):
        assert caching.get(PACK, start, start + 10) == DATA[start : start + 10]
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert cached(storage, tmp_path).get(PACK, 0, len(DATA)) == DATA


def test_several_share_one_folder(storage: CountedStorage, tmp_path: Path) -> None:
    one, two = cached(storage, tmp_path), cached(storage, tmp_path)
    one.get(PACK, 0, len(DATA))
    storage.requests.clear()
    assert two.get(PACK, 0, len(DATA)) == DATA
    assert storage.requests == []


def test_a_full_disk_keeps_nothing_and_says_nothing(storage: CountedStorage, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    caching = cached(storage, tmp_path)
    caching.prefetch([Range(PACK, 0, len(DATA))])
    storage.requests.clear()
    assert caching.get(PACK, 0, len(DATA)) == DATA
    assert storage.requests == []  # memory holds it for a while
