"""
A running turn in its conversation's log: where its deltas wait, and its live file.

A turn takes text in at once, writes it with all that is ready, and only then shows it. For the
loop's thread; one task writes a turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import orjson

from chatstream.errors import ChatstreamError, StorageFailed, StorageFull, TurnEnded
from chatstream.events import (
    DeltaKind,
    EventId,
    Json,
    TerminalType,
    TurnId,
    envelope,
    kept,
    place,
)
from chatstream.log.files.journal import Journal, Written
from chatstream.log.files.live_file import LiveFile
from chatstream.log.files.records import Encoded, Opening
from chatstream.log.files.summary import Orphan
from chatstream.log.files.tail import DeltaRun
from chatstream.log.files.visibility import FOREVER

logger = logging.getLogger(__name__)

EndTurn = Callable[["LiveTurn", TerminalType, Json], Awaitable[Encoded]]
"""Writes the terminal event of a turn, and returns once it is durable."""


class LiveTurn:
    """
    One running turn. The log makes it; the turn's task writes to it and ends it.

    Attributes:
        conversation: The journal of the conversation that it runs in.
        live_file: Where its deltas lie for a process that comes after this one.
        size: Bytes that the text and the reasoning take as JSON.
        started: Done once `turn.started` is durable: True, or False where the disk refused it.
        opening: The JSON of `turn.started`; None where another process wrote it.
        refused: Why its start, or its end, could not be written.
        ending: The last write of the terminal event that was begun: done with it, or with what
            went wrong.
        done: Done with the terminal event once that is durable; None where it never will be.
        on_clear: Called when a clear or an erase ends the turn: stop what computes it.
    """

    def __init__(
        self, journal: Journal, end: EndTurn, turn_id: TurnId, started_id: EventId, body: str
    ) -> None:
        loop = asyncio.get_running_loop()
        self.conversation = journal
        self.turn_id = turn_id
        self.started_id = started_id
        self.body = body
        self.ended = False
        self.size = 0
        self.started: asyncio.Future[bool] = loop.create_future()
        self.opening: Opening | None = None
        self.refused: StorageFull | StorageFailed | None = None
        self.ending: asyncio.Future[Written] | None = None
        self.done: asyncio.Future[Encoded | None] = loop.create_future()
        self.on_clear: Callable[[], None] | None = None
        self.live_file = LiveFile(journal, started_id)
        self._end = end
        self._runs: list[DeltaRun] = []
        self._waiting: list[bytes] = []
        # What the disk has refused, oldest first; neighbours are of two kinds.
        self._refused: list[tuple[DeltaKind, bytes]] = []
        self._kind: DeltaKind = "text"
        self._mute = False
        self._scheduled = False

    @classmethod
    def left(cls, journal: Journal, end: EndTurn, orphan: Orphan) -> LiveTurn:
        """Take up a turn that another process left, with what had come of it, to end it."""
        started = orphan.started
        turn = cls(journal, end, started["turn_id"], started["id"], started.get("body", ""))
        turn.started.set_result(True)
        turn.live_file.found()
        kinds: tuple[tuple[DeltaKind, str], ...]
        kinds = ("reasoning", orphan.reasoning), ("text", orphan.text)
        for kind, text in kinds:
            if text:
                run = DeltaRun(journal.address.conversation_id, turn.turn_id, kind)
                run.add(turn.started_id, orjson.dumps(text)[1:-1], b"")
                turn._runs.append(run)
        return turn

    def write(self, text: str, kind: DeltaKind = "text") -> None:
        """
        Take a piece of the reply. It is seen after the next flush, in order, joined with what
        else is ready; it is never lost while the process lives, even where the disk is full.

        Raises:
            TurnEnded: The turn has its terminal event.
        """
        if self.ended:
            raise TurnEnded("The turn has ended.")
        escaped = orjson.dumps(text)[1:-1]
        if kind != self._kind:
            self.flush()
            self._kind = kind
        if not self._scheduled:
            self._scheduled = True
            self.conversation.disk.flush_soon(self)
        self._waiting.append(escaped)
        self.size += len(escaped)

    def flush(self) -> None:
        """Write what waits to the live file, then show it; where it cannot be, try again later."""
        self._scheduled = False
        if self.ended:
            return
        if self._mute or self._refused:
            self._put_behind()
        elif self._waiting:
            escaped = b"".join(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
            if self._shown(self._kind, escaped):
                self._waiting.clear()
            else:
                self._put_behind()
                return
        while self._refused and not self._mute and self._shown(*self._refused[0]):
            del self._refused[0]

    def _put_behind(self) -> None:
        """Put the waiting text behind the refused text; each piece keeps its kind."""
        if not self._waiting:
            return
        escaped = b"".join(self._waiting)
        self._waiting.clear()
        if self._refused and self._refused[-1][0] == self._kind:
            escaped = self._refused.pop()[1] + escaped
        self._refused.append((self._kind, escaped))

    def _shown(self, kind: DeltaKind, escaped: bytes) -> bool:
        """Write a delta and show it; where the disk refuses it, it is flushed again later."""
        conversation = self.conversation
        run = conversation.tail.run(self.turn_id, kind)
        try:
            identifier = conversation.disk.next_id()
            json = run.encode(identifier, escaped)
            self.live_file.write(json + b"\n")
        except ChatstreamError as error:
            logger.debug("delta not written", extra={"code": error.code})
            self._scheduled = True
            conversation.disk.flush_later(self)
            return False
        conversation.tail.extend(run, identifier, escaped, json)
        if not self._runs or self._runs[-1] is not run:
            self._runs.append(run)
        conversation.wrote_live(identifier, self.live_file.fd, self._silence)
        return True

    def mark(self, fields: Json) -> None:
        """
        Write `turn.answering`, which lives as long as the deltas.

        Raises:
            TurnEnded: The turn has its terminal event.
            StorageFull, StorageFailed: It could not be written, and is not shown.
        """
        if self.ended:
            raise TurnEnded("The turn has ended.")
        self.flush()
        conversation = self.conversation
        identifier = conversation.disk.next_id()
        event = envelope("turn.answering", identifier, conversation.address.conversation_id)
        event |= {"turn_id": self.turn_id, **fields}
        json = kept(event)
        self.live_file.write(json + b"\n")
        conversation.tail.add(Encoded.of(event, json))
        conversation.wrote_live(identifier, self.live_file.fd, self._silence)

    async def end(self, kind: TerminalType, fields: Json) -> Encoded:
        """
        Write the terminal event; returns once it is durable. `text` and `reasoning` are added.

        Raises:
            TurnEnded: The turn has its terminal event already.
            StorageFull, StorageFailed: It could not be written; it may be tried again.
        """
        if self.ended:
            raise TurnEnded("The turn has ended.")
        self.flush()
        return await self._end(self, kind, fields)

    def text(self, kind: DeltaKind = "text", upto: int | None = None) -> bytes:
        """
        Return the text of a kind, as the inside of a JSON string.

        All that came; or with `upto`, what is shown at that place.
        """
        parts: list[bytes | bytearray] = []
        for run in self._runs:
            if run.kind == kind:
                parts.append(run.text if upto is None else run.until(upto))
        if upto is None:
            parts += [escaped for refused, escaped in self._refused if refused == kind]
            parts += self._waiting if kind == self._kind else ()
        return b"".join(parts)

    def _silence(self) -> None:
        # A delta was lost on its way to the disk, so none after it may be shown: the terminal
        # event has them all.
        self._mute = True
        self.conversation.tail.drop(self.turn_id)

    def close(self, event: Encoded | None) -> None:
        """Let go: the turn has ended with this event, or this process will write no end."""
        self.ended = True
        self._waiting.clear()
        self._refused.clear()
        self.live_file.close()
        if not self.started.done():
            self.started.set_result(event is not None)
        if not self.done.done():
            self.done.set_result(event)

    def restore_live_file(self) -> None:
        """Write the text again where the live file is gone: it was shown, and must outlive us."""
        if not self.live_file.is_lost:
            return
        data = b"".join(e.json + b"\n" for run in self._runs for e in run.read(0, FOREVER)[0])
        try:
            self.live_file.restore(data)
        except ChatstreamError:
            self._silence()  # the next delta would leave a hole in the text

    @property
    def started_place(self) -> int:
        """The place of `turn.started`."""
        return place(self.started_id)
