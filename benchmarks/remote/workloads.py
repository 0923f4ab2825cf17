"""What is measured against a real S3 server on this machine, each tool in turn in every round."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Sample, environment_of_programs, run, warm_memory
from benchmarks.remote.tools import Aws, Dvc, Rclone, Replicate, Tool
from benchmarks.results import Result, Target, ratio
from replicate.transport import LocalTransport
from replicate.transport.remote import remote_transport
from tests.servers.proxy import Fault, FaultProxy

MIB = 1 << 20
_PUSH, _FETCH = "push", "checkout"
_DELAY = 0.05
_PROGRAMS_BYTES = 1 << 30  # what a tool and the server may use beside the data


def one_file(folder: Path, endpoint: str, bucket: str, *, quick: bool) -> Result:
    """One file of noise: how fast do bytes go there and back?"""
    size, rounds = (64 * MIB, 1) if quick else (1024 * MIB, 3)
    data = folder / "data"
    data.mkdir()
    noise = random.Random(size)
    with open(data / "model.bin", "wb") as file:
        for _ in range(size // MIB):
            file.write(noise.randbytes(MIB))
    result = Result("one file", f"a file of {size // MIB} MiB of noise; {rounds} rounds")
    tools = _present((Replicate, Rclone, Aws))
    _copy(result, folder, tools, (data, endpoint, bucket), rounds, size)
    for operation in (_PUSH, _FETCH):
        mine = result.row(operation, Replicate.name)
        for tool in tools[1:]:
            theirs = result.row(operation, tool.name)
            result.compare(mine, theirs)
            text = f"{operation} of {size // MIB} MiB: time to {tool.name}"
            result.targets.append(Target(text, ratio(mine.value("wall"), theirs.value("wall")), 2.0, "x"))
    return result


def small_files(folder: Path, endpoint: str, bucket: str, *, quick: bool) -> Result:
    """Many small files: what does each cost on the way to a bucket?"""
    count, rounds = (300, 1) if quick else (10_000, 2)
    data = folder / "data"
    noise = random.Random(count)
    for number in range(count):
        path = data / f"folder{number % 100:02}" / f"file{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.randbytes(noise.randrange(200, 8000)))
    result = Result("small files", f"{count:,} files of 200 B to 8 KB of noise; {rounds} rounds")
    tools = _present((Replicate, Aws, Dvc))
    size = sum(path.stat().st_size for path in data.glob("*/*"))
    _copy(result, folder, tools, (data, endpoint, bucket), rounds, size, is_fetched=False)
    mine = result.row(_PUSH, Replicate.name)
    for tool in tools[1:]:
        theirs = result.row(_PUSH, tool.name)
        result.compare(mine, theirs)
        text = f"push of {count:,} files: {tool.name} to replicate, share of it"
        result.targets.append(Target(text, ratio(mine.value("wall"), theirs.value("wall")), 0.05, "x"))
    return result


def _present(tools: Sequence[type[Tool]]) -> list[type[Tool]]:
    for tool in tools:
        if tool.missing():
            print(f"{tool.program} is not installed: left out", flush=True)
    return [tool for tool in tools if not tool.missing()]


def _copy(
    result: Result,
    folder: Path,
    tools: Sequence[type[Tool]],
    where: tuple[Path, str, str],
    rounds: int,
    size: int,
    *,
    is_fetched: bool = True,
) -> None:
    for number in range(rounds):
        order = [*tools[number % len(tools) :], *tools[: number % len(tools)]]
        for kind in order:
            work = folder / f"{kind.program.rpartition('/')[2]}-{number}"
            tool = kind(work, *where)
            tool.prepare()
            _warm_up(kind, work / "first", where)
            warm_memory(2 * size + _PROGRAMS_BYTES)
            result.add(_PUSH, tool.name, tool.push())
            if is_fetched:
                warm_memory(2 * size + _PROGRAMS_BYTES)
                result.add(_FETCH, tool.name, tool.fetch(work / "back"))
            if isinstance(tool, Replicate):
                result.add("checkpoint before it", tool.name, tool.saved)
            shutil.rmtree(work)


def _warm_up(kind: type[Tool], work: Path, where: tuple[Path, str, str]) -> None:
    """Push one small file elsewhere: a tool's own program is in the page cache then, as its data are."""
    data = work / "one"
    data.mkdir(parents=True)
    (data / "file").write_bytes(b"one")
    tool = kind(work / f"{work.parent.name}-first", data, *where[1:])
    tool.prepare()
    tool.push()


