"""
The requests that a connection receives, as uvicorn's parser tells of them: counted, and started.

What the parser is given, and when, is decided by `http_protocol`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from abc import ABC, abstractmethod
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chatstream.server.connections import HEAD_SECONDS, KEPT_SECONDS, Connections, Place
from chatstream.server.heads import FRAMING, HEAD_BYTES, HEADERS, URL_BYTES, parse_target
from chatstream.server.one_answer import LastCycle
from chatstream.server.refusals import Refused
from chatstream.web.overload import BUSY, CROWDED


class ReceivedRequests(HttpToolsProtocol, ABC):
    """
    Takes what the parser finds in one connection's bytes.

    Attributes:
        since: Since when the connection owes a head, or the rest of a body, in the loop's time.
        deadline: Until when.
    """

    __slots__ = (
        *("since", "deadline", "_all", "_place", "_begun", "_head", "_count", "_overhead"),
        *("_body", "_running"),
    )

    def __init__(self, *given: Any, connections: Connections, **named: Any) -> None:
        super().__init__(*given, **named)
        self._all = connections
        self._place: Place | None = None
        # Of the request that is being received: its head is not whole; headers; bytes.
        self._begun = self._head = False
        self._count = self._overhead = self._body = 0
        self._running: RequestResponseCycle | None = None
        self.since = self.deadline = 0.0

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
        if self.offers_another():
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

    def offers_another(self) -> bool:
        """Return whether a request would change to a protocol that is not spoken here."""
        changes = self.parser.should_upgrade() and not self._should_upgrade()
        return changes and self.parser.get_method() != b"CONNECT"

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
        if self.offers_another():
            return
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self.cycle.more_body = False
            self._all.wait(self, KEPT_SECONDS)

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

    @abstractmethod
    def expire(self) -> None:
        """End the connection, whose deadline has passed."""

    def drop(self) -> None:
        """End it without a word; what the client does not take is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()
