"""
What browsers are told about pages of other origins: those of `ALLOWED_ORIGINS` may read us.

Each of them is named in every answer, errors too: a page that cannot read a 429 cannot obey it.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Scope

from chatstream.web.origins import Origins

METHODS = "GET, HEAD, POST, PATCH, DELETE"
EXPOSED = (
    "Location, Retry-After, X-Request-ID, ETag, RateLimit, RateLimit-Policy, "
    "x-resumable-stream-id, x-vercel-ai-ui-message-stream"
)
PREFLIGHT_SECONDS = 600


def let_read(headers: MutableHeaders, origins: Origins, origin: str | None) -> None:
    """Let an allowed origin's pages read an answer; of any other, say only that some might."""
    if not origins.has_friends:
        return
    headers.add_vary_header("Origin")
    if origin is not None and origins.is_friend(origin):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        headers["Access-Control-Expose-Headers"] = EXPOSED


def preflight(scope: Scope) -> Response | None:
    """Answer the question whether a page may ask; None where a request is no such question."""
    headers = Headers(scope=scope)
    if scope["method"] != "OPTIONS" or "access-control-request-method" not in headers:
        return None
    allowed = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        "Vary": "Access-Control-Request-Headers",
    }
    # Not "*": with credentials, that is a header's name.
    if asked := ", ".join(headers.getlist("access-control-request-headers")):
        allowed["Access-Control-Allow-Headers"] = asked
    return Response(headers=allowed)
