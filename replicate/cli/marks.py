"""What `ls` and `log` tell of pushing: which experiments and commits the repository lacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cached_property

from replicate.cli.render import Cell
from replicate.history import History
from replicate.objects.ids import ObjectID
from replicate.repository import Repository
from replicate.united import UnitedRepository

_NOT_PUSHED = "* not pushed yet"
_KIND, _SUBJECT = 3, 4  # of a record's key


class Marks:
    """What is not pushed: by a look at the repository, and where that cannot be reached by what was last known of it.

    Args:
        repository: What is read.
        history: Its experiments.
    """

    def __init__(self, repository: Repository, history: History) -> None:
        self._repository = repository
        self._history = history

    @property
    def legend(self) -> str:
        """What the mark means."""
        return _NOT_PUSHED if self._history.near_experiments is not None else f"{_NOT_PUSHED}, as far as is known here"

    @property
    def experiments(self) -> Collection[ObjectID]:
        """Experiments of which the repository lacks commits, as far as is known."""
        return self._lacking() or ()

    def commits(self, experiment: ObjectID) -> Collection[ObjectID]:
        """Return the commits of an experiment that the repository lacks, as far as is known."""
        return self._lacking(experiment) or ()

    def json(self, experiment: ObjectID, commit: ObjectID | None = None) -> dict[str, bool | None]:
        """Return what `--json` tells of a commit, or of all those of an experiment: whether the repository has it.

        It is null if that is not known, and there is nothing to tell where the project's store is the only one.
        """
        if self._repository.own is self._repository:
            return {}
        lacking = self._lacking() if commit is None else self._lacking(experiment)
        return {"pushed": None if lacking is None else (commit or experiment) not in lacking}

    def _lacking(self, experiment: ObjectID | None = None) -> Collection[ObjectID] | None:
        """Return what the repository lacks: experiments, or commits of one; None if that is not known."""
        found = self._history.near_experiments if experiment is None else self._history.near_commits(experiment)
        if found is not None or self._last_known is None:
            return found
        return self._last_known if experiment is None else self._last_known.get(experiment, ())

    @cached_property
    def _last_known(self) -> Mapping[ObjectID, Collection[ObjectID]] | None:
        """The commits here, by experiment, of which no record is known to lie in the repository.

        As `status` tells it: where nothing is known all is to be pushed. None where no such repository is read.
        """
        if not isinstance(self._repository, UnitedRepository):
            return None
        from replicate.sync.contents import Contents
        from replicate.sync.journal import last_known

        known, _ = last_known(self._repository.local_path("journal"), self._repository.place)
        pushed = {parts[_SUBJECT] for key in known if len(parts := key.split("~")) > _SUBJECT and parts[_KIND] == "c"}
        lacking: dict[ObjectID, set[ObjectID]] = defaultdict(set)
        # what is damaged was told by the look
        own = Contents(self._repository.own.transport, None, lambda error: None, 1)
        for name in own.names(known):
            if name.kind == "c" and name.subject not in pushed:
                lacking[name.experiment].add(ObjectID.parse(name.subject))
        return lacking


def mark_unpushed(commit: ObjectID, unpushed: Collection[ObjectID]) -> Cell:
    """Return the short id of a commit or an experiment, marked if the repository lacks it, or a commit of it."""
    return commit.short + ("*" if commit in unpushed else ""), "yellow"
