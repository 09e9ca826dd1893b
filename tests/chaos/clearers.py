"""Clients that clear and erase, and look for what should be gone; then begin anew."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.chaos.audit import find_cleared
from tests.chaos.http import CutError, ask, events
from tests.chaos.ledger import Json, Turn
from tests.chaos.world import Client, Room, World


class Clearer(Client):
    """Clears a conversation now and then, or erases it; or erases a user with all of theirs."""

    def __init__(self, world: World, rooms: list[Room], data: Path, *, leaving: bool) -> None:
        super().__init__(world, f"clearer of {rooms[0].user}/{rooms[0].name}")
        self.rooms = rooms
        self._leaving = leaving
        self._data = data

    async def run(self) -> None:
        """Clear or erase until the run rests."""
        while await self.some_time(1.0, 4.0):
            await self._clear()

    async def _clear(self) -> None:
        async with AsyncExitStack() as stack:
            for room in self.rooms:
                await stack.enter_async_context(room.lock)
            turns = [t for room in self.rooms for t in room.turns if t.acked and not t.clear_asked]
            for turn in turns:
                turn.clear_asked = True
            gone = [turn.marker for turn in turns] + [t for r in self.rooms for t in r.titles]
            room = self.rooms[0]
            erased = True
            if self._leaving:
                await self._ask("DELETE", f"/users?user_id={room.user}", None, "users erased")
                gone += self._opinions_gone(room.user)
            elif room.erasable and self.rng.random() < 0.5:
                await self._ask("DELETE", f"/conversations?{room.query()}", None, "erasures")
            else:
                await self._clear_history(room)
                erased = False
            for turn in turns:
                turn.cleared_at = time.monotonic()
                turn.bell.ring()
            for room in self.rooms:
                room.titles.clear()
            self.ledger.bell.ring()
            find_cleared(self._data, self.ledger, gone)
            if erased:
                for room in self.rooms:
                    await self._begin_anew(room, [t for t in turns if t.conversation == room.name])

    async def _clear_history(self, room: Room) -> None:
        if (socket := self.socket_of(room)) is None:
            await self._ask("POST", "/history/clear", room.body, "clears")
            return
        if not await self.is_acked(socket, room, "clear"):
            self.violate(7, "a clear finds nothing to clear")
        self.ledger.figures["clears"] += 1

    def _opinions_gone(self, user: str) -> list[str]:
        gone = [o for o in self.ledger.opinions if o.user == user and o.acked and not o.erased]
        for opinion in gone:
            opinion.erased = True
        return [opinion.comments for opinion in gone]

    async def _ask(self, method: str, target: str, body: Json | None, figure: str) -> None:
        status, answer, _ = await self.call(method, target, body)
        # An erasure whose answer was lost finds nothing when it is asked for again.
        if status != 200 and not (status == 404 and method == "DELETE"):
            self.violate(7, f"{status} for a clear: {answer}")
        self.ledger.figures[figure] += 1

    async def _begin_anew(self, room: Room, before: list[Turn]) -> None:
        """Start a turn under the old name: an old cursor is no good there."""
        cursor = max((start for turn in before for start in turn.starts), default=None)
        if cursor is None:
            return
        turn = self.world.new_turn(room, self.rng)
        body = {**room.body, "turn_id": turn.turn_id, "message": turn.message}
        status, answer, _ = await self.call("POST", "/turns", body)
        if status != 202:
            self.violate(6, f"{status} for a new beginning: {answer}")
        turn.acked = True
        kinds = await self._first_two(f"/events?{room.query(after=cursor)}")
        if kinds != ["ready", "reset"]:
            self.violate(1, f"{cursor}, from before an erasure, is answered by {kinds}")
        self.ledger.figures["new beginnings"] += 1

    async def _first_two(self, target: str) -> list[str]:
        while True:
            kinds: list[str] = []
            try:
                async with ask(await self.dial(), "GET", target) as answer:
                    async for event in events(answer):
                        kinds.append(event["type"])
                        if len(kinds) == 2:
                            return kinds
            except CutError:
                pass
            await self.rest()
