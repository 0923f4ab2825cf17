"""How each tool copies a folder into a bucket and back. Preparing, such as `dvc add`, is not part of what is timed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Sample, run


class Tool:
    """Copies `folder` to a place of its own in a bucket.

    Args:
        work: A folder for what the tool keeps on this machine.
        folder: What is copied.
        endpoint: Of the S3 server; credentials are in the environment.
        bucket: Its name.
    """

    name: str
    program: str

    def __init__(self, work: Path, folder: Path, endpoint: str, bucket: str) -> None:
        self.work = work
        self.folder = folder
        self.endpoint = endpoint
        self.place = f"{bucket}/{work.name}"
        work.mkdir(parents=True)

    @classmethod
    def missing(cls) -> bool:
        return shutil.which(cls.program) is None

    def prepare(self) -> None:
        """Do what has to be done before copying."""

    def push(self) -> Sample:
        """Copy the folder there."""
        raise NotImplementedError

    def fetch(self, target: Path) -> Sample:
        """Copy it back into a folder that is not there yet, on a machine that has seen nothing of it."""
        raise NotImplementedError

    def _time(self, command: Sequence[str], cwd: Path | None = None, more: Mapping[str, str] | None = None) -> Sample:
        return run(command, cwd or self.work, more)


class Replicate(Tool):
    """`replicate push` of an experiment that is saved already, and `replicate checkout` without a project."""

    name = "replicate"
    program = sys.executable

    def prepare(self) -> None:
        project = self.work / "project"
        shutil.copytree(self.folder, project)
        (project / "replicate.yaml").write_text(
            f"repository: s3://{self.place}\nendpoint: {self.endpoint}\nregion: us-east-1\n"
        )
        self.saved = run(
            [sys.executable, "-m", "replicate", "checkpoint", "--quiet"], project, {"REPLICATE_MODE": "offline"}
        )

    def push(self) -> Sample:
        command = [sys.executable, "-m", "replicate", "push", "--create", "--quiet"]
        return self._time(command, self.work / "project")

    def fetch(self, target: Path) -> Sample:
        command = [
            sys.executable,
            "-m",
            "replicate",
            "checkout",
            "-R",
            f"s3://{self.place}",
            "latest",
            "-o",
            str(target),
        ]
        caches = self.work / f"caches-{target.name}"
        more = {"XDG_CACHE_HOME": str(caches), "AWS_ENDPOINT_URL": self.endpoint}
        return self._time(command, self.work, more)


class Rclone(Tool):
    """`rclone copy`, four transfers at a time, as it does by default."""

    name = program = "rclone"
    _COPY = ("env", "-u", "AWS_CA_BUNDLE", "rclone", "--config", "/dev/null", "copy")  # 1.60 fails where that is set

    def _remote(self) -> str:
        return f":s3,provider=Ceph,env_auth=true,endpoint='{self.endpoint}':{self.place}"

    def push(self) -> Sample:
        return self._time([*self._COPY, str(self.folder), self._remote()])

    def fetch(self, target: Path) -> Sample:
        return self._time([*self._COPY, self._remote(), str(target)])


class Aws(Tool):
    """`aws s3 cp --recursive`."""

    name = "aws s3 cp"
    program = "aws"

    def _command(self, *paths: str) -> list[str]:
        return ["aws", "--endpoint-url", self.endpoint, "s3", "cp", "--recursive", "--only-show-errors", *paths]

    def push(self) -> Sample:
        return self._time(self._command(str(self.folder), f"s3://{self.place}"))

    def fetch(self, target: Path) -> Sample:
        return self._time(self._command(f"s3://{self.place}", str(target)))


class Dvc(Tool):
    """`dvc push` of what `dvc add` has hashed and linked already."""

    name = program = "dvc"

    def prepare(self) -> None:
        self.project = self.work / "project"
        self.project.mkdir()
        shutil.copytree(self.folder, self.project / "data")
        for command in (
            ["dvc", "init", "--no-scm", "--quiet"],
            ["dvc", "config", "core.analytics", "false"],
            ["dvc", "remote", "add", "-d", "team", f"s3://{self.place}"],
            ["dvc", "remote", "modify", "team", "endpointurl", self.endpoint],
            ["dvc", "add", "--quiet", "data"],
        ):
            subprocess.run(command, cwd=self.project, check=True, capture_output=True, env=os.environ)

    def push(self) -> Sample:
        return self._time(["dvc", "push", "--quiet"], self.project)

    def fetch(self, target: Path) -> Sample:
        shutil.copytree(self.project, target, ignore=shutil.ignore_patterns("cache", "data", "tmp"))
        return self._time(["dvc", "pull", "--quiet"], target)
