"""What one kind of storage has to offer to be a transport: single requests, no retries, one exception."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple, Protocol

Kind = Literal[
    "absent",  # no such key
    "exists",  # the key was to be new and is not
    "no place",  # no such bucket
    "denied",  # known, and not allowed
    "login",  # not known: no credentials, wrong ones, expired ones
    "settings",  # wrong region or endpoint
    "clock",  # this machine's clock is off
    "full",
    "unsupported",  # the storage has no such request
    "passing",  # the storage says: try again
    "unreachable",  # it says nothing, or not to the end
    "failed",
]
DELETE_BATCH = 1000
CONNECTIONS = 32
SINGLE_DELETES = 16  # at once, where there is no request for several
_PASSING = ("passing", "unreachable")
_SECRETS = re.compile(
    r"(?<=://)[^/@\s]*@|(?<=[?&;])[^\s\"'<>]*|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|(?i:bearer|signature|sig|token|key)=\S+"
)


class Trouble(Exception):
    """One request that failed.

    Attributes:
        kind: What the transport does about it.
        detail: What the storage said, made safe to show.
        hint: What the user can do, or "" for the usual of this kind.
        wait: Seconds that the storage asks to wait before the next try.
    """

    def __init__(self, kind: Kind, detail: object = "", *, hint: str = "", wait: float = 0.0) -> None:
        super().__init__(kind, detail)
        self.kind: Kind = kind
        self.detail = shown(str(detail))
        self.hint = hint
        self.wait = wait

    @property
    def is_passing(self) -> bool:
        """Tell whether trying again may help."""
        return self.kind in _PASSING


class Piece(NamedTuple):
    """A part of a key's bytes: where it begins, and how many bytes the key has in all."""

    data: bytes
    start: int
    total: int


class Entry(NamedTuple):
    """One key of a page of a listing, with its whole path."""

    path: str
    size: int | None
    time_ns: int | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long is tried.

    Attributes:
        attempts: How often a request is made before it counts as failed.
        first_wait: Seconds before the second attempt, at most; each later wait may be twice as long.
        longest_wait: Seconds that a wait never exceeds.
        timeout: Seconds for an answer; to this the time comes that the bytes take at the slowest rate.
        slowest_rate: Bytes per second.
        at_first: What holds instead until the storage has answered once: an address may be wrong, and a person waits.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 10.0
    timeout: float = 60.0
    slowest_rate: int = 128 << 10
    at_first: Patience | None = None

    def limit(self, size: int) -> float:
        """Return how many seconds one attempt to move `size` bytes may take."""
        return self.timeout + size / self.slowest_rate


class Driver(Protocol):
    """One kind of storage. Paths are below the bucket. Every method makes few requests, and raises `Trouble`."""

    async def put(self, path: str, data: bytes, *, only_new: bool) -> None:
        """Write a whole object at once; raise `exists` if it was to be new. Storage may ignore `only_new`."""

    async def get(self, path: str, start: int, end: int | None) -> Piece:
        """Read from `start` (from the end if negative) to `end` or a little more; check that it came whole."""

    async def page(self, prefix: str, token: str | None) -> tuple[Sequence[Entry], str | None]:
        """Return a page of what begins with `prefix`, and the token of the next one."""

    async def delete(self, paths: Sequence[str]) -> Sequence[str]:
        """Delete at most `DELETE_BATCH` objects, return those that could not be."""

    async def stamp(self, path: str) -> int:
        """Write an empty object and return the time that the storage gave it, in ns."""

    async def date(self) -> int:
        """Return the storage's time without writing, in ns."""

    async def create_place(self) -> None:
        """Create the bucket; one of ours that exists is fine."""

    async def close(self) -> None:
        """Close connections."""


def byte_range(start: int, end: int | None) -> str | None:
    """Return the value of an HTTP Range header, None for everything. What lies too far is cut off by the reader."""
    if start < 0:
        return f"bytes={start}"
    if end is not None and end > start:
        return f"bytes={start}-{end - 1}"
    return f"bytes={start}-" if start else None


def piece(data: bytes, content_range: str | None) -> Piece:
    """Return the bytes of an HTTP answer as a piece; raise `unreachable` if some are missing."""
    if content_range is None:
        return Piece(data, 0, len(data))
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
    if match is None:
        raise Trouble("failed", f"an answer with the range {content_range!r}")
    first, last, total = map(int, match.groups())
    if len(data) != last - first + 1:
        raise Trouble("unreachable", f"{len(data):,} of {last - first + 1:,} bytes came")
    return Piece(data, first, total)


def remaining(paths: Sequence[str], results: Sequence[BaseException | None]) -> Sequence[str]:
    """Return the paths whose single deletion failed, but those that are not there.

    Raises:
        Trouble: None was deleted, or trying again may delete what was not.
    """
    failed = {
        path: one
        for path, one in zip(paths, results, strict=True)
        if one is not None and not (isinstance(one, Trouble) and one.kind == "absent")
    }
    for one in failed.values():
        if len(failed) == len(paths) or not isinstance(one, Trouble) or one.is_passing:
            raise one
    return list(failed)


def nanoseconds(time: datetime) -> int:
    """Return a time as ns since 1970, exactly."""
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def http_date(value: str | None) -> int:
    """Return an HTTP date as ns since 1970."""
    try:
        return nanoseconds(parsedate_to_datetime(value or ""))
    except ValueError as exc:
        raise Trouble("failed", "an answer without a date") from exc


def retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header, at most a minute; a date counts as nothing."""
    return min(60.0, float(value)) if value and value.isdecimal() else 0.0


def shown(text: str) -> str:
    """Return what a foreign library said as one short printable line, without what may be a secret."""
    line = " ".join(text.split())
    clean = "".join(one if one.isprintable() else "?" for one in _SECRETS.sub("***", line))
    return clean if len(clean) <= 300 else clean[:297] + "..."
