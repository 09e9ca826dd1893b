"""Answers after which the connection ends: all of HTTP/1.0, and where a client wants it so."""

from __future__ import annotations

import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

ENDLESS = 1 << 62
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class LastCycle(RequestResponseCycle):
    """
    A request whose answer is the connection's last; it has one `Connection` header.

    HTTP/1.0 knows no chunks (RFC 9112, 6.1): there the body ends with the connection. One that is
    cut short ends with a reset, which proxies and clients tell from an end.
    """

    open_ended = False

    async def run_asgi(self, app: Any) -> None:
        """Run the application; what it leaves unfinished looks so."""

        async def seen(scope: Any, receive: Any, send: Any) -> Any:
            try:
                return await app(scope, receive, send)
            finally:
                if self.open_ended and not self.response_complete:
                    self._reset_on_close()

        await super().run_asgi(seen)

    async def send(self, message: Any) -> None:
        """Send the head, or a part of the body."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": self._last(message.get("headers", ()))}
        elif self.open_ended and not message.get("more_body", False):
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

    def _last(self, headers: Any) -> list[tuple[bytes, bytes]]:
        """Return an answer's headers, made for an answer that is the last."""
        kept = [(n, v) for n, v in headers if n.lower() not in (b"connection", b"keep-alive")]
        if self.scope["http_version"] == "1.0":
            kept = [(n, v) for n, v in kept if n.lower() != b"transfer-encoding"]
            if all(n.lower() != b"content-length" for n, _ in kept):
                self.open_ended = True
                self.chunked_encoding = False
                self.expected_content_length = ENDLESS
        return kept

    def _reset_on_close(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection is not None and not self.transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
