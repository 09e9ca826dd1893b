"""
A reader of a log: one cursor, and nothing else of its own.

Replay and live reading are the same act: "what comes after the cursor?". It knows the log, and
nothing of turns' tasks or of transports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from chatstream.events import BEGINNING, TERMINAL_TYPES, EventId, before, is_event_id, place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.journal import Journal
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.records import Encoded
from chatstream.log.files.tail import PIECE


class Start(NamedTuple):
    """Where a stream starts; `reset` says that the client must drop what it shows."""

    after: EventId
    reset: bool = False


def start_of_conversation(conversation: Conversation, cursor: str | None, last: EventId) -> Start:
    """Return where to start a conversation's stream; `last` is the newest id ever given."""
    if cursor is None:
        return Start(conversation.resume_from())
    if is_good(conversation, cursor, last):
        return Start(EventId(cursor))
    return Start(conversation.resume_from(), reset=True)


def start_of_turn(
    conversation: Journal, started_id: EventId, cursor: str | None, last: EventId
) -> Start:
    """Return where to start a turn's stream: from its beginning where the cursor is no good."""
    if cursor is not None and is_good(conversation, cursor, last):
        return Start(EventId(cursor))
    return Start(before(started_id), reset=cursor is not None)


def is_good(conversation: Journal, cursor: str, last: EventId) -> bool:
    """
    Return whether a stream may start at a cursor: the beginning, or an id of this log's lifetime.

    Where there is no log, a good id comes from after the erasure that its client has seen. Where
    this process knows of no erasure, no id is good: an earlier process may have erased.
    """
    if cursor == BEGINNING:
        return True
    if not is_event_id(cursor) or cursor > last:
        return False
    if conversation.created is None:
        return BEGINNING < conversation.last_id <= cursor
    return cursor >= conversation.created


class Signal:
    """Wakes the one task that waits; a wake-up while nobody waits is kept."""

    __slots__ = ("_future", "_loop", "_set")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()  # looked up once: it costs a system call
        self._future: asyncio.Future[None] | None = None
        self._set = False

    def set(self) -> None:
        """Wake the task that waits, or the next one that waits."""
        self._set = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Wait for a wake-up since the last wait."""
        if not self._set:
            self._future = self._loop.create_future()
            await self._future
            self._future = None
        self._set = False


class Subscriber:
    """
    Reads a conversation, or one turn of it, in order, each event once. For one task.

    Attributes:
        after: The place of the last event that was taken.
        caught_up: Whether everything that was there when it began has been taken.
        ended: Whether a turn's last event has been taken: nothing will follow.
    """

    __slots__ = ("conversation", "after", "ended", "backlog_until", "_turn", "_wake")

    def __init__(
        self,
        conversation: Journal,
        start: Start,
        wake: Callable[[], None],
        turn: LiveTurn | None = None,
    ) -> None:
        """`wake` is called whenever `take` may have something, until `close`."""
        self.conversation = conversation
        self.after = place(start.after)
        if turn is not None:
            # No event before its beginning is the turn's, so a long file is not read.
            self.after = max(self.after, place(turn.started_id) - 1)
        self.ended = False
        self.backlog_until = conversation.last_id
        self._turn = turn
        self._wake = wake
        conversation.watch(wake)

    @property
    def caught_up(self) -> bool:
        """Whether what was there when it began has been taken."""
        return self.after >= place(self.backlog_until)

    def close(self) -> None:
        """Stop reading. The turn goes on."""
        self.conversation.unwatch(self._wake)
        self._wake = _nobody  # `wake` refers to the reader: both would stay in memory, with the log

    async def take(self, limit: int = PIECE) -> list[Encoded]:
        """
        Return the next events, some `limit` bytes at a time; empty where there is nothing new.

        Waits for the disk at most, never for an event.

        Raises:
            StorageFailed: The file cannot be read.
        """
        conversation = self.conversation
        turn_id = self._turn.turn_id if self._turn else None
        while True:
            events = conversation.read(self.after, limit, turn_id)
            if events is None:
                events, self.after = await conversation.read_file(self.after, limit)
            elif not events:
                # Everything visible is taken, or belongs to other turns.
                self.after = max(self.after, min(conversation.visible, place(conversation.last_id)))
                return []
            else:
                self.after = place(events[-1].id)
            if turn_id is not None:
                events = self._of_turn(events)
            if events or self.ended:
                return events

    def _of_turn(self, events: list[Encoded]) -> list[Encoded]:
        """Pick the turn's events; `history.cleared` is one of them where a clear ends the turn."""
        assert self._turn is not None
        own: list[Encoded] = []
        for event in events:
            if event.type == "history.cleared" and event.id > self._turn.started_id:
                self.ended = True
                return [*own, event]
            if event.turn_id == self._turn.turn_id:
                own.append(event)
                if event.type in TERMINAL_TYPES and not event.by_clear:
                    self.ended = True
                    return own
        return own


def _nobody() -> None:
    pass
