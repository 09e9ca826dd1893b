"""What a run knows: the turns with their known texts, the ids that were seen, and violations."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
TERMINAL = ("turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted")


class Bell:
    """Wakes all who wait for something to change."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Have everybody look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for a condition that changes with a ring; False where the time was over first."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
        except TimeoutError:
            return condition()
        return True


@dataclass(eq=False)
class Opinion:
    """One rating that somebody sent, on a turn or on none."""

    user: str
    conversation: str | None
    turn_id: str | None
    rating: int
    comments: str
    acked: bool = False
    erased: bool = False


@dataclass(eq=False)
class Turn:
    """
    One turn: what was asked, what the provider says, and what may have happened to it.

    Attributes:
        text: All that the provider says, after what the turn goes on from.
        beginning: What it goes on from.
        stopped: The server stopped while it may have been running.
        left: What its live file held when the server was killed.
        torn: A power cut took a part of its live file that nobody had synced.
        base: The turn that it replaces.
        asked_as: The one that first asked what it asks, and whose text it has from the beginning.
        floor: The highest id that anybody had seen before it was asked for: it starts above that.
        may_hide: A turn that may hide it was asked for.
        hidden: It is out of view: a turn that replaces it was acknowledged.
        shown: The most that anybody was shown before its end, in code points.
    """

    user: str
    conversation: str
    turn_id: str
    marker: str
    message: str
    text: str
    reasoning: str = ""
    may_fail: bool = False
    acked: bool = False
    cancel_asked: bool = False
    clear_asked: bool = False
    cleared_at: float | None = None
    stopped: bool = False
    left: str | None = None
    torn: bool = False
    base: Turn | None = None
    kind: str | None = None
    beginning: str = ""
    asked_as: Turn | None = None
    may_hide: bool = False
    floor: str = ""
    hidden: bool = False
    shown: int = 0
    starts: set[str] = field(default_factory=set)
    terminal: Json | None = None
    bell: Bell = field(default_factory=Bell)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return self.terminal is not None or self.cleared_at is not None

    def show(self, length: int) -> None:
        """Take note that somebody was shown so much of it."""
        if length > self.shown:
            self.shown = length
            self.bell.ring()


class Ledger:
    """
    Everything that is known, and every promise that was broken.

    Attributes:
        ids: What each id that anybody saw stands for.
        last: The highest of them.
        failed: Set at the first violation, or at the first of one promise.
    """

    def __init__(self, promise: int | None = None) -> None:
        self.turns: dict[str, Turn] = {}
        self.ids: dict[str, tuple[object, ...]] = {}
        self.opinions: list[Opinion] = []
        self.last = ""
        self.violations: list[str] = []
        self.figures: Counter[str] = Counter()
        self.bell = Bell()
        self.failed = asyncio.Event()
        self._promise = promise

    def violate(self, promise: int, detail: str) -> None:
        """Note that a promise of `protocol.md`, section 2 was broken (0: something beside them)."""
        self.violations.append(f"promise {promise}: {detail}")
        if self._promise in (None, promise):
            self.failed.set()

    def stands_for(self, identifier: str, meaning: tuple[object, ...]) -> None:
        """Check that an id means to everybody, over all restarts, the same event."""
        self.last = max(self.last, identifier)
        known = self.ids.setdefault(identifier, meaning)
        if known != meaning:
            self.violate(3, f"{identifier} is {known} and {meaning}")

    def started(self, turn_id: str, identifier: str) -> None:
        """Check that a turn starts once; after a clear it may start anew."""
        turn = self.turns[turn_id]
        turn.starts.add(identifier)
        if identifier <= turn.floor:
            self.violate(3, f"{turn_id} starts at {identifier}, asked for after {turn.floor}")
        if len(turn.starts) > 1 and not turn.clear_asked:
            self.violate(6, f"{turn_id} was started at {sorted(turn.starts)}")

    def ended(self, event: Json, who: str) -> None:
        """Check a turn's end, and that there is but one."""
        turn = self.turns[event["turn_id"]]
        known = turn.terminal
        if known is None:
            turn.terminal = event
            self._explain(turn, event, who)
            turn.bell.ring()
            self.bell.ring()
        elif any(known.get(name) != event.get(name) for name in ("id", "type", "text")):
            self.violate(1, f"{who}: {turn.turn_id} ends twice: {_short(known)}, {_short(event)}")

    def _explain(self, turn: Turn, event: Json, who: str) -> None:
        kind, text = event["type"], event.get("text", "")
        told = f"{who}: {turn.turn_id} in {turn.conversation}"
        if kind == "turn.cancelled" and event.get("reason") == "cleared":
            if not turn.clear_asked:
                self.violate(5, f"{told} was cleared, and nobody asked for it")
            return
        if not turn.text.startswith(text):
            self.violate(1, f"{told} has another text: {text[-80:]!r}")
        if not text.startswith(turn.beginning):
            self.violate(2, f"{told} ends as {kind} without what it goes on from: {text[:80]!r}")
        if not turn.reasoning.startswith(event.get("reasoning", "")):
            self.violate(1, f"{told} has other thoughts: {event['reasoning'][-80:]!r}")
        if len(text) < turn.shown and not turn.torn:
            self.violate(2, f"{told} ends with {len(text)} of {turn.shown} that were shown")
        if kind == "turn.completed":
            if (text, event.get("reasoning", "")) != (turn.text, turn.reasoning):
                self.violate(1, f"{told} is complete with {len(text)} of {len(turn.text)}")
        elif kind == "turn.failed":
            if not turn.may_fail:
                self.violate(5, f"{told} failed: {event['error']}")
        elif kind == "turn.cancelled":
            if not turn.cancel_asked:
                self.violate(5, f"{told} was cancelled, and nobody asked for it")
        elif not turn.stopped:
            self.violate(5, f"{told} was interrupted by nothing")
        elif turn.left is not None and (turn.left or turn.beginning) != text:
            self.violate(2, f"{told} was left at {len(turn.left)}, recovered at {len(text)}")


def _short(event: Json) -> str:
    return f"{event['type']} {event['id']} of {len(event.get('text', ''))}"
