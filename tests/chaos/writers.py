"""Clients that start turns, stop them, and clear conversations."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.chaos.audit import find_cleared
from tests.chaos.http import CutError, ask
from tests.chaos.ledger import Json, Turn
from tests.chaos.pollers import Poller, Stranger
from tests.chaos.readers import TurnReader
from tests.chaos.sockets import SocketReader
from tests.chaos.world import Client, Room, World

SSE = {"Accept": "text/event-stream"}


class Starter(Client):
    """Starts one turn, in one of the ways that there are, and has others read it."""

    def __init__(
        self, world: World, room: Room, turn: Turn, rng: random.Random, socket: SocketReader
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
            await self._socket.start(self.room, self.turn)

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

    def __init__(self, world: World, room: Room, sockets: list[SocketReader]) -> None:
        super().__init__(world, f"writer of {room.user}/{room.name}")
        self.room = room
        self._sockets = [socket for socket in sockets if room in socket.rooms]

    async def run(self) -> None:
        """Start turns until the run rests."""
        while not self.world.resting.is_set():
            turn = self.world.new_turn(self.room, self.rng)
            socket = self.rng.choice(self._sockets)
            starter = Starter(self.world, self.room, turn, self.rng, socket)
            starting = self.world.spawn(starter.run(), starter.name)
            self._accompany(turn)
            patience = self.rng.choice((0.3, 5.0))
            await turn.bell.until(lambda turn=turn: turn.over, patience)  # type: ignore[misc]
            if not turn.acked:
                await asyncio.wait([starting])

    def _accompany(self, turn: Turn) -> None:
        spawn, draw = self.world.spawn, self.rng.random
        for number in range(self.rng.choice((0, 1, 2))):
            reader = TurnReader(self.world, f"reader {number} of {turn.turn_id}", self.room, turn)
            spawn(when_acked(turn, reader), reader.name)
        if draw() < 0.25:
            spawn(Canceller(self.world, self.room, turn).run(), f"canceller of {turn.turn_id}")
        if draw() < 0.4:
            spawn(Poller(self.world, self.room, turn).run(), f"poller of {turn.turn_id}")
        if draw() < 0.3:
            spawn(Stranger(self.world, self.room, turn).run(), f"stranger to {turn.turn_id}")


async def when_acked(turn: Turn, reader: TurnReader) -> None:
    """Read a turn once somebody has seen that it is there."""
    await turn.bell.until(lambda: turn.shown > 0 or turn.over)
    await reader.run()


class Canceller(Client):
    """Stops a turn from elsewhere, once it has come to some place."""

    def __init__(self, world: World, room: Room, turn: Turn) -> None:
        super().__init__(world, f"canceller of {turn.turn_id}")
        self.room = room
        self.turn = turn

    async def run(self) -> None:
        """Wait for some text, then cancel until that is answered."""
        turn = self.turn
        length = self.rng.randrange(1, len(turn.text))
        await turn.bell.until(lambda: turn.shown >= length or turn.over)
        turn.cancel_asked = True
        status, answer, _ = await self.call("POST", f"/turns/{turn.turn_id}/cancel", self.room.body)
        if status == 200:
            if answer["status"] == "running":
                self.violate(5, f"{turn.turn_id} runs on after its cancel")
        elif not (status == 404 and turn.clear_asked):
            self.violate(5, f"{status} for a cancel: {answer}")


class Clearer(Client):
    """Clears a conversation now and then, and looks for what should be gone."""

    def __init__(self, world: World, room: Room, data: Path) -> None:
        super().__init__(world, f"clearer of {room.user}/{room.name}")
        self.room = room
        self._data = data

    async def run(self) -> None:
        """Clear or erase until the run rests."""
        resting = self.world.resting
        while not resting.is_set():
            try:
                async with asyncio.timeout(self.rng.uniform(1.0, 4.0)):
                    await resting.wait()
            except TimeoutError:
                await self._clear()

    async def _clear(self) -> None:
        async with self.room.lock:
            turns = [t for t in self.room.turns if t.acked and not t.clear_asked]
            for turn in turns:
                turn.clear_asked = True
            if self.room.erasable and self.rng.random() < 0.5:
                await self._ask("DELETE", f"/conversations?{self.room.query()}", None)
            else:
                await self._ask("POST", "/history/clear", self.room.body)
            for turn in turns:
                turn.cleared_at = time.monotonic()
                turn.bell.ring()
            self.ledger.bell.ring()
            find_cleared(self._data, self.ledger, turns)

    async def _ask(self, method: str, target: str, body: Json | None) -> None:
        status, answer, _ = await self.call(method, target, body)
        # An erasure whose answer was lost finds nothing when it is asked for again.
        if status != 200 and not (status == 404 and method == "DELETE"):
            self.violate(7, f"{status} for a clear: {answer}")
        self.ledger.figures["erasures" if method == "DELETE" else "clears"] += 1
