"""Walks over commits by their parents. Floor 4."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord


def reachable(history: History, tips: Iterable[CommitRecord]) -> dict[ObjectID, CommitRecord]:
    """Return the commits that can be reached from some by their parents, these included."""
    found: dict[ObjectID, CommitRecord] = {}
    for tip in tips:
        at: CommitRecord | None = tip
        while at is not None and at.commit_id not in found:
            found[at.commit_id] = at
            at = history.parent_of(at)
    return found


def newest_first(history: History, commits: Mapping[ObjectID, CommitRecord]) -> Iterator[CommitRecord]:
    """Yield commits by time, the newest first, but none before one that follows it, whatever clocks say."""
    waiting = Counter(parent.commit_id for one in commits.values() if (parent := history.parent_of(one)) is not None)
    ready = [_age(one) for one in commits.values() if not waiting[one.commit_id]]
    heapq.heapify(ready)
    while ready:
        record = commits[ObjectID(heapq.heappop(ready)[-1])]
        yield record
        parent = history.parent_of(record)
        if parent is not None:
            waiting[parent.commit_id] -= 1
            if not waiting[parent.commit_id] and parent.commit_id in commits:
                heapq.heappush(ready, _age(parent))


def _age(record: CommitRecord) -> tuple[int, int, bytes]:
    """Return what sorts the newest first."""
    return -record.commit.time_ns, -record.commit.seq, bytes(record.commit_id)
