"""What goes along with a turn: the earlier messages that its provider is given as context."""

from __future__ import annotations

from functools import partial
from itertools import islice

from chatstream.events import EventId, before
from chatstream.log.files import lookup
from chatstream.log.files.journal import Journal
from chatstream.providers import Message
from chatstream.views.history import NOTHING_HIDDEN, turns_back

CONTEXT_TURNS = 4000
"""How far back a context is looked for, should the newest turns have no text."""


async def context(
    conversation: Journal, started_id: EventId, limit: int, replaced: EventId | None
) -> list[Message]:
    """
    Return what goes along with a turn, oldest first: the turns that had ended, with text, when it
    started; whole ones, the newest that together have at most `limit` messages.
    """
    if limit < 2 or conversation.turns == 1:
        return []  # nothing wanted, or this turn is the first: no file need be read
    job = partial(_context, started_id=started_id, limit=limit, replaced=replaced)
    return await conversation.with_file(job)


def _context(
    fd: int, size: int, *, started_id: EventId, limit: int, replaced: EventId | None
) -> list[Message]:
    found: list[Message] = []
    end = lookup.offset_after(fd, size, before(started_id))
    turns = turns_back(fd, end, None, replaced or NOTHING_HIDDEN)
    for started, terminal, _, _ in islice(turns, CONTEXT_TURNS):
        if terminal is not None and terminal.get("text"):
            found.append(Message("assistant", terminal["text"]))
            found.append(Message("user", started["message"]["content"]))
            if len(found) + 2 > limit:
                break
    return found[::-1]
