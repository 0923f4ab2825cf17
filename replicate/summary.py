"""What listing shows of an experiment: facts taken from its records, small enough to keep. Floor 4. SPEC §10. Pure.

One encoding serves heads catalogs and this machine's record cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from replicate.errors import CorruptionError
from replicate.objects.ids import ObjectID
from replicate.objects.model import PathList

MAX_SUMMARY_BYTES = 4 << 10


class CheckpointSummary(NamedTuple):
    """A checkpoint without its tree: what it measured and how large it is."""

    commit_id: ObjectID
    seq: int
    step: int | None
    time_ns: int
    metrics: Mapping[str, Any]
    primary_metric: tuple[str, str] | None
    files: int
    bytes: int
    new_bytes: int
    unstable: PathList | None = None
    skipped: PathList | None = None

    def encode(self) -> dict[str, Any]:
        """Return the map of SPEC §10."""
        fields: dict[str, Any] = {
            "id": bytes(self.commit_id),
            "seq": self.seq,
            "step": self.step,
            "time": self.time_ns,
            "metrics": dict(self.metrics),
            "files": self.files,
            "bytes": self.bytes,
            "new_bytes": self.new_bytes,
        }
        if self.primary_metric:
            fields["primary_metric"] = list(self.primary_metric)
        for key, listed in (("unstable", self.unstable), ("skipped", self.skipped)):
            if listed:
                fields[key] = [listed.count, list(listed.paths)]
        return fields

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> CheckpointSummary:
        """Read the map of SPEC §10; what is wrong in it raises KeyError, TypeError or ValueError."""
        primary = fields.get("primary_metric")
        return cls(
            ObjectID(fields["id"]),
            fields["seq"],
            fields["step"],
            fields["time"],
            fields["metrics"],
            (primary[0], primary[1]) if primary else None,
            fields["files"],
            fields["bytes"],
            fields["new_bytes"],
            _paths(fields["unstable"]) if "unstable" in fields else None,
            _paths(fields["skipped"]) if "skipped" in fields else None,
        )


def _paths(listed: Sequence[Any]) -> PathList:
    return PathList(int(listed[0]), tuple(listed[1]))


class OpenSession(NamedTuple):
    """A session of which no end is recorded: it runs, or was killed. Time in ns, seq of its last commit."""

    session: str
    host: str
    time_ns: int
    seq: int


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """One experiment as listing shows it.

    Attributes:
        name, tags, note: As given at the start, changed by tag records since.
        count: Its visible checkpoints.
        metric_names: Every metric that one of them has.
        heads: The commits that no other continues.
        checkpoint_tags: Tags of single checkpoints.
        sessions: Sessions without an end.
        end_status, exception: How the newest session ended, None while no end is recorded.
        is_hidden: Whether tombstones hide all of it.
        ended_ns: When the newest session ended, 0 while no end is recorded.
        removed: How many of its commits tombstones hide.
        newest_ns: The latest time of a visible checkpoint, 0 when there is none.
    """

    experiment_id: ObjectID
    name: str | None
    author: str
    time_ns: int
    command: str
    params: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    note: str = ""
    primary_metric: tuple[str, str] | None = None
    python: str = ""
    files: int = 0
    bytes: int = 0
    count: int = 0
    metric_names: tuple[str, ...] = ()
    heads: tuple[ObjectID, ...] = ()
    latest: CheckpointSummary | None = None
    best: CheckpointSummary | None = None
    checkpoint_tags: Mapping[ObjectID, Sequence[str]] = field(default_factory=dict)
    sessions: tuple[OpenSession, ...] = ()
    end_status: str | None = None
    exception: str | None = None
    is_hidden: bool = False
    ended_ns: int = 0
    removed: int = 0
    newest_ns: int = 0

    def encode(self) -> dict[str, Any]:
        """Return the map of SPEC §10, without what is empty."""
        fields: dict[str, Any] = {
            "id": bytes(self.experiment_id),
            "name": self.name,
            "author": self.author,
            "time": self.time_ns,
            "command": self.command,
            "params": dict(self.params),
            "tags": list(self.tags),
            "note": self.note,
            "primary_metric": list(self.primary_metric) if self.primary_metric else None,
            "python": self.python,
            "files": self.files,
            "bytes": self.bytes,
            "count": self.count,
            "metrics": list(self.metric_names),
            "heads": [bytes(head) for head in self.heads],
            "latest": self.latest.encode() if self.latest else None,
            "best": self.best.encode() if self.best and self.best != self.latest else None,
            "best_is_latest": self.best is not None and self.best == self.latest,
            "checkpoint_tags": [[bytes(commit), list(tags)] for commit, tags in sorted(self.checkpoint_tags.items())],
            "open": [list(session) for session in self.sessions],
            "end": self.end_status,
            "exception": self.exception,
            "hidden": self.is_hidden,
            "ended": self.ended_ns,
            "removed": self.removed,
            "newest": self.newest_ns,
        }
        return {key: value for key, value in fields.items() if value not in (None, "", [], {}, False, 0)}

    @classmethod
    def decode(cls, fields: Mapping[str, Any], where: str) -> ExperimentSummary:
        """Read the map of SPEC §10; `CorruptionError` that names `where` for anything else."""
        get = fields.get
        try:
            primary, latest, best = get("primary_metric"), get("latest"), get("best")
            newest = CheckpointSummary.decode(latest) if latest else None
            return cls(
                ObjectID(fields["id"]),
                get("name"),
                fields.get("author", ""),
                fields.get("time", 0),
                get("command", ""),
                get("params", {}),
                tuple(get("tags", ())),
                get("note", ""),
                (primary[0], primary[1]) if primary else None,
                get("python", ""),
                get("files", 0),
                get("bytes", 0),
                get("count", 0),
                tuple(get("metrics", ())),
                tuple(map(ObjectID, get("heads", ()))),
                newest,
                newest if get("best_is_latest") else CheckpointSummary.decode(best) if best else None,
                {ObjectID(commit): tuple(tags) for commit, tags in get("checkpoint_tags", ())},
                tuple(OpenSession(*session) for session in get("open", ())),
                get("end"),
                get("exception"),
                get("hidden", False),
                get("ended", 0),
                get("removed", 0),
                get("newest", 0),
            )
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise CorruptionError(f"{where} is damaged: an experiment is not as it should be", where=where) from exc
