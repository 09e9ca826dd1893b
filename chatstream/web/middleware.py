"""
What every request passes through, as pure ASGI: its id, its timing, and where it comes from.

`BaseHTTPMiddleware` would cost a streamed token three times as much.
"""

from __future__ import annotations

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatstream.errors import ChatstreamError, Forbidden, NotFound
from chatstream.metrics import Metrics
from chatstream.web import cors
from chatstream.web.origins import SAFE_METHODS, Origins
from chatstream.web.overload import crowded
from chatstream.web.problems import answer, request_id, unexpected
from chatstream.web.requests import LIMITS


class Edge:
    """
    Names each request, times it, counts it, and turns a defect into a problem.

    Every answer leaves through here, so that each has the headers that all have.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: Origins) -> None:
        self._app = app
        self._metrics = metrics
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer every HTTP request exactly once."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope["chatstream.request_id"] = request_id(scope["headers"])
        scope["chatstream.began"] = time.perf_counter()
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)  # a frame must cost nothing more here
            return
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._complete(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            if started:
                raise
            await unexpected(Request(scope), error)(scope, receive, named)

    def _complete(self, scope: Scope, message: Message) -> None:
        """Give an answer the headers that all have."""
        headers = MutableHeaders(scope=message)
        headers.update(_told(scope))
        headers.update(scope.get(LIMITS, {}))
        cors.let_read(headers, self._origins, Headers(scope=scope).get("origin"))
        self._metrics.request(scope["method"], message["status"])


def _told(scope: Scope) -> dict[str, str]:
    """Return what every answer tells, a refused handshake's too."""
    milliseconds = (time.perf_counter() - scope["chatstream.began"]) * 1000
    return {
        "X-Request-ID": scope["chatstream.request_id"],
        "Server-Timing": f"app;dur={milliseconds:.1f}",
        "X-Content-Type-Options": "nosniff",
    }


class Guard:
    """Refuses foreign Hosts, foreign pages and a crowd; answers those that ask whether they may."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may come in; a WebSocket is refused before its handshake."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Forbidden as error:
            await refuse(scope, receive, send, error)
            return
        if scope["type"] == "http":
            await (cors.preflight(scope) or crowded(scope) or self._app)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise Forbidden. Apart, so that no stream keeps a copy of the headers while it lasts."""
        headers = Headers(scope=scope)
        # HTTP/1.0 need not name a host, as health checks do not; browsers always do.
        if "host" in headers or scope.get("http_version") != "1.0":
            self._origins.check_host(headers)
        # A link from another page leads here without an Origin, and may.
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if changes or "origin" in headers:
            self._origins.check_origin(scope["scheme"], headers)


async def refuse(scope: Scope, receive: Receive, send: Send, error: ChatstreamError) -> None:
    """Answer a request, or a handshake in its place, with a problem."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope["extensions"]:
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    response = answer(HTTPConnection(scope), error)
    if scope["type"] == "websocket":
        response.headers.update(_told(scope))
    await response(scope, receive, send)


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what no route is for. To be the router's last word."""
    await refuse(scope, receive, send, NotFound("There is nothing at this path."))
