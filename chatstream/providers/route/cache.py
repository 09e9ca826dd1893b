"""
Answers to first messages, kept for a while and shared while they are on their way.

The same first message, asked of the same model in the same way, gets the answer that is kept; and
where it is being answered, the two turns share one request, which closes when the last of them
leaves it. Only an answer that came whole, from the provider that was asked, is kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol

from chatstream.errors import ChatstreamError
from chatstream.providers import Finish, Piece, ProviderRequest, Reasoning, Text
from chatstream.providers.http.failures import unforeseen
from chatstream.providers.route.attempts import Route

logger = logging.getLogger(__name__)

ENTRY_BYTES: Final = 1000
"""What an answer takes besides its text."""


class Way(Protocol):
    """Who answers, as a reply tells of it; see `Route`."""

    name: str
    model: str
    attempt: int
    due: float

    def expire(self) -> None:
        """End the attempt that runs."""
        ...


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


class Kept:
    """An answer that is kept, and the way to it: nobody is asked, in no time."""

    attempt = 0
    due = math.inf

    def __init__(self, flight: Flight, until: float) -> None:
        self.name, self.model = flight.route.name, flight.route.model
        self.users = flight.users
        self.until = until
        text = "".join(piece.text for piece in flight.pieces if isinstance(piece, Text))
        thoughts = "".join(piece.text for piece in flight.pieces if isinstance(piece, Reasoning))
        self.pieces: list[Piece] = [Reasoning(thoughts)] if thoughts else []
        self.pieces += [Text(text), Finish("stop")]
        texts = (text, thoughts, flight.question.message, flight.question.system or "")
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
        self._kept: OrderedDict[Question, Kept] = OrderedDict()
        self._flights: dict[Question, Flight] = {}
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

    def find(self, question: Question) -> Kept | None:
        """Return the answer that is kept."""
        kept = self._kept.get(question)
        if kept is None:
            return None
        if kept.until <= self._clock():
            self._drop(question)
            return None
        self._kept.move_to_end(question)
        return kept

    def board(
        self, question: Question, user_id: str, route: Route, request: ProviderRequest
    ) -> Flight:
        """Return the request that is under way, or send one by this route."""
        flight = self._flights.get(question)
        if flight is None:
            flight = self._flights[question] = Flight(self, question, route, request)
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._tasks.discard)
        flight.members += 1
        flight.users.add(user_id)
        return flight

    def landed(self, flight: Flight, *, whole: bool) -> None:
        """Take a request that is over, and keep its answer where that may be kept."""
        if self._flights.get(flight.question) is not flight:
            return
        del self._flights[flight.question]
        route, question = flight.route, flight.question
        if whole and (route.name, route.model) == (question.provider, question.model):
            self._keep(question, Kept(flight, self._clock() + self._ttl))

    def _keep(self, question: Question, kept: Kept) -> None:
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
        for question in [q for q, flight in self._flights.items() if user_id in flight.users]:
            del self._flights[question]

    async def aclose(self) -> None:
        """Wait for requests that were left to have closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)


class Flight:
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
        self, answers: Answers, question: Question, route: Route, request: ProviderRequest
    ) -> None:
        self.question = question
        self.route = route
        self.pieces: list[Piece] = []
        self.members = 0
        self.users: set[str] = set()
        self.counted = False
        self.over = False
        self.error: ChatstreamError | None = None
        self._answers = answers
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
        self._answers.landed(self, whole=whole)
        self.route.leave()
        self._tell()

    def _tell(self) -> None:
        # Wakes all who wait now, and is unset for those who will.
        self._news.set()
        self._news.clear()

    async def news(self) -> None:
        """Wait for more, or the end."""
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


class Share:
    """
    One turn's part in an answer, in place of a `Route`'s `reply`.

    Attributes:
        way: Who answers.
        cached: The answer was there, or another turn counts what its request took: it took no
            tokens. Known once `reply` is closed.
        lookup: What was found: hit, joined or miss; None before.
    """

    def __init__(self, answers: Answers, user_id: str, route: Route) -> None:
        self._answers = answers
        self._user_id = user_id
        self._route = route
        self._led = False
        self.way: Way = route
        self.cached = False
        self.lookup: str | None = None

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces; as `Route.reply`, which may be another turn's."""
        question = self._answers.question(self._user_id, self._route, request)
        if (kept := self._answers.find(question)) is not None:
            self.way, self.cached, self.lookup = kept, True, "hit"
            self._route.leave()
            for piece in kept.pieces:
                yield piece
            return
        flight = self._answers.board(question, self._user_id, self._route, request)
        self._led = flight.route is self._route
        self.way, self.lookup = flight.route, "miss" if self._led else "joined"
        self.leave()
        try:
            async for piece in self._follow(flight):
                yield piece
        finally:
            self.cached = not flight.leave()

    async def _follow(self, flight: Flight) -> AsyncGenerator[Piece, None]:
        seen = 0
        while True:
            while seen < len(flight.pieces):
                yield flight.pieces[seen]
                seen += 1
            if flight.error is not None:
                raise flight.error.with_traceback(None)
            if flight.over:
                return
            await flight.news()

    def leave(self) -> None:
        """Let go of a route that was not needed. One that leads a request is that request's."""
        if not self._led:
            self._route.leave()
