"""Many writers and one bucket: all that they saved is listed and restores, for whoever knows none of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import replicate
from replicate.experiment import Experiment
from replicate.transport.remote import open_transport
from tests.faults.saving_process import fingerprint
from tests.faults.writing_process import write_at_once
from tests.projects import SampleProject, check_store
from tests.sync.stores import pull_from


def check_writers(folder: Path, writers: int, saves: int, *, processes: int) -> None:
    """Let so many projects, each with an experiment of so many checkpoints, push to a new bucket at once.

    AWS_ENDPOINT_URL says where that is.
    """
    url = new_url()
    names = [f"writer-{number}" for number in range(writers)]
    written = write_at_once(url, folder, [names[first::processes] for first in range(processes)], saves)
    assert [len(one) for one in written.values()] == [saves] * writers
    check_whole(folder, url)
    found = {one.name or "": one for one in replicate.ExperimentCollection(repository=url)}
    assert sorted(found) == sorted(names)
    for name, experiment in found.items():
        saved = list(written[name])
        check_restored(folder, experiment, written[name], [saved[0], saved[saves // 2], saved[-1]])


def check_copies(folder: Path, machines: int, saves: int) -> None:
    """Let machines go on with copies of one experiment and push them at once: a visible fork, and nothing is lost."""
    url = new_url()
    origin = SampleProject(folder / "origin")
    origin.write("train.py", "origin")
    session = origin.begin(name="origin")
    origin.write("weights.bin", "origin")
    before = {origin.save(session).base.record.commit_id.hex(): fingerprint(origin.root)}
    names = [f"machine-{number}" for number in range(machines)]
    for name in names:
        shutil.copytree(origin.root, folder / name)
    written = write_at_once(url, folder, [[name] for name in names], saves)
    check_whole(folder, url)
    (experiment,) = replicate.ExperimentCollection(repository=url)
    everything = {**before, **{key: value for one in written.values() for key, value in one.items()}}
    check_restored(folder, experiment, everything, list(everything))


def new_url() -> str:
    return f"s3://writers/{secrets.token_hex(8)}"


def check_whole(folder: Path, url: str) -> None:
    """A new machine gets everything, and no byte of it is damaged."""
    fresh = SampleProject(folder / "fresh")
    done = pull_from(fresh, open_transport(url))
    assert (done.left, done.failures, fresh.events.warnings) == (0, (), [])
    check_store(fresh.store)


def check_restored(folder: Path, experiment: Experiment, written: dict[str, str], some: Sequence[str]) -> None:
    """An experiment has the checkpoints that were written, no others, and some of them are restored."""
    checkpoints = {one.id: one for one in experiment.checkpoints}
    assert checkpoints.keys() == written.keys()
    for one in some:
        target = folder / "restored" / one
        checkpoints[one].checkout(target)
        assert fingerprint(target) == written[one]
