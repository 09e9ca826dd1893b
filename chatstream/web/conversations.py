"""Conversations: reading, listing, renaming and erasing them; and feedback."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from chatstream.errors import InvalidRequest, NotFound
from chatstream.events import Json, is_event_id
from chatstream.schemas import (
    Addressed,
    ConversationsQuery,
    FeedbackRequest,
    HistoryQuery,
    RenameRequest,
    UserQuery,
)
from chatstream.views.history import page, read_place
from chatstream.web.requests import PRIVATE, body, json, query
from chatstream.web.state import Services, services_of

SUCCESS = {"status": "success"}


async def history(request: Request) -> Response:
    """`GET /history`: a page of messages, oldest first."""
    asked = query(request, HistoryQuery)
    services = services_of(request)
    read_place(asked.before)
    conversation = await services.log.conversation(asked.address)
    await conversation.settled()
    ratings = await services.log.feedback.ratings(asked.user_id)
    seen = f"{conversation.last_id} {conversation.created} {conversation.epoch} {ratings.last}"
    version = hashlib.sha256(f"{seen} {asked.limit} {asked.before}".encode()).hexdigest()[:24]
    headers = {"ETag": f'W/"{version}"', **PRIVATE}
    known = request.headers.get("if-none-match", "")
    if version in known or known.strip() == "*":
        return Response(status_code=304, headers=headers)
    return json(await history_page(services, asked), headers=headers)


async def history_page(services: Services, asked: HistoryQuery) -> Json:
    """Return a page of history as both transports send it."""
    conversation = await services.log.conversation(asked.address)
    ratings = await services.log.feedback.ratings(asked.user_id)
    cursor = conversation.resume_from()
    found = await page(conversation, ratings, asked.limit, read_place(asked.before))
    return {
        "history": found.messages,
        "has_more": found.before is not None,
        "before": found.before,
        "cursor": cursor,
    }


async def clear(request: Request) -> Response:
    """`POST /history/clear`: erase a conversation's messages for good."""
    asked = await body(request, Addressed)
    log = services_of(request).log
    await log.clear(await log.conversation(asked.address))
    return json(SUCCESS)


async def feedback(request: Request) -> Response:
    """`POST /feedback`: keep what a user thinks of an answer, or of the whole."""
    asked = await body(request, FeedbackRequest)
    await keep_feedback(services_of(request), asked)
    return json(SUCCESS)


async def keep_feedback(services: Services, asked: FeedbackRequest) -> None:
    """
    Keep feedback, durably.

    Raises:
        NotFound: It names a turn that the user does not have.
    """
    fields = asked.model_dump(exclude={"user_id"}, exclude_none=True)
    if asked.turn_id is not None:
        await services.runner.get(asked.address, asked.turn_id)
    elif "conversation_id" not in asked.model_fields_set:
        del fields["conversation_id"]
    await services.log.feedback.add(asked.user_id, fields)


async def listed(request: Request) -> Response:
    """`GET /conversations`: a user's conversations, newest first."""
    asked = query(request, ConversationsQuery)
    if asked.before is not None and not is_event_id(asked.before):
        raise InvalidRequest(("before", "must be what an earlier page gave"))
    entries = await services_of(request).log.list(asked.user_id)
    if asked.before is not None:
        entries = [entry for entry in entries if entry.last_id < asked.before]
    shown = entries[: asked.limit]
    more = len(entries) > len(shown)
    return json(
        {
            "conversations": [
                {
                    "conversation_id": entry.conversation_id,
                    "title": entry.title,
                    "updated_at": entry.updated_at,
                    "turns": entry.turns,
                }
                for entry in shown
            ],
            "has_more": more,
            "before": shown[-1].last_id if more else None,
        },
        headers=PRIVATE,
    )


async def rename(request: Request) -> Response:
    """`PATCH /conversations`: give one a title."""
    asked = query(request, Addressed)
    named = await body(request, RenameRequest)
    log = services_of(request).log
    conversation = await log.conversation(asked.address)
    await conversation.settled()
    if conversation.created is None:
        raise NotFound("There is no such conversation.")
    log.admit()
    await conversation.rename(named.title)
    return json({**SUCCESS, "conversation_id": asked.conversation_id, "title": named.title})


async def erase(request: Request) -> Response:
    """`DELETE /conversations`: erase one with its file."""
    asked = query(request, Addressed)
    log = services_of(request).log
    if not await log.erase(await log.conversation(asked.address)):
        raise NotFound("There is no such conversation.")
    return json(SUCCESS)


async def erase_user(request: Request) -> Response:
    """`DELETE /users`: erase every trace of a user."""
    asked = query(request, UserQuery)
    await services_of(request).log.erase_user(asked.user_id)
    return json(SUCCESS)
