"""
What callers may send: one model per body, strict, with every limit beside its field.

Past this module nothing sees a value that was not checked. The models are also what
`/openapi.json` is made of.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chatstream import patterns
from chatstream.errors import BadRequest, InvalidRequest
from chatstream.events import Address
from chatstream.settings import MAX_SYSTEM_CHARS

MAX_ID_CHARS = 256
MAX_COMMENT_CHARS = 10_000
MAX_TITLE_CHARS = 200
MAX_IDEMPOTENCY_KEY_CHARS = 255
MAX_FOLLOWED = 200
"""Conversations in one `GET /events`: with short ids they fill the 8 KB that proxies allow it."""
TURN_ID = r"^[A-Za-z0-9_-]{8,64}$"
_TURN_ID = re.compile(TURN_ID.replace("$", r"\Z"))
_MARKUP = re.compile(r"<script|<iframe|</|javascript:", re.IGNORECASE)

M = TypeVar("M", bound=BaseModel)


def _check_id(value: str) -> str:
    if value in (".", ".."):
        raise ValueError("must not be '.' or '..'")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("must not contain control characters")
    return value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""JSON has one kind of number: some clients write 3 as 3.0."""


def _check_title(value: str) -> str:
    words = " ".join(value.split())
    if not words or any(unicodedata.category(character) == "Cc" for character in words):
        raise ValueError("must contain something, and no control characters")
    return words


Id = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_CHARS, json_schema_extra={"pattern": patterns.ID}),
    AfterValidator(_check_id),
]
TurnIdField = Annotated[str, Field(pattern=TURN_ID)]


class Body(BaseModel):
    """A JSON object. Unknown fields are ignored, and null is the same as absent."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", json_schema_extra=patterns.say_null
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


class Addressed(Body):
    """A body that says whose conversation it is about."""

    user_id: Id = "default"
    conversation_id: Id = "default"

    @property
    def address(self) -> Address:
        """The conversation."""
        return Address(self.user_id, self.conversation_id)


class TurnRequest(Addressed):
    """The body that starts a turn."""

    message: str = Field(
        description="what the user says; at most MAX_MESSAGE_CHARS code points",
        json_schema_extra={"minLength": 1, "pattern": patterns.MESSAGE},
    )
    turn_id: TurnIdField | None = Field(
        None, description="the client's own; the header Idempotency-Key is the same thing"
    )
    provider: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    system: Annotated[str, Field(max_length=MAX_SYSTEM_CHARS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None

    def fingerprint(self) -> str:
        """Return the same for bodies that are the same: the fields as given, without the ids."""
        given = self.model_dump(
            exclude={"user_id", "conversation_id", "turn_id"}, exclude_unset=True
        )
        data = orjson.dumps(given, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(data).hexdigest()[:32]


class ReplacingTurnRequest(TurnRequest):
    """The same, or an edited message: `replaces` names the turn that it supersedes."""

    replaces: TurnIdField | None = None


class FeedbackRequest(Addressed):
    """What a user thinks of an answer, or of the whole."""

    rating: Annotated[int, Field(ge=1, le=5), WHOLE]
    comments: Annotated[str, Field(max_length=MAX_COMMENT_CHARS)] | None = None
    turn_id: TurnIdField | None = None


class RenameRequest(Body):
    """A conversation's new title."""

    title: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_TITLE_CHARS,
            json_schema_extra={"pattern": patterns.TITLE},
        ),
        AfterValidator(_check_title),
    ]


class AddressQuery(Addressed):
    """The query of what is about a conversation."""


class FollowQuery(Body):
    """
    The query of a stream of several conversations; whether each is named well is not checked.

    `after` has as many values, in the same order, an empty one where there is no cursor; or none.
    """

    user_id: Id = "default"
    conversation_id: Annotated[list[str], Field(max_length=MAX_FOLLOWED)] = Field(
        ["default"], description="one, or several that share the answer, each of them once"
    )
    after: list[str] = Field([], description="for each of them, in their order; or for none")

    @field_validator("conversation_id")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("must name each conversation once")
        return names

    @field_validator("after")
    @classmethod
    def _one_for_each(cls, cursors: list[str], info: ValidationInfo) -> list[str]:
        names = info.data.get("conversation_id")
        if names is not None and len(cursors) not in (0, len(names)):
            raise ValueError(f"must be given {len(names)} times, as conversation_id, or never")
        return cursors


class HistoryQuery(Addressed):
    """The query of a page of history."""

    limit: Annotated[int, Field(ge=1, le=1000), WHOLE] = 1000
    before: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="what an earlier page gave",
        json_schema_extra={"pattern": patterns.PLACE},
    )


class UserQuery(Body):
    """The query of what is about a user."""

    user_id: Id = "default"


class ConversationsQuery(UserQuery):
    """The query of a list of conversations."""

    limit: Annotated[int, Field(ge=1, le=1000), WHOLE] = 100
    before: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="what an earlier page gave",
        json_schema_extra={"pattern": patterns.EVENT_ID},
    )


def parse(model: type[M], data: object, *, strict: bool = True) -> M:
    """
    Check a body (`strict`), or a query, whose values are all text.

    Raises:
        InvalidRequest: Names each wrong field with its limit.
    """
    if not isinstance(data, dict):
        raise InvalidRequest(("body", f"must be a JSON object, not {_kind(data)}"))
    try:
        return model.model_validate(data, strict=strict)
    except ValidationError as error:
        raise InvalidRequest(*map(_problem, error.errors(include_url=False))) from None


def _problem(error: Any) -> tuple[str, str]:
    field = ".".join(str(part) for part in error["loc"]) or "body"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    if error["type"] == "missing":
        return field, "is required"
    if isinstance(given, str):
        shown = given if len(given) <= 40 else given[:39] + "…"
        message += f" (got {len(given)} characters: {shown!r})"
    elif isinstance(given, list):
        message += f" (got {len(given)})"
    elif isinstance(given, int | float):
        message += f" (got {given})"
    else:
        message += f" (got {_kind(given)})"
    return field, message


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else kinds.get(type(value), "a number")


def check_message(message: str, *, most: int, reject_markup: bool) -> None:
    """
    Check a message's content.

    Raises:
        BadRequest: It is empty, longer than `most` code points, or holds markup, if that counts.
    """
    if not message.strip():
        raise BadRequest("Message cannot be empty.", code="empty_message")
    if len(message) > most:
        raise BadRequest(
            f"Message too long. Please keep it under {most} characters.", code="message_too_long"
        )
    if reject_markup and _MARKUP.search(message):
        raise BadRequest("Message contains potentially unsafe content.", code="unsafe_message")


def turn_id_of_key(key: str) -> str:
    """
    Return the turn id that an `Idempotency-Key` is: itself, or a hash where its form is another.

    Raises:
        InvalidRequest: It is empty, too long or not printable.
    """
    if _TURN_ID.match(key):
        return key
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARS or not key.isprintable():
        raise InvalidRequest(
            (
                "Idempotency-Key",
                f"must be 1 to {MAX_IDEMPOTENCY_KEY_CHARS} printable characters, got {len(key)}",
            )
        )
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:32]


def is_turn_id(text: str) -> bool:
    """Return whether a text has the form of a turn's id."""
    return _TURN_ID.match(text) is not None
