"""Where a provider is: its base address, and what is asked below it."""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import unquote

import httpx

from chatstream.errors import SettingsError

MAX_PORT: Final = 65535


def unaskable(url: httpx.URL) -> str:
    """
    Say what of an address no connection can be made to; empty where one can. Quotes none of it.

    >>> unaskable(httpx.URL("http://a:99999")), unaskable(httpx.URL("http://a..b"))
    ('a port that is not between 1 and 65535', 'a host that is no name')
    """
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        return f"a port that is not between 1 and {MAX_PORT}"
    try:
        url.raw_host.decode("ascii").encode("idna")
    except UnicodeError:
        return "a host that is no name"
    return ""


class Address:
    """
    A provider's base address, read once.

    Attributes:
        host: The machine, in lower case.
        base: The address without user, query, fragment and a slash at its end.
        basic: The `Authorization` that a user and a password in it ask for; empty without.
        password: What of it must be in no log line.
    """

    def __init__(self, name: str, address: str) -> None:
        """
        Read it.

        Raises:
            SettingsError: It is no http or https address; says so without quoting it.
        """
        try:
            url = httpx.URL(address.strip())
        except httpx.InvalidURL:
            raise SettingsError(f"the address of {name} is not a URL") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise SettingsError(f"the address of {name} is not a URL: it takes http://HOST/PATH")
        if why := unaskable(url):
            raise SettingsError(f"the address of {name} has {why}")
        path, _, self._query = url.raw_path.decode("ascii").partition("?")
        self.host = url.host
        self.base = httpx.URL(f"{url.scheme}://{url.netloc.decode('ascii')}{path.rstrip('/')}")
        user = url.userinfo.decode("ascii")
        self.password = url.password
        self.basic = f"Basic {base64.b64encode(unquote(user).encode()).decode()}" if user else ""

    def at(self, path: str) -> str:
        """
        Return the address of a path below; a query in it comes first, and then the base's own.

        A parameter that the path sets itself is not given twice.

        >>> Address("x", "http://a/v1/?v=2&alt=json#top").at("models?alt=sse")
        'http://a/v1/models?alt=sse&v=2'
        """
        path, _, query = path.partition("?")
        asked = query.split("&") if query else []
        names = {parameter.partition("=")[0] for parameter in asked}
        asked += [
            parameter
            for parameter in self._query.split("&")
            if parameter and parameter.partition("=")[0] not in names
        ]
        return f"{self.base}/{path}" + (f"?{'&'.join(asked)}" if asked else "")
