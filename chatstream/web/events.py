"""
`GET /events`: a conversation live, for ever; or several of a user in one answer.

Browsers open six connections to a host: who follows more conversations than that over SSE names
`conversation_id` several times. Such an answer has no `id:` lines, since one cursor cannot stand
for all: whoever comes back says with `after` where each is to go on.
"""

from __future__ import annotations

import logging

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatstream.errors import ChatstreamError, StorageFailed, StorageFull, Unavailable
from chatstream.events import Address
from chatstream.schemas import Addressed, FollowQuery, parse
from chatstream.views.subscriber import start_of_conversation
from chatstream.web import wire
from chatstream.web.feed import SLICE, Feed, Subscription
from chatstream.web.problems import event
from chatstream.web.requests import cursor, pairs, query
from chatstream.web.sse import CutStream, EventStream, LogStream
from chatstream.web.state import SHARE, Services, services_of

logger = logging.getLogger(__name__)


async def follow(request: Request) -> Response:
    """`GET /events`: one conversation, or several where `conversation_id` is repeated."""
    if request.scope["query_string"].count(b"&") > SHARE:
        await services_of(request).shares.turn()
    if [name for name, _ in pairs(request)].count("conversation_id") > 1:
        return await _several(request)
    asked = query(request, Addressed)
    services = services_of(request)
    try:
        conversation = await services.log.conversation(asked.address)
    except (StorageFailed, StorageFull, Unavailable):
        return CutStream(services)
    where = start_of_conversation(conversation, cursor(request), services.log.last_id)
    return LogStream(services, conversation, where)


async def _several(request: Request) -> Response:
    asked = query(request, FollowQuery, ("conversation_id", "after"))
    stream = SharedStream(services_of(request))
    afters = asked.after or [""] * len(asked.conversation_id)
    try:
        for name, after in zip(asked.conversation_id, afters, strict=True):
            await stream.follow(Address(asked.user_id, name), after or None)
    except BaseException:
        stream.close()
        raise
    return stream


class SharedStream(EventStream):
    """
    Several conversations of a user, each from its own cursor on. It has no end of its own.

    What is wrong with one of them is told by an `error` event with its `conversation_id`, as on a
    WebSocket, and the others go on.
    """

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._feed = Feed(self._signal.set, services.shares)
        self._opening = wire.sse_retry()

    async def follow(self, address: Address, after: str | None) -> None:
        """Send a conversation too, from a cursor on; it is read from now on."""
        log = self._services.log
        try:
            address = parse(Addressed, address._asdict()).address
            conversation = await log.conversation(address)
        except (ChatstreamError, OSError) as error:
            self._opening += _failed(address.conversation_id, error)
            return
        where = start_of_conversation(conversation, after, log.last_id)
        self._feed.subscribe(conversation, where)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, then let go by shares: of many streams that end at once none keeps others."""
        try:
            await self._answer(scope, receive, send)
            await self._feed.end()
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        self._feed.close()

    async def stream(self) -> bool:
        """Send each that has something a slice in turn, so that a long backlog delays no other."""
        opening = self._opening
        while not self._left:
            if opening or self._feed.ready:
                frames = opening + await self._round()
                opening = b""
                if frames:
                    await self.write(frames)
            elif self._ending:
                return False
            else:
                await self.quiet()
        return False

    async def _round(self) -> bytes:
        """Take what leaves in one send: some of each that has something, or one slice at least."""
        taken = b""
        for number, name in enumerate(list(self._feed.ready)):
            if number % SHARE == 0:
                await self._services.shares.turn()
            if subscription := self._feed.take_turn(name):
                taken += await self._take(subscription)
            if len(taken) >= SLICE:
                break
        return taken

    async def _take(self, subscription: Subscription) -> bytes:
        name = subscription.name
        try:
            frames = await subscription.frames()
        except (ChatstreamError, OSError) as error:
            logger.error("subscription lost", extra={"error": type(error).__name__})
            self._feed.unsubscribe(name)
            return _failed(name, error)
        if frames:
            self._feed.ready[name] = None  # there may be more, once the others have had their turn
        return b"".join(map(wire.sse_control, frames))


def _failed(conversation_id: str, error: Exception) -> bytes:
    return wire.sse_control(orjson.dumps(event(error) | {"conversation_id": conversation_id}))
