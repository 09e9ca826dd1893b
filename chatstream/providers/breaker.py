"""
When a provider is not worth asking: one breaker for each (provider, model). No I/O, no timers.

Closed, it lets everyone through. Open, nobody, until its time is over; then half-open: one caller
tries, and what he meets at the first content decides.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

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
SLACK: Final = 0.01
"""Timers of an event loop may fire this early."""


class Breaker:
    """
    One target's. Every `enter` that was let in is followed by one of `began`, `failed` and `left`.

    Args:
        clock: Monotonic seconds.
        jitter: From 0 to 1; so that many servers do not come back at once.
    """

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._jitter = jitter
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
        if now + SLACK < self._parked_until:
            return "open"
        if self._closed_at is None:
            return "closed"
        return "half-open" if now + SLACK >= self._closed_at else "open"

    def wait(self) -> float:
        """Return the seconds until it is worth asking; infinite until a restart."""
        until = max(self._parked_until, self._closed_at or 0.0)
        wait = until - self._clock() - SLACK
        if wait > 0:
            return wait
        return 1.0 if self._probing else 0.0

    def enter(self) -> bool:
        """Say whether the caller may ask now; when it is half-open, only one at a time may."""
        if self.wait() > 0:
            return False
        self._probing = self._closed_at is not None
        return True

    def began(self) -> None:
        """The first content came: it works."""
        self._note(1, 0.0)
        self._in_a_row = 0
        if self._probing:
            self._probing = False
            self._closed_at = None
            self._times_opened = 0
            self._calls.clear()

    def left(self) -> None:
        """The caller went before anything was decided: it counts as nothing."""
        self._probing = False

    def failed(self, error: ProviderError) -> None:
        """
        No content came.

        What the provider refuses of one request says nothing of the next; what it refuses of our
        key says everything, until the server starts again.
        """
        probing, self._probing = self._probing, False
        if error.code == "provider_auth":
            self._closed_at = math.inf
        elif error.code == "provider_rate_limited":
            wait = DEFAULT_PARKED if error.retry_after is None else error.retry_after
            self._parked_until = max(self._parked_until, self._clock() + wait)
        elif error.retryable:
            self._note(1, 1.0)
            self._in_a_row += 1
            if probing or self._closed_at is None and self._bad():
                self._open()

    def cut(self) -> None:
        """An answer that had begun, and was counted then, broke off: half a failure."""
        self._note(0, 0.5)
        if self._closed_at is None and self._bad_share():
            self._open()

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

    def _open(self) -> None:
        longest = min(SHORTEST_OPEN * 2**self._times_opened, LONGEST_OPEN)
        self._times_opened = min(self._times_opened + 1, 10)
        self._closed_at = self._clock() + longest * (1 - self._jitter() / 5)
        self._in_a_row = 0
