"""
A turn done again: regenerated or continued; and the versions that came of it.

Each version is a turn that `replaces` an earlier one; the replaced turn stays in the log.
"""

from __future__ import annotations

from typing import Literal

from chatstream.errors import Conflict
from chatstream.events import Json, status_of
from chatstream.log.files import lookup
from chatstream.log.files.conversation import Conversation
from chatstream.schemas import (
    Addressed,
    ReplacingTurnRequest,
    TurnIdField,
    parse,
)

MAX_VERSIONS = 100
"""The newest so many of a turn's versions are listed."""

AgainKind = Literal["regenerate", "continue"]


class AgainBody(Addressed):
    """The body that does a turn again; `turn_id` is the new one's."""

    turn_id: TurnIdField | None = None


class AgainRequest(ReplacingTurnRequest):
    """A turn like another. `partial` is what its answer begins with."""

    kind: AgainKind
    partial: str = ""


def again(kind: AgainKind, asked: AgainBody, started: Json, terminal: Json | None) -> AgainRequest:
    """
    Return the request that does a turn again, from its records (`terminal`: None while it runs).

    Raises:
        Conflict: It runs; or there is no text to go on from.
        InvalidRequest: The record says what no request may.
    """
    if terminal is None:
        raise Conflict("The turn is running; cancel it first.", code="turn_running")
    partial = terminal.get("text", "") if kind == "continue" else ""
    if kind == "continue" and not partial:
        raise Conflict("The turn has no text to go on from.", code="nothing_to_continue")
    given = {
        "user_id": asked.user_id,
        "conversation_id": asked.conversation_id,
        "turn_id": asked.turn_id,
        "message": started["message"]["content"],
        "replaces": started["turn_id"],
        "kind": kind,
        "partial": partial,
    }
    return parse(AgainRequest, (started.get("request") or {}) | given)


async def versions(conversation: Conversation, turn_id: str) -> list[Json]:
    """Return a turn, what it replaced and what replaced it, oldest first."""

    def job(fd: int, size: int) -> list[Json]:
        family = _family(fd, size, turn_id)[-MAX_VERSIONS:]
        found = (lookup.find_turn(fd, size, member) for member in family)
        turns = ([record.data for record in turn] for turn in found)
        # One whose first line is damaged does not exist.
        return [_version(turn) for turn in turns if turn and turn[-1]["type"] == "turn.started"]

    shown = await conversation.with_file(job)
    running = {turn.turn_id for turn in conversation.running.values()}
    for version in shown:
        if version["status"] == "interrupted" and version["turn_id"] in running:
            version["status"] = "running"
    return shown


def _family(fd: int, size: int, turn_id: str) -> list[str]:
    """Return the turns that `replaces` ties to a turn, oldest first."""
    ties = lookup.replacements(fd, size)
    replaced = dict(ties)
    first, seen = turn_id, {turn_id}
    while (older := replaced.get(first)) and older not in seen:
        seen.add(older)  # an id that was forgotten and used again may make a circle
        first = older
    family = {first: None}
    for new, old in reversed(ties):
        if old in family:
            family.setdefault(new)
    return list(family)


def _version(found: list[Json]) -> Json:
    terminal, started = found[0], found[-1]
    ended = len(found) > 1
    return {
        "turn_id": started["turn_id"],
        "replaces": started.get("replaces"),
        "kind": started.get("kind"),
        "message": started["message"],
        "created_at": started["created_at"],
        "status": status_of(terminal["type"]) if ended else "interrupted",
        "text": terminal.get("text", "") if ended else "",
        "provider": terminal.get("provider") if ended else None,
        "model": terminal.get("model") if ended else None,
        "id": terminal["id"],
    }
