"""Write `docs/cli.md` and `docs/api.md` from the code: `make docs`. A test compares them with what this would write."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import replicate
from replicate import errors
from replicate.cli import PLUMBING, PORCELAIN, cli

HERE = Path(__file__).parent
WIDTH = 100
LINE = 118
_NOTE = "<!-- Written by docs/generate.py: change the code and run `make docs`. -->"
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises):")
_ITEM = re.compile(r"(?P<names>[*\w]+(?:, [*\w]+)*): (?P<text>.*)")
_ERROR = re.compile(r"(?<!`)\b([A-Z]\w+Error(?:, [A-Z]\w+Error)*):")


def documents() -> dict[Path, str]:
    """Return every generated document by its path."""
    return {HERE / "cli.md": cli_document(), HERE / "api.md": api_document()}


# -- the command line


def cli_document() -> str:
    """Return what every command's `--help` says."""
    parts = [
        "# Commands",
        _NOTE,
        _wrapped(
            "What `replicate COMMAND --help` prints. How revisions, filters and exit codes are meant is in the"
            " [README](../README.md#commands), what scripts may rely on in [plumbing.md](plumbing.md)."
        ),
        _block(_help(cli, "replicate", None)),
    ]
    for title, commands in (("Porcelain", PORCELAIN), ("Plumbing", PLUMBING)):
        parts.append(f"## {title}")
        for name in commands:
            group = click.Context(cli, info_name="replicate")
            command = cli.get_command(group, name)
            assert command is not None
            parts += [f"### {name}", _block(_help(command, name, group))]
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command, name: str, group: click.Context | None) -> str:
    settings = {**cli.context_settings, **command.context_settings}
    settings |= {"terminal_width": WIDTH, "max_content_width": WIDTH}
    return command.get_help(click.Context(command, info_name=name, parent=group, **settings))


def _block(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip()}\n```"


# -- the library


def api_document() -> str:
    """Return the signatures and docstrings of all public names."""
    public = [name for name in replicate.__all__ if not name.startswith("_")]
    functions = [name for name in public if inspect.isfunction(getattr(replicate, name))]
    classes = [name for name in public if inspect.isclass(getattr(replicate, name))]
    parts = [
        "# Python API",
        _NOTE,
        _wrapped(
            "The names that `import replicate` gives; everything else may change at any time. What is saved, and where,"
            " is in the [README](../README.md), how it is stored in [how-it-works.md](how-it-works.md)."
        ),
    ]
    for name in functions:
        parts.append(f"## replicate.{name}()")
        parts += _describe_function(getattr(replicate, name), f"replicate.{name}")
    parts += [
        "## replicate.experiments",
        "An [`ExperimentCollection`](#experimentcollection): the experiments of the project that the current folder"
        " lies in.",
    ]
    for name in classes:
        parts += [f"## {name}", *_describe_class(getattr(replicate, name))]
    tree = textwrap.dedent((errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0])
    parts += ["## Errors", "They lie in `replicate.errors`, grouped by what the caller can do next.", _block(tree)]
    parts += ["## replicate.\\_\\_version\\_\\_", "The version, as text."]
    return "\n\n".join(parts) + "\n"


def _describe_class(found: type) -> Iterator[str]:
    doc = inspect.getdoc(found) or ""
    if "\nArgs:" in doc:
        yield _block(_signature(found.__init__, found.__name__), "python")  # type: ignore[misc]
    bases = [base for base in getattr(found, "__orig_bases__", found.__bases__) if base is not object]
    for base in bases:
        yield f"*Is a `{inspect.formatannotation(base).replace('replicate.', '').replace('checkpoints.', '')}`.*"
    yield from _markdown(doc)
    for name, member in vars(found).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            returns = _returns(member.fget)
            yield f"### {found.__name__}.{name}"
            first, *rest = _markdown(inspect.getdoc(member.fget) or "")
            yield _wrapped(f"`{returns}` · {first}")
            yield from rest
        elif inspect.isfunction(member):
            yield f"### {found.__name__}.{name}()"
            yield from _describe_function(member, name)


def _describe_function(function: Any, name: str) -> Iterator[str]:
    yield _block(_signature(function, name), "python")
    yield from _markdown(inspect.getdoc(function) or "")


def _definition(function: Any) -> ast.FunctionDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    return node


def _returns(function: Any) -> str:
    returns = _definition(function).returns
    return ast.unparse(returns) if returns else ""


def _signature(function: Any, name: str) -> str:
    """Return a signature as the source has it, without `self`; a parameter a line when it is long."""
    node = _definition(function)
    arguments = [*node.args.posonlyargs, *node.args.args]
    if arguments and arguments[0].arg == "self":
        (node.args.posonlyargs or node.args.args).pop(0)
    returns = ast.unparse(node.returns) if node.returns and node.name != "__init__" else ""
    arrow = f" -> {returns}" if returns else ""
    parameters = list(_parameters(node.args))
    line = f"{name}({', '.join(parameters)}){arrow}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in parameters) + f"){arrow}"
    return line.replace("'", '"')


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Yield every parameter with its annotation and default."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    for one, default in zip(plain, [*defaults, *arguments.defaults], strict=True):
        yield _parameter(one, default)
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{ast.unparse(arguments.vararg)}" if arguments.vararg else "*"
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(one, default)


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(one) + (f"{' = ' if one.annotation else '='}{ast.unparse(default)}" if default else "")


# -- docstrings


def _markdown(doc: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; what is listed in its sections becomes lists."""
    for part in re.split(r"\n\n", doc):
        head, _, rest = part.partition("\n")
        section = _SECTION.fullmatch(head)
        if section is None:
            yield part if part.startswith("    ") else _wrapped(part)
        elif section[1] in ("Args", "Attributes"):
            yield "\n".join(_items(textwrap.dedent(rest)))
        else:
            text = _ERROR.sub(r"`\1`:", rest) if section[1] == "Raises" else rest
            yield _wrapped(f"*{section[1]}:* {text}")


def _items(text: str) -> Iterator[str]:
    """Yield the items of a section `name: text` as those of a list."""
    item: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith(" "):
            item.append(line.strip())
            continue
        if item:
            match = _ITEM.fullmatch(" ".join(item))
            assert match is not None, item
            names = ", ".join(f"`{name}`" for name in match["names"].split(", "))
            yield _wrapped(f"- {names}: {match['text']}", hanging="  ")
        item = [line]


def _wrapped(text: str, hanging: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), LINE, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )


def main() -> None:
    """Write the documents."""
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
