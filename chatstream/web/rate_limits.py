"""How often a caller may ask: a moving window per caller, for turns and for everything else."""

from __future__ import annotations

import ipaddress
import math
import time
from bisect import bisect_right
from collections import OrderedDict
from typing import Literal, NamedTuple

from chatstream.errors import TooManyRequests
from chatstream.settings import Settings, rate

Kind = Literal["chat", "default"]

MAX_CALLERS = 50_000
"""Callers that are counted at once; beyond that the one silent for longest begins anew."""


class Window(NamedTuple):
    """How many requests fit into how many seconds."""

    most: int
    seconds: int


class Throttle:
    """How fast one connection may go on: a burst, then a steady rate. Who is faster waits."""

    __slots__ = ("_ahead", "_step", "_paid_until")

    def __init__(self, burst: int, per_second: int) -> None:
        self._ahead = burst / per_second
        self._step = 1 / per_second
        self._paid_until = 0.0

    def delay(self, now: float) -> float:
        """Count one; return for how many seconds to wait before the next."""
        self._paid_until = max(self._paid_until, now) + self._step
        return max(0.0, self._paid_until - now - self._ahead)


class Limits:
    """
    The rate limits of one application; on loopback they are off unless set.

    No window of the given length ever holds more than the given count. Counts are in memory: they
    begin anew with the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._windows: dict[Kind, Window] = {}
        self._hits: OrderedDict[tuple[Kind, str], list[float]] = OrderedDict()
        rates: dict[Kind, str] = {
            "chat": settings.rate_limit_chat,
            "default": settings.rate_limit_default,
        }
        for kind, text in rates.items():
            if (limit := rate(text)) and settings.limited(f"rate_limit_{kind}"):
                self._windows[kind] = Window(*limit)

    async def hit(self, kind: Kind, caller: str) -> dict[str, str]:
        """
        Count a request; returns the headers that tell how much is left.

        `caller` is an address; one network of IPv6, which is one household's, is one caller.

        Raises:
            TooManyRequests: It is over the limit, and was not counted.
        """
        window = self._windows.get(kind)
        if window is None:
            return {}
        now = time.monotonic()
        hits = self._recent((kind, network(caller)), now)
        allowed = len(hits) < window.most
        if allowed:
            hits.append(now)
        wait = max(1, math.ceil(hits[0] + window.seconds - now))
        headers = {
            "RateLimit-Policy": f'"{kind}";q={window.most};w={window.seconds}',
            "RateLimit": f'"{kind}";r={window.most - len(hits)};t={wait}',
        }
        if not allowed:
            raise TooManyRequests(
                f"At most {window.most} requests in {window.seconds} s; try again in {wait} s.",
                retry_after=wait,
                headers=headers,
            )
        return headers

    def _recent(self, key: tuple[Kind, str], now: float) -> list[float]:
        """Return when a caller asked within the window, and forget one that is long silent."""
        hits = self._hits.setdefault(key, [])
        self._hits.move_to_end(key)
        del hits[: bisect_right(hits, now - self._windows[key[0]].seconds)]
        oldest, asked = next(iter(self._hits.items()))
        silent = not asked or asked[-1] <= now - self._windows[oldest[0]].seconds
        if oldest != key and (silent or len(self._hits) > MAX_CALLERS):
            del self._hits[oldest]
        return hits


def network(caller: str) -> str:
    """
    Return what counts as one caller: an IPv4 address, or the 64 bits of an IPv6 network.

    >>> network("2001:db8::1:2"), network("::ffff:192.0.2.1"), network("testclient")
    ('2001:db8::/64', '192.0.2.1', 'testclient')
    """
    try:
        address = ipaddress.ip_address(caller)
    except ValueError:
        return caller
    if isinstance(address, ipaddress.IPv4Address):
        return caller
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
