"""File systems of fsspec that are like files, and what their errors become; waits and other small things."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicate.errors import (
    KeyNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageUnreachableError,
)
from replicate.host import Host
from replicate.transport.remote import Patience, RemoteTransport
from replicate.transport.remote.driver import Piece, Trouble, piece, retry_after, shown
from replicate.transport.remote.files import FileDriver
from replicate.transport.remote.location import parse_location


class HTTPProblem(Exception):
    def __init__(self, status_code: int, error_code: str = "") -> None:
        super().__init__("so it is")
        self.status_code = status_code
        self.error_code = error_code


def local(store: Path, **replaced: Callable[..., Any]) -> RemoteTransport:
    """Return a transport on fsspec's local files, some of whose calls are replaced."""
    import fsspec

    system = fsspec.filesystem("file", skip_instance_cache=True, use_listings_cache=False)
    for name, call in replaced.items():
        setattr(system, name, call)

    async def connect() -> FileDriver:
        return FileDriver(system, "/", str(store), puts_whole=False)

    location = parse_location(f"file://{store}")
    return RemoteTransport(location, connect, patience=Patience(attempts=2, first_wait=0.0, longest_wait=0.0))


def raising(exc: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise exc

    return fail


def test_a_file_is_written_beside_and_renamed(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    store = tmp_path / "store"

    def mv(source: str, target: str) -> None:
        seen.append(os.listdir(store / "packs/aa"))
        os.rename(source, target)

    local(store, mv=mv).put("packs/aa/one", b"1")
    assert seen == [[]]
    assert os.listdir(store / "packs/aa") == ["one"]
    assert os.listdir(store / "local/tmp") == []


def test_folders_that_others_create_at_the_same_time_do_no_harm(tmp_path: Path) -> None:
    store = tmp_path / "store"

    def makedirs(path: str, exist_ok: bool) -> None:
        for parent in [*reversed(Path(path).parents), Path(path)]:
            if not parent.exists():
                parent.mkdir()
                raise OSError("Failure")  # as SFTP says of a folder that somebody has just created

    local(store, makedirs=makedirs).put("packs/aa/one", b"1")
    assert local(store).get("packs/aa/one") == b"1"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"

    def half(path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:1])
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError) as caught:
        local(store, pipe_file=half).put("packs/aa/one", b"12")
    assert str(caught.value) == f"cannot write file://{store}/packs/aa/one: Input/output error"
    assert os.listdir(store / "local/tmp") == []
    assert list(local(store).list("")) == []


