"""
Turns that a process left when it died: each ends as interrupted, with its text so far.
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

    A turn whose end the disk refuses stays an orphan: the next use of the conversation, or the
    next start, ends it. Until then it can be read, without its text.
    """
    await conversation.settled()  # a clear that is under way writes their ends itself
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
            continue  # by a clear, which writes their ends
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
