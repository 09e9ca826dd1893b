"""Clients that have turns done again: regenerated, continued, or asked with another message."""

from __future__ import annotations

from tests.chaos.company import accompany
from tests.chaos.ledger import Turn
from tests.chaos.world import Client, Room, World

KINDS = ("regenerate", "continue", "edit")


class Redoer(Client):
    """Does an ended turn of one conversation again, now and then."""

    def __init__(self, world: World, room: Room) -> None:
        super().__init__(world, f"redoer of {room.user}/{room.name}")
        self.room = room

    async def run(self) -> None:
        """Do turns again until the run rests."""
        while await self.some_time(0.7 * self.world.hurry, 3.0 * self.world.hurry):
            async with self.room.lock:
                await self._once()

    async def _once(self) -> None:
        ended = [t for t in self.room.turns if t.acked and not t.clear_asked and t.terminal]
        if not ended:
            return
        # Mostly a late one, as people do; what it hides is not much then.
        base = self.rng.choice(ended[-3:])
        assert base.terminal is not None
        kind = self.rng.choice(KINDS)
        if kind == "continue" and not base.terminal["text"]:
            kind = "regenerate"
        turn = self.world.new_turn_like(self.room, self.rng, base, kind)
        surely = self._will_hide(base)
        accompany(self.world, self.room, turn)
        target, body = f"/turns/{base.turn_id}/{kind}", {**self.room.body, "turn_id": turn.turn_id}
        if kind == "edit":
            target, body = "/turns", {**body, "message": turn.message, "replaces": base.turn_id}
        self.room.redoing = base
        status, answer, _ = await self.call("POST", target, body)
        self.room.redoing = None
        if status != 202 or answer["turn_id"] != turn.turn_id:
            self.violate(6, f"{status} for a turn done again: {answer}")
        turn.acked = True
        for each in surely:
            each.hidden = True
        self.ledger.figures[f"turns done again: {kind}"] += 1

    def _will_hide(self, base: Turn) -> list[Turn]:
        """Note what it may hide and stop; return what it hides in any case."""
        assert base.terminal is not None
        surely = []
        for turn in self.room.turns:
            if turn.terminal is None:
                turn.may_hide = turn.cancel_asked = True
            elif turn.terminal.get("started_id", "") >= base.terminal["started_id"]:
                turn.may_hide = True
                surely.append(turn)
        return surely
