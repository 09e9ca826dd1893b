"""How long to wait before a request is sent again, and how often all may. No I/O, no timers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_BACKOFF: Final = 0.25
LONGEST_BACKOFF: Final = 4.0
BUDGET_SHARE: Final = 0.2
BUDGET_PER_SECOND: Final = 3.0
BUDGET_MOST: Final = 10.0
BUDGET_KEPT: Final = 5.0
"""What is left to those who have nobody else to ask."""


def backoff(retry: int, random: Callable[[], float], retry_after: float | None = None) -> float:
    """
    Return the seconds before the retry of this number, from 1: full jitter over a doubled time.

    A provider that says when to come back is not asked before.

    >>> backoff(1, lambda: 1.0), backoff(3, lambda: 1.0), backoff(9, lambda: 1.0)
    (0.25, 1.0, 4.0)
    """
    most: float = min(FIRST_BACKOFF * 2 ** (retry - 1), LONGEST_BACKOFF)
    return max(random() * most, retry_after or 0.0)


class Budget:
    """
    How many retries all turns together have: a fifth of the requests, but three a second.

    Without it a provider that falters is asked three times as much by everyone, and falls.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = BUDGET_MOST
        self._filled = clock()

    def asked(self) -> None:
        """Count a first attempt."""
        self._left = min(self._left + BUDGET_SHARE, BUDGET_MOST)

    def spend(self) -> bool:
        """Take one retry; say whether there was one to spare, for who can ask somebody else."""
        self._fill()
        if self._left < 1 + BUDGET_KEPT:
            return False
        self._left -= 1
        return True

    def book(self, within: float) -> float | None:
        """
        Take one retry for who has nobody else to ask; return in how many seconds it may be made.

        None, and none is taken, if that would be later than within so many.
        """
        self._fill()
        wait = max(0.0, (1 - self._left) / BUDGET_PER_SECOND)
        if wait > within:
            return None
        self._left -= 1
        return wait

    def _fill(self) -> None:
        now = self._clock()
        filled = self._left + (now - self._filled) * BUDGET_PER_SECOND
        self._left, self._filled = min(filled, BUDGET_MOST), now
