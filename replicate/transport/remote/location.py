"""Where a store lies, said as a URL, and what it takes to get there. No credentials: those are found, never told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from replicate.errors import InvalidInputError

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "abfs",
    "abfss": "abfs",
    "sftp": "sftp",
    "ssh": "sftp",
    "file": "file",
    "local": "file",
}
OPTIONS = ("endpoint", "profile", "region", "anonymous")
_USED = {"s3": OPTIONS, "gs": ("endpoint", "anonymous"), "az": ("anonymous",), "abfs": ("anonymous",)}
_READ_ONLY = frozenset(
    {"http", "https", "github", "gist", "git", "zip", "tar", "libarchive", "reference", "data", "hf"}
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,220}[A-Za-z0-9]", re.ASCII)
_AZURE = re.compile(r"[A-Za-z0-9$][A-Za-z0-9\-]{2,62}(@[A-Za-z0-9.\-]+)?", re.ASCII)
_SERVER = re.compile(r"([^@:/\s]+@)?([A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*:[^/\s]*@")


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed URL.

    Attributes:
        scheme: `s3`, `gs`, `az`, `abfs`, `sftp`, `file`, or another name that fsspec knows.
        place: The bucket, container or server; "" where there is none.
        root: The path below it, without slashes around it.
    """

    scheme: str
    place: str
    root: str

    @property
    def url(self) -> str:
        """The URL, in one spelling; it holds no secret."""
        return f"{self.scheme}://{self.place}" + (f"/{self.root}" if self.root else "")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What else is told of a repository in `replicate.yaml`; "" leaves it to the usual environment variables."""

    endpoint: str = ""
    profile: str = ""
    region: str = ""
    anonymous: bool = False


def parse_location(text: str) -> Location:
    """Return what a URL says.

    Raises:
        InvalidInputError: Its scheme is unknown, its bucket or server is missing or misspelt, or it holds credentials
            or anything after `?` or `#`. The message does not repeat credentials.
    """
    shown = _USERINFO.sub("***@", text)
    match = _SCHEME.match(text)
    if match is None:
        raise InvalidInputError(f"not the URL of a repository: {shown!r}", hint="write it like s3://bucket/path")
    if _USERINFO.search(text):
        raise InvalidInputError(
            f"there are credentials in the URL {shown}",
            hint="remove them, as others read it, and give them by environment variables, a profile or a key file",
        )
    scheme = _scheme(match[1].lower(), shown)
    rest = text[match.end() :]
    if re.search(r"[?#\\\x00-\x1f\x7f]", rest):
        raise InvalidInputError(
            f"not the URL of a repository: {shown!r}", hint="`?`, `#` and backslashes have no meaning there"
        )
    place, slash, path = ("", "/", rest) if scheme in ("file", "memory") else rest.partition("/")
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise InvalidInputError(f"the path of {shown} may not have . or .. in it")
    _check_place(scheme, place, shown, bool(slash and parts))
    return Location(scheme, place, "/".join(parts))


def _scheme(name: str, shown: str) -> str:
    if name in SCHEMES:
        return SCHEMES[name]
    from fsspec.registry import known_implementations  # only for what we have no code of our own for: 50 ms

    if name in _READ_ONLY:
        raise InvalidInputError(f"cannot write to {shown}: {name} is for reading", hint="use s3, gs, az or sftp")
    if name not in known_implementations:
        near = difflib.get_close_matches(name, SCHEMES, 1)
        raise InvalidInputError(
            f"unknown scheme {name!r} in {shown}",
            hint=f"did you mean {near[0]}://?" if near else "use s3, gs, az, sftp, or the path of a folder",
        )
    return name


def _check_place(scheme: str, place: str, shown: str, has_path: bool) -> None:
    pattern = {"s3": _BUCKET, "gs": _BUCKET, "az": _AZURE, "abfs": _AZURE, "sftp": _SERVER}.get(scheme)
    if pattern is None:
        return
    word = "server" if scheme == "sftp" else "container" if pattern is _AZURE else "bucket"
    if not pattern.fullmatch(place):
        what = f"not a {word}'s name: {place!r}" if place else f"no {word}"
        example = "sftp://user@server/path" if scheme == "sftp" else f"{scheme}://{word}/path"
        raise InvalidInputError(f"{what} in the URL {shown}", hint=f"write it like {example}")
    if scheme == "sftp" and not has_path:
        raise InvalidInputError(f"no folder in the URL {shown}", hint="write it like sftp://user@server/path")


def parse_options(scheme: str, given: Mapping[str, str]) -> StorageOptions:
    """Return the options of a repository as types.

    Raises:
        InvalidInputError: An option is unknown, has no meaning for this scheme, or a wrong value.
    """
    for name in given:
        if name not in OPTIONS:
            raise InvalidInputError(
                f"unknown option {name!r} of a repository", hint=f"the options are {', '.join(OPTIONS)}"
            )
        if name not in _USED.get(scheme, ()):
            raise InvalidInputError(f"{name!r} has no meaning for {scheme}://", hint=f"remove `{name}:`")
    endpoint = given.get("endpoint", "")
    if endpoint and (not re.match(r"https?://[^/@\s]+", endpoint) or _USERINFO.search(endpoint) or "?" in endpoint):
        raise InvalidInputError(
            f"not an endpoint: {_USERINFO.sub('***@', endpoint).partition('?')[0]!r}",
            hint="write it like https://storage.example.com:9000, without credentials",
        )
    anonymous = given.get("anonymous", "false").lower()
    if anonymous not in ("true", "false", "yes", "no"):
        raise InvalidInputError(f"`anonymous` is true or false, not {anonymous!r}")
    return StorageOptions(
        endpoint.rstrip("/"), given.get("profile", ""), given.get("region", ""), anonymous in ("true", "yes")
    )
