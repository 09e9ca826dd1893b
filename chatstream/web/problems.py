"""Errors as answers: RFC 9457 problems, one shape for every endpoint; and as events of streams."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterable

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from chatstream.errors import (
    OVERLOADED,
    ChatstreamError,
    Conflict,
    InvalidRequest,
    RetryLater,
    TooManyRequests,
)
from chatstream.events import Json
from chatstream.web.state import services_of

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
DEFECT = "The server has failed; its log says more."
"""All that a caller is told of a defect of ours."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that a request gives itself if it is sane, else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    name = given.decode("latin-1")
    return name if _SANE_ID.fullmatch(name) else uuid.uuid4().hex


def problem(
    request: HTTPConnection,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    more: Json | None = None,
) -> Response:
    """Return a problem; `more` are members of its own."""
    name = request.scope.get("chatstream.request_id", "")
    body = members(status, code, title, detail, name, more)
    return Response(body, status, headers, MEDIA_TYPE)


def members(
    status: int, code: str, title: str, detail: str, request_id: str, more: Json | None = None
) -> bytes:
    """Return a problem's JSON."""
    return orjson.dumps(
        {
            "type": f"urn:chatstream:problem:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            "request_id": request_id,
            **(more or {}),
        }
    )


def answer(request: HTTPConnection, error: ChatstreamError) -> Response:
    """Return the answer to an error of ours."""
    headers: dict[str, str] = {}
    more = _details(error)
    if isinstance(error, RetryLater):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, TooManyRequests):
        headers |= error.headers
    if isinstance(error, Conflict):
        # The OpenAI SDKs repeat a 409 unless they are told not to.
        headers["x-should-retry"] = "false"
        if error.turn_id is not None:
            more["turn_id"] = error.turn_id
    return problem(
        request, error.status, error.code, error.title, error.message, headers=headers, more=more
    )


def event(error: Exception) -> Json:
    """Return the `error` event that tells of an error in a stream or on a socket."""
    if not isinstance(error, ChatstreamError):
        error = ChatstreamError(DEFECT)
    told: Json = {"type": "error", "code": error.code, "message": error.message, **_details(error)}
    if isinstance(error, RetryLater):
        told["retry_after"] = error.retry_after
    return told


def _details(error: ChatstreamError) -> Json:
    return {"errors": error.errors} if isinstance(error, InvalidRequest) else {}


async def on_error(request: Request, error: Exception) -> Response:
    """Answer what a handler raised."""
    if isinstance(error, ChatstreamError):
        if error.code == OVERLOADED:
            await services_of(request).runner.pause()
        return answer(request, error)
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http_error")
    detail = {
        404: "There is nothing at this path.",
        405: f"{request.method} is not for this path.",
    }.get(error.status_code, str(error.detail))
    headers = dict(error.headers) if error.headers else None
    return problem(request, error.status_code, code, str(error.detail), detail, headers=headers)


def unexpected(request: Request, error: Exception) -> Response:
    """Answer a defect of ours: the log has the story, the answer only its id."""
    address = request.client.host if request.client else ""
    logger.error("request failed", exc_info=error, extra={"address": address})
    return answer(request, ChatstreamError(DEFECT))
