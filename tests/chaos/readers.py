"""Clients that read event streams: one turn as `EventSource` does, a conversation for ever."""

from __future__ import annotations

import asyncio

from tests.chaos.http import Answer, CutError, Manner, ask, events
from tests.chaos.ledger import Turn
from tests.chaos.view import View
from tests.chaos.world import Client, Room, World


class TurnReader(Client):
    """Reads one turn to its end, coming back with its last id: `Last-Event-ID`, or `?after=`."""

    def __init__(self, world: World, name: str, room: Room, turn: Turn) -> None:
        super().__init__(world, name)
        self.room = room
        self.turn = turn
        self.view = View(world.ledger, name, room.name)

    async def run(self) -> None:
        """Read until 204: that is how a browser learns that it has everything."""
        while not await self._once():
            await self.rest()

    async def _once(self) -> bool:
        where = f"/turns/{self.turn.turn_id}/events?"
        headers, more = {}, {}
        if self.view.last_id and self.rng.random() < 0.7:
            headers["Last-Event-ID"] = self.view.last_id
        elif self.view.last_id:
            more["after"] = self.view.last_id
        where += self.room.query(**more)
        try:
            sock = await self.dial()
            self.view.connecting()
            async with ask(sock, "GET", where, headers=headers, manner=self.manner()) as answer:
                return await self.read(answer)
        except CutError:
            return False

    async def read(self, answer: Answer) -> bool:
        """Read one answer to its end; say whether the turn is over for this client."""
        told, turn_id = self.view.ended, self.turn.turn_id
        if answer.status == 204:
            if turn_id not in told:
                self.violate(1, f"204 for {turn_id}, whose end it does not have")
            return True
        if answer.status != 200:
            if not (answer.status == 404 and self.turn.clear_asked):
                self.violate(2, f"{answer.status} for {turn_id}")
            return True
        async for event in events(answer):
            self.view.take(event)
        if turn_id not in told and not self.view.cleared:
            self.violate(9, f"the body ends well, and {turn_id} does not")
        return False


class Joiner(TurnReader):
    """Looks at a running turn as JSON, and goes on from there: nothing is missing between."""

    def __init__(self, world: World, room: Room, turn: Turn) -> None:
        super().__init__(world, f"joiner of {turn.turn_id}", room, turn)

    async def run(self) -> None:
        """Wait for some text, look once, and read the rest, if there is one."""
        turn = self.turn
        await turn.bell.until(lambda: turn.shown > 0 or turn.over)
        target = f"/turns/{turn.turn_id}?{self.room.query()}"
        status, answer, _ = await self.call("GET", target)
        if status == 200 and answer["status"] == "running":
            self.view.join(answer)
            self.ledger.figures["turns joined"] += 1
            await super().run()


class ConversationReader(Client):
    """
    Reads a conversation from its beginning until its last turn's end.

    A drowsy one reads nothing for seconds now and then, its connection open: a laptop's sleep.
    """

    def __init__(self, world: World, name: str, room: Room, *, drowsy: bool = False) -> None:
        super().__init__(world, name)
        self.room = room
        self.view = View(world.ledger, name, room.name, erasable=room.erasable)
        self._drowsy = drowsy

    @property
    def done(self) -> bool:
        """Whether it has all that there will be."""
        return self.room.last is not None and self.room.last.turn_id in self.view.ended

    async def run(self) -> None:
        """Read on over every cut."""
        while not self.done:
            try:
                await self._once()
            except CutError:
                pass
            await self.rest()

    async def _once(self) -> None:
        sock = await self.dial(4096 if self._drowsy else None)
        self.view.connecting()
        headers, more = {}, {"after": "0"}
        if self.view.last_id:
            headers["Last-Event-ID"] = self.view.last_id  # it wins over what the URL says
        target = f"/events?{self.room.query(**more)}"
        manner = Manner(8000) if self._drowsy else self.manner()
        async with ask(sock, "GET", target, headers=headers, manner=manner) as answer:
            if answer.status != 200:
                self.violate(1, f"{answer.status} for {target}")
            async for event in events(answer):
                self.view.take(event)
                if self.done or self.view.must_rewind:
                    return
                if self._drowsy and not self.world.calm and self.rng.random() < 0.02:
                    await asyncio.sleep(self.rng.uniform(0.5, 3.0))
            self.violate(9, f"{target} ends well, and nothing had ended")
