"""What is recorded of a process: never a secret, never the environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from replicate.capture import capture, command_line, installed_packages, storable
from replicate.host import Host

ROOT = "/project"


@pytest.mark.parametrize(
    ("argv", "original", "shown"),
    [
        (["/project/train.py"], ["python", "train.py"], "python train.py"),
        (["/project/src/train.py", "--lr", "0.1"], ["python", "src/train.py"], "python src/train.py --lr 0.1"),
        (["/elsewhere/bin/tool", "x"], ["python", "/elsewhere/bin/tool", "x"], "tool x"),
        (["/project/pkg/__main__.py", "a"], ["python", "-m", "pkg", "a"], "python -m pkg a"),
        (["/project/pkg/__main__.py"], ["python", "-u", "-W", "error", "-m", "pkg"], "python -m pkg"),
        (["-c", "a"], ["python", "-c", "print()", "a"], "python -c … a"),
        ([""], ["python"], "python"),
        (["-"], ["python", "-"], "python -"),
        ([], [], "python"),
        (["/project/train.py", "-m", "gpt"], ["python", "train.py", "-m", "gpt"], "python train.py -m gpt"),
        (["/project/train.py", "-c", "a.yaml"], ["python", "train.py", "-c", "a.yaml"], "python train.py -c a.yaml"),
        (["/project/train.py", "a b", "it's"], ["python", "train.py"], "python train.py 'a b' 'it'\"'\"'s'"),
        (["/project/train.py", "--token", "abc"], ["python", "train.py"], "python train.py --token ***"),
        (["/project/train.py", "--api-key=abc"], ["python", "train.py"], "python train.py --api-key=***"),
        (["/project/a\udcff.py"], ["python", "a\udcff.py"], "python 'a\\udcff.py'"),
    ],
)
def test_the_command_is_shown_as_a_person_types_it(argv: list[str], original: list[str], shown: str) -> None:
    assert command_line(argv, original, ROOT) == shown


def test_a_long_command_is_cut() -> None:
    shown = command_line(["/project/train.py", "x" * 10_000], ["python", "train.py"], ROOT)
    assert len(shown) == 4_000
    assert shown.endswith("x…")


def test_the_facts_of_this_process_are_captured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), "--password", "abc"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--password", "abc"])
    found = capture(Host(name="box"), str(tmp_path))
    assert found.author == "ada@box"
    assert found.command == "python train.py --password ***"
    version = ".".join(str(part) for part in sys.version_info[:3])
    assert {**found.summary, "pid": 0} == {
        "user": "ada",
        "host": "box",
        "command": "python train.py --password ***",
        "cwd": str(tmp_path),
        "pid": 0,
        "python": version,
    }
    assert sorted(found.files) == [b"packages.json", b"python.json"]
    assert json.loads(found.files[b"python.json"])["version"] == sys.version


def test_nothing_of_the_environment_is_captured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "a value that nobody else has")
    found = capture(Host(), str(tmp_path))
    everything = repr(found.summary).encode() + b"".join(found.files.values())
    assert b"a value that nobody else has" not in everything
    assert b"SOME_VARIABLE" not in everything


def test_a_folder_that_is_gone_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert capture(Host(), str(tmp_path)).summary["cwd"] == ""


def test_installed_packages_are_listed_with_their_versions() -> None:
    found = dict(installed_packages())
    assert "pytest" in found
    assert found["pytest"] == pytest.__version__
    assert [name.lower().replace("_", "-") for name in found] == sorted(
        name.lower().replace("_", "-") for name in found
    )


def test_text_that_is_not_unicode_becomes_storable() -> None:
    assert storable("a\udcff") == "a\\udcff"
