"""The breakers of one application, and what its log says of them: a line for each change."""

from __future__ import annotations

import logging
import math
import random
import time
from functools import partial
from typing import Final

from chatstream.providers.breaker import Breaker, Change, State

logger = logging.getLogger(__name__)

MOST_BREAKERS: Final = 1000
"""Callers may name any model: beyond this those that are closed are forgotten."""


class Breakers:
    """One for each provider and model that was asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Breaker] = {}

    def of(self, provider: str, model: str) -> Breaker:
        """Return the breaker of a model."""
        key = provider, model
        if key not in self._known:
            if len(self._known) >= MOST_BREAKERS:
                self._make_room()
            changed = partial(_log, provider, model)
            self._known[key] = Breaker(time.monotonic, random.random, changed)
        return self._known[key]

    def state(self, provider: str, model: str) -> State:
        """Return the state of a model's breaker; one that was never asked for is closed."""
        breaker = self._known.get((provider, model))
        return "closed" if breaker is None else breaker.state

    def _make_room(self) -> None:
        for key, breaker in list(self._known.items()):
            if breaker.state == "closed":
                del self._known[key]
        if len(self._known) >= MOST_BREAKERS:
            self._known.popitem()  # made last: those of the models in daily use are older


def _log(provider: str, model: str, change: Change) -> None:
    level = logging.INFO
    fields: dict[str, object] = {"provider": provider, "model": model, **change._asdict()}
    if change.state != "open":
        del fields["seconds"]
    elif change.seconds == math.inf:
        level = logging.ERROR
        fields["seconds"] = "until the settings change"
    else:
        level = logging.WARNING
        fields["seconds"] = round(change.seconds, 1)
    logger.log(level, "breaker changed", extra=fields)
