"""One conversation of those on a connection: what it has to send, and what holds it back."""

from __future__ import annotations

from collections.abc import Callable

from chatstream.log.files.conversation import Conversation
from chatstream.log.files.tail import PIECE
from chatstream.views.subscriber import Start, Subscriber
from chatstream.web import wire

SLICE = PIECE
"""What one conversation sends before the next has its turn."""


class Subscription:
    """
    A cursor of its own in a conversation, and its control events. For whatever sends.

    Attributes:
        held: How many answers must go out before its next event.
    """

    __slots__ = ("name", "held", "_wake", "_told", "_waiting", "_subscriber")

    def __init__(
        self,
        conversation: Conversation,
        start: Start,
        ref: object,
        wake: Callable[[str], None],
    ) -> None:
        """`wake` is told the conversation's id whenever there may be something to send."""
        self.name = conversation.address.conversation_id
        self.held = 0
        self._wake = wake
        self._told = False
        self._waiting = [wire.ready(self.name, start.after, ref, reset=start.reset)]
        if start.reset:
            self._waiting.append(wire.reset(self.name))
        self._subscriber = Subscriber(conversation, start, self.wake)

    def wake(self) -> None:
        """Say that there may be something."""
        self._wake(self.name)

    def close(self) -> None:
        """Stop reading; nothing is woken any more."""
        self._subscriber.close()
        self._wake = _nobody

    async def frames(self) -> list[bytes]:
        """
        Return what is to be sent next; empty where there is nothing, or while it is held.

        Raises:
            ChatstreamError, OSError: The conversation cannot be read.
        """
        if self.held:
            return []
        subscriber = self._subscriber
        self._waiting += [event.json for event in await subscriber.take(SLICE)]
        if not self._told and subscriber.caught_up:
            self._told = True
            self._waiting.append(wire.caught_up(self.name, subscriber.backlog_until))
        if self.held:
            return []  # an answer came up while the disk was read
        frames, self._waiting = self._waiting, []
        return frames


def _nobody(name: str) -> None:
    pass
