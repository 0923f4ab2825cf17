"""Tasks are done side by side, so many at a time, and hold so many bytes together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from replicate.errors import ReplicateError, StorageError
from replicate.objects.ahead import WINDOW_BYTES, Ahead
from replicate.objects.codecs import Encoding
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.pack import Entry, Place
from replicate.threads import side_by_side, worker_pool
from replicate.transport import MemoryTransport, Range
from replicate.transport.remote import loop
from tests.builders import some_id


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


def test_in_order_what_ends_early_waits_for_its_turn() -> None:
    is_second_done = threading.Event()

    def act(number: int) -> int:
        if number == 0:
            assert is_second_done.wait(10)
        if number == 1:
            is_second_done.set()
        return number

    assert [one for one, _ in side_by_side([(n, 0) for n in range(20)], act, 4, in_order=True)] == list(range(20))


def test_in_order_what_waits_for_its_turn_is_held() -> None:
    begun: list[int] = []
    for task, outcome in side_by_side([(n, 10) for n in range(20)], begun.append, 8, in_order=True, most_bytes=40):
        assert outcome is None
        assert len(begun) <= task + 4


class Held:
    """Stands for the bytes of a pack; knows how many such are in memory."""

    count = 0

    def __init__(self) -> None:
        Held.count += 1

    def __del__(self) -> None:
        Held.count -= 1


@pytest.mark.parametrize("in_order", [False, True])
def test_a_result_is_let_go_before_more_is_begun(in_order: bool) -> None:
    def act(number: int) -> Held:
        held = Held()
        assert Held.count <= 2
        return held

    for _, outcome in side_by_side([(n, 1) for n in range(50)], act, 8, in_order=in_order, most_bytes=2):
        assert isinstance(outcome, Held)
        del outcome
    assert Held.count == 0


def test_an_error_does_not_hold_what_failed() -> None:
    def put(data: Held) -> None:
        try:
            raise ValueError
        except ValueError as exc:
            raise StorageError("the disk is full") from exc

    def act(number: int) -> None:
        data = Held()
        put(data)

    failures: list[ReplicateError] = []
    for _, outcome in side_by_side([(n, 1) for n in range(20)], act, 4):
        assert isinstance(outcome, ReplicateError)
        failures.append(outcome)
    assert len(failures) == 20
    assert Held.count == 0


def closes(generator: Iterator[object]) -> bool:
    """Tell whether a generator is closed without waiting for anybody."""
    assert isinstance(generator, Generator)
    closing = threading.Thread(target=generator.close, daemon=True)
    closing.start()
    closing.join(10)
    return not closing.is_alive()


def test_a_generator_that_is_left_half_way_waits_for_no_thread() -> None:
    """It may be the collector of garbage that closes it, while a thread is being started: that could not go on."""
    begun, is_over = threading.Event(), threading.Event()

    def act(number: int) -> int:
        if number:
            begun.set()
            is_over.wait(60)
        return number

    outcomes = side_by_side([(0, 0), (1, 0)], act, 2)
    assert next(outcomes) == (0, 0)
    assert begun.wait(60)
    try:
        assert closes(outcomes)
    finally:
        is_over.set()


def test_who_reads_ahead_and_is_left_half_way_waits_for_no_thread() -> None:
    begun, is_over = threading.Event(), threading.Event()

    class Slow(MemoryTransport):
        def prefetch(self, ranges: Sequence[Range]) -> None:
            if asked:
                begun.set()
                is_over.wait(60)
            asked.append(ranges)

        def forget(self, key: str) -> bool:
            return False

    class Somewhere:
        def find(self, wanted: ObjectID) -> Sequence[Place]:
            entry = Entry(wanted, Kind.BLOB, Encoding.RAW, 0, 0, WINDOW_BYTES, WINDOW_BYTES)
            return [Place(some_id("pack"), WINDOW_BYTES, entry)]

    asked: list[Sequence[Range]] = []
    items = Ahead(Slow(), Somewhere()).in_windows([some_id("one"), some_id("two")], lambda one: [one])
    assert next(items) == some_id("one")
    assert begun.wait(60)
    try:
        assert closes(items)
    finally:
        is_over.set()


def test_a_pool_waits_for_what_was_begun_where_an_error_ends_its_block() -> None:
    begun, is_over = threading.Event(), threading.Event()
    done: list[int] = []

    def work() -> None:
        begun.set()
        is_over.wait(60)
        done.append(1)

    def fail() -> None:
        with worker_pool(1, "test") as pool:
            pool.submit(work)
            pool.submit(work)
            assert begun.wait(60)
            threading.Timer(0.05, is_over.set).start()
            raise StorageError("no")

    with pytest.raises(StorageError):
        fail()
    assert done == [1]


@pytest.mark.parametrize("is_nested", [False, True])
def test_who_is_interrupted_does_not_wait_for_what_threads_wait_for(is_nested: bool) -> None:
    """Storage that hangs would keep a program from its end for minutes."""
    begun = threading.Barrier(3)

    def wait() -> None:
        begun.wait(10)
        loop.run(asyncio.sleep(3600))

    def wait_in_another() -> None:
        with worker_pool(1, "inner") as inner:
            inner.submit(wait).result()

    ended: list[Future[None]] = []

    def begin() -> None:
        with worker_pool(2, "outer") as pool:
            ended.extend(pool.submit(wait_in_another if is_nested else wait) for _ in range(2))
            begun.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert [type(one.exception(0)) for one in ended] == [CancelledError, CancelledError]
