"""
One SSE answer: a subscriber's events as frames, until the turn's end or the client's leaving.

These streams can be resumed: a cut must not look like an end. sse-starlette's response ends every
body well, and costs three times a bare send for each token, four tasks and 30 KiB for each reader;
`finite` uses it for what is whole. Here a reader is one cursor and one task that waits for its
leaving; everything that is ready leaves in one send.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatstream.errors import ChatstreamError
from chatstream.log.files.journal import Journal
from chatstream.log.files.live_turn import LiveTurn
from chatstream.views.subscriber import Signal, Start, Subscriber
from chatstream.web import wire
from chatstream.web.state import Services

logger = logging.getLogger(__name__)

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}


class EventStream(Response, ABC):
    """An SSE answer. Ends cleanly only after a turn's last event: cut is not done."""

    media_type = "text/event-stream"

    def __init__(self, services: Services, headers: dict[str, str] | None = None) -> None:
        self.init_headers(HEADERS | (headers or {}))  # there is no body whose length it could tell
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._signal = Signal()
        self._task: asyncio.Task[None] | None = None
        self._left = self._ending = self._beat = False
        self._send: Send
        self.spoke_at = 0.0
        self.sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end, the client's leaving, or the server's going away."""
        try:
            await self._answer(scope, receive, send)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of what is read."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self._task = asyncio.current_task()
        leaving = asyncio.ensure_future(self._watch(receive))
        self._services.pulse.add(self)
        self._services.metrics.stream_opened("sse")
        complete = False
        try:
            complete = await self.stream()
        except (ChatstreamError, OSError) as error:
            # The disk cannot be read, which is told where it is found: the client comes back.
            logger.debug("stream cut", extra={"error": type(error).__name__})
        except asyncio.CancelledError:
            if not self._left:
                raise
            self._task.uncancel()  # type: ignore[union-attr]
        finally:
            self._services.pulse.remove(self)
            self._services.metrics.stream_closed("sse")
            leaving.cancel()
        if complete and not self._left:
            await send({"type": "http.response.body", "body": b""})
        # Otherwise the body has no last chunk: whoever reads it knows that it was cut.

    @abstractmethod
    async def stream(self) -> bool:
        """Send everything; say whether the end is the turn's own."""

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client is slow, and costs nothing meanwhile."""
        self._beat = False
        self.sending = True
        self.spoke_at = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.sending = False

    async def quiet(self) -> None:
        """Wait for something to do; a heartbeat that is due leaves here."""
        await self._signal.wait()
        if self._beat:
            await self.write(wire.sse_control(wire.HEARTBEAT))

    def beat(self) -> None:
        """Send a heartbeat soon."""
        self._beat = True
        self._signal.set()

    def end(self) -> None:
        """End without a last chunk: the client comes back elsewhere."""
        self._ending = True
        self._signal.set()

    def drop(self) -> None:
        """Give up a client that takes nothing."""
        self._left = True
        if self._task is not None:
            self._task.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._signal.set()


class LogStream(EventStream):
    """A conversation, or one running turn of it, from a cursor on."""

    def __init__(
        self,
        services: Services,
        conversation: Journal,
        start: Start,
        turn: LiveTurn | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(services, headers)
        self._name = conversation.address.conversation_id
        self._start = start
        self._turn = turn
        # It reads from here on, not from the first send on, which may wait for a slow client: of
        # an erasure in between it would learn nothing.
        self._subscriber = Subscriber(conversation, start, self._signal.set, turn)

    def close(self) -> None:
        """Stop reading."""
        self._subscriber.close()

    async def stream(self) -> bool:
        """Send the backlog, then what comes; True once the turn's last event is sent."""
        name, subscriber = self._name, self._subscriber
        opening = opened(name, self._start)
        told = False
        while not self._left:
            last = self._ending or self._unfinished
            events = await subscriber.take()
            frames = wire.sse_all([(event.id, event.json) for event in events])
            if not told and subscriber.caught_up:
                told = True
                if not subscriber.ended:
                    frames += wire.sse_control(wire.caught_up(name, subscriber.backlog_until))
            if opening or frames:
                await self.write(opening + frames)
                opening = b""
            if subscriber.ended:
                return True
            if not events:
                if last:
                    return False
                await self.quiet()
        return False

    @property
    def _unfinished(self) -> bool:
        """Whether the disk refused the turn's end: the reader must come back after a restart."""
        return self._turn is not None and self._turn.done.done() and not self._turn.done.result()


class CutStream(EventStream):
    """
    What could not begin: it says when to come back, and is cut off.

    Any other answer would end a browser's `EventSource` for good.
    """

    async def stream(self) -> bool:
        """Send that."""
        await self.write(wire.sse_retry())
        return False


def opened(conversation_id: str, start: Start) -> bytes:
    """Return what opens every stream: when to come back, where it starts, and a reset if any."""
    ready = wire.ready(conversation_id, start.after, reset=start.reset)
    if start.reset:
        told = wire.sse_control(ready) + wire.sse_control(wire.reset(conversation_id))
    else:
        told = wire.sse(start.after, ready)
    return wire.sse_retry() + told
