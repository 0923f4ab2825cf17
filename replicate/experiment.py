"""Experiments as users meet them. Floor 7."""

from __future__ import annotations

import datetime
import html
import io
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, SupportsIndex, overload

from replicate.checkpoints import Checkpoint, CheckpointList, InertCheckpoint
from replicate.errors import InvalidInputError, NotFoundError, StorageError
from replicate.history import ExperimentHistory, History
from replicate.presenting import describe_saved, html_table, json_time, json_value, to_datetime
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.restoring import Restored
from replicate.session import Session, select_paths
from replicate.text import format_value
from replicate.worktree.checkout import find_entry

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
        history: ExperimentHistory,
        reporter: Reporter,
        session: Session | None = None,
        on_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        self._repository = repository
        self._history = history
        self._reporter = reporter
        self._session = session
        self._on_error = on_error
        self._lock = threading.Lock()
        commit = history.root.commit
        capture = history.starts[0].capture if history.starts else {}
        user, _, host = commit.author.partition("@")
        self.id = history.experiment_id.hex()
        self.name = commit.name
        self.tags = list(commit.tags)
        self.params: dict[str, Any] = dict(commit.params)
        self.command = commit.command
        self.user = user
        self.host = host
        self.python_version = str(capture.get("python", ""))
        self.created = to_datetime(commit.time_ns)

    @property
    def short_id(self) -> str:
        """The first 7 digits of the id."""
        return self.id[:7]

    @property
    def packages(self) -> dict[str, str]:
        """The packages that were installed when it began: name → version; empty when that was not recorded."""
        start = self._history.starts[0] if self._history.starts else None
        if start is None or start.environment is None or start.locator is None:
            return {}
        objects = self._repository.objects(start.locator)
        entry = find_entry(objects, start.environment, b"packages.json")
        listed = json.loads(objects.read(entry.object_id, claimed_bytes=entry.size_bytes)) if entry else []
        return {str(one["name"]): str(one["version"]) for one in listed}

    @property
    def start(self) -> Checkpoint:
        """The root commit: the code as it was when the experiment began."""
        return Checkpoint(self._repository, self._history.root, self._reporter)

    @property
    def checkpoints(self) -> CheckpointList:
        """The checkpoints in order, as of the last look at the store (`refresh`) or save in this process."""
        return CheckpointList(Checkpoint(self._repository, one, self._reporter) for one in self._history.checkpoints)

    @property
    def primary_metric(self) -> tuple[str, str] | None:
        """(name, goal) of the metric that tells which checkpoint is best."""
        return self._history.primary_metric

    @property
    def status(self) -> Status:
        """`running`, `finished`, `failed` (an exception ended it) or `stopped` (it was killed, or interrupted)."""
        return status(self._history, self._repository)

    @property
    def exception(self) -> str | None:
        """What ended it, as `Type: message`, when it failed."""
        return exception(self._history)

    @property
    def duration(self) -> datetime.timedelta | None:
        """From the start to the last checkpoint, None if there is none."""
        latest = self._history.latest
        if latest is None:
            return None
        return datetime.timedelta(microseconds=(latest.commit.time_ns - self._history.root.commit.time_ns) // 1000)

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the best primary metric, or None."""
        best = self._history.best
        return Checkpoint(self._repository, best, self._reporter) if best else None

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint, or None."""
        latest = self._history.latest
        return Checkpoint(self._repository, latest, self._reporter) if latest else None

    def is_running(self) -> bool:
        """Tell whether a session of it is running on this machine."""
        return self.status == "running"

    @property
    def is_forked(self) -> bool:
        """Whether two sessions continued the same commit."""
        return len(self._history.heads) > 1

    def refresh(self) -> None:
        """Read the store again."""
        records = self._repository.refs.list(self._history.experiment_id)
        found = History(records).experiment(self._history.experiment_id)
        if found is None:
            raise NotFoundError(f"experiment {self.short_id} is not in the store any more")
        self._history = found

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
        selection = select_paths(self._repository.project.root, os.getcwd(), path)
        try:
            saved = self._session.checkpoint(selection, step, metrics, primary_metric)
        except StorageError as exc:
            if self._on_error == "raise" and exception is None:
                raise
            self._reporter.warn(f"checkpoint not saved: {exc}")
            return InertCheckpoint(step, metrics)
        record = saved.base.record
        with self._lock:  # another thread may have saved a later one meanwhile
            checkpoints = sorted((*self._history.checkpoints, record), key=lambda one: one.commit.seq)
            self._history = replace(self._history, checkpoints=tuple(checkpoints))
        self._reporter.notice(describe_saved(record, self.primary_metric))
        return Checkpoint(self._repository, record, self._reporter)

    def stop(self) -> None:
        """End the session as finished; a second call does nothing. More need `replicate.init(resume=...)`."""
        self._end("finished")

    def _end(self, status: str, exception: BaseException | None = None) -> None:
        if self._session is None or self._session.is_ended:
            return
        try:
            end = self._session.end(status, exception)
        except StorageError as exc:
            if self._on_error == "raise":
                raise
            self._reporter.warn(f"the end of the experiment is not recorded: {exc}")
            return
        if end is not None:
            self._history = replace(self._history, ends={**self._history.ends, end.name.session: end})

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None or (isinstance(value, SystemExit) and not value.code):
            self._end("finished")
        else:
            self._end("stopped" if isinstance(value, KeyboardInterrupt) else "failed", value)

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
            "num_checkpoints": len(self._history.checkpoints),
            "latest_checkpoint": latest.to_json() if latest else None,
            "best_checkpoint": best.to_json() if best else None,
            "user": self.user,
            "host": self.host,
            "running": self.is_running(),
            "status": self.status,
            "exception": self.exception,
            "tags": self.tags,
            "python_version": self.python_version,
            "heads": [head.commit_id.hex() for head in self._history.heads],
        }

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Experiment {self.short_id}{name} checkpoints={len(self._history.checkpoints)}>"

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
            [one.short_id, one.name or "", one.status, str(len(one.checkpoints))]
            + [format_value(one.params[name]) if name in one.params else "" for name in names]
            for one in self
        ]
        return html_table(["experiment", "name", "status", "checkpoints", *names], rows)


def status(history: ExperimentHistory, repository: Repository) -> Status:
    """Return an experiment's status: running if any session is, else how the newest session ended."""
    open_sessions = [start.name.session for start in history.starts if start.name.session not in history.ends]
    if any(repository.is_session_running(session) for session in open_sessions):
        return "running"
    newest = history.newest_session
    end = history.ends.get(newest.name.session) if newest else None
    if end is None or end.status == "stopped":
        return "stopped"
    return "failed" if end.status == "failed" else "finished"


def exception(history: ExperimentHistory) -> str | None:
    """Return what ended the newest session, as `Type: message`, when it failed."""
    newest = history.newest_session
    end = history.ends.get(newest.name.session) if newest else None
    if end is None or not end.exception:
        return None
    kind, message = end.exception.get("type", ""), end.exception.get("message", "")
    return f"{kind}: {message}" if message else str(kind)
