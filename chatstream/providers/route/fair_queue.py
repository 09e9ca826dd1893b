"""Whose request is next: users take turns. No I/O, no clock of its own."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from typing import Final, Generic, TypeVar

SHARE: Final = 0.75
LATELY: Final = 30.0
"""For so many seconds after a user's last answer a place is kept for the next."""

T = TypeVar("T")


class FairQueue(Generic[T]):
    """
    The users of some places: those who hold them, and the tickets that wait for one.

    Of those who wait, the user with the fewest requests running is next. A user with one running
    already leaves a place free for each user who was here lately and has none, up to half of the
    places. While there are four places or more, one user alone never has the last quarter.

    Attributes:
        in_use: How many places are held.
        queued: How many tickets wait.
    """

    def __init__(self) -> None:
        self.in_use = 0
        self.queued = 0
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        # Users who hold none, and when their last one ended: those who were here lately.
        self._idle: OrderedDict[str, float] = OrderedDict()

    def take(self, user_id: str) -> None:
        """Give a user a place."""
        self.in_use += 1
        self._held[user_id] += 1
        self._idle.pop(user_id, None)

    def give_back(self, user_id: str, now: float) -> None:
        """Free a place of a user."""
        self.in_use -= 1
        self._held[user_id] -= 1
        if not self._held[user_id]:
            del self._held[user_id]
            self._idle[user_id] = now

    def may_take(self, user_id: str, places: int, borne: int) -> bool:
        """Whether a user may have one more of so many places; above `borne` it is a trial."""
        held, free = self._held[user_id], places - self.in_use
        if free <= 0 or held >= share(places):
            return False
        if self.in_use >= borne and held + 1 < max(self._held.values()):
            return False  # a trial is for the user who has most
        return not held or free > min(len(self._idle), places // 2)

    def append(self, user_id: str, ticket: T) -> None:
        """Let a ticket wait."""
        self._waiting.setdefault(user_id, deque()).append(ticket)
        self.queued += 1

    def remove(self, user_id: str, ticket: T) -> None:
        """Let a ticket wait no more."""
        self._waiting[user_id].remove(ticket)
        self._dequeued(user_id)

    def pop(self, places: int, borne: int) -> T | None:
        """Return the ticket that is next, and waits no more; None if none may have a place."""
        if self.in_use >= places:
            return None
        users = [user for user in self._waiting if self.may_take(user, places, borne)]
        if not users:
            return None
        user_id = min(users, key=self._held.__getitem__)
        self._waiting.move_to_end(user_id)
        ticket = self._waiting[user_id].popleft()
        self._dequeued(user_id)
        return ticket

    def waiting(self, user_id: str) -> int:
        """Return how many tickets of a user wait."""
        return len(self._waiting.get(user_id, ()))

    def turns_until(self, user_id: str) -> int:
        """Return how many answers one more ticket of a user would wait for, with its own."""
        own = self.waiting(user_id) + 1
        others = (len(tickets) for user, tickets in self._waiting.items() if user != user_id)
        return own + sum(min(count, own) for count in others)

    def forget(self, now: float) -> None:
        """Keep no place for users who were here too long ago."""
        while self._idle and next(iter(self._idle.values())) <= now - LATELY:
            self._idle.popitem(last=False)

    def kept_until(self, places: int) -> float | None:
        """Return when the next kept place becomes free, if tickets wait beside one; else None."""
        if self._waiting and self._idle and self.in_use < places:
            return next(iter(self._idle.values())) + LATELY
        return None

    def _dequeued(self, user_id: str) -> None:
        self.queued -= 1
        if not self._waiting[user_id]:
            del self._waiting[user_id]


def share(places: int) -> int:
    """
    Return how many of so many places one user may have.

    >>> share(1), share(4), share(8)
    (1, 3, 6)
    """
    return math.ceil(places * SHARE)
