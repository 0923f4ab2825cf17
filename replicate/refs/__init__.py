"""Floor 3: ref records, which publish what the objects floor stored. SPEC §9."""

from replicate.refs.names import RecordName
from replicate.refs.records import (
    CommitRecord,
    EndRecord,
    Record,
    StartRecord,
    TagRecord,
    TombstoneRecord,
    UndoRecord,
    UnknownRecord,
)
from replicate.refs.store import RefStore

__all__ = [
    "CommitRecord",
    "EndRecord",
    "Record",
    "RecordName",
    "RefStore",
    "StartRecord",
    "TagRecord",
    "TombstoneRecord",
    "UndoRecord",
    "UnknownRecord",
]