def latency(folder: Path, endpoint: str, bucket: str, *, quick: bool) -> Result:
    """Every request takes 50 ms more: what of it does a listing, and a training, feel?"""
    count, rounds = (200, 1) if quick else (10_000, 5)
    result = Result(
        "latency", f"{_DELAY * 1000:.0f} ms before each request; {count:,} experiments × 10; {rounds} rounds"
    )
    project = folder / "project"
    subprocess.run([sys.executable, "-m", "benchmarks.store", str(project), str(count), "10"], check=True)
    fold = (
        "import sys; from replicate.cli.options import open_repository\n"
        "from replicate.maintenance.folding import fold\n"
        "for _ in range(2): fold(open_repository(sys.argv[1]), older_than_ns=0, delete_after_ns=0)"
    )
    subprocess.run([sys.executable, "-c", fold, str(project)], check=True)
    _upload(project / ".replicate", f"s3://{bucket}/listed", endpoint)
    upstream = int(endpoint.rpartition(":")[2])
    with FaultProxy(upstream) as proxy:
        proxy.choose = lambda request: Fault("pause", seconds=_DELAY)
        more = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        command = [sys.executable, "-m", "replicate", "ls", "-R", f"s3://{bucket}/listed"]
        for number in range(rounds):
            caches = {"XDG_CACHE_HOME": str(folder / f"caches-{number}")}
            result.add("ls, cold", "replicate", run(command, folder, more | caches))
            result.add("ls, warm", "replicate", run(command, folder, more | caches))
        for number in range(rounds):
            for name, mode in (("offline", "offline"), ("pushing", "online")):
                work = folder / f"{name}-{number}"
                result.add("checkpoint() of 20 MB", name, _train(work, f"{bucket}/{name}-{number}", more, mode))
    for name, limit in (("ls, cold", 3.0), ("ls, warm", 1.0)):
        value = result.row(name, "replicate").value("wall")
        assert value is not None
        result.targets.append(Target(f"{name}, of {count:,} experiments", value, limit, "s"))
    pushing, offline = (result.row("checkpoint() of 20 MB", name) for name in ("pushing", "offline"))
    result.compare(pushing, offline)
    result.targets.append(
        Target("checkpoint() while pushing to offline", ratio(pushing.value("call"), offline.value("call")), 1.3, "x")
    )
    return result


def _train(work: Path, place: str, environment: dict[str, str], mode: str) -> Sample:
    """Train for ten checkpoints, and return how long the median checkpoint() took."""
    work.mkdir()
    (work / "replicate.yaml").write_text(f"repository: s3://{place}\nregion: us-east-1\n")
    (work / "train.py").write_text(_TRAINING)
    if mode == "online":
        run([sys.executable, "-m", "replicate", "push", "--create", "--quiet"], work, environment)
    process = subprocess.run(
        [sys.executable, "train.py"],
        cwd=work,
        env={**environment_of_programs(), **environment, "REPLICATE_MODE": mode},
        capture_output=True,
        check=True,
    )
    shutil.rmtree(work)
    return Sample(statistics.median(json.loads(process.stdout)), None, None, None)


_TRAINING = """
import json, os, time
import replicate

replicate.init(quiet=True)
taken = []
for step in range(10):
    with open("weights.bin", "wb") as file:
        file.write(os.urandom(20_000_000))
    time.sleep(1)  # training on an accelerator
    start = time.perf_counter()
    replicate.checkpoint(step=step)
    taken.append(time.perf_counter() - start)
print(json.dumps(taken))
"""


def _upload(store: Path, url: str, endpoint: str) -> None:
    """Copy a store into a bucket, as `aws s3 cp --recursive` would."""
    source, target = LocalTransport(str(store)), remote_transport(url, {"endpoint": endpoint, "region": "us-east-1"})
    for top in ("packs/", "refs/", "cat/", "ctl/"):
        for info in source.list(top):
            target.put(info.key, source.get(info.key))


WORKLOADS = {"one-file": one_file, "small-files": small_files, "latency": latency}
