"""What a check of a store found, as values: damage, what it affects, what to do; and notes, which are no damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from replicate.objects.frames import FrameRef
from replicate.objects.ids import ObjectID
from replicate.refs.records import Packset

_MOST_PATHS = 100
_ELSEWHERE = "copy {where} from another copy of the store"
_WRITER = "the bytes are as they were written: please report this; what is not named here stays readable"


class _Cause(NamedTuple):
    level: int
    advice: str


CAUSES = {
    "marker": _Cause(0, "the next save writes it again; if it holds something else, delete it first"),
    "stray-key": _Cause(0, "it is no part of any checkpoint, and nothing reads it: move it elsewhere"),
    "record": _Cause(0, _ELSEWHERE + "; where none has it whole, delete it: the rest goes on without it"),
    "root-missing": _Cause(0, "copy the records that begin with {where} from another copy of the store"),
    "catalog": _Cause(0, _ELSEWHERE),
    "unreadable": _Cause(0, "see that the disk and the permissions are right, and check again"),
    "pack-missing": _Cause(1, _ELSEWHERE),
    "pack-size": _Cause(1, _ELSEWHERE),
    "packset": _Cause(1, _WRITER),
    "pack-footer": _Cause(2, _ELSEWHERE),
    "locator": _Cause(2, _ELSEWHERE),
    "locator-entry": _Cause(2, _WRITER),
    "closure": _Cause(2, _WRITER),
    "object": _Cause(2, "copy the packs that hold it from another copy of the store; if they are equal, report this"),
    "encoding": _Cause(2, "upgrade replicate: pip install --upgrade replicate-vc"),
    "pack-bytes": _Cause(4, _ELSEWHERE),
    "pack-content": _Cause(4, _WRITER),
}
"""Kinds of damage: the level that finds them, and what to do. Stable; only added to."""


@dataclass(frozen=True, slots=True)
class AffectedCommit:
    """A root (seq 0) or a checkpoint; its step where it is known."""

    commit_id: ObjectID
    seq: int
    step: int | None


@dataclass(frozen=True, slots=True)
class Affected:
    """What some damage means for one experiment.

    Attributes:
        experiment: Its id.
        name: Its name, None when it has none or its root cannot be read.
        commits: Those that lose something, in order of seq; if none is known to, those that use what is damaged.
        is_whole: Whether nothing of them can be read. Else `paths` cannot, and everything else can.
        paths: The first 100 of the paths that cannot be read, sorted; those of folders end in a slash.
        path_count: How many there are.
        part: What else of the experiment is affected: a session's start, a tag.
    """

    experiment: ObjectID
    name: str | None
    commits: tuple[AffectedCommit, ...]
    is_whole: bool = False
    paths: tuple[bytes, ...] = ()
    path_count: int = 0
    part: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the store that is not as it was saved.

    Attributes:
        level: The level of the check that finds it.
        kind: A stable code, one of `CAUSES`.
        where: A key of the store, `KEY@OFFSET` for a frame, or a kind and id for an object.
        why: What is wrong, a sentence.
        affects: By experiment.
        advice: What to do.
    """

    level: int
    kind: str
    where: str
    why: str
    affects: tuple[Affected, ...]
    advice: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line that is no damage, with how many there are and their bytes."""

    kind: str
    count: int
    size_bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check looked at, and what it found."""

    level: int
    experiments: int
    checkpoints: int
    packs: int
    pack_bytes: int
    damage: tuple[Damage, ...]
    notes: tuple[Note, ...]


# -- collecting ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What has a closure: a commit, or the environment of a session. `key` is its record's."""

    key: str
    experiment: ObjectID
    commit: AffectedCommit | None
    part: str
    tree: ObjectID
    packset: Packset
    meta: tuple[ObjectID, ...]
    locator: FrameRef


