"""
When a reply is too slow, or read by nobody: it is stopped then.

One timer per reply, and none per token: it looks now and then whether the deadline has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatstream.errors import ProviderTimeout
from chatstream.log.files.journal import Journal
from chatstream.providers.route.source import Source
from chatstream.settings import Settings
from chatstream.turns.terminal import Why


class Deadlines:
    """
    The clock of one reply: to its first content, between contents, in all, and without a reader.

    Nothing is stopped before `watch`, nor after `close`. Times are in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        conversation: Journal,
        source: Source,
        stop: Callable[[Why], None],
    ) -> None:
        """Everything is counted from now. The source's attempt expires too."""
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._conversation = conversation
        self._source = source
        self._stop = stop
        self._began = self._loop.time()
        self._token_timeout = settings.token_timeout
        self._first: float | None = None
        self._due = self._began + settings.start_timeout
        self._last_due = self._began + settings.turn_timeout
        self._read_until = self._began
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ttft(self) -> float | None:
        """How long the first content took; None before it."""
        return None if self._first is None else self._first - self._began

    @property
    def duration(self) -> float:
        """How long it has taken so far."""
        return self._loop.time() - self._began

    def content(self) -> bool:
        """Move the deadline, since content came; returns whether it was the first."""
        now = self._loop.time()
        self._due = now + self._token_timeout
        if self._first is not None:
            return False
        self._first = now
        # From here on the deadline only moves away; this once it may have come nearer.
        self.close()
        self.watch()
        return True

    def watch(self) -> None:
        """Look whether a deadline has passed, then sleep until the next one that is known."""
        now = self._loop.time()
        due = min(self._due, self._last_due)
        orphan = self._settings.orphan_timeout
        if orphan is not None:
            if self._conversation.readers:
                self._read_until = now
            elif now >= self._read_until + orphan:
                self._stop(Why("turn.cancelled", "orphan"))
                return
            due = min(due, now + orphan / 4)
        if now >= min(self._due, self._last_due):
            self._stop(Why("turn.failed", error=self._too_slow()))
            return
        if self._first is None:
            if now >= self._source.due:
                self._source.expire()
            due = min(due, self._source.due)
        self._timer = self._loop.call_at(due, self.watch)

    def close(self) -> None:
        """Stop nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def forget(self) -> None:
        """Let go of what is watched, which keeps this clock too."""
        self.close()
        del self._source, self._stop, self._conversation
        self._timer = None

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
