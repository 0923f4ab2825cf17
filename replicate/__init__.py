"""Version control for machine learning.

    import replicate

    experiment = replicate.init(params={"lr": 0.01})          # records code, command, environment
    for epoch in range(100):
        ...
        replicate.checkpoint(step=epoch, metrics={"loss": loss}, primary_metric=("loss", "minimize"))

Afterwards `replicate ls` lists what ran, and `replicate checkout` brings it back.

The public names are those of `__all__`; they are loaded on first use, so that `import replicate` costs nothing. The
floors, from the ground: errors, reporting, text, host · transport, config · objects · refs, tensors · worktree,
history, revisions · repository · saving, restoring · values, capture, diff, session, experiment · collection,
recording, console · cli. A file imports from floors below it only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from replicate.checkpoints import Checkpoint, CheckpointList
    from replicate.collection import ExperimentCollection
    from replicate.diff import Difference, FileChange, TensorChange, TensorDiff, TextDiff, ValueChange
    from replicate.errors import ReplicateError
    from replicate.experiment import Experiment, ExperimentList
    from replicate.presenting import File
    from replicate.tensors import Tensor

    experiments: ExperimentCollection

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointList",
    "Difference",
    "Experiment",
    "ExperimentCollection",
    "ExperimentList",
    "File",
    "FileChange",
    "ReplicateError",
    "Tensor",
    "TensorChange",
    "TensorDiff",
    "TextDiff",
    "ValueChange",
    "__version__",
    "checkpoint",
    "experiments",
    "init",
]

_HOMES = {
    "Checkpoint": "replicate.checkpoints",
    "CheckpointList": "replicate.checkpoints",
    "Difference": "replicate.diff",
    "Experiment": "replicate.experiment",
    "ExperimentCollection": "replicate.collection",
    "ExperimentList": "replicate.experiment",
    "File": "replicate.presenting",
    "FileChange": "replicate.diff",
    "ReplicateError": "replicate.errors",
    "Tensor": "replicate.tensors",
    "TensorChange": "replicate.diff",
    "TensorDiff": "replicate.diff",
    "TextDiff": "replicate.diff",
    "ValueChange": "replicate.diff",
}


def init(
    path: str | os.PathLike[str] = ".",
    *,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    primary_metric: tuple[str, str] | None = None,
    parent: str | Checkpoint | None = None,
    resume: str | bool | Experiment | None = None,
    quiet: bool = False,
    on_error: Literal["raise", "warn"] = "raise",
    rank0_only: bool = True,
) -> Experiment:
    """Start an experiment and save the code as it is now: every file of the project that is not ignored.

    The project is the nearest folder, from `path` upwards, with `replicate.yaml` or `.replicate`; if there is none,
    `path` becomes one. The command, user, host, machine, Python, packages and Git state are recorded, and what `params`
    holds; what looks like a secret is masked. An experiment that this process began before is ended. The session ends
    with the process, with `Experiment.stop()`, or, as a context manager, with its block.

    Args:
        path: A folder of the project.
        params: Name → number, text, or lists and dicts of these.
        name: What to call it; need not be unique.
        tags: More words to find it by.
        primary_metric: (name, "minimize" or "maximize"): what `best` means.
        parent: The checkpoint that it is forked from, for the record; no file is restored.
        resume: Continue this experiment (id prefix, name, or True for the newest) after its newest checkpoint; no file
            is restored.
        quiet: Warnings only, no line per checkpoint.
        on_error: "warn" turns a storage that fails into a warning; training goes on unsaved.
        rank0_only: Record nothing on ranks above 0 of a distributed run.

    Returns:
        The experiment. Where nothing is recorded (`REPLICATE_MODE=disabled`, another rank) everything on it can be
        called and does nothing.

    Raises:
        InvalidInputError: An argument is wrong. StorageError: The store cannot be written.
        UnsupportedFormatError: A newer version wrote the store.
    """
    experiment: Experiment = _recorder().init(
        path,
        params=params,
        name=name,
        tags=tags,
        primary_metric=primary_metric,
        parent=parent,
        resume=resume,
        quiet=quiet,
        on_error=on_error,
        rank0_only=rank0_only,
    )
    return experiment


def checkpoint(
    path: Any = None,
    *,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    primary_metric: tuple[str, str] | None = None,
) -> Checkpoint:
    """Save a checkpoint of the current experiment, which is begun if there is none. See `Experiment.checkpoint`."""
    saved: Checkpoint = _recorder().checkpoint(path, step=step, metrics=metrics, primary_metric=primary_metric)
    return saved


_state: dict[str, Any] = {}


def _recorder() -> Any:
    if "recorder" not in _state:
        from replicate.console import ConsoleReporter
        from replicate.recording import Recorder

        _state["recorder"] = Recorder(lambda quiet: ConsoleReporter(quiet=quiet))
    return _state["recorder"]


def __getattr__(name: str) -> Any:
    if name == "experiments":
        from replicate.collection import ExperimentCollection
        from replicate.console import ConsoleReporter

        value: Any = ExperimentCollection(None, ConsoleReporter())
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'replicate' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
