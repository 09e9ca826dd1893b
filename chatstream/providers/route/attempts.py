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
from dataclasses import replace

from chatstream.errors import ProviderError, ProviderTimeout, Unavailable
from chatstream.providers import Finish, Piece, ProviderRequest, Reasoning, Text
from chatstream.providers.http.failures import without_end_mark
from chatstream.providers.http.retry_after import MAX_RETRY_AFTER
from chatstream.providers.route.breaker import Entry
from chatstream.providers.route.concurrency import Ticket
from chatstream.providers.route.plan import SHORT_WAIT, AttemptPlan
from chatstream.providers.route.retry import Budget
from chatstream.providers.route.target import Patience, Target, no_answer

logger = logging.getLogger(__name__)


class Route:
    """The targets of one turn, in order: the `Source` of one reply. `leave` must follow `admit`."""

    cached = False
    lookup: str | None = None

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
        self._failure: ProviderError | None = None
        self._ticket: Ticket | None = None
        self._entry: Entry | None = None
        self._patience = patience
        self._budget = budget
        self._plan = AttemptPlan(len(targets), patience.retries, budget, random)
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
        code, message = no_answer(self._targets)
        raise full or Unavailable(
            message, code=code, retry_after=math.ceil(min(wait, MAX_RETRY_AFTER))
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
        number: int | None = self._first
        while number is not None:
            target = self._targets[number]
            # Made before the breaker is entered: whoever enters must reach `_begin`.
            reply = target.provider.reply(replace(request, model=target.model))
            try:
                if await self._may_ask(number):
                    self._ask(number)
                    async with aclosing(reply) as pieces:
                        begun = await self._begin(target, pieces)
                        if not isinstance(begun, ProviderError):
                            for piece in begun:
                                yield piece
                            try:
                                async for piece in pieces:
                                    yield piece
                            except ProviderError as error:
                                target.breaker.cut(error)
                                raise
                            return
                    self._failed(number, begun)
            finally:
                self.leave()
            number = await self._next(number)
        if self._failure is not None:
            raise self._failure
        code, message = no_answer(self._targets)
        raise ProviderError(message, code=code, retryable=True)

    async def _may_ask(self, number: int) -> bool:
        """Wait for a place at a target, and for it to be worth asking; False if it was too long."""
        target = self._targets[number]
        try:
            self._ticket = self._ticket or target.limiter.join(self._user_id)
            admitted = await self._ticket.admitted(self._patience.queue_timeout)
        except Unavailable:
            admitted = False
        if not admitted:
            self._plan.give_up(number)
            self._failure = self._failure or _overloaded(self._patience.queue_timeout)
            return False
        self._entry = await target.enter()
        return self._entry is not None

    def _ask(self, number: int) -> None:
        target = self._targets[number]
        self.name, self.model = target.provider.name, target.model
        self.attempt += 1
        self._plan.asked(number)
        self.due = self._loop.time() + self._patience.first_token_timeout

    def _failed(self, number: int, failure: ProviderError) -> None:
        """Take note of an attempt's failure. Raises what another attempt would not mend."""
        logger.warning(
            "attempt failed",
            extra={"provider": self.name, "attempt": self.attempt, "code": failure.code},
        )
        if failure.code in ("provider_auth", "provider_quota"):
            self._plan.give_up(number)
        elif not failure.retryable:
            raise failure  # it is the request that was refused
        self._failure = failure

    async def _next(self, last: int) -> int | None:
        """Wait for the next attempt's time; return whom it asks, or None if there is none."""
        pauses = [target.breaker.wait() for target in self._targets]
        after = self._failure.retry_after if self._failure is not None else None
        step = self._plan.next(last, pauses, self._start_due - self._loop.time(), after)
        if step is None:
            return None
        self.due = self._loop.time() + step.wait + self._patience.first_token_timeout
        await asyncio.sleep(step.wait)
        return step.number

    async def _begin(
        self, target: Target, pieces: AsyncGenerator[Piece, None]
    ) -> list[Piece] | ProviderError:
        """Read up to the first content, or to an end without any; tell the breaker."""
        assert self._ticket is not None and self._entry is not None
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
                    outcome = without_end_mark()
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
                target.breaker.left(self._entry)
        if isinstance(outcome, ProviderError):
            target.breaker.failed(self._entry, outcome)
            self._ticket.failed(outcome)
        else:
            target.breaker.began(self._entry)
            self._ticket.began()
        return outcome


def _overloaded(seconds: float) -> ProviderError:
    return ProviderError(
        f"Too many answers are asked for at the moment: this one waited up to {seconds:g} s.",
        code="overloaded",
        retryable=True,
    )