@pytest.mark.parametrize(
    ("exc", "error"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageFullError),
        (PermissionError(errno.EACCES, "Permission denied"), StorageDeniedError),
        (ConnectionResetError(), StorageUnreachableError),
        (EOFError(), StorageUnreachableError),
        (OSError(errno.EHOSTUNREACH, "No route to host"), StorageUnreachableError),
        (HTTPProblem(503), StorageUnreachableError),
        (HTTPProblem(401), StorageDeniedError),
        (HTTPProblem(403), StorageDeniedError),
        (RuntimeError("odd"), StorageError),
    ],
)
def test_what_a_file_system_raises_becomes_an_error_of_storage(
    tmp_path: Path, exc: Exception, error: type[StorageError]
) -> None:
    transport = local(tmp_path / "store", pipe_file=raising(exc))
    with pytest.raises(error) as caught:
        transport.put("packs/aa/one", b"1")
    assert caught.type is error
    assert caught.value.operation == "write"


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_listing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    local(store).put("refs/aa/one", b"1")

    def ls(path: str, detail: bool = True) -> list[dict[str, Any]]:
        if path.endswith("aa"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return [{"name": f"{path}/{name}", "type": "directory"} for name in os.listdir(path)]

    with pytest.raises(StorageDeniedError, match="no permission to list"):
        list(local(store, ls=ls).list("refs/"))


def test_what_may_not_be_deleted_is_told(tmp_path: Path) -> None:
    transport = local(tmp_path / "store", rm_file=raising(PermissionError(errno.EACCES, "Permission denied")))
    assert transport.delete(["packs/aa/one"]) == ["packs/aa/one"]


def test_a_file_that_gives_fewer_bytes_than_it_has_is_not_believed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    local(store).put("packs/aa/one", b"12345")
    short = local(store, cat_file=lambda path, start, end: b"12")
    with pytest.raises(StorageUnreachableError, match="2 of 5 bytes came"):
        short.get("packs/aa/one")
    with pytest.raises(KeyNotFoundError):
        short.get("packs/aa/two")


# -- waits, ranges, words


def test_waits_grow_and_are_never_longer_than_the_longest() -> None:
    async def connect() -> FileDriver:
        raise AssertionError

    for byte, factor in ((b"\0\0", 0.5), (b"\xff\xff", 1.0)):
        host = Host(random=lambda size, byte=byte: byte)  # type: ignore[misc]
        patience = Patience(first_wait=1.0, longest_wait=5.0)
        transport = RemoteTransport(parse_location("memory://x"), connect, patience=patience, host=host)
        waits = [transport._wait(patience, attempt, 0.0) for attempt in range(1, 7)]
        assert waits == [factor * wait for wait in (1, 2, 4, 5, 5, 5)]
        assert transport._wait(patience, 1, 3.0) == 3.0
        assert transport._wait(patience, 1, 60.0) == 5.0


def test_storage_that_has_not_answered_yet_is_given_up_sooner() -> None:
    tries: list[bool] = []
    is_up = False
    answer: Piece | Trouble = Piece(b"12345", 0, 5)

    class Flaky:
        async def get(self, path: str, start: int, end: int | None) -> Piece:
            tries.append(is_up)
            if not is_up:
                raise Trouble("unreachable", "nobody is there")
            if isinstance(answer, Trouble):
                raise answer
            return answer

        async def close(self) -> None:
            pass

    async def connect() -> Any:
        return Flaky()

    at_first = Patience(attempts=2, first_wait=0.0)
    patience = Patience(attempts=5, first_wait=0.0, at_first=at_first)
    transport = RemoteTransport(parse_location("memory://x"), connect, patience=patience)
    for expected in (2, 5):
        tries.clear()
        is_up = False
        with pytest.raises(StorageUnreachableError, match=f"{expected} tries"):
            transport.get("packs/aa/one")
        assert len(tries) == expected
        is_up = True
        assert transport.get("packs/aa/one") == b"12345"
    for refusal in (Trouble("absent"), Trouble("passing", "slow down")):  # answers too
        answer = refusal
        transport = RemoteTransport(parse_location("memory://x"), connect, patience=patience)
        is_up = True
        with pytest.raises((KeyNotFoundError, StorageUnreachableError)):
            transport.get("packs/aa/one")
        is_up = False
        with pytest.raises(StorageUnreachableError, match="5 tries"):
            transport.get("packs/aa/one")


def test_a_request_that_takes_long_is_logged_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        seconds = 0.0

        async def get(self, path: str, start: int, end: int | None) -> Piece:
            await asyncio.sleep(self.seconds)
            return Piece(b"12345", 0, 5)

        async def close(self) -> None:
            pass

    async def connect() -> Any:
        return Slow()

    transport = RemoteTransport(parse_location("memory://x"), connect)
    caplog.set_level(logging.INFO, "replicate")
    module = "replicate.transport.remote.transport"
    monkeypatch.setattr(f"{module}._LONG_SECONDS", 0.05)
    assert transport.get("packs/aa/one", 0, 5) == b"12345"
    assert caplog.messages == []
    Slow.seconds = 0.5
    for _ in range(2):  # told again only after a minute
        assert transport.get("packs/aa/one", 0, 5) == b"12345"
    message = "waiting for memory:///x: a request has taken 0 s so far"
    assert caplog.messages == [message]
    monkeypatch.setattr(f"{module}._TOLD_EVERY", 0.05)
    assert transport.get("packs/aa/one", 0, 5) == b"12345"
    assert len(caplog.messages) > 2  # of one request, again
    assert {*caplog.messages} == {message}


def test_what_was_to_be_put_is_let_go_of_when_it_was_tried_again() -> None:
    """No cycle of exception, traceback and frame may hold a pack until garbage is collected."""

    class Pack:
        pass

    held: list[weakref.ref[Pack]] = []

    class Busy:
        async def put(self, path: str, data: bytes, *, only_new: bool) -> None:
            pack = Pack()
            held.append(weakref.ref(pack))
            if len(held) < 3:
                raise Trouble("passing", "slow down")

        async def close(self) -> None:
            pass

    async def connect() -> Any:
        return Busy()

    patience = Patience(attempts=3, first_wait=0.0)
    transport = RemoteTransport(parse_location("memory://x"), connect, patience=patience)
    gc.collect()
    gc.disable()
    try:
        transport.put("packs/aa/one", b"1")
        assert [one() for one in held] == [None, None, None]
    finally:
        gc.enable()


def test_the_time_for_an_answer_grows_with_what_is_moved() -> None:
    assert Patience(timeout=60.0, slowest_rate=1 << 20).limit(64 << 20) == 124.0


@pytest.mark.parametrize("told", ["bytes 0-9/*", "bytes 0-9", "items 0-9/10", ""])
def test_a_range_that_says_nothing_is_not_believed(told: str) -> None:
    with pytest.raises(Trouble, match="an answer with the range"):
        piece(bytes(10), told)


def test_a_server_may_ask_to_wait() -> None:
    assert [retry_after(value) for value in (None, "", "7", "9999", "-1", "Wed, 21 Oct 2015")] == [0, 0, 7, 60, 0, 0]


def test_what_storage_says_is_shown_short_printable_and_without_secrets() -> None:
    assert shown("a\nb\x1b[31m  c") == "a b?[31m c"
    assert shown("x" * 400) == "x" * 297 + "..."
    assert shown("https://me:pw@host/p?sig=abc&se=1 Bearer=xyz AKIAIOSFODNN7EXAMPLE") == "https://***host/p?*** *** ***"
