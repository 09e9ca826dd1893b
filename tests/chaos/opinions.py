"""Clients that say what they think of answers, and give conversations titles: none may be lost."""

from __future__ import annotations

from contextlib import AsyncExitStack
from urllib.parse import urlencode

from tests.chaos.ledger import Opinion, Turn
from tests.chaos.world import Client, Room, World


class Rater(Client):
    """Rates one turn, once or twice: the later rating stands. Some rate nothing in particular."""

    def __init__(self, world: World, room: Room, turn: Turn) -> None:
        super().__init__(world, f"rater of {turn.turn_id}")
        self.room = room
        self.turn = turn

    async def run(self) -> None:
        """Wait until there is something to rate, then rate it until that is answered."""
        turn = self.turn
        await turn.bell.until(lambda: turn.shown > 0 or turn.over)
        about = turn.turn_id if self.rng.random() < 0.8 else None
        for number in range(self.rng.choice((1, 1, 2))):
            async with AsyncExitStack() as stack:
                if self.room.clearable:
                    # Whether a rating came before an erasure must be known.
                    await stack.enter_async_context(self.room.lock)
                if turn.clear_asked or (self.world.resting.is_set() and number):
                    return
                await self._rate(about, f"fb{self.world.seed}-{turn.turn_id}-{number}z")

    async def _rate(self, turn_id: str | None, comments: str) -> None:
        room = self.room
        rating = self.rng.randrange(1, 6)
        opinion = Opinion(room.user, room.name if turn_id else None, turn_id, rating, comments)
        self.ledger.opinions.append(opinion)
        body = {"rating": rating, "comments": comments}
        if turn_id and (socket := self.socket_of(room)) is not None:
            if not await self.is_acked(socket, room, "feedback", turn_id=turn_id, **body):
                self.violate(2, f"{turn_id} is not there to be rated")
        else:
            body |= {"user_id": room.user}
            if turn_id:
                body |= {"turn_id": turn_id, "conversation_id": room.name}
            status, answer, _ = await self.call("POST", "/feedback", body)
            if status != 200:
                self.violate(2, f"{status} for feedback: {answer}")
        opinion.acked = True
        self.ledger.figures["feedback"] += 1


class Namer(Client):
    """Gives a conversation one title after the other."""

    def __init__(self, world: World, room: Room) -> None:
        super().__init__(world, f"namer of {room.user}/{room.name}")
        self.room = room

    async def run(self) -> None:
        """Rename now and then until the run rests."""
        number = 0
        while await self.some_time(1.0, 5.0):
            async with self.room.lock:
                await self._name(f"title {self.world.seed}-{self.name}-{number}z")
            number += 1

    async def _name(self, title: str) -> None:
        there = any(turn.acked and not turn.clear_asked for turn in self.room.turns)
        self.room.titles.append(title)
        target = f"/conversations?{self.room.query()}"
        status, answer, _ = await self.call("PATCH", target, {"title": title})
        if status == 200:
            self.ledger.figures["renamings"] += 1
            await self._look(title)
            return
        self.room.titles.remove(title)
        if status != 404 or there:
            self.violate(2, f"{status} for a title: {answer}")

    async def _look(self, title: str) -> None:
        query = urlencode({"user_id": self.room.user})
        _, answer, _ = await self.call("GET", f"/conversations?{query}")
        titles = {each["conversation_id"]: each["title"] for each in answer["conversations"]}
        if titles.get(self.room.name) != title:
            self.violate(2, f"{self.room.name} is listed as {titles.get(self.room.name)!r}")
