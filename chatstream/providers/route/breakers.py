"""The breakers of one application, and what its log says of them: a line for each change."""

from __future__ import annotations

import logging
import math
import random
import time
from functools import partial
from typing import Final

from chatstream.providers.route.breaker import EMPTY_SECONDS, Account, Breaker, Change, State

logger = logging.getLogger(__name__)

MOST_BREAKERS: Final = 1000
"""Callers may name any model: beyond this those that are closed are forgotten."""


class Breakers:
    """One for each provider and model that was asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Breaker] = {}
        self._accounts: dict[str, Account] = {}

    def of(self, provider: str, model: str) -> Breaker:
        """Return the breaker of a model."""
        key = provider, model
        if key not in self._known:
            if len(self._known) >= MOST_BREAKERS:
                self._make_room()
            if provider not in self._accounts:
                self._accounts[provider] = Account(time.monotonic, partial(_log_account, provider))
            changed = partial(_log, provider, model)
            account = self._accounts[provider]
            self._known[key] = Breaker(time.monotonic, random.random, changed, account)
        return self._known[key]

    def state(self, provider: str, model: str) -> State:
        """Return the state of a model's breaker; one that was never asked for is the account's."""
        breaker = self._known.get((provider, model))
        if breaker is not None:
            return breaker.state
        account = self._accounts.get(provider)
        return "open" if account is not None and account.empty else "closed"

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


def _log_account(provider: str, empty: bool) -> None:
    if empty:
        fields = {"provider": provider, "seconds": EMPTY_SECONDS}
        logger.error("the account has no credit left: the provider is not asked", extra=fields)
    else:
        logger.info("the account has credit again", extra={"provider": provider})
