"""Which commits of an experiment no other follows. Floor 3. SPEC §9.2. Pure."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence

from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord


def find_heads(visible: Sequence[CommitRecord], hidden: Mapping[ObjectID, CommitRecord]) -> tuple[CommitRecord, ...]:
    """Return the visible commits that no visible one follows, in their order. More than one is a fork.

    Args:
        visible: The root, and the checkpoints in order of seq.
        hidden: By id; what follows one of them follows the nearest visible one before it.
    """
    root = visible[0].commit_id
    known = {record.commit_id for record in visible}
    lines = _Lines(visible)
    followed: set[ObjectID] = set()
    for record in visible[1:]:
        parent = record.commit.parents[0]
        while parent in hidden and parent not in followed and parent != root:
            followed.add(parent)
            parent = hidden[parent].commit.parents[0]
        followed.add(parent if parent in known or parent in hidden else lines.before(record))
    return tuple(record for record in visible if record.commit_id not in followed)


class _Lines:
    """The visible commits of each session, and all of them, in order of seq."""

    def __init__(self, visible: Sequence[CommitRecord]) -> None:
        self._all = visible
        self._own: defaultdict[str, list[CommitRecord]] = defaultdict(list)
        for record in visible:
            self._own[record.name.session].append(record)

    def before(self, record: CommitRecord) -> ObjectID:
        """Return the commit that one follows whose parent is not there, as when only a part was copied.

        That is the last one of a smaller seq of its session, which writes one line; else of all. So a gap alone is no
        fork, while of two commits of one seq neither follows the other.
        """
        for line in (self._own[record.name.session], self._all):
            number = bisect.bisect_left(line, record.commit.seq, key=lambda one: one.commit.seq)
            if number:
                return line[number - 1].commit_id
        return self._all[0].commit_id
