"""
A journal in which turns run: which ones, what a record says of them, and how they are stopped.

For the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from chatstream.events import Address, EventId, Json, before, envelope, event_id
from chatstream.log.files.disk import Disk
from chatstream.log.files.journal import Journal, Written
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.records import Encoded
from chatstream.log.files.summary import FileState, Orphan
from chatstream.log.files.visibility import End


class TurnJournal(Journal):
    """
    A conversation's events in order, and the turns that write them.

    Attributes:
        running: The turns whose terminal event is not durable yet, by the place of their start.
        orphans: Turns that another process left, and that have not been ended yet.
        looking: The last look at a file that was changed from outside.
    """

    def __init__(self, disk: Disk, address: Address, state: FileState) -> None:
        self.running: dict[int, LiveTurn] = {}
        self.orphans: list[Orphan] = []
        self.looking: asyncio.Task[None] | None = None
        super().__init__(disk, address, state)

    def adopt(self, state: FileState) -> None:
        """Take over the file as it was found, or as it was made anew."""
        super().adopt(state)
        self.orphans = list(state.orphans)

    def found_anew(self, state: FileState) -> None:
        """Take over the file as somebody else has left it; places go on rising."""
        self.epoch += 1
        self.disk.clock.raise_to(state.last)
        self.adopt(replace(state, last=max(state.last, self._last)))
        if not self.running:
            self.tail.clear(self._last)

    def resume_from(self) -> EventId:
        """Return the cursor from which a reader of the history misses nothing."""
        if self.running:
            return before(event_id(min(self.running)))
        return self.last_id

    def live(self, turn_id: str) -> LiveTurn | None:
        """Return a running turn."""
        for turn in self.running.values():
            if turn.turn_id == turn_id:
                return turn
        return None

    def event(self, identifier: EventId, kind: str, fields: Json) -> Json:
        """Return an event of this conversation."""
        return envelope(kind, identifier, self.address.conversation_id) | fields

    def record(
        self,
        event: Json,
        own: Json,
        end: End,
        done: Callable[[Written], None],
        *,
        may_use_reserve: bool = False,
    ) -> None:
        """Append an event, and with it which turns run; see `append`."""
        running = [turn.started_id for turn in self.running.values() if not turn.ended]
        running += [orphan.started["id"] for orphan in self.orphans]
        bookkeeping: Json = {"turns": end.turns, "running": running}
        if end.titled:
            bookkeeping["titled"] = end.titled
        self.append(event, bookkeeping | own, end, done, may_use_reserve=may_use_reserve)

    async def shut(self) -> list[LiveTurn]:
        """
        Make other writes wait, end what runs, and wait for what is on its way to the disk.

        Returns the turns that it ended: they have no terminal event yet. `go_on` must follow.
        """
        await self.settled()
        self.gate = asyncio.get_running_loop().create_future()
        try:
            await self.file.settled()
            self._stop_running()
            await self.order.drained()
        except BaseException:
            self.open_gate()
            raise
        # An end that was on its way may have failed.
        self._stop_running()
        return list(self.running.values())

    def _stop_running(self) -> None:
        for turn in self.running.values():
            if not turn.ended:
                turn.ended = True
                if turn.on_clear:
                    turn.on_clear()

    def go_on(self, state: FileState, turns: list[LiveTurn], events: list[Encoded]) -> None:
        """
        Go on after `shut` with the new file, and the events that tell of it.

        `events` are the turns' ends, in order, and what follows them.
        """
        self.tell(state, events)
        for turn, event in zip(turns, events, strict=False):
            self.running.pop(turn.started_place, None)
            turn.close(event)
        self.open_gate()
