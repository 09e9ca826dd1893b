"""The conversations on one connection: what each has to send, what holds it, whose turn it is."""

from __future__ import annotations

from collections.abc import Callable

from chatstream.log.files.conversation import Conversation
from chatstream.log.files.tail import PIECE
from chatstream.turns.lag import Turns
from chatstream.views.subscriber import Start, Subscriber
from chatstream.web import wire
from chatstream.web.state import SHARE

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


class Feed:
    """
    The subscriptions of one connection, and those of them that may have something to send.

    Attributes:
        subscriptions: By conversation id.
        ready: Ids of those that may have something, in the order of their turns.
    """

    __slots__ = ("subscriptions", "ready", "_wake", "_shares")

    def __init__(self, wake: Callable[[], None], shares: Turns) -> None:
        """`wake` is called whenever there may be something to send."""
        self.subscriptions: dict[str, Subscription] = {}
        self.ready: dict[str, None] = {}
        self._wake = wake
        self._shares = shares

    def subscribe(self, conversation: Conversation, start: Start, ref: object = None) -> None:
        """Send a conversation from a place on; subscribing again replaces, and stays held."""
        name = conversation.address.conversation_id
        before = self.subscriptions.get(name)
        self.unsubscribe(name)
        subscription = Subscription(conversation, start, ref, self._has_something)
        subscription.held = before.held if before else 0
        self.subscriptions[name] = subscription
        subscription.wake()

    def unsubscribe(self, name: str) -> None:
        """Stop sending a conversation; also one that is not sent."""
        if (subscription := self.subscriptions.pop(name, None)) is not None:
            subscription.close()

    def hold(self, name: str) -> None:
        """Keep a conversation's events back until `release`."""
        if (subscription := self.subscriptions.get(name)) is not None:
            subscription.held += 1

    def release(self, name: str) -> None:
        """Let them go."""
        if (subscription := self.subscriptions.get(name)) and subscription.held:
            subscription.held -= 1
            subscription.wake()

    def take_turn(self, name: str) -> Subscription | None:
        """Return the subscription whose turn it is; what it is told from now on wakes it again."""
        del self.ready[name]
        return self.subscriptions.get(name)

    async def end(self) -> None:
        """Stop sending, by shares: of many connections that end at once none delays the others."""
        try:
            for number, name in enumerate(list(self.subscriptions)):
                if number % SHARE == 0:
                    await self._shares.turn()
                self.unsubscribe(name)
        finally:
            self.close()

    def close(self) -> None:
        """Stop sending at once."""
        for name in list(self.subscriptions):
            self.unsubscribe(name)

    def _has_something(self, name: str) -> None:
        self.ready[name] = None
        self._wake()


def _nobody(name: str) -> None:
    pass
