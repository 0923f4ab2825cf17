"""Which sessions run: by the lock that a running process holds, or by the heartbeat it sends. Floor 4. SPEC §5, §5.3.

On the session's own machine the lock tells at once: the kernel lets go of it however a process ends, so neither a pid
that is used again nor a file that outlived a reboot looks alive. Elsewhere a heartbeat counts that is younger than two
minutes by the storage's own clock; and the lock, where the file system shares locks. Heartbeats lie in the store that a
session saves to, and in the repository elsewhere that it is copied to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from replicate.errors import StorageError
from replicate.host import Host
from replicate.objects.ids import ObjectID
from replicate.summary import ExperimentSummary, OpenSession
from replicate.transport import Transport

BEAT_PREFIX = "beats/"
ALIVE_NS = 120 * 10**9
_FRESH_NS = 5 * 10**9


class Liveness:
    """Tells which sessions of a store run.

    Args:
        transport: The store.
        host: This machine.
        is_locked: Tells whether a process holds the lock of a session; None if there never was one in this store.
        elsewhere: Returns the heartbeats in a repository elsewhere, as `beats_in` does; None if there is none.
    """

    def __init__(
        self,
        transport: Transport,
        host: Host,
        is_locked: Callable[[str], bool | None],
        elsewhere: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self._transport = transport
        self._elsewhere = elsewhere
        self._host = host
        self._is_locked = is_locked
        self._beats: dict[str, int] = {}
        self._seen_ns: int | None = None

    def is_running(self, experiment: ObjectID, session: OpenSession) -> bool:
        """Tell whether a session of which no end is recorded runs."""
        is_locked = self._is_locked(session.session)
        if is_locked:
            return True
        if session.host == self._host.name and (is_locked is False or self._elsewhere is None):
            return False  # else it runs in another project, or on a machine of the same name
        age = self._ages().get(f"{experiment.hex()}~{session.session}")
        return age is not None and age < ALIVE_NS

    def running(self, summary: ExperimentSummary) -> list[OpenSession]:
        """Return the sessions of an experiment that run."""
        return [one for one in summary.sessions if self.is_running(summary.experiment_id, one)]

    def _ages(self) -> Mapping[str, int]:
        """Return how old the heartbeats are, in ns, by experiment and session; listed anew when 5 s have gone by."""
        now = self._host.monotonic_ns()
        if self._seen_ns is None or now - self._seen_ns > _FRESH_NS:
            self._beats = beats_in(self._transport, self._host)
            if self._elsewhere is not None:
                there = self._elsewhere()
                self._beats |= {key: min(age, self._beats.get(key, age)) for key, age in there.items()}
            self._seen_ns = now
        return self._beats


def beats_in(transport: Transport, host: Host) -> dict[str, int]:
    """Return how old the heartbeats in a store are by its own clock, in ns, by experiment and session.

    Of a folder that may only be read nothing tells the time: this machine's clock stands for it.
    """
    times = {info.key: info.time_ns for info in transport.list(BEAT_PREFIX)}
    try:
        storage = transport.probe() if times else 0
    except StorageError:
        storage = host.now_ns()
    return {key.removeprefix(BEAT_PREFIX): storage - time for key, time in times.items() if time is not None}
