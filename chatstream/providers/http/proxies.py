"""Which proxy the environment names for an address, and what is wrong with one that is none."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from typing import Final, NamedTuple
from urllib.request import getproxies, proxy_bypass

import httpx

from chatstream.providers.http.address import unaskable

ADVICE: Final = "http://HOST:PORT, or the provider's host in NO_PROXY"
"""What a variable that cannot be used should hold."""

logger = logging.getLogger(__name__)

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Unusable(NamedTuple):
    """A variable whose value is no proxy that can be asked; `kind` says what it is instead."""

    variable: str
    kind: str
    value: str


def on_loopback(host: str) -> bool:
    """
    Say whether a host is this machine, which no proxy could reach.

    >>> on_loopback("127.0.0.1"), on_loopback("127.evil.example"), on_loopback("localhost")
    (True, False, True)
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def environment_proxy(url: httpx.URL) -> str | None:
    """
    Name the proxy that the environment asks for: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY.

    As httpx reads them, but loopback is never asked of a proxy. What is named may be unusable.
    """
    if _asked_directly(url):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all") or None


def unusable(url: httpx.URL) -> list[Unusable]:
    """Return the variables that name no usable proxy, where an address is asked through one."""
    if _asked_directly(url):
        return []
    proxies = getproxies()
    named = {scheme: proxies[scheme] for scheme in ("http", "https", "all") if proxies.get(scheme)}
    return [
        Unusable(_variable(scheme, value), kind, value)
        for scheme, value in named.items()
        if (kind := wrong(value))
    ]


def barred(name: str, url: httpx.URL) -> str:
    """
    Tell the log of each variable that names no usable proxy for a provider's address.

    Returns:
        Why the provider cannot be asked: the proxy that it must be asked through is none. Empty
        where it can: it is never asked past a proxy.
    """
    asked, bar = environment_proxy(url), ""
    for variable, kind, value in unusable(url):
        fields = {"variable": variable, "holds": kind, "takes": ADVICE}
        logger.warning("proxy cannot be used", extra={"provider": name, **fields})
        if value == asked:
            bar = f"{variable} holds {kind}"
    return bar


def wrong(proxy: str) -> str:
    """
    Say what a value is that cannot be used as a proxy; empty for one that can. Quotes none of it.

    >>> wrong("http://me:pass@proxy:3128"), wrong("socks5h://127.0.0.1:1080"), wrong("proxy:3128")
    ('', 'a SOCKS proxy', 'an address without http://')
    """
    scheme = _SCHEME.match(proxy)
    if scheme is None:
        return "an address without http://"
    if scheme[1].lower().startswith("socks"):
        return "a SOCKS proxy"
    if scheme[1].lower() not in ("http", "https"):
        return "an address of another scheme than http"
    try:
        url = httpx.URL(proxy)
    except httpx.InvalidURL:
        return "an address that cannot be read"
    if not url.host:
        return "an address without a host"
    why = unaskable(url)
    return f"an address with {why}" if why else ""


def _asked_directly(url: httpx.URL) -> bool:
    return on_loopback(url.host) or bool(proxy_bypass(url.netloc.decode("ascii")))


def _variable(scheme: str, value: str) -> str:
    """Name the variable as it is written in the environment."""
    name = f"{scheme}_proxy"
    written = [key for key, held in os.environ.items() if key.lower() == name and held == value]
    return written[0] if written else name.upper()
