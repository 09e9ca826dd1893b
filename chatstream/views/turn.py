"""A turn that is over, as the log has it."""

from __future__ import annotations

from dataclasses import dataclass

from chatstream.errors import Conflict, NotFound
from chatstream.events import Json, TurnId, envelope, status_of, terminal_fields
from chatstream.log.files.conversation import Conversation
from chatstream.schemas import is_turn_id
from chatstream.views.history import public


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """A turn that is over: its permanent events, as clients see them, and its conversation."""

    conversation: Conversation
    turn_id: TurnId
    started: Json
    terminal: Json

    def snapshot(self) -> Json:
        """Return it as `GET /turns/{turn_id}` shows it."""
        started = {k: v for k, v in self.started.items() if k not in ("type", "id")}
        terminal = {k: v for k, v in self.terminal.items() if k not in ("type", "id")}
        status = status_of(self.terminal["type"])
        return started | terminal | {"status": status, "last_id": self.terminal["id"]}


async def find_records(conversation: Conversation, turn_id: str) -> list[Json]:
    """Return a turn's records, its start first; one whose start is damaged is not there."""
    found = await conversation.find(turn_id) if is_turn_id(turn_id) else []
    return found if found and found[0]["type"] == "turn.started" else []


async def known(conversation: Conversation, turn_id: TurnId, body: str) -> EndedTurn:
    """
    Return the turn that a start of a used id attaches to.

    Raises:
        Conflict: Another body started it.
        NotFound: The conversation was cleared since its id was looked up.
    """
    found = await find_records(conversation, turn_id)
    if not found:
        raise NotFound("The conversation was cleared meanwhile.")
    if found[0].get("body") != body:
        raise other_body(turn_id)
    return ended(conversation, turn_id, found)


def other_body(turn_id: str) -> Conflict:
    """Return the refusal of a used id."""
    return Conflict(
        f"turn_id: {turn_id} was already used with another body",
        code="turn_id_used",
        turn_id=turn_id,
    )


def ended(conversation: Conversation, turn_id: TurnId, found: list[Json]) -> EndedTurn:
    """Return a turn from its records; one whose end is lost reads as interrupted."""
    started = public(found[0])
    if len(found) > 1:
        return EndedTurn(conversation, turn_id, started, public(found[-1]))
    return EndedTurn(conversation, turn_id, started, _lost_end(started))


def _lost_end(started: Json) -> Json:
    """Return the terminal event that stands for one whose line is damaged."""
    request = started.get("request") or {}
    known = {"turn_id": started["turn_id"], "started_id": started["id"], "text": ""}
    return {
        **envelope("turn.interrupted", started["id"], started["conversation_id"]),
        **known,
        **terminal_fields(
            ended_at=started["created_at"],
            provider=request.get("provider"),
            model=request.get("model"),
        ),
    }
