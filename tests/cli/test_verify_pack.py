from __future__ import annotations

import re
from pathlib import Path

from tests.builders import Frame, build_pack, concat_frame, zstd_frame
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.cli.test_fsck import alter, pack_of
from tests.projects import SampleProject

PACK = build_pack([Frame(b"abc"), Frame(b"de"), zstd_frame(b"text " * 20), concat_frame(b"abc", b"de")])


def test_a_pack_is_found_by_a_prefix_of_its_id(shell: Shell, vision: Vision) -> None:
    path = pack_of(vision, 0)
    for given in (path.name, path.name[:12], str(path), str(path.relative_to(vision.project.root))):
        result = shell("verify-pack", given)
        assert (result.out, result.err, result.code) == (f"{path.name} ok\n", "", 0)


def test_several_packs_are_verified_in_order(shell: Shell, vision: Vision) -> None:
    names = [pack_of(vision, number).name for number in (2, 0, 1)]
    assert shell("verify-pack", *names).lines == [f"{name} ok" for name in names]


def test_a_pack_file_needs_no_project_and_no_name(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(PACK.data)
    assert shell("verify-pack", "-D", str(tmp_path), str(path)).out == f"{PACK.pack_id.hex()} ok\n"


def test_v_lists_the_objects_as_they_lie(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / PACK.pack_id.hex()
    path.write_bytes(PACK.data)
    result = shell("verify-pack", "-v", str(path))
    assert result.lines[0] == f"{PACK.pack_id.hex()} ok"
    assert [row[1:] for row in result.rows[1:]] == [
        ["blob", "raw", "0", "3", "63", "32"],
        ["blob", "raw", "0", "2", "62", "95"],
        ["blob", "zstd", "0", "100", "81", "157"],
        ["blob", "concat", "0", "5", "132", "238"],
    ]
    by_offset = sorted(PACK.entries, key=lambda entry: entry.offset)
    assert [row[0] for row in result.rows[1:]] == [entry.object_id.hex() for entry in by_offset]


def test_json_lists_packs_with_their_objects(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / PACK.pack_id.hex()
    path.write_bytes(PACK.data)
    (shown,) = shell("verify-pack", "--json", str(path)).json
    assert (shown["pack"], shown["bytes"], shown["damage"]) == (PACK.pack_id.hex(), len(PACK.data), [])
    assert shown["objects"][0] == {
        "id": Frame(b"abc").object_id.hex(),
        "kind": "blob",
        "encoding": "raw",
        "depth": 0,
        "bytes": 3,
        "stored": 63,
        "offset": 32,
        "damage": None,
    }


def test_all_damage_of_a_pack_is_told(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / PACK.pack_id.hex()
    path.write_bytes(PACK.data)
    for at in (32 + 61, 95 + 61):
        alter(path, at)
    result = shell("verify-pack", str(path), str(path))
    assert result.code == 5
    assert result.lines[:4] == result.lines[4:]
    assert result.lines[0] == f"{PACK.pack_id.hex()} damaged"
    assert result.lines[1] == f"damage: pack {PACK.pack_id.hex()} is damaged: its bytes do not match its name"
    assert [re.sub("object [0-9a-f]{64} in", "object ID in", line) for line in result.lines[2:4]] == [
        f"damage: object ID in pack {PACK.pack_id.hex()} is damaged: its bytes do not match its id"
    ] * 2
    (shown,) = shell("verify-pack", "--json", str(path)).json
    assert len(shown["damage"]) == 3
    assert sum(one["damage"] is not None for one in shown["objects"]) == 2


def test_a_pack_that_is_cut_short_or_empty_is_damaged(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / PACK.pack_id.hex()
    for size in (0, 10, 32, 96, len(PACK.data) - 1):
        path.write_bytes(PACK.data[:size])
        result = shell("verify-pack", "-v", str(path))
        assert (result.lines[0], result.code) == (f"{PACK.pack_id.hex()} damaged", 5)


def test_what_is_no_pack_is_told(shell: Shell, vision: Vision, tmp_path: Path) -> None:
    shell.fails(3, "error: no pack has an id that begins with 00000000\n", "verify-pack", "00000000")
    shell.fails(
        2, "error: 'xyz' is no pack\nhint: give 4 digits or more of its id, or its path\n", "verify-pack", "xyz"
    )
    shell.fails(2, "error: '12' is no pack\nhint: give 4 digits or more of its id, or its path\n", "verify-pack", "12")
    gone = str(tmp_path / "gone")
    shell.fails(3, f"error: {gone} does not exist\n", "verify-pack", gone)
    shell.fails(6, f"error: cannot read {tmp_path}: Is a directory\n", "verify-pack", str(tmp_path))


def test_a_prefix_of_several_packs_is_ambiguous(shell: Shell, project: SampleProject) -> None:
    for rest in ("00", "ff"):
        path = project.store / "packs" / "ab" / ("ab" * 31 + rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    shell.fails(2, "error: abab matches 2 packs\nhint: type more digits\n", "verify-pack", "abab")
