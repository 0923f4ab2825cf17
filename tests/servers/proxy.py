"""A proxy between a client and an HTTP server that counts requests and does what networks do. Standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from tests.servers.process import HOST, free_port

What = Literal[
    "lose the reply", "reset", "reset in the upload", "stall", "pause", "truncate", "truncate the head", "go down"
]
_LINGER = struct.pack("ii", 1, 0)  # closing sends RST


@dataclass
class Fault:
    """What happens to the next requests that match: something of `What`, or an HTTP status as the answer.

    Attributes:
        what: The fault.
        times: How many requests it happens to.
        method: Only requests of this method, or all with "".
        body: Of the answer, where `what` is a status.
        seconds: How long a pause is before the request is served after all, and how long nobody listens once the
            server went down, which ends every connection.
        headers: Of the answer, where `what` is a status.
    """

    what: What | int
    times: int = 1
    method: str = ""
    body: bytes = b""
    seconds: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Message:
    """The head and the body of a request or an answer."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def encoded(self) -> bytes:
        lines = [self.start, *(f"{key}: {value}" for key, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class FaultProxy:
    """Forwards to a port on this machine. A context manager; one request for each connection upstream.

    Attributes:
        requests: "PUT /bucket/key", as they came; the query is left out.
        faults: What happens to the next requests. Where none matches, `choose` is asked.
        choose: Is given a request like those above; called in the proxy's thread.
        on_down: Called in a thread while nobody listens, as a server that is killed and started again.
        is_up: Whether somebody listens.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.choose: Callable[[str], Fault | None] = lambda request: None
        self.on_down: Callable[[], object] = lambda: None
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._transports: set[asyncio.WriteTransport] = set()  # of every connection: who closes may still be sending
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop holds none of a client that left
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.is_up = threading.Event()
        self._stop = asyncio.Event()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.is_up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def methods(self) -> list[str]:
        """The methods of the requests since they were last forgotten."""
        return [request.partition(" ")[0] for request in self.requests]

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        await self._listen()
        await self._stop.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while not self.is_up.is_set():  # who is cancelled while it begins to listen loses a socket
                    await asyncio.sleep(0.01)
        await self._listen_no_more()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0.01)  # for the loop to close them

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, HOST, self.port, limit=1 << 20)
        self.is_up.set()

    async def _listen_no_more(self) -> None:
        """Close the server, once those connections are made that it accepts: asyncio would lose their sockets."""
        server, self._server = self._server, None
        if server is not None:
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
            try:
                await asyncio.sleep(0.01)
            finally:
                server.close()

    async def _go_down(self, seconds: float) -> None:
        """Refuse connections for a while, and end those that there are."""
        if self._server is None:  # it is down already
            return
        self.is_up.clear()
        await self._listen_no_more()
        for writer in list(self._clients):
            _reset(writer)
        await asyncio.gather(asyncio.to_thread(self.on_down), asyncio.sleep(seconds))
        await self._listen()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        self._transports.add(writer.transport)
        self._hold(asyncio.create_task(self._talk(reader, writer)))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        self._clients.discard(writer)
        writer.close()

    def _hold(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; tell whether another may follow."""
        start, headers = await _head(reader)
        method, target = start.split(" ")[:2]
        self.requests.append(f"{method} {unquote(target.partition('?')[0])}")
        fault = self._next_fault(method) or self.choose(self.requests[-1])
        if fault is not None and fault.what == "go down":
            self._hold(asyncio.create_task(self._go_down(fault.seconds)))
        if fault is not None and fault.what in ("reset", "go down"):
            return _reset(writer)
        named = {name.lower(): value for name, value in headers}
        if named.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault is not None and fault.what == "reset in the upload":
            if named.get("content-length", "0") != "0":
                await reader.read(1000)
            return _reset(writer)
        request = Message(start, headers, await _body(reader, headers))
        if fault is not None and fault.what == "stall":
            await reader.read()  # until the client gives up
            return False
        if fault is not None and fault.what == "pause":
            await asyncio.sleep(fault.seconds)
            fault = None
        if fault is not None and isinstance(fault.what, int):
            answered = [("Content-Length", str(len(fault.body))), ("Content-Type", "application/xml"), *fault.headers]
            writer.write(Message(f"HTTP/1.1 {fault.what} Fault", answered, fault.body).encoded())
            await writer.drain()
            return True
        answer = await self._forward(request)
        if fault is not None and fault.what == "lose the reply":
            return _reset(writer)
        data = answer.encoded()
        if fault is not None and fault.what == "truncate":
            data = data[: len(data) - (len(answer.body) + 1) // 2]
        if fault is not None and fault.what == "truncate the head":
            data = data[:30]
        writer.write(data)
        await writer.drain()
        return fault is None

    def _next_fault(self, method: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method in ("", method):
                fault.times -= 1
                return fault
        return None

    async def _forward(self, request: Message) -> Message:
        kept = [one for one in request.headers if one[0].lower() not in ("connection", "expect", "transfer-encoding")]
        if request.body and not request.header("content-length"):
            kept.append(("Content-Length", str(len(request.body))))
        reader, writer = await asyncio.open_connection(HOST, self.upstream, limit=1 << 20)
        self._transports.add(writer.transport)
        try:
            writer.write(Message(request.start, [*kept, ("Connection", "close")], request.body).encoded())
            await writer.drain()
            start, headers = await _head(reader)
            while " 100 " in start:
                start, headers = await _head(reader)
            has_body = not request.start.startswith("HEAD ") and " 204 " not in start and " 304 " not in start
            body = await _body(reader, headers, to_the_end=True) if has_body else b""
        finally:
            writer.close()
        left_out = {"connection", "transfer-encoding"} | ({"content-length"} if has_body else set())
        headers = [one for one in headers if one[0].lower() not in left_out]
        return Message(start, [*headers, *([("Content-Length", str(len(body)))] if has_body else [])], body)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close a connection so that the other side gets a reset."""
    if not writer.transport.is_closing():
        found: socket.socket = writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()
    return False


async def _head(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]]]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = [line.partition(":") for line in lines]
    return start, [(name, value.strip()) for name, _, value in pairs]


async def _body(reader: asyncio.StreamReader, headers: list[tuple[str, str]], *, to_the_end: bool = False) -> bytes:
    named = {name.lower(): value for name, value in headers}
    if "chunked" in named.get("transfer-encoding", ""):
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)
    if "content-length" in named:
        return await reader.readexactly(int(named["content-length"]))
    return await reader.read() if to_the_end else b""
