"""The command line: a command is a file, loaded when it is called. Floor 9.

Data goes to stdout, everything else to stderr. The one place where errors become exit codes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import traceback

import click

from replicate import __version__
from replicate.console import LogHandler
from replicate.errors import CorruptionError, ReplicateError, StorageError
from replicate.text import printable

# Name → first line of its help, so that `replicate --help` loads no command; a test compares them.
PORCELAIN = {
    "checkpoint": "Save the worktree, or only PATHs of it, with step and metrics",
    "ls": "List experiments",
    "log": "Show the history of checkpoints, newest first",
    "show": "Show an experiment or a checkpoint, or with ID:PATH a file of it",
    "diff": "Show what differs between two commits, or a commit and the worktree",
    "checkout": "Restore the files of a commit, or only PATHS of it",
    "status": "Show where checkpoints go and what changed in the worktree",
    "ps": "List what is running",
    "rm": "Remove experiments or checkpoints from every list; `undo` brings them back",
    "undo": "Bring back what was removed, or list what can be",
    "tag": "Give tags, a name or a note to an experiment or a checkpoint, or list all tags",
    "push": "Copy experiments to another store: `repository` in replicate.yaml, or -R URL",
    "pull": "Copy experiments from another store: `repository` in replicate.yaml, or -R URL",
    "du": "Show what experiments take in the store, or the checkpoints of some, or the files of one",
    "fsck": "Check that the store is whole, and tell what any damage affects",
    "doctor": "Try out whether the storage of the repository does what a store needs",
}
PLUMBING = {
    "hash-object": "Print the blob id of files: the BLAKE3 of their bytes",
    "cat-file": "Print an object: blobs as they are, trees and commits as JSON",
    "ls-tree": "List a tree: mode, size, id and path of each entry",
    "rev-parse": "Print the ids that revisions mean, one per line",
    "rev-list": "List the ids of commits that revisions lead to, newest first",
    "show-ref": "List ref records: kind, experiment, seq, session, subject, hash",
    "write-tree": "Store a tree and print its id: of a FOLDER, or of the entries on stdin",
    "commit-tree": "Commit a tree that the store holds, publish the commit, and print its id",
    "fold-refs": "Fold ref records that are a day old into catalogs, which list faster",
    "verify-pack": "Check every byte of packs, and list what is in them",
}
_log = logging.getLogger("replicate")
_OUTPUT_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
_ALIASES = {"list": "ls", "restore": "checkout", "save": "checkpoint"}

_HINTS: dict[type[ReplicateError], str] = {
    CorruptionError: "what does not need it stays readable; a copy of the store may have the file whole"
}

EPILOG = """\b
Exit codes: 0 ok, 1 differences or none found, 2 usage, 3 not found,
4 conflict, 5 corruption, 6 storage, 7 unsupported format, 10 other failure,
70 bug, 130 interrupted, 141 whoever read the output went away"""


class Commands(click.Group):
    """The group: finds a command's file by its name, and lists porcelain before plumbing."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. A broken pipe is no `OSError` from here on: click would exit with 1 for it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise SystemExit from exc

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [*PORCELAIN, *PLUMBING]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in (*PORCELAIN, *PLUMBING):
            return None
        module = importlib.import_module(f"replicate.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; for an unknown one, suggest a near name."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            import difflib

            near = _ALIASES.get(name) or next(iter(difflib.get_close_matches(name, self.list_commands(ctx), 1)), None)
            raise click.UsageError(f"no command {name!r}" + (f"; did you mean {near!r}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two lists of commands."""
        for title, commands in (("Commands", PORCELAIN), ("Plumbing, for scripts", PLUMBING)):
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.command(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="replicate %(version)s")
@click.option("-D", "--project-directory", metavar="DIR", help="Work in the project that DIR lies in")
@click.pass_context
def cli(ctx: click.Context, project_directory: str | None) -> None:
    """Version control for machine learning"""
    ctx.obj = project_directory
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are told on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    _log.setLevel(logging.INFO)
    _log.handlers = [LogHandler()]
    try:
        result = cli.main(given or ["--help"], prog_name="replicate", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        message = exc.format_message()
        return _tell(message[:1].lower() + message[1:].removesuffix("."), _usage_hint(exc), exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _tell("interrupted", None, 130)
    except ReplicateError as exc:
        return _tell(exc.message, exc.hint or _HINTS.get(type(exc)), exc.exit_code)
    except (BrokenPipeError, SystemExit):  # click exits when the pipe breaks under the help text
        if "_REPLICATE_COMPLETE" in os.environ:  # or when it has completed a word for the shell
            raise
        _drop_output()
        return 141
    except Exception as exc:  # noqa: BLE001 (the last resort: tell it and give the code of a bug)
        if isinstance(exc, OSError) and exc.filename is None and exc.errno in _OUTPUT_FAILED:
            _drop_output()
            return _tell(f"cannot write the output: {exc.strerror}", None, StorageError.exit_code)
        traceback.print_exc()
        return _tell("this is a bug in replicate", "please report it with the lines above", 70)
    return result if isinstance(result, int) else 0


def _usage_hint(exc: click.ClickException) -> str | None:
    context = getattr(exc, "ctx", None)
    return f"see `{context.command_path} --help`" if context else None


def _tell(message: str, hint: str | None, code: int) -> int:
    for word, text in (("error", message), ("hint", hint)):
        if text:
            click.echo(f"{word}: {printable(text)}", err=True)
    return code


def _drop_output() -> None:
    """Send what is still in stdout's buffer nowhere: it cannot be written, and the interpreter would try again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
