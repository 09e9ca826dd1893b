"""
uvicorn's WebSocket protocol, made light: many frames in one write, and little kept while idle.

What it inherits is not promised by uvicorn: tests hold the version that is installed to it.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport, Transport
from collections import deque
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

FRAMES = "chatstream.frames"
"""In `extensions` where a `websocket.send` may hold `frames`, a list of texts, instead of one."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket; sends the frames of one message in one write."""

    # What the parent sets. So many attributes in a `__dict__` take 1.5 KiB, here 0.3.
    __slots__ = (
        *("config", "app", "loop", "logger", "root_path", "asgi_version", "app_state"),
        *("connections", "tasks", "default_headers", "transport", "server", "client", "scheme"),
        *("queue", "handshake_initiated", "handshake_complete", "close_sent", "disconnected"),
        *("close_timer", "close_timeout", "initial_response", "conn", "read_paused", "writable"),
        *("ping_interval", "ping_timeout", "ping_timer", "pong_timer", "pending_ping_payload"),
        *("ping_sent_at", "last_ping_rtt", "frames", "curr_msg_data_type"),
        *("request", "response", "scope"),
    )

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # asyncio's queue and event take 4 KiB: four deques. One task waits at a time.
        self.queue = _Mailbox(self.loop)  # type: ignore[assignment]
        self.writable = _Gate(self.loop)  # type: ignore[assignment]

    def connection_made(self, transport: BaseTransport) -> None:
        """Take the connection over."""
        before = cast(Transport, transport).get_protocol()
        if isinstance(before, HttpToolsProtocol):
            # It and its parser keep each other, until the collector comes by.
            before.parser = None  # type: ignore[assignment]
        super().connection_made(transport)

    def handle_connect(self, event: Any) -> None:
        """Say to the application what is possible here."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"][FRAMES] = {}

    def shutdown(self) -> None:
        """Tell the client that the server goes; one who has said that he leaves is told nothing."""
        if self.transport.is_closing():
            # What it has not read keeps it open; uvicorn would raise, and the rest be left undone.
            self.stop_keepalive()
        else:
            super().shutdown()

    async def send(self, message: Any) -> None:
        """Send; many frames leave in one write."""
        frames = message.get("frames")
        if frames is None:
            await super().send(message)
            if message["type"] == "websocket.accept":
                self._forget_handshake()
            return
        await self.writable.wait()  # before anything is prepared: a pong would take it along
        try:
            for frame in frames[:-1]:
                self.conn.send_text(frame)
        except InvalidState:  # one side has said that it leaves
            raise ClientDisconnected from None
        # What is sent here leaves with what was prepared above.
        await super().send({"type": "websocket.send", "text": frames[-1].decode()})

    def _forget_handshake(self) -> None:
        """Let go of the headers: kilobytes that nobody reads again once a socket is accepted."""
        self.scope["headers"] = []
        # The parser keeps the request, so that they are taken from it.
        self.request.headers.clear()
        del self.request, self.response


class _Mailbox:
    """What `asyncio.Queue` is used for, by one reader at a time."""

    __slots__ = ("_loop", "_messages", "_reader")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[Any] | None = None
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, message: Any) -> None:
        """Append a message."""
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def empty(self) -> bool:
        """Say whether nothing waits."""
        return not self._messages

    async def get(self) -> Any:
        """Take the oldest message, once there is one."""
        while not self._messages:
            self._messages = None
            self._reader = self._loop.create_future()
            await self._reader
            self._reader = None
        return self._messages.popleft()


class _Gate:
    """What `asyncio.Event` is used for: open nearly always, so that nobody waits."""

    __slots__ = ("_loop", "_opened")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._opened: asyncio.Future[None] | None = None

    def clear(self) -> None:
        """Close."""
        if self._opened is None:
            self._opened = self._loop.create_future()

    def set(self) -> None:
        """Open; whoever waits goes on."""
        if self._opened is not None:
            self._opened.set_result(None)
            self._opened = None

    async def wait(self) -> None:
        """Wait until it is open."""
        while self._opened is not None:
            await asyncio.shield(self._opened)
