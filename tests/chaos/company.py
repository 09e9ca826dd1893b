"""Who looks at a turn besides its starter."""

from __future__ import annotations

from tests.chaos.ledger import Turn
from tests.chaos.opinions import Rater
from tests.chaos.pollers import Poller, Stranger
from tests.chaos.readers import Joiner, TurnReader
from tests.chaos.world import Client, Room, World


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
        target = f"/turns/{turn.turn_id}"
        if (socket := self.socket_of(self.room)) is not None:
            await self.is_acked(socket, self.room, "cancel", turn_id=turn.turn_id)
            status, answer, _ = await self.call("GET", f"{target}?{self.room.query()}")
        else:
            status, answer, _ = await self.call("POST", f"{target}/cancel", self.room.body)
        if status == 200:
            if answer["status"] == "running":
                self.violate(5, f"{turn.turn_id} runs on after its cancel")
        elif not (status == 404 and turn.clear_asked):
            self.violate(5, f"{status} for a cancel: {answer}")
