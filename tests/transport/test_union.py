"""Two stores read as one: the contract holds of the near one, and the far one is asked only for what that lacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.errors import (
    KeyNotFoundError,
    ReplicateError,
    StorageMissingError,
    StorageUnreachableError,
)
from replicate.transport import MemoryTransport, Range, Transport, prefetch
from replicate.transport.caching import CachingTransport
from replicate.transport.union import UnionTransport
from tests.elsewhere import CountedStorage, Request
from tests.transport.contract import TransportContract

GONE = StorageUnreachableError("no answer from s3://bucket", key="", operation="list", hint="check the network")
KEYS = ("packs/aa/one", "refs/aa/one", "cat/h~one")


def unreachable() -> Transport:
    raise GONE


def united(
    near: Transport, connect: Callable[[], Transport], losses: list[ReplicateError] | None = None
) -> UnionTransport:
    return UnionTransport(near, connect, (losses if losses is not None else []).append)


class TestUnionTransport(TransportContract):
    @pytest.fixture
    def transport(self) -> Transport:
        return united(MemoryTransport(itertools.count(1).__next__), MemoryTransport)


def test_what_lies_in_either_store_is_listed_and_read() -> None:
    near, far = MemoryTransport(), MemoryTransport()
    for number, key in enumerate(KEYS):
        near.put(key, b"both")
        far.put(key, b"both")
        near.put(f"{key}-near", bytes(number))
        far.put(f"{key}-far", bytes(number))
    union = united(near, lambda: far)
    assert sorted(info.key for info in union.list("")) == sorted(
        f"{key}{end}" for key in KEYS for end in ("", "-near", "-far")
    )
    for key in KEYS:
        assert [info.key for info in union.list(f"{key}-")] == [f"{key}-near", f"{key}-far"]
        assert [union.get(one) for one in (key, f"{key}-near", f"{key}-far")] == [
            b"both",
            near.get(f"{key}-near"),
            far.get(f"{key}-far"),
        ]


def test_control_keys_and_heartbeats_are_those_of_the_near_store() -> None:
    far = MemoryTransport()
    far.put("ctl/v1", b"")
    far.put("beats/x", b"")
    union = united(MemoryTransport(), lambda: far)
    assert list(union.list("ctl/")) == list(union.list("beats/")) == []
    with pytest.raises(KeyNotFoundError):
        union.get("ctl/v1")


def test_nothing_is_written_to_the_far_store() -> None:
    near, far = MemoryTransport(), CountedStorage(MemoryTransport())
    far.inner.put("refs/aa/far", b"")
    union = united(near, lambda: far)
    union.put("refs/aa/one", b"1")
    union.put("beats/x", b"", replace=True)
    assert union.delete(["refs/aa/one", "refs/aa/far"]) == []
    assert union.probe() == 0
    assert far.requests == []
    assert [info.key for info in far.inner.list("")] == ["refs/aa/far"]


def test_the_far_store_is_connected_to_once_and_only_when_something_is_asked_of_it() -> None:
    connected = []

    def connect() -> Transport:
        connected.append(1)
        return MemoryTransport()

    near = MemoryTransport()
    near.put("refs/aa/one", b"1")
    union = united(near, connect)
    assert union.get("refs/aa/one") == b"1"
    assert [*union.list("ctl/"), *union.list("beats/")] == []
    prefetch(union, [Range("refs/aa/one", 0, 10)])
    assert connected == []
    assert [info.key for info in union.list("refs/")] == ["refs/aa/one"]
    union.list("cat/")
    assert connected == [1]


def test_only_what_is_not_here_is_read_ahead(tmp_path: Path) -> None:
    near, far = MemoryTransport(), CountedStorage(MemoryTransport())
    for number in range(4):
        for store in (near, far.inner)[number % 2 :]:
            store.put(f"refs/aa/{number}", bytes(number))
    union = united(near, lambda: CachingTransport(far, str(tmp_path), 1 << 30))
    prefetch(union, [Range(f"refs/aa/{number}", 0, 100) for number in range(5)])  # one is nowhere
    assert sorted(far.requests) == [Request("get", f"refs/aa/{number}", 0, 100) for number in (1, 3, 4)]
    far.requests.clear()
    assert [union.get(f"refs/aa/{number}", 0, 100) for number in range(4)] == [bytes(number) for number in range(4)]
    assert far.requests == []


def test_what_the_far_store_listed_is_known() -> None:
    near, far = MemoryTransport(), MemoryTransport()
    near.put("refs/aa/near", b"")
    far.put("refs/aa/far", b"")
    union = united(near, lambda: far)
    assert not union.has_far("refs/aa/far")
    assert {info.key for info in union.list("refs/")} == {"refs/aa/near", "refs/aa/far"}
    assert (union.has_far("refs/aa/far"), union.has_far("refs/aa/near"), union.loss) == (True, False, None)


# -- when something is wrong


def test_a_far_store_that_cannot_be_reached_is_told_once_and_left_out() -> None:
    near = MemoryTransport()
    near.put("refs/aa/one", b"1")
    losses: list[ReplicateError] = []
    union = united(near, unreachable, losses)
    for _ in range(3):
        assert [info.key for info in union.list("refs/")] == ["refs/aa/one"]
        prefetch(union, [Range("packs/aa/one", 0, 10)])
    assert losses == [GONE]
    assert union.loss is not None


def test_a_pack_that_is_not_here_is_an_error_that_says_why() -> None:
    with pytest.raises(
        StorageUnreachableError, match="packs/aa/one is not on this machine: no answer from s3"
    ) as raised:
        united(MemoryTransport(), unreachable).get("packs/aa/one", 0, 10)
    assert raised.value.hint == "check the network"
    with pytest.raises(KeyNotFoundError):
        united(MemoryTransport(), MemoryTransport).get("packs/aa/one", 0, 10)


class Failing(MemoryTransport):
    """Answers so many requests; then there is no bucket any more."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.answers = answers

    def _count(self) -> None:
        self.answers -= 1
        if self.answers < 0:
            raise StorageMissingError("there is no s3://bucket")

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._count()
        return super().get(key, start, end)


def test_a_record_that_cannot_be_read_any_more_is_one_that_is_not_there() -> None:
    """So that who lists looks again, and finds what is on this machine."""
    far = Failing(1)
    far.put("refs/aa/one", b"1")
    far.put("packs/aa/one", b"1")
    losses: list[ReplicateError] = []
    union = united(MemoryTransport(), lambda: far, losses)
    assert union.get("refs/aa/one") == b"1"
    with pytest.raises(StorageMissingError):  # a pack: who restores is told what is wrong
        union.get("packs/aa/one")
    assert union.loss is None
    with pytest.raises(KeyNotFoundError):
        union.get("refs/aa/one")
    assert [union.loss] == losses
    assert list(union.list("refs/")) == []


def test_what_is_damaged_here_is_read_there_from_then_on() -> None:
    near, far = MemoryTransport(), MemoryTransport()
    near.put("packs/aa/one", b"torn")
    far.put("packs/aa/one", b"whole")
    near.put("packs/aa/two", b"torn")
    union = united(near, lambda: far)
    assert union.get("packs/aa/one") == b"torn"
    assert union.forget("packs/aa/one")
    assert union.get("packs/aa/one") == b"whole"
    assert not union.forget("packs/aa/one")
    assert union.forget("packs/aa/two")
    assert union.get("packs/aa/two") == b"torn"  # it lies nowhere else
