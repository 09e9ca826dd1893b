"""Turns: starting, reading, following and stopping them."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response

from chatstream.errors import (
    BadRequest,
    ChatstreamError,
    ProviderError,
    ProviderTimeout,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from chatstream.events import Address, EventId, Json, status_of
from chatstream.log.files.live_turn import LiveTurn
from chatstream.schemas import Addressed, ReplacingTurnRequest, TurnRequest
from chatstream.turns.runner import EndedTurn
from chatstream.turns.terminal import told
from chatstream.views.subscriber import Start, start_of_turn
from chatstream.web import problems, wire
from chatstream.web.requests import body, cursor, json, query, turn_body, turn_path
from chatstream.web.sse import CutStream, LogStream, opened
from chatstream.web.state import Services, services_of

Turn = LiveTurn | EndedTurn


class Failure(NamedTuple):
    """A turn's end without a whole answer, as the problem that a JSON client gets."""

    status: int
    code: str
    title: str
    detail: str


# What is the disk's, or mended by a shorter message, is never told as the provider's.
_NOT_THE_PROVIDERS: dict[str, type[ChatstreamError]] = {
    "context_too_long": BadRequest,
    "storage_full": StorageFull,
    "storage_failed": StorageFailed,
    "newer_version": StorageFailed,
}
_CLEARED = Failure(
    409, "cleared", "Conflict", "The history was cleared while the answer was written."
)
_ORPHAN = Failure(502, "orphan", "Interrupted", "The answer was stopped, since nobody read it.")
_INTERRUPTED = Failure(
    502, "interrupted", "Interrupted", "The server stopped before the answer's end."
)


async def chat(request: Request) -> Response:
    """`POST /chat`: start a turn, or come back to it; stream it, or wait for its end."""
    asked = await turn_body(request, TurnRequest)
    services = services_of(request)
    after = cursor(request)
    # Who has seen events already comes back, and starts nothing: not even what is gone.
    turn = await (services.runner.start(asked) if after is None else services.runner.known(asked))
    headers = {"Location": turn_path(request, asked.address, turn.turn_id)}
    if "text/event-stream" in ",".join(request.headers.getlist("accept")).lower():
        return await _stream(services, turn, after, headers)
    if isinstance(turn, LiveTurn):
        terminal = await _waited(request, turn) or _unwritten(turn)
    else:
        terminal = turn.terminal
    return _reply(request, asked.address, turn.turn_id, terminal, headers)


async def _waited(request: Request, turn: LiveTurn) -> Json | None:
    """Wait for a turn's end as long as the client does: one that has left is no reader."""
    waiting = asyncio.ensure_future(services_of(request).runner.wait(turn))
    leaving = asyncio.ensure_future(request.receive())  # the body is read: only the leaving comes
    try:
        await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        leaving.cancel()


def _unwritten(turn: LiveTurn) -> Json:
    """Return what stands for the end of a turn that the disk has not taken."""
    error = turn.refused or StorageFailed("The turn's end could not be written to disk.")
    text = orjson.loads(b'"%b"' % turn.text())
    return {"type": "turn.failed", "error": told(error), "text": text}


def _reply(
    request: Request,
    address: Address,
    turn_id: str,
    terminal: Json,
    headers: dict[str, str],
) -> Response:
    """Answer a JSON client: the reply, or a problem that carries the turn and what had come."""
    kind = status_of(terminal["type"])
    if kind == "completed" or (kind == "cancelled" and terminal.get("reason") == "user"):
        shown = ("provider", "model", "usage")
        return json(
            {
                "reply": terminal["text"],
                "status": kind,
                "turn_id": turn_id,
                "conversation_id": address.conversation_id,
                "finish_reason": terminal.get("finish_reason"),
                "cached": terminal.get("cached", False),
            }
            | {name: terminal.get(name) for name in shown},
            headers=headers,
        )
    return problems.problem(
        request,
        *_failure(terminal),
        headers=headers | {"x-should-retry": "false"},
        more={
            "turn_id": turn_id,
            "conversation_id": address.conversation_id,
            "text": terminal.get("text", ""),
        },
    )


