"""The models that a provider names: asked for now and then, and known at once in between."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import Final

from chatstream.providers import ListsModels, Provider
from chatstream.providers.http.parser import is_a_name

logger = logging.getLogger(__name__)

KEPT_SECONDS: Final = 600.0
AGAIN_SECONDS: Final = 30.0
"""After which a provider that did not name them is asked again."""
ASK_SECONDS: Final = 30.0
MAX_NAMES: Final = 5000
"""Of one provider: several times what the largest gateways have."""
WAIT_SECONDS: Final = 2.0
"""How long the first list is waited for: until it is there, the model that is set stands alone."""


class ModelList:
    """
    One provider's models, for one event loop. However many want to know, it is asked once.

    A list that is too old, or cannot be had, is better than none: it is told until a newer one
    has come. What is no name is left out of it, and what is above `MAX_NAMES`.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._names = [provider.model]
        self._asking: asyncio.Task[None] | None = None
        self._due = 0.0
        self._wait_until: float | None = None  # for the first one alone

    async def names(self) -> list[str]:
        """Return their names, the default one first. Never fails; waits for the first list only."""
        self.look()
        now = asyncio.get_running_loop().time()
        if self._asking is not None and self._wait_until is not None and now < self._wait_until:
            await asyncio.wait((self._asking,), timeout=self._wait_until - now)
        return self._names

    def look(self) -> None:
        """Have a list asked for, where there is none or it is too old; waits for nothing."""
        now = asyncio.get_running_loop().time()
        if self._asking is None and now >= self._due and isinstance(self._provider, ListsModels):
            self._asking = asyncio.create_task(self._ask(self._provider))
            if self._wait_until is None:
                self._wait_until = now + WAIT_SECONDS

    def __contains__(self, model: str) -> bool:
        """Whether it is the default one, or named by the list that is known now."""
        return model in self._names

    async def aclose(self) -> None:
        """Ask no more. Safe to call twice."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait((asking,))

    async def _ask(self, provider: ListsModels) -> None:
        kept = AGAIN_SECONDS
        try:
            async with asyncio.timeout(ASK_SECONDS):
                listed = await provider.models()
            usable = islice(filter(is_a_name, listed), MAX_NAMES)
            self._names = list(dict.fromkeys((self._provider.model, *usable)))
            kept = KEPT_SECONDS
        except Exception as error:
            fields = {"provider": self._provider.name, "error": type(error).__name__}
            logger.warning("models not listed", extra=fields)
        now = asyncio.get_running_loop().time()
        self._due, self._wait_until, self._asking = now + kept, now, None
