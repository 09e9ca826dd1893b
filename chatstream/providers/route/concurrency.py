"""
How many requests a provider is asked at once, and whose is next. No I/O.

The limit follows what the provider bears, and is sampled at the first content, since how long a
whole answer takes depends on its length: one more for each round of answers that began, seven
tenths where it says that it is asked too often, or says nothing for too long. It starts at the
most that is allowed, so that a provider which bears everything never makes anyone wait. How many it
bore when it refused last is kept: after a while one more is tried, at the risk of whoever has most
running, and a trial that fails costs nobody else.

Users take turns: of those who wait, whoever has the fewest requests running is next. Whoever has
one running already leaves a place free for each user who was here lately and has none, up to half
of them. While there are four places or more, one user alone never has the last quarter of them,
nor of the queue's.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chatstream.errors import ProviderError, Unavailable

DECREASE: Final = 0.7
SHARE: Final = 0.75
SMOOTHING: Final = 0.2
"""How much one request says of how long the next will take."""
LONGEST_RETRY_AFTER: Final = 120
TRIAL_SECONDS: Final = 10.0
"""After a refusal, so long no more are asked at once than were borne."""
LATELY: Final = 30.0
"""For so many seconds after a user's last answer a place is kept for the next."""
TOO_MUCH: Final = frozenset({"provider_rate_limited", "first_token_timeout"})


@dataclass(frozen=True, slots=True)
class Queue:
    """What may wait for one provider: how many turns, and for how many seconds."""

    size: int
    seconds: float


