"""
Faults that a run must find, planted into the server's process before it serves.

Each is a mistake that somebody could make, in the one part that keeps a promise of
`protocol.md`, section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope, Send

from chatstream.errors import NotFound
from chatstream.events import Address, EventId
from chatstream.log.files import lookup
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.lookup import Record
from chatstream.log.files.records import Encoded
from chatstream.turns.runner import EndedTurn, TurnRunner
from chatstream.turns.terminal import Why
from chatstream.views import history, subscriber
from chatstream.views.subscriber import Subscriber
from chatstream.views.versions import AgainKind, AgainRequest, again
from chatstream.web import conversations
from chatstream.web import versions as http_versions
from chatstream.web.sse import EventStream, LogStream
from tests.chaos.planting import Fault, put
from tests.chaos.socket_faults import SOCKET_FAULTS
from tests.chaos.storage_faults import STORAGE_FAULTS


def lose_an_event() -> None:
    """Where several events are ready, one is left out."""
    take = Subscriber.take

    async def broken(self: Subscriber, *given: Any) -> list[Encoded]:
        events = await take(self, *given)
        return events[1:] if len(events) > 2 else events

    put(Subscriber, "take", broken)


def repeat_an_event() -> None:
    """Who comes back gets the last event that it had again."""
    begin = Subscriber.__init__

    def broken(self: Subscriber, *given: Any) -> None:
        begin(self, *given)
        self.after -= 1

    put(Subscriber, "__init__", broken)


def wait_for_readers() -> None:
    """A turn ends only when no reader is behind."""
    end_turn, write = Conversation.end_turn, EventStream.write
    behind: list[EventStream] = []

    async def noted(self: EventStream, data: bytes) -> None:
        behind.append(self)
        try:
            await write(self, data)
        finally:
            behind.remove(self)

    async def broken(self: Conversation, *given: Any) -> Encoded:
        while behind:
            await asyncio.sleep(0.02)
        return await end_turn(self, *given)

    put(EventStream, "write", noted)
    put(Conversation, "end_turn", broken)


def stop_with_the_reader() -> None:
    """A turn is stopped when somebody who reads it leaves."""
    begin, call = LogStream.__init__, EventStream.__call__
    runners: dict[EventStream, TurnRunner] = {}

    def noted(self: LogStream, services: Any, *given: Any, **named: Any) -> None:
        begin(self, services, *given, **named)
        runners[self] = services.runner

    async def broken(self: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
        await call(self, scope, receive, send)
        runner = runners.pop(self, None)
        if runner is not None and isinstance(self, LogStream) and self._turn is not None:
            for reply in list(runner.running.values()):
                if reply.turn is self._turn:
                    reply.stop(Why("turn.cancelled", "user"))

    put(LogStream, "__init__", noted)
    put(EventStream, "__call__", broken)


def forget_what_started() -> None:
    """The turns that have ended are not remembered."""

    async def broken(self: Conversation) -> dict[str, EventId]:
        self.recent = {}
        return self.recent

    put(Conversation, "load_recent", broken)


def begin_without_the_text() -> None:
    """A turn that goes on from another begins with nothing."""

    def broken(kind: AgainKind, *given: Any) -> AgainRequest:
        return again(kind, *given).model_copy(update={"partial": ""})

    put(http_versions, "again", broken)


def show_what_was_replaced() -> None:
    """The history has every turn, and knows nothing of those that replace others."""
    records_back = lookup.records_back

    def broken(*given: Any) -> Iterator[Record]:
        for record in records_back(*given):
            record.data.pop("replaced_id", None)
            yield record

    put(lookup, "records_back", broken)


def leave_out_between_pages() -> None:
    """A page goes on behind the message whose reply was the last page's first."""
    read_place = history.read_place

    def broken(text: str | None) -> history.Place | None:
        return read_place(text and text.replace("r", "m"))

    put(conversations, "read_place", broken)


def believe_any_cursor() -> None:
    """A cursor from before an erasure is gone on from."""
    put(subscriber, "is_good", lambda conversation, cursor, last: True)


def look_under_any_user() -> None:
    """A running turn is found by its id alone."""
    get = TurnRunner.get

    async def broken(self: TurnRunner, address: Address, turn_id: str) -> LiveTurn | EndedTurn:
        try:
            return await get(self, address, turn_id)
        except NotFound:
            for reply in self.running.values():
                if reply.turn.turn_id == turn_id:
                    return reply.turn
            raise

    put(TurnRunner, "get", broken)


def end_every_body_well() -> None:
    """A stream that ends has its last chunk, whatever it ends for."""
    stream = LogStream.stream

    async def broken(self: LogStream) -> bool:
        await stream(self)
        return True

    put(LogStream, "stream", broken)


FAULTS: dict[str, Fault] = {
    "lose-an-event": Fault(1, lose_an_event),
    "repeat-an-event": Fault(1, repeat_an_event),
    "believe-any-cursor": Fault(1, believe_any_cursor),
    "begin-without-the-text": Fault(1, begin_without_the_text),
    "leave-out-between-pages": Fault(1, leave_out_between_pages, seconds=2),
    "show-what-was-replaced": Fault(1, show_what_was_replaced),
    "wait-for-readers": Fault(4, wait_for_readers, seconds=1),
    "stop-with-the-reader": Fault(5, stop_with_the_reader),
    "forget-what-started": Fault(6, forget_what_started),
    "look-under-any-user": Fault(8, look_under_any_user),
    "end-every-body-well": Fault(9, end_every_body_well),
    **SOCKET_FAULTS,
    **STORAGE_FAULTS,
}
