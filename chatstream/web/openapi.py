"""OpenAPI 3.1, made of the models that validate: what is documented is what is checked."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

import chatstream
from chatstream.events import Json
from chatstream.schemas import TURN_ID, FollowQuery
from chatstream.web.answers import SCHEMAS
from chatstream.web.rate_limits import Kind

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Call(NamedTuple):
    """
    One operation: what carries it out, what it takes, and what it answers.

    Attributes:
        answers: What each status says, those apart that follow from what it takes.
        form: The schema of an answer in JSON; empty where there is none.
        limit: The rate that it counts against.
        stream: Whether its events may be streamed; those of a GET always are.
        headers: Names of headers of its own, of answers below 400.
        formed: Statuses from 400 on that are answered in its form, and not as a problem.
    """

    method: str
    path: str
    handler: Handler
    does: str
    answers: dict[int, str]
    form: str = ""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    limit: Kind | None = "default"
    stream: bool = False
    headers: tuple[str, ...] = ()
    formed: tuple[int, ...] = ()
    media_type: str = "application/json"


ALWAYS = {
    **{400: "Malformed", 403: "Foreign Host or Origin", 408: "Too slow", 500: "Our defect"},
    **{414: "Address too long", 431: "Head too large"},
}
COUNTED = {429: "Too many", 503: "Not now"}
WRONG = {422: "A field is wrong"}
BODIES = {413: "Too large", 415: "Not JSON"}
HEADERS = {
    "X-Request-ID": "the client's own, where it is sane",
    "Server-Timing": "how long the answer took to begin, in ms",
    "RateLimit": "how much is left, and until when",
    "RateLimit-Policy": "how much may be asked, and in what time",
    "Retry-After": "seconds",
    "Location": "where the turn is",
    "ETag": "for If-None-Match",
}


def document(
    calls: Sequence[Call], root_path: str, providers: Iterable[str], max_message_chars: int
) -> Json:
    """Return the whole description, for where the application is mounted, as it is set up."""
    bodies: list[tuple[type[BaseModel], Any]] = [
        (call.body, "validation") for call in calls if call.body
    ]
    _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
    for name in ("TurnRequest", "ReplacingTurnRequest"):
        fields = schemas["$defs"][name]["properties"]
        fields["message"]["maxLength"] = max_message_chars
        fields["provider"]["enum"] = [*providers, None]
    paths: Json = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    headers = {
        name: {"description": said, "schema": {"type": "string"}} for name, said in HEADERS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatstream", "version": chatstream.__version__},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": {**schemas["$defs"], **SCHEMAS}, "headers": headers},
    }


def _operation(call: Call) -> Json:
    operation: Json = {
        "summary": call.does,
        "operationId": f"{call.method}{call.path.replace('{turn_id}', 'turn')}".replace("/", "_"),
        "parameters": _parameters(call),
        "responses": {
            str(status): _answer(status, said, call) for status, said in _statuses(call).items()
        },
    }
    if call.body:
        schema = {"$ref": f"#/components/schemas/{call.body.__name__}"}
        operation["requestBody"] = {
            "required": any(field.is_required() for field in call.body.model_fields.values()),
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _statuses(call: Call) -> dict[int, str]:
    return {
        **call.answers,
        **ALWAYS,
        **(COUNTED if call.limit else {}),
        **(WRONG if call.body or call.query else {}),
        **(BODIES if call.body else {}),
    }


def _answer(status: int, said: str, call: Call) -> Json:
    answer: Json = {"description": said, "headers": _headers(status, call)}
    if status >= 400 and status not in call.formed:
        answer["content"] = {"application/problem+json": _schema("Problem")}
    elif status not in (204, 304):
        answer["content"] = {call.media_type: _schema(call.form)} if call.form else {}
        if call.stream:
            answer["content"]["text/event-stream"] = {}
    return answer


def _schema(form: str) -> Json:
    return {"schema": {"$ref": f"#/components/schemas/{form}"}}


def _headers(status: int, call: Call) -> Json:
    names = ["X-Request-ID", "Server-Timing"]
    if call.limit:
        names += ["RateLimit", "RateLimit-Policy"]
    if status in (429, 503):
        names.append("Retry-After")
    if status < 400:
        names += call.headers
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameters(call: Call) -> list[Json]:
    found: list[Json] = [
        {
            "name": "X-Request-ID",
            "in": "header",
            "description": "what the answer repeats, where it is sane",
            "schema": {"type": "string"},
        }
    ]
    if "{turn_id}" in call.path:
        schema = {"type": "string", "pattern": TURN_ID}
        found.append({"name": "turn_id", "in": "path", "required": True, "schema": schema})
    if call.query:
        for name, schema in copy.deepcopy(call.query.model_json_schema())["properties"].items():
            found.append({"name": name, "in": "query", "schema": _written(schema)})
    if call.stream:
        cursors = {"type": "array", "items": {"type": "string"}}
        found.append({"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}})
        for name in ("after", "lastEventId"):
            if call.query is not FollowQuery:
                found.append({"name": name, "in": "query", "schema": cursors})
    return found


def _written(schema: Json) -> Json:
    """Return a field as it stands in a query, where nothing is null."""
    if isinstance(schema["type"], list):
        (schema["type"],) = (kind for kind in schema["type"] if kind != "null")
    return schema
