"""
Clients of an `attach_world`, behind the real edge: each folds what it is sent, checks every event
against what was written, and in the end the whole against a reader that was never cut off.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
from starlette.requests import Request

from chatstream.errors import NotFound
from chatstream.events import TERMINAL_TYPES, Json, place
from chatstream.log.files.live_turn import LiveTurn
from chatstream.views.subscriber import Signal, start_of_conversation
from chatstream.web import events, turns
from chatstream.web.feed import Subscription
from chatstream.web.finite import FiniteStream
from chatstream.web.sse import EventStream
from tests.attach_world import World
from tests.log_steps import ADDRESS

QUERY = f"user_id={ADDRESS.user_id}&conversation_id={ADDRESS.conversation_id}"


class Client:
    """
    One client's fold of what it is sent, over as many connections as it needs.

    Attributes:
        last_id: Its cursor; None before it has one.
        texts: What it shows of each turn.
        ended: The terminal events that it has.
        kept: What it knew after each event: its fold, and the last id.
    """

    def __init__(
        self, world: World, name: str = "client", *, cursor: str | None = None, slow: bool = False
    ) -> None:
        """A `slow` one takes what is sent at any moment."""
        self.world = world
        self.name = name
        self.last_id = cursor
        self.texts: dict[str, str] = {}
        self.ended: dict[str, Json] = {}
        self.kept: list[tuple[str, dict[str, str], dict[str, Json], set[str]]] = []
        self.status = 0
        self.since = ""
        self.cleared = 0
        self.terminals: list[str] = []
        self._slow = slow
        self._turn_id: str | None = None
        self._answering: set[str] = set()
        self._ready = self._caught_up = self._complete = self._gone = False
        world.clients.append(self)

    def seeded(self, other: Client, at: int) -> Client:
        """Go on from what another knew after an event."""
        self.last_id, texts, ended, answering = other.kept[at]
        self.texts, self.ended, self._answering = dict(texts), dict(ended), set(answering)
        return self

    # ---- connections

    async def follows(self, *, moments: bool = True) -> None:
        """Read the conversation over SSE, from the cursor on."""
        if moments:
            await self.world.loop.moment(f"{self.name} comes")
        response = await events.follow(self._request())
        assert isinstance(response, EventStream)
        await self._stream(response)

    async def follows_beside_another(self) -> None:
        """Read the conversation in an SSE answer that is for another one too."""
        await self.world.loop.moment(f"{self.name} comes")
        two = f"{QUERY}&after={self.last_id or ''}&conversation_id=beside&after="
        response = await events.follow(self._request(two))
        assert isinstance(response, EventStream)
        await self._stream(response)

    async def follows_on_a_socket(self) -> None:
        """Read the conversation as a WebSocket's sender does."""
        await self.world.loop.moment(f"{self.name} comes")
        log = self.world.log
        conversation = await log.conversation(ADDRESS)
        where = start_of_conversation(conversation, self.last_id, log.last_id)
        signal = Signal()
        self._connected()
        subscription = Subscription(conversation, where, None, lambda name: signal.set())
        while True:
            frames = await subscription.frames()
            for frame in frames:
                self._take(orjson.loads(frame))
            if frames:
                await self._sent()
            else:
                await signal.wait()

    async def follows_turn(self, turn_id: str) -> None:
        """Read one turn over SSE, from the cursor on."""
        self._turn_id = turn_id
        await self.world.loop.moment(f"{self.name} comes")
        try:
            response = await turns.events(self._request(turn_id=turn_id))
        except NotFound:
            self.status = 404
            return
        if isinstance(response, EventStream):
            self.status = 200
            await self._stream(response)
        elif isinstance(response, FiniteStream):
            self.status = 200
            await self._take_whole(response)
        else:
            self.status = response.status_code

    async def is_cut_and_comes_back(self) -> None:
        """Read the conversation; the connection breaks at any moment, and then it goes on."""
        first = asyncio.current_task()
        assert first is not None
        following = self.world.loop.create_task(self.follows(), name=self.name)
        await self.world.loop.moment(f"{self.name} is cut")
        self._gone = True
        await self.world.loop.moment("the server notices")
        following.cancel()
        await asyncio.wait([following])
        self._gone = False
        await self.follows()

    def _request(self, query: str = QUERY, **path: str) -> Request:
        headers = [(b"last-event-id", self.last_id.encode())] if self.last_id is not None else []
        app = SimpleNamespace(state=SimpleNamespace(services=self.world.services))
        scope = {"type": "http", "method": "GET", "app": app, "headers": headers}
        return Request(scope | {"query_string": query.encode(), "path_params": path})

    async def _stream(self, response: EventStream) -> None:
        self._connected()
        await response({"type": "http", "method": "GET"}, self._receive, self._send)
        assert self._complete, "the stream ended without the turn's end"

    async def _take_whole(self, response: FiniteStream) -> None:
        """Take what a library sends without looking at the log again: only its body is ours."""
        self._connected()
        async for frames in response.body_iterator:
            await self._send({"type": "http.response.body", "body": frames, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    def _connected(self) -> None:
        self._ready = self._caught_up = self._complete = False

    async def _receive(self) -> Json:
        await self.world.loop.create_future()
        raise AssertionError

    async def _send(self, message: Any) -> None:
        for frame in message.get("body", b"").split(b"\n\n"):
            for line in frame.split(b"\n"):
                if line.startswith(b"data: ") and not self._gone:
                    self._take(orjson.loads(line[6:]))
        self._complete = message["type"] == "http.response.body" and not message.get("more_body")
        await self._sent()

    async def _sent(self) -> None:
        if self._slow:
            await self.world.loop.moment(f"{self.name} takes")

    # ---- the fold (`protocol.md`, section 2)

    def _take(self, event: Json) -> None:
        if event["conversation_id"] != ADDRESS.conversation_id:
            return
        self.world.note()
        kind = event["type"]
        self.world.loop.note(f"     {self.name} < {kind} {event.get('id', '')}")
        assert self._ready == (kind != "ready"), f"{kind} where it does not belong"
        if kind == "ready":
            self._ready = True
            self.since = event["last_id"]
            self.last_id = event.get("id", self.last_id)
        elif kind == "reset":
            self.last_id = self.since
            self.texts.clear()
            self.ended.clear()
        elif kind == "caught_up":
            assert not self._caught_up, "caught_up twice"
            self._caught_up = True
            assert self.last_id is not None
            self._has_all(max(event["last_id"], self.last_id))
        else:
            self._fold(kind, event)
            fold = dict(self.texts), dict(self.ended), set(self._answering)
            self.kept.append((event["id"], *fold))
            self._has_all(event["id"])

    def _fold(self, kind: str, event: Json) -> None:
        assert self.last_id is not None
        assert event["id"] > self.last_id, "an event that is not above the last one"
        self.last_id = event["id"]
        if kind == "history.cleared":
            self.texts.clear()
            self.ended.clear()
            self.cleared += 1
            return
        turn_id = event["turn_id"]
        assert self._turn_id in (None, turn_id), "another turn's event"
        assert turn_id not in self.ended, "an event after the turn's end"
        if event.get("reason") == "cleared":
            assert "text" not in event
            self.ended[turn_id] = event
            self.terminals.append(event["id"])
            return
        turn, epoch = self.world.turns[turn_id]
        assert epoch >= self.world.erased, "shown after it was erased"
        if kind == "turn.started":
            assert turn_id not in self.texts, "started twice"
            assert turn.started.done() and turn.started.result(), "shown before it was durable"
            self.texts[turn_id] = ""
            return
        assert turn_id in self.texts, f"{kind} without the turn's start"
        if kind == "turn.answering":
            assert turn_id not in self._answering, "answering twice"
            self._answering.add(turn_id)
        elif kind == "delta":
            assert turn_id in self._answering, "a delta before turn.answering"
            self.texts[turn_id] += event["text"]
            assert self.world.words[turn_id].startswith(self.texts[turn_id]), "gap or repeat"
        else:
            assert kind in TERMINAL_TYPES
            assert turn.done.done(), "shown before it was durable"
            assert event["text"] == self.world.words[turn_id], "an end without all its text"
            self.texts[turn_id] = event["text"]
            self.ended[turn_id] = event
            self.terminals.append(event["id"])

    def _has_all(self, upto: str) -> None:
        """Check that nothing up to an id is missing; a turn's end may stand for its deltas."""
        for turn_id, (turn, epoch) in self.world.turns.items():
            if epoch != self.world.epoch or not self._follows(turn) or turn.started_id > upto:
                continue
            if not (turn.started.done() and turn.started.result()):
                continue
            assert turn_id in self.texts, f"the start of {turn_id} is missing"
            if not turn.done.done():
                shown = turn.text("text", place(upto)).decode()
                assert self.texts[turn_id] == shown, f"{turn_id}: a gap"
            elif (end := turn.done.result()) is not None and end.id <= upto:
                assert turn_id in self.ended, f"the end of {turn_id} is missing"

    def _follows(self, turn: LiveTurn) -> bool:
        if self._turn_id is not None:
            return turn.turn_id == self._turn_id
        return turn.started_id > self.since or turn.turn_id in self.texts

    # ---- the end

    def compare(self, whole: list[Json]) -> None:
        """Check the fold against that of a reader that was never cut off."""
        if self._turn_id is not None:
            self._compare_turn(self._turn_id)
            return
        texts: dict[str, str] = {}
        ended: dict[str, Json] = {}
        for event in whole:
            if event["type"] == "turn.started":
                texts[event["turn_id"]] = ""
            elif event["type"] in TERMINAL_TYPES and event.get("reason") != "cleared":
                texts[event["turn_id"]] = event["text"]
                ended[event["turn_id"]] = event
        for turn_id in [t for t, (turn, _) in self.world.turns.items() if not self._follows(turn)]:
            texts.pop(turn_id, None)
            ended.pop(turn_id, None)
        assert self._ready and self._caught_up, "caught_up never came"
        assert (self.texts, self.ended) == (texts, ended), "not what an uncut reader has"

    def _compare_turn(self, turn_id: str) -> None:
        turn, epoch = self.world.turns[turn_id]
        end = turn.done.result()
        assert end is not None
        if self.status == 404:
            assert epoch != self.world.epoch, "a turn was not found"
        elif self.status == 204:
            assert self.last_id is not None and self.last_id >= end.id
        else:
            assert self._complete, "the stream never ends"
            # Of a turn that was cleared after its end there is nothing left to tell but that.
            if not (self.cleared and end.type != "turn.cancelled"):
                assert self.terminals == [end.id], "the stream ended without the turn's end"
            if end.type == "turn.cancelled":
                assert self.cleared == 1, "cleared, and not told"
