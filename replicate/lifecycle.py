"""What becomes of experiments after they ran: removed, brought back, tagged. Floor 6. SPEC §9.2 (`x`, `u`, `t`).

Nothing here deletes a byte: a removal is a record that hides, and taking it back is another. So both can be done in any
order, on any copy of a store, and the union of two copies says the same whichever is read first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from replicate.config import user
from replicate.errors import ConflictError, InvalidInputError, NotFoundError
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord, TagRecord, TombstoneRecord
from replicate.refs.names import NO_SUBJECT
from replicate.refs.records import MAX_HIDDEN_COMMITS
from replicate.repository import Repository
from replicate.revisions import check_experiment_name, label

MAX_NOTE_BYTES = 1_000
_LAST_NS = (1 << 63) - 1


# -- removing, and taking it back -----------------------------------------------------------------------------------


def remove_experiment(repository: Repository, experiment: ExperimentHistory, *, force: bool = False) -> None:
    """Hide an experiment: every commit of it that is known here. What is saved later is visible.

    Raises:
        ConflictError: It is running, and not `force`. Nothing was written.
    """
    if not force and repository.liveness.running(experiment.summary):
        raise ConflictError(
            f"experiment {experiment.experiment_id.short} is running; it was not removed",
            hint="wait, or force it: what it saves from then on stays visible",
        )
    _publish(repository, experiment, "x", _hiding_sessions(repository, sessions_of(experiment)))


def remove_checkpoints(repository: Repository, experiment: ExperimentHistory, records: Sequence[CommitRecord]) -> None:
    """Hide some checkpoints of an experiment, and nothing else.

    Raises:
        InvalidInputError: One of them is the start. Nothing was written.
    """
    for record in records:
        check_is_checkpoint(record)
    _publish(repository, experiment, "x", _hiding_commits(repository, records))


def check_is_checkpoint(record: CommitRecord) -> None:
    """Refuse an experiment's start, by `InvalidInputError`: it is removed with the whole experiment only."""
    if record.commit.is_root:
        raise InvalidInputError(
            f"{record.commit_id.short} is the start of an experiment, which cannot be removed alone",
            hint=f"`replicate rm {record.commit_id.short}` removes the experiment",
        )


def sessions_of(experiment: ExperimentHistory) -> dict[str, int]:
    """Return every session that saved a commit of an experiment, with the highest seq that it saved."""
    sessions: dict[str, int] = {}
    for record in experiment.commits.values():
        name = record.name
        sessions[name.session] = max(name.seq, sessions.get(name.session, 0))
    return sessions


def tombstones_on(experiment: ExperimentHistory, record: CommitRecord | None) -> tuple[TombstoneRecord, ...]:
    """Return the tombstones in force that hide a commit; of the whole experiment all of them."""
    if record is None:
        return experiment.tombstones
    # One that names another record of the same commit cannot be told from the rest here: then all are.
    return tuple(one for one in experiment.tombstones if one.hides(record)) or experiment.tombstones


def take_back(
    repository: Repository, experiment: ExperimentHistory, tombstones: Sequence[TombstoneRecord]
) -> tuple[CommitRecord, ...]:
    """Take back some tombstones, for ever, and return the commits that are visible now and were not before.

    A tombstone is taken back as a whole. What another one hides too stays hidden.
    """
    now, author = repository.host.now_ns(), author_of(repository)
    undoing = [{"time": now, "author": author, "tombstone": bytes.fromhex(one.name.record_hash)} for one in tombstones]
    _publish(repository, experiment, "u", undoing)
    after = assemble(repository.refs.list(experiment.experiment_id))
    still = {record.commit_id for record in after.hidden} if after else set()
    return tuple(record for record in experiment.hidden if record.commit_id not in still)


def author_of(repository: Repository) -> str:
    """Return who does this: `user@host`."""
    return f"{user()}@{repository.host.name}".encode("utf-8", "backslashreplace").decode()