@dataclass(frozen=True, slots=True)
class Paths:
    """Some paths: how many, and the first of them."""

    count: int = 0
    first: tuple[bytes, ...] = ()

    def add(self, others: Paths, above: bytes = b"") -> Paths:
        """Return these and others, which lie in the folder `above`."""
        room = _MOST_PATHS - len(self.first)
        return Paths(self.count + others.count, (*self.first, *(above + path for path in others.first[:room])))


@dataclass(slots=True)
class _Effect:
    commits: dict[ObjectID, AffectedCommit] = field(default_factory=dict)
    losing: set[ObjectID] = field(default_factory=set)
    is_whole: bool = False
    paths: set[bytes] = field(default_factory=set)
    most: int = 0
    part: str = ""
    loses_part: bool = False

    @property
    def is_loss(self) -> bool:
        """Whether something of the experiment is known to be lost."""
        return bool(self.losing) or self.loses_part


@dataclass(slots=True)
class _Found:
    level: int
    kind: str
    why: str
    effects: dict[ObjectID, _Effect] = field(default_factory=dict)


class Findings:
    """Collects damage. Of several things that are wrong with one place the first one tells."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._names: dict[ObjectID, str] = {}
        self._found: dict[str, _Found] = {}

    def name(self, experiment: ObjectID, name: str) -> None:
        """Tell the name of an experiment."""
        self._names[experiment] = name

    def add(self, kind: str, where: str, why: str, level: int | None = None) -> str:
        """Add damage, if none is known there yet, and return `where`."""
        self._found.setdefault(where, _Found(CAUSES[kind].level if level is None else level, kind, why))
        return where

    def affect(self, where: str, target: Target, paths: Paths | None = None, *, is_whole: bool = False) -> None:
        """Tell what the damage at a place means: for all of a target, for paths of it, or that it might."""
        effect = self._effect(where, target.experiment)
        if target.commit is None:
            effect.part = target.part
            effect.loses_part |= is_whole or paths is not None
            return
        effect.commits[target.commit.commit_id] = target.commit
        effect.is_whole |= is_whole
        if is_whole or paths:
            effect.losing.add(target.commit.commit_id)
        if paths:
            effect.most = max(effect.most, paths.count)
            effect.paths |= set(paths.first)

    def affect_part(self, where: str, experiment: ObjectID, part: str, commits: Sequence[AffectedCommit] = ()) -> None:
        """Tell that damage affects a part of an experiment, or all of some commits."""
        effect = self._effect(where, experiment)
        effect.part = effect.part or part
        effect.loses_part |= bool(part)
        effect.commits.update({one.commit_id: one for one in commits})
        effect.losing.update(one.commit_id for one in commits)
        effect.is_whole |= bool(commits)

    def _effect(self, where: str, experiment: ObjectID) -> _Effect:
        return self._found[where].effects.setdefault(experiment, _Effect())

    def knows(self, where: str) -> bool:
        """Tell whether there is damage at a place."""
        return where in self._found

    def damage(self) -> tuple[Damage, ...]:
        """Return what was found, by level, in order of the places."""
        made = [self._damage(where, found) for where, found in self._found.items()]
        return tuple(sorted(made, key=lambda one: (one.level, one.kind, one.where)))

    def _damage(self, where: str, found: _Found) -> Damage:
        affects = []
        is_loss = any(effect.is_loss for effect in found.effects.values())
        for experiment, effect in sorted(found.effects.items()):
            if is_loss and not effect.is_loss:
                continue  # it names what is damaged, and needs nothing of it
            known = effect.losing if is_loss else effect.commits.keys()
            part = effect.part if effect.loses_part or not is_loss else ""
            commits = tuple(sorted((effect.commits[one] for one in known), key=lambda one: (one.seq, one.commit_id)))
            paths = tuple(sorted(effect.paths))
            count = max(effect.most, len(paths))
            name = self._names.get(experiment)
            affects.append(Affected(experiment, name, commits, effect.is_whole, paths[:_MOST_PATHS], count, part))
        advice = CAUSES[found.kind].advice.format(where=where.partition("@")[0])
        return Damage(found.level, found.kind, where, found.why, tuple(affects), advice)
