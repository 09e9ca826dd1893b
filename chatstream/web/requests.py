"""What comes in: bodies and queries, read within their limits and checked by their models."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

import orjson
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response

from chatstream.errors import BadRequest, BodyTooLarge, BodyTooSlow, InvalidRequest, NotJson
from chatstream.events import Address
from chatstream.schemas import TurnRequest, check_message, parse, turn_id_of_key
from chatstream.web.rate_limits import Kind
from chatstream.web.state import services_of

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", bound=TurnRequest)

PRIVATE = {"Cache-Control": "private, no-cache"}
"""Of what is a user's own: shared caches keep none of it, and others ask before they use it."""

LIMITS = "chatstream.web.rate_limits"
"""In a counted request's scope: the headers that tell what is left, for its answer."""

BODY_SECONDS = 30
"""A body that takes longer to arrive is not waited for: uvicorn has no deadline of its own."""


def json(data: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(data), status, headers, "application/json")


async def read_body(request: Request) -> bytes:
    """
    Return a body of at most `MAX_BODY_BYTES`, whatever its `Content-Length` says.

    One that says that it is longer is refused before any of it is asked for.

    Raises:
        BodyTooLarge: It is longer.
        BodyTooSlow: It did not arrive in time.
        BadRequest: It did not arrive whole.
    """
    most = services_of(request).settings.max_body_bytes
    if _length(request) > most:
        raise BodyTooLarge(f"body: at most {most} bytes")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise BodyTooLarge(f"body: at most {most} bytes")
    except TimeoutError:
        raise BodyTooSlow(f"body: it must arrive within {BODY_SECONDS} s") from None
    except ClientDisconnect:
        raise BadRequest("body: the connection ended before it was whole") from None
    return bytes(data)


def _length(request: Request) -> int:
    """Return what a body's head says of its length; 0 where it says nothing."""
    given = request.headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() else 0


async def read_json(request: Request) -> Any:
    """
    Return a JSON body; one that is not there at all is an empty object.

    Raises:
        NotJson, BadRequest, BodyTooSlow, BodyTooLarge: It is none.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    no_json = NotJson(f"Content-Type: must be application/json, not {media_type[:80]!r}")
    if not is_json and (media_type or _length(request)):
        raise no_json  # before the body is asked for
    data = await read_body(request)
    if not is_json:
        if data:
            raise no_json
        return {}
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"body: not valid JSON: {error}", code="invalid_json") from None


async def body(request: Request, model: type[M]) -> M:
    """Return a checked body."""
    return parse(model, await read_json(request))


async def keyed_body(request: Request, model: type[M]) -> M:
    """Return a checked body with a `turn_id`, the `Idempotency-Key` taken as that."""
    data = await read_json(request)
    key = request.headers.get("idempotency-key")
    if key is not None and isinstance(data, dict):
        turn_id = turn_id_of_key(key)
        if data.get("turn_id") not in (None, turn_id):
            raise InvalidRequest(("turn_id", "differs from the header Idempotency-Key"))
        data["turn_id"] = turn_id
    return parse(model, data)


async def turn_body(request: Request, model: type[T]) -> T:
    """Return the body that starts a turn, its message within the limits of the settings."""
    await services_of(request).runner.enter()
    turn = await keyed_body(request, model)
    settings = services_of(request).settings
    check_message(
        turn.message, most=settings.max_message_chars, reject_markup=settings.reject_markup
    )
    return turn


CURSORS = ("after", "lastEventId")
"""Names under which a query may carry a cursor; the second is that of EventSource's polyfills."""


def pairs(request: HTTPConnection) -> list[tuple[str, str]]:
    """
    Return a query's names and values, in order.

    Raises:
        InvalidRequest: It is not UTF-8: two names must never become one. A cursor may be anything.
    """
    found = parse_qsl(
        request.scope["query_string"].decode(errors="surrogateescape"),
        keep_blank_values=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    for name, value in found:
        if name not in CURSORS and not (_is_utf8(name) and _is_utf8(value)):
            raise InvalidRequest(("query", "must be percent-encoded UTF-8"))
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def query(request: HTTPConnection, model: type[M], lists: Collection[str] = ()) -> M:
    """
    Return a checked query; of the names in `lists`, with all their values. Cursors not listed are
    left to `cursor`.

    Raises:
        InvalidRequest: A field is wrong, not UTF-8, or given twice: one name must never be two.
    """
    many: dict[str, list[str]] = {}
    once: list[tuple[str, str]] = []
    for name, value in pairs(request):
        if name in lists:
            many.setdefault(name, []).append(value)
        elif name not in CURSORS:
            once.append((name, value))
    given = dict(once)
    if len(given) < len(once):
        names = [name for name, _ in once]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest((twice[:80], "must be given once"))
    return parse(model, given | many, strict=False)


def cursor(request: HTTPConnection) -> str | None:
    """
    Return the cursor that a request comes with: `Last-Event-ID`, else the query's; of several the
    last one, an empty one being none. Whether it is any good is not checked.
    """
    headers = request.headers.getlist("last-event-id")
    in_query = [value for name, value in pairs(request) if name in CURSORS]
    return next(filter(None, reversed(in_query + headers)), None)


async def count(request: Request, kind: Kind = "default") -> None:
    """
    Count a request against its caller's limit; whatever the answer, it tells what is left.

    Raises:
        TooManyRequests: It is over the limit.
    """
    caller = request.client.host if request.client else "unknown"
    request.scope[LIMITS] = await services_of(request).limits.hit(kind, caller)


def turn_path(request: Request, address: Address, turn_id: str, more: str = "") -> str:
    """Return the path of a turn, under where the application is mounted."""
    root = request.scope.get("root_path", "").rstrip("/")
    user_id, conversation_id = (quote(part, safe="") for part in address)
    return f"{root}/turns/{turn_id}{more}?user_id={user_id}&conversation_id={conversation_id}"
