"""
The road to a provider: httpx's transport seam over aiohttp's connections.

httpx's own transport costs some 30 µs for every chunk read, and milliseconds for every request on
a warm pool; aiohttp a third of that and 0.06 ms. Nothing here knows providers: `httpx` users see a
transport that pools, streams bytes as they come, and raises httpx's errors.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

import aiohttp
import httpx
from yarl import URL

from chatstream.providers.http.inflating import SLICE_BYTES, encoding_of
from chatstream.providers.http.streams import AiohttpStream, InflatedStream, as_httpx

KEEP_ALIVE_SECONDS: Final = 60.0
"""How long an idle connection is kept: below the limits of common NATs and load balancers."""
RECEIVE_BYTES: Final = 16 * 1024
"""
What the kernel holds of one connection (it takes twice that): parsing as much at once, whatever it
is, takes a few milliseconds, and at 100 ms to the provider it still brings 500 tokens a second.
"""


def tls_context(url: httpx.URL) -> ssl.SSLContext | None:
    """Make the context that an https address needs: httpx's authorities, HTTP/1.1."""
    if url.scheme != "https":
        return None
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


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
