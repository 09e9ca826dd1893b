"""Which target of a turn is asked next, and when. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from chatstream.providers.route.retry import Budget, backoff

SHORT_WAIT: Final = 1.0
"""A provider that asks for less of a pause is waited for, its place held; seconds."""


class Step(NamedTuple):
    """The target to ask next, by its number, and the seconds until then."""

    number: int
    wait: float


class AttemptPlan:
    """
    The attempts that are left at each target of one turn; targets are known by their number.

    A target that was asked is asked again if that can be soon; else the next one that can be asked
    now; else the one that can be asked soonest.
    """

    def __init__(
        self, targets: int, retries: int, budget: Budget, random: Callable[[], float]
    ) -> None:
        """Plan one attempt and `retries` more for each; `budget` is that of all turns together."""
        self._retries = retries
        self._left = [retries + 1] * targets
        self._budget = budget
        self._random = random

    def asked(self, number: int) -> None:
        """Count an attempt at a target."""
        self._left[number] -= 1

    def give_up(self, number: int) -> None:
        """Ask a target no more."""
        self._left[number] = 0

    def next(
        self, last: int, pauses: Sequence[float], room: float, retry_after: float | None
    ) -> Step | None:
        """
        Return who is asked after `last`; None if nobody is left to ask in time.

        Args:
            pauses: In how many seconds each target is worth asking.
            room: How many seconds are left for a beginning.
            retry_after: What the last failure says of when to come back.
        """
        waits = self._waits(last, pauses, retry_after)
        other = next((n for n in waits if n > last and self._ready(n, waits[n])), None)
        if other is None:
            number = min(waits, key=waits.__getitem__, default=None)
            return None if number is None else self._in_time(number, waits[number], room)
        if waits.get(last, SHORT_WAIT) < SHORT_WAIT and self._budget.spend():
            return Step(last, waits[last]) if waits[last] < room else None
        return Step(other, 0.0)

    def _waits(
        self, last: int, pauses: Sequence[float], retry_after: float | None
    ) -> dict[int, float]:
        """Return the seconds until each target that is left may be asked."""
        waits = {number: pauses[number] for number, left in enumerate(self._left) if left}
        if last in waits and not self._fresh(last):
            retry = self._retries + 1 - self._left[last]
            waits[last] = max(waits[last], backoff(retry, self._random, retry_after))
        return waits

    def _fresh(self, number: int) -> bool:
        """Whether a target has not been asked yet."""
        return self._left[number] > self._retries

    def _ready(self, number: int, wait: float) -> bool:
        return self._fresh(number) and wait < SHORT_WAIT

    def _in_time(self, number: int, wait: float, room: float) -> Step | None:
        """Book a retry where it is one; None if its time would be too late."""
        if not self._fresh(number):
            booked = self._budget.book(room)
            wait = max(wait, room if booked is None else booked)
        return Step(number, wait) if wait < room else None
