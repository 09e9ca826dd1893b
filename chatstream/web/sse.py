"""
One SSE answer: a subscriber's events as frames, until the turn's end or the client's leaving.

`EventSourceResponse` gives the protocol's headers. Its call is replaced, since it costs three
times a bare send for each token, four tasks and 30 KiB for each reader, and cuts streams short at
shutdown. Here a reader is one cursor and one task that waits for its leaving; whatever is ready
leaves in one send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from chatstream.errors import ChatstreamError
from chatstream.events import Address, EventId
from chatstream.log.files.journal import Journal
from chatstream.log.files.live_turn import LiveTurn
from chatstream.views.subscriber import Signal, Start, Subscriber
from chatstream.web import wire
from chatstream.web.state import Services

logger = logging.getLogger(__name__)

HEADERS = {"Cache-Control": "no-cache, no-transform"}


class EventStream(EventSourceResponse):
    """An SSE answer. Ends cleanly only after a turn's last event: cut is not done."""

    def __init__(self, services: Services, headers: dict[str, str] | None = None) -> None:
        super().__init__(_nothing(), headers=HEADERS | (headers or {}), ping=0)
        # Of what the parent keeps only the headers are used: 2 KiB for each reader, else.
        raw_headers = self.raw_headers
        vars(self).clear()
        self.raw_headers = raw_headers
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

    async def stream(self) -> bool:
        """Send everything; say whether the end is the turn's own."""
        raise AssertionError

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


class EndedStream(EventStream):
    """A turn that has ended: what of its two events comes after the cursor."""

    def __init__(
        self,
        services: Services,
        address: Address,
        start: Start,
        events: list[tuple[EventId, bytes]],
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(services, headers)
        self._frames = opened(address.conversation_id, start)
        self._frames += wire.sse_all(event for event in events if event[0] > start.after)

    async def stream(self) -> bool:
        """Send it whole."""
        await self.write(self._frames)
        return True


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


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
