from __future__ import annotations

import pytest

from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files


def test_every_record_is_listed_in_the_order_of_keys(shell: Shell, vision: Vision) -> None:
    result = shell("show-ref")
    keys = sorted(f"refs/{path.parent.name}/{path.name}" for path in store_files(vision.project.store, "refs"))
    rebuilt = [
        f"refs/{experiment[:2]}/{experiment}~{int(seq):08x}~{session}~{kind}~{subject}~{digest}"
        for kind, experiment, seq, session, subject, digest in result.rows
    ]
    assert (rebuilt, result.err, result.code) == (keys, "", 0)
    assert len(keys) == 6 + 2 * 2  # roots and checkpoints; starts and ends


def test_the_records_of_one_experiment(shell: Shell, vision: Vision) -> None:
    for name in ("warmup", vision.warmup.short, vision.warmup.id):
        rows = shell("show-ref", "-e", name).rows
        assert [(row[0], int(row[2])) for row in sorted(rows)] == [("c", 0), ("c", 1), ("e", 1), ("s", 0)]
        assert {row[1] for row in rows} == {vision.warmup.id}


def test_z_ends_lines_with_nul(shell: Shell, vision: Vision) -> None:
    assert shell("show-ref", "-z").raw == shell("show-ref").raw.replace(b"\n", b"\0")


def test_json(shell: Shell, vision: Vision) -> None:
    rows = shell("show-ref").rows
    listed = shell("show-ref", "--json").json
    for row, one in zip(rows, listed, strict=True):
        subject = None if row[4] == "-" else row[4]
        assert list(one.values())[:-1] == [row[0], row[1], int(row[2]), row[3], subject, row[5]]
        assert (vision.project.store / one["key"]).is_file()


def test_a_damaged_record_is_told_and_left_out(shell: Shell, vision: Vision) -> None:
    path = next(one for one in store_files(vision.project.store, "refs") if f"~c~{vision.warmup.id}" in one.name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    result = shell("show-ref", "-e", vision.warmup.id)
    key = path.relative_to(vision.project.store)
    assert result.err == f"warning: ref record {key} is damaged: its bytes do not match its name; it is left out\n"
    assert (len(result.rows), result.code) == (3, 0)


def test_an_empty_store_has_none(shell: Shell, project: SampleProject) -> None:
    assert (shell("show-ref").raw, shell("show-ref", "--json").json) == (b"", [])
    assert shell("show-ref", "-e", "ab" * 32).raw == b""


@pytest.mark.parametrize(("revision", "code"), [("nothing", 3), ("abc", 2), ("ab" * 31, 3)])
def test_what_is_no_experiment_is_told(shell: Shell, vision: Vision, revision: str, code: int) -> None:
    result = shell("show-ref", "-e", revision)
    assert (result.raw, result.code) == (b"", code)
    assert result.err.startswith("error: ")
