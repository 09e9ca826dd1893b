"""
Where a request may come from: the Host that it names, and the page that sent it.

Loopback is no trust boundary: any page that a user visits can send requests to it. A foreign
Host is refused (DNS rebinding), and so is whatever changes something from a foreign page.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers

from chatstream.errors import Forbidden, SettingsError
from chatstream.settings import Settings

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@\s]+))(?::([0-9]{0,5}))?", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*@]+")
_MAX_PORT = 65_535
_PORTS = {"http": ":80", "https": ":443"}
# A proxy may end TLS: its https pages reach us over http.
_SCHEMES = {"http": ("http", "https"), "https": ("https",), "ws": ("http", "https")}


class Origins:
    """What Hosts and Origins one application accepts."""

    def __init__(self, settings: Settings) -> None:
        """
        Read the lists.

        Raises:
            SettingsError: An origin has another form.
        """
        for origin in settings.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"CHATSTREAM_ALLOWED_ORIGINS: {origin!r} is none; takes origins such as "
                    "https://example.org, without a path, with commas"
                )
        self._hosts = {"localhost", settings.host.lower(), *settings.allowed_hosts}
        self._origins = frozenset(settings.allowed_origins)

    @property
    def has_friends(self) -> bool:
        """Whether any foreign origin may call: answers then differ by who asks."""
        return bool(self._origins)

    def is_friend(self, origin: str | None) -> bool:
        """Say whether an Origin is one of those that are allowed by name."""
        return origin is not None and origin.lower() in self._origins

    def check_host(self, headers: Headers) -> None:
        """
        Refuse a Host that is not this server's name; addresses are good, wherever it listens.

        Raises:
            Forbidden: Names the setting that allows it.
        """
        name = host_name(headers.get("host", ""))
        if name in self._hosts or "*" in self._hosts:
            return
        # An address cannot be rebound: only names are looked up.
        if _is_address(name):
            return
        raise Forbidden(
            "Host: this server does not go by that name; CHATSTREAM_ALLOWED_HOSTS lists those "
            "that it does.",
            code="foreign_host",
        )

    def check_origin(self, scheme: str, headers: Headers) -> None:
        """
        Refuse what a foreign page sends. Programs send no Origin, and are let through.

        Raises:
            Forbidden: Names the setting that allows it.
        """
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        else:
            foreign = not self.allows(origin, scheme, headers.get("host", ""))
        if foreign:
            raise Forbidden(
                "Origin: pages from there may not call this server; CHATSTREAM_ALLOWED_ORIGINS "
                "lists those that may.",
                code="foreign_origin",
            )

    def allows(self, origin: str, scheme: str, host: str) -> bool:
        """Say whether an Origin is this server's own, or one of the allowed."""
        if self.is_friend(origin):
            return True
        own, _, place = origin.lower().partition("://")
        if own not in _SCHEMES.get(scheme, ("https",)) or not place:
            return False
        # Browsers leave the usual port out, and some proxies put it in again.
        port = _PORTS[own]
        named = host.lower().removesuffix(":")  # a port that is left empty is the usual one
        return place.removesuffix(port) == named.removesuffix(port)


def host_name(host: str) -> str:
    """
    Return a Host header's name without its port; nothing where it is none.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("[::1].example.org")
    ('localhost', '::1', '')
    >>> host_name("127.0.0.1:"), host_name("[::1]:")
    ('127.0.0.1', '::1')
    """
    match = _HOST.fullmatch(host.strip().lower())
    if match is None or int(match[3] or 0) > _MAX_PORT:
        return ""
    return match[1] or match[2]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
