"""OpenAPI 3.1, made of the models that validate: what is documented is what is checked."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chatstream.events import Json
from chatstream.schemas import (
    TURN_ID,
    Addressed,
    ConversationsQuery,
    FeedbackRequest,
    FollowQuery,
    HistoryQuery,
    RenameRequest,
    ReplacingTurnRequest,
    TurnRequest,
    UserQuery,
)
from chatstream.views.usage import UsageQuery
from chatstream.views.versions import AgainBody
from chatstream.web.answers import SCHEMAS


class Call(NamedTuple):
    """One operation: what it does, what it takes, and what it answers, in which form."""

    method: str
    path: str
    does: str
    answers: dict[int, str]
    form: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    stream: bool = False
    """Whether its events may be streamed; a GET's always are."""


NONE = {404: "No such turn"}
GONE = {404: "No such conversation"}
WRITES = {507: "Disk full"}
STARTS = {**NONE, 409: "Other body, or not now", **WRITES}
FAILS = {502: "Provider failed", 504: "Provider too slow"}
CALLS = (
    Call("post", "/chat", "Start a turn, or come back to it; stream it, or wait for its end",
         {200: "The reply", **STARTS, **FAILS}, "Reply", body=TurnRequest, stream=True),
    Call("post", "/turns", "Start a turn", {202: "Started", **STARTS}, "Started",
         body=ReplacingTurnRequest),
    Call("get", "/turns/{turn_id}", "Read a turn", {200: "The turn", **NONE}, "Turn",
         query=Addressed),
    Call("get", "/turns/{turn_id}/events", "Follow a turn",
         {200: "Its events", 204: "Nothing follows", **NONE}, "", query=Addressed, stream=True),
    Call("post", "/turns/{turn_id}/cancel", "Stop a turn", {200: "The turn", **NONE}, "Turn",
         body=Addressed),
    Call("post", "/turns/{turn_id}/regenerate", "Answer anew",
         {202: "Started", **STARTS}, "Started", body=AgainBody),
    Call("post", "/turns/{turn_id}/continue", "Go on with an answer",
         {202: "Started", **STARTS}, "Started", body=AgainBody),
    Call("get", "/turns/{turn_id}/versions", "List a turn's versions",
         {200: "The versions", **NONE}, "Versions", query=Addressed),
    Call("get", "/events", "Follow a conversation, or several in one answer without ids",
         {200: "Their events"}, "", query=FollowQuery, stream=True),
    Call("get", "/history", "Read messages", {200: "A page", 304: "Unchanged"}, "History",
         query=HistoryQuery),
    Call("post", "/history/clear", "Erase messages", {200: "Erased", **WRITES}, "Done",
         body=Addressed),
    Call("post", "/feedback", "Rate an answer", {200: "Kept", **NONE, **WRITES}, "Done",
         body=FeedbackRequest),
    Call("get", "/conversations", "List conversations", {200: "A page"}, "Conversations",
         query=ConversationsQuery),
    Call("patch", "/conversations", "Rename a conversation",
         {200: "Renamed", **GONE, **WRITES}, "Renamed", body=RenameRequest, query=Addressed),
    Call("delete", "/conversations", "Erase a conversation", {200: "Erased", **GONE, **WRITES},
         "Done", query=Addressed),
    Call("delete", "/users", "Erase a user", {200: "Erased", **WRITES}, "Done", query=UserQuery),
    Call("get", "/usage", "Read tokens and turns by day and model", {200: "The usage"}, "Usage",
         query=UsageQuery),
    Call("get", "/providers", "List providers", {200: "Who can answer"}, "Providers"),
    Call("get", "/healthz", "Alive", {200: "Alive"}, "Health"),
    Call("get", "/readyz", "Ready", {200: "Ready", 503: "Draining, or the disk is away"}, "Health"),
    Call("get", "/metrics", "Counts, as Prometheus text", {200: "Counts"}, ""),
    Call("get", "/openapi.json", "This description", {200: "OpenAPI 3.1"}, "OpenAPI"),
)  # fmt: skip

ALWAYS = {
    **{400: "Malformed", 403: "Foreign Host or Origin", 408: "Too slow", 500: "Our defect"},
    **{414: "Address too long", 431: "Head too large"},
}
COUNTED = {429: "Too many", 503: "Not now"}
WRONG = {422: "A field is wrong"}
BODIES = {413: "Too large", 415: "Not JSON"}
UNCOUNTED = ("/healthz", "/readyz", "/metrics", "/openapi.json")
HEADERS = {
    "X-Request-ID": "the client's own, where it is sane",
    "Server-Timing": "how long the answer took to begin, in ms",
    "RateLimit": "how much is left, and until when",
    "RateLimit-Policy": "how much may be asked, and in what time",
    "Retry-After": "seconds",
    "Location": "where the turn is",
    "ETag": "weak",
}


def document(root_path: str, providers: Iterable[str], max_message_chars: int) -> Json:
    """Return the whole description, for where the application is mounted, as it is set up."""
    bodies: list[tuple[type[BaseModel], Any]] = [
        (call.body, "validation") for call in CALLS if call.body
    ]
    _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
    for name in ("TurnRequest", "ReplacingTurnRequest"):
        fields = schemas["$defs"][name]["properties"]
        fields["message"]["maxLength"] = max_message_chars
        fields["provider"]["enum"] = [*providers, None]
    paths: Json = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    headers = {
        name: {"description": said, "schema": {"type": "string"}} for name, said in HEADERS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatstream", "version": version("chatstream")},
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
            "required": call.body not in (Addressed, AgainBody),
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _is_counted(call: Call) -> bool:
    return not (call.path in UNCOUNTED or (call.stream and call.method == "get"))


def _statuses(call: Call) -> dict[int, str]:
    return {
        **call.answers,
        **ALWAYS,
        **(COUNTED if _is_counted(call) else {}),
        **(WRONG if call.body or call.query else {}),
        **(BODIES if call.body else {}),
    }


def _answer(status: int, said: str, call: Call) -> Json:
    answer: Json = {"description": said, "headers": _headers(status, call)}
    if status >= 400 and not (call.path == "/readyz" and status == 503):
        answer["content"] = _content("application/problem+json", "Problem")
    elif call.path == "/metrics":
        answer["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif status < 300 and status != 204 or status == 503:
        answer["content"] = _content("application/json", call.form) if call.form else {}
        if call.stream:
            answer["content"]["text/event-stream"] = {}
    return answer


def _content(media_type: str, form: str) -> Json:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{form}"}}}


def _headers(status: int, call: Call) -> Json:
    names = ["X-Request-ID", "Server-Timing"]
    if _is_counted(call):
        names += ["RateLimit", "RateLimit-Policy"]
    if status in (429, 503):
        names.append("Retry-After")
    if call.body in (TurnRequest, ReplacingTurnRequest, AgainBody) and status < 300:
        names.append("Location")
    if call.path == "/history" and status < 400:
        names.append("ETag")
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
