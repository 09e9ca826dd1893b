"""
What every request passes through, as pure ASGI: its id, its timing, and where it comes from.

`BaseHTTPMiddleware` would cost a streamed token three times as much.
"""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatstream.auth import SAFE_METHODS, Origins
from chatstream.errors import ChatstreamError, Forbidden
from chatstream.http.problems import answer, unexpected
from chatstream.metrics import Metrics

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


class Edge:
    """Names each request, times it, counts it, and turns a defect into a problem."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer every HTTP request exactly once."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope["chatstream.request_id"] = request_id
        began = time.perf_counter()
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                milliseconds = (time.perf_counter() - began) * 1000
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["Server-Timing"] = f"app;dur={milliseconds:.1f}"
                headers["X-Content-Type-Options"] = "nosniff"
                self._metrics.request(scope["method"], message["status"])
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            if started:
                raise
            await unexpected(Request(scope), error)(scope, receive, named)


class Guard:
    """Refuses foreign Hosts, and foreign pages that want to change something or to listen."""

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
            await self._refuse(scope, receive, send, error)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise Forbidden. Apart, so that no stream keeps a copy of the headers while it lasts."""
        headers = Headers(scope=scope)
        self._origins.check_host(headers)
        if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
            self._origins.check_origin(scope["scheme"], headers)

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send, error: ChatstreamError) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        else:
            await answer(Request(scope), error)(scope, receive, send)
