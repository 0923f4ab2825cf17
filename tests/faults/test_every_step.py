"""Saving is stopped at every operation on the storage: nothing that was saved is lost, and saving goes on."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from replicate.transport import LocalTransport
from tests.faults.fault_transport import FaultTransport, Mode
from tests.faults.scenario import HASTY, VERSIONS, Scenario, check_listed, check_next_saves
from tests.projects import SampleProject, check_store, paths_of


def stopped_project(folder: Path, stop_at: int, mode: Mode) -> tuple[SampleProject, FaultTransport, Scenario, bool]:
    root = folder / "project"
    faults = FaultTransport(LocalTransport(root / ".replicate", durability="fast"), stop_at, mode)
    project = SampleProject(root, transport=faults)
    scenario = Scenario(project)
    return project, faults, scenario, scenario.run()


def copy_without_caches(project: SampleProject, folder: Path) -> SampleProject:
    """Copy a project and its store by links; nothing in a store is changed in place but what is in `local/`."""
    shutil.copytree(project.root, folder, copy_function=os.link)
    shutil.rmtree(folder / ".replicate" / "local", ignore_errors=True)
    for path in folder.glob("**/*"):
        if path.is_file() and ".replicate" not in path.parts:  # the project's files are changed in place
            content, permissions = path.read_bytes(), path.stat().st_mode
            path.unlink()
            path.write_bytes(content)
            path.chmod(permissions)
    return SampleProject(folder, host=HASTY)


def test_the_scenario_puts_data_packs_meta_packs_and_records(tmp_path: Path) -> None:
    project, faults, scenario, is_done = stopped_project(tmp_path, 0, "before")
    assert is_done
    assert [len(model) for model in scenario.models] == [5, 8, 8]
    puts = [key.split("/")[0] for operation, key in faults.operations if operation == "put"]
    assert puts == ["ctl", "ctl", "packs", "refs", "refs"] + ["packs", "packs", "refs"] * 2
    assert {operation for operation, _ in faults.operations} == {"put", "get", "list"}
    check_listed(SampleProject(project.root), scenario.models, scenario.returned)
    assert len(scenario.returned) == VERSIONS


@pytest.mark.parametrize("mode", ["before", "after", "torn", "leftover"])
def test_a_stop_at_any_operation_loses_nothing_that_was_saved(tmp_path: Path, mode: Mode) -> None:
    for stop_at in itertools.count(1):
        folder = tmp_path / f"{stop_at}"
        project, faults, scenario, is_done = stopped_project(folder, stop_at, mode)
        if is_done:
            assert stop_at > 25
            break
        if mode != "before" and faults.operations[-1][0] != "put":
            shutil.rmtree(folder)  # what reads leaves no other store behind than a stop before it
            continue
        kept = SampleProject(project.root, host=HASTY)
        projects = [kept]
        if faults.operations[-1][0] == "put":  # without caches a stop at a read is one at the next put
            projects.insert(0, copy_without_caches(project, folder / "bare" / "project"))
        for again in projects:
            check_listed(again, scenario.models, scenario.returned)
            told_of_damage(again, faults)
            check_next_saves(again, resume=again is kept)
            check_listed_still(again, scenario)
        shutil.rmtree(folder)


def told_of_damage(project: SampleProject, faults: FaultTransport) -> None:
    """A torn record is warned of and left out; of anything else nobody hears."""
    torn = faults.torn_key or ""
    if torn.startswith("refs/"):
        assert project.events.warnings
        assert all(torn.rpartition("/")[2][:64] in warning or torn in warning for warning in project.events.warnings)
        assert all(warning.endswith("; it is left out") for warning in project.events.warnings)
    else:
        assert project.events.warnings == []


def check_listed_still(project: SampleProject, scenario: Scenario) -> None:
    assert set(scenario.returned) <= set(project.history().commits)
    assert paths_of(project.store / "local" / "tmp") <= {"0123456789abcdef"}
    check_store(project.store)
