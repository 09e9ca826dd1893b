"""Who looks at a turn besides its starter."""

from __future__ import annotations

import asyncio

from tests.chaos.ledger import Turn
from tests.chaos.opinions import Rater
from tests.chaos.pollers import Poller, Stranger, page_over
from tests.chaos.readers import Joiner, TurnReader
from tests.chaos.world import Asker, Client, Room, World


def accompany(world: World, room: Room, turn: Turn) -> None:
    """Send readers, a canceller, pollers, raters and strangers, or none of them."""
    rng = world.rng(f"company of {turn.turn_id}")
    spawn, draw = world.spawn, rng.random
    for number in range(rng.choice((0, 1, 2))):
        reader = TurnReader(world, f"reader {number} of {turn.turn_id}", room, turn)
        spawn(_when_there(turn, reader), reader.name)
    for likely, kind in (
        *((0.25, Canceller), (0.4, Poller), (0.3, Stranger), (0.3, Rater)),
        (0.3, Joiner),
    ):
        if draw() < likely * (world.hurry if kind is Rater else 1):
            client = kind(world, room, turn)
            spawn(client.run(), client.name)


async def _when_there(turn: Turn, reader: TurnReader) -> None:
    await turn.bell.until(lambda: turn.shown > 0 or turn.over)
    await reader.run()


class Canceller(Client):
    """Stops a turn from elsewhere, once it has come to some place."""

    def __init__(self, world: World, room: Room, turn: Turn) -> None:
        super().__init__(world, f"canceller of {turn.turn_id}")
        self.room = room
        self.turn = turn

    async def run(self) -> None:
        """Wait for some text, then cancel until that is answered: then it has ended."""
        turn = self.turn
        length = self.rng.randrange(1, len(turn.text))
        await turn.bell.until(lambda: turn.shown >= length or turn.over)
        turn.cancel_asked = True
        if (socket := self.socket_of(self.room)) is not None:
            await self._cancel_over(socket)
            return
        status, answer, _ = await self.call("POST", f"/turns/{turn.turn_id}/cancel", self.room.body)
        if status == 200:
            if answer["status"] == "running":
                self.violate(5, f"{turn.turn_id} runs on after its cancel")
        elif not (status == 404 and turn.clear_asked):
            self.violate(5, f"{status} for a cancel: {answer}")

    async def _cancel_over(self, socket: Asker) -> None:
        """Cancel and ask for the history in one breath: that is answered after the cancel."""
        turn_id, room = self.turn.turn_id, self.room
        acked, page = await asyncio.gather(
            self.is_acked(socket, room, "cancel", turn_id=turn_id),
            page_over(socket, self, room, limit=100),
        )
        if not (acked or self.turn.clear_asked):
            self.violate(5, f"there is no {turn_id} to cancel")
        for message in page["history"]:
            if message["turn_id"] == turn_id and message["status"] == "running":
                self.violate(5, f"{turn_id} runs on after its cancel")
