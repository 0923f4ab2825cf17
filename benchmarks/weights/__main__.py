"""The command `python -m benchmarks.weights`."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.report import machine_text, result_text, target_text
from benchmarks.results import Target
from benchmarks.weights import comparison, encoding, speed
from benchmarks.weights.peers import PEERS, Command
from benchmarks.weights.series import FORMS, SERIES, generate

_PARTS = ("series", "encoding", "peers", "speed")
_LIBRARIES = ("torch", "zipnn", "hf_xet", "numpy")


def main() -> None:
    arguments = _arguments()
    # An exception, so that the temporary folders go away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts = measure.machine(Path(tempfile.gettempdir()))
    facts |= {name: metadata.version(name) for name in _LIBRARIES if importlib.util.find_spec(name)}
    facts |= {tool.program: tool.version() for tool in PEERS if issubclass(tool, Command) and not tool.missing()}
    now = datetime.datetime.now(datetime.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC\n\n{machine_text(facts)}\n", flush=True)
    parts: dict[str, Callable[[argparse.Namespace, dict[str, Any]], list[Target]]]
    parts = {"series": _series, "encoding": _encoding, "peers": _peers, "speed": _speed}
    report: dict[str, Any] = {"time": now.isoformat(), "machine": facts}
    targets = []
    for part in arguments.only or _PARTS:
        targets += parts[part](arguments, report)
        output: Path = arguments.json or arguments.series / "last.json"
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    met = sum(target.is_met for target in targets)
    print(f"\n{met} of {len(targets)} targets met; all samples are in {output}; load after: {os.getloadavg()[0]:.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weights", description="Save real training series with replicate and its peers."
    )
    parser.add_argument("--series", required=True, type=Path, metavar="DIR", help="where the series are, or will be")
    parser.add_argument("--only", nargs="+", choices=_PARTS, help="some parts; all without")
    parser.add_argument("--names", nargs="+", choices=SERIES, default=list(SERIES), help="some series")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="some forms of them")
    tools = [tool.name for tool in PEERS]
    parser.add_argument("--tools", nargs="+", choices=tools, default=tools, help="some tools")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="the size of the model in the speed part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for all samples; DIR/last.json without")
    found = parser.parse_args()
    found.series = found.series.absolute()
    found.series.mkdir(parents=True, exist_ok=True)
    return found


def _series(arguments: argparse.Namespace, report: dict[str, Any]) -> list[Target]:
    if any(not (arguments.series / name).is_dir() for name in arguments.names) and not importlib.util.find_spec(
        "torch"
    ):
        sys.exit("series are made with PyTorch: `make bench-weights` installs it")
    generate(arguments.series, arguments.names)
    return []


def _names(arguments: argparse.Namespace) -> list[str]:
    """Return the series that are asked for, which have to be there."""
    names: list[str] = arguments.names
    for name in names:
        if not (arguments.series / name).is_dir():
            sys.exit(f"no series {name} in {arguments.series}: --only series makes it")
    return names


def _encoding(arguments: argparse.Namespace, report: dict[str, Any]) -> list[Target]:
    lines, targets = [], []
    report["encoding"] = {}
    for name, form in itertools.product(_names(arguments), ("fp32", "bf16", "fp16")):
        line, found, judged = encoding.measure(arguments.series, name, form)
        report["encoding"][f"{name} {form}"] = {coder: one._asdict() for coder, one in found.items()}
        lines.append(line)
        targets += judged
    print("\n".join((encoding.table(lines), "", *(target_text(target, 3) for target in targets))), flush=True)
    return targets


def _peers(arguments: argparse.Namespace, report: dict[str, Any]) -> list[Target]:
    missing = {name: why for name, why in comparison.missing().items() if name in arguments.tools}
    for name, why in missing.items():
        print(f"not measured: {name}, {why}")
    tools = [tool for tool in PEERS if tool.name in arguments.tools and tool.name not in missing]
    report |= {"missing": missing, "series": (compared := [])}
    found: list[comparison.Compared] = []
    for name, form in itertools.product(_names(arguments), arguments.forms):
        found.append(comparison.compare(arguments.series, name, form, tools))
        compared.append(found[-1].to_json())
        print(f"\n{comparison.table(found[-1])}", flush=True)
    print(f"\n{comparison.summary(found)}\n")
    targets = [target for one in found for target in one.targets()]
    print("\n".join(target_text(target, 3) for target in targets), flush=True)
    return targets


def _speed(arguments: argparse.Namespace, report: dict[str, Any]) -> list[Target]:
    with tempfile.TemporaryDirectory(prefix="replicate-speed-") as folder:
        result = speed.measure(Path(folder), int(arguments.gigabytes * 1e9))
    print(f"\n{result_text(result)}", flush=True)
    report["speed"] = result.to_json()
    return result.targets


if __name__ == "__main__":
    main()
