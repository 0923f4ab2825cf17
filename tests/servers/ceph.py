"""A real S3 server: Ceph's gateway over one monitor and one daemon that keeps its objects in memory."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers.process import HOST, Server, free_port

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph-authtool", "ceph")
KEY, SECRET = "testkey", "testsecret"
_CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw.gate": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _configuration(folder: Path, cluster: str, monitor: int, gateway: int, memory: int) -> str:
    everywhere = {
        "fsid": cluster,
        "mon initial members": "one",
        "mon host": f"v2:{HOST}:{monitor}/0",
        "public addr": HOST,
        "cluster addr": HOST,
        "ms bind msgr1": "false",
        "auth allow insecure global id reclaim": "false",
        "keyring": f"{folder}/keyring",
        "run dir": f"{folder}/run",
        "admin socket": f"{folder}/run/$name.asok",
        "pid file": "",
        "log file": f"{folder}/$name.log",
        "paxos propose interval": "0.05",
        "mon allow pool size one": "true",
        "mon max pg per osd": "2000",
        "mon data avail crit": "1",
        "osd pool default size": "1",
        "osd pool default min size": "1",
        "osd pool default pg num": "8",
        "osd pool default pgp num": "8",
        "osd pool default pg autoscale mode": "off",
        "osd crush chooseleaf type": "0",
    }
    storing = {
        "osd data": f"{folder}/osd",
        "osd objectstore": "memstore",
        "memstore device bytes": str(memory),
        "osd memory target": str(1 << 30),
        "osd client watch timeout": "3",
        "osd default notify timeout": "3",
        "osd class load list": "*",
        "osd class default list": "*",
    }
    serving = {
        "rgw data": f"{folder}/gateway",
        "rgw frontends": f"beast tcp_nodelay=1 endpoint={HOST}:{gateway}",
        "rgw dynamic resharding": "false",
    }
    sections = {"global": everywhere, "mon": {"mon data": f"{folder}/mon"}, "osd": storing, "client.rgw.gate": serving}
    return "\n".join(
        line
        for name, values in sections.items()
        for line in (f"[{name}]", *(f"{key} = {value}" for key, value in values.items()), "")
    )


class Gateway:
    """What speaks S3. What it was given lies in the daemon behind it, and stays when it is killed."""

    def __init__(self, port: int, start: Callable[[], Server]) -> None:
        self.port = port
        self._start = start
        self._server = self._begin()

    def _begin(self) -> Server:
        server = self._start()
        server.wait_until(lambda: _is_ready(self.port), 120)
        return server

    def restart(self) -> None:
        """Kill it as a crash does, and start it again."""
        self._server.end(signal.SIGKILL)
        self._server = self._begin()


@contextmanager
def running(folder: Path, memory: int = 4 << 30) -> Iterator[Gateway]:
    """Give a new gateway that holds so many bytes; its one user has the key and the secret above."""
    monitor, gateway, cluster = free_port(), free_port(), str(uuid.uuid4())
    for name in ("mon", "osd", "run", "gateway"):
        (folder / name).mkdir()
    configuration = folder / "ceph.conf"
    configuration.write_text(_configuration(folder, cluster, monitor, gateway, memory))
    environment = {"CEPH_CONF": str(configuration), "CEPH_ARGS": "--no-mon-config"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
        return done.stdout

    with ExitStack() as stack:

        def serve(*command: str) -> Server:
            server = Server([*command, "-f", "-c", str(configuration)], folder / f"{command[0]}.out", environment)
            stack.callback(server.end)
            return server

        run("monmaptool", "--create", "--addv", "one", f"v2:{HOST}:{monitor}", "--fsid", cluster, f"{folder}/monmap")
        keyring = f"{folder}/keyring"
        for number, (name, allowed) in enumerate(_CAPABILITIES.items()):
            capabilities = [word for key, value in allowed.items() for word in ("--cap", key, value)]
            create = [] if number else ["-C"]
            run("ceph-authtool", *create, keyring, "-n", name, "--gen-key", *capabilities)
        run("ceph-mon", "--mkfs", "-i", "one", "--monmap", f"{folder}/monmap", "--keyring", keyring)
        serve("ceph-mon", "-i", "one")
        identity = str(uuid.uuid4())
        run("ceph", "osd", "new", identity, "0")
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity, "-c", str(configuration))
        run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
        storage = serve("ceph-osd", "-i", "0")
        storage.wait_until(lambda: " 1 up" in run("ceph", "osd", "stat"))
        run("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", f"--access-key={KEY}",
            f"--secret-key={SECRET}")  # fmt: skip
        yield Gateway(gateway, lambda: serve("radosgw", "-n", "client.rgw.gate"))


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
