"""Which sessions run: locks on this machine, heartbeats elsewhere. SPEC §9.2."""

from __future__ import annotations

import pytest

from replicate.errors import StorageError
from replicate.host import Host
from replicate.liveness import ALIVE_NS, Liveness
from replicate.summary import OpenSession
from replicate.transport import MemoryTransport
from tests.histories import padded

EXPERIMENT = padded("aa")
HERE, ELSEWHERE = "box", "other"
SECOND = 10**9


class Counted(MemoryTransport):
    """Counts probes, which write to a store; its clock and this machine's are set by hand."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now_ns)
        self.now_ns = 10**18
        self.probes = 0

    def probe(self) -> int:
        """See `Transport.probe`."""
        self.probes += 1
        return super().probe()

    def beat(self, number: int = 0) -> None:
        """Send the heartbeat of a session."""
        self.put(f"beats/{EXPERIMENT.hex()}~{session(number)}", b"", replace=True)


def session(number: int) -> str:
    return f"{number:016x}"


def opened(host: str, number: int = 0) -> OpenSession:
    return OpenSession(session(number), host, 0, 0)


def liveness(store: MemoryTransport, *locked: int, monotonic: int = 0) -> Liveness:
    host = Host(name=HERE, monotonic_ns=lambda: monotonic)
    return Liveness(store, host, lambda one: one in map(session, locked))


@pytest.mark.parametrize("host", [HERE, ELSEWHERE, ""])
def test_a_session_whose_lock_is_held_runs(host: str) -> None:
    assert liveness(Counted(), 0).is_running(EXPERIMENT, opened(host))


@pytest.mark.parametrize("host", [HERE, ELSEWHERE, ""])
def test_a_session_without_lock_and_heartbeat_does_not_run(host: str) -> None:
    store = Counted()
    assert not liveness(store).is_running(EXPERIMENT, opened(host))
    assert store.probes == 0


@pytest.mark.parametrize(("age", "runs"), [(0, True), (ALIVE_NS - 1, True), (ALIVE_NS, False), (-5 * SECOND, True)])
def test_on_another_machine_a_heartbeat_counts_for_two_minutes_of_the_storages_clock(age: int, runs: bool) -> None:
    store = Counted()
    store.beat()
    store.now_ns += age
    assert liveness(store).is_running(EXPERIMENT, opened(ELSEWHERE)) is runs


def test_on_its_own_machine_the_lock_decides_alone() -> None:
    store = Counted()
    store.beat()
    assert not liveness(store).is_running(EXPERIMENT, opened(HERE))


def test_the_heartbeat_of_another_session_or_experiment_does_not_count() -> None:
    store = Counted()
    store.beat(1)
    found = liveness(store)
    assert not found.is_running(EXPERIMENT, opened(ELSEWHERE, 0))
    assert not found.is_running(padded("bb"), opened(ELSEWHERE, 1))
    assert found.is_running(EXPERIMENT, opened(ELSEWHERE, 1))


def test_a_thousand_sessions_cost_one_probe() -> None:
    store = Counted()
    store.beat(7)
    found = liveness(store)
    assert [one for one in range(1000) if found.is_running(EXPERIMENT, opened(ELSEWHERE, one))] == [7]
    assert store.probes == 1


def test_heartbeats_are_looked_at_anew_after_some_seconds() -> None:
    store = Counted()
    store.beat()
    now = [0]
    found = Liveness(store, Host(name=HERE, monotonic_ns=lambda: now[0]), lambda one: False)
    assert found.is_running(EXPERIMENT, opened(ELSEWHERE))
    store.now_ns += ALIVE_NS
    now[0] += ALIVE_NS
    assert not found.is_running(EXPERIMENT, opened(ELSEWHERE))


class ReadOnly(Counted):
    """A folder in which nothing can be written: its clock cannot be read."""

    def probe(self) -> int:
        """See `Transport.probe`."""
        raise StorageError("read-only file system")


@pytest.mark.parametrize(("age", "runs"), [(0, True), (ALIVE_NS, False)])
def test_where_nothing_can_be_written_this_machines_clock_tells(age: int, runs: bool) -> None:
    store = ReadOnly()
    store.beat()
    host = Host(name=HERE, monotonic_ns=lambda: 0, now_ns=lambda: store.now_ns + age)
    assert Liveness(store, host, lambda one: False).is_running(EXPERIMENT, opened(ELSEWHERE)) is runs


def elsewhere(is_locked: bool | None, *ages: int) -> Liveness:
    """Return what tells of sessions whose heartbeats in a repository are so old."""
    beats = {f"{EXPERIMENT.hex()}~{session(number)}": age for number, age in enumerate(ages)}
    host = Host(name=HERE, monotonic_ns=lambda: 0)
    return Liveness(Counted(), host, lambda one: is_locked, lambda: beats)


def test_a_heartbeat_in_the_repository_counts() -> None:
    found = elsewhere(None, 0, ALIVE_NS)
    assert [found.is_running(EXPERIMENT, opened(ELSEWHERE, number)) for number in range(3)] == [True, False, False]


@pytest.mark.parametrize(("is_locked", "runs"), [(None, True), (False, False), (True, True)])
def test_a_session_of_this_machines_name_is_of_another_store_if_it_never_had_a_lock_here(
    is_locked: bool | None, runs: bool
) -> None:
    assert elsewhere(is_locked, 0).is_running(EXPERIMENT, opened(HERE)) is runs


def test_of_two_heartbeats_the_younger_counts() -> None:
    store = Counted()
    store.beat(0)
    store.now_ns += ALIVE_NS
    store.beat(1)
    there = {f"{EXPERIMENT.hex()}~{session(0)}": 5, f"{EXPERIMENT.hex()}~{session(1)}": ALIVE_NS}
    found = Liveness(store, Host(name=HERE, monotonic_ns=lambda: 0), lambda one: None, lambda: there)
    assert all(found.is_running(EXPERIMENT, opened(ELSEWHERE, number)) for number in (0, 1))
