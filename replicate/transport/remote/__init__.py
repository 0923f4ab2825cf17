"""Stores elsewhere, over fsspec. Nothing here is imported until a URL is opened. SPEC §12."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from replicate.errors import MissingPackageError
from replicate.host import Host
from replicate.transport.local import Durability, LocalTransport
from replicate.transport.protocol import Transport, is_url
from replicate.transport.remote import files, gcs, s3, sftp
from replicate.transport.remote.driver import Driver, Patience
from replicate.transport.remote.location import parse_location, parse_options
from replicate.transport.remote.transport import RemoteTransport

__all__ = ["Patience", "RemoteTransport", "brief_at_first", "open_transport", "remote_transport"]

_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "az": ("adlfs", "azure"), "abfs": ("adlfs", "azure")}
_EXTRAS["sftp"] = ("paramiko", "sftp")
_CONNECT: Mapping[str, Callable[..., Awaitable[Driver]]] = {"s3": s3.connect, "gs": gcs.connect, "sftp": sftp.connect}


def open_transport(
    place: str,
    options: Mapping[str, str] | None = None,
    *,
    durability: Durability = "safe",
    patience: Patience | None = None,
    host: Host | None = None,
) -> Transport:
    """Return the transport of a store. Makes no request: whether it is there shows with the first verb.

    Args:
        place: A URL (`s3://bucket/path`, `gs://`, `az://`, `sftp://user@server/path`, any that fsspec knows), or the
            path of a folder; `file://` means a folder too.
        options: `endpoint`, `profile`, `region`, `anonymous`, as in `replicate.yaml`; what is not there is found in
            the usual environment variables and files, as credentials are.
        durability: For a folder; storage elsewhere is always durable.
        patience: For storage elsewhere: how long to go on trying.
        host: Randomness.

    Raises:
        InvalidInputError: The URL or an option is wrong.
        MissingPackageError: The extra for this scheme is not installed.
    """
    if not is_url(place):
        return LocalTransport(os.path.expanduser(place), durability=durability)
    if parse_location(place).scheme == "file":
        return LocalTransport("/" + parse_location(place).root, durability=durability)
    return remote_transport(place, options, patience=patience, host=host)


def brief_at_first() -> Patience:
    """Return the patience of a person, who waits: storage that has not answered yet is given up after seconds."""
    return Patience(at_first=Patience(attempts=2, timeout=10.0))


def remote_transport(
    url: str,
    options: Mapping[str, str] | None = None,
    *,
    patience: Patience | None = None,
    host: Host | None = None,
) -> RemoteTransport:
    """Return the transport of a store over fsspec, whatever the scheme; see `open_transport`."""
    location = parse_location(url)
    parsed = parse_options(location.scheme, options or {})
    package, extra = _EXTRAS.get(location.scheme, ("fsspec", ""))
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"{location.scheme}:// needs the package {package}, which is not installed",
            hint=f"run: pip install 'replicate-vc[{extra}]'",
        )
    connect: Callable[..., Any] = _CONNECT.get(location.scheme, files.connect)
    patience = patience or Patience()
    return RemoteTransport(
        location, functools.partial(connect, location, parsed, patience), patience=patience, host=host
    )
