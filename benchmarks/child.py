"""One save in a process of its own: `python -m benchmarks.child OPERATION WORKTREE [FILE]`. Prints seconds as JSON.

first    init(), which saves the whole worktree
new      go on with the experiment, then time checkpoint()
same     the same after an untimed checkpoint(); with FILE, that file is rewritten in between

Nothing is imported that replicate does not import itself: the process is measured as a whole, too.
"""

from __future__ import annotations

import sys
import time

_METRICS = {"loss": 0.1, "accuracy": 0.9}


def main(operation: str, worktree: str, *edited: str) -> None:
    began = time.perf_counter()
    import replicate

    imported = time.perf_counter()
    if operation == "first":
        replicate.init(worktree, params={"lr": 0.01}, quiet=True)
        call = init = time.perf_counter() - imported
    else:
        experiment = replicate.init(worktree, resume=True, quiet=True)
        init = time.perf_counter() - imported
        if operation == "same":
            experiment.checkpoint(metrics=_METRICS)
        for path in edited:
            _rewrite(path)
        start = time.perf_counter()
        experiment.checkpoint(metrics=_METRICS)
        call = time.perf_counter() - start
    import json

    print(json.dumps({"import": imported - began, "init": init, "call": call}))


def _rewrite(path: str) -> None:
    from pathlib import Path

    from benchmarks.data import rewrite

    rewrite(Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
