"""
Every route, once: the application, its description, the rate limits and their headers read it here.

What the table says of bodies and queries is what the handlers parse; `tests/test_openapi.py` asks.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute

from chatstream.schemas import (
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
from chatstream.web import (
    conversations,
    docs,
    events,
    page,
    status,
    turns,
    usage,
    versions,
    websocket,
)
from chatstream.web.openapi import Call, Handler, document
from chatstream.web.requests import count, json
from chatstream.web.state import services_of


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`: OpenAPI 3.1, from the models that validate."""
    services = services_of(request)
    root, names = request.scope.get("root_path", ""), services.providers.by_name
    return json(document(CALLS, root, names, services.settings.max_message_chars))


NONE = {404: "No such turn"}
GONE = {404: "No such conversation"}
WRITES = {507: "Disk full"}
STARTS = {**NONE, 409: "Other body, or not now", **WRITES}
FAILS = {502: "Provider failed", 504: "Provider too slow"}
LOCATION = ("Location",)
CALLS = (
    Call("post", "/chat", turns.chat,
         "Start a turn, or come back to it; stream it, or wait for its end",
         {200: "The reply", **STARTS, **FAILS}, "Reply", body=TurnRequest, limit="chat",
         stream=True, headers=LOCATION),
    Call("post", "/turns", turns.start, "Start a turn", {202: "Started", **STARTS}, "Started",
         body=ReplacingTurnRequest, limit="chat", headers=LOCATION),
    Call("get", "/turns/{turn_id}", turns.get, "Read a turn", {200: "The turn", **NONE}, "Turn",
         query=Addressed),
    Call("get", "/turns/{turn_id}/events", turns.events, "Follow a turn",
         {200: "Its events", 204: "Nothing follows", **NONE}, query=Addressed, limit=None,
         stream=True),
    Call("post", "/turns/{turn_id}/cancel", turns.cancel, "Stop a turn",
         {200: "The turn", **NONE}, "Turn", body=Addressed),
    Call("post", "/turns/{turn_id}/regenerate", versions.regenerate, "Answer anew",
         {202: "Started", **STARTS}, "Started", body=AgainBody, limit="chat", headers=LOCATION),
    Call("post", "/turns/{turn_id}/continue", versions.go_on, "Go on with an answer",
         {202: "Started", **STARTS}, "Started", body=AgainBody, limit="chat", headers=LOCATION),
    Call("get", "/turns/{turn_id}/versions", versions.listed, "List a turn's versions",
         {200: "The versions", **NONE}, "Versions", query=Addressed),
    Call("get", "/events", events.follow,
         "Follow a conversation, or several in one answer without ids",
         {200: "Their events"}, query=FollowQuery, limit=None, stream=True),
    Call("get", "/history", conversations.history, "Read messages",
         {200: "A page", 304: "Unchanged"}, "History", query=HistoryQuery, headers=("ETag",)),
    Call("post", "/history/clear", conversations.clear, "Erase messages",
         {200: "Erased", **WRITES}, "Done", body=Addressed),
    Call("post", "/feedback", conversations.feedback, "Rate an answer",
         {200: "Kept", **NONE, **WRITES}, "Done", body=FeedbackRequest),
    Call("get", "/conversations", conversations.listed, "List conversations", {200: "A page"},
         "Conversations", query=ConversationsQuery),
    Call("patch", "/conversations", conversations.rename, "Rename a conversation",
         {200: "Renamed", **GONE, **WRITES}, "Renamed", body=RenameRequest, query=Addressed),
    Call("delete", "/conversations", conversations.erase, "Erase a conversation",
         {200: "Erased", **GONE, **WRITES}, "Done", query=Addressed),
    Call("delete", "/users", conversations.erase_user, "Erase a user",
         {200: "Erased", **WRITES}, "Done", query=UserQuery),
    Call("get", "/usage", usage.usage, "Read tokens and turns by day and model",
         {200: "The usage"}, "Usage", query=UsageQuery),
    Call("get", "/providers", status.providers, "List providers", {200: "Who can answer"},
         "Providers"),
    Call("get", "/healthz", status.healthz, "Alive", {200: "Alive"}, "Health", limit=None),
    Call("get", "/readyz", status.readyz, "Ready",
         {200: "Ready", 503: "Draining, or the disk is away"}, "Health", limit=None,
         formed=(503,)),
    Call("get", "/metrics", status.metrics, "Counts, as Prometheus text", {200: "Counts"},
         "Counts", limit=None, media_type="text/plain"),
    Call("get", "/openapi.json", openapi, "This description", {200: "OpenAPI 3.1"}, "OpenAPI",
         limit=None),
    Call("get", "/docs", docs.docs, "The protocol, for people",
         {200: "A page", 304: "Unchanged"}, "Page", limit=None, headers=("ETag",),
         media_type="text/html"),
)  # fmt: skip


def routes() -> list[Route | Mount | WebSocketRoute]:
    """Return what the application serves: the table, the page and the socket."""
    by_path: dict[str, dict[str, Handler]] = {}
    for call in CALLS:
        by_path.setdefault(call.path, {})[call.method.upper()] = _counted(call)
    return [
        Route("/", page.index),
        *(Route(path, _of(by_method), methods=[*by_method]) for path, by_method in by_path.items()),
        WebSocketRoute("/ws", websocket.Sockets()),
        Mount("/static", page.assets),
    ]


def _counted(call: Call) -> Handler:
    """Return a call's handler, that counts each request first."""
    handler, limit = call.handler, call.limit
    if limit is None:
        return handler

    async def counted(request: Request) -> Response:
        await count(request, limit)
        return await handler(request)

    return counted


def _of(by_method: Mapping[str, Handler]) -> Handler:
    """Return one handler for all methods of a path: a 405 names them all."""
    if "GET" in by_method:
        by_method = {"HEAD": by_method["GET"], **by_method}
    if len({*by_method.values()}) == 1:
        return next(iter(by_method.values()))

    async def by_its_method(request: Request) -> Response:
        return await by_method[request.method](request)

    return by_its_method
