"""What a request's head may be: how long, how many headers, and what it must not say twice."""

from __future__ import annotations

from typing import Any

import httptools

from chatstream.server.refusals import Refused

URL_BYTES = 65_535
HEAD_BYTES = 65_536
"""Of all headers; of trailers, and of what stands between a body's chunks, another as much."""
HEADERS = 200
FRAMING = 16
"""So many bytes of framing for each byte of a body are taken: a chunk of one byte has five."""
HTTP_PORT = 80
_ONCE = (b"host", b"origin")
_SCHEMES = (b"http", b"https")

Headers = list[tuple[bytes, bytes]]


def parse_target(url: bytes, headers: Headers) -> Any:
    """
    Return a request's target in its parts, once the head has been found to mean one thing only.

    Raises:
        Refused: It names two hosts or origins, or its target is none.
    """
    names = [name for name, _ in headers]
    for once in _ONCE:
        if names.count(once) > 1:
            raise Refused(400, f"{once.decode().title()}: it must be given once.")
    try:
        target = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, "The request's target is no path.") from None
    if target.schema is not None or target.host is not None:
        _check_absolute(target, dict(headers).get(b"host", b""))
    return target


def _check_absolute(target: Any, host: bytes) -> None:
    """
    Compare the host within a target (RFC 9112, 3.2.2) with the one that all others look at.

    Raises:
        Refused: They differ.
    """
    named: bytes = target.host or b""
    if b":" in named:
        named = b"[" + named + b"]"
    if target.port and target.port != HTTP_PORT:
        named += b":%d" % target.port
    same = named.lower() == host.lower().removesuffix(b":%d" % HTTP_PORT)
    if target.schema.lower() not in _SCHEMES or target.userinfo or not same:
        raise Refused(400, "The request's target names another host than its Host header.")
