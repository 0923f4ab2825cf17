"""S3 and what speaks like it. s3fs finds credentials and settings and makes the client; each verb is one request of it.

What s3fs itself does for a verb is not used: it asks for the size before it reads, drops errors of a bulk delete, and
tries again on top of what botocore tries again.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from replicate.transport.remote.driver import (
    CONNECTIONS,
    SINGLE_DELETES,
    Entry,
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

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_KINDS = {
    "absent": "NoSuchKey NoSuchVersion",
    "exists": "PreconditionFailed 412",
    "no place": "NoSuchBucket",
    "denied": "AccessDenied AllAccessDisabled AccountProblem 403 Forbidden BucketAlreadyExists",
    "login": "ExpiredToken InvalidAccessKeyId SignatureDoesNotMatch InvalidToken TokenRefreshRequired 401 Unauthorized "
    "ExpiredTokenException InvalidClientTokenId InvalidSecurity NotSignedUp AuthFailure",
    "settings": "PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed 301 307 "
    "IllegalLocationConstraintException InvalidBucketName InvalidRegionName",
    "clock": "RequestTimeTooSkewed RequestExpired",
    "full": "QuotaExceeded XMinioStorageFull StorageFull 507",
    "unsupported": "NotImplemented MethodNotAllowed MissingContentMD5 501 405",
    "failed": "InvalidObjectState",
    "passing": "SlowDown ServiceUnavailable InternalError RequestTimeout ConditionalRequestConflict OperationAborted "
    "Throttling ThrottlingException TooManyRequests BadDigest XAmzContentSHA256Mismatch IncompleteBody 409 429 500 502 "
    "503 504",
}
_KIND_OF: dict[str, Any] = {code: kind for kind, codes in _KINDS.items() for code in codes.split()}
_LOGIN_HINT = "log in (`aws configure`, `aws sso login`), set AWS_PROFILE or `profile:`, or set `anonymous: true`"
_ENDPOINT_HINT = "check `endpoint:`"
_PART = 256 << 10
_LOGIN_ERRORS = re.compile(r"Credential|Token|SSO|Login|Profile")


class S3Driver:
    """Requests to one bucket."""

    def __init__(self, bucket: str, client: Any) -> None:
        self._bucket = bucket
        self._client = client
        self._deletes_in_bulk = True
        client.meta.events.register("before-send.s3.PutObject", _send_without_copy)

    async def put(self, path: str, data: bytes, *, only_new: bool) -> None:
        """See `Driver.put`."""
        condition = {"IfNoneMatch": "*"} if only_new else {}
        try:
            async with _translated():
                answer = await self._client.put_object(Bucket=self._bucket, Key=path, Body=data, **condition)
        except Trouble as exc:
            if exc.kind != "unsupported" or not only_new:
                raise
            await self.put(path, data, only_new=False)
        else:
            if not answer.get("ETag"):  # something between us and the storage says that all is well
                raise Trouble("passing", "the answer is not S3's", hint=_ENDPOINT_HINT)

    async def get(self, path: str, start: int, end: int | None) -> Piece:
        """See `Driver.get`."""
        wanted = byte_range(start, end)
        part = {"Range": wanted} if wanted else {}
        try:
            async with _translated():
                answer = await self._client.get_object(Bucket=self._bucket, Key=path, **part)
                kept = io.BytesIO()  # read whole, all its parts are in memory beside it
                async with answer["Body"] as body:
                    while part := await body.read(_PART):
                        kept.write(part)
                data = kept.getvalue()
        except Trouble as exc:
            if exc.detail.startswith("InvalidRange"):  # it begins behind the end, or nothing is there to end
                return Piece(b"", 0, 0)
            raise
        if not answer.get("ETag"):  # as in `put`: no bytes of another page may pass for a key's
            raise Trouble("passing", "the answer is not S3's", hint=_ENDPOINT_HINT)
        if len(data) != answer.get("ContentLength", len(data)):
            raise Trouble("unreachable", f"{len(data):,} of {answer['ContentLength']:,} bytes came")
        return piece(data, answer.get("ContentRange"))

    async def page(self, prefix: str, token: str | None) -> tuple[Sequence[Entry], str | None]:
        """See `Driver.page`."""
        more = {"ContinuationToken": token} if token else {}
        async with _translated():
            answer = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
        if "IsTruncated" not in answer and "Name" not in answer:  # any other XML, a web page's, would be an empty list
            raise Trouble("passing", "the answer is not S3's", hint=_ENDPOINT_HINT)
        found = [Entry(one["Key"], one["Size"], nanoseconds(one["LastModified"])) for one in answer.get("Contents", ())]
        following = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        if answer.get("IsTruncated") and (not following or following == token):
            raise Trouble("failed", "a listing that says it goes on, and not where")
        return found, following

    async def delete(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Driver.delete`."""
        if not self._deletes_in_bulk:
            return await self._delete_singly(paths)
        named = {"Objects": [{"Key": path} for path in paths], "Quiet": True}
        try:
            async with _translated():
                answer = await self._client.delete_objects(Bucket=self._bucket, Delete=named)
        except Trouble as exc:
            if exc.kind != "unsupported" and not exc.detail.startswith(("InvalidRequest", "InvalidArgument")):
                raise
            self._deletes_in_bulk = False
            return await self._delete_singly(paths)
        errors = {one["Key"]: _trouble(one) for one in answer.get("Errors", ())}
        return remaining(paths, [errors.get(path) for path in paths])

    async def _delete_singly(self, paths: Sequence[str]) -> Sequence[str]:
        limit = asyncio.Semaphore(SINGLE_DELETES)

        async def delete(path: str) -> None:
            async with limit, _translated():
                await self._client.delete_object(Bucket=self._bucket, Key=path)

        results = await asyncio.gather(*map(delete, paths), return_exceptions=True)
        return remaining(paths, results)

    async def stamp(self, path: str) -> int:
        """See `Driver.stamp`."""
        await self.put(path, b"", only_new=False)
        found, _ = await self.page(path, None)  # not a HEAD: that tells whole seconds, a listing may tell more
        if not found or found[0].path != path or found[0].time_ns is None:
            raise Trouble("passing", "what was just written is not listed")
        return found[0].time_ns

    async def date(self) -> int:
        """See `Driver.date`."""
        async with _translated():
            answer = await self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        return http_date(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))

    async def create_place(self) -> None:
        """See `Driver.create_place`."""
        region = self._client.meta.region_name
        elsewhere = region not in (None, "", "us-east-1", "aws-global")
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
        try:
            async with _translated():
                await self._client.create_bucket(Bucket=self._bucket, **where)
        except Trouble as exc:
            if not exc.detail.startswith("BucketAlreadyOwnedByYou"):
                raise

    async def close(self) -> None:
        """See `Driver.close`."""
        await self._client.close()


