"""Stores elsewhere without a network: requests are counted as storage counts them, and how many are under way."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from replicate.host import Host
from replicate.reporting import Reporter, SilentReporter
from replicate.repository import Repository
from replicate.transport import KeyInfo, LocalTransport, MemoryTransport, Transport

PAGE = 1_000
PROBE_REQUESTS = 3
URL = "memory://elsewhere"


class Request(NamedTuple):
    """One request. A range's end is None where everything is asked for."""

    verb: str
    key: str
    start: int = 0
    end: int | None = None


class CountedStorage:
    """A transport whose requests are counted: a listing makes one for each 1,000 keys.

    Args:
        inner: The store.
        at_once: A `get` is answered only when so many are under way, or the test fails; 0 answers at once.
    """

    def __init__(self, inner: Transport, at_once: int = 0) -> None:
        self.inner = inner
        self.requests: builtins.list[Request] = []
        self.most_at_once = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._together = threading.Barrier(at_once, timeout=30) if at_once else None

    def gets(self, prefix: str = "") -> builtins.list[Request]:
        """Return the requests that read a key."""
        return [one for one in self.requests if one.verb == "get" and one.key.startswith(prefix)]

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        with self._lock:
            self.requests.append(Request("get", key, start, end))
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            if self._together is not None:
                self._together.wait()
            return self.inner.get(key, start, end)
        finally:
            with self._lock:
                self._under_way -= 1

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        self.requests.append(Request("put", key))
        self.inner.put(key, data, replace=replace)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        found = [*self.inner.list(prefix, details=details)]
        self.requests += [Request("list", prefix)] * max(1, -(-len(found) // PAGE))
        return iter(found)

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        self.requests.append(Request("delete", ""))
        return self.inner.delete(keys)

    def probe(self) -> int:
        self.requests += [Request("probe", "")] * PROBE_REQUESTS
        return self.inner.probe()


def copied(store: Path) -> MemoryTransport:
    """Return what lies in a store's folder as storage elsewhere would have it."""
    source, target = LocalTransport(store), MemoryTransport()
    for info in source.list(""):
        target.put(info.key, source.get(info.key))
    return target


def elsewhere(
    storage: Transport,
    caches: Path,
    reporter: Reporter | None = None,
    *,
    limit_bytes: int = 1 << 30,
    lists: bool = False,
) -> Repository:
    """Open a store as one who has no project does."""
    return Repository.elsewhere(
        URL,
        Host(),
        reporter or SilentReporter(),
        caches=str(caches),
        transport=storage,
        limit_bytes=limit_bytes,
        lists=lists,
    )


def coalesced(requests: Iterable[Request], gap: int, most: int) -> int:
    """Return how many ranges are left of exact ones, when those near to one another are read at once."""
    by_key: dict[str, builtins.list[tuple[int, int]]] = {}
    for one in requests:
        assert one.end is not None
        by_key.setdefault(one.key, []).append((one.start, one.end))
    return sum(_ranges(sorted(found), gap, most) for found in by_key.values())


def _ranges(ranges: Sequence[tuple[int, int]], gap: int, most: int) -> int:
    spans: builtins.list[builtins.list[int]] = []
    for start, end in ranges:
        if spans and start <= spans[-1][1] + gap:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    return sum(-(-(end - start) // most) for start, end in spans)


def sizes(requests: Iterable[Request], held: Mapping[str, int]) -> int:
    """Return how many bytes some requests asked for, of keys of these lengths."""
    total = 0
    for one in requests:
        length = held[one.key]
        total += max(0, min(length, length if one.end is None else one.end) - one.start)
    return total
