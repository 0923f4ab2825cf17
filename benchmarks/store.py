"""A store with many experiments: `python -m benchmarks.store PROJECT EXPERIMENTS CHECKPOINTS`.

One tree is really saved. Every experiment and checkpoint is a commit of that tree, published with the library's own
writer of records: 120,000 saves would take an hour, and listing does not look at packs.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from replicate.capture import Capture
from replicate.config import Project
from replicate.host import Host
from replicate.objects.ids import ObjectID
from replicate.objects.model import Commit, commit_id, encode_commit
from replicate.reporting import SilentReporter
from replicate.repository import Repository
from replicate.session import Session

_CAPTURE = {"user": "ana", "host": "gpu-3", "command": "python train.py", "cwd": "/work", "pid": 1, "python": "3.11.7"}
_SECOND = 10**9


def make_store(root: Path, experiments: int, checkpoints: int) -> None:
    """Fill the store of a project: a sweep over a few params, the loss of each checkpoint a random number."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.py").write_text("print('hello')\n")
    project = Project(os.path.realpath(root), os.path.join(os.path.realpath(root), ".replicate"), "fast")
    repository = Repository(project, Host(), SilentReporter())
    repository.create()
    session = Session(repository, SilentReporter(), Capture(dict(_CAPTURE), {}, "python train.py", "ana@gpu-3"))
    saved = session.begin({}, None, (), None, None).base.record
    session.end("finished")
    shared = {
        **saved.packset.fields(),
        "meta": [bytes(pack) for pack in saved.meta],
        "locator": saved.locator.encode(),
        "files": saved.files,
        "bytes": saved.bytes,
        "new_bytes": 0,
        "duration": 10**6,
    }
    rng = random.Random(experiments)
    now = time.time_ns()
    for number in range(experiments):
        began = now - (experiments - number) * 600 * _SECOND
        name = rng.randbytes(8).hex()

        def publish(commit: Commit, experiment: ObjectID | None, name: str = name) -> ObjectID:
            data = encode_commit(commit)
            own = commit_id(data)
            fields = {**shared, "commit": data}
            repository.refs.publish(experiment or own, commit.seq, name, "c", fields, own.hex())
            return own

        params = {
            "lr": rng.choice([0.1, 0.03, 0.01]),
            "width": rng.choice([64, 128, 256]),
            "optimizer": rng.choice(["adamw", "sgd"]),
            "seed": number,
        }
        root_commit = Commit(
            saved.commit.tree,
            "ana@gpu-3",
            began,
            nonce=rng.randbytes(16),
            params=params,
            command=f"python train.py --seed {number}",
            primary_metric=("loss", "minimize"),
        )
        experiment = publish(root_commit, None)
        repository.refs.publish(experiment, 0, name, "s", {"time": began, "capture": _CAPTURE})
        parent = experiment
        for step in range(checkpoints):
            metrics = {"loss": rng.random(), "accuracy": rng.random()}
            commit = Commit(
                saved.commit.tree,
                "ana@gpu-3",
                began + (step + 1) * 50 * _SECOND,
                parents=(parent,),
                experiment=experiment,
                seq=step + 1,
                step=step,
                metrics=metrics,
                primary_metric=("loss", "minimize"),
            )
            parent = publish(commit, experiment)
        ended = {"status": "finished", "time": began + 550 * _SECOND, "duration": 550 * _SECOND}
        repository.refs.publish(experiment, checkpoints, name, "e", ended)
        repository.refs.forget(repository.refs.list(experiment))


if __name__ == "__main__":
    make_store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
