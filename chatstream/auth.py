"""
Where a request may come from: the Host that it names, and the page that sent it.

Loopback is no trust boundary: any page that a user visits can send requests to it. A foreign
Host is refused (DNS rebinding), and so is whatever changes something from a foreign page.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from chatstream.errors import Forbidden, SettingsError
from chatstream.settings import Settings

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@\s]+))(?::[0-9]{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*@]+")
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


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
        self._hosts = _LOOPBACK | {settings.host.lower()} | set(settings.allowed_hosts)
        self._origins = frozenset(settings.allowed_origins)
        self._everywhere = not settings.on_loopback and not settings.allowed_hosts

    def check_host(self, headers: Headers) -> None:
        """
        Refuse a Host that is not this server's name.

        Raises:
            Forbidden: Names the setting that allows it.
        """
        name = host_name(headers.get("host", ""))
        if name in self._hosts or "*" in self._hosts:
            return
        # An address cannot be rebound: only names are looked up.
        if _is_address(name) or (self._everywhere and name):
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
        origin = origin.lower()
        if origin in self._origins:
            return True
        parts = urlsplit(origin)
        # A proxy may end TLS: its https pages reach us over http.
        secure = {"http": ("http", "https"), "https": ("https",), "ws": ("http", "https")}
        return parts.scheme in secure.get(scheme, ("https",)) and parts.netloc == host.lower()


def host_name(host: str) -> str:
    """
    Return a Host header's name without its port; nothing where it is none.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("[::1].example.org")
    ('localhost', '::1', '')
    """
    match = _HOST.fullmatch(host.strip().lower())
    return (match[1] or match[2]) if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
