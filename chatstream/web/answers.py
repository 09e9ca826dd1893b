"""What is answered, as JSON Schemas for the description: the fields that clients may rely on."""

from __future__ import annotations

from typing import Final

from chatstream.events import Json

STRING: Final[Json] = {"type": "string"}
NUMBER: Final[Json] = {"type": "integer", "minimum": 0}
MAYBE: Final[Json] = {"type": ["string", "null"]}
EVENT_ID: Final[Json] = {"type": "string", "pattern": "^(0|[0-9]{13}-[0-9]{4})$"}
TIME: Final[Json] = {"type": "string", "format": "date-time"}
STATUS: Final[Json] = {"enum": ["running", "completed", "failed", "cancelled", "interrupted"]}
USAGE: Final[Json] = {
    "type": ["object", "null"],
    "properties": {"input_tokens": NUMBER, "output_tokens": NUMBER},
}


def _object(optional: Json | None = None, /, **required: Json) -> Json:
    """Return the schema of an object that has at least these fields."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


_DONE = {"type": "string", "const": "success"}
_PAGE = {"has_more": {"type": "boolean"}, "before": MAYBE}
_TOKENS = {
    name: NUMBER
    for name in ("turns", "unknown", "cached", "input_tokens", "output_tokens")
}  # fmt: skip
_COST: Json = {"cost": {"type": ["number", "null"]}}

SCHEMAS: Final[Json] = {
    "Problem": {
        **_object(
            {
                "turn_id": STRING,
                "errors": _list(_object(field=STRING, message=STRING)),
            },
            type=STRING,
            title=STRING,
            status={"type": "integer"},
            detail=STRING,
            code=STRING,
            request_id=STRING,
        ),
        "description": "RFC 9457",
    },
    "Reply": _object(
        reply=STRING,
        status={"enum": ["completed", "cancelled"]},
        turn_id=STRING,
        conversation_id=STRING,
        provider=MAYBE,
        model=MAYBE,
        finish_reason=MAYBE,
        usage=USAGE,
        cached={"type": "boolean"},
    ),
    "Started": _object(turn_id=STRING, conversation_id=STRING, events=STRING),
    "Turn": _object(
        {"reasoning": STRING, "provider": MAYBE, "model": MAYBE, "usage": USAGE},
        turn_id=STRING,
        status=STATUS,
        last_id=EVENT_ID,
    ),
    "Versions": _object(
        turn_id=STRING,
        versions=_list(
            _object(turn_id=STRING, kind=MAYBE, status=STATUS, created_at=TIME),
        ),
    ),
    "History": _object(
        history=_list(
            _object(
                role={"enum": ["user", "assistant"]},
                message=STRING,
                turn_id=STRING,
                id=EVENT_ID,
                timestamp={"type": ["string", "null"], "format": "date-time"},
                status=STATUS,
                provider=MAYBE,
                model=MAYBE,
                usage=USAGE,
                finish_reason=MAYBE,
                feedback={"type": ["object", "null"]},
            )
        ),
        cursor=EVENT_ID,
        **_PAGE,
    ),
    "Conversations": _object(
        conversations=_list(
            _object(conversation_id=STRING, title=MAYBE, updated_at=TIME, turns=NUMBER)
        ),
        **_PAGE,
    ),
    "Done": _object(status=_DONE),
    "Renamed": _object(status=_DONE, conversation_id=STRING, title=STRING),
    "Usage": _object(
        {"currency": STRING},
        user_id=STRING,
        usage=_list(_object(_COST, day=STRING, provider=MAYBE, model=MAYBE, **_TOKENS)),
        total=_object({**_COST, "unpriced": NUMBER}, **_TOKENS),
        **{"from": STRING, "to": STRING},
    ),
    "Providers": _object(
        providers=_list(
            _object(
                name=STRING,
                models=_list(STRING),
                default={"type": "boolean"},
                state={"enum": ["closed", "open", "half-open"]},
            )
        )
    ),
    "Health": _object(status=STRING),
    "Counts": STRING,
    "Page": STRING,
    "OpenAPI": _object(openapi=STRING, info={"type": "object"}, paths={"type": "object"}),
}
