"""
Who may start a turn: how many run at once, of all users and of one, and whether any may.

A count says nothing of what the machine bears: where the loop is late, no more turns are begun,
since each of them would make all others later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

from chatstream.errors import OVERLOADED, TooManyRequests, Unavailable
from chatstream.settings import Settings
from chatstream.turns.lag import Lag, Turns

MOST_LAG, MOST_LAG_OF_MANY = 0.1, 0.008
"""
Seconds by which the loop may be late, on average, before no turn begins; and none of a user who has
many: what one asks for makes nobody else late, and a thousand who come at once are no such user.
"""
FEW_TURNS = 8
"""While fewer run, it is not they that make the loop late: nothing is refused for it."""
REFUSED_A_SECOND = 16
"""
Where all places are taken and more are refused than so many, nothing is looked at any more to find
out whether a start is one of a turn that runs already.
"""
STARTS_A_ROUND = 4
"""So many starts are begun in one round of the loop, before everything else has its own."""


class Admission:
    """
    Counts the turns that start and run. For the loop's thread.

    Attributes:
        draining: No turn may start any more.
        idle: Set while nothing starts or runs.
    """

    def __init__(self, settings: Settings, room: Callable[[], None]) -> None:
        """`room` raises where the disk has none."""
        self._most = settings.max_turns
        self._per_user = (
            settings.max_turns_per_user if settings.limited("max_turns_per_user") else None
        )
        self._room = room
        self._users: Counter[str] = Counter()
        self._running = 0
        self._lag = Lag(lambda: self._running > 0)
        self._turns = Turns(STARTS_A_ROUND)
        self._refused: deque[float] = deque(maxlen=REFUSED_A_SECOND)
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    def check_open(self) -> None:
        """Refuse what would start a turn while the server drains, or the disk is full."""
        if self.draining:
            raise Unavailable("The server is restarting.", code="draining", retry_after=2)
        self._room()

    async def enter(self) -> None:
        """
        Wait for one's turn to be looked at: before anything is done for a start, its body included.

        Raises:
            Unavailable: There is too much to do already.
        """
        await self._turns.turn()
        self._check_lag()
        if len(self._refused) == REFUSED_A_SECOND and self._refused[0] > time.monotonic() - 1:
            self._check_count()

    async def pause(self) -> None:
        """Hold an answer back that says no: what asks again at once is asked to wait a little."""
        await self._lag.tick()
        await self._turns.turn()  # what was held back together does not leave, and ask, together

    def _check_lag(self, of_user: int = 0) -> None:
        late = self._lag.smoothed > MOST_LAG
        late = late or (of_user >= FEW_TURNS and self._lag.recent > MOST_LAG_OF_MANY)
        if late and self._running >= FEW_TURNS:
            raise Unavailable(
                "The server has too much to do; try again in a moment.", code=OVERLOADED
            )

    def _check_count(self) -> None:
        if self._running >= self._most:
            self._refused.append(time.monotonic())
            raise Unavailable(
                f"{self._most} answers are being written; try again in a moment.",
                code=OVERLOADED,
            )

    def take(self, user_id: str) -> None:
        """
        Take a place for a turn, until `give_back`.

        Raises:
            Unavailable, TooManyRequests, StorageFull: There is none.
        """
        self.check_open()
        self._check_lag(self._users[user_id])
        self._check_count()
        if self._per_user is not None and self._users[user_id] >= self._per_user:
            raise TooManyRequests(
                f"{self._per_user} answers of yours are being written; wait for one of them.",
                code="too_many_turns",
                headers={
                    "RateLimit-Policy": f'"turns";q={self._per_user}',
                    "RateLimit": '"turns";r=0;t=1',
                },
            )
        self._users[user_id] += 1
        self._running += 1
        self._lag.start()
        self.idle.clear()

    def give_back(self, user_id: str) -> None:
        """Let go of a place that was taken."""
        self._users[user_id] -= 1
        self._running -= 1
        if not self._users[user_id]:
            del self._users[user_id]
        if not self._users:
            self.idle.set()


class Slot:
    """One turn's place: taken at most once, given back at most once."""

    def __init__(self, admission: Admission, user_id: str) -> None:
        self._admission = admission
        self._user_id = user_id
        self._held = False

    def take(self) -> None:
        """Take the place, or look whether the one that is held may still be used."""
        if self._held:
            self._admission.check_open()
        else:
            self._admission.take(self._user_id)
            self._held = True

    def pass_on(self) -> Slot:
        """Return another who holds the place now, and gives it back."""
        other = Slot(self._admission, self._user_id)
        self._held, other._held = False, self._held
        return other

    def give_back(self) -> None:
        """Let go of the place, where it is held."""
        if self._held:
            self._held = False
            self._admission.give_back(self._user_id)
