"""Power is lost at every call to the operating system: what a call returned for is there, the rest does no harm."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from replicate.host import Host
from replicate.transport import LocalTransport
from tests.faults.power import FaultDisk, Journal, Loss
from tests.faults.scenario import (
    HASTY,
    Scenario,
    abandon,
    check_listed,
    check_models,
    check_next_saves,
    harmed_commits,
)
from tests.projects import SampleProject, check_store, read_folder

Durability = Literal["safe", "fast"]

AFTER_REBOOT = Host(sleep=HASTY.sleep, boot_id="another boot")
LOSSES: list[Loss] = ["drop", "tear", "mix"]


@dataclass
class Run:
    """A project that was saved until it was stopped, and what its disk would keep."""

    project: SampleProject
    journal: Journal
    disk: FaultDisk
    scenario: Scenario
    is_done: bool

    def again(self, host: Host, durability: Durability = "safe", disk: FaultDisk | None = None) -> SampleProject:
        """Open the project as another process would."""
        transport = LocalTransport(self.project.store, durability=durability, disk=disk or FaultDisk(self.journal))
        return SampleProject(self.project.root, durability=durability, transport=transport, host=host)


def start(folder: Path, durability: Durability, stop_at: int = 0, *, is_half: bool = False) -> Run:
    root = folder / "project"
    journal = Journal(root / ".replicate", folder / "attic")
    disk = FaultDisk(journal, stop_at=stop_at, is_half=is_half)
    transport = LocalTransport(root / ".replicate", durability=durability, disk=disk)
    project = SampleProject(root, durability=durability, transport=transport, host=HASTY)
    scenario = Scenario(project, is_large=False)
    return Run(project, journal, disk, scenario, scenario.run())


def stopped_everywhere(folder: Path, durability: Durability, *, is_half: bool = False) -> Iterator[tuple[int, Run]]:
    """Yield a project stopped before the first call, before the second, and so on, and one that came to its end.

    What is there after a call is what is there before the next.
    """
    for stop_at in itertools.count(1):
        run = start(folder / f"{stop_at}", durability, stop_at, is_half=is_half)
        if run.is_done or not is_half or run.disk.calls[-1][0] == "write":
            yield stop_at, run
        shutil.rmtree(folder / f"{stop_at}")
        if run.is_done:
            break


def test_a_safe_save_syncs_what_it_writes_and_a_fast_one_nothing(tmp_path: Path) -> None:
    safe = Counter(call for call, _ in start(tmp_path / "safe", "safe").disk.calls)
    fast = Counter(call for call, _ in start(tmp_path / "fast", "fast").disk.calls)
    assert safe["write"] == safe["link"] == 11
    assert safe["sync directory"] >= safe["write"] + safe["mkdir"]
    assert set(fast) == {"write", "link", "unlink", "mkdir"}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_saved_safely_survives_a_power_loss_at_any_call(tmp_path: Path, loss: Loss) -> None:
    for stop_at, run in stopped_everywhere(tmp_path, "safe"):
        run.journal.lose_power(loss, stop_at)
        again = run.again(AFTER_REBOOT)
        check_listed(again, run.scenario.models, run.scenario.returned)
        assert again.events.warnings == []
        check_next_saves(again, resume=bool(stop_at % 2), is_large=False)
        check_store(again.store)


def test_what_was_saved_safely_survives_a_power_loss_in_the_middle_of_a_write(tmp_path: Path) -> None:
    for _, run in stopped_everywhere(tmp_path, "safe", is_half=True):
        run.journal.lose_power("tear")
        again = run.again(AFTER_REBOOT)
        check_listed(again, run.scenario.models, run.scenario.returned)
        assert again.events.warnings == []


@pytest.mark.parametrize("is_half", [False, True])
def test_what_was_saved_fast_survives_a_kill_at_any_call(tmp_path: Path, is_half: bool) -> None:
    for stop_at, run in stopped_everywhere(tmp_path, "fast", is_half=is_half):
        again = run.again(HASTY, "fast")
        check_listed(again, run.scenario.models, run.scenario.returned)
        assert again.events.warnings == []
        check_next_saves(again, resume=bool(stop_at % 2), is_large=False)
        check_store(again.store)


@pytest.mark.parametrize("loss", LOSSES)
def test_after_a_power_loss_fast_saves_are_whole_or_told_to_be_damaged_and_saving_goes_on(
    tmp_path: Path, loss: Loss
) -> None:
    """The index in `local/cache` stays, and claims packs that are gone or torn: what is saved does not rely on it."""
    for stop_at, run in stopped_everywhere(tmp_path, "fast"):
        run.journal.lose_power(loss, stop_at)
        again = run.again(AFTER_REBOOT, "safe" if stop_at % 2 else "fast")
        check_listed(again, run.scenario.models, run.scenario.returned, may_be_damaged=True)
        saved = check_next_saves(again, is_large=False)
        assert not harmed_commits(again) & saved.keys()


@pytest.mark.parametrize("durability", ["safe", "fast"])
def test_a_safe_save_does_not_rely_on_what_another_process_did_not_sync(tmp_path: Path, durability: Durability) -> None:
    """A process is killed, the next ones save the same files and continue its experiment, and then power is lost."""
    for _, run in stopped_everywhere(tmp_path, durability):
        again = run.again(HASTY)
        models = {}
        sessions = [again.resume()] if again.history().experiments else []
        for session in [*sessions, again.begin()]:
            models[again.save(session).base.record.commit_id] = read_folder(again.root)
            abandon(session)
        run.journal.lose_power("drop")
        check_models(run.again(AFTER_REBOOT), models)
        assert not harmed_commits(again) & models.keys()
        if durability == "safe":
            check_store(again.store)
