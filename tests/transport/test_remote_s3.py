"""S3: how many requests a verb makes, and what is said of what is wrong."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator

import pytest

from replicate.errors import (
    KeyNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageMissingError,
    StorageUnreachableError,
)
from replicate.transport.remote import Patience, RemoteTransport, remote_transport
from tests.servers.process import wait_for
from tests.servers.proxy import Fault, FaultProxy

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DATA = bytes(range(100))
AT_ONCE = Patience(attempts=3, first_wait=0.0, longest_wait=0.0)


@pytest.fixture
def proxy(moto_port: int) -> Iterator[FaultProxy]:
    with FaultProxy(moto_port) as proxy:
        yield proxy


@pytest.fixture
def transport(proxy: FaultProxy) -> RemoteTransport:
    transport = opened(proxy)
    transport.create()
    proxy.requests.clear()
    return transport


def opened(proxy: FaultProxy, *, bucket: str = "requests", **options: str) -> RemoteTransport:
    endpoint = {"endpoint": f"http://127.0.0.1:{proxy.port}"}
    return remote_transport(f"s3://{bucket}/{secrets.token_hex(8)}", endpoint | options, patience=AT_ONCE)


def answer(code: str, extra: str = "") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>So it is.</Message>{extra}</Error>".encode()


# -- requests


def test_a_put_is_one_request(transport: RemoteTransport, proxy: FaultProxy) -> None:
    transport.put("packs/aa/one", DATA)
    transport.put("packs/aa/two", bytes(9 << 20))
    transport.put("beats/a", b"1", replace=True)
    transport.put("beats/a", b"2", replace=True)
    assert proxy.methods == ["PUT"] * 4


def test_a_put_of_what_is_there_is_a_refusal_and_a_look(transport: RemoteTransport, proxy: FaultProxy) -> None:
    for size in (0, 100, 1 << 20, (1 << 20) + 1):
        transport.put(f"packs/aa/{size}", bytes(size))
        proxy.requests.clear()
        transport.put(f"packs/aa/{size}", bytes(size))
        assert proxy.methods == ["PUT", "GET"]


def test_a_torn_object_is_put_again(transport: RemoteTransport, proxy: FaultProxy) -> None:
    transport.put("packs/aa/one", DATA[:-1])
    proxy.requests.clear()
    transport.put("packs/aa/one", DATA)
    assert proxy.methods == ["PUT", "GET", "PUT"]


@pytest.mark.parametrize(
    "asked", [(0, None), (10, 20), (10, None), (-10, None), (-10, 95), (0, 0), (500, 600), (5, -5)]
)
def test_a_get_is_one_request(transport: RemoteTransport, proxy: FaultProxy, asked: tuple[int, int | None]) -> None:
    transport.put("packs/aa/one", DATA)
    proxy.requests.clear()
    assert transport.get("packs/aa/one", *asked) == DATA[slice(*asked)]
    with pytest.raises(KeyNotFoundError):
        transport.get("packs/aa/none", *asked)
    assert proxy.methods == ["GET", "GET"]


def test_a_listing_is_one_request_for_each_page(transport: RemoteTransport, proxy: FaultProxy) -> None:
    assert list(transport.list("refs/")) == []
    assert proxy.methods == ["GET"]
    proxy.requests.clear()
    page = listing(f"{transport.location.root}/refs/aa/{number:04}" for number in range(1_000))
    proxy.faults = [
        Fault(200, body=page),
        Fault(200, body=listing([f"{transport.location.root}/refs/ab/1"], more=False)),
    ]
    assert [info.key for info in transport.list("refs/")] == [
        *(f"refs/aa/{number:04}" for number in range(1_000)),
        "refs/ab/1",
    ]
    assert proxy.methods == ["GET", "GET"]


def test_a_deletion_is_one_request_for_a_thousand_keys(transport: RemoteTransport, proxy: FaultProxy) -> None:
    for name in ("0000", "1000"):
        transport.put(f"refs/aa/{name}", b"")
    proxy.requests.clear()
    assert transport.delete([]) == []
    assert proxy.methods == []
    assert transport.delete(f"refs/aa/{number:04}" for number in range(1_001)) == []
    assert proxy.methods == ["POST", "POST"]
    assert list(transport.list("")) == []


def test_listings_are_asked_for_at_once_and_waited_for_when_they_are_needed(
    transport: RemoteTransport, proxy: FaultProxy
) -> None:
    transport.put("refs/aa/one", DATA)
    proxy.requests.clear()
    found = [transport.list("refs/"), transport.list("cat/")]
    wait_for(lambda: proxy.methods == ["GET", "GET"])
    assert [[info.key for info in one] for one in found] == [["refs/aa/one"], []]
    assert proxy.methods == ["GET", "GET"]


def test_the_next_page_is_asked_for_while_one_is_given_out(transport: RemoteTransport, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(200, body=listing(["refs/aa/one"])), Fault(200, body=listing(["refs/aa/two"], more=False))]
    found = transport.list("refs/")
    assert next(found).key == "refs/aa/one"
    wait_for(lambda: proxy.methods == ["GET", "GET"])
    assert [info.key for info in found] == ["refs/aa/two"]
    assert proxy.methods == ["GET", "GET"]


def test_a_page_that_cannot_be_had_ends_a_listing_with_an_error(transport: RemoteTransport, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(200, body=listing(["refs/aa/one"])), Fault(503, times=1_000)]
    found = transport.list("refs/")
    assert next(found).key == "refs/aa/one"
    with pytest.raises(StorageUnreachableError):
        next(found)


def listing(keys: Iterable[str], *, more: bool = True, token: str = "more") -> bytes:
    said = "<Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    entries = "".join(f"<Contents><Key>{key}</Key>{said}</Contents>" for key in keys)
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if more and token else ""
    head = f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}"
    return f"<ListBucketResult xmlns='{NAMESPACE}'>{head}{entries}</ListBucketResult>".encode()


def test_a_listing_that_does_not_say_how_it_goes_on_is_not_taken_for_whole(
    transport: RemoteTransport, proxy: FaultProxy
) -> None:
    proxy.faults = [Fault(200, body=listing(["x"], token=""))]
    with pytest.raises(StorageError, match="a listing that says it goes on, and not where"):
        list(transport.list("refs/"))


def test_a_web_page_is_neither_a_listing_nor_the_bytes_of_a_key(transport: RemoteTransport, proxy: FaultProxy) -> None:
    transport.put("packs/aa/one", DATA)
    uses: list[Callable[[], object]] = [
        lambda: list(transport.list("packs/")),
        lambda: transport.get("packs/aa/one"),
        lambda: transport.get("packs/aa/one", 10, 20),
        lambda: transport.put("packs/aa/two", DATA),
    ]
    for use in uses:
        proxy.faults = [Fault(200, times=1_000, body=b"<html><title>Welcome!</title></html>")]
        with pytest.raises(StorageUnreachableError, match="the answer is not S3's") as caught:
            use()
        assert caught.value.hint == "check `endpoint:`"


def test_who_may_not_delete_gets_the_time_and_leaves_an_empty_key(
    transport: RemoteTransport, proxy: FaultProxy
) -> None:
    proxy.faults = [Fault(403, method="POST", body=answer("AccessDenied"))]
    assert transport.probe() > 0
    assert [info.size for info in transport.list("probe/")] == [0]


def test_a_probe_writes_looks_and_deletes(transport: RemoteTransport, proxy: FaultProxy) -> None:
    assert transport.probe() > 0
    assert proxy.methods == ["PUT", "GET", "POST"]


def test_nothing_is_asked_when_a_store_is_opened(proxy: FaultProxy) -> None:
    opened(proxy)
    assert proxy.requests == []


# -- storage that knows less


def test_storage_that_knows_no_conditions_is_written_without(transport: RemoteTransport, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(501, method="PUT", body=answer("NotImplemented"))]
    transport.put("packs/aa/one", DATA)
    assert transport.get("packs/aa/one") == DATA


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "MissingContentMD5")])
def test_storage_that_cannot_delete_several_deletes_one_by_one(
    transport: RemoteTransport, proxy: FaultProxy, status: int, code: str
) -> None:
    for name in ("a", "b"):
        transport.put(f"packs/aa/{name}", DATA)
    proxy.requests.clear()
    proxy.faults = [Fault(status, method="POST", body=answer(code))]
    assert transport.delete(["packs/aa/a", "packs/aa/b", "packs/aa/none"]) == []
    assert sorted(proxy.methods) == ["DELETE"] * 3 + ["POST"]
    assert list(transport.list("")) == []


def test_what_could_not_be_deleted_is_told(transport: RemoteTransport, proxy: FaultProxy) -> None:
    key = f"{transport.location.root}/packs/aa/one"
    errors = (
        f"<Error><Key>{key}</Key><Code>AccessDenied</Code></Error><Error><Key>x</Key><Code>NoSuchKey</Code></Error>"
    )
    body = f"<DeleteResult xmlns='{NAMESPACE}'>{errors}</DeleteResult>".encode()
    proxy.faults = [Fault(200, method="POST", body=body)]
    assert transport.delete(["packs/aa/one", "packs/aa/two"]) == ["packs/aa/one"]


def test_a_folder_marker_is_no_key(transport: RemoteTransport, proxy: FaultProxy) -> None:
    names = ("", "refs/", "refs/aa/one", "local/tmp/x")
    body = listing((f"{transport.location.root}/{name}" for name in names), more=False)
    proxy.faults = [Fault(200, body=body)]
    assert [info.key for info in transport.list("")] == ["refs/aa/one"]


def test_who_may_not_write_gets_the_time_of_an_answer(transport: RemoteTransport, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(403, method="PUT", body=answer("AccessDenied"))]
    now = transport.probe()
    assert abs(now - transport.probe()) <= 60 * 1_000_000_000
    assert now % 1_000_000_000 == 0


# -- what is wrong


@pytest.mark.parametrize(
    ("status", "code", "error", "message", "hint"),
    [
        (403, "AccessDenied", StorageDeniedError, "no permission to read {key}: AccessDenied: So it is.", "ask for"),
        (400, "ExpiredToken", StorageDeniedError, "cannot log in to {url}: ExpiredToken: So it is.", "log in ("),
        (403, "InvalidAccessKeyId", StorageDeniedError, "cannot log in to {url}: InvalidAccessKeyId: So", "log in ("),
        (403, "SignatureDoesNotMatch", StorageDeniedError, "cannot log in to {url}: SignatureDoesNotM", "log in ("),
        (
            403,
            "RequestTimeTooSkewed",
            StorageError,
            "cannot read {key}: RequestTimeTooSkewed: So",
            "set this machine's",
        ),
        (404, "NoSuchBucket", StorageMissingError, "there is no s3://requests", "correct the URL, or `replicate push"),
        (507, "XMinioStorageFull", StorageFullError, "no space left to read {key}: XMinio", "free some space"),
        (
            403,
            "InvalidObjectState",
            StorageError,
            "cannot read {key}: InvalidObjectState",
            "it was moved to an archive",
        ),
        (418, "ImATeapot", StorageError, "cannot read {key}: ImATeapot: So it is.", ""),
    ],
)
def test_a_refusal_is_an_error_that_says_what_to_do(
    transport: RemoteTransport,
    proxy: FaultProxy,
    status: int,
    code: str,
    error: type[StorageError],
    message: str,
    hint: str,
) -> None:
    proxy.faults = [Fault(status, body=answer(code, "<Region>eu-west-1</Region>"))]
    with pytest.raises(error) as caught:
        transport.get("packs/aa/one")
    assert caught.type is error
    assert caught.value.message.startswith(message.format(key=f"{transport.url}/packs/aa/one", url=transport.url))
    assert (caught.value.hint or "").startswith(hint)
    assert (caught.value.key, caught.value.operation, caught.value.exit_code) == ("packs/aa/one", "read", 6)
    assert proxy.methods == ["GET"]  # a refusal is not tried again


def test_a_wrong_region_is_followed_or_named(transport: RemoteTransport, proxy: FaultProxy) -> None:
    transport.put("ctl/v1", DATA)
    elsewhere = answer("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")
    proxy.faults = [Fault(400, body=elsewhere)]
    assert transport.get("ctl/v1") == DATA
    proxy.faults = [Fault(400, times=1_000, body=elsewhere)]
    with pytest.raises(StorageError) as caught:
        transport.get("ctl/v1")
    assert caught.value.hint == "set `region: eu-west-1` in replicate.yaml"


def test_a_missing_bucket_is_told_by_every_verb_and_created_when_asked(proxy: FaultProxy) -> None:
    transport = opened(proxy, bucket=f"missing-{secrets.token_hex(4)}")
    for use in (
        lambda: transport.put("ctl/v1", DATA),
        lambda: transport.get("ctl/v1"),
        lambda: list(transport.list("")),
        lambda: transport.delete(["ctl/v1"]),
        lambda: transport.probe(),
    ):
        with pytest.raises(StorageMissingError) as caught:
            use()
        assert caught.value.message == f"there is no s3://{transport.location.place}"
    transport.create()
    transport.create()
    transport.put("ctl/v1", DATA)


def test_without_credentials_it_says_how_to_get_some(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageDeniedError) as caught:
        opened(proxy).get("ctl/v1")
    assert caught.value.message.endswith(": Unable to locate credentials")
    assert caught.value.hint == (
        "log in (`aws configure`, `aws sso login`), set AWS_PROFILE or `profile:`, or set `anonymous: true`"
    )
    assert proxy.requests == []
    assert list(opened(proxy, anonymous="true").list("")) == []


def test_a_profile_that_is_not_there_is_named(proxy: FaultProxy) -> None:
    with pytest.raises(StorageDeniedError, match=r"The config profile \(nobody\) could not be found"):
        opened(proxy, profile="nobody").get("ctl/v1")


def test_where_nobody_listens_it_says_so(moto_port: int) -> None:
    with FaultProxy(moto_port) as proxy:
        transport = opened(proxy)
    with pytest.raises(StorageUnreachableError) as caught:
        transport.get("ctl/v1")
    assert f'Could not connect to the endpoint URL: "http://127.0.0.1:{proxy.port}' in caught.value.message
    assert caught.value.message.endswith("(3 tries)")


def test_an_answer_that_is_not_of_s3_is_not_believed(transport: RemoteTransport, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(200, times=1_000, body=b"<html>Welcome!</html")]
    with pytest.raises(StorageUnreachableError):
        list(transport.list(""))
    proxy.faults = [Fault(200, times=1_000)]
    with pytest.raises(StorageUnreachableError) as caught:
        transport.put("ctl/v1", DATA)
    assert caught.value.hint == "check `endpoint:`"


def test_no_secret_is_shown(transport: RemoteTransport, proxy: FaultProxy) -> None:
    body = answer("Odd").replace(
        b"So it is.", b"AKIAABCDEFGHIJKLMNOP said https://u:p@h/x?X-Amz-Signature=abc token=xyz"
    )
    proxy.faults = [Fault(400, body=body)]
    with pytest.raises(StorageError) as caught:
        transport.get("ctl/v1")
    assert caught.value.message.endswith(": Odd: *** said https://***h/x?*** ***")
    assert "testsecret" not in repr(transport) + repr(vars(transport))
    assert repr(transport) == f"RemoteTransport('{transport.url}')"
