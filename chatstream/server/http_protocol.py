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
import urllib.parse
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chatstream.server.connections import (
    HEAD_SECONDS,
    KEPT_SECONDS,
    REST_SECONDS,
    Connections,
    Place,
)
from chatstream.server.flow import Flow, nothing
from chatstream.server.heads import FRAMING, HEAD_BYTES, HEADERS, URL_BYTES, parse_target
from chatstream.server.one_answer import LastCycle
from chatstream.server.refusals import Refusal, Refused, raw, request_id
from chatstream.server.websocket_protocol import SocketProtocol
from chatstream.web.origins import Origins
from chatstream.web.overload import BUSY, CROWDED

logger = logging.getLogger(__name__)

SLICE = 4096
"""Bytes that are parsed at once."""
DISCARDED = 1 << 20
"""Of a client that is refused while it sends, so much is read for it to hear why."""
DISCARD_SECONDS = 2.0
_END = b"\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """
    One connection that speaks HTTP/1.

    Attributes:
        since: Since when it owes a head, or the rest of a body, in the loop's time.
        deadline: Until when.
    """

    __slots__ = (
        *("since", "deadline", "_all", "_place", "_data", "_at", "_queued", "_paused", "_begun"),
        *("_head", "_count", "_overhead", "_body", "_running", "_refusal", "_discarded"),
        "_origins",
    )

    def __init__(
        self, *given: Any, connections: Connections, origins: Origins, **named: Any
    ) -> None:
        super().__init__(*given, **named)
        self._all, self._origins = connections, origins
        self._place: Place | None = None
        self._data, self._at = b"", 0
        self._queued = self._paused = False
        # Of the request that is being received: its head is not whole; headers; bytes.
        self._begun = self._head = False
        self._count = self._overhead = self._body = 0
        self._running: RequestResponseCycle | None = None
        self._refusal: Refusal | None = None
        self._discarded = 0
        self.since = self.deadline = 0.0

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
        """Undo what refers to this object, so that nobody has to look for circles."""
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
        """Take a slice of what has come, if it can be taken now; say whether that may go on."""
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

    def _check_overhead(self) -> None:
        """
        Bound what is no body: blank lines, a head, chunk sizes and their extensions, trailers.

        Raises:
            Refused: It is too much.
        """
        if self._overhead <= HEAD_BYTES:
            return
        if self._head and self._overhead - len(self.url) > HEAD_BYTES:
            raise Refused(431, f"Headers: at most {HEAD_BYTES} bytes.")
        if not self._head and self._overhead > URL_BYTES + 2 * HEAD_BYTES + FRAMING * self._body:
            raise Refused(431, "What stands between and behind a body's chunks is too long.")

    def _upgrade(self, rest: bytes) -> None:
        if self._should_upgrade():
            self._hand_over(rest + self._data[self._at :])
        elif self._offers_another():
            # The parser takes no body where it sees an offer, so that it gets the head without.
            self.headers = [(n, v) for n, v in self.headers if n != b"upgrade"]
            self._feed(self._head_again() + rest)
        elif rest:
            self._feed(rest)

    def _offers_another(self) -> bool:
        """Say whether a request would change to a protocol that is not spoken here."""
        changes = self.parser.should_upgrade() and not self._should_upgrade()
        return changes and self.parser.get_method() != b"CONNECT"

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

    # ---- the parser's calls

    def on_message_begin(self) -> None:
        """Begin a request: its head is due."""
        super().on_message_begin()
        self._begun = self._head = True
        self._count = self._body = self._overhead = 0
        if self.cycle is not None and self._running is None:
            self._all.wait(self, HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.url += url
        if len(self.url) > URL_BYTES:
            raise Refused(414, f"The request's target: at most {URL_BYTES} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is counted, and left at that."""
        self._count += 1
        if self._count > HEADERS:
            raise Refused(431, f"Headers: at most {HEADERS}.")
        if self._head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or let it wait for its turn."""
        self._begun = self._head = False
        self._all.go(self)
        if self._offers_another():
            return
        version = self.parser.get_http_version()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        target = parse_target(self.url, self.headers)
        path = target.path or b"/"
        self.url = path if target.query is None else b"%s?%s" % (path, target.query)
        spare = self._place is not None and self._place.spare
        if self.parser.should_upgrade() and self._should_upgrade():
            if self._running is not None:
                raise Refused(400, "Upgrade: only once all requests before are answered.")
            if spare:
                raise Refused(503, BUSY)
            return
        self._describe(path, target.query or b"")
        if spare:
            cast(dict[str, Any], self.scope)[CROWDED] = True
        self.cycle = self._cycle(spare or version == "1.0")
        if self._running is None:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.pipeline.appendleft((self.cycle, self.app))

    def _describe(self, raw_path: bytes, query: bytes) -> None:
        path = raw_path.decode("ascii")
        self.scope["path"] = self.root_path + urllib.parse.unquote(path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = query

    def _cycle(self, last: bool) -> RequestResponseCycle:
        last = last or not self.parser.should_keep_alive()
        return (LastCycle if last else RequestResponseCycle)(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and self.scope["http_version"] != "1.0",
            keep_alive=not last,
            on_response=self.on_response_complete,
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body += len(body)
        self._overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; where it has been answered before, the next one is waited for."""
        if self._offers_another():
            return
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self.cycle.more_body = False
            self._all.wait(self, KEPT_SECONDS)

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

    # ---- ends

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
            self.transport.pause_reading()  # else all that comes is read before anybody's turn
            self._all.turns.add(self._read_on)

    def _read_on(self) -> bool:
        self._pause_or_resume()
        return False

    def expire(self) -> None:
        """End it; half a head is told that it came too late."""
        if self._begun and self._refusal is None:
            self._refuse(Refusal(408, f"The head must arrive within {HEAD_SECONDS:.0f} s."))
        else:
            self.drop()

    def drop(self) -> None:
        """End it without a word; what the client does not take is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

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
