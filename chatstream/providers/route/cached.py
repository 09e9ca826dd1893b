"""A turn's way to an answer past the cache: the one that is kept, one under way, or its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from chatstream.providers import Piece, ProviderRequest
from chatstream.providers.route.attempts import Route
from chatstream.providers.route.cache import Answers, CachedAnswer


class CachedRoute:
    """
    One turn's `Source`: a first message is looked up, and asked by the route where it is not kept.

    Only a first message is: what a later one asks depends on all before it.
    """

    def __init__(self, answers: Answers, user_id: str, route: Route) -> None:
        """`route` has been admitted, and is let go of here."""
        self._answers = answers
        self._user_id = user_id
        self._route = route
        self._led = False
        self._from: Route | CachedAnswer = route
        self.cached = False
        self.lookup: str | None = None

    @property
    def name(self) -> str:
        """The provider that is asked now, or answers."""
        return self._from.name

    @property
    def model(self) -> str:
        """Its model."""
        return self._from.model

    @property
    def attempt(self) -> int:
        """Which attempt it is; 0 before any, and for an answer that is kept."""
        return self._from.attempt

    @property
    def due(self) -> float:
        """When the attempt has lasted too long."""
        return self._from.due

    def expire(self) -> None:
        """End the attempt that runs, as one that took too long."""
        self._from.expire()

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces, which may be another turn's; as `Route.reply`."""
        first = len(request.messages) == 1
        return self._looked_up(request) if first else self._route.reply(request)

    async def _looked_up(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        question = self._answers.question(self._user_id, self._route, request)
        if (kept := self._answers.find(question)) is not None:
            self._from, self.cached, self.lookup = kept, True, "hit"
            self.leave()
            for piece in kept.pieces:
                yield piece
            return
        shared = self._answers.join(question, self._user_id, self._route, request)
        self._led = shared.route is self._route
        self._from, self.lookup = shared.route, "miss" if self._led else "joined"
        self.leave()
        try:
            async for piece in shared.follow():
                yield piece
        finally:
            self.cached = not shared.leave()

    def leave(self) -> None:
        """Let go of a route that was not needed. One that leads a request is that request's."""
        if not self._led:
            self._route.leave()
