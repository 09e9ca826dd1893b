"""
The road to a provider: httpx's transport seam over aiohttp's connections.

httpx's own transport costs some 30 µs for every chunk read, and milliseconds for every request on
a warm pool; aiohttp a third of that and 0.06 ms. Nothing here knows providers: `httpx` users see a
transport that pools, streams bytes as they come, and raises httpx's errors.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
import httpx
from yarl import URL

from chatstream.providers.http.inflating import SLICE_BYTES, Inflated, Unreadable, encoding_of

KEEP_ALIVE_SECONDS: Final = 60.0
"""How long an idle connection is kept: below the limits of common NATs and load balancers."""
RECEIVE_BYTES: Final = 16 * 1024
"""
What the kernel holds of one connection (it takes twice that): parsing as much at once, whatever it
is, takes a few milliseconds, and at 100 ms to the provider it still brings 500 tokens a second.
"""

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


def tls_context(url: httpx.URL) -> ssl.SSLContext | None:
    """Make the context that an https address needs: httpx's authorities, HTTP/1.1."""
    if url.scheme != "https":
        return None
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


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


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a connection's socket."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    return made


class AiohttpTransport(httpx.AsyncBaseTransport):
    """
    A pool of keep-alive connections without a limit. No retries, redirects or cookies.

    It obeys the request's `connect` and `read` timeouts (no others: nothing waits for a place in
    the pool). `response.extensions["stream"]` is the `AiohttpStream`, for readers to whom the
    generators of `aiter_raw` are too dear; `extensions["length"]` is what its headers say of the
    body's length. A response's content encoding is undone on the way.

    Belongs to the event loop of its first request.
    """

    def __init__(
        self, *, proxy: str | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._streams: set[AiohttpStream] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request; return once the response's headers are there.

        Raises:
            httpx.TransportError: There is no response.
        """
        timeout = request.extensions.get("timeout", {})
        try:
            response = await self._opened().request(
                request.method,
                URL(str(request.url), encoded=True),
                data=await request.aread(),
                headers=request.headers.multi_items(),
                allow_redirects=False,
                proxy=self._proxy,
                timeout=aiohttp.ClientTimeout(
                    connect=timeout.get("connect"), sock_read=timeout.get("read")
                ),
            )
        except (aiohttp.ClientError, OSError) as error:
            raise as_httpx(error) from None
        encoding = encoding_of(response.headers.get("Content-Encoding", ""))
        stream = (
            InflatedStream(response, self._streams, encoding)
            if encoding
            else AiohttpStream(response, self._streams)
        )
        answer = httpx.Response(
            response.status,
            headers=[
                (name, value)
                for name, value in response.raw_headers
                if name.lower() not in (b"content-encoding", b"content-length")
            ],
            stream=stream,
            extensions={"stream": stream, "length": response.headers.get("Content-Length")},
        )
        return stream.answer(answer)

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise aiohttp.ClientConnectionError
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                    ssl=self._ssl_context or True,
                    socket_factory=_socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=SLICE_BYTES // 2,
                auto_decompress=False,  # aiohttp's has no bound
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
        return self._session

    async def aclose(self) -> None:
        """Close every connection; whoever reads from one gets an error. Safe to call twice."""
        self._closed = True
        for stream in tuple(self._streams):
            stream.close()
        if self._session is not None:
            await self._session.close()
