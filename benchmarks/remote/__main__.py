"""The command `python -m benchmarks.remote`: push and checkout against a real S3 server, beside other tools."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.remote.workloads import WORKLOADS
from benchmarks.report import machine_text, result_text
from benchmarks.results import missed
from replicate.transport.remote import remote_transport
from tests.servers import ceph

_MEMORY = 12 << 30  # of the server: what is deleted there stays for hours


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.remote", description="Compare with rclone, aws and dvc."
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(WORKLOADS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="small data, one round: shows that it runs, not how fast")
    parser.add_argument("--json", metavar="FILE", default=Path(__file__).with_name("last.json"), type=Path)
    arguments = parser.parse_args()
    for name in arguments.workloads:
        if name not in WORKLOADS:
            parser.error(f"{name} is no workload: there are {', '.join(WORKLOADS)}")
    if lacking := ceph.missing():
        sys.exit(f"not installed: {', '.join(lacking)}; `make test-servers` installs them")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts = machine(Path(tempfile.gettempdir()))
    now = datetime.datetime.now(datetime.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC{', quick' if arguments.quick else ''}\n\n{machine_text(facts)}", flush=True)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": ceph.KEY,
        "AWS_SECRET_ACCESS_KEY": ceph.SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    results = []
    for name in arguments.workloads or WORKLOADS:
        with (
            tempfile.TemporaryDirectory(prefix="replicate-bench-") as folder,
            tempfile.TemporaryDirectory() as server,
            ceph.running(Path(server), _MEMORY) as gateway,
        ):
            endpoint, bucket = f"http://127.0.0.1:{gateway.port}", f"bench-{secrets.token_hex(4)}"
            remote_transport(f"s3://{bucket}", {"endpoint": endpoint, "region": "us-east-1"}).create()
            result = WORKLOADS[name](Path(folder), endpoint, bucket, quick=arguments.quick)
        print(f"\n{result_text(result)}\n\nload after: {os.getloadavg()[0]:.2f}", flush=True)
        results.append(result)
    report = {"time": now.isoformat(), "machine": facts, "workloads": {one.name: one.to_json() for one in results}}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    total = sum(len(result.targets) for result in results)
    print(f"\n{total - len(missed(results))} of {total} targets met; all samples are in {arguments.json.name}")


if __name__ == "__main__":
    main()
