"""What a connection beyond the limit is answered."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from chatstream.server.refusals import Refusal, answer
from chatstream.web import wire
from chatstream.web.problems import request_id

HEALTH = ("/healthz", "/readyz")
BUSY = Refusal(503, "The server has as many connections as it can bear; try again.")


def only_health(app: ASGIApp) -> ASGIApp:
    """Return an application that is the given one for health checks, and busy for all else."""

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH:
            await app(scope, receive, send)
        elif _is_event_source(scope):
            await _later(send)
        else:
            await _refused(scope, send)

    return busy


def _is_event_source(scope: Scope) -> bool:
    accepted = dict(scope["headers"]).get(b"accept", b"")
    return scope["method"] == "GET" and b"text/event-stream" in accepted


async def _later(send: Send) -> None:
    # A status other than 200 would end a browser's EventSource for good. No last chunk: a cut.
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": wire.sse_retry(), "more_body": True})


async def _refused(scope: Scope, send: Send) -> None:
    headers, body = answer(BUSY, request_id(scope["headers"]))
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    status = BUSY.status
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
