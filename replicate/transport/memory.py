"""A store in memory, for tests and for trying things out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from replicate.errors import KeyNotFoundError
from replicate.transport.protocol import KeyInfo, validate_key


class MemoryTransport:
    """Keeps keys in a dict. `clock` gives the storage time in ns."""

    def __init__(self, clock: Callable[[], int] = lambda: 0) -> None:
        self._keys: dict[str, tuple[bytes, int]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        """See `Transport.put`."""
        validate_key(key)
        with self._lock:
            held = self._keys.get(key)
            if held is None or replace or held[0] != data:
                self._keys[key] = (bytes(data), self._clock())

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `Transport.get`."""
        validate_key(key)
        with self._lock:
            held = self._keys.get(key)
        if held is None:
            raise KeyNotFoundError(f"{key} is not in the store", key=key)
        return held[0][start:end]

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        """See `Transport.list`."""
        with self._lock:
            found = [KeyInfo(k, len(v), t) for k, (v, t) in self._keys.items() if k.startswith(prefix)]
        yield from (info for info in found if not info.key.startswith("local/"))

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        """See `Transport.delete`."""
        gone = [validate_key(key) for key in keys]
        with self._lock:
            for key in gone:
                self._keys.pop(key, None)
        return []

    def probe(self) -> int:
        """See `Transport.probe`."""
        return self._clock()
