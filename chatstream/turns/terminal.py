"""
How a turn's reply ends: why it is stopped from outside, and its terminal event, written once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from chatstream.errors import (
    ChatstreamError,
    ProviderTimeout,
    StorageFailed,
    StorageFull,
    TurnEnded,
)
from chatstream.events import Json, TerminalType, status_of
from chatstream.log.files.live_turn import LiveTurn

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.25
LAST_RETRY_SECONDS = 5.0


class Why(NamedTuple):
    """Why a reply is stopped from outside. `last`: there is no time to wait for the disk."""

    kind: TerminalType
    reason: str | None = None
    error: ProviderTimeout | None = None
    last: bool = False


class Ending:
    """
    The end of one turn, for the task that writes it. A caller that cancels the task calls `stop`
    first, unless the conversation is cleared.

    Attributes:
        status: How the turn ended, for the metrics: "cleared" with its conversation, "lost" where
            this process has not written it.
    """

    def __init__(self, turn: LiveTurn) -> None:
        self._turn = turn
        self._why: Why | None = None
        self.status = "lost"

    @property
    def stopped(self) -> bool:
        """Whether somebody wants it to end before its time."""
        return self._why is not None

    def stop(self, why: Why) -> None:
        """Keep the reason for ending: the first one counts, and the least time."""
        if self._why is None:
            self._why = why
        elif why.last:
            self._why = self._why._replace(last=True)

    def cancelled(self) -> tuple[TerminalType, Json]:
        """Return the end of a task that was just cancelled; the cancellation is dealt with."""
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        why = self._why or Why("turn.interrupted")
        if why.error is not None:
            return why.kind, {"error": told(why.error)}
        return why.kind, {"reason": why.reason} if why.reason else {}

    async def write(self, kind: TerminalType, fields: Json, terminal: Callable[[], Json]) -> None:
        """
        Write the end; while the disk refuses it, again and again until the server stops.

        `terminal` tells what every end says, at the time that it is written.
        """
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._turn.end(kind, terminal() | fields)
                self.status = status_of(kind)
                return
            except TurnEnded:
                self.status = "cleared"
                return
            except asyncio.CancelledError:
                if self._turn.ended and await self._is_ended():
                    return
                kind, fields = self.cancelled()
            except (ChatstreamError, OSError) as error:
                # Once a turn: the disk's refusals themselves are logged once a minute.
                level = logging.ERROR if delay == FIRST_RETRY_SECONDS else logging.DEBUG
                logger.log(level, "end not written", extra={"error": type(error).__name__})
                if isinstance(error, StorageFull | StorageFailed):
                    self._turn.refused = error
                if self._why is not None and self._why.last:
                    self._turn.close(None)
                    return
                try:
                    await asyncio.sleep(delay)
                except asyncio.CancelledError:
                    kind, fields = self.cancelled()
                delay = min(2 * delay, LAST_RETRY_SECONDS)

    async def _is_ended(self) -> bool:
        """Wait for the end that somebody else writes, or this one begun; False where that fails."""
        ending = self._turn.ending
        if ending is not None and isinstance(await asyncio.shield(ending), OSError):
            return False
        event = await asyncio.shield(self._turn.done)
        self.status = "lost" if event is None else status_of(event.type)
        return True


def told(error: ChatstreamError) -> Json:
    """Return an error as `turn.failed` carries it."""
    return {"code": error.code, "message": error.message, "retryable": error.retryable}
