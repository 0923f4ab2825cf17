"""The ref records of one store by key, as such and folded into catalogs. SPEC §9, §10, I2."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence, Set

from replicate.errors import CorruptionError, KeyNotFoundError
from replicate.objects.ids import ObjectID
from replicate.refs import Record, RecordName, RefStore
from replicate.refs.names import experiment_prefix
from replicate.refs.records import MAX_RECORD_BYTES, decode_record
from replicate.sync.transfer import list_keys
from replicate.transport import Transport


class Contents:
    """One look at the records of a store, or of some experiments in it; bodies are read when they are asked for.

    They may be read by several threads at a time.

    Args:
        transport: The store.
        experiments: None for all.
        on_damage: Hears of catalogs and records that cannot be read.
        jobs: How many requests at a time.

    Attributes:
        refs: The store's records.
        is_empty: Whether there is no record, as `names` found.
        is_outdated: Whether something was gone that the look had found.
    """

    def __init__(
        self,
        transport: Transport,
        experiments: Collection[ObjectID] | None,
        on_damage: Callable[[CorruptionError], None],
        jobs: int,
    ) -> None:
        self._transport = transport
        self._experiments = experiments
        self._on_damage = on_damage
        self.refs = RefStore(transport, on_damage)
        prefixes = None if experiments is None else {experiment_prefix(one) for one in experiments}
        self._sizes = {info.key: info.size for info in list_keys(transport, "refs/", prefixes, jobs)}
        self._full: Mapping[str, Sequence[str]] = self.refs.catalogs()[0]
        self._folded: tuple[str, Mapping[str, bytes]] = ("", {})
        self._lock = threading.Lock()
        self.is_empty = True
        self.is_outdated = False

    def names(self, known: Set[str] = frozenset()) -> list[RecordName]:
        """Return the names of all records but those known, each once; reads these experiments' full catalogs."""
        keys = set(self._sizes)
        shards = set(self._full)
        if self._experiments is not None:
            shards &= {one.hex()[:2] for one in self._experiments}
        for shard in sorted(shards):
            keys |= {key for key in self._bodies(shard) if self._is_wanted(key)}
        self.is_empty = not keys
        names = []
        for key in keys - known:
            try:
                names.append(RecordName.parse(key))
            except CorruptionError as exc:
                self._on_damage(exc)
        return names

    def _is_wanted(self, key: str) -> bool:
        return self._experiments is None or RecordName.parse(key).experiment in self._experiments

    def holds(self, name: RecordName, size: int) -> bool:
        """Tell whether a record of so many bytes is there: one of another length was cut short."""
        if name.key in self._sizes and self._sizes[name.key] in (size, None):
            return True
        body = self._bodies(name.key[5:7]).get(name.key)
        return body is not None and len(body) == size

    def read(self, name: RecordName) -> tuple[Record, bytes] | None:
        """Return a record and its bytes; None when it is not there.

        Raises:
            CorruptionError: It is damaged wherever it lies.
        """
        damage: CorruptionError | None = None
        for read in (self._read_folded, self._read_itself):
            try:
                body = read(name.key)
                if body is not None:
                    return decode_record(name, body), body
            except CorruptionError as exc:
                damage = exc
        if damage is not None:
            raise damage
        self.is_outdated |= name.key in self._sizes
        return None

    def _read_folded(self, key: str) -> bytes | None:
        return self._bodies(key[5:7]).get(key)

    def _read_itself(self, key: str) -> bytes | None:
        if key not in self._sizes:
            return None
        try:
            return self._transport.get(key, 0, MAX_RECORD_BYTES + 1)
        except KeyNotFoundError:  # folded since the look
            return None

    def _bodies(self, shard: str) -> Mapping[str, bytes]:
        """Return what the catalogs of a shard hold; kept until another is asked for."""
        with self._lock:
            if self._folded[0] != shard:
                bodies, lost = self.refs.folded(self._full.get(shard, ()))
                self.is_outdated |= bool(lost)
                self._folded = (shard, bodies)
            return self._folded[1]
