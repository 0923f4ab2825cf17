"""Building checkpoints from blobs and trees is stopped at every operation on the storage."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from replicate.assembling import GivenEntry, assembling
from replicate.objects.ids import ObjectID
from replicate.objects.model import Mode as EntryMode
from replicate.session import Session
from replicate.transport import LocalTransport
from tests.builders import noise
from tests.faults.fault_transport import FaultTransport, Mode, Stopped
from tests.faults.scenario import Model, abandon, check_listed
from tests.projects import CAPTURE, SampleProject

_CODE = b"print('training')\n"
_WEIGHTS = noise(5 << 20)
_START: Model = {b"train.py": ("file", _CODE)}
_MODELS: list[Model] = [_START, {**_START, b"out": ("folder", b""), b"out/weights.bin": ("file", _WEIGHTS)}]


def build(project: SampleProject, returned: list[ObjectID]) -> bool:
    """Make a root and a checkpoint as a script of plumbing does, a process each; return whether it came to its end."""
    code, weights = project.write("train.py", _CODE), project.write("weights.bin", _WEIGHTS)
    sessions: list[Session] = []
    try:
        entries = []
        for path, name in ((code, b"train.py"), (weights, b"out/weights.bin")):
            with assembling(project.open()) as assembly:
                blob = assembly.add_file(bytes(path))
            entries.append(GivenEntry(name, EntryMode.FILE, None, blob))
            with assembling(project.open()) as assembly:
                tree = assembly.add_tree(entries)
            sessions.append(Session(project.open(), project.events, CAPTURE))
            if len(sessions) == 1:
                saved = sessions[0].begin({}, None, (), None, None, tree=tree)
            else:
                experiment = project.history().experiment(returned[0])
                assert experiment is not None
                saved = sessions[1].append(experiment, experiment.root, tree, None, {"loss": 0.5}, None)
            sessions[-1].end("finished")
            returned.append(saved.base.record.commit_id)
    except Stopped:
        return False
    finally:
        for session in sessions:
            abandon(session)
    return True


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_stop_at_any_operation_leaves_a_whole_store(tmp_path: Path, mode: Mode) -> None:
    for stop_at in itertools.count(1):
        root = tmp_path / str(stop_at) / "project"
        faults = FaultTransport(LocalTransport(root / ".replicate", durability="fast"), stop_at, mode)
        returned: list[ObjectID] = []
        is_done = build(SampleProject(root, transport=faults), returned)
        check_listed(SampleProject(root), _MODELS, returned)
        if is_done:
            assert stop_at > 25
            break
        if mode == "before" or faults.operations[-1][0] == "put":  # what reads leaves no other store behind
            again: list[ObjectID] = []
            assert build(SampleProject(root), again)
            check_listed(SampleProject(root), _MODELS, [*returned, *again])
        shutil.rmtree(root)
