"""What is recorded of a process: never a secret, never the environment."""

from __future__ import annotations

import json
import os
import platform
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from replicate.capture import Capture, capture, command_line, describe, installed_packages, storable
from replicate.capture.command import find_notebook
from replicate.capture.machine import Gpus, cpu_model
from replicate.capture.packages import distributions, imported
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
        (
            ["/project/train.py", "--db", "https://u:p@h/x"],
            ["python", "train.py"],
            "python train.py --db https://***@h/x",
        ),
        (["/project/train.py", "a b --token x"], ["python", "train.py"], "python train.py 'a b --token ***'"),
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
    machine = {key: found.summary.pop(key) for key in ("platform", "cpu", "memory")}
    assert {**found.summary, "pid": 0} == {
        "user": "ada",
        "host": "box",
        "command": "python train.py --password ***",
        "cwd": str(tmp_path),
        "pid": 0,
        "python": version,
    }
    assert sorted(found.files) == [b"machine.json", b"packages.json", b"python.json"]
    assert json.loads(found.files[b"python.json"])["version"] == sys.version
    recorded = json.loads(found.files[b"machine.json"])
    assert machine["platform"] == recorded["platform"] == platform.platform()
    assert machine["memory"] == recorded["memory"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine["cpu"] == {"model": recorded["cpu"]["model"], "count": os.cpu_count()}


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


def test_equal_machines_code_and_packages_give_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = capture(Host(), str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    second = capture(Host(name="other"), str(tmp_path))
    assert first.files == second.files
    assert first.summary != second.summary


def test_the_short_facts_stay_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGNAME", "ü" * 5_000)
    monkeypatch.setattr("replicate.config.notebook_path", lambda: "n" * 5_000)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), "ü" * 50_000])
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    found = capture(Host(name="h" * 5_000), str(tmp_path))
    assert len(json.dumps(found.summary, ensure_ascii=False).encode()) < 8 << 10


@pytest.mark.parametrize(
    ("notebook", "shown"),
    [(True, "jupyter"), ("/project/a b.ipynb", "jupyter 'a b.ipynb'"), ("/elsewhere/x.ipynb", "jupyter x.ipynb")],
)
def test_a_notebook_is_shown_as_such(notebook: Any, shown: str) -> None:
    argv = ["/x/ipykernel_launcher.py", "-f", "/run/kernel-1.json"]
    assert command_line(argv, ["python", "-m", "ipykernel_launcher", *argv[1:]], ROOT, notebook=notebook) == shown


def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        kernel: Any = None
        user_ns: Any = None

    fake = types.ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert find_notebook("x.ipynb") is None
    shell: Any = None
    fake.get_ipython = lambda: shell  # type: ignore[attr-defined]
    assert find_notebook("x.ipynb") is None
    shell = Shell()
    assert find_notebook("x.ipynb") is None
    shell.kernel = object()
    assert find_notebook("x.ipynb") == "x.ipynb"
    assert find_notebook() is True
    shell.user_ns = {"__vsc_ipynb_file__": "/a/y.ipynb"}
    assert find_notebook() == "/a/y.ipynb"


# -- packages


def install(folder: Path, name: str, *files: str, top: str = "", kind: str = "dist-info") -> None:
    """Make a distribution as pip leaves it, with its modules."""
    info = folder / f"{name.replace('-', '_')}-1.0.{kind}"
    info.mkdir(parents=True)
    (info / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: x\n\nName: no field\n"
    )
    (info / "RECORD").write_text(
        "".join(f"{file},sha256=x,1\n" for file in (*files, "../../bin/x", f"{info.name}/RECORD"))
    )
    if top:
        (info / "top_level.txt").write_text(top)


