"""A response's body over an aiohttp connection, as it comes; its errors are httpx's."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
import httpx

from chatstream.providers.http.inflating import SLICE_BYTES, Inflated, Unreadable

# The first that fits; a subclass stands before its base.
_ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.ClientHttpProxyError, httpx.ProxyError),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ServerFingerprintMismatch, httpx.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
)


def as_httpx(error: Exception) -> httpx.TransportError:
    """
    Turn an aiohttp error into httpx's.

    Only its kind is told: aiohttp's own text may quote the request's headers.
    """
    for theirs, ours in _ERRORS:
        if isinstance(error, theirs):
            return ours(type(error).__name__)
    return httpx.ReadError(type(error).__name__)


class Undecodable(httpx.TransportError):
    """A body's content encoding is not undone here, or what it holds is broken or too much."""


def _look_at(lost: asyncio.Future[None]) -> None:
    if not lost.cancelled():
        lost.exception()


class AiohttpStream(httpx.AsyncByteStream):
    """
    A response's body; read by one task at a time.

    Read to its end, it gives the connection back to the pool. Closed before, it closes the
    connection, without waiting for anything.
    """

    def __init__(self, response: aiohttp.ClientResponse, open_streams: set[AiohttpStream]) -> None:
        self._response = response
        self._content = response.content
        self._readany = response.content.readany
        self._left = b""  # read, and more than was to be returned at once
        self._open_streams = open_streams
        open_streams.add(self)
        self._lost: asyncio.Future[None] | None = None
        self._answer: Callable[[], httpx.Response | None] = lambda: None
        self._watch_connection()

    def _watch_connection(self) -> None:
        """Let the connection's end end the body: after broken framing aiohttp wakes no reader."""
        connection = self._response.connection
        if connection is None or connection.protocol is None:
            return  # it was read to its end already
        self._lost = connection.protocol.closed
        if self._lost is None:
            self._on_lost()
        else:
            # One for all the answers of a connection: else a reset while it idles is complained of.
            self._lost.remove_done_callback(_look_at)
            self._lost.add_done_callback(_look_at)
            self._lost.add_done_callback(self._on_lost)

    @property
    def heard(self) -> int:
        """How many bytes of the body have come from the network."""
        return self._content.total_bytes

    def _on_lost(self, _: asyncio.Future[None] | None = None) -> None:
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError())

    async def read(self) -> bytes:
        """
        Return the bytes that are there, `SLICE_BYTES` at most, as soon as there are any; empty at
        the end.

        Raises:
            httpx.TransportError: The body was cut, or the client closed. What had come before the
                cut was returned.
        """
        if self._left:
            return self._slice(self._left)
        try:
            data = await self._readany()
        # RuntimeError is aiohttp's for a connection that this side closed before the read.
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # aiohttp's own calls would raise before they return it.
            if came := self._content._read_nowait(-1):
                return self._slice(came)
            raise as_httpx(error) from None
        return data if len(data) <= SLICE_BYTES else self._slice(data)

    def _slice(self, data: bytes) -> bytes:
        self._left = data[SLICE_BYTES:]
        return data[:SLICE_BYTES]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def answer(self, answer: httpx.Response) -> httpx.Response:
        """Take note of the answer that this is the body of, and return it."""
        self._answer = weakref.ref(answer)
        return answer

    def close(self) -> None:
        """Let go of the connection; a task that reads gets an error. Safe to call twice."""
        if (answer := self._answer()) is not None:
            # What httpx has put round it keeps the answer, until the collector comes by.
            answer.stream = self
        self._open_streams.discard(self)
        if self._lost is not None:
            self._lost.remove_done_callback(self._on_lost)
        self._response.close()

    async def aclose(self) -> None:
        self.close()


class InflatedStream(AiohttpStream):
    """A compressed body, undone as it is read."""

    def __init__(
        self, response: aiohttp.ClientResponse, open_streams: set[AiohttpStream], encoding: str
    ) -> None:
        super().__init__(response, open_streams)
        self._encoding = encoding
        self._inflated: Inflated | None = None

    async def read(self) -> bytes:
        """
        Return bytes as they were meant; as `AiohttpStream.read` promises.

        Raises:
            Undecodable: The content encoding cannot be undone.
        """
        try:
            if self._inflated is None:
                self._inflated = Inflated(super().read, self._encoding)
        except Unreadable:
            named = self._encoding.isalnum() and len(self._encoding) < 10
            shown = self._encoding if named else "unknown"
            raise Undecodable(f"its encoding is {shown}, which was not asked for") from None
        try:
            return await self._inflated.read()
        except Unreadable:
            raise Undecodable("what it holds is broken, or too much") from None
