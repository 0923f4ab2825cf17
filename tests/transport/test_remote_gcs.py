"""Google Cloud Storage: how many requests a verb makes, and what is said of what is wrong."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from replicate.errors import KeyNotFoundError, StorageDeniedError, StorageError, StorageMissingError
from replicate.transport.remote import Patience, RemoteTransport, remote_transport
from tests.servers.proxy import Fault, FaultProxy

DATA = bytes(range(100))
AT_ONCE = Patience(attempts=3, first_wait=0.0, longest_wait=0.0)


@pytest.fixture
def proxy(gcs_port: int) -> Iterator[FaultProxy]:
    with FaultProxy(gcs_port) as proxy:
        yield proxy


@pytest.fixture
def transport(proxy: FaultProxy) -> RemoteTransport:
    transport = opened(proxy)
    transport.create()
    proxy.requests.clear()
    return transport


def opened(proxy: FaultProxy, bucket: str = "requests") -> RemoteTransport:
    options = {"endpoint": f"http://127.0.0.1:{proxy.port}", "anonymous": "true"}
    return remote_transport(f"gs://{bucket}/{secrets.token_hex(8)}", options, patience=AT_ONCE)


def test_each_verb_makes_as_few_requests_as_it_can(transport: RemoteTransport, proxy: FaultProxy) -> None:
    def asked(count: int) -> bool:
        found = len(proxy.requests)
        proxy.requests.clear()
        return found == count

    transport.put("packs/aa/one", bytes(9 << 20))
    assert asked(1)
    transport.put("packs/aa/one", bytes(9 << 20))
    assert asked(2)
    assert transport.get("packs/aa/one", -10) == bytes(10)
    assert asked(1)
    assert len(list(transport.list(""))) == 1
    assert asked(1)
    assert transport.delete(["packs/aa/one", "packs/aa/none"]) == []
    assert asked(2)
    assert transport.probe() > 0
    assert asked(2)


def test_pages_are_joined(transport: RemoteTransport, proxy: FaultProxy) -> None:
    transport.put("refs/ab/two", b"")
    name = f"{transport.location.root}/refs/aa/one"
    item = {"name": name, "size": "1", "timeCreated": "2026-01-01T00:00:00.5Z"}
    proxy.requests.clear()
    proxy.faults = [Fault(200, body=json.dumps({"items": [item], "nextPageToken": "no more than this"}).encode())]
    first = next(transport.list("refs/"))
    assert (first.key, first.size, first.time_ns) == ("refs/aa/one", 1, 1_767_225_600_500_000_000)
    proxy.faults = [
        Fault(200, body=json.dumps({"items": [item], "nextPageToken": "x"}).encode()),
        Fault(200, body=json.dumps({"items": [item | {"name": name + "2"}]}).encode()),
    ]
    assert [info.key for info in transport.list("refs/")] == ["refs/aa/one", "refs/aa/one2"]
    proxy.faults = [Fault(200, times=2, body=json.dumps({"items": [item], "nextPageToken": "x"}).encode())]
    with pytest.raises(StorageError, match="a listing that does not go on"):
        list(transport.list("refs/"))


def test_data_that_looks_like_the_frame_of_an_upload_is_stored_as_it_is(transport: RemoteTransport) -> None:
    data = b"\n--==0==--\r\n--==0==\n\r\n\r\n" * 3
    transport.put("packs/aa/one", data)
    assert transport.get("packs/aa/one") == data


def test_a_missing_bucket_is_told_and_created_when_asked(proxy: FaultProxy) -> None:
    transport = opened(proxy, f"missing-{secrets.token_hex(4)}")
    for use in (lambda: transport.put("ctl/v1", DATA), lambda: list(transport.list("")), lambda: transport.probe()):
        with pytest.raises(StorageMissingError) as caught:
            use()
        assert caught.value.message == f"there is no gs://{transport.location.place}"
    transport.create()
    transport.create()
    transport.put("ctl/v1", DATA)


@pytest.mark.parametrize(
    ("status", "said", "error", "message"),
    [
        (401, "Invalid Credentials", StorageDeniedError, "cannot log in to {url}: 401: Invalid Credentials"),
        (403, "Anonymous caller does not have access", StorageDeniedError, "cannot log in to {url}: 403: Anonymous"),
        (404, "No such object: x", KeyNotFoundError, "packs/aa/one is not in the store"),
        (404, "The specified bucket does not exist.", StorageMissingError, "there is no gs://requests"),
        (418, "I am a teapot", StorageError, "cannot read {url}/packs/aa/one: 418: I am a teapot"),
    ],
)
def test_a_refusal_is_an_error_that_says_what_is_wrong(
    transport: RemoteTransport, proxy: FaultProxy, status: int, said: str, error: type[Exception], message: str
) -> None:
    proxy.faults = [Fault(status, body=json.dumps({"error": {"code": status, "message": said}}).encode())]
    with pytest.raises(error) as caught:
        transport.get("packs/aa/one")
    assert caught.type is error
    assert str(caught.value).startswith(message.format(url=transport.url))
    assert proxy.methods == ["GET"]


def test_an_answer_of_something_else_is_not_believed(transport: RemoteTransport, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(200, times=1_000, body=b"<html>Welcome!</html>")]
    for use in (lambda: transport.put("ctl/v1", DATA), lambda: list(transport.list(""))):
        with pytest.raises(StorageError, match="the answer is not Google Cloud Storage's") as caught:
            use()
        assert caught.value.hint == "check `endpoint:`"
