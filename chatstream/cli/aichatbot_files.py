"""
The old application's files, `chat_history.json` and `feedback.json`: what they say, or where not.

An entry of another form is a `Flaw`, and the others are read all the same; only a file that is
none of its kind at all is refused. Half a surrogate pair in a text becomes U+FFFD.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from chatstream.errors import InvalidRequest
from chatstream.events import Json, timestamp
from chatstream.schemas import FeedbackRequest, UserQuery, parse

MAX_TEXT_BYTES = 524_288
"""As JSON: what the body of a message may be by default. Every transport can carry it."""

MAX_DIGITS = 4000
"""Python reads whole numbers up to 4,300 digits."""

Reason = tuple[str, str]
"""A field, named by its place, and what it must be beside what it is."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_NO_QUESTION = ("assistant", "system", "developer", "tool", "function")
"""Roles whose entries ask nothing, so that no reply goes with them."""


class Message(NamedTuple):
    """One entry of the old history. `at` is when, where it says so; a reply may have no text."""

    role: str
    text: str
    at: str | None


@dataclass(frozen=True, slots=True)
class Flaw:
    """
    An entry that cannot be taken.

    Attributes:
        user_id: Whose it is, as far as the file says.
        index: Its place in the user's array, or in the file's; None is the user's whole array.
        reasons: All that is wrong with it.
        entry: What the file has there.
        is_wrong: False where nothing is wrong but the message that it answers.
    """

    file: str
    user_id: object
    index: int | None
    reasons: list[Reason]
    entry: object
    is_wrong: bool = True


def read_history(path: Path) -> tuple[dict[str, list[Message]], list[Flaw]]:
    """
    Return every user's messages, and what cannot be taken.

    Raises:
        InvalidRequest: The file is of another form.
    """
    data = _load(path)
    if not isinstance(data, dict):
        raise InvalidRequest((path.name, f"must be an object of users, got {_shown(data)}"))
    found: dict[str, list[Message]] = {}
    flaws: list[Flaw] = []
    for name, entries in data.items():
        user_id = _whole(name)
        if reasons := _of_user(path.name, user_id, entries):
            flaws.append(Flaw(path.name, user_id, None, reasons, entries))
            continue
        messages, wrong = _messages(path.name, user_id, entries)
        flaws += wrong
        if messages or not entries:
            found.setdefault(user_id, []).extend(messages)
    return found, flaws


def _of_user(file: str, user_id: str, entries: object) -> list[Reason]:
    reasons = []
    try:
        parse(UserQuery, {"user_id": user_id})
    except InvalidRequest as error:
        where = f"{file}[{_shown(user_id)}]"
        reasons += [(f"{where}.{e['field']}", e["message"]) for e in error.errors]
    if not isinstance(entries, list):
        reasons.append((repr(user_id), f"must be an array, got {_shown(entries)}"))
    return reasons


def _messages(file: str, user_id: str, entries: list[object]) -> tuple[list[Message], list[Flaw]]:
    found: list[Message] = []
    flaws: list[Flaw] = []
    missing: str | None = None
    for index, entry in enumerate(entries):
        where = f"{user_id!r}[{index}]"
        reasons: list[Reason] = []
        message = _message(where, entry, reasons)
        if message is None:
            flaws.append(Flaw(file, user_id, index, reasons, entry))
            if _may_ask(entry):
                missing = where
        elif message.role == "assistant" and missing:
            told = [(where, f"answers {missing}, which is left out")]
            flaws.append(Flaw(file, user_id, index, told, entry, is_wrong=False))
        else:
            missing = None
            found.append(message)
    return found, flaws


def _may_ask(entry: object) -> bool:
    return not isinstance(entry, dict) or entry.get("role") not in _NO_QUESTION


def _message(where: str, entry: object, reasons: list[Reason]) -> Message | None:
    if not isinstance(entry, dict):
        reasons.append((where, f"must be an object, got {_shown(entry)}"))
        return None
    role = entry.get("role")
    if role not in ("user", "assistant"):
        reasons.append((f"{where}.role", f"must be user or assistant, got {_shown(role)}"))
    text = _text(f"{where}.message", entry, reasons)
    at = entry.get("timestamp")
    moment = None if at is None else _moment(f"{where}.timestamp", at, reasons)
    return None if reasons else Message(str(role), text, moment)


