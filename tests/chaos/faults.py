"""
Faults that a run must find, planted into the server's process before it serves.

Each is a mistake that somebody could make, in the one part that keeps a promise of CONTRACT
section 2.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from chatstream.errors import NotFound
from chatstream.events import Address, EventId
from chatstream.http.sse import EventStream, LogStream
from chatstream.log import erase
from chatstream.log.clock import IdClock
from chatstream.log.conversation import Conversation
from chatstream.log.live_turn import LiveTurn
from chatstream.log.records import Encoded
from chatstream.reply import Why
from chatstream.subscriber import Subscriber
from chatstream.turns import EndedTurn, TurnRunner


class Fault(NamedTuple):
    """What promise it breaks, and how."""

    promise: int
    plant: Callable[[], None]


def put(owner: object, name: str, part: object) -> None:
    """Put a broken part in the place of the right one, which must be there."""
    getattr(owner, name)
    setattr(owner, name, part)


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


def show_before_writing() -> None:
    """Deltas are shown, and their live file is not written."""

    def broken(self: LiveTurn, data: bytes) -> None:
        self._written += len(data)

    put(LiveTurn, "_write_live", broken)


def begin_the_clock_anew() -> None:
    """The clock believes the machine's, and neither its ceiling nor the logs."""
    begin = IdClock.__init__

    def broken(self: IdClock, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        self._last = 0

    put(IdClock, "__init__", broken)
    put(IdClock, "raise_to", lambda self, number: None)


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


def keep_a_copy() -> None:
    """A clear leaves what was there under another name."""
    write_aside = erase.write_aside

    async def broken(path: Path, *given: Any) -> int:
        shutil.copy(path, path.with_suffix(".old"))
        return await write_aside(path, *given)

    put(erase, "write_aside", broken)


def keep_live_files() -> None:
    """A clear leaves the running turns' text."""
    put(erase, "remove_beside", lambda path: None)


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


FAULTS = {
    "lose-an-event": Fault(1, lose_an_event),
    "repeat-an-event": Fault(1, repeat_an_event),
    "show-before-writing": Fault(2, show_before_writing),
    "begin-the-clock-anew": Fault(3, begin_the_clock_anew),
    "wait-for-readers": Fault(4, wait_for_readers),
    "stop-with-the-reader": Fault(5, stop_with_the_reader),
    "forget-what-started": Fault(6, forget_what_started),
    "keep-a-copy": Fault(7, keep_a_copy),
    "keep-live-files": Fault(7, keep_live_files),
    "look-under-any-user": Fault(8, look_under_any_user),
    "end-every-body-well": Fault(9, end_every_body_well),
}
