"""SFTP through fsspec's paramiko: several connections, requests that do not wait for each other, fsync.

A server's key has to be known; a password is never asked for, and an agent or a key file is used as `ssh` would.
"""

from __future__ import annotations

import logging
import os
import queue
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from replicate.transport.remote.driver import Patience, Trouble
from replicate.transport.remote.files import FileDriver, translated
from replicate.transport.remote.location import Location, StorageOptions
from replicate.transport.remote.loop import in_thread

T = TypeVar("T")
CONNECTIONS = 4
_REQUESTS_AT_ONCE = 64
_LOGIN_HINT = "add a key to the agent (`ssh-add`) that the server knows"


class SFTPDriver(FileDriver):
    """A few connections to one server; one that had trouble is not used again."""

    def __init__(self, make: Callable[[], Any], store: str) -> None:
        super().__init__(None, "/", store, puts_whole=False)
        self._make = make
        self._slots = queue.Queue[Any]()
        for _ in range(CONNECTIONS):
            self._slots.put(None)

    async def close(self) -> None:
        """See `Driver.close`."""
        while not self._slots.empty():
            _close(self._slots.get())

    async def _call(self, call: Callable[[Any], T]) -> T:
        return await in_thread(lambda: translated(lambda: self._connected(call)))

    def _connected(self, call: Callable[[Any], T]) -> T:
        system = self._slots.get()
        kept = None
        try:
            if system is None:
                system = self._make()
            result = call(system)
            kept = system
            return result
        except (FileNotFoundError, NotADirectoryError, PermissionError, FileExistsError, Trouble):
            kept = system
            raise
        finally:
            if kept is None:
                _close(system)
            self._slots.put(kept)

    def _write(self, system: Any, path: str, data: bytes) -> None:
        with system.ftp.open(path, "wx") as file:
            file.set_pipelined(True)
            file.write(data)
            _sync(system.ftp, file)
        if system.ftp.stat(path).st_size != len(data):
            raise Trouble("passing", "the file that was written is too short")

    def _read(self, system: Any, path: str, start: int, end: int) -> bytes:
        with system.ftp.open(path, "rb") as file:
            return b"".join(file.readv([(start, end - start)], _REQUESTS_AT_ONCE))


def _sync(client: Any, file: Any) -> None:
    """Make a file durable where the server can: OpenSSH's extension; others answer that they cannot."""
    from paramiko.sftp import CMD_EXTENDED

    file.flush()
    try:
        client._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)
    except OSError as exc:
        if "nsupported" not in str(exc):
            raise


def _close(system: Any) -> None:
    if system is not None:
        system.client.close()


async def connect(location: Location, options: StorageOptions, patience: Patience) -> SFTPDriver:
    """Return a driver for a server. Connects with the first request."""
    return SFTPDriver(lambda: _connect(location.place, patience), "/" + location.root)


def _connect(place: str, patience: Patience) -> Any:
    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    class System(SFTPFileSystem):  # type: ignore[misc]
        """fsspec's own connects without loading what is known of servers, and trusts whoever answers."""

        def _connect(self) -> None:
            self.client = paramiko.SSHClient()  # refuses a server whose key is not known
            for path in ("/etc/ssh/ssh_known_hosts", os.path.expanduser("~/.ssh/known_hosts")):
                if os.path.isfile(path):
                    self.client.load_system_host_keys(path)
            try:
                self.client.connect(self.host, **self.ssh_kwargs)
                self.ftp = self.client.open_sftp()
            except BaseException:
                self.client.close()
                raise

    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # the library is silent
    user, _, server = place.rpartition("@")
    times = {f"{one}timeout": patience.timeout for one in ("", "banner_", "auth_", "channel_")}
    try:
        system = System(**_settings(paramiko, server, user), **times, skip_instance_cache=True)
    except paramiko.BadHostKeyException as exc:
        raise Trouble("login", exc, hint="somebody may be listening; compare the key in ~/.ssh/known_hosts") from exc
    except paramiko.AuthenticationException as exc:
        raise Trouble("login", exc, hint=_LOGIN_HINT) from exc
    except paramiko.SSHException as exc:
        if "known_hosts" in str(exc):
            raise Trouble("login", exc, hint=f"connect once with `sftp {place}` and look at its key") from exc
        if "authentication" in str(exc):
            raise Trouble("login", exc, hint=_LOGIN_HINT) from exc
        raise Trouble("unreachable", exc) from exc
    except OSError as exc:  # no such server, nobody listens
        raise Trouble("unreachable", exc) from exc
    channel: Any = system.ftp.get_channel()
    channel.settimeout(patience.timeout)
    return system


def _settings(paramiko: Any, server: str, user: str) -> dict[str, Any]:
    """Return what paramiko is told: of the URL, else of ~/.ssh/config."""
    match = re.fullmatch(r"(.+?)(?::([0-9]+))?", server) if not server.endswith("]") else None
    name, port = (match[1], match[2]) if match else (server, None)
    path = os.path.expanduser("~/.ssh/config")
    told: Mapping[str, Any] = {}
    if os.path.isfile(path):
        told = paramiko.SSHConfig.from_path(path).lookup(name.strip("[]"))
    settings: dict[str, Any] = {
        "host": told.get("hostname", name.strip("[]")),
        "port": int(port or told.get("port", 22)),
    }
    if user or told.get("user"):
        settings["username"] = user or told["user"]
    if told.get("identityfile"):
        settings["key_filename"] = [one for one in told["identityfile"] if os.path.isfile(one)]
    return settings
