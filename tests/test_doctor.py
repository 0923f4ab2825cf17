"""What storage has to do for a store, and what is told when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replicate.errors import KeyNotFoundError, StorageDeniedError, StorageUnreachableError
from replicate.host import Host
from replicate.maintenance.doctor import Finding, examine
from replicate.repository import MARKER, MARKER_KEY
from replicate.transport import KeyInfo, LocalTransport, MemoryTransport, Transport

SECOND = 10**9
NOW = 1_800_000_000 * SECOND
TRIALS = ["reach", "write", "read", "list", "ranges", "latency", "upload", "download", "clock", "delete"]


@dataclass
class Clock:
    """A clock that goes on by a millisecond whenever it is looked at."""

    time_ns: int = NOW
    ahead_ns: int = 0
    looks: list[int] = field(default_factory=list)

    def now(self) -> int:
        self.time_ns += SECOND // 1_000
        return self.time_ns

    def storage(self) -> int:
        return self.time_ns + self.ahead_ns


def host(clock: Clock) -> Host:
    return Host(now_ns=clock.now, monotonic_ns=clock.now)


def found(transport: Transport, clock: Clock | None = None) -> dict[str, Finding]:
    return {one.name: one for one in examine(transport, "memory://x", host(clock or Clock()))}


def wrong(transport: Transport, clock: Clock | None = None) -> dict[str, str]:
    return {name: one.text for name, one in found(transport, clock).items() if not one.is_ok}


class Storage(MemoryTransport):
    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__((clock or Clock()).storage)
        super().put(MARKER_KEY, MARKER)

    @property
    def keys(self) -> list[str]:
        return sorted(info.key for info in MemoryTransport.list(self, ""))


def test_good_storage_is_in_order_and_left_as_it_was() -> None:
    storage = Storage()
    findings = found(storage)
    assert [*findings] == TRIALS
    assert all(one.is_ok and one.text and not one.advice for one in findings.values())
    assert findings["latency"].text == "1 ms for a small read"
    assert findings["upload"].value == (8 << 20) * 1_000
    assert storage.keys == [MARKER_KEY]


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path / "store")
    transport.put(MARKER_KEY, MARKER)
    before = sorted((tmp_path / "store").rglob("*"))
    assert [one.name for one in examine(transport, str(tmp_path), Host()) if one.is_ok] == TRIALS
    assert sorted((tmp_path / "store").rglob("*")) == before


def test_a_folder_without_a_store_is_not_written_to(tmp_path: Path) -> None:
    findings = list(examine(LocalTransport(tmp_path), str(tmp_path), Host()))
    assert [(one.name, one.is_ok, one.text) for one in findings] == [
        ("reach", False, f"there is no store at {tmp_path}")
    ]
    assert list(tmp_path.iterdir()) == []


def test_empty_storage_can_be_tried_out_before_a_store_is_made() -> None:
    storage = MemoryTransport(Clock().storage)
    findings = found(storage)
    assert findings["reach"].text == "no store yet: `replicate push --create` makes one"
    assert [name for name, one in findings.items() if one.is_ok] == TRIALS
    assert list(storage.list("")) == []


class Forgetful(Storage):
    """What was written is there a little later only."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key.startswith("probe/"):
            raise KeyNotFoundError("no", key=key)
        return super().get(key, start, end)


class Unlisted(Storage):
    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        return (info for info in super().list(prefix) if not info.key.startswith("probe/"))


class Missized(Storage):
    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        return (info._replace(size=7) if info.key.startswith("probe/") else info for info in super().list(prefix))


class Altering(Storage):
    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        data = super().get(key, start, end)
        return data.replace(b"\n", b" ") if key.startswith("probe/") else data


class Whole(Storage):
    """Ranges are ignored."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return super().get(key)


class Undeletable(Storage):
    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        return [*keys]


class NotToDelete(Storage):
    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        raise StorageDeniedError("no permission to delete", operation="delete", hint="ask")


class ReadOnly(Storage):
    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        raise StorageDeniedError("no permission to write", operation="write", hint="ask for it")


class Down(Storage):
    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        raise StorageUnreachableError("cannot list", operation="list", hint="check the network")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Forgetful, {"read": "what was written cannot be read right afterwards"}),
        (Unlisted, {"list": "what was written is not listed right afterwards"}),
        (Missized, {"list": "a key of 1,024 bytes is listed with 7"}),
        (Altering, {"read": "what is read is not what was written"}),
        (Whole, {"ranges": "bytes 3 to 10 are not those that were written"}),
        (Undeletable, {"delete": "cannot be deleted"}),
        (NotToDelete, {"delete": "cannot be deleted: no permission to delete"}),
        (ReadOnly, {"write": "no permission to write"}),
        (Down, {"reach": "cannot list"}),
    ],
)
def test_what_is_wrong_is_told(make: Callable[[], Storage], expected: dict[str, str]) -> None:
    findings = found(make())
    for name, text in expected.items():
        assert not findings[name].is_ok
        assert text in findings[name].text
        assert findings[name].advice


@pytest.mark.parametrize("make", [Forgetful, Unlisted, Missized, Altering, Whole])
def test_nothing_is_left_behind_whatever_is_wrong(make: Callable[[], Storage]) -> None:
    storage = make()
    assert wrong(storage)
    assert storage.keys == [MARKER_KEY]


def test_nothing_is_left_behind_by_one_who_stops() -> None:
    storage = Storage()
    for finding in examine(storage, "memory://x", host(Clock())):
        if finding.name == "upload":
            break
    del finding
    assert storage.keys == [MARKER_KEY]


def test_what_stays_is_named() -> None:
    storage = Undeletable()
    text = wrong(storage)["delete"]
    assert all(key in text for key in storage.keys if key != MARKER_KEY)


@pytest.mark.parametrize(
    ("seconds", "is_ok", "text"),
    [
        (0, True, "within a minute of this machine's"),
        (30, True, "within a minute of this machine's"),
        (-120, True, "this machine's is 2 min ahead of its"),
        (3_600, False, "the clocks differ: this machine's is 60 min behind its"),
        (-3 * 365 * 86_400, False, "the clocks differ: this machine's is"),
    ],
)
def test_a_clock_that_is_off_is_told(seconds: int, is_ok: bool, text: str) -> None:
    clock = Clock(ahead_ns=seconds * SECOND)
    finding = found(Storage(clock), clock)["clock"]
    assert finding.is_ok == is_ok
    assert finding.text.startswith(text)
