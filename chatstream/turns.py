"""
Turns: each is started once, run by a task of its own, and ended exactly once.

A turn belongs to the server: readers come and go without its knowing. It knows the log and the
providers, and nothing of who reads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial

import orjson

from chatstream.errors import (
    Conflict,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from chatstream.events import Address, EventId, TurnId, timestamp
from chatstream.history import context, public
from chatstream.log.conversation import Conversation
from chatstream.log.jsonl import JsonlLog
from chatstream.log.live_turn import LiveTurn
from chatstream.log.records import Json
from chatstream.metrics import Metrics
from chatstream.providers import Message, ProviderRequest
from chatstream.providers.routing import Providers
from chatstream.reply import Reply, Why
from chatstream.settings import Settings
from chatstream.turn_ids import new_turn_id
from chatstream.validation import ReplacingTurnRequest, TurnRequest
from chatstream.versions import AgainRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """A turn that is over: its permanent events, as clients see them."""

    turn_id: TurnId
    started: Json
    terminal: Json


class TurnRunner:
    """
    Starts, cancels and drains the turns of one application. For the loop's thread.

    Attributes:
        running: The turns that run, by conversation and id.
        draining: No turn may start any more.
    """

    def __init__(
        self, log: JsonlLog, providers: Providers, settings: Settings, metrics: Metrics
    ) -> None:
        self._log = log
        self._providers = providers
        self._settings = settings
        self._metrics = metrics
        self._users: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self._per_user = (
            settings.max_turns_per_user if settings.limited("max_turns_per_user") else None
        )
        self.running: dict[tuple[Address, str], Reply] = {}
        self.draining = False

    async def start(self, request: TurnRequest) -> LiveTurn | EndedTurn:
        """
        Start a turn, or attach to the one of this id: returns once `turn.started` is durable.

        Raises:
            BadRequest: The provider is unknown here.
            Conflict: The id was used with another body.
            NotFound: `replaces` names no turn of the conversation.
            Unavailable, TooManyRequests, StorageFull, StorageFailed: Nothing was started.
        """
        # A caller that leaves in between must not leave a turn behind that nobody runs.
        starting = asyncio.ensure_future(self._start(request))
        starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(starting)

    async def _start(self, request: TurnRequest) -> LiveTurn | EndedTurn:
        conversation = await self._log.conversation(request.address)
        turn_id = TurnId(request.turn_id or new_turn_id())
        provider = self._providers.get(request.provider)
        model = request.model or provider.model
        fields: Json = {
            "message": {"role": "user", "content": request.message},
            "request": {"provider": provider.name, "model": model}
            | request.model_dump(include={"temperature", "max_tokens"}, exclude_none=True),
            "created_at": timestamp(time.time_ns() // 1_000_000),
        }
        system = request.system if request.system is not None else self._settings.system_prompt
        if system is not None:
            fields["request"]["system"] = system
        body = request.fingerprint()
        replaced = await self._replaced(conversation, request, turn_id)
        if replaced is not None:
            kind = request.kind if isinstance(request, AgainRequest) else "edit"
            fields |= {"replaces": getattr(request, "replaces", None), "kind": kind}
        started = await conversation.start(
            turn_id, body, fields, replaced=replaced, admit=partial(self._admit, request.user_id)
        )
        if isinstance(started, str):
            return await self._known(conversation, turn_id, body)
        if started.body != body:
            raise self._other_body(turn_id)
        if started.ended or (request.address, turn_id) in self.running:
            return started
        asked = ProviderRequest(
            messages=(),
            model=model,
            system=system,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
        )
        partial_text = request.partial if isinstance(request, AgainRequest) else ""
        reply = Reply(started, fields, provider, asked, self._settings, partial_text)
        self._run(started, reply, replaced)
        return started

    def _run(self, turn: LiveTurn, reply: Reply, replaced: EventId | None) -> None:
        conversation = turn.conversation
        key = conversation.address, str(turn.turn_id)
        self.running[key] = reply
        self._users[conversation.address.user_id] += 1
        self._idle.clear()
        self._metrics.turn_began(reply.provider.name)
        limit = self._settings.context_messages

        async def messages() -> list[Message]:
            earlier = await context(conversation, turn.started_id, limit, replaced)
            asked = [*earlier, Message("user", reply.fields["message"]["content"])]
            return [*asked, Message("assistant", reply.partial)] if reply.partial else asked

        reply.begin(messages, done=partial(self._over, key))

    def _over(self, key: tuple[Address, str]) -> None:
        reply = self.running.pop(key)
        user_id = key[0].user_id
        self._users[user_id] -= 1
        if not self._users[user_id]:
            del self._users[user_id]
        if not self.running:
            self._idle.set()
        self._metrics.turn_ended(reply.outcome())

    def _admit(self, user_id: str) -> None:
        if self.draining:
            raise Unavailable("The server is restarting.", code="draining", retry_after=2)
        if len(self.running) >= self._settings.max_turns:
            raise Unavailable(
                f"{self._settings.max_turns} answers are being written; try again in a moment.",
                code="overloaded",
            )
        if self._per_user is not None and self._users[user_id] >= self._per_user:
            raise TooManyRequests(
                f"{self._per_user} answers of yours are being written; wait for one of them.",
                code="too_many_turns",
            )
        self._log.admit()

    async def _replaced(
        self, conversation: Conversation, request: TurnRequest, turn_id: str
    ) -> EventId | None:
        """Return where the turn that is replaced started; what ran since then is cancelled."""
        if not isinstance(request, ReplacingTurnRequest) or request.replaces is None:
            return None
        if (live := conversation.live(request.replaces)) is not None:
            started_id = live.started_id
        elif found := await conversation.find(request.replaces):
            started_id = found[0]["id"]
        else:
            raise NotFound("replaces: there is no such turn in this conversation.")
        known = conversation.live(turn_id) is not None
        if not (known or turn_id in await conversation.load_recent()):
            if self.draining:
                self._admit(request.user_id)
            for turn in list(conversation.running.values()):
                if turn.started_id >= started_id:
                    await self.cancel(conversation.address, turn.turn_id)
        return started_id

    async def _known(self, conversation: Conversation, turn_id: TurnId, body: str) -> EndedTurn:
        found = await conversation.find(turn_id)
        if not found:
            raise NotFound("The conversation was cleared meanwhile.")
        if found[0].get("body") != body:
            raise self._other_body(turn_id)
        return ended(turn_id, found)

    @staticmethod
    def _other_body(turn_id: str) -> Conflict:
        return Conflict(
            f"turn_id: {turn_id} was already used with another body", code="turn_id_used"
        )

    async def get(self, address: Address, turn_id: str) -> LiveTurn | EndedTurn:
        """
        Return a turn, running or ended.

        Raises:
            NotFound: There is none of this id in this conversation of this user.
        """
        conversation = await self._log.conversation(address)
        live = conversation.live(turn_id)
        if live is not None and await asyncio.shield(live.started):
            return live
        found = await conversation.find(turn_id)
        if not found:
            raise NotFound("There is no such turn.")
        # It may have begun, or ended, while the file was read.
        if len(found) == 1 and (live := conversation.live(turn_id)) is not None:
            return live
        if len(found) == 1:
            found = await conversation.find(turn_id)
        return ended(TurnId(turn_id), found)

    async def cancel(self, address: Address, turn_id: str) -> LiveTurn | EndedTurn:
        """
        Stop a turn; returns once its end is durable. One that had ended is left as it is.

        Raises:
            NotFound: There is no such turn.
            StorageFailed: The end could not be written.
        """
        turn = await self.get(address, turn_id)
        if isinstance(turn, LiveTurn):
            if (reply := self.running.get((address, turn_id))) is not None:
                reply.stop(Why("turn.cancelled", "user"))
            await asyncio.shield(turn.done)
            return await self.get(address, turn_id)
        return turn

    async def wait(self, turn: LiveTurn) -> Json | None:
        """Return a turn's terminal event once it is durable; None where it never will be."""
        conversation = turn.conversation
        conversation.watch(waits := lambda: None)
        try:
            event = await asyncio.shield(turn.done)
        finally:
            conversation.unwatch(waits)
        return orjson.loads(event.json) if event is not None else None

    def snapshot(self, turn: LiveTurn | EndedTurn) -> Json:
        """Return a turn as `GET /turns/{turn_id}` shows it."""
        if isinstance(turn, EndedTurn):
            kind = turn.terminal["type"].removeprefix("turn.")
            shown = {k: v for k, v in turn.terminal.items() if k not in ("type", "id")}
            return _about(turn.started) | shown | {"status": kind, "last_id": turn.terminal["id"]}
        conversation = turn.conversation
        reply = self.running.get((conversation.address, turn.turn_id))
        upto = conversation.visible
        snapshot: Json = {
            "turn_id": turn.turn_id,
            "conversation_id": conversation.address.conversation_id,
            "status": "running",
            "started_id": turn.started_id,
            "text": orjson.Fragment(b'"' + turn.text("text", upto) + b'"'),
            "last_id": conversation.last_id,
        }
        if reasoning := turn.text("reasoning", upto):
            snapshot["reasoning"] = orjson.Fragment(b'"' + reasoning + b'"')
        return (reply.fields if reply else {}) | snapshot

    async def drain(self, grace: float) -> None:
        """
        Refuse new turns, let the running ones end for `grace` seconds, then interrupt the rest.

        Returns once every turn's end is durable, or the disk has refused it.
        """
        self.draining = True
        if self.running and grace > 0:
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                pass
        await self.interrupt()

    async def interrupt(self) -> None:
        """End every running turn as `turn.interrupted`, with its text."""
        self.draining = True
        tasks = [reply.task for reply in self.running.values() if reply.task]
        for reply in list(self.running.values()):
            reply.stop(Why("turn.interrupted", last=True))
        await asyncio.gather(*tasks, return_exceptions=True)


def ended(turn_id: TurnId, found: list[Json]) -> EndedTurn:
    """Return a turn from its records; one whose end is lost reads as interrupted."""
    started = public(found[0])
    if len(found) > 1:
        return EndedTurn(turn_id, started, public(found[-1]))
    return EndedTurn(turn_id, started, lost_end(started))


def lost_end(started: Json) -> Json:
    """Return what stands for a terminal event whose line is damaged."""
    request = started.get("request") or {}
    return {
        "type": "turn.interrupted",
        "id": started["id"],
        "conversation_id": started["conversation_id"],
        "turn_id": started["turn_id"],
        "started_id": started["id"],
        "text": "",
        "usage": None,
        "provider": request.get("provider"),
        "model": request.get("model"),
        "ended_at": started["created_at"],
        "ttft_ms": None,
        "duration_ms": None,
    }


def _about(started: Json) -> Json:
    return {k: v for k, v in started.items() if k not in ("type", "id")}
