"""OpenAPI 3.1, made of the models that validate: what is documented is what is checked."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chatstream.log.records import Json
from chatstream.usage import UsageQuery
from chatstream.validation import (
    Addressed,
    ConversationsQuery,
    FeedbackRequest,
    FollowQuery,
    HistoryQuery,
    RenameRequest,
    ReplacingTurnRequest,
    StreamQuery,
    TurnRequest,
    UserQuery,
)
from chatstream.versions import AgainBody


class Call(NamedTuple):
    """One operation: what it does, what it takes, and what it answers."""

    method: str
    path: str
    does: str
    answers: dict[int, str]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    stream: bool = False


STARTS = {400: "Refused", 409: "Other body", 429: "Too many", 503: "Later", 507: "Disk full"}
CALLS = (
    Call(
        "post",
        "/chat",
        "Start a turn; stream it, or wait for its end",
        {200: "The reply", **STARTS, 502: "Provider failed", 504: "Provider too slow"},
        body=TurnRequest,
        stream=True,
    ),
    Call("post", "/turns", "Start a turn", {202: "Started", 404: "No such turn", **STARTS},
         body=ReplacingTurnRequest),
    Call("get", "/turns/{turn_id}", "Read a turn", {200: "The turn", 404: "No such turn"},
         query=Addressed),
    Call("get", "/turns/{turn_id}/events", "Follow a turn",
         {200: "Its events", 204: "Nothing follows", 404: "No such turn"},
         query=StreamQuery, stream=True),
    Call("post", "/turns/{turn_id}/cancel", "Stop a turn",
         {200: "The turn", 404: "No such turn"}, body=Addressed),
    Call("post", "/turns/{turn_id}/regenerate", "Answer anew",
         {202: "Started", 404: "No such turn", **STARTS}, body=AgainBody),
    Call("post", "/turns/{turn_id}/continue", "Go on with an answer",
         {202: "Started", 404: "No such turn", **STARTS}, body=AgainBody),
    Call("get", "/turns/{turn_id}/versions", "List a turn's versions",
         {200: "The versions", 404: "No such turn"}, query=Addressed),
    Call("get", "/events", "Follow a conversation, or several in one answer without ids",
         {200: "Their events"}, query=FollowQuery, stream=True),
    Call("get", "/history", "Read messages", {200: "A page", 304: "Unchanged"},
         query=HistoryQuery),
    Call("post", "/history/clear", "Erase messages", {200: "Erased"}, body=Addressed),
    Call("post", "/feedback", "Rate an answer", {200: "Kept", 404: "No such turn"},
         body=FeedbackRequest),
    Call("get", "/conversations", "List conversations", {200: "A page"},
         query=ConversationsQuery),
    Call("patch", "/conversations", "Rename a conversation",
         {200: "Renamed", 404: "No such conversation"}, body=RenameRequest, query=Addressed),
    Call("delete", "/conversations", "Erase a conversation",
         {200: "Erased", 404: "No such conversation"}, query=Addressed),
    Call("delete", "/users", "Erase a user", {200: "Erased"}, query=UserQuery),
    Call("get", "/usage", "Read tokens and turns by day and model", {200: "The usage"},
         query=UsageQuery),
    Call("get", "/providers", "List providers", {200: "Who can answer"}),
    Call("get", "/healthz", "Alive", {200: "Alive"}),
    Call("get", "/readyz", "Ready", {200: "Ready", 503: "Draining, or the disk is away"}),
    Call("get", "/metrics", "Counts, as Prometheus text", {200: "Counts"}),
    Call("get", "/openapi.json", "This description", {200: "OpenAPI 3.1"}),
)  # fmt: skip


def document(root_path: str) -> Json:
    """Return the whole description, for where the application is mounted."""
    bodies: list[tuple[type[BaseModel], Any]] = [
        (call.body, "validation") for call in CALLS if call.body
    ]
    _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
    paths: Json = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatstream", "version": version("chatstream")},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": {**schemas["$defs"], "Problem": PROBLEM}},
    }


def _operation(call: Call) -> Json:
    operation: Json = {
        "summary": call.does,
        "operationId": f"{call.method}{call.path.replace('{turn_id}', 'turn')}".replace("/", "_"),
        "responses": {str(status): _answer(status, said, call) for status, said in
                      {**call.answers, **(_WRONG if call.body or call.query else {})}.items()},
    }  # fmt: skip
    if call.body:
        schema = {"$ref": f"#/components/schemas/{call.body.__name__}"}
        operation["requestBody"] = {
            "required": call.body not in (Addressed, AgainBody),
            "content": {"application/json": {"schema": schema}},
        }
    operation["parameters"] = _parameters(call)
    return operation


_WRONG = {413: "Too large", 415: "Not JSON", 422: "A field is wrong"}

PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "turn_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def _answer(status: int, said: str, call: Call) -> Json:
    answer: Json = {"description": said}
    if status >= 400 and call.path != "/readyz":
        schema = {"$ref": "#/components/schemas/Problem"}
        answer["content"] = {"application/problem+json": {"schema": schema}}
    elif status < 300 and status != 204:
        content: Json = {}
        if call.path == "/metrics":
            content["text/plain"] = {"schema": {"type": "string"}}
        elif not (call.stream and call.method == "get"):
            content["application/json"] = {"schema": {"type": "object"}}
        if call.stream:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        answer["content"] = content
    return answer


def _parameters(call: Call) -> list[Json]:
    found: list[Json] = []
    if "{turn_id}" in call.path:
        found.append(
            {"name": "turn_id", "in": "path", "required": True, "schema": {"type": "string"}}
        )
    if call.query:
        for name, schema in call.query.model_json_schema()["properties"].items():
            found.append({"name": name, "in": "query", "required": False, "schema": schema})
    if call.path.endswith("/events"):
        found.append({"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}})
    if call.path in ("/chat", "/turns") or call.path.endswith(("/regenerate", "/continue")):
        found.append({"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}})
    return found
