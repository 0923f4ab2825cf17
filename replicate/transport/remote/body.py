"""The body of an HTTP request that is sent without a copy of it. Loaded with what speaks HTTP only."""

from __future__ import annotations

from aiohttp import Payload
from aiohttp.abc import AbstractStreamWriter

_SLICE = 256 << 10


class Body(Payload):
    """Bytes that are sent slice by slice, and as often as wanted.

    Of bytes given whole asyncio copies what is not sent yet, and of an `io.BytesIO` aiohttp copies all: a push would
    hold everything twice.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data, content_type="application/octet-stream")
        self._data = data
        self._size = len(data)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the bytes as text."""
        return self._data.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send so many bytes, all with None."""
        view = memoryview(self._data)[:content_length]
        for begin in range(0, len(view), _SLICE):
            await writer.write(view[begin : begin + _SLICE])
