"""One request on behalf of several turns: it closes when the last of them leaves it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from chatstream.errors import ChatstreamError
from chatstream.providers import Finish, Piece, ProviderRequest, Text
from chatstream.providers.http.failures import unforeseen
from chatstream.providers.route.attempts import Route

logger = logging.getLogger(__name__)


class SharedRequest:
    """
    One request on behalf of all who ask the same.

    Attributes:
        pieces: What came so far.
        members: How many turns wait for it.
        users: Whose turns they are or were.
        counted: A turn has counted its tokens, or will.
        over: Nothing more comes: with `error`, or to the end mark.
    """

    def __init__(
        self, route: Route, request: ProviderRequest, ended: Callable[[SharedRequest, bool], None]
    ) -> None:
        """Send it by an admitted route; at its end `ended` is told, and whether it is whole."""
        self.route = route
        self.pieces: list[Piece] = []
        self.members = 0
        self.users: set[str] = set()
        self.counted = False
        self.over = False
        self.error: ChatstreamError | None = None
        self._ended = ended
        self._request = request
        self._news = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        whole = False
        try:
            async with aclosing(self.route.reply(self._request)) as pieces:
                async for piece in pieces:
                    self.pieces.append(piece)
                    whole = isinstance(piece, Finish) and piece.reason == "stop"
                    self._tell()
        except ChatstreamError as error:
            self.error, whole = error, False
        except Exception:
            logger.exception("shared request failed")
            self.error, whole = unforeseen(), False
        finally:
            self._end(whole and any(isinstance(piece, Text) for piece in self.pieces))

    def _end(self, whole: bool = False) -> None:
        self.over = True
        self._ended(self, whole)
        self.route.leave()
        self._tell()

    def _tell(self) -> None:
        # Wakes all who wait now, and is unset for those who will.
        self._news.set()
        self._news.clear()

    async def follow(self) -> AsyncGenerator[Piece, None]:
        """Yield all its pieces: those that came, then the others as they come. Raises its error."""
        seen = 0
        while True:
            while seen < len(self.pieces):
                yield self.pieces[seen]
                seen += 1
            if self.error is not None:
                raise self.error.with_traceback(None)
            if self.over:
                return
            await self._news.wait()

    def leave(self) -> bool:
        """
        Go: with the last one the request closes. A task may be cancelled before its start.

        Returns whether its tokens are the caller's to count: the first's to leave when it is over,
        else the last's.
        """
        self.members -= 1
        if not (self.members or self.over):
            self._end()
            self.task.cancel()
        counts = self.over and not self.counted
        self.counted |= counts
        return counts
