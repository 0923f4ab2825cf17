"""Experiments as users meet them. Floor 7."""

from __future__ import annotations

import datetime
import html
import io
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

from replicate.checkpoints import Checkpoint, CheckpointList, InertCheckpoint
from replicate.ending import exit_code
from replicate.environment import Environment
from replicate.errors import InvalidInputError, NotFoundError, StorageError
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.objects.ids import ObjectID
from replicate.presenting import describe_saved, html_table, json_time, json_value, split_author, to_datetime
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.summary import CheckpointSummary, ExperimentSummary
from replicate.text import format_value

if TYPE_CHECKING:  # what only saving and restoring need takes longer to load than a listing takes
    from replicate.restoring import Restored
    from replicate.session import Session

Status = Literal["running", "finished", "failed", "stopped"]


class Experiment:
    """A root commit (params, command, the code at the start) and the checkpoints that follow it.

    As a context manager it ends its session: finished, or failed when an exception leaves the block.

    Attributes:
        id: 64 hex digits.
        name, tags, params, command: As given to `init()`, and how the process was started.
        user, host, python_version: Who ran it, where, and with what.
        created: When it began, UTC.
    """

    def __init__(
        self,
        repository: Repository,
        known: ExperimentSummary | ExperimentHistory,
        reporter: Reporter,
        session: Session | None = None,
        on_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        self._repository = repository
        self._loaded = known if isinstance(known, ExperimentHistory) else None
        self._known = known.summary if isinstance(known, ExperimentHistory) else known
        self._reporter = reporter
        self._session = session
        self._on_error = on_error
        self._lock = threading.Lock()
        summary = self._known
        user, host = split_author(summary.author)
        self.id = summary.experiment_id.hex()
        self.name = summary.name
        self.tags = list(summary.tags)
        self.params: dict[str, Any] = dict(summary.params)
        self.command = summary.command
        self.user = user
        self.host = host
        self.python_version = summary.python
        self.created = to_datetime(summary.time_ns)

    @property
    def _history(self) -> ExperimentHistory:
        """Its records, read when they are first asked for."""
        if self._loaded is None:
            self.refresh()
        assert self._loaded is not None
        return self._loaded

    @property
    def summary(self) -> ExperimentSummary:
        """What a listing shows of it, without opening it."""
        return self._known if self._loaded is None else self._loaded.summary

    @property
    def short_id(self) -> str:
        """The first 7 digits of the id."""
        return self.id[:7]

    @property
    def packages(self) -> dict[str, str]:
        """The packages that were installed when it began: name → version; empty when that was not recorded."""
        return {one.name: one.version for one in self._environment.packages}

    @property
    def imported_packages(self) -> dict[str, str]:
        """Those of the packages that were imported when `init()` was called: name → version."""
        return {one.name: one.version for one in self._environment.packages if one.is_imported}

    @property
    def _environment(self) -> Environment:
        return Environment(self._repository, self._history.starts[0] if self._history.starts else None)

    @property
    def start(self) -> Checkpoint:
        """The root commit: the code as it was when the experiment began."""
        return Checkpoint(self._repository, self._history.root, self._reporter, self._history.summary.tags)

    @property
    def checkpoints(self) -> CheckpointList:
        """The checkpoints in order, as of the last look at the store (`refresh`) or save in this process."""
        known, tags = self._history, self._history.tagged
        return CheckpointList(
            Checkpoint(self._repository, one, self._reporter, tags.get(one.commit_id, ())) for one in known.checkpoints
        )

    @property
    def primary_metric(self) -> tuple[str, str] | None:
        """(name, goal) of the metric that tells which checkpoint is best."""
        return self.summary.primary_metric

    @property
    def status(self) -> Status:
        """`running`, `finished`, `failed` (an exception ended it) or `stopped` (it was killed, or interrupted)."""
        return status(self.summary, self._repository)

    @property
    def exception(self) -> str | None:
        """What ended it, as `Type: message`, when it failed."""
        return self.summary.exception

    @property
    def note(self) -> str:
        """The note that it was given last, "" when there is none."""
        return self.summary.note

    @property
    def duration(self) -> datetime.timedelta | None:
        """From the start to the last checkpoint, None if there is none."""
        latest = self.summary.latest
        if latest is None:
            return None
        return datetime.timedelta(microseconds=(latest.time_ns - self.summary.time_ns) // 1000)

    @property
    def metric_names(self) -> list[str]:
        """Every metric that one of its checkpoints has."""
        return list(self.summary.metric_names)

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the best primary metric, or None."""
        return self._checkpoint(self.summary.best)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint, or None."""
        return self._checkpoint(self.summary.latest)

    def _checkpoint(self, summary: CheckpointSummary | None) -> Checkpoint | None:
        if summary is None:
            return None
        loaded = self._loaded.commits.get(summary.commit_id) if self._loaded else None
        tags = self.summary.checkpoint_tags.get(summary.commit_id, ())
        return Checkpoint(self._repository, loaded or (self._known.experiment_id, summary), self._reporter, tags)

    def is_running(self) -> bool:
        """Tell whether a session of it is running, on this machine or, by its heartbeat, on another."""
        return self.status == "running"

    @property
    def is_forked(self) -> bool:
        """Whether two sessions continued the same commit."""
        return len(self.summary.heads) > 1

    def refresh(self) -> None:
        """Read the store again."""
        found = assemble(self._repository.refs.list(ObjectID.parse(self.id)))
        if found is None:
            raise NotFoundError(f"experiment {self.short_id} is not in the store any more")
        self._loaded = found
        self.name, self.tags = found.name, list(found.summary.tags)

    def tag(
        self,
        *tags: str,
        remove: Iterable[str] = (),
        name: str | None = None,
        note: str | None = None,
        force: bool = False,
    ) -> None:
        """Add tags, which are revisions from then on; remove some; replace name or note. See `Checkpoint.tag`.

        Args:
            tags: As a name may be. Each means one commit in the whole store.
            remove: Tags that it has.
            name: Its new name; "" takes it away.
            note: At most 1,000 bytes; "" takes it away.
            force: Move a word here that is the tag or the name of another commit.

        Raises:
            ConflictError: A word is another commit's tag or name. Nothing was changed.
            InvalidInputError: A word could not be typed as a revision. NotFoundError: A tag to remove is not there.
        """
        from replicate.lifecycle import Change, change_tags

        own = ObjectID.parse(self.id)
        change = Change(own, own, tuple(tags), tuple(remove), name, note)
        change_tags(self._repository, self._repository.history(), change, force=force)
        self.refresh()

    def delete(self, *, force: bool = False) -> None:
        """Remove it from every list, as `replicate rm` does; `replicate undo` brings it back.

        Nothing is freed yet.

        Args:
            force: Also when it is running; what it saves from then on stays visible.

        Raises:
            ConflictError: It is running.
        """
        from replicate.lifecycle import remove_experiment

        self.refresh()
        remove_experiment(self._repository, self._history, force=force)

    def open(self, path: str) -> io.BufferedReader:
        """Open a file of the best checkpoint, else the latest, else the start. See `Checkpoint.open`."""
        return self._chosen().open(path)

    def checkout(
        self,
        directory: str | os.PathLike[str],
        *,
        paths: Iterable[str] = (),
        force: bool = False,
        exact: bool = False,
    ) -> Restored:
        """Restore the best checkpoint, else the latest, else the start. See `Checkpoint.checkout`."""
        return self._chosen().checkout(directory, paths=paths, force=force, exact=exact)

    def _chosen(self) -> Checkpoint:
        return self.best() or self.latest() or self.start

    # -- saving ------------------------------------------------------------------------------------------------------

    def checkpoint(
        self,
        path: Any = None,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        primary_metric: tuple[str, str] | None = None,
    ) -> Checkpoint:
        """Save files, step and metrics. Durable in the local store when it returns.

        Args:
            path: None: the whole worktree. A path or a list of paths, relative to the current folder: these replace
                their entries of the last save, a folder with everything in it. A mapping stores files from elsewhere:
                `{"weights/m.pt": "/scratch/m.pt"}`. `()`: metrics only.
            step: None counts on from the last one, beginning with 0.
            metrics: Name → number, text, or lists and dicts of these; numpy and torch scalars too.
            primary_metric: (name, "minimize" or "maximize"): what `best` means from here on.

        Returns:
            The checkpoint. Its `is_saved` is False only where nothing is recorded (`REPLICATE_MODE=disabled`, another
            rank) or with `on_error="warn"` after a failure.

        Raises:
            InvalidInputError: An argument is wrong. StorageError: It could not be made durable. Nothing was saved.
            SessionError: The session has ended, or belongs to the process that this one was forked from.
        """
        if self._session is None:
            raise InvalidInputError(
                f"experiment {self.short_id} was opened for reading",
                hint=f'continue it with replicate.init(resume="{self.short_id}")',
            )
        from replicate.session import select_paths

        selection = select_paths(self._repository.project.root, os.getcwd(), path)
        try:
            saved = self._session.checkpoint(selection, step, metrics, primary_metric)
        except StorageError as exc:
            if self._on_error == "raise":
                raise
            self._reporter.warn(f"checkpoint not saved: {exc}")
            return InertCheckpoint(step, metrics)
        record = saved.base.record
        with self._lock:  # another thread may have saved a later one meanwhile
            checkpoints = sorted((*self._history.checkpoints, record), key=lambda one: one.commit.seq)
            self._loaded = replace(self._history, checkpoints=tuple(checkpoints))
        self._reporter.notice(describe_saved(record, self.primary_metric))
        return Checkpoint(self._repository, record, self._reporter)

    def stop(self) -> None:
        """End the session as finished; a second call does nothing. More need `replicate.init(resume=...)`."""
        self._end("finished")

    def _end(self, status: str, exception: BaseException | None = None, code: int | None = None) -> None:
        if self._session is None or self._session.is_ended:
            return
        try:
            end = self._session.end(status, exception, code)
        except StorageError as exc:
            if self._on_error == "raise" and exception is None:  # an exception that is on its way out goes first
                raise
            self._reporter.warn(f"the end of the experiment is not recorded: {exc}")
            return
        if end is not None:
            self._loaded = replace(self._history, ends={**self._history.ends, end.name.session: end})

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = exit_code(value) if isinstance(value, SystemExit) else None
        value = None if code == 0 else value
        self._end(status_after(value), value, code)

    # -- showing -----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return what `replicate ls --json` prints of it."""
        latest, best = self.latest(), self.best()
        return {
            "id": self.id,
            "name": self.name,
            "created": json_time(self.created),
            "params": json_value(self.params),
            "command": self.command,
            "num_checkpoints": self.summary.count,
            "latest_checkpoint": latest.to_json() if latest else None,
            "best_checkpoint": best.to_json() if best else None,
            "user": self.user,
            "host": self.host,
            "running": self.is_running(),
            "status": self.status,
            "exception": self.exception,
            "tags": self.tags,
            "note": self.note,
            "python_version": self.python_version,
            "heads": [head.hex() for head in self.summary.heads],
        }

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Experiment {self.short_id}{name} checkpoints={self.summary.count}>"

    def _repr_html_(self) -> str:
        rows = [[key, format_value(value, 60)] for key, value in self.params.items()]
        title = html.escape(f"{self.short_id} {self.name or ''}")
        return f"<b>{title}</b>{html_table(['param', 'value'], rows)}{self.checkpoints._repr_html_()}"


class ExperimentList(list[Experiment]):
    """Experiments, oldest first. Slices are lists of the same type; shows as a table in notebooks."""

    @overload
    def __getitem__(self, key: SupportsIndex) -> Experiment: ...

    @overload
    def __getitem__(self, key: slice) -> ExperimentList: ...

    def __getitem__(self, key: SupportsIndex | slice) -> Experiment | ExperimentList:
        if isinstance(key, slice):
            return ExperimentList(super().__getitem__(key))
        return super().__getitem__(key)

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for one in self for name in one.params))
        rows = [
            [one.short_id, one.name or "", one.status, str(one.summary.count)]
            + [format_value(one.params[name]) if name in one.params else "" for name in names]
            for one in self
        ]
        return html_table(["experiment", "name", "status", "checkpoints", *names], rows)


def status_after(exception: BaseException | None) -> Status:
    """Return how an experiment ended by what left it: Ctrl-C stops it, every other exception means that it failed."""
    if exception is None:
        return "finished"
    return "stopped" if isinstance(exception, KeyboardInterrupt) else "failed"


def status(summary: ExperimentSummary, repository: Repository) -> Status:
    """Return an experiment's status: running if any session is, else how the newest session ended."""
    if repository.liveness.running(summary):
        return "running"
    if summary.end_status not in ("finished", "failed"):
        return "stopped"
    return "failed" if summary.end_status == "failed" else "finished"
