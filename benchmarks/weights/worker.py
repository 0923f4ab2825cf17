"""One Python tool in a process of its own: `python -m benchmarks.weights.worker TOOL STORE`, in the worktree.

It lives as long as a training does. It reads requests, a line of JSON each, and answers with the seconds of each, and
the most memory that it has had so far:

    {"ready": true}                                nothing is done: the process has started
    {"prepare": true}                              a new store
    {"save": "/a/file", "item": 4}                 item: the bytes of a weight
    {"restore": 3, "to": "/a/new/folder"}          the file of the fourth save
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


class Replicate:
    """The library through its API: `init()` and `checkpoint(path)`, as in a training script; it knows its store."""

    def __init__(self, store: Path) -> None:
        import replicate

        self._replicate = replicate
        self._experiment: Any = None

    def prepare(self) -> None:
        self._experiment = self._replicate.init(".", quiet=True)

    def save(self, path: Path, item: int) -> None:
        self._experiment.checkpoint(path.name)

    def restore(self, index: int, to: Path) -> None:
        self._replicate.experiments.latest().checkpoints[index].checkout(to)


class _Files:
    """A tool that makes one file of each."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._count = 0

    def prepare(self) -> None:
        self._store.mkdir()

    def _next(self) -> Path:
        self._count += 1
        return self._at(self._count - 1)

    def _at(self, index: int) -> Path:
        return self._store / f"{index:03}"


class ZipNN(_Files):
    """ZipNN, with its defaults, which use as many threads as there are cores."""

    def __init__(self, store: Path) -> None:
        super().__init__(store)
        from zipnn import ZipNN

        self._zipnn = ZipNN

    def save(self, path: Path, item: int) -> None:
        kind = {2: "bfloat16", 4: "float32"}[item]
        coder = self._zipnn(input_format="byte", bytearray_dtype=kind)
        data = bytearray(path.stat().st_size)  # which it changes
        with path.open("rb") as file:
            file.readinto(data)
        self._next().write_bytes(coder.compress(data))

    def restore(self, index: int, to: Path) -> None:
        (to / "file").write_bytes(self._zipnn(input_format="byte").decompress(self._at(index).read_bytes()))


class XorPlanes(_Files):
    """xor with the file before, which is still in memory; to restore one, all before it are decoded."""

    _previous: bytes | None = None

    def save(self, path: Path, item: int) -> None:
        from benchmarks.weights.xor import encode

        data = path.read_bytes()
        with self._next().open("wb") as file:
            file.writelines(encode(data, self._previous, item))
        self._previous = data

    def restore(self, index: int, to: Path) -> None:
        from benchmarks.weights.xor import decode

        found: bytes | None = None
        for number in range(index + 1):
            found = decode(self._at(number).read_bytes(), found)
        assert found is not None
        (to / "file").write_bytes(found)


class HfXet:
    """hf_xet with a folder as its server; it does not compute the SHA-256 that the hub asks for."""

    def __init__(self, store: Path) -> None:
        import hf_xet

        self._xet: Any = hf_xet
        self._store = store
        self._known = store.with_suffix(".json")  # which file each save was: the hub keeps this in git
        self._session = hf_xet.XetSession()

    def prepare(self) -> None:
        self._known.write_text("[]")

    def save(self, path: Path, item: int) -> None:
        with self._session.new_upload_commit(endpoint=f"local://{self._store}") as commit:
            upload = commit.start_upload_file(str(path), self._xet.SKIP_SHA256)
        info = upload.result().xet_info
        self._known.write_text(json.dumps([*json.loads(self._known.read_text()), [info.hash, info.file_size]]))

    def restore(self, index: int, to: Path) -> None:
        info = self._xet.XetFileInfo(*json.loads(self._known.read_text())[index])
        with self._session.new_file_download_group(endpoint=f"local://{self._store}") as group:
            group.start_download_file(info, str(to / "file"))


TOOLS = {tool.__name__: tool for tool in (Replicate, ZipNN, XorPlanes, HfXet)}


def _peak() -> int:
    """Return the most memory that this process has had, in bytes. `ru_maxrss` counts what forked it too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main(name: str, store: str) -> None:
    tool = TOOLS[name](Path(store))
    for line in sys.stdin:
        asked = json.loads(line)
        cpu, start = sum(os.times()[:4]), time.perf_counter()
        if "ready" in asked:
            pass
        elif "prepare" in asked:
            tool.prepare()
        elif "save" in asked:
            tool.save(Path(asked["save"]), asked["item"])
        else:
            tool.restore(asked["restore"], Path(asked["to"]))
        call = time.perf_counter() - start
        print(json.dumps({"call": call, "cpu": sum(os.times()[:4]) - cpu, "peak": _peak()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
