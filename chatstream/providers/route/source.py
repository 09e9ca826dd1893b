"""What a turn's reply knows of where its answer comes from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from chatstream.providers import Piece, ProviderRequest


class Source(Protocol):
    """
    The answer of one turn: a `Route` to a provider, or a `CachedRoute`.

    Attributes:
        name: The provider that is asked now, or answers.
        model: Its model.
        attempt: Which attempt it is, from 1; 0 before any, and for an answer that is kept.
        due: When the attempt has lasted too long, in the loop's time; means nothing once content
            has come. It never moves back.
        cached: The answer took no tokens: it was kept, or another turn counts what it took. Known
            once `reply` is closed.
        lookup: What the cache had: hit, joined or miss; None where it was not asked.
    """

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def due(self) -> float: ...

    @property
    def cached(self) -> bool: ...

    @property
    def lookup(self) -> str | None: ...

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces; as `Provider.reply` promises. Once."""
        ...

    def expire(self) -> None:
        """End the attempt that runs, as one that took too long."""
        ...

    def leave(self) -> None:
        """Let go of the place that is held. Safe to call at any time, and again."""
        ...
