"""Requests that are refused before an application sees them; the answer is a problem, as always."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from websockets.datastructures import Headers
from websockets.http11 import Response

from chatstream.web import cors
from chatstream.web.origins import Origins
from chatstream.web.problems import MEDIA_TYPE, members, request_id

_CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    414: "uri_too_long",
    426: "upgrade_required",
    431: "head_too_large",
    500: "internal",
    503: "too_many_connections",
}
RETRY_SECONDS = "1"


class Refusal(NamedTuple):
    """Why a request is not taken: a status, and a sentence for the caller."""

    status: int
    detail: str


class Refused(Exception):
    """Ends the parsing of a request that is not taken."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(status, detail)


def answer(refusal: Refusal, name: str) -> tuple[list[tuple[str, str]], bytes]:
    """Return the headers and the body of a refusal; `name` is the request's id."""
    status = HTTPStatus(refusal.status)
    code = _CODES.get(refusal.status, "http_error")
    body = members(refusal.status, code, status.phrase, refusal.detail, name)
    headers = [
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        ("X-Request-ID", name),
        ("Server-Timing", "app;dur=0.0"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
    ]
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", RETRY_SECONDS))
    return headers, body


def raw(refusal: Refusal, asked: list[tuple[bytes, bytes]], origins: Origins) -> bytes:
    """Return a whole answer of HTTP/1.1; `asked` are the headers that have come by then."""
    response = handshake(request_id(asked), refusal.status, refusal.detail)
    told = MutableHeaders()
    cors.let_read(told, origins, dict(asked).get(b"origin", b"").decode("latin-1"))
    for name, value in told.items():
        response.headers[name] = value
    return response.serialize()


def handshake(name: str, status: int, detail: str) -> Response:
    """Return the answer to a handshake that fails."""
    known = HTTPStatus(status)
    headers, body = answer(Refusal(known.value, detail.strip() or known.phrase), name)
    headers.append(("Date", formatdate(usegmt=True)))
    return Response(known.value, known.phrase, Headers(headers), body)
