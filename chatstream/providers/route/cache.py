"""
Answers to first messages, kept for a while and shared while they are on their way.

The same first message, asked of the same model in the same way, gets the answer that is kept; and
where it is being answered, the two turns share one request. Only an answer that came whole, from
the provider that was asked, is kept.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from chatstream.providers import Finish, Piece, ProviderRequest, Reasoning, Text
from chatstream.providers.route.attempts import Route
from chatstream.providers.route.shared import SharedRequest

ENTRY_BYTES: Final = 1000
"""What an answer takes besides its text."""


class Question(NamedTuple):
    """All that an answer depends on; `user_id` is None where users share answers."""

    user_id: str | None
    provider: str
    model: str
    system: str | None
    temperature: float | None
    max_tokens: int | None
    stop: tuple[str, ...]
    message: str


class CachedAnswer:
    """An answer that is kept; it says who answers as a `Route` does, and nobody is asked."""

    attempt = 0
    due = math.inf

    def __init__(self, question: Question, shared: SharedRequest, until: float) -> None:
        self.name, self.model = shared.route.name, shared.route.model
        self.users = shared.users
        self.until = until
        text = "".join(piece.text for piece in shared.pieces if isinstance(piece, Text))
        thoughts = "".join(piece.text for piece in shared.pieces if isinstance(piece, Reasoning))
        self.pieces: list[Piece] = [Reasoning(thoughts)] if thoughts else []
        self.pieces += [Text(text), Finish("stop")]
        texts = (text, thoughts, question.message, question.system or "")
        self.size = ENTRY_BYTES + sum(len(part.encode()) for part in texts)

    def expire(self) -> None:
        """Nothing runs that could take too long."""


class Answers:
    """
    The answers of one application. For the loop's thread.

    Attributes:
        size: Bytes that are kept, about; never above `most_bytes`.
    """

    def __init__(
        self, ttl: float, most_bytes: int, *, per_user: bool, clock: Callable[[], float]
    ) -> None:
        """Keep an answer for `ttl` seconds; the one unused for longest makes room."""
        self._ttl = ttl
        self._most = most_bytes
        self._per_user = per_user
        self._clock = clock
        self._kept: OrderedDict[Question, CachedAnswer] = OrderedDict()
        self._shared: dict[Question, SharedRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.size = 0

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def question(self, user_id: str, route: Route, request: ProviderRequest) -> Question:
        """Return what identifies an answer."""
        return Question(
            user_id if self._per_user else None,
            route.name,
            route.model,
            request.system,
            request.temperature,
            request.max_tokens,
            tuple(request.stop),
            request.messages[0].content,
        )

    def find(self, question: Question) -> CachedAnswer | None:
        """Return the answer that is kept."""
        kept = self._kept.get(question)
        if kept is None:
            return None
        if kept.until <= self._clock():
            self._drop(question)
            return None
        self._kept.move_to_end(question)
        return kept

    def join(
        self, question: Question, user_id: str, route: Route, request: ProviderRequest
    ) -> SharedRequest:
        """Return the request that is under way, or send one by this route."""
        shared = self._shared.get(question)
        if shared is None:
            shared = SharedRequest(route, request, partial(self._ended, question))
            self._shared[question] = shared
            self._tasks.add(shared.task)
            shared.task.add_done_callback(self._tasks.discard)
        shared.members += 1
        shared.users.add(user_id)
        return shared

    def _ended(self, question: Question, shared: SharedRequest, whole: bool) -> None:
        """Keep the answer of a request that is over, where that may be kept."""
        if self._shared.get(question) is not shared:
            return
        del self._shared[question]
        route = shared.route
        if whole and (route.name, route.model) == (question.provider, question.model):
            self._keep(question, CachedAnswer(question, shared, self._clock() + self._ttl))

    def _keep(self, question: Question, kept: CachedAnswer) -> None:
        if kept.size > self._most:
            return
        self._kept[question] = kept
        self.size += kept.size
        while self.size > self._most:
            self._drop(next(iter(self._kept)))

    def _drop(self, question: Question) -> None:
        self.size -= self._kept.pop(question).size

    def forget(self, user_id: str) -> None:
        """Drop all that this user's turns put here, and let no request of theirs add to it."""
        for question in [q for q, kept in self._kept.items() if user_id in kept.users]:
            self._drop(question)
        for question in [q for q, shared in self._shared.items() if user_id in shared.users]:
            del self._shared[question]

    async def aclose(self) -> None:
        """Wait for requests that were left to have closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)