async def connect(location: Location, options: StorageOptions, patience: Patience) -> S3Driver:
    """Return a driver for a bucket. Asks nothing of the bucket; may ask for credentials."""
    import s3fs  # 0.2 s, and only whoever uses S3 has it

    settings: dict[str, Any] = {
        "connect_timeout": min(10.0, patience.timeout),
        "read_timeout": patience.timeout,
        "max_pool_connections": CONNECTIONS,
        "retries": {"mode": "standard", "total_max_attempts": 1},  # we try again ourselves
        "request_checksum_calculation": "when_required",  # not every clone knows them; the signature covers the body
        "response_checksum_validation": "when_required",
    }
    named = {"profile": options.profile} if options.profile else {}
    async with _translated():
        system = await in_thread(
            lambda: s3fs.S3FileSystem(
                anon=options.anonymous,
                endpoint_url=options.endpoint or None,
                client_kwargs={"region_name": options.region} if options.region else {},
                config_kwargs=settings,
                asynchronous=True,
                skip_instance_cache=True,
                use_listings_cache=False,
                **named,
            )
        )
        return S3Driver(location.place, await system.set_session())


def _send_without_copy(request: Any, **_: Any) -> None:
    from replicate.transport.remote.body import Body

    if isinstance(request.body, io.BytesIO):  # which botocore makes of bytes
        request.body = Body(request.body.getvalue())  # those bytes themselves


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn what the client raises into `Trouble`."""
    from aiohttp import ClientError as HTTPError
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as exc:
        raise _refusal(exc) from exc
    except BotoCoreError as exc:
        raise _failure(exc) from exc
    except ResponseParserError as exc:
        raise Trouble("passing", "the answer is not S3's", hint=_ENDPOINT_HINT) from exc
    except (HTTPError, OSError) as exc:
        raise Trouble("unreachable", f"{type(exc).__name__}: {exc}") from exc


def _refusal(exc: ClientError) -> Trouble:
    error: dict[str, Any] = dict(exc.response.get("Error", {}))
    answer: dict[str, Any] = dict(exc.response.get("ResponseMetadata", {}))
    return _trouble(error, str(answer.get("HTTPStatusCode", "")), answer.get("HTTPHeaders", {}))


def _trouble(error: Mapping[str, Any], status: str = "", headers: Mapping[str, str] = {}) -> Trouble:
    code = str(error.get("Code") or status)
    kind = _KIND_OF.get(code) or _KIND_OF.get(status, "failed")
    if code == "404":  # a HEAD has no body that says what is missing
        kind = "absent"
    hint = ""
    if kind == "settings":
        region = error.get("Region") or headers.get("x-amz-bucket-region", "")
        hint = f"set `region: {region}` in replicate.yaml" if region else "check `region:` and `endpoint:`"
    if kind == "login":
        hint = _LOGIN_HINT
    if code == "InvalidObjectState":
        hint = "it was moved to an archive: restore it, and keep expiry and archive rules off this bucket"
    return Trouble(
        kind, f"{code}: {error.get('Message') or status}", hint=hint, wait=retry_after(headers.get("retry-after"))
    )


def _failure(exc: BotoCoreError) -> Trouble:
    name = type(exc).__name__
    if _LOGIN_ERRORS.search(name):
        return Trouble("login", exc, hint=_LOGIN_HINT)
    if "parse response" in str(exc):
        return Trouble("passing", "the answer is not S3's", hint=_ENDPOINT_HINT)
    if "Param" in name or "Invalid" in name or "Region" in name or name == "SSLError":
        return Trouble("settings", exc)
    return Trouble("unreachable", exc)
