"""The rules of the house: sizes, names, docstrings, help, README, specification. Import floors: `lint-imports`."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
from pathlib import Path
from types import ModuleType

import click
import pytest

import replicate
from replicate import errors
from replicate.cli import PLUMBING, PORCELAIN, cli

ROOT = Path(replicate.__file__).parent.parent
PACKAGE = ROOT / "replicate"
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
ERRORS: list[type[errors.ReplicateError]] = [
    one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.ReplicateError)
]
COMMANDS = [*PORCELAIN, *PLUMBING]
MODULES = ["replicate", *(one.name for one in pkgutil.walk_packages(replicate.__path__, "replicate."))]
MACHINE_PATH = re.compile(r"(?<![\w.~\-/])/(?:home/\w|Users/\w|root/\w|work/\w|mnt/\w|tmp/bash_jobs)[\w./\-]*")


def sources(folder: str = "replicate") -> list[Path]:
    """Return the Python files below a folder of the repository."""
    return sorted((ROOT / folder).rglob("*.py"))


def tracked_files() -> list[Path]:
    """Return the files that are under version control; skip where there is none."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def command_of(name: str) -> click.Command:
    """Return a command by its name."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


# -- public names


def test_the_public_names_are_sorted_and_all_there_are() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    imported = {
        alias.asname or alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("replicate.")
        for alias in node.names
    }
    assert set(replicate.__all__) == defined | imported | {"__version__", "experiments"}
    assert list(replicate.__all__) == sorted(replicate.__all__) == dir(replicate)


def test_every_public_name_can_be_had() -> None:
    assert [name for name in replicate.__all__ if getattr(replicate, name, None) is None] == []


def test_no_module_is_named_like_a_public_name() -> None:
    modules = {name.split(".")[1] for name in MODULES if name.count(".")}
    assert modules & set(replicate.__all__) == set()


def test_every_public_object_has_a_docstring() -> None:
    public = [getattr(replicate, name) for name in replicate.__all__ if name != "__version__"]
    lacking = []
    for found in public:
        one = found if inspect.isclass(found) or inspect.isfunction(found) else type(found)
        if not inspect.getdoc(one):
            lacking.append(one.__name__)
        if inspect.isclass(one):
            members = (value for name, value in vars(one).items() if not name.startswith("_"))
            named = [value.fget if isinstance(value, property) else value for value in members]
            lacking += [
                f"{one.__name__}.{member.__name__}"
                for member in named
                if inspect.isfunction(member) and not (member.__doc__ or "").strip()
            ]
    assert lacking == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    assert (module.__doc__ or "").strip()


# -- sizes


def test_no_module_is_too_long() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in sources()}
    too_long = {str(path): lines for path, lines in sizes.items() if lines > MAX_MODULE_LINES}
    assert too_long == {}


def test_no_function_is_too_long() -> None:
    too_long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert too_long == [], "\n".join(too_long)


# -- commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = command_of(name)
    summary, _, _ = (command.help or "").partition("\n")
    assert summary
    assert not summary.endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts}"
            assert not option.help.endswith("."), f"{name} {option.opts}"


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_to_help(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module("replicate.cli").run([name, flag]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"Usage: replicate {name} ")
    assert max(map(len, said.out.splitlines())) <= 100
    assert said.err == ""


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert importlib.import_module("replicate.cli").run([]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_command_is_a_file_of_its_name() -> None:
    shared = {"__init__", "options", "render", "difference", "holdings", "marks", "patches", "syncing", "tensors"}
    files = {path.stem for path in sources("replicate/cli")} - shared
    assert files == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"`replicate {name}" in readme or f"`{name}`" in readme


def test_every_exit_code_is_in_the_readme_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("replicate.cli").run(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    readme = " ".join((ROOT / "README.md").read_text().split())
    codes = {one.exit_code for one in ERRORS}
    for code in sorted({0, 1, 70, 130} | codes):
        assert re.search(rf"[ ,:] ?{code} [a-z]", told), code
        assert re.search(rf"[ ,:] ?{code} [a-z]", readme), code


# -- errors


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            above = [*above[:depth], match[2]]
            drawn.append((match[2], above[depth - 1] if depth else "Exception"))
    assert sorted(drawn) == sorted((one.__name__, one.__bases__[0].__name__) for one in ERRORS)


def test_what_the_drawn_errors_also_are_and_have_is_true() -> None:
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    [│├└─ ]*([A-Z]\w+Error)\b", line)
        if not match:
            continue
        one = getattr(errors, match[1])
        for name in re.findall(r"\(also (\w+)\)", line):
            assert name in [base.__name__ for base in one.__mro__], line
        for listed in re.findall(r"\(has ([^)]*)\)", line):
            parameters = inspect.signature(one).parameters
            assert set(re.findall(r"`(\w+)`", listed)) <= set(parameters), line


def test_kinds_of_errors_are_unique() -> None:
    kinds = [one.kind for one in ERRORS]
    assert len(kinds) == len(set(kinds))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", kind) for kind in kinds)


# -- documents


def test_every_vector_is_covered_by_the_specification() -> None:
    specification = (ROOT / "SPEC.md").read_text()
    made = (ROOT / "tests" / "vectors" / "make_vectors.py").read_text()
    named = "`tests/vectors/*.json`" in specification
    for path in sorted((ROOT / "tests" / "vectors").glob("*.json")):
        assert named or path.name in specification, path.name
        assert f"def {path.stem}(" in made, f"{path.name} is not made by make_vectors.py"


def test_no_tracked_file_names_a_path_of_some_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path == Path(__file__):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if str(ROOT) in line or MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == [], "\n".join(found)


def test_the_environment_is_read_in_few_places() -> None:
    allowed = {"replicate/config.py", "replicate/cli/__init__.py"}
    readers = {str(path.relative_to(ROOT)) for path in sources() if "os.environ" in path.read_text()}
    assert readers <= allowed


def test_nothing_below_the_console_prints() -> None:
    printing = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(path.name)
    assert set(printing) <= {"console.py"}
