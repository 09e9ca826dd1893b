"""Turns done again: regenerating, continuing, and the versions that came of it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from chatstream.log.files.live_turn import LiveTurn
from chatstream.schemas import Addressed
from chatstream.views.versions import AgainBody, AgainKind, again, versions
from chatstream.web.requests import json, keyed_body, query, turn_path
from chatstream.web.state import services_of
from chatstream.web.turns import started


async def regenerate(request: Request) -> Response:
    """`POST /turns/{turn_id}/regenerate`: the same message, answered anew."""
    return await _again(request, "regenerate")


async def go_on(request: Request) -> Response:
    """`POST /turns/{turn_id}/continue`: the answer goes on from where it stopped."""
    return await _again(request, "continue")


async def _again(request: Request, kind: AgainKind) -> Response:
    runner = services_of(request).runner
    await runner.enter()
    asked = await keyed_body(request, AgainBody)
    turn = await runner.get(asked.address, request.path_params["turn_id"])
    if isinstance(turn, LiveTurn):
        wanted = again(kind, asked, {}, None)
    else:
        wanted = again(kind, asked, turn.started, turn.terminal)
    new = await runner.start(wanted)
    headers = {"Location": turn_path(request, asked.address, new.turn_id)}
    return json(started(request, asked.address, new.turn_id), 202, headers)


async def listed(request: Request) -> Response:
    """`GET /turns/{turn_id}/versions`: what it replaced, and what replaced it."""
    asked = query(request, Addressed)
    services = services_of(request)
    turn_id = request.path_params["turn_id"]
    await services.runner.get(asked.address, turn_id)
    conversation = await services.log.conversation(asked.address)
    found = await versions(conversation, turn_id)
    return json({"turn_id": turn_id, "versions": found})