def _text(where: str, entry: Json, reasons: list[Reason]) -> str:
    text = entry.get("message")
    if text is None and "message" in entry and entry.get("role") == "assistant":
        return ""
    if not isinstance(text, str):
        reasons.append((where, f"must be a string, got {_shown(text)}"))
        return ""
    text = _whole(text)
    if (size := len(orjson.dumps(text))) > MAX_TEXT_BYTES:
        reasons.append((where, f"must be at most {MAX_TEXT_BYTES} bytes of JSON, got {size}"))
    return text


def read_feedback(path: Path) -> tuple[dict[str, list[Json]], list[Flaw]]:
    """
    Return every user's ratings as their file has them, without ids, and what cannot be taken.

    Raises:
        InvalidRequest: The file is of another form.
    """
    data = _load(path)
    if not isinstance(data, list):
        raise InvalidRequest((path.name, f"must be an array of ratings, got {_shown(data)}"))
    found: dict[str, list[Json]] = {}
    flaws: list[Flaw] = []
    for index, entry in enumerate(data):
        reasons: list[Reason] = []
        rating = _rating(f"{path.name}[{index}]", entry, reasons)
        if reasons:
            user_id = entry.get("user_id") if isinstance(entry, dict) else None
            flaws.append(Flaw(path.name, user_id, index, reasons, entry))
        else:
            found.setdefault(rating.pop("user_id"), []).append(rating)
    return found, flaws


def _rating(where: str, entry: object, reasons: list[Reason]) -> Json:
    if not isinstance(entry, dict):
        reasons.append((where, f"must be an object, got {_shown(entry)}"))
        return {}
    given = {name: entry.get(name) for name in ("user_id", "rating", "comments")}
    given = {n: _whole(value) if isinstance(value, str) else value for n, value in given.items()}
    rating: Json = {}
    try:
        asked = parse(FeedbackRequest, given)
        rating = asked.model_dump(include={"user_id", "rating", "comments"}, exclude_none=True)
    except InvalidRequest as error:
        reasons += [(f"{where}.{e['field']}", e["message"]) for e in error.errors]
    return {"timestamp": _moment(f"{where}.timestamp", entry.get("timestamp"), reasons)} | rating


# ---- reading


def _load(path: Path) -> object:
    try:
        data = path.read_bytes()
        # Not orjson: half a pair, or a NaN in a field that nobody reads, fails no file.
        text = data.decode(json.detect_encoding(data))
        return json.loads(text, object_pairs_hook=_joined, parse_int=_number)
    except UnicodeDecodeError as error:
        told = f"is not {error.encoding.upper()} at byte {error.start}: save it as UTF-8"
        raise InvalidRequest((path.name, told)) from None
    except _TwiceError as error:
        raise InvalidRequest((path.name, str(error))) from None
    except RecursionError:
        raise InvalidRequest((path.name, "is not JSON that can be read: nested too deep")) from None
    except ValueError as error:
        raise InvalidRequest((path.name, f"is not JSON: {error}")) from None
    except OSError as error:
        raise InvalidRequest((path.name, f"cannot be read: {error.strerror}")) from None


class _TwiceError(Exception):
    """A key has two values, of which only one could be kept."""


def _joined(pairs: list[tuple[str, Any]]) -> Json:
    """Return an object; where files were merged by hand, a user may have two arrays in it."""
    found: Json = {}
    for name, value in pairs:
        before = found.get(name, value)
        if name not in found or before == value:
            found[name] = value
        elif isinstance(before, list) and isinstance(value, list):
            found[name] = before + value
        else:
            raise _TwiceError(f"has the key {_shown(name)} twice in one object")
    return found


def _number(text: str) -> int | float:
    """Return a whole number; one that Python refuses to read is in no field that is taken."""
    return int(text) if len(text) <= MAX_DIGITS else float(text)


def _whole(text: str) -> str:
    return _HALF_A_PAIR.sub("\ufffd", text)


def _moment(where: str, given: object, reasons: list[Reason]) -> str:
    try:
        moment = datetime.fromisoformat(given)  # type: ignore[arg-type]  # refused by the except
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        milliseconds = (aware - _EPOCH) // timedelta(milliseconds=1)
        if milliseconds < 0:
            raise ValueError("before 1970")
        return timestamp(milliseconds)
    except (TypeError, ValueError, OverflowError):
        told = f"must be an ISO 8601 time, as 2024-05-01T12:00:00, got {_shown(given)}"
        reasons.append((where, told))
        return ""


def _shown(value: object) -> str:
    text = _whole(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return text if len(text) <= 40 else text[:39] + "…"
