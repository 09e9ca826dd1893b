"""
The old application's files, `chat_history.json` and `feedback.json`: what they say, or where not.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import orjson

from chatstream.errors import InvalidRequest
from chatstream.events import timestamp
from chatstream.log.records import Json
from chatstream.validation import FeedbackRequest, UserQuery, parse

MAX_TEXT_BYTES = 524_288
"""As JSON: what the body of a message may be by default. Every transport can carry it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message(NamedTuple):
    """One entry of the old history. `at` is when, where it says so."""

    role: str
    text: str
    at: str | None


def read_history(path: Path) -> dict[str, list[Message]]:
    """
    Return every user's messages.

    Raises:
        InvalidRequest: The file is of another form.
    """
    data = _load(path)
    if not isinstance(data, dict):
        raise InvalidRequest((path.name, f"must be an object of users, got {_shown(data)}"))
    found = {}
    for user_id, messages in data.items():
        parse(UserQuery, {"user_id": user_id})
        if not isinstance(messages, list):
            raise InvalidRequest((repr(user_id), f"must be an array, got {_shown(messages)}"))
        found[user_id] = [_message(f"{user_id!r}[{i}]", m) for i, m in enumerate(messages)]
    return found


def _message(where: str, entry: object) -> Message:
    if not isinstance(entry, dict):
        raise InvalidRequest((where, f"must be an object, got {_shown(entry)}"))
    role, text, at = entry.get("role"), entry.get("message"), entry.get("timestamp")
    if role not in ("user", "assistant"):
        raise InvalidRequest((f"{where}.role", f"must be user or assistant, got {_shown(role)}"))
    if not isinstance(text, str):
        raise InvalidRequest((f"{where}.message", f"must be a string, got {_shown(text)}"))
    if (size := len(orjson.dumps(text))) > MAX_TEXT_BYTES:
        told = f"must be at most {MAX_TEXT_BYTES} bytes of JSON, got {size}"
        raise InvalidRequest((f"{where}.message", told))
    return Message(role, text, None if at is None else _moment(f"{where}.timestamp", at))


def read_feedback(path: Path) -> dict[str, list[Json]]:
    """
    Return every user's ratings as their file has them, without ids.

    Raises:
        InvalidRequest: The file is of another form.
    """
    data = _load(path)
    if not isinstance(data, list):
        raise InvalidRequest((path.name, f"must be an array of ratings, got {_shown(data)}"))
    found: dict[str, list[Json]] = {}
    for index, entry in enumerate(data):
        where = f"{path.name}[{index}]"
        if not isinstance(entry, dict):
            raise InvalidRequest((where, f"must be an object, got {_shown(entry)}"))
        given = {name: entry.get(name) for name in ("user_id", "rating", "comments")}
        try:
            asked = parse(FeedbackRequest, given)
        except InvalidRequest as error:
            told = [(f"{where}.{e['field']}", e["message"]) for e in error.errors]
            raise InvalidRequest(*told) from None
        rating: Json = {"timestamp": _moment(f"{where}.timestamp", entry.get("timestamp"))}
        rating |= asked.model_dump(include={"rating", "comments"}, exclude_none=True)
        found.setdefault(asked.user_id, []).append(rating)
    return found


def _load(path: Path) -> object:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InvalidRequest((path.name, f"is not JSON: {error}")) from None
    except OSError as error:
        raise InvalidRequest((path.name, f"cannot be read: {error.strerror}")) from None


def _moment(where: str, given: object) -> str:
    try:
        moment = datetime.fromisoformat(given)  # type: ignore[arg-type]  # refused by the except
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        milliseconds = (aware - _EPOCH) // timedelta(milliseconds=1)
        if milliseconds < 0:
            raise ValueError("before 1970")
        return timestamp(milliseconds)
    except (TypeError, ValueError, OverflowError):
        told = f"must be an ISO 8601 time, as 2024-05-01T12:00:00, got {_shown(given)}"
        raise InvalidRequest((where, told)) from None


def _shown(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else text[:39] + "…"
