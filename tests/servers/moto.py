"""S3 as moto plays it, in a process of its own. It keeps everything in memory and believes every signature."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import HOST, Server, answers, free_port

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testkey",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "NO_PROXY": HOST,
}


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """Give the port of a new server."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", HOST, "-p", str(port)]
    server = Server(command, folder / "moto.log")
    try:
        server.wait_until(lambda: answers(port))
        yield port
    finally:
        server.end()