class Limiter:
    """
    One provider's places. For the loop's thread.

    Args:
        clock: Monotonic seconds.
        most: How many requests may ever run at once.
        queue: What may wait besides.
        later: Calls a function after so many seconds: a place that is kept for somebody becomes
            free as time passes, and nobody need come or go then.

    Attributes:
        limit: How many requests may run now, its fraction not yet earned; at least 1.
        in_use: How many run.
        queued: How many wait. Never one that could run.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        most: int,
        queue: Queue,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._clock = clock
        self._later = later
        self._looks_later = False
        self._most = most
        self._queue = queue
        self.limit = float(most)
        self.in_use = 0
        self.queued = 0
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        # Users who have none running, and when their last one ended: those who were here lately.
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._borne = most
        self._trial_at = 0.0
        self._decreases = 0
        self._seconds_held = 0.0

    @property
    def share(self) -> int:
        """How many places one user may have."""
        return math.ceil(int(self.limit) * SHARE)

    def join(self, user_id: str) -> Ticket:
        """
        Take a place, or one in the queue; the ticket's `release` must follow.

        Raises:
            Unavailable: The queue is full, or would be too long a wait; says how long it would be.
        """
        ticket = Ticket(self, user_id)
        self._serve()  # nobody overtakes his own who wait
        if self._has_place(user_id):
            self._grant(ticket)
            return ticket
        wait = self._expected_wait(user_id)
        most = math.ceil(self._queue.size * SHARE)
        full = self.queued >= self._queue.size or len(self._waiting.get(user_id, ())) >= most
        if full or wait > self._queue.seconds:
            raise Unavailable(
                "Too many answers are asked for at the moment; try again later.",
                code="overloaded",
                retry_after=min(max(math.ceil(wait), 1), LONGEST_RETRY_AFTER),
            )
        self._waiting.setdefault(user_id, deque()).append(ticket)
        self.queued += 1
        self._look_later()
        return ticket

    def _has_place(self, user_id: str) -> bool:
        held, free = self._held[user_id], int(self.limit) - self.in_use
        if free <= 0 or held >= self.share:
            return False
        if self.in_use >= self._borne and held + 1 < max(self._held.values()):
            return False  # a trial is for whoever has most
        return not held or free > min(len(self._idle), int(self.limit) // 2)

    def _expected_wait(self, user_id: str) -> float:
        """Return the seconds that one more of this user would wait, as far as is known."""
        own = len(self._waiting.get(user_id, ())) + 1
        others = sum(min(len(q), own) for user, q in self._waiting.items() if user != user_id)
        return (own + others) * self._seconds_held / int(self.limit)

    def _grant(self, ticket: Ticket) -> None:
        self.in_use += 1
        self._held[ticket.user_id] += 1
        self._idle.pop(ticket.user_id, None)
        ticket.grant(self._clock(), self.in_use, self._decreases)

    def began(self, place: int) -> None:
        """Count a first content. The limit only rises while it is made use of."""
        self._borne = max(self._borne, place)
        if 2 * self.in_use >= self.limit:
            most = self._most if self._clock() >= self._trial_at else self._borne
            self.limit = max(self.limit, min(self.limit + 1 / self.limit, float(most)))
        self._serve()

    def refused(self, place: int, decreases: int) -> None:
        """Lower the limit, once for all requests that were sent before it was lowered last."""
        if decreases != self._decreases:
            return
        self._decreases += 1
        if place > self._borne:
            self.limit = float(self._borne)
        else:
            self.limit = max(min(self.limit, float(self.in_use)) * DECREASE, 1.0)
            if self.in_use == 1:
                return  # that says nothing of how many at once
            self._borne = min(self._borne, self.in_use - 1)
        self._trial_at = self._clock() + TRIAL_SECONDS

    def leave(self, ticket: Ticket, granted_at: float | None) -> None:
        """Take a ticket back."""
        user_id = ticket.user_id
        if granted_at is None:
            self._waiting[user_id].remove(ticket)
            self._dequeued(user_id)
            return
        self.in_use -= 1
        self._held[user_id] -= 1
        if not self._held[user_id]:
            del self._held[user_id]
            self._idle[user_id] = self._clock()
        held = self._clock() - granted_at
        self._seconds_held += SMOOTHING * (held - self._seconds_held)
        self._serve()

    def _serve(self) -> None:
        long_ago = self._clock() - LATELY
        while self._idle and next(iter(self._idle.values())) <= long_ago:
            self._idle.popitem(last=False)
        while self.in_use < int(self.limit):
            waiting = [user for user in self._waiting if self._has_place(user)]
            if not waiting:
                self._look_later()
                return
            user_id = min(waiting, key=self._held.__getitem__)
            self._waiting.move_to_end(user_id)
            ticket = self._waiting[user_id].popleft()
            self._dequeued(user_id)
            self._grant(ticket)

    def _look_later(self) -> None:
        """See that whoever waits beside a place is served once it is kept for nobody."""
        if self._looks_later or not self._waiting or not self._idle:
            return
        if self.in_use < int(self.limit):
            self._looks_later = True
            until = next(iter(self._idle.values())) + LATELY
            self._later(max(until - self._clock(), 0.0), self._look)

    def _look(self) -> None:
        self._looks_later = False
        self._serve()

    def _dequeued(self, user_id: str) -> None:
        self.queued -= 1
        if not self._waiting[user_id]:
            del self._waiting[user_id]


class Ticket:
    """One request's place, or its place in the queue. `Limiter.join` gives it."""

    def __init__(self, limiter: Limiter, user_id: str) -> None:
        self.user_id = user_id
        self._limiter = limiter
        self._granted_at: float | None = None
        self._place = 0
        self._decreases = 0
        self._released = False
        self._turn: asyncio.Future[None] | None = None

    async def admitted(self, seconds: float) -> bool:
        """Wait for the place, for so long at most; say whether it was given."""
        if not self.granted:
            self._turn = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._turn
            except TimeoutError:
                pass
        return self.granted

    @property
    def granted(self) -> bool:
        """Whether it has its place."""
        return self._granted_at is not None

    def grant(self, now: float, place: int, decreases: int) -> None:
        """Give the place: the how-manieth of those that are taken."""
        self._granted_at = now
        self._place = place
        self._decreases = decreases
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def began(self) -> None:
        """The first content came."""
        self._limiter.began(self._place)

    def failed(self, error: ProviderError) -> None:
        """No content came; what the provider says of our pace lowers the limit."""
        if error.code in TOO_MUCH:
            self._limiter.refused(self._place, self._decreases)

    def release(self) -> None:
        """Let go of it; again does nothing."""
        if not self._released:
            self._released = True
            self._limiter.leave(self, self._granted_at)
