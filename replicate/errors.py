"""Every error that `replicate` raises on purpose, grouped by what the caller can do next.

    ReplicateError                  anything below; has `kind`, `hint` and `exit_code`
    ├── InvalidInputError           (also ValueError) fix the argument
    │   ├── ConfigError             fix the line of the configuration file
    │   ├── MissingPackageError     install the package
    │   ├── AmbiguousRevisionError  (has `candidates`) type more of it
    │   └── WeightsFileError        open the file as bytes: its tensors cannot be told
    ├── NotFoundError               (also LookupError) look elsewhere
    │   ├── ProjectNotFoundError    go to the project's folder, or start one with a save
    │   ├── RevisionNotFoundError   list what there is
    │   ├── PathNotFoundError       list the commit's files
    │   ├── TensorNotFoundError     list the file's tensors
    │   ├── ObjectNotFoundError     (has `object_id`) the store lacks an object
    │   └── KeyNotFoundError        (has `key`) the storage lacks a key
    ├── ConflictError               decide, then repeat
    │   └── WorktreeModifiedError   (has `paths`) unsaved bytes would be overwritten; nothing was written
    ├── CorruptionError             (has `where`) stop; stored bytes are not what was saved
    ├── UnsupportedFormatError      upgrade
    ├── StorageError                (has `key`, `operation`) the disk or the network failed; repeating is safe
    │   ├── StorageFullError        (has `needed_bytes`) make room, then repeat
    │   ├── StorageDeniedError      log in, or ask for permission, then repeat
    │   ├── StorageMissingError     correct the URL, or create the bucket
    │   ├── StorageReplacedError    repeat: the store was emptied or replaced under us, and is looked at anew
    │   └── StorageUnreachableError wait, then repeat
    └── SessionError                call `replicate.init()` (again)

Bugs are not `ReplicateError`; they stay plain and loud. Exit codes: design of the command line, `replicate --help`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class ReplicateError(Exception):
    """Base of all expected failures.

    Attributes:
        kind: Stable, append-only code of the precise cause.
        hint: What to do next, one imperative sentence, or None.
        exit_code: What the command line exits with.
    """

    kind: ClassVar[str] = "failure"
    exit_code: ClassVar[int] = 10

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class InvalidInputError(ReplicateError, ValueError):
    """An argument is wrong; fix it and call again. Nothing was written."""

    kind = "invalid-input"
    exit_code = 2


class ConfigError(InvalidInputError):
    """A configuration file or variable is wrong."""

    kind = "config"


class MissingPackageError(InvalidInputError):
    """What was asked for needs a package that is not installed."""

    kind = "missing-package"


class AmbiguousRevisionError(InvalidInputError):
    """A prefix matches several commits."""

    kind = "ambiguous-revision"

    def __init__(self, message: str, *, candidates: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.candidates = tuple(candidates)


class WeightsFileError(InvalidInputError):
    """A file is no weight file of a known format, or its header contradicts its bytes. It is stored as it was saved."""

    kind = "weights-file"


class NotFoundError(ReplicateError, LookupError):
    """What was asked for does not exist here."""

    kind = "not-found"
    exit_code = 3


class ProjectNotFoundError(NotFoundError):
    """Neither this folder nor one above it is a project."""

    kind = "project-not-found"


class RevisionNotFoundError(NotFoundError):
    """No commit has this id, name or tag."""

    kind = "revision-not-found"


class PathNotFoundError(NotFoundError):
    """A commit or the worktree has no such path."""

    kind = "path-not-found"


class TensorNotFoundError(NotFoundError):
    """A weight file has no such tensor."""

    kind = "tensor-not-found"


class ObjectNotFoundError(NotFoundError):
    """The store lacks an object."""

    kind = "object-not-found"

    def __init__(self, message: str, *, object_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.object_id = object_id


class KeyNotFoundError(NotFoundError):
    """The storage lacks a key."""

    kind = "key-not-found"

    def __init__(self, message: str, *, key: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key


class ConflictError(ReplicateError):
    """The state is not what the call assumed; decide, then repeat."""

    kind = "conflict"
    exit_code = 4


class WorktreeModifiedError(ConflictError):
    """A checkout would overwrite bytes that are in no checkpoint. Nothing was written."""

    kind = "worktree-modified"

    def __init__(self, message: str, *, paths: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.paths = tuple(paths)


class CorruptionError(ReplicateError):
    """Stored bytes are not what was saved. `where` names the object or key."""

    kind = "corruption"
    exit_code = 5

    def __init__(self, message: str, *, where: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.where = where


class UnsupportedFormatError(ReplicateError):
    """The store, or an object in it, needs another version of `replicate`."""

    kind = "unsupported-format"
    exit_code = 7


class StorageError(ReplicateError):
    """The disk or the network failed. Nothing that was saved before is affected; repeating is safe."""

    kind = "storage"
    exit_code = 6

    def __init__(self, message: str, *, key: str = "", operation: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.operation = operation


class StorageFullError(StorageError):
    """No space left. The store is intact."""

    kind = "storage-full"

    def __init__(
        self, message: str, *, needed_bytes: int, key: str = "", operation: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, key=key, operation=operation, hint=hint)
        self.needed_bytes = needed_bytes


class StorageDeniedError(StorageError):
    """The storage does not know us, or does not allow it: credentials are missing, wrong, expired, or not enough."""

    kind = "storage-denied"


class StorageMissingError(StorageError):
    """The bucket or container of a store is not there."""

    kind = "storage-missing"


class StorageUnreachableError(StorageError):
    """No answer, or not to the end, often enough to give up for now."""

    kind = "storage-unreachable"


class StorageReplacedError(StorageError):
    """While a store was written to, somebody emptied it, or put another in its place."""

    kind = "storage-replaced"


class SessionError(ReplicateError):
    """This process has no session that can save: ended, or inherited by a fork."""

    kind = "session"
