"""A training run that is killed: changes files, saves them, and keeps its own log of what was saved.

Run as a script with the project's folder, a log file, a seed and how to begin (`new` or `resume`). Lines of the log:
`saving NUMBER HASH` before a save, with a hash of all files, and `saved NUMBER ID` once it returned; each is synced.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
from pathlib import Path


def fingerprint(folder: Path) -> str:
    """Return a hash of all files in a folder, the store and the log left out."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] != ".replicate":
            found.update(f"{relative} {path.stat().st_size} {path.stat().st_mode & 0o100}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def change(root: Path, chance: random.Random) -> None:
    """Change some files: small ones, a folder that comes and goes, and now and then one that fills a pack."""
    (root / "train.py").write_text(f"seed = {chance.random()}\n")
    (root / "lib").mkdir(exist_ok=True)
    (root / "lib" / f"{chance.randrange(5)}.py").write_bytes(chance.randbytes(chance.randrange(2_000)))
    path = root / "lib" / f"{chance.randrange(5)}.py"
    if chance.random() < 0.2 and path.exists():
        path.unlink()
    if chance.random() < 0.2:
        (root / "weights.bin").write_bytes(chance.randbytes(1 << 20) + b"0, 1, 2, " * chance.randrange(400_000))


def main() -> None:
    import replicate

    root, log = Path(sys.argv[1]), Path(sys.argv[2])
    chance = random.Random(int(sys.argv[3]))
    before = sum(line.startswith("saving") for line in log.read_text().splitlines()) if log.exists() else 0
    numbers = itertools.count(before)
    with open(log, "ab") as file:

        def note(line: str) -> None:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        print("ready", flush=True)
        if sys.argv[4] == "resume":
            replicate.init(root, resume=True, quiet=True)
        else:
            number = next(numbers)
            change(root, chance)
            note(f"saving {number} {fingerprint(root)}")
            experiment = replicate.init(root, params={"number": number}, quiet=True)
            note(f"saved {number} {experiment.id}")
        for number in numbers:
            change(root, chance)
            note(f"saving {number} {fingerprint(root)}")
            note(f"saved {number} {replicate.checkpoint(step=number).id}")


if __name__ == "__main__":
    main()
