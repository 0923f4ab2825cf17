from __future__ import annotations

from replicate.sync.transfer import list_keys
from replicate.transport import MemoryTransport
from tests.sync.stores import Remote


def filled(count: int) -> Remote:
    inner = MemoryTransport()
    for number in range(count):
        inner.put(f"packs/{number:05}", b"x")
    return Remote(inner)


def test_a_few_keys_of_few_take_one_listing() -> None:
    remote = filled(500)
    found = list_keys(remote, "packs/", {"packs/00007", "packs/99999"}, 4)
    assert [info.key for info in found] == ["packs/00007"]
    assert remote.counted().total() == 1


def test_a_few_keys_of_many_are_asked_for_one_by_one() -> None:
    remote = filled(3_000)
    found = list_keys(remote, "packs/", {"packs/00007", "packs/02999"}, 4)
    assert sorted(info.key for info in found) == ["packs/00007", "packs/02999"]
    assert remote.counted().total() == 3


def test_no_key_takes_no_request() -> None:
    remote = filled(1)
    assert list(list_keys(remote, "packs/", set(), 4)) == []
    assert remote.counted().total() == 0


def test_all_keys_take_one_listing() -> None:
    assert len(list(list_keys(filled(2_500), "packs/", None, 4))) == 2_500
