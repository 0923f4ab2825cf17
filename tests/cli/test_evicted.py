"""Packs that one of two projects with a common store has evicted, as the other one, which has another repository, meets
them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicate.evicted import read_evicted
from tests.cli.shell import Shell
from tests.projects import SampleProject
from tests.sync.stores import MIB, Models, sample


@dataclass(frozen=True)
class Evicted:
    """The other project, the place where the packs are, and the experiment that needs them."""

    other: Path
    place: Path
    experiment: str
    weights: str


@pytest.fixture(params=["reachable", "unreachable", "none"])
def evicted(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evicted:
    """The other project's own repository is there, is not there, or it has none."""
    project = SampleProject(tmp_path / "one")
    one = sample(project.root, Models(), 2, name="one", size=2 * MIB)
    shutil.rmtree(project.store / "local" / "cache")
    (project.root / "weights.bin").unlink()
    sample(project.root, Models(), 0, name="two")
    other, place, own = tmp_path / "other", tmp_path / "team", tmp_path / "own"
    other.mkdir()
    config = f"durability: fast\nstore: {project.store}\n"
    (other / "replicate.yaml").write_text(config + (f"repository: {own}\n" if request.param != "none" else ""))
    if request.param == "reachable":
        assert shell("push", "--create", "two", "-R", str(own), "-D", str(project.root)).code == 0
    (blob,) = (
        row[2] for row in shell("ls-tree", "one@latest", "-D", str(project.root)).rows if row[3] == "weights.bin"
    )
    project.write("replicate.yaml", f"durability: fast\nrepository: {place}\ncache: 0\n")
    assert shell("push", "--create", "-D", str(project.root)).code == 0
    assert {pack.place for pack in read_evicted(str(project.store))} == {str(place)}
    monkeypatch.chdir(other)
    return Evicted(other, place, one.experiment_id.hex(), blob)


def test_a_file_that_was_evicted_is_told_with_its_place(shell: Shell, evicted: Evicted, tmp_path: Path) -> None:
    place = evicted.place
    where = f"cannot be read here: it was evicted, and lies in {place}"
    hint = f"hint: read it there with -R {place}, or bring it back: `replicate pull -R {place} EXPERIMENT`"
    for command in (["show", "one:weights.bin"], ["cat-file", "one@latest:weights.bin"]):
        result = shell(*command)
        assert (result.code, result.raw) == (3, b"")
        assert result.err.splitlines()[-2:] == [f"error: object {evicted.weights} {where}", hint]
    result = shell("checkout", "one", "-o", str(tmp_path / "out"))
    assert result.code == 3
    told = f"weights.bin cannot be restored: object {evicted.weights[:7]} {where}"
    assert result.err.splitlines()[-2:] == [f"error: {told}; files written so far are whole", hint]


def test_du_tells_where_packs_are(shell: Shell, evicted: Evicted) -> None:
    result = shell("du")
    assert result.code == 0
    assert "missing" not in result.err
    assert re.search(rf"^[0-9.]+ MB in \d+ packs? lie only in {re.escape(str(evicted.place))}$", result.err, re.M)
    found = shell("du", "--json").json
    assert found["missing_packs"] == []
    assert found["evicted_packs"]


def test_what_the_hint_says_helps(shell: Shell, evicted: Evicted, tmp_path: Path) -> None:
    place = str(evicted.place)
    there = shell("cat-file", "one@latest:weights.bin", "-R", place)
    assert (there.code, len(there.raw)) == (0, 2 * MIB)
    assert shell("pull", "-R", place, evicted.experiment).code == 0
    assert shell("cat-file", "one@latest:weights.bin").raw == there.raw
    assert shell("checkout", "one", "-o", str(tmp_path / "out")).code == 0


def test_status_tells_where_they_are(shell: Shell, evicted: Evicted) -> None:
    told = f"this machine's store is partial: 4.2 MB in 2 packs lie only in {evicted.place}"
    assert [line.strip() for line in shell("status").lines if "partial" in line] == [told]
