"""
What comes after an answer's finish reason: read on, until the stream's end or a long silence.

A finish reason is a mark, not the end: servers send it before the text, or on each chunk of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from chatstream.providers import Piece, Reasoning, Text
from chatstream.providers.http.parser import Answer

GRACE_SECONDS: Final = 0.1
"""Where this process stood still, what came meanwhile is read before a silence counts."""


class Settling:
    """
    The wait for the end of one answer that has its finish reason. One timer, however much comes.

    A silence is the end where there was text before the last finish reason, or where that says
    that the provider broke off; else it is for the caller's timers.
    """

    def __init__(
        self,
        answer: Answer,
        pieces: Sequence[Piece],
        *,
        spoken: bool,
        seconds: float,
        close: Callable[[], None] | None,
    ) -> None:
        """
        Begin with the event that brought the first finish reason.

        Args:
            pieces: What else that event brought.
            spoken: There was text before it.
            seconds: How long a silence is the end; then `close` is called, if it is given.
        """
        self._answer = answer
        self._seconds = seconds
        self._close = close
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
        if marked:
            self._last = True
            self._settle(math.inf)
            if self._spoken or self._answer.finish == "cut":
                self._settle(self._seconds)
        elif any(isinstance(piece, Text | Reasoning) for piece in pieces):
            self._last = False
            self._settle(math.inf)
        elif pieces and self._due < math.inf:
            self._settle(self._seconds)

    def _settle(self, seconds: float) -> None:
        """Take the stream for ended after so many seconds without more."""
        self._looked = False
        if seconds == math.inf:
            self._due = seconds
        elif self._close is not None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + seconds
            if self._timer is None:
                self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._due == math.inf or self._close is None:
            return
        if self._looked:
            self._close()
            return
        if loop.time() >= self._due:
            self._looked, self._due = True, loop.time() + GRACE_SECONDS
        self._timer = loop.call_at(self._due, self._look)

    def leave(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
