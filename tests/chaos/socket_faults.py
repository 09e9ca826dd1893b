"""Planted faults of what is done over a socket, and of turns looked at and done again."""

from __future__ import annotations

from typing import Any

import orjson

from chatstream.events import Json
from chatstream.log.files.live_turn import LiveTurn
from chatstream.turns.runner import EndedTurn, TurnRunner
from chatstream.views import versions
from chatstream.web import conversations, frames
from chatstream.web import versions as http_versions
from chatstream.web.frames import Frames
from tests.chaos.planting import Fault, put


def cancel_in_word_only() -> None:
    """A cancel over a socket is acknowledged, and the turn goes on."""
    put(Frames, "_cancel", _acknowledge)


def clear_in_word_only() -> None:
    """A clear over a socket is acknowledged, and nothing is erased."""
    put(Frames, "_clear", _acknowledge)


def rate_in_word_only() -> None:
    """Feedback over a socket is acknowledged, and kept nowhere."""
    put(Frames, "_feedback", _acknowledge)


async def _acknowledge(self: Frames, data: Json, ref: object) -> None:
    self._session.answer({"type": "ack", "conversation_id": data["conversation_id"]}, ref)


def leave_out_the_newest() -> None:
    """A history over a socket lacks the newest message."""
    history_page = conversations.history_page

    async def broken(*given: Any) -> Json:
        page = await history_page(*given)
        return page | {"history": page["history"][:-1]}

    put(frames, "history_page", broken)


def leave_out_the_oldest_version() -> None:
    """The versions of a turn lack the first one."""
    found = versions.versions

    async def broken(*given: Any) -> list[Json]:
        return (await found(*given))[1:]

    put(http_versions, "versions", broken)


def lag_behind() -> None:
    """A running turn is shown without what came last, and with the id of that."""
    snapshot = TurnRunner.snapshot

    def broken(self: TurnRunner, turn: LiveTurn | EndedTurn) -> Json:
        found = snapshot(self, turn)
        if isinstance(turn, LiveTurn):
            text: str = orjson.loads(orjson.dumps(found["text"]))
            found["text"] = text[:-1]
        return found

    put(TurnRunner, "snapshot", broken)


SOCKET_FAULTS: dict[str, Fault] = {
    "cancel-in-word-only": Fault(5, cancel_in_word_only),
    "clear-in-word-only": Fault(7, clear_in_word_only),
    "lag-behind": Fault(1, lag_behind),
    "leave-out-the-newest": Fault(1, leave_out_the_newest),
    "leave-out-the-oldest-version": Fault(1, leave_out_the_oldest_version),
    "rate-in-word-only": Fault(2, rate_in_word_only),
}
