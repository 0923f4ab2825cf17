from __future__ import annotations

import threading

import pytest

from replicate.errors import StorageError
from replicate.sync.transfer import list_keys, side_by_side
from replicate.transport import MemoryTransport
from tests.sync.stores import Remote


class Gauge:
    """Measures how many tasks, and how many bytes, are done at a time."""

    def __init__(self, together: int) -> None:
        self.most = self.most_bytes = 0
        self._now: list[int] = []
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(together)

    def act(self, size: int) -> int:
        with self._lock:
            self._now.append(size)
            self.most = max(self.most, len(self._now))
            self.most_bytes = max(self.most_bytes, sum(self._now))
        self._barrier.wait(10)
        with self._lock:
            self._now.remove(size)
        return size


def test_so_many_tasks_are_done_at_a_time() -> None:
    gauge = Gauge(4)
    done = list(side_by_side([(1, 0)] * 20, gauge.act, 4))
    assert (len(done), gauge.most) == (20, 4)


def test_they_hold_so_many_bytes_together() -> None:
    gauge = Gauge(2)
    done = list(side_by_side([(60, 60)] * 6, gauge.act, 8, most_bytes=150))
    assert (len(done), gauge.most, gauge.most_bytes) == (6, 2, 120)


def test_a_task_that_holds_more_is_done_alone() -> None:
    gauge = Gauge(1)
    tasks = [(size, size) for size in (10, 500, 10)]
    done = list(side_by_side(tasks, gauge.act, 8, most_bytes=100))
    assert [size for size, _ in done] == [10, 500, 10]
    assert gauge.most == 1 or gauge.most_bytes < 100


def test_an_error_is_an_outcome_and_a_bug_is_raised() -> None:
    def act(number: int) -> int:
        if number == 1:
            raise StorageError("no")
        if number == 2:
            raise ZeroDivisionError
        return number

    outcomes = dict(side_by_side([(0, 0), (1, 0)], act, 2))
    assert outcomes[0] == 0
    assert isinstance(outcomes[1], StorageError)
    with pytest.raises(ZeroDivisionError):
        list(side_by_side([(2, 0)], act, 2))


def test_nothing_is_begun_once_it_is_over() -> None:
    begun: list[int] = []
    done = list(side_by_side([(n, 0) for n in range(9)], begun.append, 1, is_over=lambda: len(begun) >= 3))
    assert len(done) == len(begun) == 3


def test_leaving_early_begins_nothing_more() -> None:
    begun: list[int] = []
    for task, _ in side_by_side([(n, 0) for n in range(100)], begun.append, 2):
        if task >= 3:
            break
    assert len(begun) < 10


# -- listing with few requests


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
