"""One process writing to an experiment, from `init()` to its end. Floor 7. SPEC §9.2 (`s`, `e`), §12."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from replicate.background import BackgroundPush
from replicate.base import load_base
from replicate.capture import Capture, describe
from replicate.comparing import Change, compare_worktree
from replicate.errors import ConflictError, InvalidInputError, ReplicateError, SessionError
from replicate.experiment_history import ExperimentHistory
from replicate.maintenance.folding import fold_when_due
from replicate.masking import mask
from replicate.objects.ids import ObjectID
from replicate.objects.model import Commit, Mode, PathList, TreeEntry, encode_tree
from replicate.objects.writer import ObjectWriter
from replicate.refs import CommitRecord, EndRecord
from replicate.refs.store import packset_of
from replicate.reporting import Reporter
from replicate.repository import Repository
from replicate.saving import Save, Saved
from replicate.selection import NamedPath
from replicate.text import plural
from replicate.values import check_primary_metric, check_step, normalise
from replicate.worktree.scan import join

_LARGEST_COMPARED = 1 << 20


class Session:
    """Saves checkpoints of one experiment. Calls from several threads are taken one after the other.

    Args:
        repository: The store; it exists.
        reporter: Hears of progress.
        captured: The facts of this process.
        push: Is told of everything that is published; None where nothing is to be pushed for now.
    """

    def __init__(
        self, repository: Repository, reporter: Reporter, captured: Capture, push: BackgroundPush | None = None
    ) -> None:
        self.repository = repository
        self.reporter = reporter
        self.session_id = repository.host.random(8).hex()
        self._captured = captured
        self._push = push
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._index = repository.worktree_index()
        self._started_ns = repository.host.monotonic_ns()
        self._held = repository.hold_session(self.session_id)
        self._told: set[str] = set()
        self._head: CommitRecord
        self._experiment: ObjectID
        self._step: int | None = None
        self._primary: tuple[str, str] | None = None
        self.is_ended = False
        repository.remove_leftovers()
        repository.index.refresh()
        captured.ask()

    # -- begin -----------------------------------------------------------------------------------------------------

    def begin(
        self,
        params: Mapping[str, Any],
        name: str | None,
        tags: Sequence[str],
        primary_metric: tuple[str, str] | None,
        parent: CommitRecord | None,
        *,
        tree: ObjectID | None = None,
    ) -> Saved:
        """Start a new experiment: save the worktree as its root commit, and the session's start.

        With `tree`, which the store holds, that is committed, and the worktree has no part in it.
        """
        head = self.repository.read_head() if tree is None else None
        base = load_base(self.repository, head) if head else None
        environment: list[ObjectID] = []

        def make(tree: ObjectID, unstable: PathList | None, skipped: PathList | None) -> Commit:
            return Commit(
                tree=tree,
                author=self._captured.author,
                time_ns=self.repository.host.now_ns(),
                parents=(parent.commit_id,) if parent else (),
                nonce=self.repository.host.random(16),
                params=mask(normalise(params, "params")),
                command=self._captured.command,
                name=name,
                tags=tuple(sorted(set(tags))),
                primary_metric=check_primary_metric(primary_metric, None),
                unstable=unstable,
                skipped=skipped,
            )

        save = Save(self.repository, self._index, base, self.reporter, self._told)
        saved = save.run(
            None, make, self.session_id, lambda writer: environment.append(self._write_environment(writer)), tree=tree
        )
        self._base = saved.base
        self._head = saved.base.record
        self._experiment = self._head.commit_id
        self._primary = self._head.commit.primary_metric
        self._publish_start(environment[0], saved.base.stored, self._head)
        if tree is None:
            self.repository.write_head(self._head)
        self._tell_begin()
        return saved

    def resume(
        self, experiment: ExperimentHistory, head: CommitRecord, primary_metric: tuple[str, str] | None = None
    ) -> None:
        """Continue an experiment after `head`; no file is restored or read. A primary metric replaces its own."""
        self._continue(experiment, head, primary_metric)
        self._record_start(head)
        self._tell_begin()

    def append(
        self,
        experiment: ExperimentHistory,
        head: CommitRecord,
        tree: ObjectID,
        step: Any,
        metrics: Mapping[str, Any] | None,
        primary_metric: tuple[str, str] | None,
    ) -> Saved:
        """Commit a tree that the store holds as a checkpoint after `head`; the worktree has no part in it.

        The session's start is recorded after the checkpoint: one that fails leaves no trace.
        """
        self._continue(experiment, head)
        saved = self.checkpoint(None, step, metrics, primary_metric, tree=tree)
        self._record_start(head)
        return saved

    def _tell_begin(self) -> None:
        if self._push is not None:
            self._push.begin(self._beat_name)

    @property
    def _beat_name(self) -> str:
        return f"{self._experiment.hex()}~{self.session_id}"

    def _continue(
        self, experiment: ExperimentHistory, head: CommitRecord, primary_metric: tuple[str, str] | None = None
    ) -> None:
        base = load_base(self.repository, head)
        if base is None:
            raise ConflictError(
                f"cannot continue {experiment.experiment_id.short}: files of {head.commit_id.short} are not at hand",
                hint="start a new experiment, with parent= to keep the link",
            )
        self._base = base
        self._head = head
        self._experiment = experiment.experiment_id
        self._step = head.commit.step
        self._primary = check_primary_metric(primary_metric, None) or experiment.primary_metric
        self._make_durable(experiment.root, head)

    def _record_start(self, head: CommitRecord) -> None:
        with self.repository.saving():
            self.repository.index.begin_save()
            writer = self.repository.writer()
            try:
                environment = self._write_environment(writer)
                stored = writer.finish(None, list)
            finally:
                writer.close()
            self.repository.check_writable()
            self._publish_start(environment, stored, head)

    def _make_durable(self, *records: CommitRecord) -> None:
        """Put records again that who wrote them may not have synced: without its root an experiment is not listed."""
        if self.repository.project.durability == "safe":
            for record in records:
                self.repository.transport.put(record.name.key, self.repository.transport.get(record.name.key))

    def _write_environment(self, writer: ObjectWriter) -> ObjectID:
        for notice in self._captured.finish(self.repository.host):
            self.reporter.notice(notice)
        entries = [
            TreeEntry(name, Mode.FILE, len(content), writer.write_blob(content))
            for name, content in sorted(self._captured.files.items())
        ]
        tree, _ = writer.write_tree(encode_tree(entries))
        return tree

    def _publish_start(self, environment: ObjectID, stored: Any, head: CommitRecord) -> None:
        fields = {
            "time": self.repository.host.now_ns(),
            "capture": self._captured.summary,
            "environment": environment,
            **packset_of(stored).fields(),
            "locator": stored.locator.encode(),
        }
        self.repository.refs.publish(self._experiment, head.commit.seq, self.session_id, "s", fields)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def experiment_id(self) -> ObjectID:
        """The experiment that this session writes to."""
        return self._experiment

    @property
    def head(self) -> CommitRecord:
        """The commit saved last, or the one that the session continues."""
        return self._head

    def checkpoint(
        self,
        selection: Sequence[NamedPath] | None,
        step: Any,
        metrics: Mapping[str, Any] | None,
        primary_metric: tuple[str, str] | None,
        *,
        tree: ObjectID | None = None,
    ) -> Saved:
        """Save a checkpoint after the head. When this raises, nothing was saved and the step counter stands.

        Args:
            selection: None for the whole worktree; else the paths that replace those of the last save; empty: no file.
            step: None counts on: one more than before, 0 first.
            metrics: Name → value.
            primary_metric: (name, goal); the last one given stays in force.
            tree: Commit this tree, which the store holds, instead; the worktree has no part in it.
        """
        self.check_usable()
        values = normalise(metrics or {}, "metrics")
        given = check_primary_metric(primary_metric, values)
        number = check_step(step)
        with self._lock:
            if number is None:
                number = 0 if self._step is None else check_step(self._step + 1)
            primary = given or (self._primary if self._primary and self._primary[0] in values else None)
            head = self._head
            self._tell_of_unseen_metric(values)

            def make(tree: ObjectID, unstable: PathList | None, skipped: PathList | None) -> Commit:
                return Commit(
                    tree=tree,
                    author=self._captured.author,
                    time_ns=self.repository.host.now_ns(),
                    parents=(head.commit_id,),
                    experiment=self._experiment,
                    primary_metric=primary,
                    seq=head.commit.seq + 1,
                    step=number,
                    metrics=values,
                    unstable=unstable,
                    skipped=skipped,
                )

            save = Save(
                self.repository, self._index, self._base, self.reporter, self._told, generation=head.commit.seq + 1
            )
            try:
                saved = save.run(None if selection is None else tuple(selection), make, self.session_id, tree=tree)
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None  # where in the save it was is nobody's business
            self._base, self._head = saved.base, saved.base.record
            self._step, self._primary = number, given or self._primary
            if tree is None:
                self.repository.write_head(self._head)
            if self._push is not None:
                self._push.notify(self.reporter)
            return saved

    def _tell_of_unseen_metric(self, metrics: Mapping[str, Any]) -> None:
        """Tell once when metrics are saved without the primary one: a misspelled name would mean no `best`."""
        if self._primary and metrics and self._primary[0] not in metrics and "primary metric" not in self._told:
            self._told.add("primary metric")
            given = ", ".join(metrics)
            self.reporter.notice(f"primary metric {self._primary[0]!r} is not in these metrics (given: {given})")

    def changes(self) -> list[Change]:
        """Return in what the worktree differs from the head. Of large files only size and stat are looked at."""
        saved = {
            join(folder, entry.name): entry
            for folder, state in self._base.directories.items()
            for entry in state.entries
        }
        return compare_worktree(
            self.repository, self._head, index=self._index, saved=saved, largest_read=_LARGEST_COMPARED
        )

    def check_usable(self) -> None:
        """Raise `SessionError` unless this process may save."""
        if os.getpid() != self._pid:
            raise SessionError(
                "this process was forked from the one that called replicate.init()",
                hint="call replicate.init() in this process too",
            )
        if self.is_ended:
            raise SessionError(
                f"the session of experiment {self._experiment.short} has ended",
                hint=f'continue it with replicate.init(resume="{self._experiment.short}")',
            )

    def end(
        self, status: str, exception: BaseException | None = None, exit_code: int | None = None
    ) -> EndRecord | None:
        """End the session: finished, failed with its exception, or stopped. A second end, or a fork's, does nothing.

        `exit_code` is the process's, where it is known.
        """
        with self._lock:
            if self.is_ended or os.getpid() != self._pid:
                return None
            self.is_ended = True
            fields: dict[str, Any] = {
                "status": status,
                "time": self.repository.host.now_ns(),
                "duration": self.repository.host.monotonic_ns() - self._started_ns,
            }
            if exception is not None:
                fields["exception"] = describe(exception)
            if exit_code is not None:
                fields["exit"] = exit_code
            try:
                seq = self._head.commit.seq
                record = self.repository.refs.publish(self._experiment, seq, self.session_id, "e", fields)
            finally:
                self.close()
            self._fold()
            if self._push is not None:
                self._push.end(self._beat_name)
            return record if isinstance(record, EndRecord) else None

    def _fold(self) -> None:
        """Fold the store's old records when there are many: somebody has to, and here nobody waits for a listing."""
        try:
            done = fold_when_due(self.repository, self._experiment)
        except ReplicateError as exc:
            self.reporter.warn(f"old records were not folded: {exc.message}")
            return
        if done is not None and done.records:
            self.reporter.notice(f"{plural(done.records, 'old record')} folded, so that listings stay fast")

    def close(self) -> None:
        """Let go of what a running session holds, and record nothing. For a session that could not begin."""
        self.is_ended = True
        self._captured.close()
        if self._held is not None:
            self.repository.release_session(self._held)
            self._held = None
        self.repository.index.close()


