"""The command `replicate`, also as `python -m replicate`. Floor 9."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"]:  # asked by scripts and installers: answered without loading click
        from replicate import __version__

        sys.stdout.write(f"replicate {__version__}\n")
        return
    from replicate.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
