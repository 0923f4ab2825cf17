"""What differs between two commits, or between a commit and the worktree, as one value."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicate.diff.files import (
    MAX_TEXT_BYTES,
    CommitContents,
    Contents,
    FileChange,
    WorktreeContents,
    compare_paths,
    compare_trees,
    compare_with_worktree,
    list_changes,
)
from replicate.diff.lines import TextDiff, diff_text, is_binary
from replicate.diff.tensors import TensorDiff, diff_tensors
from replicate.diff.values import ValueChange, compare_values
from replicate.errors import InvalidInputError, PathNotFoundError, WeightsFileError
from replicate.experiment_history import ExperimentHistory
from replicate.objects.model import Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.presenting import File
from replicate.refs import CommitRecord, StartRecord
from replicate.repository import Repository
from replicate.worktree.reading import ChangedWhileRead
from replicate.worktree.trees import find_entry

_MAX_PACKAGES_BYTES = 16 << 20
_GIT = ("commit", "branch", "dirty")


@dataclass(frozen=True, slots=True)
class Side:
    """A commit that is compared.

    Attributes:
        repository: Where it lies.
        experiment: The experiment that it belongs to.
        record: Its record.
    """

    repository: Repository
    experiment: ExperimentHistory
    record: CommitRecord


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs from one commit to another, or to the worktree. True when anything does.

    Attributes:
        before: The commit's id, 64 hex digits.
        after: The other commit's id; None for the worktree, of which only files are compared.
        params, metrics: Values that differ, by name.
        packages: Versions that differ: that of Python, then packages that were imported, then the other installed ones;
            None when they are not recorded on both sides.
        git: What differs of `commit`, `branch` and `dirty`.
        command: How the processes that saved them were started, when that differs.
        files: Files that differ, by path.
        primary_metric: (name, goal) of the metric that tells which checkpoint is better, or None.
    """

    before: str
    after: str | None
    params: tuple[ValueChange, ...] = ()
    metrics: tuple[ValueChange, ...] = ()
    packages: tuple[ValueChange, ...] | None = ()
    git: tuple[ValueChange, ...] = ()
    command: ValueChange | None = None
    files: tuple[FileChange, ...] = ()
    primary_metric: tuple[str, str] | None = None
    _contents: tuple[Contents, Contents] | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.params or self.metrics or self.packages or self.git or self.command or self.files)

    def text(self, change: FileChange) -> TextDiff:
        """Return how the text of a changed file differs; reads it on both sides.

        Binary files, and those of more than 1 MiB on a side, have a note instead. Texts that have little in common are
        shown as one replaced by the other, in linear time.

        Raises:
            CorruptionError: A stored file is damaged.
        """
        return self.text_between(change.before, change.after)

    def text_between(self, before: File | None, after: File | None) -> TextDiff:
        """Return how the text of one file differs from that of another; None stands for an empty one."""
        if before and after and before.object_id and before.object_id == after.object_id:
            return TextDiff()
        assert self._contents is not None
        texts = []
        for file, contents in zip((before, after), self._contents, strict=True):
            if file is not None and file.size_bytes > MAX_TEXT_BYTES:
                return TextDiff(note="more than 1 MiB")
            try:
                texts.append(contents.read(file) if file is not None and file.kind != "folder" else b"")
            except OSError as exc:
                return TextDiff(note=f"cannot be read: {exc.strerror}")
            except ChangedWhileRead:
                return TextDiff(note="it changed while it was read")
        return TextDiff(note="binary") if any(map(is_binary, texts)) else diff_text(*texts)

    def tensors(self, change: FileChange, *, limit_bytes: int | None = None) -> TensorDiff | None:
        """Return how the tensors of a changed weight file differ; None unless it is one on both sides.

        Tensors are paired by name, also between files of different formats. Those that lie in equal chunks are not
        read; of the others 4 MiB at a time.

        Args:
            change: One of `files`.
            limit_bytes: If tensors of more bytes than this may differ, compare no values: see `is_compared`.

        Raises:
            CorruptionError: A stored file is damaged.
        """
        before, after = change.before, change.after
        if before is None or after is None or {before.kind, after.kind} & {"symlink", "folder"}:
            return None
        if before.object_id and before.object_id == after.object_id:
            return None
        assert self._contents is not None
        try:
            with self._contents[0].open(before) as old, self._contents[1].open(after) as new:
                return diff_tensors(old, new, change.path, limit_bytes)
        except (WeightsFileError, ChangedWhileRead, OSError):  # what it is instead, `text` tells
            return None


def diff_commits(before: Side, after: Side, paths: Sequence[bytes] = ()) -> Difference:
    """Return what differs from one commit to another; of their files only what is at `paths` and below.

    Only trees whose ids differ are read, and no file. Values are compared whatever `paths` are.
    """
    objects, other_objects = _objects(before, after)
    pairs = compare_paths(objects, before.record.commit.tree, other_objects, after.record.commit.tree, paths)
    experiment, other = before.experiment, after.experiment
    start, other_start = experiment.start_of(before.record), other.start_of(after.record)
    commands = experiment.command_of(before.record), other.command_of(after.record)
    return Difference(
        before.record.commit_id.hex(),
        after.record.commit_id.hex(),
        compare_values(experiment.root.commit.params, other.root.commit.params),
        compare_values(before.record.commit.metrics, after.record.commit.metrics),
        _compare_packages(before, after),
        compare_values(_git(start), _git(other_start)),
        ValueChange("command", "changed", *commands) if commands[0] != commands[1] else None,
        list_changes(pairs),
        other.primary_metric or experiment.primary_metric,
        (CommitContents(objects), CommitContents(other_objects)),
    )


