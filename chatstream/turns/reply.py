"""One turn's reply: the task that reads a provider and writes the log, up to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from time import time_ns

from orjson import dumps

from chatstream.errors import ChatstreamError, TurnEnded
from chatstream.events import DeltaKind, Json, TerminalType, timestamp
from chatstream.log.files.live_turn import LiveTurn
from chatstream.metrics import Outcome
from chatstream.providers import (
    Finish,
    FinishReason,
    Message,
    ProviderRequest,
    Reasoning,
    Text,
    Usage,
)
from chatstream.providers.http.failures import unforeseen, without_end_mark
from chatstream.providers.route.source import Source
from chatstream.settings import Settings
from chatstream.turns.deadlines import Deadlines
from chatstream.turns.terminal import Ending, Why, told

logger = logging.getLogger(__name__)


class Reply:
    """
    Runs one turn to its end. `stop` may be called from anywhere, at any time.

    Attributes:
        fields: What `turn.started` says of the request.
        source: Where the answer comes from.
        task: The task, once begun.
        partial: What the answer begins with: it is the first delta, and the provider goes on.
    """

    def __init__(
        self,
        turn: LiveTurn,
        fields: Json,
        source: Source,
        request: ProviderRequest,
        settings: Settings,
        beginning: str = "",
    ) -> None:
        """`source` has been admitted, and is let go of here."""
        self.turn = turn
        self.fields = fields
        self.source = source
        self.partial = beginning
        self.task: asyncio.Task[None] | None = None
        self._request = request
        self._most_bytes = settings.max_reply_bytes
        self._entered = False
        self._usage: Usage | None = None
        self._deltas = 0
        self._ending = Ending(turn)
        self._deadlines = Deadlines(settings, turn.conversation, source, self.stop)

    def begin(
        self, messages: Callable[[], Awaitable[list[Message]]], done: Callable[[], None]
    ) -> None:
        """Start the task; `done` is called when it is over, however it went."""
        self.task = asyncio.get_running_loop().create_task(self._run(messages))
        self.turn.on_clear = self._leave
        self.task.add_done_callback(partial(self._over, done))
        self._deadlines.watch()

    def _over(self, done: Callable[[], None], task: asyncio.Task[None]) -> None:
        self.source.leave()
        done()
        # What knows each other here would stay for long, with the text: the collector comes seldom.
        self.turn.on_clear = self.task = None
        self._deadlines.forget()

    def stop(self, why: Why) -> None:
        """Stop reading the provider and end the turn; one that is ending goes on to its end."""
        self._ending.stop(why)
        if not self.turn.ended:
            self._leave()

    def outcome(self) -> Outcome:
        """Return how it went, for the metrics."""
        usage, source = self._counted, self.source
        return Outcome(
            asked=self.fields["request"]["provider"],
            provider=source.name,
            attempts=0 if source.cached else source.attempt,
            status=self._ending.status,
            deltas=self._deltas,
            ttft=self._deadlines.ttft,
            duration=self._deadlines.duration,
            model=source.model,
            input_tokens=usage.input_tokens if usage is not None else 0,
            output_tokens=usage.output_tokens if usage is not None else 0,
            lookup=source.lookup,
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
            if self.partial:
                # Before all that may go wrong: however the turn ends, it has what it goes on from.
                self.turn.write(self.partial)
            if self._ending.stopped or self.turn.ended:
                raise asyncio.CancelledError
            self._request = replace(self._request, messages=await messages())
            reason = await self._read()
            fields = {"finish_reason": reason, "cached": self.source.cached}
        except TurnEnded:
            self._ending.status = "cleared"
            return
        except ChatstreamError as error:
            kind, fields = "turn.failed", {"error": told(error)}
        except asyncio.CancelledError:
            if self.turn.ended:
                self._ending.status = "cleared"
                return
            kind, fields = self._ending.cancelled()
        except Exception:
            logger.exception("turn failed")
            kind, fields = "turn.failed", {"error": told(unforeseen())}
        finally:
            self._deadlines.close()
        await self._ending.write(kind, fields, self._terminal)
        self._tell()

    async def _read(self) -> FinishReason:
        turn, cap, content = self.turn, self._most_bytes, self._deadlines.content
        reason: FinishReason | None = None
        async with aclosing(self.source.reply(self._request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Text | Reasoning):
                    if content():
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

    @property
    def _counted(self) -> Usage | None:
        """What it took, as far as it is known; nothing where another turn counts it."""
        return Usage(0, 0) if self.source.cached else self._usage

    def _answering(self) -> None:
        by = self.source
        try:
            self.turn.mark({"provider": by.name, "model": by.model, "attempt": by.attempt})
        except TurnEnded:
            raise
        except (ChatstreamError, OSError):
            logger.warning("turn.answering not written")  # the terminal event says who answered

    def _terminal(self) -> Json:
        usage, ttft = self._counted, self._deadlines.ttft
        return {
            "usage": usage
            and {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
            "provider": self.source.name,
            "model": self.source.model,
            "ended_at": timestamp(time_ns() // 1_000_000),
            "ttft_ms": None if ttft is None else _ms(ttft),
            "duration_ms": _ms(self._deadlines.duration),
        }

    def _tell(self) -> None:
        logger.info(
            "turn ended",
            extra={
                "turn_id": self.turn.turn_id,
                "status": self._ending.status,
                "provider": self.source.name,
                "deltas": self._deltas,
                "ms": _ms(self._deadlines.duration),
            },
        )


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
