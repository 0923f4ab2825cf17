"""Write the golden store of the current format: `python -m tests.stores.make_stores`.

A store that a released version wrote is never written again: old stores have to stay readable for ever. Run this for a
new format only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from tests.projects import Content, SampleProject, read_folder

HERE = Path(__file__).parent
FORMAT = "v1"


def describe(files: dict[bytes, Content]) -> dict[str, list[str]]:
    """Return a folder's content as JSON holds it: hex path → kind and hex content; zeros as their count."""
    return {
        path.hex(): [kind, f"zeros {len(content)}" if len(content) > 9_999 else content.hex()]
        for path, (kind, content) in sorted(files.items())
    }


def main() -> None:
    """Save a small project that has one of everything, twice, in two experiments."""
    target = HERE / FORMAT
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        project = SampleProject(Path(folder) / "project")
        project.write("train.py", "print('hello')\n" * 20)
        project.write("run.sh", "#!/bin/sh\n", executable=True)
        project.write("empty")
        project.write(b"caf\xe9", b"a name that is not UTF-8")
        project.write("big.bin", bytes(5 << 20))
        project.write("random.bin", bytes(i * 7919 % 251 for i in range(3000)))
        for number in range(150):
            project.write(f"data/{number:03}.txt", f"{number}\n")
        (project.root / "nothing").mkdir()
        (project.root / "latest").symlink_to("train.py")
        commits = {}
        session = project.begin({"lr": 0.01, "layers": [64, 10]}, name="golden", primary_metric=("loss", "minimize"))
        commits[session.head.commit_id.hex()] = describe(read_folder(project.root))
        for step in range(3):
            project.write("data/007.txt", f"changed {step}\n")
            saved = project.save(session, metrics={"loss": 1 / (step + 1), "nan": float("nan")})
            commits[saved.base.record.commit_id.hex()] = describe(read_folder(project.root))
        session.end("finished")
        other = project.begin({"lr": 0.1})
        commits[other.head.commit_id.hex()] = describe(read_folder(project.root))
        saved = project.save(other, ())
        commits[saved.base.record.commit_id.hex()] = describe(read_folder(project.root))
        other.end("failed", ValueError("no convergence"))
        for top in ("ctl", "packs", "refs"):
            shutil.copytree(project.store / top, target / top)
        for path in target.rglob("*"):
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
    (HERE / f"{FORMAT}.json").write_text(json.dumps(commits, indent=1) + "\n")


if __name__ == "__main__":
    main()
