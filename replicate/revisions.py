"""What a person types to name a commit → its record. Floor 4.

prefix      at least 4 hex digits of an experiment's or checkpoint's id
name        an experiment's name; of several the newest, with a notice
latest      the newest checkpoint of all            best    the best of the newest experiment with a primary metric
X@best X@latest X@start     within experiment X     X~2     the second parent back     X:path   a path in it
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replicate.errors import AmbiguousRevisionError, InvalidInputError, RevisionNotFoundError
from replicate.history import ExperimentHistory, History, number, parent_of
from replicate.refs import CommitRecord
from replicate.text import format_value

MIN_PREFIX_DIGITS = 4
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
    history: History, text: str, *, plumbing: bool = False, describe: Callable[[ExperimentHistory], str] | None = None
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
        InvalidInputError: The text is no revision.
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
            is_whole = True
            if plumbing:
                record = found.root
            else:
                record = (found.latest or found.root) if steps else _default(found, notices)
        else:
            record = found
    for _ in range(steps):
        parent = parent_of(history, record.commit)
        if parent is None:
            raise RevisionNotFoundError(f"{text!r} goes back beyond the first commit")
        record = parent
    return Resolution(
        record, history.experiment_of(record), path if colon else None, tuple(notices), is_whole and not steps
    )


def resolve_experiment(
    history: History, text: str, *, describe: Callable[[ExperimentHistory], str] | None = None
) -> ExperimentHistory:
    """Return the experiment that `text` names: by id prefix or name.

    Raises:
        InvalidInputError: `text` names a checkpoint; the hint says which experiment it belongs to.
        RevisionNotFoundError, AmbiguousRevisionError: As in `resolve`.
    """
    return _find_experiment(history, text, [], describe)


def _split_steps(base: str, text: str) -> tuple[str, int]:
    name, tilde, count = base.partition("~")
    if not tilde:
        return base, 0
    if count and not (count.isascii() and count.isdigit() and len(count) <= 9):
        raise InvalidInputError(f"{text!r} is no revision: after ~ comes a number")
    return name, int(count) if count else 1


def _find_experiment(
    history: History, name: str, notices: list[str], describe: Callable[[ExperimentHistory], str] | None
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
    history: History, name: str, notices: list[str], describe: Callable[[ExperimentHistory], str] | None
) -> ExperimentHistory | CommitRecord:
    named = [experiment for experiment in history.experiments if experiment.root.commit.name == name]
    if named:
        if len(named) > 1:
            notices.append(
                f"{len(named)} experiments are named {name}; taking the newest, {named[-1].experiment_id.short}"
            )
        return named[-1]
    if not _HEX.fullmatch(name):
        raise RevisionNotFoundError(f"no experiment is named {name!r}", hint="`replicate ls` shows what there is")
    if len(name) < MIN_PREFIX_DIGITS:
        raise InvalidInputError(f"{name} is too short: an id needs at least {MIN_PREFIX_DIGITS} digits")
    matches = [record for record in history.records() if record.commit_id.hex().startswith(name)]
    if not matches:
        raise RevisionNotFoundError(
            f"no experiment or checkpoint has an id that begins with {name}", hint="`replicate ls` shows what there is"
        )
    if len(matches) > 1:
        raise _ambiguous(history, name, matches, describe)
    (match,) = matches
    return history.experiment_of(match) if match.commit.is_root else match


def _ambiguous(
    history: History,
    name: str,
    matches: Sequence[CommitRecord],
    describe: Callable[[ExperimentHistory], str] | None,
) -> AmbiguousRevisionError:
    kinds = {"experiment" if record.commit.is_root else "checkpoint" for record in matches}
    noun = f"{kinds.pop()}s" if len(kinds) == 1 else "commits"
    described = []
    for record in matches[:10]:
        ids = [other.commit_id.hex() for other in matches if other is not record]
        digits = max(7, *(_common(record.commit_id.hex(), other) + 1 for other in ids))
        if record.commit.is_root:
            more = describe(history.experiment_of(record)) if describe else (record.commit.name or "")
        else:
            more = f"step {record.commit.step}"
        described.append(record.commit_id.hex()[:digits] + (f" ({more})" if more else ""))
    if len(matches) > 10:
        described.append("…")
    shared = min(_common(a.commit_id.hex(), b.commit_id.hex()) for a, b in itertools.pairwise(matches))
    digits = shared + 1 - len(name)
    return AmbiguousRevisionError(
        f"{name} matches {len(matches)} {noun}: {', '.join(described)}",
        candidates=[record.commit_id.hex() for record in matches],
        hint="type one more digit" if digits <= 1 else f"type {digits} more digits",
    )


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
    checkpoints = [record for record in history.records() if not record.commit.is_root]
    if not checkpoints:
        raise RevisionNotFoundError("there is no checkpoint yet", hint="`replicate checkpoint` saves one")
    return max(checkpoints, key=lambda record: (record.commit.time_ns, record.commit.seq))


def _best(history: History, notices: list[str]) -> CommitRecord:
    """Return the best checkpoint of the newest experiment with a primary metric; tell when an older one has better."""
    if not history.experiments:
        raise RevisionNotFoundError("there is no experiment yet", hint="`replicate checkpoint` starts one")
    measured = [one for one in history.experiments if one.primary_metric is not None and one.best is not None]
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
    assert newest.best is not None
    return newest.best


def _best_value(experiment: ExperimentHistory, name: str) -> float:
    value = number(experiment.best.commit.metrics.get(name)) if experiment.best else None
    return 0.0 if value is None else value
