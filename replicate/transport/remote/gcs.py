"""Google Cloud Storage. gcsfs finds credentials and makes the session; each verb is one request of its JSON interface.

What gcsfs itself does for a verb is not used: it frames uploads by a fixed line that they may hold, and waits up to a
minute for a server that is not Google's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from replicate.transport.remote.driver import (
    CONNECTIONS,
    SINGLE_DELETES,
    Entry,
    Kind,
    Patience,
    Piece,
    Trouble,
    byte_range,
    http_date,
    nanoseconds,
    piece,
    remaining,
    retry_after,
)
from replicate.transport.remote.location import Location, StorageOptions
from replicate.transport.remote.loop import in_thread

_KINDS: dict[int, Kind] = {401: "login", 403: "denied", 404: "absent", 408: "passing", 412: "exists", 429: "passing"}
_LOGIN_HINT = (
    "log in (`gcloud auth application-default login`), set GOOGLE_APPLICATION_CREDENTIALS, or set `anonymous: true`"
)


class GCSDriver:
    """Requests to one bucket."""

    def __init__(self, bucket: str, system: Any, session: Any) -> None:
        self._bucket = bucket
        self._system = system
        self._session = session
        self._objects = f"b/{quote(bucket, safe='')}/o"

    async def put(self, path: str, data: bytes, *, only_new: bool) -> None:
        """See `Driver.put`."""
        written = await self._put(path, data, only_new)
        if int(written.get("size", len(data))) != len(data):
            raise Trouble("passing", f"{written['size']} of {len(data):,} bytes were stored")

    async def _put(self, path: str, data: bytes, only_new: bool) -> Mapping[str, Any]:
        from aiohttp import MultipartWriter

        from replicate.transport.remote.body import Body

        condition = {"ifGenerationMatch": "0"} if only_new else {}
        with MultipartWriter("related", boundary=secrets.token_hex(32)) as body:
            body.append_json({"name": path})
            body.append(Body(data), {"Content-Type": "application/octet-stream"})
            _, _, written = await self._request(
                "POST", f"upload/storage/v1/{self._objects}", {"uploadType": "multipart"} | condition, body=body
            )
        described: Mapping[str, Any] = _parsed(written)
        return described

    async def get(self, path: str, start: int, end: int | None) -> Piece:
        """See `Driver.get`."""
        wanted = byte_range(start, end)
        status, headers, data = await self._request(
            "GET",
            f"download/storage/v1/{self._objects}/{quote(path, safe='')}",
            {"alt": "media"},
            {"Range": wanted} if wanted else {},
        )
        if status == 416:  # it begins behind the end, or nothing is there to end
            return Piece(b"", 0, 0)
        return piece(data, headers.get("Content-Range") if status == 206 else None)

    async def page(self, prefix: str, token: str | None) -> tuple[Sequence[Entry], str | None]:
        """See `Driver.page`."""
        asked = {"prefix": prefix, "maxResults": "1000", "fields": "items(name,size,timeCreated),nextPageToken"}
        _, _, text = await self._request(
            "GET", f"storage/v1/{self._objects}", asked | ({"pageToken": token} if token else {})
        )
        answer = _parsed(text)
        found = [Entry(one["name"], int(one.get("size", 0)), _time(one)) for one in answer.get("items", ())]
        following = answer.get("nextPageToken") or None
        if following is not None and following == token:
            raise Trouble("failed", "a listing that does not go on")
        return found, following

    async def delete(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Driver.delete`. Google has no request for several that its emulators know."""
        limit = asyncio.Semaphore(SINGLE_DELETES)

        async def delete(path: str) -> None:
            async with limit:
                await self._request("DELETE", f"storage/v1/{self._objects}/{quote(path, safe='')}", {})

        return remaining(paths, await asyncio.gather(*map(delete, paths), return_exceptions=True))

    async def stamp(self, path: str) -> int:
        """See `Driver.stamp`."""
        return _time(await self._put(path, b"", False))

    async def date(self) -> int:
        """See `Driver.date`."""
        _, headers, _ = await self._request("GET", f"storage/v1/{self._objects}", {"maxResults": "1"})
        return http_date(headers.get("Date"))

    async def create_place(self) -> None:
        """See `Driver.create_place`."""
        from aiohttp import JsonPayload

        asked = {"project": self._system.project} if self._system.project else {}
        try:
            await self._request("POST", "storage/v1/b", asked, body=JsonPayload({"name": self._bucket}))
        except Trouble as exc:
            if not exc.detail.startswith("409"):
                raise
            await self.page("", None)  # ours, or somebody else's?

    async def close(self) -> None:
        """See `Driver.close`."""
        await self._session.close()

    async def _request(
        self, method: str, target: str, asked: Mapping[str, str], headers: Mapping[str, str] = {}, *, body: Any = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        from aiohttp import ClientError
        from google.auth.exceptions import GoogleAuthError
        from yarl import URL

        try:
            sent = await self._signed(headers)
            url = URL(f"{self._system._location}/{target}", encoded=True).update_query(asked)
            async with self._session.request(
                method, url, headers=sent | {"Accept-Encoding": "identity"}, data=body
            ) as answer:
                data: bytes = await answer.read()
                status: int = answer.status
                told: Mapping[str, str] = answer.headers
        except GoogleAuthError as exc:
            raise Trouble("login", exc, hint=_LOGIN_HINT) from exc
        except (ClientError, OSError) as exc:
            raise Trouble("unreachable", f"{type(exc).__name__}: {exc}") from exc
        if status >= 400 and not (status == 416 and "Range" in headers):
            raise self._refusal(status, told, data, "/o/" in target)
        return status, told, data

    async def _signed(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return headers with those that say who asks."""
        if self._system.credentials.credentials is None:
            return dict(headers)
        signed: dict[str, str] = await in_thread(lambda: self._system._get_headers(dict(headers)))  # may fetch a token
        return signed

    def _refusal(self, status: int, headers: Mapping[str, str], data: bytes, names_an_object: bool) -> Trouble:
        said = data[:2_000].decode("utf-8", "replace")
        kind = _KINDS.get(status, "passing" if status >= 500 and status != 501 else "failed")
        if kind == "absent" and (not names_an_object or "bucket does not exist" in said):
            kind = "no place"
        if kind == "denied" and ("rateLimitExceeded" in said or "RateLimitExceeded" in said):
            kind = "passing"
        if kind == "denied" and self._system.credentials.credentials is None:
            kind = "login"
        with contextlib.suppress(Trouble, KeyError, TypeError):  # else it is not Google's; its text is told as it is
            said = _parsed(data)["error"]["message"]
        hint = _LOGIN_HINT if kind == "login" else ""
        return Trouble(kind, f"{status}: {said}", hint=hint, wait=retry_after(headers.get("Retry-After")))


async def connect(location: Location, options: StorageOptions, patience: Patience) -> GCSDriver:
    """Return a driver for a bucket. Asks nothing of the bucket; looks for credentials."""
    from aiohttp import ClientSession, ClientTimeout, TCPConnector
    from gcsfs.core import GCSFileSystem  # not gcsfs.GCSFileSystem: that one asks what kind of bucket it is

    system = await in_thread(
        lambda: GCSFileSystem(
            token="anon" if options.anonymous else None,
            endpoint_url=options.endpoint or None,
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
    )
    session = ClientSession(
        connector=TCPConnector(limit=CONNECTIONS),
        timeout=ClientTimeout(total=None, sock_connect=min(10.0, patience.timeout), sock_read=patience.timeout),
        trust_env=True,
    )
    return GCSDriver(location.place, system, session)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as exc:
        raise Trouble("settings", "the answer is not Google Cloud Storage's", hint="check `endpoint:`") from exc


def _time(described: Mapping[str, Any]) -> int:
    try:
        return nanoseconds(datetime.fromisoformat(described["timeCreated"]))
    except (KeyError, ValueError) as exc:
        raise Trouble("failed", "an answer without a time") from exc
