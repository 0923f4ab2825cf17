"""The command `python -m benchmarks`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.report import machine_text, result_text
from benchmarks.results import missed
from benchmarks.workloads import WORKLOADS, Options

_MEMORY_NEEDS_BYTES = 20 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare replicate with git and cp -r.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(WORKLOADS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="small data, few rounds: shows that it runs, not how fast")
    parser.add_argument("--flat", action="store_true", help="files: all of them in one folder")
    parser.add_argument("--even", action="store_true", help="files: as many large ones as small ones")
    parser.add_argument("--json", metavar="FILE", default=Path(__file__).with_name("last.json"), type=Path)
    arguments = parser.parse_args()
    for name in arguments.workloads:
        if name not in WORKLOADS:
            parser.error(f"{name} is no workload: there are {', '.join(WORKLOADS)}")
    # An exception, so that the temporary folders go away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    temporary = Path(tempfile.gettempdir())
    facts = machine(temporary)
    now = datetime.datetime.now(datetime.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC{', quick' if arguments.quick else ''}\n\n{machine_text(facts)}", flush=True)
    options = Options(arguments.quick, arguments.flat, arguments.even)
    results = []
    for name in arguments.workloads or WORKLOADS:
        if name == "memory" and not arguments.workloads and shutil.disk_usage(temporary).free < _MEMORY_NEEDS_BYTES:
            print("\nmemory: skipped, less than 20 GB free", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="replicate-bench-") as folder:
            result = WORKLOADS[name](Path(folder), options)
        print(f"\n{result_text(result)}\n\nload after: {os.getloadavg()[0]:.2f}", flush=True)
        results.append(result)
    report = {
        "time": now.isoformat(),
        "options": dataclasses.asdict(options),
        "machine": facts,
        "workloads": {result.name: result.to_json() for result in results},
    }
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    total = sum(len(result.targets) for result in results)
    print(f"\n{total - len(missed(results))} of {total} targets met; all samples are in {arguments.json.name}")


if __name__ == "__main__":
    main()
