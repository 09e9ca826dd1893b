"""
When a provider is not worth asking: one breaker for each (provider, model). No I/O, no timers.

Closed, it lets everyone through. Open, nobody, until its time is over; then half-open: one caller
tries, and what he meets at the first content decides.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from chatstream.errors import ProviderError

State = Literal["closed", "open", "half-open"]

CONSECUTIVE: Final = 5
WINDOW_SECONDS: Final = 60.0
WINDOW_CALLS: Final = 10
"""Half of at least so many calls within the window open it too."""
SHORTEST_OPEN: Final = 5.0
LONGEST_OPEN: Final = 120.0
DEFAULT_PARKED: Final = 5.0
"""Seconds, where a provider that is asked too often does not say how long to wait."""
EMPTY_SECONDS: Final = 300.0
"""How long a provider is not asked whose account is empty: that takes somebody who pays."""
SLACK: Final = 0.01
"""Timers of an event loop may fire this early."""


class Change(NamedTuple):
    """
    A change of state. `why` is the code of the last failure, or in a word what was found.

    `seconds` is how long nobody is let in: infinite until a restart, 0 where somebody is.
    """

    state: State
    why: str
    seconds: float


class Entry(NamedTuple):
    """
    Of one who was let in. `probe`: half-open, alone; what this one meets decides. `trial`: so for
    the account.
    """

    probe: bool
    trial: bool = False


class Account:
    """
    The credit that all models of a provider share. Empty, nobody asks for a while; then one tries.

    Attributes:
        empty: It was, when it was last asked.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[bool], None]) -> None:
        """`changed` is told, once, that it is empty (True), or is not any more."""
        self._clock = clock
        self._changed = changed
        self.empty = False
        self._until = 0.0
        self._trying = False

    def wait(self) -> float:
        """Return the seconds until it is worth asking."""
        if not self.empty:
            return 0.0
        wait = self._until - self._clock() - SLACK
        return wait if wait > 0 else float(self._trying)

    def enter(self) -> bool:
        """Let one ask for whom `wait` said that he may; says whether it is on trial."""
        self._trying = self.empty
        return self.empty

    def left(self) -> None:
        """The trial decided nothing."""
        self._trying = False

    def refused(self) -> None:
        """It has nothing left."""
        self._until = self._clock() + EMPTY_SECONDS
        if not self.empty:
            self.empty = True
            self._changed(True)

    def began(self) -> None:
        """An answer began: somebody paid."""
        if self.empty:
            self.empty = self._trying = False
            self._changed(False)


class Breaker:
    """
    One target's. For each `Entry` exactly one of `began`, `failed` and `left` is called.

    Args:
        clock: Monotonic seconds.
        jitter: From 0 to 1; so that many servers do not come back at once.
        changed: Told of each change, once. Of one that time alone brings, when it is next entered.
        account: The one that it shares with its provider's other models.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        changed: Callable[[Change], None],
        account: Account | None = None,
    ) -> None:
        self.account = account or Account(clock, lambda _: None)
        self._clock = clock
        self._jitter = jitter
        self._changed = changed
        self._told: State = "closed"
        # When, how many calls it is, and how many of those were bad.
        self._calls: deque[tuple[float, int, float]] = deque(maxlen=1000)
        self._in_a_row = 0
        self._times_opened = 0
        self._closed_at: float | None = None  # when it may be tried; None while it is closed
        self._parked_until = 0.0
        self._probing = False

    @property
    def state(self) -> State:
        """As `GET /providers` shows it; a target that is parked is open."""
        now = self._clock()
        if now + SLACK < self._parked_until or self.account.wait() > 1:
            return "open"
        if self._closed_at is None:
            return "half-open" if self.account.empty else "closed"
        return "half-open" if now + SLACK >= self._closed_at else "open"

    def wait(self) -> float:
        """Return the seconds until it is worth asking; infinite until a restart."""
        until = max(self._parked_until, self._closed_at or 0.0)
        wait = max(until - self._clock() - SLACK, self.account.wait())
        if wait > 0:
            return wait
        return 1.0 if self._probing else 0.0

    def enter(self) -> Entry | None:
        """Let the caller ask, or not now; when it is half-open, only one at a time may."""
        if self.wait() > 0:
            return None
        self._probing = self._closed_at is not None
        self._tell("probe" if self._probing else "pause_over")
        return Entry(self._probing, self.account.enter())

    def began(self, entry: Entry) -> None:
        """The first content came: it works."""
        self.account.began()
        self._note(1, 0.0)
        self._in_a_row = 0
        if entry.probe:
            self._probing = False
            self._closed_at = None
            self._times_opened = 0
            self._calls.clear()
            self._tell("first_content")

    def left(self, entry: Entry) -> None:
        """The caller went before anything was decided: it counts as nothing."""
        if entry.probe:
            self._probing = False
        if entry.trial:
            self.account.left()

    def failed(self, entry: Entry, error: ProviderError) -> None:
        """
        No content came.

        What the provider refuses of one request says nothing of the next; what it refuses of our
        key says everything, until the server starts again; and what it refuses for an empty account
        says it of all its models.
        """
        self.left(entry)
        if error.code == "provider_auth":
            told = self._closed_at == math.inf
            self._closed_at = math.inf
            self._tell(error.code, again=not told)
        elif error.code == "provider_quota":
            self.account.refused()
            self._tell(error.code)
        elif error.code == "provider_rate_limited":
            wait = DEFAULT_PARKED if error.retry_after is None else error.retry_after
            self._parked_until = max(self._parked_until, self._clock() + wait)
            self._tell(error.code)
        elif error.retryable:
            self._note(1, 1.0)
            self._in_a_row += 1
            if self._closed_at != math.inf and (
                entry.probe or self._closed_at is None and self._bad()
            ):
                self._open(error.code)

    def cut(self, error: ProviderError) -> None:
        """An answer that had begun, and was counted then, broke off: half a failure."""
        if error.code == "provider_quota":
            self.account.refused()
        self._note(0, 0.5)
        if self._closed_at is None and self._bad_share():
            self._open(error.code)

    def _note(self, calls: int, bad: float) -> None:
        now = self._clock()
        self._calls.append((now, calls, bad))
        while self._calls[0][0] <= now - WINDOW_SECONDS:
            self._calls.popleft()

    def _bad(self) -> bool:
        return self._in_a_row >= CONSECUTIVE or self._bad_share()

    def _bad_share(self) -> bool:
        count = sum(calls for _, calls, _ in self._calls)
        return count >= WINDOW_CALLS and sum(bad for _, _, bad in self._calls) >= count / 2

    def _open(self, why: str) -> None:
        longest = min(SHORTEST_OPEN * 2**self._times_opened, LONGEST_OPEN)
        self._times_opened = min(self._times_opened + 1, 10)
        self._closed_at = self._clock() + longest * (1 - self._jitter() / 5)
        self._in_a_row = 0
        self._tell(why, again=True)

    def _tell(self, why: str, *, again: bool = False) -> None:
        """Tell the state, where it is another than was told; or, open for longer, once again."""
        state = self.state
        if again or state != self._told:
            self._told = state
            self._changed(Change(state, why, self.wait() if state == "open" else 0.0))
