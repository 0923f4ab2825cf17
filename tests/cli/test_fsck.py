from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, reads_everything, store_files

FINE = re.compile(r"2 experiments, 4 checkpoints, \d+ packs \([\d.]+ KB\): no damage(.*) · \d+ ms\n")
UNREAD = {
    "0": " found · packs were not looked for, and the bytes of files not read, --full reads them",
    "1": " found · packs were not looked into, and the bytes of files not read, --full reads them",
    "2": " found · the bytes of files were not read, --full reads them",
    "4": "",
}


def pack_of(vision: Vision, number: int) -> Path:
    """Return the pack that came with a checkpoint: 0 to 2 are of `baseline`, the last one, 3, of `warmup`."""
    (pack,) = (*vision.baseline.saves, *vision.warmup.saves)[number].base.record.meta
    return vision.project.store / "packs" / pack.hex()[:2] / pack.hex()


def alter(path: Path, at: int) -> None:
    """Flip a bit of a file of a store."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def place_of(vision: Vision, number: int, content: bytes) -> int:
    """Return where some bytes lie in the pack of a checkpoint."""
    return pack_of(vision, number).read_bytes().index(content)


@pytest.mark.parametrize(
    "options", [[], ["--level", "0"], ["--level", "1"], ["--level", "2"], ["--level", "4"], ["--full"]]
)
def test_a_sound_store_takes_one_line(shell: Shell, vision: Vision, options: list[str]) -> None:
    result = shell("fsck", *options)
    found = FINE.fullmatch(result.out)
    assert found is not None
    level = "4" if "--full" in options else (options or ["2"])[-1]
    assert (found[1], result.err, result.code) == (UNREAD[level], "", 0)


def test_a_store_that_does_not_exist_yet_is_sound(shell: Shell, project: SampleProject) -> None:
    assert shell("fsck").out.startswith("0 experiments, 0 checkpoints, 0 packs (0 B): no damage found · ")


def test_damage_is_told_with_what_it_affects_and_what_to_do(shell: Shell, vision: Vision) -> None:
    path = pack_of(vision, 1)
    alter(path, place_of(vision, 1, b"baseline 1\n"))
    result = shell("fsck")  # which looks into no file, and says so
    assert (result.code, UNREAD["2"] in result.out) == (0, True)
    result = shell("fsck", "--full")
    key = path.relative_to(vision.project.store)
    assert result.lines[1:4] == [
        f"  where    {key}",
        f"  affects  checkpoint {vision.baseline.ids[1][:7]} (step 1) of experiment {vision.baseline.short} baseline: "
        "model.bin",
        f"  do       copy {key} from another copy of the store",
    ]
    assert result.lines[0].startswith(
        f"damage: pack {path.name[:7]} is damaged: its bytes do not match its name; object "
    )
    assert re.fullmatch(r"2 experiments, 4 checkpoints, .*: 1 place damaged · \d+ ms", result.lines[4])
    assert (len(result.lines), result.err, result.code) == (5, "", 5)


def test_several_checkpoints_are_counted_from_the_first_step(shell: Shell, vision: Vision) -> None:
    root = vision.baseline.saves[0].base.record.name.experiment
    (pack,) = next(one for one in vision.project.history().records() if one.commit_id == root).meta
    path = vision.project.store / "packs" / pack.hex()[:2] / pack.hex()
    alter(path, path.read_bytes().index(b"print('training')"))
    start = f"the start and 3 checkpoints of experiment {vision.baseline.short} baseline, from step 0: train.py"
    assert start in [line[11:] for line in shell("fsck", "--full").lines]


def test_every_damage_is_listed_and_quiet_tells_nothing_else(shell: Shell, vision: Vision) -> None:
    for number in (1, 2):
        pack_of(vision, number).unlink()
    (vision.project.store / "refs" / "stray").write_bytes(b"")
    (vision.project.store / "local" / "tmp" / "left").write_bytes(b"1234")
    result = shell("fsck", "-q")
    assert [line for line in result.lines if line.startswith("damage: ")] == [
        "damage: refs/stray is not the key of a ref record",
        *sorted(f"damage: pack {pack_of(vision, number).name[:7]} is not in the store" for number in (1, 2)),
    ]
    assert result.lines[-1].startswith("  do  ")
    assert (result.err, result.code) == ("", 5)
    assert shell("fsck").lines[-2] == (
        "note: temporary files in local/tmp: the next save removes those that are a day old (4 B)"
    )


def test_json_has_everything(shell: Shell, vision: Vision) -> None:
    path = pack_of(vision, 3)
    path.unlink()
    result = shell("fsck", "--json", "--level", "2")
    key = str(path.relative_to(vision.project.store))
    assert set(result.json) == {"level", "experiments", "checkpoints", "packs", "pack_bytes", "damage", "notes"}
    assert (result.json["level"], result.json["experiments"], result.json["checkpoints"]) == (2, 2, 4)
    (damage,) = result.json["damage"]
    assert (damage["level"], damage["kind"], damage["where"]) == (1, "pack-missing", key)
    assert damage["affects"] == [
        {
            "experiment": vision.warmup.id,
            "name": "warmup",
            "commits": [{"id": vision.warmup.ids[0], "seq": 1, "step": 10}],
            "all": True,
            "paths": [],
            "path_count": 0,
            "part": None,
        }
    ]
    assert result.code == 5


def test_only_what_revisions_need_is_looked_into(shell: Shell, vision: Vision) -> None:
    pack_of(vision, 3).unlink()
    for revisions, code, count in (
        (["baseline"], 0, 4),
        (["baseline@best"], 0, 1),
        (["warmup@start"], 0, 1),
        (["warmup"], 5, 2),
        (["baseline@best", "warmup@latest"], 5, 2),
    ):
        result = shell("fsck", *revisions)
        assert (result.code, result.err) == (code, "")
        assert f"; looked into {count} commit{'s' if count > 1 else ''}: " in result.lines[-1]
    assert shell("fsck", "nothing").code == 3


def test_a_damaged_marker_is_damage_and_no_reason_to_stop(shell: Shell, vision: Vision) -> None:
    marker = vision.project.store / "ctl" / "v1"
    marker.chmod(0o644)
    marker.write_bytes(b"nonsense")
    result = shell("fsck")
    assert result.lines[0] == f"damage: {vision.project.store}/ctl/v1 is damaged: not the marker of a store"
    assert result.lines[-1].startswith("2 experiments, ")
    assert result.code == 5


def test_a_store_of_a_newer_version_is_refused(shell: Shell, vision: Vision) -> None:
    (vision.project.store / "ctl" / "feat~read~deltas").write_bytes(b"")
    shell.fails(
        7,
        f"error: {vision.project.store} uses deltas, which this version cannot read\n"
        "hint: upgrade replicate: pip install --upgrade replicate-vc\n",
        "fsck",
    )


def test_nothing_is_written(shell: Shell, vision: Vision) -> None:
    def state() -> dict[Path, tuple[int, int, int]]:
        paths = [vision.project.store, *vision.project.store.rglob("*")]
        return {path: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in paths}

    before = state()
    for options in (["--full"], ["baseline"], ["--json"]):
        assert shell("fsck", *options).code == 0
    assert state() == before


def test_a_store_that_may_only_be_read_is_checked(shell: Shell, vision: Vision) -> None:
    folders = [path for path in [vision.project.store, *vision.project.store.rglob("*")] if path.is_dir()]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if not reads_everything():
            assert not os.access(vision.project.store, os.W_OK)
        assert shell("fsck", "--full", "baseline").code == 0
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_file_that_cannot_be_read_is_damage(shell: Shell, vision: Vision) -> None:
    path = pack_of(vision, 1)
    path.unlink()
    path.symlink_to(path.name)  # a link to itself: left out of the listing
    result = shell("fsck", "--json")
    assert [one["kind"] for one in result.json["damage"]] == ["pack-missing"]
    (refs,) = [one for one in store_files(vision.project.store, "refs") if f"~{vision.baseline.ids[2]}~" in one.name]
    refs.unlink()
    refs.symlink_to(refs.name)
    assert shell("fsck", "--level", "0").code == 5


def test_a_level_that_there_is_not_is_a_usage_error(shell: Shell, project: SampleProject) -> None:
    result = shell("fsck", "--level", "3")
    assert (result.code, result.out) == (2, "")
    assert "'3' is not one of '0', '1', '2', '4'" in result.err


def test_full_and_another_level_is_a_usage_error(shell: Shell, vision: Vision) -> None:
    shell.fails(
        2,
        "error: --full is --level 4; it does not go with --level 0\nhint: see `replicate fsck --help`\n",
        *("fsck", "--full", "--level", "0"),
    )
    assert shell("fsck", "--full", "--level", "4").code == 0


def test_packs_that_are_cut_short_are_all_that_is_told(shell: Shell, vision: Vision) -> None:
    for number in (0, 1, 3):
        path = pack_of(vision, number)
        path.chmod(0o644)
        os.truncate(path, 50)
    keys = sorted(str(pack_of(vision, number).relative_to(vision.project.store)) for number in (0, 1, 3))
    result = shell("fsck")
    assert [line for line in result.lines if line.startswith("  where")] == [f"  where    {key}" for key in keys]
    assert [line for line in result.lines if line.startswith("  do")] == [
        f"  do       copy {key} from another copy of the store" for key in keys
    ]
    assert ": 3 places damaged · the bytes of files were not read, --full reads them · " in result.lines[-1]


def test_names_from_a_store_are_printed_safely(shell: Shell, vision: Vision) -> None:
    (vision.project.store / "refs" / "\x1b[31m").write_bytes(b"")
    assert "\x1b" not in shell("fsck").out
