"""Clients that have turns done again: regenerated, continued, or asked with another message."""

from __future__ import annotations

from tests.chaos.company import accompany
from tests.chaos.ledger import Json, Turn
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
        await self._look_at_versions(turn)
        self.ledger.figures[f"turns done again: {kind}"] += 1

    async def _look_at_versions(self, turn: Turn) -> None:
        """
        Look at what it replaced, and what that did: all of it is there, oldest first.

        What else was done with one of them is listed too, and nothing that was not.
        """
        chain = [turn]
        while (base := chain[0].base) is not None and not base.clear_asked:
            chain.insert(0, base)
        ends = [each.terminal for each in chain]  # what ends meanwhile may run still
        target = f"/turns/{turn.turn_id}/versions?{self.room.query()}"
        status, answer, _ = await self.call("GET", target)
        if status != 200:
            self.violate(2, f"{status} for the versions of {turn.turn_id}: {answer}")
            return
        found = {version["turn_id"]: version for version in answer["versions"]}
        named = [each.turn_id for each in chain]
        strange = [v["turn_id"] for v in list(found.values())[1:] if v["replaces"] not in found]
        if (
            [name for name in found if name in named] != named
            or strange
            or next(iter(found)) != named[0]
        ):
            self.violate(1, f"{turn.turn_id} has other versions than {named}: {list(found)}")
            return
        for each, end in zip(chain, ends, strict=True):
            self._compare(found[each.turn_id], each, end)
        self.ledger.figures["versions looked at"] += len(found)

    def _compare(self, version: Json, turn: Turn, end: Json | None) -> None:
        told = version["replaces"], version["kind"], version["message"]["content"]
        if told != (turn.base and turn.base.turn_id, turn.kind, turn.message):
            self.violate(1, f"{turn.turn_id} is a version that is {told}")
        if end is not None and (version["id"], version["text"]) != (end["id"], end["text"]):
            self.violate(1, f"{turn.turn_id} is a version of {len(version['text'])}, ends {end}")

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
