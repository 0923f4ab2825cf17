"""A transport that stops at a chosen operation, as a killed process does: before it, after it, or in the middle."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from replicate.transport import KeyInfo, LocalTransport

Mode = Literal["before", "after", "torn", "leftover"]


class Stopped(BaseException):
    """The process was killed here. Nothing that the code under test does afterwards reaches the storage."""


class FaultTransport:
    """Numbers every operation from 1, and stops at one.

    Args:
        inner: The transport that does the work.
        stop_at: The number of the operation to stop at; 0 never stops.
        mode: `before` and `after` the operation; `torn`: a put leaves the first bytes under the key itself, as a
            storage without atomic writes may; `leftover`: it leaves them in a temporary file. What is not a put is
            stopped before it in the latter two.
    """

    def __init__(self, inner: LocalTransport, stop_at: int = 0, mode: Mode = "before") -> None:
        self.operations: list[tuple[str, str]] = []
        self.is_stopped = False
        self.torn_key: str | None = None
        self._inner = inner
        self._stop_at = stop_at
        self._mode = mode
        self._lock = threading.Lock()

    def _is_last(self, operation: str, key: str) -> bool:
        """Count an operation; return whether it is the one to stop at."""
        with self._lock:
            if self.is_stopped:
                raise Stopped
            self.operations.append((operation, key))
            if len(self.operations) != self._stop_at:
                return False
            self.is_stopped = True
        if self._mode == "before" or (self._mode != "after" and operation != "put"):
            raise Stopped
        return True

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """See `Transport.put`."""
        is_last = self._is_last("put", key)
        if is_last and self._mode == "torn":
            self.torn_key = key
            self._leave(key, data)
        elif is_last and self._mode == "leftover":
            self._leave("local/tmp/0123456789abcdef", data)
        else:
            self._inner.put(key, data, replace=replace)
        if is_last:
            raise Stopped

    def _leave(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Write the first two thirds of some bytes."""
        path = os.path.join(self._inner.root, key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(memoryview(data)[: len(data) * 2 // 3])

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Transport.get`."""
        is_last = self._is_last("get", key)
        data = self._inner.get(key, start, end)
        if is_last:
            raise Stopped
        return data

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """See `Transport.list`."""
        is_last = self._is_last("list", prefix)
        found = list(self._inner.list(prefix))
        if is_last:
            raise Stopped
        return iter(found)

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """See `Transport.delete`."""
        wanted = list(keys)
        is_last = self._is_last("delete", " ".join(wanted))
        left = self._inner.delete(wanted)
        if is_last:
            raise Stopped
        return left

    def probe(self) -> int:
        """See `Transport.probe`."""
        is_last = self._is_last("probe", "")
        time_ns = self._inner.probe()
        if is_last:
            raise Stopped
        return time_ns
