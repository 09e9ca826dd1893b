"""
What comes after an answer's finish reason: read on, until the stream's end or a long silence.

A finish reason is a mark, not the end: servers send it before the text, or on each chunk of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

from chatstream.providers import Piece, Reasoning, Text
from chatstream.providers.http.parser import Answer

LOOKS: Final = 5
"""How often within a silence the bytes are looked at that came meanwhile."""
GRACE_SECONDS: Final = 0.1
"""Where this process stood still, what came meanwhile is read before a silence counts."""


class Stream(Protocol):
    """The connection that an answer comes by."""

    @property
    def heard(self) -> int:
        """How many bytes have come, comments and chunks without content among them."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Settling:
    """
    The wait for the end of one answer that has its finish reason. One timer, however much comes.

    A silence is the end where there was text before the last finish reason, or where that says
    that the provider broke off; else it is for the caller's timers. A stream that sends anything is
    not silent; one that sends nothing with a meaning is ended before the caller's timers end it.
    """

    def __init__(
        self,
        answer: Answer,
        pieces: Sequence[Piece],
        *,
        spoken: bool,
        seconds: float,
        most: float,
        stream: Stream | None,
    ) -> None:
        """
        Begin with the event that brought the first finish reason.

        Args:
            pieces: What else that event brought.
            spoken: There was text before it.
            seconds: How long a silence is the end; then `stream` is closed, if it is given.
            most: How long the wait is, whatever comes, unless it is content.
        """
        self._answer = answer
        self._seconds = min(seconds, most)
        self._most = most
        self._stream = stream
        self._heard = 0
        self._limit = math.inf
        self._spoken = spoken
        self._last = True
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._looked = False
        self._note(pieces, marked=True)

    @property
    def whole(self) -> bool:
        """Whether the answer is one, if nothing more comes: nothing followed its finish reason."""
        return self._last and self._answer.finish != "cut"

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what a later event adds: text, the usage, another finish reason."""
        answer = self._answer
        before, answer.finish = answer.finish, None
        marked = False
        try:
            pieces = answer.take(chunk)
            marked = answer.finish is not None
        finally:
            if not marked:
                answer.finish = before
        self._note(pieces, marked=marked)
        return pieces

    def _note(self, pieces: Sequence[Piece], *, marked: bool) -> None:
        self._spoken = self._spoken or any(isinstance(piece, Text) for piece in pieces)
        if any(isinstance(piece, Text | Reasoning) for piece in pieces):
            self._last = False
            self._due = self._limit = math.inf
        if marked:
            self._last = True
            self._due = math.inf
            if self._spoken or self._answer.finish == "cut":
                self._settle()
        elif pieces and self._due < math.inf:
            self._settle()

    def _settle(self) -> None:
        """Take the stream for ended after a silence from now on."""
        if self._stream is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._limit == math.inf:
            self._limit = now + self._most
        self._heard = self._stream.heard
        self._due = min(now + self._seconds, self._limit)
        self._looked = self._looked and now >= self._limit
        if self._timer is None:
            self._timer = loop.call_at(self._next(now), self._look)

    def _next(self, now: float) -> float:
        return min(self._due, now + self._seconds / LOOKS)

    def _look(self) -> None:
        self._timer = None
        if self._stream is None or self._due == math.inf:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._stream.heard != self._heard and now < self._limit:
            self._settle()
            return
        if self._looked:
            self._stream.close()
            return
        if now >= self._due:
            self._looked, self._due = True, now + GRACE_SECONDS
            self._timer = loop.call_at(self._due, self._look)
        else:
            self._timer = loop.call_at(self._next(now), self._look)

    def leave(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