def diff_worktree(repository: Repository, record: CommitRecord, paths: Sequence[bytes] = ()) -> Difference:
    """Return what differs from a commit to the files of the worktree, only at `paths` and below.

    Files that the worktree's index does not vouch for are read; ignored ones do not count.
    """
    objects = repository.objects(record.locator)
    worktree = WorktreeContents(repository.project.root)
    files = list_changes(compare_with_worktree(repository, objects, record, paths), worktree.identify)
    return Difference(record.commit_id.hex(), None, files=files, _contents=(CommitContents(objects), worktree))


def diff_entries(before: Side, path: bytes, after: Side, other_path: bytes) -> Difference:
    """Return what differs from a file or folder of one commit to one of another commit, whatever they are called.

    What is in folders of different names has paths relative to them.

    Raises:
        PathNotFoundError: A commit has no such path. InvalidInputError: One is a folder and the other is not.
    """
    objects, other_objects = _objects(before, after)
    entry, other_entry = _entry(objects, before, path), _entry(other_objects, after, other_path)
    folders = [one.mode is Mode.DIRECTORY for one in (entry, other_entry)]
    if folders[0] != folders[1]:
        names = [os.fsdecode(one) or "the whole commit" for one in (path, other_path)]
        raise InvalidInputError(f"{names[not folders[0]]} is a folder and {names[folders[0]]} is not")
    files: tuple[FileChange, ...] = ()
    if folders[0]:
        files = list_changes(
            compare_trees(objects, entry, other_objects, other_entry, path if path == other_path else b"")
        )
    elif (entry.mode, entry.object_id) != (other_entry.mode, other_entry.object_id):
        files = (FileChange("changed", File.of(path, entry), File.of(other_path, other_entry)),)
    ids = before.record.commit_id.hex(), after.record.commit_id.hex()
    return Difference(*ids, files=files, _contents=(CommitContents(objects), CommitContents(other_objects)))


def _objects(before: Side, after: Side) -> tuple[ObjectStore, ObjectStore]:
    """Return the objects of both commits; of one store together, as most are in both."""
    if before.repository is after.repository:
        both = before.repository.objects(before.record.locator, after.record.locator)
        return both, both
    return before.repository.objects(before.record.locator), after.repository.objects(after.record.locator)


def _entry(objects: ObjectStore, side: Side, path: bytes) -> TreeEntry:
    entry = find_entry(objects, side.record.commit.tree, path)
    if entry is None:
        short = side.record.commit_id.short
        raise PathNotFoundError(
            f"{short} has no {os.fsdecode(path)!r}", hint=f"`replicate ls-tree -r {short}` lists its files"
        )
    return entry


def _git(start: StartRecord | None) -> Mapping[str, Any]:
    """Return what is recorded of a session's Git commit: absent keys are unknown."""
    git = start.capture.get("git") if start else None
    return {key: git[key] for key in _GIT if git.get(key) is not None} if isinstance(git, dict) else {}


def _compare_packages(before: Side, after: Side) -> tuple[ValueChange, ...] | None:
    start, other = before.experiment.start_of(before.record), after.experiment.start_of(after.record)
    if start is None or other is None:
        return None
    pythons = [{"python": one.capture["python"]} if "python" in one.capture else {} for one in (start, other)]
    if start.environment == other.environment:
        return compare_values(*pythons)
    packages, other_packages = _packages(before.repository, start), _packages(after.repository, other)
    if packages is None or other_packages is None:
        return None
    imported = packages[1] | other_packages[1]
    changes = sorted(compare_values(packages[0], other_packages[0]), key=lambda change: change.name not in imported)
    return (*compare_values(*pythons), *changes)


def _packages(repository: Repository, start: StartRecord) -> tuple[dict[str, str], set[str]] | None:
    """Return name and version of the packages that were installed, and which were imported; None when not recorded."""
    if start.environment is None or start.locator is None:
        return None
    objects = repository.objects(start.locator)
    entry = find_entry(objects, start.environment, b"packages.json")
    if entry is None or entry.size_bytes > _MAX_PACKAGES_BYTES:
        return None
    try:
        listed = json.loads(objects.read(entry.object_id, claimed_bytes=entry.size_bytes))
        found = {_normalised(one): str(one["version"]) for one in listed}
        return found, {_normalised(one) for one in listed if one.get("imported") is True}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):  # no list of packages
        return None


def _normalised(package: Mapping[str, Any]) -> str:
    """Return a distribution's name as indexes compare them: `PyYAML` and `pyyaml` are one."""
    return re.sub("[-_.]+", "-", str(package["name"])).lower()
