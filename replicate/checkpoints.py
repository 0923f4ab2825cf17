"""Checkpoints as users meet them. Floor 7."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, overload

from replicate.errors import NotFoundError
from replicate.objects.model import Mode
from replicate.presenting import html_table, json_time, json_value, to_datetime
from replicate.refs import CommitRecord
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.restoring import Restored, checkout, open_file
from replicate.text import format_bytes, format_value
from replicate.worktree.checkout import iter_tree


@dataclass(frozen=True, slots=True)
class File:
    """One file of a checkpoint.

    Attributes:
        path: Relative to the project, with `/`; bytes that are not UTF-8 as surrogates, as `os.fsdecode` gives them.
        size_bytes: Its length.
        kind: "file", "executable" or "symlink".
        object_id: BLAKE3 of its bytes, 64 hex digits: what `b3sum` prints.
    """

    path: str
    size_bytes: int
    kind: Literal["file", "executable", "symlink"]
    object_id: str


_KINDS: dict[Mode, Literal["file", "executable", "symlink"]] = {
    Mode.FILE: "file",
    Mode.EXECUTABLE: "executable",
    Mode.SYMLINK: "symlink",
}


class Checkpoint:
    """A saved state: files, step and metrics. Made by `checkpoint()`; never changes.

    Attributes:
        id: 64 hex digits.
        step: The step it was saved at, None for an experiment's start.
        metrics: Name → value.
        primary_metric: (name, goal) or None.
        seq: Its place in its experiment; 0 is the start.
        created: When the save began, UTC.
        experiment_id: The experiment that it belongs to.
        file_count, size_bytes, new_bytes: Its files, their bytes, and how many of these were new to the store.
        unstable, skipped: Paths that changed while they were saved, and that could not be read.
    """

    def __init__(self, repository: Repository, record: CommitRecord, reporter: Reporter) -> None:
        commit = record.commit
        self._repository = repository
        self._record = record
        self._reporter = reporter
        self.id = record.commit_id.hex()
        self.step = commit.step
        self.metrics: dict[str, Any] = dict(commit.metrics)
        self.primary_metric = commit.primary_metric
        self.seq = commit.seq
        self.created = to_datetime(commit.time_ns)
        self.experiment_id = record.name.experiment.hex()
        self.file_count = record.files
        self.size_bytes = record.bytes
        self.new_bytes = record.new_bytes
        self.unstable = _paths(commit.unstable.paths if commit.unstable else ())
        self.skipped = _paths(commit.skipped.paths if commit.skipped else ())

    is_saved = True

    @property
    def short_id(self) -> str:
        """The first 7 digits of the id."""
        return self.id[:7]

    def files(self) -> list[File]:
        """Return the files and links, in order of their paths."""
        objects = self._repository.objects(self._record.locator)
        return [
            File(os.fsdecode(path), entry.size_bytes, _KINDS[entry.mode], entry.object_id.hex())
            for path, entry in iter_tree(objects, self._record.commit.tree)
            if entry.mode is not Mode.DIRECTORY
        ]

    def open(self, path: str) -> io.BufferedReader:
        """Open a file for reading, as bytes. Only what is read is fetched and decoded.

        Raises:
            PathNotFoundError: There is no such file in the checkpoint.
            CorruptionError: What is stored is damaged (also raised while reading).
        """
        return open_file(self._repository.objects(self._record.locator), self._record.commit.tree, path)

    def checkout(
        self,
        directory: str | os.PathLike[str],
        *,
        paths: Iterable[str] = (),
        force: bool = False,
        exact: bool = False,
    ) -> Restored:
        """Restore the files into `directory`; see `replicate checkout`.

        Args:
            directory: Created if it is not there.
            paths: Only these files and folders of the checkpoint.
            force: Overwrite changes that are in no checkpoint.
            exact: Also remove files that the checkpoint does not have, unless they are ignored.

        Raises:
            WorktreeModifiedError: Changes that are in no checkpoint would be lost; nothing was written.
        """
        wanted = [os.fsencode(path).strip(b"/") for path in ([paths] if isinstance(paths, str) else paths)]
        return checkout(
            self._repository, self._record, os.fspath(directory), self._reporter, paths=wanted, force=force, exact=exact
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `replicate show --json` prints of it. NaN and infinities are text."""
        primary = self.primary_metric
        return {
            "id": self.id,
            "experiment": self.experiment_id,
            "created": json_time(self.created),
            "seq": self.seq,
            "step": self.step,
            "metrics": json_value(self.metrics),
            "primary_metric": {"name": primary[0], "goal": primary[1]} if primary else None,
            "files": self.file_count,
            "bytes": self.size_bytes,
            "new_bytes": self.new_bytes,
            "unstable": self.unstable,
            "skipped": self.skipped,
        }

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={format_value(value)}" for name, value in self.metrics.items())
        return f"<Checkpoint {self.short_id} step={self.step}{' ' + metrics if metrics else ''}>"


class InertCheckpoint(Checkpoint):
    """What `checkpoint()` returns where nothing is saved: disabled, another rank, or a failure with on_error="warn"."""

    is_saved = False

    def __init__(self, step: int | None, metrics: Mapping[str, Any] | None) -> None:
        self.id = ""
        self.step = step
        self.metrics = dict(metrics or {})
        self.primary_metric = None
        self.seq = 0
        self.created = to_datetime(0)
        self.experiment_id = ""
        self.file_count = self.size_bytes = self.new_bytes = 0
        self.unstable = []
        self.skipped = []

    def files(self) -> list[File]:
        """Return no file."""
        return []

    def open(self, path: str) -> io.BufferedReader:
        """Raise: there is nothing to open."""
        raise NotFoundError("this checkpoint was not saved", hint="see Checkpoint.is_saved")

    def checkout(
        self, directory: str | os.PathLike[str], *, paths: Iterable[str] = (), force: bool = False, exact: bool = False
    ) -> Restored:
        """Raise: there is nothing to restore."""
        raise NotFoundError("this checkpoint was not saved", hint="see Checkpoint.is_saved")


class CheckpointList(list[Checkpoint]):
    """Checkpoints in order. Slices are lists of the same type; shows as a table in notebooks."""

    @overload
    def __getitem__(self, key: SupportsIndex) -> Checkpoint: ...

    @overload
    def __getitem__(self, key: slice) -> CheckpointList: ...

    def __getitem__(self, key: SupportsIndex | slice) -> Checkpoint | CheckpointList:
        if isinstance(key, slice):
            return CheckpointList(super().__getitem__(key))
        return super().__getitem__(key)

    @property
    def step(self) -> list[int | None]:
        """Every checkpoint's step."""
        return [checkpoint.step for checkpoint in self]

    @property
    def metrics(self) -> dict[str, list[Any]]:
        """Every metric's values, one per checkpoint, None where it was not given."""
        names = dict.fromkeys(name for checkpoint in self for name in checkpoint.metrics)
        return {name: [checkpoint.metrics.get(name) for checkpoint in self] for name in names}

    def _repr_html_(self) -> str:
        names = list(self.metrics)
        rows = [
            [one.short_id, "" if one.step is None else str(one.step), format_bytes(one.size_bytes)]
            + [format_value(one.metrics[name]) if name in one.metrics else "" for name in names]
            for one in self
        ]
        return html_table(["checkpoint", "step", "size", *names], rows)


def _paths(paths: Iterable[bytes]) -> list[str]:
    return [os.fsdecode(path) for path in paths]
