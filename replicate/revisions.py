"""What a person types to name a commit → its record. Floor 4.

prefix      at least 4 hex digits of an experiment's or checkpoint's id
name        an experiment's name; of several the newest, with a notice      tag      what has it, if only one has
latest      the newest checkpoint of all            best    the best of the newest experiment with a primary metric
X@best X@latest X@start     within experiment X     X~2     the second parent back     X:path   a path in it
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replicate.errors import (
    AmbiguousRevisionError,
    CorruptionError,
    InvalidInputError,
    RevisionNotFoundError,
    StorageMissingError,
)
from replicate.experiment_history import ExperimentHistory, number
from replicate.history import History
from replicate.objects.ids import SHORT_DIGITS, ObjectID
from replicate.refs import CommitRecord
from replicate.summary import ExperimentSummary
from replicate.text import format_value

MIN_PREFIX_DIGITS = 4
_LISTED = 10
_HEX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_SELECTORS = ("best", "latest", "start")
_FORBIDDEN = re.compile(r"[@~:/\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Resolution:
    """The commit that a revision names.

    Attributes:
        record: Its record.
        experiment: The experiment that it belongs to.
        path: What followed a colon, or None.
        notices: Sentences that a person should be told: which of several was taken.
        is_whole_experiment: Whether the text named an experiment and no checkpoint of it.
    """

    record: CommitRecord
    experiment: ExperimentHistory
    path: str | None = None
    notices: tuple[str, ...] = ()
    is_whole_experiment: bool = False


def check_experiment_name(name: str) -> str:
    """Return `name` if an experiment may have it, else raise `InvalidInputError`.

    Names that look like an id, are reserved, or hold `@ ~ : /` or control characters could not be typed as a revision.
    """
    try:
        size = len(name.encode())
    except (AttributeError, UnicodeEncodeError) as exc:
        raise InvalidInputError(f"{name!r} is no name: it must be Unicode text") from exc
    if not name or name != name.strip() or size > 100:
        raise InvalidInputError(f"{name!r} is no name: 1 to 100 bytes, no space at the ends")
    if _FORBIDDEN.search(name):
        raise InvalidInputError(f"{name!r} is no name: it must not hold @ ~ : / or control characters")
    if name in _SELECTORS:
        raise InvalidInputError(f"{name!r} is no name: it has a meaning as a revision")
    if _HEX.fullmatch(name) and len(name) >= MIN_PREFIX_DIGITS:
        raise InvalidInputError(f"{name!r} is no name: it looks like an id")
    if name.startswith("-"):
        raise InvalidInputError(f"{name!r} is no name: it looks like an option")
    return name


def resolve(
    history: History, text: str, *, plumbing: bool = False, describe: Callable[[ExperimentSummary], str] | None = None
) -> Resolution:
    """Return the commit that `text` names.

    Args:
        history: What there is.
        text: The revision.
        plumbing: An experiment alone means its root commit; otherwise its best checkpoint, else its latest, else the
            root, with a notice.
        describe: Tells more about an experiment when several match.

    Raises:
        RevisionNotFoundError: Nothing has this name. AmbiguousRevisionError: Several have; lists them.
        InvalidInputError: The text is no revision. CorruptionError: The records of what has this name are damaged.
    """
    base, colon, path = text.partition(":")
    base, steps = _split_steps(base, text)
    name, at, selector = base.partition("@")
    notices: list[str] = []
    is_whole = False
    if at:
        if selector not in _SELECTORS:
            raise InvalidInputError(f"{text!r} is no revision: after @ comes {', '.join(_SELECTORS)}")
        experiment = _find_experiment(history, name, notices, describe)
        record = _select(experiment, selector)
    elif name == "latest":
        record = _newest(history)
    elif name == "best":
        record = _best(history, notices)
    else:
        found = _find(history, name, notices, describe)
        if isinstance(found, ExperimentHistory):
            is_whole = "~" not in text.partition(":")[0]
            if plumbing:
                record = found.root
            else:
                record = _default(found, notices) if is_whole else (found.latest or found.root)
        else:
            record = found
    for _ in range(steps):
        parent = history.parent_of(record)
        if parent is None:
            lost = None if record.commit.is_root else _damaged(history, record.commit.parents[0].hex())
            raise lost or RevisionNotFoundError(f"{text!r} goes back beyond the first commit")
        record = parent
    return Resolution(record, history.experiment_of(record), path if colon else None, tuple(notices), is_whole)


def resolve_itself(
    history: History, text: str, *, describe: Callable[[ExperimentSummary], str] | None = None
) -> Resolution:
    """As `resolve`, but an experiment alone means itself (its root); `X~2` counts from its latest checkpoint."""
    return resolve(history, text, plumbing="~" not in text.partition(":")[0], describe=describe)


def resolve_experiment(
    history: History, text: str, *, describe: Callable[[ExperimentSummary], str] | None = None
) -> ExperimentHistory:
    """Return the experiment that `text` names: by id prefix or name.

    Raises:
        InvalidInputError: `text` names a checkpoint; the hint says which experiment it belongs to.
        RevisionNotFoundError, AmbiguousRevisionError: As in `resolve`.
    """
    return _find_experiment(history, text, [], describe)


def resolve_hidden(
    history: History, text: str, *, describe: Callable[[ExperimentSummary], str] | None = None
) -> tuple[ExperimentHistory, CommitRecord | None]:
    """Return what `text` names among what was removed: an experiment, so all that is removed of it, or a checkpoint.

    A name or an id prefix is enough; an experiment counts too of which only checkpoints were removed.

    Raises:
        RevisionNotFoundError: Nothing that was removed has this name. AmbiguousRevisionError: Several have.
    """
    named = [one for one in history.hidden if one.name == text]
    named = named or [one for one in history.summaries if one.removed and one.name == text]
    matches: list[CommitRecord] = []
    for summary in named:
        found = history.experiment(summary.experiment_id, hidden=True)
        matches += [found.root] if found else []
    matches = matches or _hidden_with_tag(history, text)
    if not matches and _HEX.fullmatch(text) and len(text) >= MIN_PREFIX_DIGITS:
        removed = (one for one in history.find(text) if one.commit.is_root and history.experiment_of(one).hidden)
        matches = [*history.find(text, hidden=True), *removed]
    if not matches:
        raise RevisionNotFoundError(
            f"nothing that was removed is named {text!r}", hint="`replicate undo` lists what can be brought back"
        )
    if len(matches) > 1:
        raise _ambiguous(history, text, matches, describe, "give an id" if named else None)
    (match,) = matches
    experiment = history.experiment_of(match)
    return experiment, None if match.commit.is_root else match


def _hidden_with_tag(history: History, tag: str) -> list[CommitRecord]:
    """Return what was removed and has a tag: roots of experiments, and checkpoints."""
    matches = []
    for summary in (*history.hidden, *(one for one in history.summaries if one.removed)):
        found = history.experiment(summary.experiment_id, hidden=True)
        matches += [one for one in (found.hidden if found else ()) if found and tag in found.tags_of(one.commit_id)]
    return matches


def _removed_hint(history: History, text: str) -> str:
    """Return what to do when nothing is named like this: bring it back, if it was removed; or wait for a repository."""
    try:
        resolve_hidden(history, text)
    except AmbiguousRevisionError:
        return "what is named so was removed; `replicate undo` lists what can be brought back"
    except RevisionNotFoundError:
        if history.loss is not None and not isinstance(history.loss, StorageMissingError):
            return f"only this machine's store was searched: {history.loss.message}"
        return "`replicate ls` shows what there is"
    return f"it was removed; `replicate undo {text}` brings it back"


def _split_steps(base: str, text: str) -> tuple[str, int]:
    name, tilde, count = base.partition("~")
    if not tilde:
        return base, 0
    if count and not (count.isascii() and count.isdigit() and len(count) <= 9):
        raise InvalidInputError(f"{text!r} is no revision: after ~ comes a number")
    return name, int(count) if count else 1


def _find_experiment(
    history: History, name: str, notices: list[str], describe: Callable[[ExperimentSummary], str] | None
) -> ExperimentHistory:
    found = _find(history, name, notices, describe)
    if isinstance(found, ExperimentHistory):
        return found
    experiment = history.experiment_of(found)
    raise InvalidInputError(
        f"{name} is a checkpoint (step {found.commit.step}) where an experiment is expected",
        hint=f"its experiment is {experiment.experiment_id.short}",
    )


def _find(
    history: History, name: str, notices: list[str], describe: Callable[[ExperimentSummary], str] | None
) -> ExperimentHistory | CommitRecord:
    """Return what a name, a tag or the beginning of an id means.

    No name and no tag looks like an id of four digits or more, so these are not searched for one. From seven digits on,
    the short form that is shown, an experiment goes before checkpoints whose ids begin with the same ones: a listing
    knows every experiment, but not every checkpoint.
    """
    if not _HEX.fullmatch(name) or len(name) < MIN_PREFIX_DIGITS:
        return _find_named(history, name, notices, describe)
    if len(name) >= SHORT_DIGITS:
        experiments = history.find_experiments(name)
        if len(experiments) == 1:
            return experiments[0]
    matches = history.find(name)
    if not matches:
        raise _damaged(history, name) or RevisionNotFoundError(
            f"no experiment or checkpoint has an id that begins with {name}", hint=_removed_hint(history, name)
        )
    if len(matches) > 1:
        raise _ambiguous(history, name, matches, describe)
    (match,) = matches
    return history.experiment_of(match) if match.commit.is_root else match


def _find_named(
    history: History, name: str, notices: list[str], describe: Callable[[ExperimentSummary], str] | None
) -> ExperimentHistory | CommitRecord:
    named = [experiment for experiment in history.summaries if experiment.name == name]
    if len(named) > 1:
        notices.append(f"{len(named)} experiments are named {name}; taking the newest, {named[-1].experiment_id.short}")
    if named:
        return _load(history, named[-1].experiment_id)
    tagged = _tagged(history, name)
    if len(tagged) == 1:
        return tagged[0]
    if tagged:
        records = [one.root if isinstance(one, ExperimentHistory) else one for one in tagged]
        described = [_describe(history, one, describe) for one in records[:_LISTED]]
        raise AmbiguousRevisionError(
            f"several have the tag {name}: {', '.join(described)}" + (", …" if len(tagged) > _LISTED else ""),
            candidates=[one.commit_id.hex() for one in records],
            hint=f"give an id; `replicate ls -f 'tag = {name}'` lists experiments that have it",
        )
    if not _HEX.fullmatch(name):
        raise RevisionNotFoundError(f"no experiment or tag is named {name!r}", hint=_removed_hint(history, name))
    raise InvalidInputError(f"{name} is too short: an id needs at least {MIN_PREFIX_DIGITS} digits")


def _load(history: History, experiment_id: ObjectID) -> ExperimentHistory:
    found = history.experiment(experiment_id)
    if found is None:
        raise _damaged(history, experiment_id.hex()) or RevisionNotFoundError(
            f"the records of experiment {experiment_id.short} are not in the store any more"
        )
    return found


def _damaged(history: History, prefix: str) -> CorruptionError | None:
    """Return the error that records of what an id names cannot be read, None when the store has none."""
    for experiment, commit in history.unreadable(prefix):
        is_whole = history.experiment(experiment, hidden=True) is None
        what = f"records of experiment {experiment.short}" if is_whole else f"record of checkpoint {commit.short}"
        return CorruptionError(
            f"the {what} cannot be read", where=f"commit {commit.hex()}", hint="`replicate fsck` tells what is damaged"
        )
    return None


def _tagged(history: History, tag: str) -> list[ExperimentHistory | CommitRecord]:
    """Return experiments and checkpoints that have a tag: all if they are few, else more than are ever told."""
    found: list[ExperimentHistory | CommitRecord] = []
    for one in history.summaries:
        commits = [commit for commit, tags in one.checkpoint_tags.items() if tag in tags]
        if tag in one.tags or commits:
            experiment = _load(history, one.experiment_id)
            found += [experiment] if tag in one.tags else []
            found += [experiment.commits[commit] for commit in commits if commit in experiment.commits]
        if len(found) > _LISTED:
            break
    return found


def _ambiguous(
    history: History,
    name: str,
    matches: Sequence[CommitRecord],
    describe: Callable[[ExperimentSummary], str] | None,
    hint: str | None = None,
) -> AmbiguousRevisionError:
    kinds = {"experiment" if record.commit.is_root else "checkpoint" for record in matches}
    noun = f"{kinds.pop()}s" if len(kinds) == 1 else "commits"
    described = []
    for record in matches[:_LISTED]:
        ids = [other.commit_id.hex() for other in matches if other is not record]
        digits = max(7, *(_common(record.commit_id.hex(), other) + 1 for other in ids))
        described.append(_describe(history, record, describe, digits))
    if len(matches) > _LISTED:
        described.append("…")
    shared = min(_common(a.commit_id.hex(), b.commit_id.hex()) for a, b in itertools.pairwise(matches))
    digits = shared + 1 - len(name)
    return AmbiguousRevisionError(
        f"{name} matches {len(matches)} {noun}: {', '.join(described)}",
        candidates=[record.commit_id.hex() for record in matches],
        hint=hint or ("type one more digit" if digits <= 1 else f"type {digits} more digits"),
    )


def _describe(
    history: History,
    record: CommitRecord,
    describe: Callable[[ExperimentSummary], str] | None,
    digits: int = SHORT_DIGITS,
) -> str:
    if record.commit.is_root:
        summary = history.experiment_of(record).summary
        more = describe(summary) if describe else (summary.name or "")
    else:
        more = f"step {record.commit.step}"
    return record.commit_id.hex()[:digits] + (f" ({more})" if more else "")


def _common(left: str, right: str) -> int:
    return next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)


def _select(experiment: ExperimentHistory, selector: str) -> CommitRecord:
    short = experiment.experiment_id.short
    if selector == "start":
        return experiment.root
    record = experiment.best if selector == "best" else experiment.latest
    if record is None:
        lacks = "no checkpoint" if not experiment.checkpoints else "no checkpoint with a primary metric"
        raise RevisionNotFoundError(f"experiment {short} has {lacks}", hint=f"{short}@start is its code at the start")
    return record


def _default(experiment: ExperimentHistory, notices: list[str]) -> CommitRecord:
    short = experiment.experiment_id.short
    for record, word in ((experiment.best, "best"), (experiment.latest, "latest")):
        if record is not None:
            notices.append(f"{short} is an experiment: taking its {word} checkpoint, {label(record)}")
            return record
    notices.append(f"{short} has no checkpoint: taking its start")
    return experiment.root


def label(record: CommitRecord) -> str:
    """Return how a commit is called in a sentence: short id and step."""
    if record.commit.is_root:
        return f"{record.commit_id.short} (start)"
    return f"{record.commit_id.short} (step {record.commit.step})"


def _newest(history: History) -> CommitRecord:
    newest = history.newest_checkpoints(1)
    if not newest:
        raise RevisionNotFoundError("there is no checkpoint yet", hint="`replicate checkpoint` saves one")
    return newest[0]


def _best(history: History, notices: list[str]) -> CommitRecord:
    """Return the best checkpoint of the newest experiment with a primary metric; tell when an older one has better."""
    if not history.summaries:
        raise RevisionNotFoundError("there is no experiment yet", hint="`replicate checkpoint` starts one")
    measured = [one for one in history.summaries if one.primary_metric is not None and one.best is not None]
    if not measured:
        raise RevisionNotFoundError(
            "no experiment has a primary metric", hint='give one: checkpoint(..., primary_metric=("loss", "minimize"))'
        )
    newest = measured[-1]
    name, goal = newest.primary_metric or ("", "")
    sign = -1 if goal == "maximize" else 1
    alike = [one for one in measured if one.primary_metric == newest.primary_metric]
    best = min(reversed(alike), key=lambda one: sign * _best_value(one, name))
    if best is not newest:
        values = [format_value(_best_value(one, name)) for one in (newest, best)]
        notices.append(
            f"best is that of the newest experiment, {newest.experiment_id.short} with {name} {values[0]}; "
            f"{best.experiment_id.short} has {values[1]}"
        )
    return _select(_load(history, newest.experiment_id), "best")


def _best_value(experiment: ExperimentSummary, name: str) -> float:
    value = number(experiment.best.metrics.get(name)) if experiment.best else None
    return 0.0 if value is None else value
