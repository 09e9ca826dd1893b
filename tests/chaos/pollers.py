"""Clients that look at turns and histories as JSON, again and again; and at what is another's."""

from __future__ import annotations

import asyncio

from tests.chaos.ledger import Json, Turn
from tests.chaos.world import Client, Room, World


class Poller(Client):
    """Looks at a turn again and again as JSON, and at the history now and then."""

    def __init__(self, world: World, room: Room, turn: Turn) -> None:
        super().__init__(world, f"poller of {turn.turn_id}")
        self.room = room
        self.turn = turn

    async def run(self) -> None:
        """Poll until it is over."""
        turn, known = self.turn, ""
        await turn.bell.until(lambda: turn.shown > 0 or turn.over)
        while True:
            status, answer, _ = await self.call("GET", f"/turns/{turn.turn_id}?{self.room.query()}")
            if status != 200:
                if not (status == 404 and turn.clear_asked):
                    self.violate(2, f"{status} for {turn.turn_id}: {answer}")
                break
            text = answer.get("text", "")
            cleared = answer.get("reason") == "cleared"
            if not (cleared or turn.text.startswith(text)):
                self.violate(1, f"{turn.turn_id} is polled as {text[-60:]!r}")
            if len(text) < len(known) and not (turn.torn or cleared):
                self.violate(1, f"{turn.turn_id} has shrunk from {len(known)} to {len(text)}")
            known = text
            turn.show(len(text))
            if answer["status"] != "running":
                break
            await asyncio.sleep(self.rng.uniform(0.05, 0.3))
        await self._look_at_history()

    async def _look_at_history(self) -> None:
        ended = [t for t in self.room.turns if t.terminal is not None]
        messages: list[Json] = []
        more: dict[str, str] = {}
        while True:  # the last turns are large enough for several pages
            _, answer, _ = await self.call("GET", f"/history?{self.room.query(**more)}")
            messages = answer["history"] + messages
            if not answer["has_more"]:
                break
            more["before"] = answer["before"]
        shown: dict[tuple[str, str], Json] = {}
        last = ""
        for message in messages:
            turn = self.ledger.turns[message["turn_id"]]
            if (turn.user, turn.conversation) != (self.room.user, self.room.name):
                self.violate(8, f"the history has {turn.turn_id} of {turn.conversation}")
            shown[turn.turn_id, message["role"]] = message
            if message["role"] == "user":
                if message["id"] <= last or message["message"] != turn.message:
                    self.violate(1, f"the history has {turn.turn_id} out of place")
                last = message["id"]
        for turn in ended:
            if turn.clear_asked or turn.terminal is None:
                continue
            reply = shown.get((turn.turn_id, "assistant"), {"message": ""})
            if (turn.turn_id, "user") not in shown:
                self.violate(2, f"the history lacks {turn.turn_id}")
            elif reply["message"] != turn.terminal["text"]:
                self.violate(1, f"the history has another text of {turn.turn_id}")


class Stranger(Client):
    """Asks for a turn that is another's: there is none."""

    def __init__(self, world: World, room: Room, turn: Turn) -> None:
        super().__init__(world, f"stranger to {turn.turn_id}")
        self._room = Room("stranger", room.name, clearable=False)
        self._turn = turn

    async def run(self) -> None:
        """Try every door."""
        turn = self._turn
        await turn.bell.until(lambda: turn.shown > 0 or turn.over)
        where = f"/turns/{turn.turn_id}"
        for method, target, body in (
            ("GET", f"{where}?{self._room.query()}", None),
            ("GET", f"{where}/events?{self._room.query()}", None),
            ("POST", f"{where}/cancel", self._room.body),
        ):
            status, answer, _ = await self.call(method, target, body)
            if status != 404:
                self.violate(8, f"{status} for another's {target}: {answer}")
        _, answer, _ = await self.call("GET", f"/history?{self._room.query()}")
        if answer["history"]:
            self.violate(8, f"another's history: {answer['history'][:2]}")
