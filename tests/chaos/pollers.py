"""Clients that look at turns and histories as JSON, again and again; and at what is another's."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from tests.chaos.ledger import Json, Opinion, Turn
from tests.chaos.world import Asker, Client, Room, World


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
        """Look at the last pages: nothing that had ended before is missing, wrong or hidden."""
        ended = [t for t in self.room.turns if t.terminal is not None]
        hidden = [t for t in self.room.turns if t.hidden]
        rated = {o.turn_id: o for o in self.ledger.opinions if o.acked and not o.erased}
        messages = await history(self, self.room, pages=self.rng.randrange(1, 4))
        await self._compare_transports()
        shown = {(message["turn_id"], message["role"]): message for message in messages}
        last = ""
        for message in messages:
            turn = self.ledger.turns[message["turn_id"]]
            if (turn.user, turn.conversation) != (self.room.user, self.room.name):
                self.violate(8, f"the history has {turn.turn_id} of {turn.conversation}")
            if message["role"] == "user":
                if message["id"] <= last or message["message"] != turn.message:
                    self.violate(1, f"the history has {turn.turn_id} out of place")
                last = message["id"]
        first = next((m["id"] for m in messages if m["role"] == "user"), "9")
        for turn in ended:
            end = turn.terminal
            if turn.clear_asked or turn.may_hide or end is None or end["started_id"] < first:
                continue
            reply = shown.get((turn.turn_id, "assistant"), {"message": ""})
            if (turn.turn_id, "user") not in shown:
                self.violate(2, f"the history lacks {turn.turn_id}")
            elif reply["message"] != end["text"]:
                self.violate(1, f"the history has another text of {turn.turn_id}")
            elif turn.turn_id in rated and end["text"]:
                self._look_at_feedback(rated[turn.turn_id], reply["feedback"])
        for turn in hidden:
            if (turn.turn_id, "user") in shown:
                self.violate(1, f"the history shows {turn.turn_id}, which was replaced")

    async def _compare_transports(self) -> None:
        """Look at one page over a socket: where HTTP says the same before and after, it does."""
        if (socket := self.socket_of(self.room)) is None:
            return
        limit = self.rng.choice((2, 10, 1000))
        target = f"/history?{self.room.query(limit=str(limit))}"
        (_, before, _) = await self.call("GET", target)
        told = await page_over(socket, self, self.room, limit=limit)
        (_, after, _) = await self.call("GET", target)
        if before == after:
            self.ledger.figures["histories compared"] += 1
            if told != before:
                self.violate(1, f"a socket's history of {self.room.name} is not HTTP's: {told}")

    def _look_at_feedback(self, rated: Opinion, found: Json | None) -> None:
        """Look for a rating that was acknowledged, or one that was sent after it."""
        later = [o.comments for o in self.ledger.opinions if o.turn_id == rated.turn_id]
        later = later[later.index(rated.comments) :]
        if found is None or found["comments"] not in later:
            self.violate(2, f"{rated.turn_id} was rated {rated.comments}: {found}")


async def history(client: Client, room: Room, pages: int | None = None) -> list[Json]:
    """Read a history from its end, in pages of any size; some pages of it, or all."""
    messages: list[Json] = []
    more: dict[str, str] = {}
    while pages is None or pages > 0:
        # The last turns are so large that a page ends before its limit.
        limit = client.rng.choice((1, 2, 3, 10, 100, 1000))
        gone = {turn.turn_id for turn in room.turns if turn.cleared_at is not None}
        if (socket := client.socket_of(room)) is not None:
            answer = await page_over(socket, client, room, limit=limit, **more)
        else:
            target = f"/history?{room.query(limit=str(limit), **more)}"
            _, answer, _ = await client.call("GET", target)
        if len(answer["history"]) > limit:
            client.violate(1, f"a page of {limit} has {len(answer['history'])}")
        if shown := gone & {message["turn_id"] for message in answer["history"]}:
            client.violate(7, f"the history has {shown}, which were cleared before")
        messages = answer["history"] + messages
        if not answer["has_more"]:
            break
        more["before"] = answer["before"]
        pages = None if pages is None else pages - 1
    return messages


async def page_over(socket: Asker, client: Client, room: Room, **more: object) -> Json:
    """Ask for a page of history on a socket; return what HTTP would."""
    answer = await socket.ask(room, "history", **more)
    client.ledger.figures["over a socket: history"] += 1
    if answer["type"] != "history":
        client.violate(1, f"asked for a history, and told {answer}")
        return {"history": [], "has_more": False}
    told = ("history", "has_more", "before", "cursor")
    return {name: answer[name] for name in told}


class Historian(Client):
    """Reads in the end what the server says of everything, to be held against the logs."""

    def __init__(self, world: World, rooms: list[Room]) -> None:
        super().__init__(world, "historian")
        self._rooms = rooms
        self.histories: dict[tuple[str, str], list[Json]] = {}
        self.listed: dict[tuple[str, str], Json] = {}

    async def run(self) -> None:
        """Read each history whole, and each user's list of conversations."""
        for room in self._rooms:
            self.histories[room.user, room.name] = await history(self, room)
        for user in dict.fromkeys(room.user for room in self._rooms):
            query = urlencode({"user_id": user})
            _, answer, _ = await self.call("GET", f"/conversations?{query}")
            for entry in answer["conversations"]:
                self.listed[user, entry["conversation_id"]] = entry


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
