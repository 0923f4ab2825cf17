"""A real SFTP server: OpenSSH, on a port of its own, for one key."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import HOST, Server, answers, free_port

SSHD = "/usr/sbin/sshd"


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in (SSHD, "ssh-keygen") if shutil.which(name) is None]


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """Give the port of a new server. `folder/home/.ssh` holds what a client needs: a key, and the server's."""
    port = free_port()
    home = folder / "home" / ".ssh"
    home.mkdir(parents=True, mode=0o700)
    for key in (folder / "host", home / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (folder / "authorized").write_bytes((home / "id_ed25519.pub").read_bytes())
    (home / "known_hosts").write_text(f"[{HOST}]:{port} {(folder / 'host.pub').read_text()}")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd wants it when root starts it
    settings = {
        "ListenAddress": HOST,
        "Port": port,
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "Subsystem": "sftp internal-sftp",
        "ForceCommand": "internal-sftp",
        "MaxStartups": 100,
    }
    configuration = folder / "sshd_config"
    configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    server = Server([SSHD, "-D", "-e", "-f", str(configuration)], folder / "sshd.log")
    try:
        server.wait_until(lambda: answers(port))
        yield port
    finally:
        server.end()