def select_paths(root: str, cwd: str, path: Any) -> tuple[NamedPath, ...] | None:
    """Return what `checkpoint(path)` names: None for the whole worktree, else its paths in the tree and on disk.

    Args:
        root: The worktree.
        cwd: What relative paths are relative to.
        path: None, a path, a sequence of paths (empty: no file), or a mapping of paths in the tree to paths on disk.

    Raises:
        InvalidInputError: A path of another type, empty, or outside of the worktree.
    """
    if path is None:
        return None
    if isinstance(path, Mapping):
        mapped = tuple(_mapped(root, cwd, target, source) for target, source in path.items())
        _check_nested(mapped)
        return mapped
    if isinstance(path, str | bytes | os.PathLike):
        path = [path]
    if not isinstance(path, Sequence | set | frozenset):
        raise InvalidInputError(
            f"path is of type {type(path).__name__}; it must be a path, a list of paths or a mapping"
        )
    return tuple(_in_worktree(root, cwd, one) for one in path)


def _real(cwd: str, path: Any) -> bytes:
    """Return an absolute path whose folder has no links; a link itself is kept."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise InvalidInputError(f"a path is of type {type(path).__name__}: {path!r}")
    raw = os.fsencode(path)
    if not raw or b"\0" in raw:
        raise InvalidInputError(f"{path!r} is no path", hint="path=None saves everything, path=() saves no file")
    full = os.path.normpath(os.path.join(os.fsencode(cwd), raw))
    folder, name = os.path.split(full)
    return os.path.join(os.path.realpath(folder), name) if name else full


def _in_worktree(root: str, cwd: str, path: Any) -> NamedPath:
    full = _real(cwd, path)
    top = os.fsencode(root)
    if full == top:
        return NamedPath(b"", full)
    if not full.startswith(os.path.join(top, b"")):
        raise InvalidInputError(
            f"{os.fsdecode(full)} is outside of the worktree {root}",
            hint=f"say where it goes: checkpoint({{{os.path.basename(os.fsdecode(full))!r}: {os.fsdecode(full)!r}}})",
        )
    return NamedPath(full[len(os.path.join(top, b"")) :], full)


def _check_nested(mapped: tuple[NamedPath, ...]) -> None:
    """Refuse a mapping that puts one path below another: which of them counts could not be told."""
    paths = sorted(one.path + b"/" for one in mapped)
    for above, below in itertools.pairwise(paths):
        if below.startswith(above):
            raise InvalidInputError(
                f"{os.fsdecode(above[:-1])!r} and {os.fsdecode(below[:-1])!r} cannot both be saved: one is in the other"
            )


def _mapped(root: str, cwd: str, target: Any, source: Any) -> NamedPath:
    if not isinstance(source, str | bytes | os.PathLike):
        raise InvalidInputError(
            f"{target!r} is mapped to {source!r}, which is no path",
            hint="path= maps paths in the checkpoint to files on the disk; did you mean metrics=?",
        )
    full = _real(root, target)
    if not full.startswith(os.path.join(os.fsencode(root), b"")) and full != os.fsencode(root):
        raise InvalidInputError(
            f"{target!r} is outside of the worktree {root}",
            hint="the keys of a mapping are paths in the project, relative to its folder",
        )
    inside = _in_worktree(root, root, target)
    if not inside.path:
        raise InvalidInputError(f"{target!r} cannot be replaced: it is the whole worktree")
    return replace(inside, source=_real(cwd, source))
