"""
One conversation: its log, and the turns that run in it.

For the loop's thread. No call leaves anything half done when its caller is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import orjson

from chatstream.errors import NotFound, StorageFailed, TurnEnded
from chatstream.events import Address, EventId, Json, TerminalType, TurnId
from chatstream.log.files import lookup
from chatstream.log.files.disk import Disk
from chatstream.log.files.journal import Written
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.outside import look_anew
from chatstream.log.files.records import Encoded, Opening
from chatstream.log.files.summary import FileState
from chatstream.log.files.trouble import refusal
from chatstream.log.files.turn_journal import TurnJournal

RECENT_TURNS = 1000
"""The newest turns, to which a repeated start attaches (`protocol.md`, section 2, promise 6)."""


class Conversation(TurnJournal):
    """
    The log of one conversation, safe to use from any task of the loop.

    Attributes:
        recent: The starts of the newest turns by their ids; None until they are read.
    """

    def __init__(self, disk: Disk, address: Address, state: FileState) -> None:
        self.recent: dict[str, EventId] | None = None
        super().__init__(disk, address, state)

    def adopt(self, state: FileState) -> None:
        """Take over the file as it was found, or as it was made anew."""
        super().adopt(state)
        self.recent = None if state.turns else {}

    # ---- finding turns

    async def find(self, turn_id: str) -> list[Json]:
        """Return a turn's permanent records, its start first; empty where there is none."""

        def job(fd: int, size: int) -> list[Json]:
            return [record.data for record in reversed(lookup.find_turn(fd, size, turn_id))]

        return await self.with_file(job)

    async def load_recent(self) -> dict[str, EventId]:
        """Return the starts of the newest turns by their ids; read from the file at first use."""
        while self.recent is None:
            epoch = self.epoch
            found = await self.with_file(partial(lookup.turn_ids, most=RECENT_TURNS))
            if self.recent is None and epoch == self.epoch:
                self.recent = dict(reversed(found))
        return self.recent

    # ---- writing

    async def start(
        self,
        turn_id: TurnId,
        body: str,
        begin: Callable[[], Json],
        *,
        replaced: EventId | None = None,
    ) -> LiveTurn | EventId:
        """
        Begin a turn: returns it once `turn.started` is durable.

        A turn of this id that was started before is returned instead: the running turn, or the id
        of its start. `begin` is called for a new one only, maybe more than once: it returns the
        fields of `turn.started`, or refuses by raising. Nothing is awaited between that look and
        the append, nor after `begin`. A caller that is cancelled may leave a turn that runs.

        Raises:
            StorageFull, StorageFailed: Nothing was started.
        """
        while True:
            await look_anew(self)
            recent = await self.load_recent()
            if self.gate is None and recent is self.recent:
                if turn := self.live(turn_id):
                    if await asyncio.shield(turn.started):
                        return turn
                    continue
                if turn_id in recent:
                    return recent[turn_id]
                fields = begin()
                if self.created is not None:
                    break
                await self.file.make()
        turn = self._begin(recent, turn_id, body, fields, replaced)
        if not await asyncio.shield(turn.started):
            raise turn.refused or StorageFailed("The message could not be written to disk.")
        return turn

    def _begin(
        self,
        recent: dict[str, EventId],
        turn_id: TurnId,
        body: str,
        fields: Json,
        replaced: EventId | None,
    ) -> LiveTurn:
        turn = LiveTurn(self, self.end_turn, turn_id, self.disk.next_id(), body)
        own: Json = {"body": body}
        if replaced is not None:
            own["replaced_id"] = replaced
        self.running[turn.started_place] = turn
        event = self.event(turn.started_id, "turn.started", {"turn_id": turn_id, **fields})
        turn.opening = Opening(turn.started_id, event, own)
        end = self.file.end._replace(turns=self.file.end.turns + 1)
        try:
            self.record(event, own, end, partial(self._began, turn))
        except BaseException:
            del self.running[turn.started_place]
            turn.close(None)
            raise
        recent[turn_id] = turn.started_id
        if len(recent) > RECENT_TURNS:
            del recent[next(iter(recent))]
        return turn

    def _began(self, turn: LiveTurn, written: Written) -> None:
        if isinstance(written, Encoded):
            if not turn.started.done():
                turn.started.set_result(True)
        else:
            self.running.pop(turn.started_place, None)
            if self.recent is not None and self.recent.get(turn.turn_id) == turn.started_id:
                del self.recent[turn.turn_id]
            turn.refused = refusal(
                written, "The message could not be written to disk; nothing was started."
            )
            turn.close(None)

    async def end_turn(self, turn: LiveTurn, kind: TerminalType, fields: Json) -> Encoded:
        """Append a terminal event; see `LiveTurn.end`, which is what callers use."""
        await look_anew(self)
        if turn.ended:
            raise TurnEnded("The turn has ended.")
        event: Json = {"turn_id": turn.turn_id, "started_id": turn.started_id}
        event["text"] = orjson.Fragment(b'"' + turn.text() + b'"')
        if reasoning := turn.text("reasoning"):
            event["reasoning"] = orjson.Fragment(b'"' + reasoning + b'"')
        identifier = self.disk.next_id()
        done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        turn.ending = done
        turn.ended = True
        try:
            event = self.event(identifier, kind, event | fields)
            ended = partial(self._ended, turn, done)
            self.record(event, {}, self.file.end, ended, may_use_reserve=True)
        except BaseException:
            turn.ended = False
            raise
        return _durable(await asyncio.shield(done), "The reply could not be written to disk.")

    def _ended(self, turn: LiveTurn, done: asyncio.Future[Written], written: Written) -> None:
        if isinstance(written, Encoded):
            self.running.pop(turn.started_place, None)
            self.tail.drop(turn.turn_id)
            turn.close(written)
            turn.live_file.remove()
        else:
            turn.ended = False
        done.set_result(written)

    async def rename(self, title: str) -> Encoded:
        """
        Append `conversation.renamed`; returns once it is durable.

        Raises:
            NotFound: The conversation has no file.
            StorageFull, StorageFailed: The title is as it was.
        """
        await self.settled()
        if self.created is None:
            raise NotFound("There is no such conversation.")
        identifier = self.disk.next_id()
        end = self.file.end._replace(titled=identifier)
        done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        event = self.event(identifier, "conversation.renamed", {"title": title})
        self.record(event, {}, end, done.set_result)
        return _durable(await asyncio.shield(done), "The title could not be written to disk.")


def _durable(written: Written, message: str) -> Encoded:
    if isinstance(written, OSError):
        raise refusal(written, message) from written
    return written
