"""The worktrees that are saved. Made from seeds, so every run saves the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

_BLOCK = 1 << 20
_SMALLEST, _LARGEST = 200, 8 * 1024
_FOLDERS = 200


def make_files(root: Path, count: int, *, flat: bool, even: bool) -> Path:
    """Write `count` small files, every other one text, the rest incompressible; return one of them.

    Sizes are spread evenly over their logarithm, so that small files are more frequent, as in real projects; or
    evenly over all sizes.
    """
    rng = random.Random(count)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(2000)]
    for number in range(count):
        folder = root if flat else root / f"folder{number % _FOLDERS:03}"
        folder.mkdir(parents=True, exist_ok=True)
        spread = rng.random()
        size = int(
            _SMALLEST + (_LARGEST - _SMALLEST) * spread if even else _SMALLEST * (_LARGEST / _SMALLEST) ** spread
        )
        if number % 2:
            text = " ".join(rng.choices(words, k=size // 5 + 2))
            (folder / f"file{number:05}.txt").write_bytes(text.encode()[:size])
        else:
            (folder / f"file{number:05}.bin").write_bytes(rng.randbytes(size))
    return next(path for path in sorted(root.rglob("*.bin")))


def make_large(root: Path, count: int, size: int) -> Path:
    """Write `count` incompressible files of `size` bytes; return one of them."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        _write_noise(root / f"large{number}.bin", size, number)
    return root / "large0.bin"


def rewrite(path: Path) -> None:
    """Replace a file's content with as many other bytes, as a training script does with its weights."""
    _write_noise(path, path.stat().st_size, path.stat().st_mtime_ns)


def _write_noise(path: Path, size: int, seed: int) -> None:
    rng = random.Random(seed)
    with path.open("wb") as file:
        # In blocks, so that who calls this stays small: its memory is the floor of what its children are measured at.
        for start in range(0, size, _BLOCK):
            file.write(rng.randbytes(min(_BLOCK, size - start)))
