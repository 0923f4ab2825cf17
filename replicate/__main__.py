"""The command `replicate`, also as `python -m replicate`. Floor 9."""

from __future__ import annotations

import gc
import io
import os
import sys

# A listing makes many small objects that live to the end; looking for garbage among them takes a third of its time.
_GC_THRESHOLDS = (1_000_000, 20, 100)


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"]:  # asked by scripts and installers: answered without loading click
        from replicate import __version__

        sys.stdout.write(f"replicate {__version__}\n")
        return
    _prepare_streams()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        from replicate.cli import run
        from replicate.config import start_no_idle_threads

        start_no_idle_threads()
    except KeyboardInterrupt:
        sys.exit(130)
    code = run()
    gc.freeze()  # or the interpreter looks through everything once more before it ends
    sys.exit(code)


def _prepare_streams() -> None:
    """Let every text be printed, and give a closed standard stream the null device.

    Otherwise a file of the store could get the stream's number, and be written into by whoever uses that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
