"""How often a caller may ask: a moving window per caller, for turns and for everything else."""

from __future__ import annotations

import math
import time
from typing import Literal

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from chatstream.errors import TooManyRequests
from chatstream.settings import Settings

Kind = Literal["chat", "default"]


class Limits:
    """The rate limits of one application; on loopback they are off unless set."""

    def __init__(self, settings: Settings) -> None:
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._items: dict[Kind, RateLimitItem] = {}
        rates: dict[Kind, str] = {
            "chat": settings.rate_limit_chat,
            "default": settings.rate_limit_default,
        }
        for kind, rate in rates.items():
            if rate != "0" and settings.limited(f"rate_limit_{kind}"):
                self._items[kind] = parse(rate)

    async def hit(self, kind: Kind, caller: str) -> dict[str, str]:
        """
        Count a request; returns the headers that tell how much is left.

        Raises:
            TooManyRequests: It is over the limit, and was not counted.
        """
        item = self._items.get(kind)
        if item is None:
            return {}
        allowed = await self._window.hit(item, kind, caller)
        stats = await self._window.get_window_stats(item, kind, caller)
        wait = max(1, math.ceil(stats.reset_time - time.time()))
        headers = {
            "RateLimit-Policy": f'"{kind}";q={item.amount};w={item.get_expiry()}',
            "RateLimit": f'"{kind}";r={stats.remaining};t={wait}',
        }
        if not allowed:
            raise TooManyRequests(
                f"At most {item.amount} requests in {item.get_expiry()} s; try again in {wait} s.",
                retry_after=wait,
                headers=headers,
            )
        return headers