def module(name: str, file: Path | None = None) -> types.ModuleType:
    """Return a module as if it were imported from a file; without one it is a namespace."""
    found = types.ModuleType(name)
    found.__file__ = str(file) if file else None
    if file is None or file.name == "__init__.py":
        found.__path__ = [str(file.parent if file else "")]
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed distributions whose import names are not their names."""
    install(tmp_path, "PyYAML", "yaml/__init__.py", "_yaml/__init__.py", top="_yaml\nyaml\n")
    install(tmp_path, "scikit-learn", "sklearn/__init__.py", "sklearn/linear/x.py")
    install(tmp_path, "Pillow", "PIL/__init__.py", "PIL/Image.py")
    install(tmp_path, "numpy", "numpy/__init__.py")
    install(tmp_path, "python-dateutil", "dateutil/__init__.py", kind="egg-info", top="dateutil\n")
    install(tmp_path, "six-like", "sixlike.py")
    install(tmp_path, "compiled", "_compiled.cpython-311-x86_64-linux-gnu.so")
    install(tmp_path, "google-auth", "google/auth/__init__.py")
    install(tmp_path, "google-storage", "google/cloud/storage/__init__.py")
    install(tmp_path, "unused", "nobody/__init__.py")
    return tmp_path


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        ({}, []),
        ({"yaml": "yaml/__init__.py"}, ["pyyaml"]),
        ({"sklearn": "sklearn/__init__.py"}, ["scikit-learn"]),
        ({"PIL": "PIL/__init__.py"}, ["pillow"]),
        ({"numpy": "numpy/__init__.py", "dateutil": "dateutil/__init__.py"}, ["numpy", "python-dateutil"]),
        ({"sixlike": "sixlike.py"}, ["six-like"]),
        ({"_compiled": "_compiled.cpython-311-x86_64-linux-gnu.so"}, ["compiled"]),
        ({"google": None, "google.auth": "google/auth/__init__.py"}, ["google-auth"]),
        (
            {"google": None, "google.cloud": None, "google.cloud.storage": "google/cloud/storage/__init__.py"},
            ["google-storage"],
        ),
        ({"json": None, "train": "../train.py"}, []),
    ],
)
def test_a_distribution_is_imported_when_a_module_of_it_is(
    site: Path, modules: dict[str, str | None], names: list[str]
) -> None:
    loaded = {name: module(name, site / file if file else None) for name, file in modules.items()}
    assert sorted(imported(distributions([str(site)]), loaded)) == names


def test_lists_of_files_are_read_only_while_a_module_is_unclaimed(site: Path, opened: list[str]) -> None:
    found = distributions([str(site)])
    own = {"train": module("train", site.parent / "train.py"), "numpy": module("numpy", site / "numpy/__init__.py")}
    opened.clear()
    imported(found, own)
    assert [path for path in opened if path.endswith("RECORD")] == []
    imported(found, {**own, "PIL": module("PIL", site / "PIL/__init__.py")})
    assert len([path for path in opened if path.endswith("RECORD")]) >= 1


def test_the_first_of_a_name_on_the_path_wins(tmp_path: Path) -> None:
    for folder, version in (("a", "1.0"), ("b", "2.0")):
        info = tmp_path / folder / f"My_Pkg-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: My.Pkg\r\nVersion: {version}\r\n\r\n")
    found = distributions(
        [str(tmp_path / "missing"), "\0", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a")]
    )
    assert [(one.name, one.version, one.key) for one in found] == [("My.Pkg", "1.0", "my-pkg")]


def test_a_distribution_without_a_name_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "old.egg-info").write_text("Metadata-Version: 1.0\nName: old\nVersion: 3\n")
    assert [(one.name, one.version) for one in distributions([str(tmp_path)])] == [("old", "3")]


# -- machine


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel name\t: AMD   EPYC 7B13\n", "AMD EPYC 7B13"),
        ("Processor : ARMv7\nHardware: x\n", "ARMv7"),
        ("processor\t: 0\nBogoMIPS : 1\n", os.uname().machine),
        (None, os.uname().machine),
    ],
)
def test_the_processor_is_named(tmp_path: Path, text: str | None, model: str) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(str(tmp_path / "cpuinfo")) == model


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


A100 = {"name": "NVIDIA A100-SXM4-80GB", "memory": 81920 << 20, "driver": "550.54.15"}


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA A100-SXM4-80GB, 81920, 550.54.15\nNVIDIA A100-SXM4-80GB, 81920, 550.54.15'", [A100, A100]),
        ("echo 'NVIDIA GB10, [N/A], 580.1'", [{"name": "NVIDIA GB10", "driver": "580.1"}]),
        ("echo 'NVIDIA-SMI has failed because it could not reach the driver.'; exit 9", []),
        ("echo 'No devices were found'", []),
        ("head -c 1000000 /dev/zero", []),
        ("exit 0", []),
    ],
)
def test_gpus_are_what_the_driver_tells(tmp_path: Path, script: str, found: list[dict[str, Any]]) -> None:
    assert Gpus(program(tmp_path, script)).collect(lambda: 60.0, files=str(tmp_path / "none/*")) == found


def test_a_driver_that_hangs_leaves_the_names(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    gpus = Gpus(program(tmp_path, "sleep 1000"))
    assert gpus.collect(lambda: 0.0, files=str(tmp_path / "*/information")) == [{"name": "NVIDIA H100"}] * 2


def test_gpus_are_recorded_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "echo 'NVIDIA A100-SXM4-80GB, 81920, 550.54.15'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = capture(Host(), str(tmp_path))
    found.ask()
    assert found.finish(Host()) == ()
    assert found.summary["gpus"] == [{"name": A100["name"], "memory": A100["memory"]}]
    assert json.loads(found.files[b"machine.json"])["gpus"] == [A100]


def test_without_a_driver_no_gpu_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("replicate.capture.machine._GPU_FILES", str(tmp_path / "none/*"))
    found = capture(Host(), str(tmp_path))
    before = dict(found.summary)
    found.ask()
    assert found.finish(Host()) == ()
    assert found.summary == before


def test_a_capture_that_asks_nobody_is_complete(tmp_path: Path) -> None:
    found = Capture({"a": 1}, {}, "", "")
    found.ask()
    assert (found.finish(Host()), found.summary, found.files) == ((), {"a": 1}, {})


# -- exceptions


def failure(call: Any) -> BaseException:
    try:
        call()
    except BaseException as exc:  # noqa: BLE001 - every kind is described
        return exc
    raise AssertionError("it did not raise")


def test_an_exception_is_described_with_where_it_came_from() -> None:
    def work() -> None:
        raise ValueError("no data")

    found = describe(failure(work))
    assert (found["type"], found["message"]) == ("ValueError", "no data")
    lines = found["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == ['    raise ValueError("no data")', "ValueError: no data"]


def test_secrets_in_an_exception_are_masked() -> None:
    def work() -> None:
        raise ValueError("cannot log in to https://ada:planted@host with password=planted")

    found = describe(failure(work))
    assert found["message"] == "cannot log in to https://***@host with password=***"
    assert "planted" not in found["traceback"]


def test_a_long_traceback_keeps_its_end() -> None:
    def deeper(depth: int) -> None:
        if depth % 2:
            deeper(depth - 1)
        elif depth:
            deeper(depth - 1)  # from another line: equal ones are counted only
        raise ValueError("x" * 20_000)

    found = describe(failure(lambda: deeper(200)))
    assert len(found["message"]) == 2_000
    assert len(found["traceback"].encode()) <= 8 << 10
    assert found["traceback"].startswith("…\n")


def test_an_exception_that_cannot_be_printed_is_still_described() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def work() -> None:
        raise OddError

    found = describe(failure(work))
    assert (found["type"], found["message"]) == ("OddError", "")
    assert "OddError" in found["traceback"]


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
def test_an_end_on_purpose_has_no_traceback(end: BaseException) -> None:
    assert sorted(describe(end)) == ["message", "type"]