def _failure(terminal: Json) -> Failure:
    if terminal["type"] == "turn.failed":
        error = terminal["error"]
        slow = error["code"].endswith("_timeout")
        usual = ProviderTimeout if slow else ProviderError
        kind = _NOT_THE_PROVIDERS.get(error["code"], usual)
        return Failure(kind.status, error["code"], kind.title, error["message"])
    if terminal["type"] == "turn.cancelled":
        return _CLEARED if terminal.get("reason") == "cleared" else _ORPHAN
    return _INTERRUPTED


async def start(request: Request) -> Response:
    """`POST /turns`: start a turn, to be read at its `events`."""
    asked = await turn_body(request, ReplacingTurnRequest)
    runner = services_of(request).runner
    # Who has seen events already comes back, and starts nothing.
    turn = await (runner.start(asked) if cursor(request) is None else runner.known(asked))
    headers = {"Location": turn_path(request, asked.address, turn.turn_id)}
    return json(started(request, asked.address, turn.turn_id), 202, headers)


def started(request: Request, address: Address, turn_id: str) -> Json:
    """Return what tells of a turn that was started."""
    return {
        "turn_id": turn_id,
        "conversation_id": address.conversation_id,
        "events": turn_path(request, address, turn_id, "/events"),
    }


async def get(request: Request) -> Response:
    """`GET /turns/{turn_id}`: the turn now."""
    asked = query(request, Addressed)
    runner = services_of(request).runner
    turn = await runner.get(asked.address, request.path_params["turn_id"])
    headers = {"Cache-Control": "private, no-cache"}
    return json(runner.snapshot(turn), headers=headers)


async def cancel(request: Request) -> Response:
    """`POST /turns/{turn_id}/cancel`: stop it; 200 also where it had ended."""
    asked = await body(request, Addressed)
    runner = services_of(request).runner
    turn = await runner.cancel(asked.address, request.path_params["turn_id"])
    return json(runner.snapshot(turn))


async def events(request: Request) -> Response:
    """`GET /turns/{turn_id}/events`: its events after a cursor; 204 where it has them all."""
    asked = query(request, Addressed)
    services = services_of(request)
    after = cursor(request)
    try:
        turn = await services.runner.get(asked.address, request.path_params["turn_id"])
        return await _stream(services, turn, after)
    except (StorageFailed, StorageFull, Unavailable):
        return CutStream(services)


async def _stream(
    services: Services, turn: Turn, after: str | None, headers: dict[str, str] | None = None
) -> Response:
    """Stream a turn after a cursor; `headers` are those of a start's answer, which is no GET."""
    # Its own: to look it up again would be to wait for an erasure that takes the turn away.
    conversation = turn.conversation
    address = conversation.address
    started_id = turn.started_id if isinstance(turn, LiveTurn) else EventId(turn.started["id"])
    where = start_of_turn(conversation, started_id, after, services.log.last_id)
    if isinstance(turn, LiveTurn):
        if not turn.done.done():
            return LogStream(services, conversation, where, turn, headers)
        try:
            again = await services.runner.get(address, turn.turn_id)
        except ChatstreamError:
            return _gone(services, address, turn, where, headers)
        if isinstance(again, LiveTurn):
            return LogStream(services, conversation, where, again, headers)
        turn = again
    if headers is None and after and not where.reset and where.after >= turn.terminal["id"]:
        return Response(status_code=204)  # a browser's EventSource, and no other client, knows it
    pair = [(EventId(event["id"]), orjson.dumps(event)) for event in (turn.started, turn.terminal)]
    return _whole(services, address, where, pair, headers)


def _gone(
    services: Services,
    address: Address,
    turn: LiveTurn,
    where: Start,
    headers: dict[str, str] | None,
) -> Response:
    """Tell the end of a turn that was cleared before its stream had begun."""
    end = turn.done.result()
    if end is None:
        raise StorageFailed("The turn's end could not be written to disk.")
    return _whole(services, address, where, [(end.id, end.json)], headers)


def _whole(
    services: Services,
    address: Address,
    start: Start,
    events: list[tuple[EventId, bytes]],
    headers: dict[str, str] | None,
) -> Response:
    """Stream what of a turn's last events comes after the cursor."""
    from chatstream.web.finite import FiniteStream  # see there why it is imported so late

    frames = opened(address.conversation_id, start)
    frames += wire.sse_all(event for event in events if event[0] > start.after)
    return FiniteStream(services.metrics, frames, headers)
