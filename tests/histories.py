"""Histories in memory: ref records with ids that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicate.history import History
from replicate.objects.frames import FrameRef
from replicate.objects.ids import ObjectID
from replicate.objects.model import Commit
from replicate.refs import CommitRecord, EndRecord, Record, RecordName, StartRecord
from replicate.refs.records import Packset

_TREE = ObjectID(bytes(32))
_LOCATOR = FrameRef(ObjectID(bytes(32)), 32, 100)
SESSION = "0" * 16


def padded(prefix: str) -> ObjectID:
    """Return the id that begins with some digits and goes on with zeros."""
    return ObjectID.parse(prefix.ljust(64, "0"))


def _name(experiment: ObjectID, seq: int, kind: str, subject: str = "-", session: str = SESSION) -> RecordName:
    return RecordName(experiment, seq, session, kind, subject, "0" * 32)


def root(
    prefix: str,
    *,
    name: str | None = None,
    time: int = 0,
    parent: str | None = None,
    primary: tuple[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> CommitRecord:
    """Return the record of an experiment's root."""
    commit = Commit(
        tree=_TREE,
        author="ada@box",
        time_ns=time,
        parents=(padded(parent),) if parent else (),
        nonce=bytes(16),
        name=name,
        params=params or {},
        primary_metric=primary,
    )
    own = padded(prefix)
    return CommitRecord(_name(own, 0, "c", own.hex()), commit, Packset(), (), _LOCATOR)


def checkpoint(
    experiment: str,
    prefix: str,
    seq: int,
    *,
    parent: str | None = None,
    step: int | None = None,
    time: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    primary: tuple[str, str] | None = None,
    session: str = SESSION,
) -> CommitRecord:
    """Return the record of a checkpoint; its parent is the root unless told, its step one less than its seq."""
    commit = Commit(
        tree=_TREE,
        author="ada@box",
        time_ns=seq if time is None else time,
        parents=(padded(parent or experiment),),
        experiment=padded(experiment),
        seq=seq,
        step=seq - 1 if step is None else step,
        metrics=metrics or {},
        primary_metric=primary,
    )
    name = _name(padded(experiment), seq, "c", padded(prefix).hex(), session)
    return CommitRecord(name, commit, Packset(), (), _LOCATOR)


def start(experiment: str, session: str, time: int) -> StartRecord:
    """Return the record of a session's start."""
    return StartRecord(_name(padded(experiment), 0, "s", session=session), time, {}, None, Packset(), None)


def end(experiment: str, session: str, status: str = "finished") -> EndRecord:
    """Return the record of a session's end."""
    return EndRecord(_name(padded(experiment), 0, "e", session=session), 0, status, None, 0)


def history(*records: Record) -> History:
    """Return what these records tell."""
    return History.of(records)
