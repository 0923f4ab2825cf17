"""Several projects that save, and push to one bucket again and again; `write_at_once` runs many such processes.

Run as a script with a URL, a folder for projects, their names, and how many checkpoints each saves. Once a line comes
in, all begin at the same time. What was saved is written as JSON: name → checkpoint → hash of the files it holds.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from replicate.errors import ReplicateError
from replicate.host import Host
from replicate.sync import create_store
from replicate.transport import Transport
from replicate.transport.remote import open_transport
from tests.builders import noise
from tests.faults.saving_process import fingerprint
from tests.projects import SampleProject
from tests.sync.stores import push_to

Written = dict[str, dict[str, str]]


def write_at_once(url: str, folder: Path, processes: Sequence[Sequence[str]], saves: int) -> Written:
    """Run a process for each list of names, all at once; return what they say."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, url, str(folder), ",".join(names), str(saves)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for names in processes
    ]
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise _ended(process)
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        written: Written = {}
        for process in started:
            output, errors = process.communicate(timeout=240)
            if process.returncode or errors:
                raise _ended(process, errors)
            written |= json.loads(output)
        return written
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _ended(process: subprocess.Popen[str], errors: str = "") -> AssertionError:
    errors = errors or process.communicate()[1]
    return AssertionError(f"a writer ended with {process.returncode}: {errors}")


def write(url: str, root: Path, saves: int, written: dict[str, str]) -> None:
    """Save and push by turns; a project that is there already goes on with its experiment."""
    chance = random.Random(root.name)
    project = SampleProject(root)
    remote = open_transport(url)
    create_store(remote, Host())
    if project.store.exists():
        session = project.resume()
    else:
        project.write("train.py", root.name)
        session = project.begin(name=root.name)
    for number in range(saves):
        project.write("weights.bin", noise(chance.randrange(20_000), f"{root} {number}"))
        project.write("shared.bin", noise(2_000, f"{number}"))
        saved = project.save(session, step=number, metrics={"loss": chance.random()})
        written[saved.base.record.commit_id.hex()] = fingerprint(root)
        if chance.random() < 0.25:
            push(project, remote)
    session.end("finished")
    push(project, remote)


def push(project: SampleProject, remote: Transport) -> None:
    done = push_to(project, remote)
    if done.left or done.failures or project.events.warnings:
        raise AssertionError(f"{done} {project.events.warnings}")


def main() -> None:
    url, folder, names, saves = sys.argv[1:]
    written: Written = {name: {} for name in names.split(",")}
    print("ready", flush=True)
    sys.stdin.readline()
    problems: list[ReplicateError | AssertionError] = []

    def work(name: str) -> None:
        try:
            write(url, Path(folder, name), int(saves), written[name])
        except (ReplicateError, AssertionError) as exc:
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in written]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    print(json.dumps(written))


if __name__ == "__main__":
    main()
