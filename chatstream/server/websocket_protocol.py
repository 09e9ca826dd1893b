"""
uvicorn's WebSocket protocol, made light: many frames in one write, and little kept while idle.

What comes is parsed in slices. Pings, pongs and fragments are read at the pace at which messages
are: a burst, then so many a second. A ping that comes while the client does not take what it is
sent is answered once it does, and of several the last (RFC 6455, 5.5.3).

What it inherits is not promised by uvicorn: tests hold the version that is installed to it.
"""

from __future__ import annotations

import asyncio
import traceback
from asyncio.transports import BaseTransport, Transport
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol

from chatstream.server.connections import Place, Turns
from chatstream.server.mailbox import Gate, Mailbox
from chatstream.server.refusals import handshake
from chatstream.web.rate_limits import Throttle
from chatstream.web.websocket import FRAMES

SLICE = 2048
"""Bytes that are parsed at once: some 340 frames, if they are empty."""
EXTRAS_AT_ONCE, EXTRAS_PER_SECOND = 1000, 200
"""Control frames and fragments that are read at once, and then in a second."""
OWN = ("place", "turns", "rest", "queued", "stopped", "throttle", "throttled", "pong")
_PONG = 0x80 | Opcode.PONG


class SocketProtocol(WebSocketsSansIOProtocol):
    """
    One WebSocket; sends the frames of one message in one write.

    Attributes:
        place: Left when the connection is lost.
        turns: Where it waits with what is more than a slice.
    """

    # What the parent sets. So many attributes in a `__dict__` take 1.5 KiB, here 0.3.
    __slots__ = (
        *("config", "app", "loop", "logger", "root_path", "asgi_version", "app_state"),
        *("connections", "tasks", "default_headers", "transport", "server", "client", "scheme"),
        *("queue", "handshake_initiated", "handshake_complete", "close_sent", "disconnected"),
        *("close_timer", "close_timeout", "initial_response", "conn", "read_paused", "writable"),
        *("ping_interval", "ping_timeout", "ping_timer", "pong_timer", "pending_ping_payload"),
        *("ping_sent_at", "last_ping_rtt", "frames", "curr_msg_data_type"),
        *("request", "response", "scope"),
        *OWN,
    )

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # asyncio's queue and event take 4 KiB: four deques. One task waits at a time.
        self.queue = Mailbox(self.loop)  # type: ignore[assignment]
        self.writable = Gate(self.loop)  # type: ignore[assignment]
        self.place: Place | None = None
        self.turns: Turns | None = None
        self.rest = memoryview(b"")
        self.queued = self.stopped = False
        self.throttle: Throttle | None = None
        self.throttled: asyncio.TimerHandle | None = None
        self.pong: bytes | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Take the connection over."""
        before = cast(Transport, transport).get_protocol()
        if isinstance(before, HttpToolsProtocol):
            # It and its parser keep each other, until the collector comes by.
            before.parser = None  # type: ignore[assignment]
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        super().connection_lost(exc)
        self.rest = memoryview(b"")
        # They refer to what refers to them, until the collector comes by.
        self.conn.parser_exc = self.conn.handshake_exc = None
        del self.conn.parser
        if self.throttled is not None:
            self.throttled.cancel()
        if self.place is not None:
            self.place.leave()

    # ---- what comes, in slices

    def begin(self, head: bytes, name: str) -> None:
        """Take a handshake's request, by its id; one that cannot be read is answered too."""
        self.conn.reject = partial(handshake, name)  # type: ignore[method-assign]
        self.conn.receive_data(head)
        if self.conn.handshake_exc is None:
            self.handle_events()
            return
        answered = b"".join(self.conn.data_to_send())
        detail = "Failed to open a WebSocket connection: the request cannot be read."
        self.transport.write(answered or self.conn.reject(400, detail).serialize())
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take the first slice at once; the others wait for their turn."""
        self.rest = memoryview(bytes(self.rest) + data if self.rest else data)
        if not self.queued and self.step():
            self.go_on()
        else:
            self._stop_or_read()

    def go_on(self) -> None:
        """Take what has come, when it is this connection's turn."""
        if self.rest and not self.queued:
            self.queued = True
            self.turns = self.turns or Turns(self.loop)
            self.turns.add(self._turn)
        self._stop_or_read()

    def _turn(self) -> bool:
        self.queued = self.step()
        if not self.queued:
            self._stop_or_read()
        return self.queued

    def step(self) -> bool:
        """Take a slice of what has come, if it can be taken now; return whether there is more."""
        if self.transport.is_closing():
            self.rest = memoryview(b"")
        if not self.rest or self.read_paused or self.throttled is not None:
            return False
        if self.handshake_initiated and not self.handshake_complete:
            return False  # no frame can be answered, not even by a close, before the handshake is
        piece, self.rest = self.rest[:SLICE], self.rest[SLICE:]
        self.conn.receive_data(piece)  # type: ignore[arg-type]  # it appends it to a bytearray
        if not self.writable.is_set():
            self._keep_last_pong()
        self._count_extras()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()
        else:
            self.handle_events()
        return bool(self.rest)

    def _stop_or_read(self) -> None:
        """Read only while all has been taken that came, and more may be."""
        stop = bool(self.rest) or self.read_paused or self.throttled is not None
        self.stopped = self.stopped or self.read_paused  # what it inherits has stopped it then
        if self.transport.is_closing() or stop == self.stopped:
            return
        self.stopped = stop
        if stop:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _count_extras(self) -> None:
        """Count what is no whole message; beyond the burst, wait before more is taken."""
        extras = sum(map(_is_extra, self.conn.events))
        if not extras:
            return
        self.throttle = self.throttle or Throttle(EXTRAS_AT_ONCE, EXTRAS_PER_SECOND)
        now = self.loop.time()
        delay = max([self.throttle.delay(now) for _ in range(extras)])
        if delay and self.throttled is None:
            self.throttled = self.loop.call_later(delay, self._unthrottle)

    def _unthrottle(self) -> None:
        self.throttled = None
        self.go_on()

    def _keep_last_pong(self) -> None:
        """Hold pongs back while the client takes nothing, or they would pile up."""
        pongs = [data for data in self.conn.writes if data[:1] == b"%c" % _PONG]
        if pongs:
            self.pong = pongs[-1]
            self.conn.writes = [data for data in self.conn.writes if data not in pongs]

    def resume_writing(self) -> None:
        """Answer the last ping, then let the others write."""
        if self.pong is not None and not self.close_sent:
            self.transport.write(self.pong)
        self.pong = None
        super().resume_writing()

    def handle_cont(self, event: Frame) -> None:
        """Join a fragment to those before it: a list of bytes would take 60 times as much."""
        (before,) = frames = cast(list[Any], self.frames)
        if isinstance(before, bytes):
            frames[0] = bytearray(before)
        frames[0] += event.data
        if event.fin:
            frames[0] = bytes(frames[0])
            self.send_receive_event_to_app()

    async def receive(self) -> Any:
        """Return the next message; more is read once it is the last."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.go_on()
        return message

    def handle_connect(self, event: Any) -> None:
        """Offer the application what is possible here."""
        super().handle_connect(event)
        if self.conn.handshake_exc is not None:
            _forget(self.conn, event)
        if hasattr(self, "scope"):
            self.scope["extensions"][FRAMES] = {}

    def shutdown(self) -> None:
        """Tell the client that the server goes; one that leaves already is told nothing."""
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
                self.go_on()  # frames may have come with the handshake
            elif message["type"] == "websocket.close":
                self.go_on()  # the answer to the close is among what comes
            return
        await self.writable.wait()  # before anything is prepared: a pong would take it along
        try:
            for frame in frames[:-1]:
                self.conn.send_text(frame)
        except InvalidState:  # one side has sent a close
            raise ClientDisconnected from None
        # What is sent here leaves with what was prepared above.
        await super().send({"type": "websocket.send", "text": frames[-1].decode()})

    def _forget_handshake(self) -> None:
        """Let go of the headers: kilobytes that are not read again once a socket is accepted."""
        self.scope["headers"] = []
        # The parser keeps the request, so that they are taken from it.
        self.request.headers.clear()
        del self.request, self.response
        vars(self.conn).pop("reject", None)


def _forget(connection: Protocol, request: Request) -> None:
    """Let go of a handshake's error: it keeps all that is here, until the collector comes by."""
    assert connection.handshake_exc is not None
    traceback.clear_frames(connection.handshake_exc.__traceback__)
    connection.handshake_exc = request._exception = None


def _is_extra(event: Request | Frame | Any) -> bool:
    """Return whether a frame is no whole message."""
    if not isinstance(event, Frame):
        return False
    return not event.fin or event.opcode not in (Opcode.TEXT, Opcode.BINARY)
