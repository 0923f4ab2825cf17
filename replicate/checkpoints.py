"""Checkpoints as users meet them. Floor 7."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from replicate.errors import InvalidInputError, NotFoundError
from replicate.experiment_history import ExperimentHistory, assemble, summarise
from replicate.objects.ids import ObjectID
from replicate.objects.model import Mode, PathList
from replicate.presenting import File, html_table, json_time, json_value, to_datetime
from replicate.refs import CommitRecord
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.summary import CheckpointSummary
from replicate.text import format_bytes, format_value

if TYPE_CHECKING:  # loaded when they are needed: a listing needs none
    from numpy.typing import NDArray

    from replicate.diff import Difference, Side
    from replicate.restoring import Restored
    from replicate.tensors import Tensor, TensorFile


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
        tags: Its own tags, sorted; see `tag`. An experiment's start has those of the experiment.
    """

    def __init__(
        self,
        repository: Repository,
        known: CommitRecord | tuple[ObjectID, CheckpointSummary],
        reporter: Reporter,
        tags: Sequence[str] = (),
    ) -> None:
        self._repository = repository
        self._loaded = known if isinstance(known, CommitRecord) else None
        self._reporter = reporter
        experiment, summary = (known.name.experiment, summarise(known)) if isinstance(known, CommitRecord) else known
        self.id = summary.commit_id.hex()
        self.step = summary.step
        self.metrics: dict[str, Any] = dict(summary.metrics)
        self.primary_metric = summary.primary_metric
        self.seq = summary.seq
        self.created = to_datetime(summary.time_ns)
        self.experiment_id = experiment.hex()
        self.file_count = summary.files
        self.size_bytes = summary.bytes
        self.new_bytes = summary.new_bytes
        self.unstable = _paths(summary.unstable)
        self.skipped = _paths(summary.skipped)
        self.tags = list(tags)

    @property
    def _record(self) -> CommitRecord:
        """Its record, read when it is first asked for."""
        if self._loaded is None:
            records = self._repository.refs.list(ObjectID.parse(self.experiment_id))
            found = (one for one in records if isinstance(one, CommitRecord) and one.commit_id.hex() == self.id)
            self._loaded = next(found, None)
        if self._loaded is None:
            raise NotFoundError(f"checkpoint {self.short_id} is not in the store any more")
        return self._loaded

    is_saved = True

    @property
    def short_id(self) -> str:
        """The first 7 digits of the id."""
        return self.id[:7]

    def files(self) -> list[File]:
        """Return the files and links, in order of their paths."""
        from replicate.worktree.trees import iter_tree

        objects = self._repository.objects(self._record.locator)
        return [
            File.of(path, entry)
            for path, entry in iter_tree(objects, self._record.commit.tree)
            if entry.mode is not Mode.DIRECTORY
        ]

    def open(self, path: str) -> io.BufferedReader:
        """Open a file for reading, as bytes. Only what is read is fetched and decoded.

        Raises:
            PathNotFoundError: There is no such file in the checkpoint.
            CorruptionError: What is stored is damaged (also raised while reading).
        """
        from replicate.restoring import open_file

        return open_file(self._repository.objects(self._record.locator), self._record.commit.tree, path)

    def tensors(self, path: str) -> list[Tensor]:
        """Return name, dtype and shape of the tensors in a weight file. Its header is read, and no tensor.

        The format is told by content: safetensors, torch (what `torch.save` writes, as a zip archive), GGUF, npy, npz.
        Nothing is unpickled: the pickle in a torch file is followed opcode by opcode, and where it holds what is not
        known here, or does not fit the storages, these are listed by their entries (`data/0`) instead.

        Raises:
            PathNotFoundError: There is no such file in the checkpoint.
            WeightsFileError: It has none of these formats, or its header contradicts itself.
            CorruptionError: What is stored is damaged.
        """
        return self._open_tensors(path).tensors()

    def tensor(self, path: str, name: str | None = None) -> NDArray[Any]:
        """Return one tensor of a weight file as a numpy array. Only its bytes are decoded, and the file's header.

        bfloat16 and float8 come as the dtypes of `ml_dtypes` where that is installed, else as their bits in uint16 and
        uint8. Quantised blocks of GGUF, 4- and 6-bit floats, and storages by their entries, come as bytes: uint8, of
        one dimension. Views of a torch storage keep their strides.

        Args:
            path: The file.
            name: As `tensors` lists it; None for the only one.

        Raises:
            TensorNotFoundError: The file has no such tensor. Else as `tensors`.
        """
        return self._open_tensors(path).array(name)

    def _open_tensors(self, path: str) -> TensorFile:
        from replicate.restoring import find_file
        from replicate.tensors import TensorFile

        file = find_file(self._repository.objects(self._record.locator), self._record.commit.tree, path)
        return TensorFile(path, file.size_bytes, file.read_at)

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
        from replicate.restoring import checkout

        wanted = [os.fsencode(path).strip(b"/") for path in ([paths] if isinstance(paths, str) else paths)]
        return checkout(
            self._repository, self._record, os.fspath(directory), self._reporter, paths=wanted, force=force, exact=exact
        )

    def tag(self, *tags: str, remove: Iterable[str] = (), note: str | None = None, force: bool = False) -> None:
        """Add tags, which are revisions from then on; remove some; replace the note. An experiment's start is it.

        Args:
            tags: As an experiment's name may be. Each means one commit in the whole store.
            remove: Tags that it has.
            note: At most 1,000 bytes; "" takes it away.
            force: Move a tag here that another commit has.

        Raises:
            ConflictError: A tag is another commit's tag, or a name. Nothing was changed.
            InvalidInputError: A tag could not be typed as a revision. NotFoundError: A tag to remove is not there.
        """
        from replicate.lifecycle import Change, change_tags

        change = Change(
            ObjectID.parse(self.experiment_id), ObjectID.parse(self.id), tuple(tags), tuple(remove), note=note
        )
        change_tags(self._repository, self._repository.history(), change, force=force)
        self.tags = sorted({*self.tags, *tags} - {*remove})

    def delete(self) -> None:
        """Remove it from every list, as `replicate rm` does; `replicate undo` brings it back.

        Nothing is freed yet.

        Raises:
            InvalidInputError: It is the start of an experiment: delete that.
        """
        from replicate.lifecycle import remove_checkpoints

        experiment = self._history()
        remove_checkpoints(self._repository, experiment, [self._record])

    def diff(self, other: Checkpoint) -> Difference:
        """Return what differs from this checkpoint to another: params, metrics, packages, git, command and files.

        Only folders that differ are read, and no file; `Difference.text` reads the two versions of one.

        Raises:
            NotFoundError: One of them was not saved, or its experiment is not in the store any more.
            CorruptionError: What is stored is damaged.
        """
        if not isinstance(other, Checkpoint):
            raise InvalidInputError(f"a checkpoint cannot be compared with a value of type {type(other).__name__}")
        from replicate.diff import diff_commits

        return diff_commits(self._side(), other._side())

    def _side(self) -> Side:
        from replicate.diff import Side

        return Side(self._repository, self._history(), self._record)

    def _history(self) -> ExperimentHistory:
        experiment = assemble(self._repository.refs.list(self._record.name.experiment))
        if experiment is None:
            raise NotFoundError(f"experiment {self._record.name.experiment.short} is not in the store any more")
        return experiment

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
            "tags": self.tags,
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
        self.tags = []

    def files(self) -> list[File]:
        """Return no file."""
        return []

    def open(self, path: str) -> io.BufferedReader:
        """Raise: there is nothing to open."""
        raise NotFoundError("this checkpoint was not saved", hint="see Checkpoint.is_saved")

    def _open_tensors(self, path: str) -> TensorFile:
        raise NotFoundError("this checkpoint was not saved", hint="see Checkpoint.is_saved")

    def checkout(
        self, directory: str | os.PathLike[str], *, paths: Iterable[str] = (), force: bool = False, exact: bool = False
    ) -> Restored:
        """Raise: there is nothing to restore."""
        raise NotFoundError("this checkpoint was not saved", hint="see Checkpoint.is_saved")

    def _side(self) -> Side:
        raise NotFoundError("this checkpoint was not saved", hint="see Checkpoint.is_saved")

    def tag(self, *tags: str, remove: Iterable[str] = (), note: str | None = None, force: bool = False) -> None:
        """Do nothing."""

    def delete(self) -> None:
        """Do nothing."""


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


def _paths(listed: PathList | None) -> list[str]:
    return [os.fsdecode(path) for path in listed.paths] if listed else []
