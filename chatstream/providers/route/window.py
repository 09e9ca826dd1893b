"""How many requests a provider is asked at once: a limit that follows what it bears. No I/O."""

from __future__ import annotations

from typing import Final

DECREASE: Final = 0.7
TRIAL_SECONDS: Final = 10.0
"""After a refusal, so long no more are asked at once than were borne."""


class AimdWindow:
    """
    A limit that rises by one and falls by a share (AIMD).

    It is sampled at the first content, since how long a whole answer takes depends on its length:
    one more for each round of answers that began, seven tenths where the provider says that it is
    asked too often, or says nothing for too long. It starts at the most that is allowed, so that a
    provider which bears everything never makes anyone wait. How many it bore when it refused last
    is kept: after a while one more is tried.

    Attributes:
        limit: How many requests may run now, its fraction not yet earned; at least 1.
        borne: How many were borne at once: one more is a trial.
        decreases: How often it was lowered.
    """

    def __init__(self, most: int) -> None:
        """`most` is how many may ever run at once."""
        self._most = most
        self._trial_at = 0.0
        self.limit = float(most)
        self.borne = most
        self.decreases = 0

    @property
    def places(self) -> int:
        """The whole requests that may run now."""
        return int(self.limit)

    def began(self, place: int, in_use: int, now: float) -> None:
        """Count the first content of the request in a place. It only rises while it is used."""
        self.borne = max(self.borne, place)
        if 2 * in_use >= self.limit:
            most = self._most if now >= self._trial_at else self.borne
            self.limit = max(self.limit, min(self.limit + 1 / self.limit, float(most)))

    def refused(self, place: int, decreases: int, in_use: int, now: float) -> None:
        """Lower it, once for all requests that were sent before it was lowered last."""
        if decreases != self.decreases:
            return
        self.decreases += 1
        if place > self.borne:
            self.limit = float(self.borne)
        else:
            self.limit = max(min(self.limit, float(in_use)) * DECREASE, 1.0)
            if in_use == 1:
                return  # that says nothing of how many at once
            self.borne = min(self.borne, in_use - 1)
        self._trial_at = now + TRIAL_SECONDS
