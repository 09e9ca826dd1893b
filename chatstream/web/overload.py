"""What a connection beyond the limit is answered: that the server is busy, but to health checks."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope

from chatstream.errors import Unavailable
from chatstream.web.problems import answer
from chatstream.web.sse import CutStream
from chatstream.web.state import services_of

CROWDED = "chatstream.crowded"
"""In the scope of a request whose connection is beyond the limit."""
BUSY = "The server has as many connections as it can bear; try again."
_HEALTH = ("/healthz", "/readyz")


def crowded(scope: Scope) -> ASGIApp | None:
    """Return what answers in the application's place; None where that may answer itself."""
    if not scope.get(CROWDED) or scope["path"] in _HEALTH:
        return None
    request = HTTPConnection(scope)
    if _is_stream(request):
        return CutStream(services_of(request))
    return answer(request, Unavailable(BUSY, code="too_many_connections"))


def _is_stream(request: HTTPConnection) -> bool:
    # A status other than 200 would end a browser's EventSource for good.
    accepted = request.headers.get("accept", "")
    asks = request.scope["path"].endswith("/events") or "text/event-stream" in accepted
    return request.scope["method"] == "GET" and asks
