"""
Turns: each is started once, run by a task of its own, and ended exactly once.

A turn belongs to the server: readers come and go without its knowing. It knows the log and the
providers, and nothing of who reads.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial

import orjson

from chatstream.detached import Detached
from chatstream.errors import NotFound, TooManyRequests, Unavailable
from chatstream.events import Address, EventId, Json, TurnId, new_turn_id
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog
from chatstream.metrics import OTHER_MODEL, Metrics
from chatstream.providers import Message
from chatstream.providers.registry import Providers
from chatstream.providers.route.cache import Answers
from chatstream.schemas import ReplacingTurnRequest, TurnRequest
from chatstream.settings import Settings
from chatstream.turns.admission import Admission, Slot
from chatstream.turns.context import context
from chatstream.turns.reply import Reply
from chatstream.turns.start import Starting
from chatstream.turns.terminal import Why
from chatstream.views.turn import EndedTurn, ended, find_records, known, other_body

logger = logging.getLogger(__name__)

__all__ = ["EndedTurn", "TurnRunner"]

REFUSED_SECONDS = 1.0
"""How long a stop waits for an end that the disk refuses, before it says so."""


class TurnRunner:
    """
    Starts, cancels and drains the turns of one application. For the loop's thread.

    Attributes:
        running: The replies that are being written, by their turns.
    """

    def __init__(
        self,
        log: JsonlLog,
        providers: Providers,
        settings: Settings,
        metrics: Metrics,
        answers: Answers | None = None,
    ) -> None:
        """`answers` are those that are kept; without them every turn asks a provider."""
        self._log = log
        self._providers = providers
        self._settings = settings
        self._metrics = metrics
        self._answers = answers
        self._admission = Admission(settings, log.admit)
        self._interrupting = False
        self.running: dict[LiveTurn, Reply] = {}
        self._starting = Detached()

    @property
    def draining(self) -> bool:
        """Whether no turn may start any more."""
        return self._admission.draining

    async def enter(self) -> None:
        """
        Let a start come in, before its request is read; those that come at once take turns.

        Raises:
            Unavailable: There is too much to do: nothing more begins.
        """
        try:
            await self._admission.enter()
        except Unavailable as error:
            self._metrics.turn_refused(error.code)
            raise

    async def pause(self) -> None:
        """Wait a little, as an answer does that says that there is too much to do."""
        await self._admission.pause()

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
        return await self._starting.run(self._start(request))

    async def _start(self, request: TurnRequest) -> LiveTurn | EndedTurn:
        conversation = await self._log.conversation(request.address)
        turn_id = TurnId(request.turn_id or new_turn_id())
        body = request.fingerprint()
        starting = Starting(request, self._providers, self._settings, self._admission)
        epoch = conversation.epoch
        try:
            replaced = await self._replaced(conversation, request, turn_id, starting)

            def begin() -> Json:
                if replaced is not None and conversation.epoch != epoch:
                    raise _nothing_to_replace()  # what was cleared must not come back with this
                return starting.take()

            started = await conversation.start(turn_id, body, begin, replaced=replaced)
            if isinstance(started, str):
                return await known(conversation, turn_id, body)
            if started.body != body:
                raise other_body(turn_id)
            if started.ended or started in self.running:
                return started
            if (reply := starting.reply(started, self._answers)) is not None:
                self._run(started, reply, replaced, starting.slot.pass_on())
                if replaced is not None:
                    self._stop_replaced(conversation, started, replaced)
            return started
        except (Unavailable, TooManyRequests) as error:
            self._metrics.turn_refused(error.code)
            raise
        finally:
            starting.leave()

    def _run(self, turn: LiveTurn, reply: Reply, replaced: EventId | None, slot: Slot) -> None:
        conversation = turn.conversation
        self.running[turn] = reply
        self._metrics.turn_began(reply.source.name)
        limit = self._settings.context_messages

        async def messages() -> list[Message]:
            earlier = await context(conversation, turn.started_id, limit, replaced)
            asked = [*earlier, Message("user", reply.fields["message"]["content"])]
            return [*asked, Message("assistant", reply.partial)] if reply.partial else asked

        reply.begin(messages, done=partial(self._over, turn, slot))
        if self._interrupting:
            reply.stop(Why("turn.interrupted", last=True))

    def _stop_replaced(self, conversation: Conversation, turn: LiveTurn, replaced: EventId) -> None:
        """Stop what began while this turn was about to: it is out of view with the rest."""
        for other in list(conversation.running.values()):
            if replaced <= other.started_id < turn.started_id and other in self.running:
                self.running[other].stop(Why("turn.cancelled", "user"))

    def _over(self, turn: LiveTurn, slot: Slot) -> None:
        reply = self.running.pop(turn)
        slot.give_back()
        outcome = reply.outcome()
        if not self._providers.knows(outcome.provider, outcome.model):
            # Callers may name any model: a label is no place for what they write.
            outcome = replace(outcome, model=OTHER_MODEL)
        self._metrics.turn_ended(outcome)

    async def _replaced(
        self, conversation: Conversation, request: TurnRequest, turn_id: str, starting: Starting
    ) -> EventId | None:
        """Return where the turn that is replaced started; what ran since then is cancelled."""
        if not isinstance(request, ReplacingTurnRequest) or request.replaces is None:
            return None
        if (live := conversation.live(request.replaces)) is not None:
            started_id = live.started_id
        elif found := await find_records(conversation, request.replaces):
            started_id = found[0]["id"]
        else:
            raise _nothing_to_replace()
        runs = conversation.live(turn_id) is not None
        if not (runs or turn_id in await conversation.load_recent()):
            starting.check()  # nothing is cancelled for what cannot start
            for turn in list(conversation.running.values()):
                if turn.started_id >= started_id:
                    await self.cancel(conversation.address, turn.turn_id)
        return started_id

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
        found = await find_records(conversation, turn_id)
        if not found:
            raise NotFound("There is no such turn.")
        # It may have begun, or ended, while the file was read.
        if len(found) == 1 and (live := conversation.live(turn_id)) is not None:
            return live
        if len(found) == 1 and not (found := await find_records(conversation, turn_id)):
            raise NotFound("There is no such turn.")
        return ended(conversation, TurnId(turn_id), found)

    async def known(self, request: TurnRequest) -> LiveTurn | EndedTurn:
        """
        Return the turn that this request has started before; it starts nothing.

        Raises:
            NotFound: There is none of its id, or it names none.
            Conflict: The id was used with another body.
        """
        turn_id, body = TurnId(request.turn_id or ""), request.fingerprint()
        turn = await self.get(request.address, turn_id)
        if isinstance(turn, EndedTurn):
            return await known(turn.conversation, turn_id, body)
        if turn.body != body:
            raise other_body(turn_id)
        return turn

    async def cancel(self, address: Address, turn_id: str) -> LiveTurn | EndedTurn:
        """
        Stop a turn; returns once its end is durable. One that had ended is left as it is.

        Raises:
            NotFound: There is no such turn.
            StorageFull, StorageFailed: The end is not written yet; it is tried again.
        """
        turn = await self.get(address, turn_id)
        if isinstance(turn, LiveTurn):
            if (reply := self.running.get(turn)) is not None:
                reply.stop(Why("turn.cancelled", "user"))
            while not (await asyncio.wait([turn.done], timeout=REFUSED_SECONDS))[0]:
                if turn.refused is not None:
                    raise turn.refused
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
            return turn.snapshot()
        conversation = turn.conversation
        reply = self.running.get(turn)
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
        self._admission.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._admission.idle.wait()
        await self.interrupt()

    async def interrupt(self) -> None:
        """End every running turn as `turn.interrupted`, with its text."""
        self._admission.draining = self._interrupting = True
        for reply in list(self.running.values()):
            reply.stop(Why("turn.interrupted", last=True))
        await self._admission.idle.wait()


def _nothing_to_replace() -> NotFound:
    return NotFound("replaces: there is no such turn in this conversation.")
