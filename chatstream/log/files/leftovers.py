"""
Turns that a process left when it died: each ends as interrupted, with all that had come of it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from chatstream.errors import StorageFailed, StorageFull, TurnEnded
from chatstream.events import Json, terminal_fields, timestamp
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.summary import Orphan

logger = logging.getLogger(__name__)


async def end_orphans(conversation: Conversation) -> None:
    """
    End the turns of a conversation that no process runs any more, as `turn.interrupted`.

    What the disk refuses stays an orphan, to be ended when the conversation is next asked for,
    or by the next start: until then it can be read, and is without its text.
    """
    await conversation.settled()  # a clear that is under way tells of them itself
    orphans, conversation.orphans = conversation.orphans, []
    turns = [LiveTurn.left(conversation, conversation.end_turn, orphan) for orphan in orphans]
    conversation.running |= {turn.started_place: turn for turn in turns}
    ends = (
        turn.end("turn.interrupted", _interrupted(orphan))
        for turn, orphan in zip(turns, orphans, strict=True)
    )
    results = await asyncio.gather(*ends, return_exceptions=True)
    for turn, orphan, result in zip(turns, orphans, results, strict=True):
        if isinstance(result, StorageFull | StorageFailed):
            conversation.running.pop(turn.started_place, None)
            turn.close(None)
            conversation.orphans.append(orphan)
            logger.error("turn not ended", extra={"code": result.code})
        elif isinstance(result, TurnEnded):
            continue  # by a clear, which tells of it
        elif isinstance(result, BaseException):
            raise result
        else:
            logger.warning("turn interrupted", extra={"turn_id": turn.turn_id})


def _interrupted(orphan: Orphan) -> Json:
    """Return what is known of an orphan's end, besides its text."""
    request = orphan.started.get("request") or {}
    return terminal_fields(
        ended_at=timestamp(time.time_ns() // 1_000_000),
        provider=orphan.answering.get("provider", request.get("provider")),
        model=orphan.answering.get("model", request.get("model")),
    )
