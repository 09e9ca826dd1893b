"""
Takes over the old application's files: `chat_history.json` and `feedback.json`.

A user's messages become turns of their conversation `default`. A user's message and the assistant's
after it are one turn. A message without an answer is a turn that was interrupted without text.
Of several assistant's messages in a row the later ones go on in the text of the first, after a
blank line. One that nobody asked for (a greeting), or that would make a text too long, answers
the message "…", and a blank message is "…" too: providers refuse empty ones. An answer without
text completes its turn without text; where nobody asked for it, it is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from chatstream.cli.aichatbot_files import MAX_TEXT_BYTES, Message, read_feedback, read_history
from chatstream.cli.left_out import LISTED, Report, refuse
from chatstream.errors import Conflict, StorageFailed, StorageFull
from chatstream.events import (
    Address,
    EventId,
    Json,
    envelope,
    event_id,
    new_turn_id,
    terminal_fields,
    time_of,
)
from chatstream.log.files import records
from chatstream.log.files.bulk_import import Staging
from chatstream.log.files.clock import IdClock
from chatstream.log.files.paths import Folder
from chatstream.log.files.recovery import survey
from chatstream.log.files.trouble import FULL

CONVERSATION = "default"
NO_MESSAGE = "…"


@dataclass(slots=True)
class Exchange:
    """What becomes one turn; without replies it was interrupted."""

    message: str
    at: str | None
    replies: list[str] = field(default_factory=list)
    replied_at: str | None = None
    size: int = 0


class Imported(NamedTuple):
    """What an import did."""

    users: int
    messages: int
    turns: int
    ratings: int
    empty: int
    left_out: int = 0

    def __str__(self) -> str:
        done = (
            f"imported {self.messages} messages of {self.users} users as {self.turns} turns "
            f"in their conversations {CONVERSATION!r}, and {self.ratings} ratings"
        )
        done += f"; {self.empty} users had no messages" if self.empty else ""
        return done + (f"; {self.left_out} entries were left out" if self.left_out else "")


def import_files(
    root: Path, history: Path, feedback: Path | None, skipped: Path | None = None
) -> Imported:
    """
    Import both files into a data folder, whole or not at all; returns once that is durable.

    Dying in the middle leaves all of it or nothing, from the next start on. Nobody is asked, and
    nothing that exists is changed, except that ratings are appended to those that a user has.
    With `skipped`, what cannot be taken is left out and written to that file (see `Report`), which
    is there before anything of the import is.

    Raises:
        InvalidRequest: A file is not of its form, or without `skipped` one of its entries; the
            message names each by its place.
        Conflict: A user has a conversation `default`, or one of the ratings, already; or the file
            `skipped` exists.
        DataFolderError: Another process owns the data folder, or it cannot be written.
        StorageFull, StorageFailed: The disk refused.
    """
    talks, flaws = read_history(history)
    ratings, bad_ratings = read_feedback(feedback) if feedback else ({}, [])
    flaws += bad_ratings
    report = Report(skipped, flaws) if skipped else None
    if report is None:
        refuse(flaws)
    folder = Folder(root)
    folder.own()
    try:
        # An earlier import that died when it was decided is finished by this, and then is there.
        findings = survey(folder)
        _refuse_what_is_there(folder, talks, ratings)
        done = _write(folder, talks, ratings, event_id(findings.floor), report)
        return done._replace(left_out=len(flaws))
    except OSError as error:
        kind = StorageFull if error.errno in FULL else StorageFailed
        raise kind(f"The import could not be written: {error.strerror}.") from error
    finally:
        folder.release()


# ---- deciding


def exchanges(messages: list[Message]) -> list[Exchange]:
    """Join messages to what become turns."""
    found: list[Exchange] = []
    for message in messages:
        if message.role == "user":
            text = message.text if message.text.strip() else NO_MESSAGE
            found.append(Exchange(text, message.at))
            continue
        if not found and not message.text:
            continue
        size = len(orjson.dumps(message.text)) + len(r"\n\n")
        if not found or (found[-1].replies and found[-1].size + size > MAX_TEXT_BYTES):
            found.append(Exchange(NO_MESSAGE, message.at))
        last = found[-1]
        last.replies.append(message.text)
        last.replied_at = message.at
        last.size += size
    return found


def _refuse_what_is_there(
    folder: Folder, talks: dict[str, list[Message]], ratings: dict[str, list[Json]]
) -> None:
    told = [
        f"The user {user_id!r} has a conversation {CONVERSATION!r} already; nothing was "
        "imported. It can be erased first, or the user be taken out of the file."
        for user_id, messages in talks.items()
        if messages and folder.conversation(Address(user_id, CONVERSATION)).exists()
    ]
    for user_id, new in ratings.items():
        known = {_rating_key(entry) for entry in _ratings_there(folder.feedback(user_id))}
        if known.intersection(map(_rating_key, new)):
            told.append(
                f"The user {user_id!r} has ratings of this file already; nothing was imported."
            )
    if len(told) > LISTED:
        told[LISTED:] = [f"And {len(told) - LISTED} more."]
    if told:
        raise Conflict("\n".join(told))


def _ratings_there(path: Path) -> Iterator[Json]:
    for line in _whole_lines(path).split(b"\n"):
        entry = records.parse(line)
        if entry is not None and entry["type"] == "feedback":
            yield entry


def _rating_key(entry: Json) -> tuple[object, ...]:
    return entry.get("timestamp"), entry.get("rating"), entry.get("comments")


def _whole_lines(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


# ---- writing


def _write(
    folder: Folder,
    talks: dict[str, list[Message]],
    ratings: dict[str, list[Json]],
    floor: EventId,
    report: Report | None,
) -> Imported:
    with ThreadPoolExecutor(1) as executor:
        clock = IdClock(folder.clock, executor, floor=floor)
        staging = Staging(folder, clock.next())
        turns = 0
        try:
            for user_id, messages in talks.items():
                if joined := exchanges(messages):
                    address = Address(user_id, CONVERSATION)
                    staging.write(folder.conversation(address), _log(address, joined, clock))
                    turns += len(joined)
            for user_id, new in ratings.items():
                path = folder.feedback(user_id)
                staging.write(path, _feedback(user_id, _whole_lines(path), new, clock))
            _commit(staging, report)
        finally:
            staging.discard()
            clock.close()
    return Imported(
        users=sum(1 for messages in talks.values() if messages),
        messages=sum(map(len, talks.values())),
        turns=turns,
        ratings=sum(map(len, ratings.values())),
        empty=sum(1 for messages in talks.values() if not messages),
    )


def _commit(staging: Staging, report: Report | None) -> None:
    try:
        if report:
            report.write()
        staging.commit()
    except BaseException as error:
        if staging.decided and isinstance(error, OSError):
            raise StorageFailed(
                "The import is written, but not in its place: the next start finishes it."
            ) from error
        if report and not staging.decided:
            report.withdraw()
        raise


def _log(address: Address, joined: list[Exchange], clock: IdClock) -> Iterator[bytes]:
    created = clock.next()
    now = time_of(created)
    yield records.header(address, created, now)
    for count, exchange in enumerate(joined, 1):
        started_id = clock.next()
        turn_id = new_turn_id()
        started = envelope("turn.started", started_id, address.conversation_id)
        started["turn_id"] = turn_id
        started["message"] = {"role": "user", "content": exchange.message}
        started["request"] = {}
        started["created_at"] = exchange.at or now
        yield records.line(started, {"turns": count, "running": [started_id], "body": ""})[1]
        kind = "turn.completed" if exchange.replies else "turn.interrupted"
        ended = envelope(kind, clock.next(), address.conversation_id)
        ended |= {"turn_id": turn_id, "started_id": started_id, **_end(exchange, now)}
        yield records.line(ended, {"turns": count, "running": []})[1]


def _end(exchange: Exchange, now: str) -> Json:
    text = "\n\n".join(filter(None, exchange.replies))
    ended_at = (exchange.replied_at if exchange.replies else exchange.at) or now
    event = {"text": text, **terminal_fields(ended_at=ended_at)}
    return event | ({"finish_reason": "stop", "cached": False} if exchange.replies else {})


def _feedback(user_id: str, there: bytes, new: list[Json], clock: IdClock) -> Iterator[bytes]:
    if not there:
        header = {"type": "feedback_log", "version": records.VERSION, "id": clock.next()}
        yield orjson.dumps(header | {"user_id": user_id}) + b"\n"
    yield there
    for rating in new:
        yield orjson.dumps({"type": "feedback", "id": clock.next(), **rating}) + b"\n"
