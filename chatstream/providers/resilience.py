"""
One turn's way to an answer: attempts, retries and fallbacks, all before the first content.

The only retry loop there is. After the first content nothing is asked again: what broke is told.
It sets no timer for a deadline: who watches the turn's clock looks at `due` and calls `expire`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from chatstream.errors import ProviderError, ProviderTimeout, Unavailable
from chatstream.providers import Finish, Piece, Provider, ProviderRequest, Reasoning, Text
from chatstream.providers.breaker import Breaker
from chatstream.providers.concurrency import Limiter, Ticket
from chatstream.providers.failures import MAX_RETRY_AFTER
from chatstream.providers.retry import Budget, backoff

logger = logging.getLogger(__name__)

SHORT_WAIT: Final = 1.0
"""A provider that asks for less of a pause is waited for, its place held; seconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, the model that it is asked for, whether it is worth asking, and has room."""

    provider: Provider
    model: str
    breaker: Breaker
    limiter: Limiter


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


class Route:
    """
    The targets of one turn, in order; for one reply. `leave` must follow `admit`.

    Attributes:
        name: The provider that is asked now, or answers.
        model: Its model.
        attempt: Which one it is, from 1; 0 before any.
        due: When the attempt has lasted too long, in the loop's time; means nothing once content
            has come. It never moves back.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        patience: Patience,
        budget: Budget,
        random: Callable[[], float],
        user_id: str,
    ) -> None:
        self._targets = targets
        self._user_id = user_id
        self._first = 0
        self._ticket: Ticket | None = None
        self._patience = patience
        self._budget = budget
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._scope: asyncio.Timeout | None = None
        self._start_due = self._loop.time() + patience.start_timeout
        self.name = targets[0].provider.name
        self.model = targets[0].model
        self.attempt = 0
        self.due = self._loop.time() + patience.first_token_timeout

    def admit(self) -> None:
        """
        Take a place at the first target that is worth asking and has one, or one in its queue.

        Again it does nothing.

        Raises:
            Unavailable: No target is worth asking now, or those have too many turns waiting; says
                when to come back.
        """
        if self._ticket is not None:
            return
        full: Unavailable | None = None
        for number, target in enumerate(self._targets):
            if target.breaker.wait() >= SHORT_WAIT:
                continue
            try:
                self._ticket = target.limiter.join(self._user_id)
            except Unavailable as error:
                full = full or error
                continue
            self._first = number
            return
        wait = min(target.breaker.wait() for target in self._targets)
        raise full or Unavailable(
            "No provider answers at the moment.",
            code="provider_unavailable",
            retry_after=math.ceil(min(wait, MAX_RETRY_AFTER)),
        )

    def leave(self) -> None:
        """Let go of the place that is held. Safe to call at any time, and again."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.release()

    def expire(self) -> None:
        """End the attempt that runs, as one that took too long."""
        self.due = self._loop.time() + self._patience.first_token_timeout
        if self._scope is not None:
            self._scope.reschedule(self._loop.time())

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """
        Yield the pieces of the first answer that begins; `Provider.reply` says what is promised.

        Raises:
            ProviderError: The last attempt's, or the answer's own after its first content.
        """
        self._budget.asked()
        failure: ProviderError | None = None
        for target in self._targets[self._first :]:
            for retry in range(self._patience.retries + 1):
                if retry and not await self._again(target, retry, failure):
                    break
                try:
                    if not await self._has_turn(target):
                        failure = failure or _overloaded(self._patience.queue_timeout)
                        break
                    # Made before the breaker is entered: whoever enters must reach `_begin`.
                    reply = target.provider.reply(replace(request, model=target.model))
                    if not await _let_in(target.breaker):
                        break
                    self._ask(target)
                    async with aclosing(reply) as pieces:
                        begun = await self._begin(target, pieces)
                        if not isinstance(begun, ProviderError):
                            for piece in begun:
                                yield piece
                            try:
                                async for piece in pieces:
                                    yield piece
                            except ProviderError:
                                target.breaker.cut()
                                raise
                            return
                    failure = begun
                finally:
                    self.leave()
                logger.warning(
                    "attempt failed",
                    extra={
                        "provider": self.name,
                        "attempt": self.attempt,
                        "code": failure.code,
                    },
                )
                if not failure.retryable:
                    break
            if failure is not None and not (failure.retryable or failure.code == "provider_auth"):
                break  # it is the request that was refused
        raise failure or ProviderError(
            "No provider answers at the moment.", code="provider_unavailable", retryable=True
        )

    async def _has_turn(self, target: Target) -> bool:
        """Wait for a place at a target; False if that would be, or was, too long."""
        try:
            self._ticket = self._ticket or target.limiter.join(self._user_id)
        except Unavailable:
            return False
        return await self._ticket.admitted(self._patience.queue_timeout)

    def _ask(self, target: Target) -> None:
        self.name, self.model = target.provider.name, target.model
        self.attempt += 1
        self.due = self._loop.time() + self._patience.first_token_timeout

    async def _again(self, target: Target, retry: int, failure: ProviderError | None) -> bool:
        """Wait for a retry's time; False if it is not worth waiting for, or not to be had."""
        after = failure.retry_after if failure is not None else None
        wait = backoff(retry, self._random, after)
        if failure is not None and failure.code == "provider_rate_limited":
            wait = max(wait, target.breaker.wait())
        elif target.breaker.wait() > 0:
            return False
        others = self._targets[self._targets.index(target) + 1 :]
        if wait > 1 and any(other.breaker.wait() == 0 for other in others):
            return False
        if self._loop.time() + wait >= self._start_due or not self._budget.spend():
            return False
        self.due = self._loop.time() + wait + self._patience.first_token_timeout
        await asyncio.sleep(wait)
        return True

    async def _begin(
        self, target: Target, pieces: AsyncGenerator[Piece, None]
    ) -> list[Piece] | ProviderError:
        """Read up to the first content, or to an end without any; tell the breaker."""
        held: list[Piece] = []
        outcome: list[Piece] | ProviderError | None = None
        try:
            async with asyncio.timeout(None) as self._scope:
                async for piece in pieces:
                    held.append(piece)
                    if isinstance(piece, Text | Reasoning | Finish):
                        outcome = held
                        break
                else:
                    outcome = ProviderError(
                        "The provider's stream ended without its end mark.",
                        code="provider_cut",
                        retryable=True,
                    )
        except ProviderError as error:
            outcome = error
        except TimeoutError:
            seconds = self._patience.first_token_timeout
            outcome = ProviderTimeout(
                f"The provider was too slow: an answer may not say nothing for {seconds:g} s.",
                code="first_token_timeout",
                retryable=True,
            )
        finally:
            self._scope = None
            if outcome is None:
                target.breaker.left()
        assert self._ticket is not None
        if isinstance(outcome, ProviderError):
            target.breaker.failed(outcome)
            self._ticket.failed(outcome)
        else:
            target.breaker.began()
            self._ticket.began()
        return outcome


async def _let_in(breaker: Breaker) -> bool:
    while not breaker.enter():
        wait = breaker.wait()
        if wait >= SHORT_WAIT:
            return False
        await asyncio.sleep(wait)
    return True


def _overloaded(seconds: float) -> ProviderError:
    return ProviderError(
        f"Too many answers are asked for at the moment: this one waited up to {seconds:g} s.",
        code="overloaded",
        retryable=True,
    )
