"""What a WebSocket's frames mean: each is checked by its model, carried out and answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol, TypeAlias, TypeVar

import orjson
from pydantic import BaseModel

from chatstream.errors import OVERLOADED, BadRequest, ChatstreamError, InvalidRequest
from chatstream.events import EventId, Json, before
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.schemas import (
    MAX_ID_CHARS,
    Addressed,
    FeedbackRequest,
    HistoryQuery,
    ReplacingTurnRequest,
    TurnIdField,
    check_message,
    parse,
)
from chatstream.turns.runner import EndedTurn
from chatstream.views.history import read_place
from chatstream.views.subscriber import Start, start_of_conversation
from chatstream.web.conversations import history_page, keep_feedback
from chatstream.web.feed import Feed
from chatstream.web.problems import event
from chatstream.web.rate_limits import Kind
from chatstream.web.state import Services

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
Handler: TypeAlias = Callable[[Json, object], Awaitable[None]]
MAX_REF_CHARS = 256


class CancelFrame(Addressed):
    """Stops a turn."""

    turn_id: TurnIdField


class SubscribeFrame(Addressed):
    """Follows a conversation; `after` is any id, or 0 for the beginning, and empty it is none."""

    after: str | None = None


class Session(Protocol):
    """The socket that frames came by, as far as carrying them out goes."""

    user_id: str
    services: Services
    feed: Feed

    @property
    def client(self) -> str:
        """The address of the client."""
        ...

    def answer(self, data: Json, ref: object) -> None:
        """Send an answer, before any event that becomes visible after this."""
        ...

    def subscribe(self, conversation: Conversation, start: Start, ref: object = None) -> None:
        """Send a conversation from a place on."""
        ...


class Frames:
    """Carries out the frames of one session, one after the other."""

    __slots__ = ("_session", "_services")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._services = session.services

    async def take(self, text: str) -> None:
        """Carry out a frame, and answer it; whatever is wrong with it, the socket goes on."""
        ref: object = None
        about: Json = {}
        try:
            data = read_frame(text)
            ref = read_ref(data)
            handlers = self._handlers()
            kind = read_type(data, handlers)
            if kind != "ping":
                about = _conversation(data)
            await handlers[kind](data, ref)
        except ChatstreamError as error:
            if error.code == OVERLOADED:
                await self._services.runner.pause()
            self._session.answer(event(error) | about, ref)
        except Exception as error:
            logger.exception("frame failed", extra={"address": self._session.client})
            self._session.answer(event(error) | about, ref)

    def _handlers(self) -> dict[str, Handler]:
        return {
            "send": self._send,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "cancel": self._cancel,
            "history": self._history,
            "feedback": self._feedback,
            "clear": self._clear,
            "ping": self._ping,
        }

    def _parse(self, model: type[M], data: Json) -> M:
        if data.get("user_id") not in (None, self._session.user_id):
            raise InvalidRequest(("user_id", "must be absent or the socket's own"))
        return parse(model, {**data, "user_id": self._session.user_id})

    async def _send(self, data: Json, ref: object) -> None:
        await self._services.runner.enter()
        asked = self._parse(ReplacingTurnRequest, data)
        settings = self._services.settings
        check_message(
            asked.message, most=settings.max_message_chars, reject_markup=settings.reject_markup
        )
        session, name = self._session, asked.conversation_id
        await self._count("chat")
        # The answer goes out before the turn's first event.
        session.feed.hold(name)
        try:
            turn = await self._services.runner.start(asked)
            conversation = await self._services.log.conversation(asked.address)
            session.answer({"type": "ack", "turn_id": turn.turn_id, "conversation_id": name}, ref)
            if name not in session.feed.subscriptions:
                session.subscribe(conversation, Start(before(_started_id(turn))))
        finally:
            session.feed.release(name)

    async def _subscribe(self, data: Json, ref: object) -> None:
        asked = self._parse(SubscribeFrame, data)
        log = self._services.log
        conversation = await log.conversation(asked.address)
        where = start_of_conversation(conversation, asked.after or None, log.last_id)
        self._session.subscribe(conversation, where, ref)

    async def _unsubscribe(self, data: Json, ref: object) -> None:
        asked = self._parse(Addressed, data)
        self._session.feed.unsubscribe(asked.conversation_id)
        self._session.answer({"type": "ack", "conversation_id": asked.conversation_id}, ref)

    async def _cancel(self, data: Json, ref: object) -> None:
        asked = self._parse(CancelFrame, data)
        await self._count()
        await self._services.runner.cancel(asked.address, asked.turn_id)
        ack = {"type": "ack", "turn_id": asked.turn_id, "conversation_id": asked.conversation_id}
        self._session.answer(ack, ref)

    async def _history(self, data: Json, ref: object) -> None:
        asked = self._parse(HistoryQuery, data)
        read_place(asked.before)
        await self._count()
        page = await history_page(self._services, asked)
        answer = {"type": "history", "conversation_id": asked.conversation_id, **page}
        self._session.answer(answer, ref)

    async def _feedback(self, data: Json, ref: object) -> None:
        asked = self._parse(FeedbackRequest, data)
        await self._count()
        await keep_feedback(self._services, asked)
        self._session.answer({"type": "ack", "conversation_id": asked.conversation_id}, ref)

    async def _clear(self, data: Json, ref: object) -> None:
        asked = self._parse(Addressed, data)
        await self._count()
        log = self._services.log
        await log.clear(await log.conversation(asked.address))
        self._session.answer({"type": "ack", "conversation_id": asked.conversation_id}, ref)

    async def _ping(self, data: Json, ref: object) -> None:
        self._session.answer({"type": "pong"}, ref)

    async def _count(self, kind: Kind = "default") -> None:
        await self._services.limits.hit(kind, self._session.client)


def read_frame(text: str) -> Json:
    """
    Return a frame's object.

    Raises:
        BadRequest: It is not a JSON object.
    """
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"frame: not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise BadRequest("frame: must be a JSON object", code="invalid_json")
    return data


def read_type(data: Json, known: Collection[str]) -> str:
    """Take a frame's `type` out of it; raises `BadRequest` where it is not a known one."""
    kind = data.pop("type", None)
    if isinstance(kind, str) and kind in known:
        return kind
    raise BadRequest(f"type: must be one of {', '.join(known)}", code="unknown_type")


def read_ref(data: Json) -> str | int | float | None:
    """
    Take a frame's `ref` out of it: what the answer repeats.

    Raises:
        InvalidRequest: It is neither a number nor a short text.
    """
    ref = data.pop("ref", None)
    if isinstance(ref, int | float | None) or (isinstance(ref, str) and len(ref) <= MAX_REF_CHARS):
        return ref
    raise InvalidRequest(("ref", f"must be a number or at most {MAX_REF_CHARS} characters"))


def _conversation(data: Json) -> Json:
    """Return what names the conversation that a frame is about, where it has a name at all."""
    name = data.get("conversation_id")
    name = "default" if name is None else name
    short = isinstance(name, str) and len(name) <= MAX_ID_CHARS
    return {"conversation_id": name} if short else {}


def _started_id(turn: LiveTurn | EndedTurn) -> EventId:
    return turn.started_id if isinstance(turn, LiveTurn) else EventId(turn.started["id"])
