"""Clients that start turns."""

from __future__ import annotations

import asyncio
import random

from tests.chaos.company import accompany
from tests.chaos.http import CutError, ask
from tests.chaos.ledger import Json, Turn
from tests.chaos.readers import TurnReader
from tests.chaos.world import Asker, Client, Room, World

SSE = {"Accept": "text/event-stream"}


class Starter(Client):
    """Starts one turn, in one of the ways that there are, and has others read it."""

    def __init__(
        self, world: World, room: Room, turn: Turn, rng: random.Random, socket: Asker
    ) -> None:
        super().__init__(world, f"starter of {turn.turn_id}")
        self.room = room
        self.turn = turn
        self.body: Json = {**room.body, "turn_id": turn.turn_id, "message": turn.message}
        self._socket = socket
        self._ways = [self._post, self._chat, self._send]
        if not room.clearable:
            self._ways.append(self._wait)

    async def run(self) -> None:
        """Start it; everything else goes on by itself."""
        await self.rng.choice(self._ways)()

    async def _post(self) -> None:
        async with self.room.lock:
            await self._start()
        if not self.room.clearable and self.rng.random() < 0.3:
            await self._start()  # again: it attaches
            status, _, _ = await self.call("POST", "/turns", {**self.body, "message": "other"})
            if status != 409:
                self.violate(6, f"{status} for another body under {self.turn.turn_id}")

    async def _start(self) -> None:
        status, answer, _ = await self.call("POST", "/turns", self.body)
        if status != 202 or answer["turn_id"] != self.turn.turn_id:
            self.violate(6, f"{status} for a start: {answer}")
        self.turn.acked = True

    async def _send(self) -> None:
        async with self.room.lock:
            ask = {"turn_id": self.turn.turn_id, "message": self.turn.message}
            if await self.is_acked(self._socket, self.room, "send", **ask):
                self.turn.acked = True

    async def _chat(self) -> None:
        """Read the answer to `POST /chat`, then go on at `/turns/…/events`."""
        reader = TurnReader(self.world, f"chat {self.turn.turn_id}", self.room, self.turn)
        await self.room.lock.acquire()
        held = True
        try:
            while True:
                reader.view.connecting(rewind=True)
                try:
                    sock = await self.dial()
                    manner = self.manner()
                    async with ask(
                        sock, "POST", "/chat", headers=SSE, json=self.body, manner=manner
                    ) as answer:
                        if answer.status == 200:
                            self.turn.acked = True
                            if held:
                                self.room.lock.release()
                                held = False
                            await reader.read(answer)
                            break
                        if answer.status != 503:
                            self.violate(6, f"{answer.status} for a start by chat")
                            return
                except CutError:
                    if self.turn.acked and (self.room.clearable or self.rng.random() < 0.5):
                        break
                await self.rest()
        finally:
            if held:
                self.room.lock.release()
        await reader.run()

    async def _wait(self) -> None:
        """Wait for the reply as JSON, asking again as often as the connection breaks."""
        status, answer, headers = await self.call("POST", "/chat", self.body)
        self.turn.acked = True
        if f"/turns/{self.turn.turn_id}?" not in headers.get("location", ""):
            self.violate(6, f"no location of {self.turn.turn_id}: {headers}")
        text = answer.get("reply") if status == 200 else answer.get("text")
        await self.turn.bell.until(lambda: self.turn.terminal is not None)
        assert self.turn.terminal is not None
        if text != self.turn.terminal["text"]:
            self.violate(1, f"{status} with another text than the end of {self.turn.turn_id}")


class Writer(Client):
    """Keeps one conversation busy: turns one after the other, and beside each other."""

    def __init__(self, world: World, room: Room) -> None:
        super().__init__(world, f"writer of {room.user}/{room.name}")
        self.room = room

    async def run(self) -> None:
        """Start turns until the run rests."""
        while not self.world.resting.is_set():
            turn = self.world.new_turn(self.room, self.rng)
            socket = self.rng.choice(self.room.sockets)
            starter = Starter(self.world, self.room, turn, self.rng, socket)
            starting = self.world.spawn(starter.run(), starter.name)
            accompany(self.world, self.room, turn)
            patience = self.rng.choice((0.3, 5.0))
            await turn.bell.until(lambda turn=turn: turn.over, patience)  # type: ignore[misc]
            if not turn.acked:
                await asyncio.wait([starting])
