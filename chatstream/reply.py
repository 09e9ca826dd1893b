"""
One turn's reply: the task that reads a provider and writes the log, its deadlines and its end.

No timer per token: one timer per turn looks now and then whether the deadline has moved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from time import time_ns
from typing import NamedTuple

from orjson import dumps

from chatstream.errors import ChatstreamError, ProviderTimeout, TurnEnded
from chatstream.events import DeltaKind, TerminalType, timestamp
from chatstream.log.live_turn import LiveTurn
from chatstream.log.records import Json
from chatstream.metrics import Outcome
from chatstream.providers import (
    Finish,
    FinishReason,
    Message,
    Piece,
    ProviderRequest,
    Reasoning,
    Text,
    Usage,
)
from chatstream.providers.answers import Answers, Share, Way
from chatstream.providers.failures import unforeseen, without_end_mark
from chatstream.providers.resilience import Route
from chatstream.settings import Settings

logger = logging.getLogger(__name__)

LAST_RETRY_SECONDS = 5.0


class Why(NamedTuple):
    """Why a reply is stopped from outside. `last`: there is no time to wait for the disk."""

    kind: TerminalType
    reason: str | None = None
    error: ProviderTimeout | None = None
    last: bool = False


class Reply:
    """
    Runs one turn to its end. `stop` may be called from anywhere, at any time.

    Attributes:
        fields: What `turn.started` says of the request.
        task: The task, once begun.
        partial: What the answer begins with: it is the first delta, and the provider goes on.
    """

    def __init__(
        self,
        turn: LiveTurn,
        fields: Json,
        route: Route,
        request: ProviderRequest,
        settings: Settings,
        beginning: str = "",
        answers: Answers | None = None,
    ) -> None:
        """`route` has been admitted, and is let go of here. `answers` are looked into first."""
        self._loop = asyncio.get_running_loop()
        self.turn = turn
        self.fields = fields
        self._route = route
        self._answers = answers
        self._share: Share | None = None
        self._asked = route.name
        self.partial = beginning
        self.task: asyncio.Task[None] | None = None
        self._request = request
        self._settings = settings
        self._why: Why | None = None
        self._entered = False
        self._usage: Usage | None = None
        self._deltas = 0
        self._status = "lost"
        self._began = self._loop.time()
        self._first: float | None = None
        self._due = self._began + settings.start_timeout
        self._last_due = self._began + settings.turn_timeout
        self._read_until = self._began
        self._timer: asyncio.TimerHandle | None = None

    def begin(
        self, messages: Callable[[], Awaitable[list[Message]]], done: Callable[[], None]
    ) -> None:
        """Start the task; `done` is called when it is over, however it went."""
        self.task = self._loop.create_task(self._run(messages))
        self.turn.on_clear = self._leave
        self.task.add_done_callback(partial(self._over, done))
        self._watch_clock()

    def _over(self, done: Callable[[], None], task: asyncio.Task[None]) -> None:
        (self._share or self._route).leave()
        done()

    @property
    def way(self) -> Way:
        """Who is asked, or answers."""
        return self._share.way if self._share is not None else self._route

    def stop(self, why: Why) -> None:
        """Stop reading the provider and end the turn; one that is ending goes on to its end."""
        if self._why is None:
            self._why = why
        elif why.last:
            self._why = self._why._replace(last=True)
        if not self.turn.ended:
            self._leave()

    def outcome(self) -> Outcome:
        """Return how it went, for the metrics."""
        usage = self._counted
        return Outcome(
            asked=self._asked,
            provider=self.way.name,
            attempts=0 if self._cached else self.way.attempt,
            status=self._status,
            deltas=self._deltas,
            ttft=None if self._first is None else self._first - self._began,
            duration=self._loop.time() - self._began,
            model=self.way.model,
            input_tokens=usage.input_tokens if usage is not None else 0,
            output_tokens=usage.output_tokens if usage is not None else 0,
            lookup=self._share.lookup if self._share is not None else None,
        )

    def _leave(self) -> None:
        # A task that is cancelled before its first step never runs, and would write no end.
        if self.task is not None and self._entered:
            self.task.cancel()

    async def _run(self, messages: Callable[[], Awaitable[list[Message]]]) -> None:
        kind: TerminalType = "turn.completed"
        fields: Json = {}
        self._entered = True
        try:
            if self._why is not None or self.turn.ended:
                raise asyncio.CancelledError
            self._request = replace(self._request, messages=await messages())
            if self.partial:
                self.turn.write(self.partial)
            reason = await self._read()
            fields = {"finish_reason": reason, "cached": self._cached}
        except TurnEnded:
            self._status = "cleared"
            return
        except ChatstreamError as error:
            kind, fields = "turn.failed", {"error": told(error)}
        except asyncio.CancelledError:
            if self.turn.ended:
                self._status = "cleared"
                return
            kind, fields = self._stopped()
        except Exception:
            logger.exception("turn failed")
            kind, fields = "turn.failed", {"error": told(unforeseen())}
        finally:
            if self._timer is not None:
                self._timer.cancel()
        await self._end(kind, fields)

    def _stopped(self) -> tuple[TerminalType, Json]:
        # The cancellation was ours, and is dealt with here.
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        why = self._why or Why("turn.interrupted")
        if why.error is not None:
            return why.kind, {"error": told(why.error)}
        return why.kind, {"reason": why.reason} if why.reason else {}

    async def _read(self) -> FinishReason:
        turn, loop, cap = self.turn, self._loop, self._settings.max_reply_bytes
        token_timeout = self._settings.token_timeout
        reason: FinishReason | None = None
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Text | Reasoning):
                    self._due = loop.time() + token_timeout
                    if self._first is None:
                        self._answering()
                    self._deltas += 1
                    kind: DeltaKind = "text" if isinstance(piece, Text) else "reasoning"
                    room = cap - turn.size
                    # A code point takes 6 bytes of JSON at most (an escaped control character).
                    if len(piece.text) * 6 > room:
                        fitting = fit(piece.text, room)
                        if len(fitting) < len(piece.text):
                            if fitting:
                                turn.write(fitting, kind)
                            return "length"
                    turn.write(piece.text, kind)
                elif isinstance(piece, Usage):
                    self._usage = piece
                elif isinstance(piece, Finish):
                    reason = piece.reason
        if reason is None:
            raise without_end_mark()
        return reason

    def _pieces(self) -> AsyncGenerator[Piece, None]:
        """Only a first message is looked up, and not where another answer is what is wanted."""
        again = self.fields.get("kind") in ("regenerate", "continue")
        if self._answers is None or again or len(self._request.messages) != 1:
            return self._route.reply(self._request)
        self._share = Share(self._answers, self.turn.conversation.address.user_id, self._route)
        return self._share.reply(self._request)

    @property
    def _cached(self) -> bool:
        return self._share is not None and self._share.cached

    @property
    def _counted(self) -> Usage | None:
        """What it took, as far as it is known; nothing where another turn counts it."""
        return Usage(0, 0) if self._cached else self._usage

    def _answering(self) -> None:
        self._first = self._loop.time()
        # From here on the deadline only moves away; this once it may have come nearer.
        if self._timer is not None:
            self._timer.cancel()
        self._watch_clock()
        way = self.way
        try:
            self.turn.mark({"provider": way.name, "model": way.model, "attempt": way.attempt})
        except TurnEnded:
            raise
        except (ChatstreamError, OSError):
            logger.warning("turn.answering not written")  # the terminal event says who answered

    async def _end(self, kind: TerminalType, fields: Json) -> None:
        """Write the end; while the disk refuses it, again and again until the server stops."""
        delay = 0.25
        while True:
            try:
                await self.turn.end(kind, self._terminal() | fields)
                self._status = kind.removeprefix("turn.")
                break
            except TurnEnded:
                self._status = "cleared"
                break
            except asyncio.CancelledError:
                if self.turn.ended:
                    self._status = await self._ended_as()
                    break
                kind, fields = self._stopped()
            except (ChatstreamError, OSError) as error:
                logger.error("end not written", extra={"error": type(error).__name__})
                if self._why is not None and self._why.last:
                    self.turn.close(None)
                    break
                try:
                    await asyncio.sleep(delay)
                except asyncio.CancelledError:
                    kind, fields = self._stopped()
                delay = min(2 * delay, LAST_RETRY_SECONDS)
        logger.info(
            "turn ended",
            extra={
                "turn_id": self.turn.turn_id,
                "status": self._status,
                "provider": self.way.name,
                "deltas": self._deltas,
                "ms": round((self._loop.time() - self._began) * 1000),
            },
        )

    async def _ended_as(self) -> str:
        event = await asyncio.shield(self.turn.done)
        return "lost" if event is None else event.type.removeprefix("turn.")

    def _terminal(self) -> Json:
        usage = self._counted
        return {
            "usage": usage
            and {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
            "provider": self.way.name,
            "model": self.way.model,
            "ended_at": timestamp(time_ns() // 1_000_000),
            "ttft_ms": None if self._first is None else _ms(self._first - self._began),
            "duration_ms": _ms(self._loop.time() - self._began),
        }

    def _watch_clock(self) -> None:
        """Look whether a deadline has passed, then sleep until the next one that is known."""
        now = self._loop.time()
        due = min(self._due, self._last_due)
        orphan = self._settings.orphan_timeout
        if orphan is not None:
            if self.turn.conversation.readers:
                self._read_until = now
            elif now >= self._read_until + orphan:
                self.stop(Why("turn.cancelled", "orphan"))
                return
            due = min(due, now + orphan / 4)
        if now >= min(self._due, self._last_due):
            self.stop(Why("turn.failed", error=self._too_slow()))
            return
        if self._first is None:
            way = self.way
            if now >= way.due:
                way.expire()
            due = min(due, way.due)
        self._timer = self._loop.call_at(due, self._watch_clock)

    def _too_slow(self) -> ProviderTimeout:
        settings = self._settings
        if self._last_due <= self._due:
            code, what = "turn_timeout", f"take longer than {settings.turn_timeout:g} s in all"
        elif self._first is None:
            seconds = settings.start_timeout
            code, what = "first_token_timeout", f"say nothing for {seconds:g} s"
        else:
            code, what = "token_timeout", f"go silent for {settings.token_timeout:g} s"
        return ProviderTimeout(
            f"The provider was too slow: an answer may not {what}.", code=code, retryable=True
        )


def told(error: ChatstreamError) -> Json:
    """Return an error as `turn.failed` carries it."""
    return {"code": error.code, "message": error.message, "retryable": error.retryable}


def fit(text: str, room: int) -> str:
    """
    Return the beginning of a text that takes no more than `room` bytes as the inside of JSON.

    >>> fit("ab", 1), fit('a"', 2), fit("aé", 2), fit("ab", 2)
    ('a', 'a', 'a', 'ab')
    """
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if json_size(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def json_size(text: str) -> int:
    """Return how many bytes a text takes as the inside of a JSON string."""
    return len(dumps(text)) - 2


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
