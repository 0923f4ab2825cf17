"""The experiments of a project: `replicate.experiments`. Floor 8."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from replicate.checkpoints import Checkpoint
from replicate.config import cache_folder, find_project, mode, require_project, storage_options
from replicate.errors import InvalidInputError, RevisionNotFoundError
from replicate.experiment import Experiment, ExperimentList
from replicate.filters import Filter, remarks
from replicate.history import History
from replicate.host import Host
from replicate.lifecycle import remove_checkpoints, remove_experiment, take_back, tombstones_on
from replicate.reporting import Reporter, SilentReporter
from replicate.repository import Repository
from replicate.revisions import resolve, resolve_experiment, resolve_hidden, resolve_itself
from replicate.text import plural
from replicate.united import open_united


class ExperimentCollection:
    """Reads the experiments of the project that a folder lies in, anew with every call.

    With a `repository` elsewhere in `replicate.yaml` these are what ran anywhere, read from there as far as it is not
    on this machine. What is changed is written to this machine's store, and pushed with the rest.

    Args:
        directory: A folder of the project; None means the current folder at the time of the call.
        reporter: Hears of damaged records, and of filters that nothing can match.
        repository: Another store, which is only read: a URL, or a folder. No project is needed then.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        reporter: Reporter | None = None,
        *,
        repository: str | None = None,
    ) -> None:
        self._directory = directory
        self._repository = repository
        self._reporter = reporter or SilentReporter()

    def list(self, filter: Callable[[Experiment], bool] | str | None = None) -> ExperimentList:
        """Return the experiments, oldest first; with `filter`, those for which it is true.

        Args:
            filter: A function of an experiment, or text as `replicate ls -f` takes it: "loss < 0.2".

        Raises:
            ProjectNotFoundError: The folder is in no project.
        """
        if filter is not None and not isinstance(filter, str) and not callable(filter):
            raise InvalidInputError(
                f"filter is of type {type(filter).__name__}; it must be text or a function", hint='as "loss < 0.2"'
            )
        repository, history = self._open()
        found = [Experiment(repository, one, self._reporter) for one in history.summaries]
        if isinstance(filter, str):
            condition = Filter.parse(filter)
            for remark in remarks([condition], found):
                self._reporter.notice(remark)
            filter = condition.matches
        return ExperimentList(one for one in found if filter is None or filter(one))

    def __iter__(self) -> Iterator[Experiment]:
        """Yield the experiments, oldest first."""
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def __repr__(self) -> str:
        return f"<{plural(len(self), 'experiment')}, see list(), get(), latest()>"

    def get(self, name: str) -> Experiment:
        """Return one experiment by a prefix of its id (at least 4 digits) or its name.

        Raises:
            RevisionNotFoundError: There is none. AmbiguousRevisionError: There are several.
            InvalidInputError: It is a checkpoint's id; use `checkpoint()`.
        """
        repository, history = self._open()
        return Experiment(repository, resolve_experiment(history, name), self._reporter)

    def checkpoint(self, revision: str) -> Checkpoint:
        """Return the checkpoint that a revision names: an id prefix, `latest`, `NAME@best` and so on."""
        repository, history = self._open()
        found = resolve(history, revision)
        return Checkpoint(repository, found.record, self._reporter, found.experiment.tags_of(found.record.commit_id))

    def delete(self, revision: str, *, force: bool = False) -> None:
        """Remove an experiment or a checkpoint from every list, as `replicate rm` does; nothing is freed yet.

        Args:
            revision: An experiment's id prefix or name means all of it; else as `checkpoint` takes it.
            force: Also when the experiment is running; what it saves from then on stays visible.

        Raises:
            ConflictError: The experiment is running. InvalidInputError: It is the start of an experiment.
            RevisionNotFoundError: There is none. AmbiguousRevisionError: There are several.
        """
        repository, history = self._open()
        found = resolve_itself(history, revision)
        if found.is_whole_experiment:
            remove_experiment(repository, found.experiment, force=force)
        else:
            remove_checkpoints(repository, found.experiment, [found.record])

    def undelete(self, revision: str) -> None:
        """Bring back what was removed: all that is removed of an experiment, or a checkpoint and what went with it.

        Raises:
            RevisionNotFoundError: Nothing that was removed has this id or name. AmbiguousRevisionError: Several have.
        """
        repository, history = self._open()
        experiment, record = resolve_hidden(history, revision)
        take_back(repository, experiment, tombstones_on(experiment, record))

    def latest(self) -> Experiment:
        """Return the experiment that began last; `RevisionNotFoundError` when there is none."""
        repository, history = self._open()
        if not history.summaries:
            raise RevisionNotFoundError("there is no experiment yet", hint="replicate.init() starts one")
        return Experiment(repository, history.summaries[-1], self._reporter)

    def _open(self) -> tuple[Repository, History]:
        directory = self._directory if self._directory is not None else os.getcwd()
        if self._repository is not None:
            options = storage_options(self._repository, find_project(directory))
            caches = cache_folder()
            repository = Repository.elsewhere(self._repository, Host(), self._reporter, options, caches=caches)
        else:
            project = require_project(directory)
            repository = open_united(project, Host(), self._reporter, is_offline=mode() == "offline")
        return repository, repository.history()
