"""`init()` and `checkpoint()`: the current experiment of this process, and how it ends with the process. Floor 8.

At exit the session ends as finished, as failed when an exception is on its way out, as stopped after Ctrl-C.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from replicate import config
from replicate.background import background_push, finish_pushes
from replicate.capture import capture
from replicate.checkpoints import Checkpoint, CheckpointList, InertCheckpoint
from replicate.ending import Ending, Interrupts
from replicate.errors import InvalidInputError, RevisionNotFoundError, SessionError, StorageError
from replicate.experiment import Experiment, Status, status, status_after
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.history import History
from replicate.host import Host
from replicate.objects.ids import ObjectID
from replicate.presenting import json_value, to_datetime
from replicate.refs import CommitRecord
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.revisions import check_experiment_name, label, resolve, resolve_experiment
from replicate.session import Session
from replicate.summary import ExperimentSummary
from replicate.text import plural
from replicate.values import check_primary_metric, check_step, normalise

OnError = Literal["raise", "warn"]


class InertExperiment(Experiment):
    """What `init()` returns where nothing is recorded. Everything can be called; nothing is saved."""

    def __init__(self, params: Mapping[str, Any], name: str | None, tags: Sequence[str]) -> None:
        self._loaded = None
        self._known = ExperimentSummary(ObjectID(bytes(32)), name, "", 0, "", dict(params), tuple(tags))
        self.id = ""
        self.name = name
        self.tags = list(tags)
        self.params = dict(params)
        self.command = self.user = self.host = self.python_version = ""
        self.created = to_datetime(0)
        self._step: int | None = None
        self._session = None

    def checkpoint(
        self,
        path: Any = None,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        primary_metric: tuple[str, str] | None = None,
    ) -> Checkpoint:
        """Save nothing."""
        self._step = step if step is not None else (0 if self._step is None else self._step + 1)
        return InertCheckpoint(self._step, metrics)

    @property
    def packages(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def imported_packages(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def start(self) -> Checkpoint:
        """A checkpoint without files."""
        return InertCheckpoint(None, None)

    @property
    def checkpoints(self) -> CheckpointList:
        """None."""
        return CheckpointList()

    @property
    def status(self) -> Status:
        """`stopped`: it never runs."""
        return "stopped"

    def tag(
        self,
        *tags: str,
        remove: Iterable[str] = (),
        name: str | None = None,
        note: str | None = None,
        force: bool = False,
    ) -> None:
        """Do nothing."""

    def delete(self, *, force: bool = False) -> None:
        """Do nothing."""

    def refresh(self) -> None:
        """Do nothing."""

    def to_json(self) -> dict[str, Any]:
        """Return what was given to `init()`."""
        return {"id": "", "name": self.name, "params": json_value(self.params), "tags": self.tags}

    def __repr__(self) -> str:
        return "<Experiment, not recorded>"


class Recorder:
    """The experiment that this process writes to.

    Args:
        make_reporter: Returns a reporter; its argument says whether only warnings are wanted.
    """

    def __init__(self, make_reporter: Any) -> None:
        self._make_reporter = make_reporter
        self._current: Experiment | None = None
        self._reporter: Reporter
        self._pid = 0
        self._ending = Ending()
        self._watches_exit = False

    def init(
        self,
        path: str | os.PathLike[str] = ".",
        *,
        params: Mapping[str, Any] | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        primary_metric: tuple[str, str] | None = None,
        parent: str | Checkpoint | None = None,
        resume: str | bool | Experiment | None = None,
        quiet: bool = False,
        on_error: OnError = "raise",
        rank0_only: bool = True,
    ) -> Experiment:
        """See `replicate.init`."""
        reporter: Reporter = self._make_reporter(quiet)
        _check_path(path)
        if on_error not in ("raise", "warn"):
            raise InvalidInputError(f'on_error is {on_error!r}; it must be "raise" or "warn"')
        values = normalise(params or {}, "params")
        check_primary_metric(primary_metric, None)
        if name is not None:
            check_experiment_name(name)
        if isinstance(tags, str):
            raise InvalidInputError(f"tags is the text {tags!r}; it must be a list of texts")
        for tag in tags or ():
            check_experiment_name(tag)
        if resume and (params or name or tags or parent):
            raise InvalidInputError("resume= continues an experiment as it is: give no params, name, tags or parent")
        self._end_current()
        rank = config.other_rank() if rank0_only else None
        if config.mode() == "disabled" or rank is not None:
            if rank is not None:
                reporter.notice(f"nothing is recorded on rank {rank}; rank 0 does (rank0_only=False overrides)")
            self._current = InertExperiment(values, name, tags or ())
            self._pid = os.getpid()
            return self._current
        try:
            experiment = self._begin(path, values, name, tags or (), primary_metric, parent, resume, reporter, on_error)
        except StorageError as exc:
            if on_error == "raise":
                raise
            reporter.warn(f"nothing is recorded: {exc}")
            experiment = InertExperiment(values, name, tags or ())
        self._current = experiment
        self._pid = os.getpid()
        self._reporter = reporter
        self._watch_exit()
        return experiment

    def _begin(
        self,
        path: str | os.PathLike[str],
        params: Mapping[str, Any],
        name: str | None,
        tags: Sequence[str],
        primary_metric: tuple[str, str] | None,
        parent: str | Checkpoint | None,
        resume: str | bool | Experiment | None,
        reporter: Reporter,
        on_error: OnError,
    ) -> Experiment:
        project = config.find_project(path)
        if project is None:
            project = config.new_project(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path)))
            reporter.notice(f"new project: checkpoints are stored in {project.store}")
        repository = Repository(project, Host(), reporter)
        repository.create()
        push = background_push(project, repository.host)
        session = Session(repository, reporter, capture(repository.host, project.root), push)
        try:
            if resume:
                with _hint_to_pull(project):
                    found = self._resumed(repository.history(), resume)
                if status(found.summary, repository) == "running":
                    reporter.warn(f"{found.experiment_id.short} is running: what both save from here on forks it")
                session.resume(found, found.heads[-1], primary_metric)
            else:
                with _hint_to_pull(project):
                    forked = self._parent(repository, parent)
                session.begin(params, name, tags, primary_metric, forked)
        except BaseException:
            session.close()
            raise
        experiment_id = session.experiment_id
        begun = assemble(repository.refs.list(experiment_id))
        assert begun is not None
        experiment = Experiment(repository, begun, reporter, session, on_error)
        verb = "continuing" if resume else "experiment"
        files = "" if resume else f" · {plural(begun.root.files, 'file')}"
        place = f" · pushing to {project.repository}" if push is not None else ""
        place = " · offline, not pushed" if project.repository and config.mode() == "offline" else place
        reporter.notice(f"{verb} {experiment_id.short}{' ' + begun.name if begun.name else ''}{files}{place}")
        if resume:
            self._tell_changes(session, reporter)
        return experiment

    @staticmethod
    def _tell_changes(session: Session, reporter: Reporter) -> None:
        """Tell that the code is not that of the checkpoint that is continued: checkpoint(path) would not save it."""
        changes = session.changes()
        if changes:
            reporter.notice(
                f"{plural(len(changes), 'change')} in the worktree since {label(session.head)}, which is continued; "
                "checkpoint() saves everything, checkpoint(path) only what it names"
            )

    @staticmethod
    def _resumed(history: History, resume: str | bool | Experiment) -> ExperimentHistory:
        if resume is not True:
            return resolve_experiment(history, resume.id if isinstance(resume, Experiment) else str(resume))
        found = history.experiment(history.summaries[-1].experiment_id) if history.summaries else None
        if found is None:
            raise RevisionNotFoundError("there is no experiment to resume", hint="replicate.init() starts one")
        return found

    @staticmethod
    def _parent(repository: Repository, parent: str | Checkpoint | None) -> CommitRecord | None:
        if parent is None:
            return None
        text = parent.id if isinstance(parent, Checkpoint) else parent
        return resolve(repository.history(), text).record

    def checkpoint(
        self,
        path: Any = None,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        primary_metric: tuple[str, str] | None = None,
    ) -> Checkpoint:
        """See `replicate.checkpoint`."""
        is_inert = isinstance(self._current, InertExperiment)
        if self._current is not None and self._pid != os.getpid() and not is_inert:
            raise SessionError(
                "this process was forked from the one that called replicate.init()",
                hint="call replicate.init() in this process too",
            )
        session = self._current._session if self._current else None
        if self._current is None or (session is not None and session.is_ended):
            check_primary_metric(primary_metric, normalise(metrics or {}, "metrics"))
            check_step(step)  # what cannot be saved begins no experiment
            self.init()
        assert self._current is not None
        return self._current.checkpoint(path, step=step, metrics=metrics, primary_metric=primary_metric)

    # -- the end of the process --------------------------------------------------------------------------------------

    def _end_current(self) -> None:
        if self._current is not None and self._pid == os.getpid():
            self._current.stop()
        self._current = None

    def _watch_exit(self) -> None:
        if self._watches_exit:
            return
        self._watches_exit = True
        self._ending.watch()
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        if self._pid != os.getpid():
            return
        exception, code = self._ending.told()
        interrupts = Interrupts(int(isinstance(exception, KeyboardInterrupt)))
        with interrupts.counted():
            if self._current is not None:
                self._current._end(status_after(exception), exception, code)
        finish_pushes(self._reporter, interrupts=interrupts.count)


@contextlib.contextmanager
def _hint_to_pull(project: config.Project) -> Iterator[None]:
    """Tell who continues what is not on this machine how to get it: beginning never waits for the network."""
    try:
        yield
    except RevisionNotFoundError as exc:
        if not project.repository:
            raise
        hint = f"if it is in {project.repository}, `replicate pull` it first; `replicate ls` shows what there is"
        raise RevisionNotFoundError(f"{exc.message} on this machine", hint=hint) from exc


def _check_path(path: Any) -> None:
    """Refuse what is no path of a folder before anything is ended or begun."""
    if isinstance(path, Mapping):
        raise InvalidInputError(f"path is a mapping: {path!r}", hint="did you mean init(params=...)?")
    if not isinstance(path, str | os.PathLike):
        raise InvalidInputError(
            f"path is of type {type(path).__name__}: {path!r}", hint="path is a folder of the project"
        )
    if not os.path.exists(path):
        raise InvalidInputError(
            f"{os.fspath(path)!r} does not exist", hint="path is a folder of the project; a name is given as name="
        )