def _hiding_sessions(repository: Repository, sessions: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    now, author = repository.host.now_ns(), author_of(repository)
    listed = sorted(sessions.items())
    for at in range(0, len(listed), MAX_HIDDEN_COMMITS):
        some = dict(listed[at : at + MAX_HIDDEN_COMMITS])
        yield TombstoneRecord.fields(now, author, repository.host.random(16), some, ())


def _hiding_commits(repository: Repository, records: Sequence[CommitRecord]) -> Iterator[dict[str, Any]]:
    now, author = repository.host.now_ns(), author_of(repository)
    for at in range(0, len(records), MAX_HIDDEN_COMMITS):
        commits = [record.commit_id for record in records[at : at + MAX_HIDDEN_COMMITS]]
        yield TombstoneRecord.fields(now, author, repository.host.random(16), {}, commits)


def _publish(
    repository: Repository,
    experiment: ExperimentHistory,
    kind: str,
    bodies: Iterable[Mapping[str, Any]],
    seq: int = 0,
    subject: str = NO_SUBJECT,
) -> None:
    """Write records about an experiment; each is durable before the next. What they name is in the store (I1)."""
    with repository.saving():
        repository.check_writable()
        repository.own.create()  # what is changed may lie in the repository alone, and nothing was saved here yet
        session = repository.host.random(8).hex()
        for fields in bodies:
            repository.refs.publish(experiment.experiment_id, seq, session, kind, fields, subject)


# -- tags, names and notes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a word as its tag, or as its name: an experiment (its root), or a checkpoint."""

    experiment: ObjectID
    commit: ObjectID
    role: Literal["tag", "name"]

    def __str__(self) -> str:
        kind = "experiment" if self.commit == self.experiment else "checkpoint"
        return f"the {self.role} of {kind} {self.commit.short}"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become other about one commit; None leaves name or note as it is."""

    experiment: ObjectID
    commit: ObjectID
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    name: str | None = None
    note: str | None = None


def change_tags(
    repository: Repository,
    history: History,
    change: Change,
    *,
    force: bool = False,
) -> list[Change]:
    """Change tags, name or note of a commit, and return all that was changed: with `force` others may lose a word.

    Raises:
        InvalidInputError: A word cannot be typed as a revision, or the note is too long.
        ConflictError: A word is another's tag or name. NotFoundError: A tag to remove is not there.
            Nothing was written.
    """
    changes = plan_tags(history, change, force=force)
    for one in changes:
        experiment = history.experiment(one.experiment)
        assert experiment is not None
        record = experiment.commits[one.commit]
        fields = TagRecord.fields(
            _after(experiment, repository.host.now_ns()),
            author_of(repository),
            add=one.add,
            remove=one.remove,
            name=one.name,
            note=one.note,
        )
        _publish(repository, experiment, "t", [fields], record.commit.seq, one.commit.hex())
    return changes


def plan_tags(history: History, change: Change, *, force: bool = False) -> list[Change]:
    """Return what has to change so that every word means one commit: the wanted change first, then who loses a word.

    Pure. Tags that `init(tags=)` gave may be shared by several; a word that several have cannot be taken from them.
    """
    _check(history, change)
    losing: dict[ObjectID, Change] = {}
    for word in (*change.add, *filter(None, [change.name])):
        role = "name" if word == change.name else "tag"
        others = [one for one in holders(history, word) if (one.commit, one.role) != (change.commit, role)]
        if not others:
            continue
        if len(others) > 1:
            raise ConflictError(
                f"{len(others)} commits have {word!r} as a tag or name: {others[0]}, {others[1]}"
                + (", …" if len(others) > 2 else ""),
                hint="take another word: it is to mean one commit",
            )
        if not force:
            raise ConflictError(f"{word!r} is {others[0]}", hint="take another word, or force it to be moved here")
        other = others[0]
        before = losing.get(other.commit, Change(other.experiment, other.commit))
        losing[other.commit] = Change(
            other.experiment,
            other.commit,
            remove=(*before.remove, *([word] if other.role == "tag" else [])),
            name="" if other.role == "name" else before.name,
        )
    own = losing.pop(change.commit, None)  # a word of its own in its other role
    if own is not None:
        name = change.name if change.name is not None else own.name
        change = Change(change.experiment, change.commit, change.add, (*change.remove, *own.remove), name, change.note)
    return [change, *losing.values()]


def holders(history: History, word: str) -> list[Holder]:
    """Return every visible commit that has a word as its tag or name, oldest experiment first."""
    found = []
    for one in history.summaries:
        root = one.experiment_id
        if one.name == word:
            found.append(Holder(root, root, "name"))
        if word in one.tags:
            found.append(Holder(root, root, "tag"))
        found += [Holder(root, commit, "tag") for commit, tags in one.checkpoint_tags.items() if word in tags]
    return found


def _check(history: History, change: Change) -> None:
    experiment = history.experiment(change.experiment)
    if experiment is None or change.commit not in experiment.commits:
        raise NotFoundError(f"{change.commit.short} is not in the store any more")
    record = experiment.commits[change.commit]
    for word in (*change.add, *filter(None, [change.name])):
        check_experiment_name(word)
    twice = {*change.add} & {*change.remove, *filter(None, [change.name])}
    if twice:
        raise InvalidInputError(f"{min(twice)!r} is given twice: to be added as a tag, and as a name or to be removed")
    if change.name is not None and not record.commit.is_root:
        raise InvalidInputError(
            f"{label(record)} is a checkpoint, which has no name", hint="give it a tag; an experiment has a name"
        )
    lacking = sorted({*change.remove} - {*experiment.tags_of(change.commit)})
    if lacking:
        raise NotFoundError(f"{change.commit.short} has no tag {lacking[0]!r}")
    try:
        size = len((change.note or "").encode())
    except UnicodeEncodeError as exc:
        raise InvalidInputError("the note is not Unicode text") from exc
    if size > MAX_NOTE_BYTES:
        raise InvalidInputError(f"a note of {size:,} bytes is too long; {MAX_NOTE_BYTES:,} are possible")


def _after(experiment: ExperimentHistory, now_ns: int) -> int:
    """Return a time after every change of tags so far: they apply in order of time, and another clock may be ahead."""
    last = max((record.time_ns for record in experiment.tag_records), default=0)
    return max(now_ns, min(last + 1, _LAST_NS))
