"""The places that one provider has for requests, and the tickets for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chatstream.errors import ProviderError, Unavailable
from chatstream.providers.route.fair_queue import SHARE, FairQueue, share
from chatstream.providers.route.window import AimdWindow

SMOOTHING: Final = 0.2
"""How much one request says of how long the next will take."""
LONGEST_RETRY_AFTER: Final = 120
TOO_MUCH: Final = frozenset({"provider_rate_limited", "first_token_timeout"})


@dataclass(frozen=True, slots=True)
class Queue:
    """What may wait for one provider: how many turns, and for how many seconds."""

    size: int
    seconds: float


class Limiter:
    """
    One provider's places: so many as its window says, for users in turn. For the loop's thread.

    Args:
        clock: Monotonic seconds.
        most: How many requests may ever run at once.
        queue: What may wait besides; one user alone never has the last quarter of it.
        later: Calls a function after so many seconds: a place that is kept for somebody becomes
            free as time passes, and nobody need come or go then.
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
        self._queue = queue
        self._window = AimdWindow(most)
        self._users: FairQueue[Ticket] = FairQueue()
        self._seconds_held = 0.0

    @property
    def limit(self) -> float:
        """How many requests may run now, its fraction not yet earned; at least 1."""
        return self._window.limit

    @property
    def in_use(self) -> int:
        """How many run."""
        return self._users.in_use

    @property
    def queued(self) -> int:
        """How many wait. Never one that could run."""
        return self._users.queued

    @property
    def share(self) -> int:
        """How many places one user may have."""
        return share(self._window.places)

    def join(self, user_id: str) -> Ticket:
        """
        Take a place, or one in the queue; the ticket's `release` must follow.

        Raises:
            Unavailable: The queue is full, or would be too long a wait; says how long it would be.
        """
        ticket = Ticket(self, user_id)
        self._serve()  # nobody overtakes tickets of the same user that wait
        if self._users.may_take(user_id, self._window.places, self._window.borne):
            self._grant(ticket)
            return ticket
        wait = self._users.turns_until(user_id) * self._seconds_held / self._window.places
        most = math.ceil(self._queue.size * SHARE)
        full = self.queued >= self._queue.size or self._users.waiting(user_id) >= most
        if full or wait > self._queue.seconds:
            raise Unavailable(
                "Too many answers are asked for at the moment; try again later.",
                code="overloaded",
                retry_after=min(max(math.ceil(wait), 1), LONGEST_RETRY_AFTER),
            )
        self._users.append(user_id, ticket)
        self._look_later()
        return ticket

    def _grant(self, ticket: Ticket) -> None:
        self._users.take(ticket.user_id)
        ticket.grant(self._clock(), self.in_use, self._window.decreases)

    def began(self, place: int) -> None:
        """Count a first content, of the request in a place."""
        self._window.began(place, self.in_use, self._clock())
        self._serve()

    def refused(self, place: int, decreases: int) -> None:
        """Ask less, since the provider is asked too much; `decreases` is that of the request."""
        self._window.refused(place, decreases, self.in_use, self._clock())

    def leave(self, ticket: Ticket, granted_at: float | None) -> None:
        """Take a ticket back."""
        if granted_at is None:
            self._users.remove(ticket.user_id, ticket)
            return
        now = self._clock()
        self._users.give_back(ticket.user_id, now)
        self._seconds_held += SMOOTHING * (now - granted_at - self._seconds_held)
        self._serve()

    def _serve(self) -> None:
        self._users.forget(self._clock())
        places, borne = self._window.places, self._window.borne
        while (ticket := self._users.pop(places, borne)) is not None:
            self._grant(ticket)
        self._look_later()

    def _look_later(self) -> None:
        """See that tickets which wait beside a place are served once it is kept for nobody."""
        until = self._users.kept_until(self._window.places)
        if until is not None and not self._looks_later:
            self._looks_later = True
            self._later(max(until - self._clock(), 0.0), self._look)

    def _look(self) -> None:
        self._looks_later = False
        self._serve()


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
        """Give the place; `place` counts those in use, with this one."""
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
