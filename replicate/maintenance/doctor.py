"""Does storage keep what a store needs of it? Tried out with keys of its own, which are gone afterwards. SPEC §12."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replicate.errors import KeyNotFoundError, ReplicateError, StorageError
from replicate.host import Host
from replicate.repository import check_format
from replicate.text import format_bytes, format_seconds
from replicate.transport import LocalTransport, Transport

SPEED_BYTES = 8 << 20
_READS = 5
_SECOND = 10**9
_TOLD_SKEW_NS = 60 * _SECOND
_MOST_SKEW_NS = 15 * 60 * _SECOND
_USE_ANOTHER = "use other storage: a store needs that what is written is there for everyone at once"
_CONTENT = bytes(range(256)) * 4
_RANGES = ((0, None), (3, 10), (1_000, None), (1_000, 9_999), (-10, None), (7, 7))


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one trial.

    Attributes:
        name: Of the trial: one word.
        is_ok: Whether a store can live with it.
        text: What was found, or what is wrong.
        advice: What to do, "" when nothing has to be done.
        value: What was measured, None where it is no number: `latency` and `clock` in ns (how much this machine's is
            ahead), `upload` and `download` in bytes per second.
    """

    name: str
    is_ok: bool
    text: str = ""
    advice: str = ""
    value: float | None = None


class _Failed(Exception):
    """A trial that storage failed by what it did, not by an error."""

    def __init__(self, text: str, advice: str) -> None:
        super().__init__(text, advice)
        self.text = text
        self.advice = advice


def examine(transport: Transport, place: str, host: Host) -> Iterator[Finding]:
    """Try out what a store needs of storage, and yield what comes of each trial. Never raises for what is wrong.

    Writes 8 MiB below `probe/`, which other readers ignore, and deletes all of it, whatever happens.

    Args:
        transport: The storage.
        place: Its name in messages.
        host: Clock and randomness.
    """
    examination = _Examination(transport, place, host)
    try:
        yield from examination.run()
    finally:
        examination.clean_up()


class _Examination:
    def __init__(self, transport: Transport, place: str, host: Host) -> None:
        self._transport = transport
        self._place = place
        self._host = host
        self._stem = f"probe/{host.random(16).hex()}"
        self._key = f"{self._stem}-small"
        self._written: list[str] = []

    def run(self) -> Iterator[Finding]:
        reached = self._try("reach", self._reach)
        yield reached
        if not reached.is_ok:
            return
        written = self._try("write", self._write)
        yield written
        if written.is_ok:
            yield self._try("read", self._read)
            yield self._try("list", self._list)
            yield self._try("ranges", self._ranges)
            yield self._try("latency", self._latency)
            yield from self._speeds()
        yield self._try("clock", self._clock)
        if self._written:
            yield self._try("delete", self._delete)

    def clean_up(self) -> None:
        """Delete what is still there."""
        if self._written:
            with contextlib.suppress(ReplicateError):
                self._transport.delete(self._written)
        if isinstance(self._transport, LocalTransport):
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self._transport.root, "probe"))

    def _try(self, name: str, act: Callable[[], tuple[str, float | None]]) -> Finding:
        try:
            text, value = act()
        except _Failed as exc:
            return Finding(name, False, exc.text, exc.advice)
        except ReplicateError as exc:
            return Finding(name, False, exc.message, exc.hint or "")
        return Finding(name, True, text, value=value)

    # -- trials --------------------------------------------------------------------------------------------------

    def _reach(self) -> tuple[str, None]:
        names = check_format(self._transport, self._place)
        if "v1" in names:
            return "a store of format 1", None
        if isinstance(self._transport, LocalTransport):
            raise _Failed(f"there is no store at {self._place}", "correct the path, or `replicate push --create`")
        return "no store yet: `replicate push --create` makes one", None

    def _put(self, key: str, data: bytes) -> None:
        self._written.append(key)  # even a put that fails may have written
        self._transport.put(key, data)

    def _write(self) -> tuple[str, None]:
        self._put(self._key, _CONTENT)
        self._put(self._key, _CONTENT)  # as after an answer that was lost (I0)
        return "keys can be put, and put again", None

    def _read(self) -> tuple[str, None]:
        try:
            data = self._transport.get(self._key)
        except KeyNotFoundError as exc:
            raise _Failed("what was written cannot be read right afterwards", _USE_ANOTHER) from exc
        if data != _CONTENT:
            raise _Failed("what is read is not what was written", "look for a proxy or a gateway that alters it")
        return "what was written is read right afterwards", None

    def _list(self) -> tuple[str, None]:
        found = {info.key: info.size for info in self._transport.list(f"{self._stem}-")}
        if self._key not in found:
            raise _Failed("what was written is not listed right afterwards", _USE_ANOTHER)
        if found[self._key] not in (len(_CONTENT), None):
            raise _Failed(f"a key of {len(_CONTENT):,} bytes is listed with {found[self._key]:,}", _USE_ANOTHER)
        return "what was written is listed right afterwards", None

    def _ranges(self) -> tuple[str, None]:
        for start, end in _RANGES:
            if self._transport.get(self._key, start, end) != _CONTENT[start:end]:
                raise _Failed(f"bytes {start} to {end or 'the end'} are not those that were written", _USE_ANOTHER)
        return "parts of a key can be read", None

    def _latency(self) -> tuple[str, float]:
        times = []
        for _ in range(_READS):
            began = self._host.monotonic_ns()
            self._transport.get(self._key, 0, 100)
            times.append(self._host.monotonic_ns() - began)
        median = statistics.median(times)
        return f"{format_seconds(median / _SECOND)} for a small read", median

    def _speeds(self) -> Iterator[Finding]:
        key = f"{self._stem}-large"
        data = self._host.random(SPEED_BYTES)

        def read() -> None:
            if self._transport.get(key) != data:
                raise _Failed("what is read is not what was written", "look for a proxy or a gateway that alters it")

        yield self._try("upload", lambda: self._speed(lambda: self._put(key, data)))
        yield self._try("download", lambda: self._speed(read))

    def _speed(self, act: Callable[[], None]) -> tuple[str, float]:
        began = self._host.monotonic_ns()
        act()
        speed = SPEED_BYTES * _SECOND / max(1, self._host.monotonic_ns() - began)
        return f"{format_bytes(int(speed))} a second, roughly", speed

    def _clock(self) -> tuple[str, float]:
        before = self._host.now_ns()
        storage = self._transport.probe()
        after = self._host.now_ns()
        skew = max(0, before - storage) - max(0, storage - after)  # this machine is so much ahead
        text = f"this machine's is {format_seconds(abs(skew) / _SECOND)} {'ahead of' if skew > 0 else 'behind'} its"
        if abs(skew) > _MOST_SKEW_NS:
            raise _Failed(f"the clocks differ: {text}", "set this machine's clock: times are wrong, logins may fail")
        return (text if abs(skew) > _TOLD_SKEW_NS else "within a minute of this machine's"), float(skew)

    def _delete(self) -> tuple[str, None]:
        try:
            left = self._transport.delete(self._written)
            left = [*left, *(info.key for info in self._transport.list(f"{self._stem}-"))]
            why = ""
        except StorageError as exc:
            left, why = self._written, f": {exc.message}"
        if left:
            names = " and ".join(sorted(set(left)))
            advice = "ask for permission to delete objects, and delete these keys by hand; saving needs no deletion"
            raise _Failed(f"{names} cannot be deleted{why}", advice)
        self._written.clear()
        return "keys can be deleted", None
