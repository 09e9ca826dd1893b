"""Who may be asked for one turn's answer, and how long a turn waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from chatstream.providers import Provider
from chatstream.providers.route.breaker import Breaker, Entry
from chatstream.providers.route.concurrency import Limiter
from chatstream.providers.route.plan import SHORT_WAIT


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, the model that it is asked for, whether it is worth asking, and has room."""

    provider: Provider
    model: str
    breaker: Breaker
    limiter: Limiter

    async def enter(self) -> Entry | None:
        """Wait until it is worth asking; None if that would be too long."""
        while (entry := self.breaker.enter()) is None:
            wait = self.breaker.wait()
            if wait >= SHORT_WAIT:
                return None
            await asyncio.sleep(wait)
        return entry


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How often and how long: `retries` of each target; seconds for one attempt, for all, and for
    one's turn to come.
    """

    retries: int
    first_token_timeout: float
    start_timeout: float
    queue_timeout: float


def no_answer(targets: Sequence[Target]) -> tuple[str, str]:
    """Return the code and the sentence of a turn for which no target is worth asking."""
    empty = [target.provider.name for target in targets if target.breaker.account.empty]
    if not empty:
        return "provider_unavailable", "No provider answers at the moment."
    code = "provider_quota" if len(empty) == len(targets) else "provider_unavailable"
    names = " and ".join(empty)
    return code, f"No provider answers at the moment: no credit is left in the account at {names}."
