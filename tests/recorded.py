"""Stores that hold ref records only, in memory: as many experiments as a test needs, at the speed of a dict."""

from __future__ import annotations

import builtins
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.objects.model import Commit, commit_id, encode_commit
from replicate.overview import Overview
from replicate.refs import RefStore, TagRecord, TombstoneRecord
from replicate.refs.cache import ShardCache
from replicate.repository import MARKER, MARKER_KEY, Repository
from replicate.transport import KeyInfo, MemoryTransport
from tests.builders import some_id
from tests.projects import SampleProject

DAY_NS = 86_400 * 10**9
_PACK = some_id("pack")
_PLACE = {"packset": [_PACK], "meta": [_PACK], "locator": [bytes(_PACK), 32, 100]}


class CountingTransport(MemoryTransport):
    """Keeps what is asked of it, and lets a test set the storage's clock."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now)
        self.now = 0
        self.listed: list[str] = []
        self.read: list[str] = []

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        self.listed.append(prefix)
        return super().list(prefix, details=details)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.read.append(key)
        return super().get(key, start, end)

    def infos(self, prefix: str) -> builtins.list[KeyInfo]:
        """Return a listing that is not counted."""
        return sorted(super().list(prefix))

    def keys(self, prefix: str) -> builtins.list[str]:
        return [info.key for info in self.infos(prefix)]

    def forget(self) -> None:
        self.listed.clear()
        self.read.clear()


class RecordedStore:
    """Publishes records into a store. Times are counted up by one with every record."""

    def __init__(self, transport: MemoryTransport | None = None, seed: int = 0) -> None:
        self.transport = transport or CountingTransport()
        self.transport.put(MARKER_KEY, MARKER)
        self.damage: list[str] = []
        self.refs = RefStore(self.transport, lambda error: self.damage.append(error.message))
        self._random = random.Random(seed)
        self._time = 0

    def _tick(self) -> int:
        self._time += 1
        return self._time

    def session(self) -> str:
        return self._random.randbytes(8).hex()

    def begin(self, session: str | None = None, **given: Any) -> ObjectID:
        """Publish a root and the start of a session, and return the experiment's id."""
        session = session or self.session()
        commit = Commit(some_id("tree"), "ada@box", self._tick(), nonce=self._random.randbytes(16), **given)
        experiment = self._publish(commit, None, session)
        self.start(experiment, session)
        return experiment

    def start(self, experiment: ObjectID, session: str, seq: int = 0) -> None:
        self.refs.publish(experiment, seq, session, "s", {"time": self._tick(), "capture": {"host": "box"}})

    def checkpoint(
        self,
        experiment: ObjectID,
        session: str,
        seq: int,
        parent: ObjectID | None = None,
        metrics: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> ObjectID:
        commit = Commit(
            some_id("tree"),
            "ada@box",
            self._tick(),
            parents=(parent or experiment,),
            experiment=experiment,
            seq=seq,
            step=seq - 1,
            metrics=metrics or {},
            **given,
        )
        return self._publish(commit, experiment, session)

    def _publish(self, commit: Commit, experiment: ObjectID | None, session: str) -> ObjectID:
        data = encode_commit(commit)
        own = commit_id(data)
        fields = {"commit": data, **_PLACE, "files": 3, "bytes": 30, "new_bytes": 10}
        self.refs.publish(experiment or own, commit.seq, session, "c", fields, own.hex())
        return own

    def end(self, experiment: ObjectID, session: str, seq: int, status: str = "finished") -> None:
        self.refs.publish(experiment, seq, session, "e", {"status": status, "time": self._tick()})

    def hide(
        self, experiment: ObjectID, sessions: Mapping[str, int] | None = None, commits: Sequence[ObjectID] = ()
    ) -> TombstoneRecord:
        nonce = self._random.randbytes(16)
        fields = TombstoneRecord.fields(self._tick(), "ada", nonce, sessions or {}, commits)
        record = self.refs.publish(experiment, 0, self.session(), "x", fields)
        assert isinstance(record, TombstoneRecord)
        return record

    def undo(self, tombstone: TombstoneRecord) -> None:
        fields = {"time": self._tick(), "author": "ada", "tombstone": bytes.fromhex(tombstone.name.record_hash)}
        self.refs.publish(tombstone.name.experiment, 0, self.session(), "u", fields)

    def tag(self, experiment: ObjectID, commit: ObjectID, seq: int = 0, **given: Any) -> None:
        fields = TagRecord.fields(self._tick(), "ada", **given)
        self.refs.publish(experiment, seq, self.session(), "t", fields, commit.hex())

    def series(self, count: int, **given: Any) -> ObjectID:
        """Publish an experiment with so many checkpoints, whose loss falls, and its end."""
        session = self.session()
        parent = experiment = self.begin(session, primary_metric=("loss", "minimize"), **given)
        for seq in range(1, count + 1):
            parent = self.checkpoint(experiment, session, seq, parent, {"loss": 1 / seq})
        self.end(experiment, session, count)
        return experiment

    def reader(self) -> RefStore:
        """Return the records as another process reads them."""
        return RefStore(self.transport, lambda error: self.damage.append(error.message))

    def history(self, cache: Path) -> History:
        """Return what another process sees that has a cache."""
        return History(Overview(self.reader(), lambda: ShardCache(str(cache))))

    def plain_history(self) -> History:
        """Return what the records tell, without cache and heads catalogs."""
        return History.of(self.reader().list())

    def repository(self, folder: Path) -> Repository:
        """Return the store as the one of a project in a folder."""
        return SampleProject(folder, transport=self.transport).open()


def facts(history: History) -> Any:
    """Return everything that a history tells without opening an experiment."""
    return history.summaries, history.hidden, history.rootless


def shown(history: History) -> Any:
    """Return the visible and hidden commits."""
    return [
        (one.experiment_id, [r.commit_id for r in one.records], [r.commit_id for r in one.hidden])
        for one in history.experiments
    ]
