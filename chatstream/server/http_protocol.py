"""
uvicorn's HTTP protocol, with bounds: on heads, on time, and on what is taken at once.

What comes is parsed in slices that end where a request may end. Nothing more is parsed while a
request waits for the answer before it, while a body waits for its reader, or while the client does
not take what it is sent; then reading stops too. What it inherits is not promised by uvicorn:
tests hold the version that is installed to it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httptools

from chatstream.server.connections import HEAD_SECONDS, KEPT_SECONDS, REST_SECONDS, Connections
from chatstream.server.flow import Flow, nothing
from chatstream.server.received_requests import ReceivedRequests
from chatstream.server.refusals import Refusal, Refused, raw
from chatstream.server.websocket_protocol import SocketProtocol
from chatstream.web.origins import Origins
from chatstream.web.problems import request_id

logger = logging.getLogger(__name__)

SLICE = 4096
"""Bytes that are parsed at once."""
DISCARDED = 1 << 20
"""Bytes that are read of a client that is refused while it sends, so that it sees the answer."""
DISCARD_SECONDS = 2.0
_END = b"\r\n\r\n"


class HttpProtocol(ReceivedRequests):
    """One connection that speaks HTTP/1."""

    __slots__ = ("_data", "_at", "_queued", "_paused", "_refusal", "_discarded", "_origins")

    def __init__(
        self, *given: Any, connections: Connections, origins: Origins, **named: Any
    ) -> None:
        super().__init__(*given, connections=connections, **named)
        self._origins = origins
        self._data, self._at = b"", 0
        self._queued = self._paused = False
        self._refusal: Refusal | None = None
        self._discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, and wait for a head."""
        super().connection_made(transport)
        self.flow = Flow(transport, self._go_on)
        self._place = self._all.enter(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, and let go of everything."""
        running, self._running = self._running, None
        if running is not None and running is not self.cycle and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self._all.go(self)
        self._part()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._place is not None:
            self._place.leave()

    def _part(self) -> None:
        """Undo what refers to this object, so that no circle is left to the collector."""
        self._data = b""
        assert isinstance(self.flow, Flow)
        self.flow.go_on = nothing

    # ---- what comes, in slices

    def data_received(self, data: bytes) -> None:
        """Take the first slice at once; the others wait for their turn."""
        if self._refusal is not None:
            self._discard(len(data))
            return
        self._data, self._at = (self._data[self._at :] + data if self._data else data), 0
        if self._queued or not self._step():
            self._pause_or_resume()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Take what has come, when it is this connection's turn."""
        if self._data and not self._queued:
            self._queued = True
            self._pause_or_resume()
            self._all.turns.add(self._turn)

    def _turn(self) -> bool:
        self._queued = self._step()
        if not self._queued:
            self._pause_or_resume()
        return self._queued

    def _pause_or_resume(self) -> None:
        """Read only while all has been taken that came."""
        held = bool(self._data)
        if held != self._paused and not self.transport.is_closing():
            self._paused = held
            if held:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _step(self) -> bool:
        """Take a slice of what has come, if it can be taken now; return whether there is more."""
        data, at = self._data, self._at
        if not data or self.pipeline or self.flow.read_paused or self.flow.write_paused:
            return False
        if self.transport.is_closing():
            self._data = b""
            return False
        # A request ends with its head, or with a body that is cut here too: no harm is done.
        end = data.find(_END, at, at + SLICE) + len(_END)
        if end < len(_END):
            end = min(at + SLICE, len(data))
        if end == len(data):
            self._data = b""
        else:
            self._at = end
        self._feed(data if at == 0 and end == len(data) else data[at:end])
        return bool(self._data)

    def _feed(self, piece: bytes) -> None:
        self._overhead += len(piece)
        rest = None
        try:
            self.parser.feed_data(piece)
            self._check_overhead()
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._refuse(_reason(error))
        except Refused as error:
            self._refuse(error.refusal)
        if rest is not None:
            self._upgrade(rest)

    def _upgrade(self, rest: bytes) -> None:
        if self._should_upgrade():
            self._hand_over(rest + self._data[self._at :])
        elif self.offers_another():
            # The parser takes no body where it sees an offer, so that it gets the head without.
            self.headers = [(n, v) for n, v in self.headers if n != b"upgrade"]
            self._feed(self._head_again() + rest)
        elif rest:
            self._feed(rest)

    def _head_again(self) -> bytes:
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/"]
        head += [self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        return b"".join((*head, b"\r\n"))

    def _hand_over(self, rest: bytes) -> None:
        """Let the connection be a WebSocket from here on, with what follows the request."""
        head = self._head_again()
        self._part()
        self._pause_or_resume()
        self.connections.discard(self)
        socket = SocketProtocol(self.config, self.server_state, self.app_state)
        socket.place, socket.turns = self._place, self._all.turns
        socket.connection_made(self.transport)
        self.transport.set_protocol(socket)
        socket.begin(head, request_id(self.headers))
        if rest:
            socket.data_received(rest)

    # ---- ends

    def on_response_complete(self) -> None:
        """Begin with the next request, or wait for one."""
        self.server_state.total_requests += 1
        self._running = None
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._say(self._refusal)
        elif self.cycle.more_body:
            self._all.wait(self, REST_SECONDS)
        else:
            self._all.wait(self, HEAD_SECONDS if self._begun else KEPT_SECONDS)
        self.flow.read_paused = False
        self._go_on()

    def _refuse(self, refusal: Refusal) -> None:
        """Take nothing more; say why, once what came before is answered."""
        logger.warning(
            "request refused",
            extra={"status": refusal.status, "address": self.client[0] if self.client else ""},
        )
        self._data = b""
        self._refusal = refusal
        running, received = self._running, self.cycle
        if self.pipeline and not self._begun and received.more_body:
            self.pipeline.popleft()  # its body is what is wrong
        if running is None:
            self._say(refusal)
        elif running is received and not self._begun and running.more_body:
            running.disconnected = True
            running.message_event.set()
            if running.response_started:
                self.transport.close()
            else:
                self._say(refusal)

    def _say(self, refusal: Refusal) -> None:
        """Answer, and read on for a moment: a client that still sends would not hear it else."""
        if self.transport.is_closing():
            return
        self.transport.write(raw(refusal, self.headers or [], self._origins))
        self.transport.write_eof()
        self._all.wait(self, DISCARD_SECONDS)

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > DISCARDED:
            self.transport.abort()
        elif not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()  # else all of it is read before others have a turn
            self._all.turns.add(self._read_on)

    def _read_on(self) -> bool:
        self._pause_or_resume()
        return False

    def expire(self) -> None:
        """End it; a client that sent half a head gets 408."""
        if self._begun and self._refusal is None:
            self._refuse(Refusal(408, f"The head must arrive within {HEAD_SECONDS:.0f} s."))
        else:
            self.drop()

    def shutdown(self) -> None:
        """End it after the answer that is being given."""
        if self._running is None:
            self.transport.close()
        else:
            self._running.keep_alive = False


def _reason(error: httptools.HttpParserError) -> Refusal:
    """Return why parsing has ended. Apart, since a frame that keeps its own error is a circle."""
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause.refusal
    if cause is not None:
        logger.error("request not parsed", exc_info=cause)
    return Refusal(400, f"The request is not HTTP/1: {error}.")
