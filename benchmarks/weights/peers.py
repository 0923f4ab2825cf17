"""How each tool saves a series: one store each, one file after another, and back.

Tools that version a path get every file under one name, in a worktree of their own; the copy there is not timed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from benchmarks.measure import Sample, environment_of_programs, run

_HERE = Path(__file__).resolve().parents[2]
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
_NAME = "model"


class Peer:
    """A tool with a store in `folder`, which is its own.

    Attributes:
        name: What tables call it.
        is_versioning: Whether every file is saved under one name, in `worktree`.
    """

    name: str
    is_versioning = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.worktree = folder / "worktree"
        self.saved = 0
        home = folder / "home"
        for each in (self.worktree, home):
            each.mkdir(parents=True)
        self.environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "PATH": _PATH}

    @classmethod
    def missing(cls) -> str | None:
        """Return why it cannot be measured here, or None."""
        return None

    def prepare(self) -> None:
        """Make the store; not timed."""
        self.store.mkdir()

    def save(self, file: Path, item_bytes: int) -> Sample:
        """Save a file of weights of so many bytes each."""
        if self.is_versioning:
            path = self.worktree / (_NAME + file.suffix)
            shutil.copyfile(file, path)
        else:
            path = file
        sample = self._save(path, item_bytes)
        self.saved += 1
        return sample

    def restore(self, index: int, get_ready: Callable[[], None] = lambda: None) -> tuple[Sample, Path]:
        """Restore what was saved so many saves after the first, right after `get_ready`; return where it is."""
        to = self.folder / "restored"
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        self._begin_to_restore()
        get_ready()
        sample = self._restore(index, to)
        return sample, next(path for path in to.rglob("*") if path.is_file())

    def stored(self) -> int:
        """Return the bytes of the files in the store."""
        return size_of(self.store)

    def close(self) -> None:
        """End what it may have running."""

    def _save(self, path: Path, item_bytes: int) -> Sample:
        raise NotImplementedError

    def _begin_to_restore(self) -> None:
        """Start what is not measured."""

    def _restore(self, index: int, to: Path) -> Sample:
        raise NotImplementedError


class Command(Peer):
    """A tool that is a program."""

    program: str
    hint: str

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which(cls.program, path=_PATH) else f"no {cls.program} here: {cls.hint}"

    @classmethod
    def version(cls) -> str:
        """Return the first line that it tells of itself."""
        command = [cls.program, "version" if cls.program == "restic" else "--version"]
        found = subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True, check=True)
        return found.stdout.partition("\n")[0]

    def _run(self, *script: str) -> Sample:
        """Run a line of shell with its arguments in the worktree."""
        return run(["sh", "-e", "-c", *script], self.worktree, self.environment)


class Copy(Command):
    name, program, hint = "cp", "cp", "it is everywhere"

    def _save(self, path: Path, item_bytes: int) -> Sample:
        return self._run('cp "$0" "$1"', str(path), str(self.store / str(self.saved)))

    def _restore(self, index: int, to: Path) -> Sample:
        return self._run('cp "$0" "$1"', str(self.store / str(index)), str(to / "file"))


class SyncedCopy(Copy):
    """`cp`, and the fsync without which the copy is not on the disk yet."""

    name = "cp + fsync"

    def _save(self, path: Path, item_bytes: int) -> Sample:
        return self._run('cp "$0" "$1" && sync "$1"', str(path), str(self.store / str(self.saved)))


class Zstd(Command):
    name, program, hint = "zstd -3", "zstd", "apt-get install zstd"

    def _save(self, path: Path, item_bytes: int) -> Sample:
        return self._run('zstd -q -3 -T2 "$0" -o "$1"', str(path), str(self.store / str(self.saved)))

    def _restore(self, index: int, to: Path) -> Sample:
        return self._run('zstd -q -d "$0" -o "$1"', str(self.store / str(index)), str(to / "file"))


class Restic(Command):
    name, program, hint, is_versioning = "restic", "restic", "apt-get install restic", True

    def prepare(self) -> None:
        self.environment |= {"RESTIC_PASSWORD": "benchmark", "RESTIC_REPOSITORY": str(self.store)}
        self._run("restic init -q")

    def _save(self, path: Path, item_bytes: int) -> Sample:
        return self._run('restic backup -q --tag "$0" "$1"', f"n{self.saved}", path.name)

    def _restore(self, index: int, to: Path) -> Sample:
        return self._run('restic restore -q --tag "$0" --target "$1" latest', f"n{index}", str(to))


class Borg(Command):
    name, program, hint, is_versioning = "borg", "borg", "apt-get install borgbackup", True

    def prepare(self) -> None:
        self.environment |= {"BORG_REPO": str(self.store), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        self._run("borg init -e none")

    def _save(self, path: Path, item_bytes: int) -> Sample:
        return self._run('borg create --compression zstd,3 "::$0" "$1"', f"n{self.saved}", path.name)

    def _restore(self, index: int, to: Path) -> Sample:
        return self._run('cd "$1" && borg extract "::$0"', f"n{index}", str(to))


class DVC(Command):
    name, program, hint, is_versioning = "dvc", "dvc", "pip install dvc", True

    def prepare(self) -> None:
        self.environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(self.folder / "home" / "site")}
        self._run("dvc init -q --no-scm")
        self.store = self.worktree / ".dvc" / "cache"

    def _save(self, path: Path, item_bytes: int) -> Sample:
        sample = self._run('dvc add -q "$0"', path.name)
        pointer = self.worktree / f"{path.name}.dvc"
        pointer.rename(self.folder / f"{self.saved}{path.suffix}.dvc")  # git would keep it
        return sample

    def _restore(self, index: int, to: Path) -> Sample:
        pointer = next(self.folder.glob(f"{index}.*.dvc"))
        path = self.worktree / (_NAME + Path(pointer.stem).suffix)
        shutil.copyfile(pointer, self.worktree / f"{path.name}.dvc")
        path.unlink()
        sample = self._run("dvc checkout -q")
        shutil.copyfile(path, to / "file")
        return sample


class Library(Peer):
    """A tool that is a Python library, in one process for all saves; another one restores."""

    module: str
    hint: str
    tool: str
    _process: subprocess.Popen[str] | None = None

    @classmethod
    def missing(cls) -> str | None:
        return None if importlib.util.find_spec(cls.module) else f"no {cls.module} here: {cls.hint}"

    def prepare(self) -> None:
        self._ask(prepare=True)

    def close(self) -> None:
        if self._process is not None:
            self._pipe(self._process.stdin).close()
            self._process.wait()
            self._pipe(self._process.stdout).close()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks.weights.worker", self.tool, str(self.store)]
        environment = {**environment_of_programs(), **self.environment, "PYTHONPATH": str(_HERE)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.worktree, env=environment, stdin=pipe, stdout=pipe, text=True)

    def _ask(self, **asked: str | int) -> Sample:
        if self._process is None:
            self._process = self._start()
        os.sync()  # as `run` does
        asking = self._pipe(self._process.stdin)
        asking.write(json.dumps(asked) + "\n")
        asking.flush()
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()} when asked for {asked}")
        told = json.loads(line)
        return Sample(told["call"], None, told["cpu"], told["peak"])

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _save(self, path: Path, item_bytes: int) -> Sample:
        return self._ask(save=str(path), item=item_bytes)

    def _begin_to_restore(self) -> None:
        self.close()
        self._ask(ready=True)

    def _restore(self, index: int, to: Path) -> Sample:
        return self._ask(restore=index, to=str(to))

    def warm_up(self, index: int) -> None:
        """Restore a save beside the process that saves: what has to be read for that is in the page cache then."""
        saving, self._process = self._process, None
        self.restore(index)[1].unlink()
        self.close()
        self._process = saving


class Replicate(Library):
    name, tool, module, hint, is_versioning = "replicate", "Replicate", "replicate", "pip install -e .", True

    def prepare(self) -> None:
        self.store = self.worktree / ".replicate"
        self.environment |= {"REPLICATE_STORE": str(self.store), "REPLICATE_MODE": "online"}
        super().prepare()


class ZipNN(Library):
    name, tool, module, hint = "zipnn", "ZipNN", "zipnn", "pip install zipnn"


class HfXet(Library):
    name, tool, module, hint = "hf_xet", "HfXet", "hf_xet", "pip install hf_xet"

    def stored(self) -> int:
        """Count what the server would hold; beside it is the client's cache."""
        held = self.store / "xet" / "xorbs"
        return size_of(held / "xorbs") + size_of(held / "shards")


class XorPlanes(Library):
    name, tool, module, hint = "xor planes", "XorPlanes", "zstandard", "pip install zstandard"


PEERS: tuple[type[Peer], ...] = (Replicate, Copy, Zstd, ZipNN, Restic, Borg, HfXet, DVC, XorPlanes)
RIVALS = ("restic", "borg", "hf_xet", "zipnn")


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
