"""What is in the data folder after a run, against all that anybody was told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import orjson

from tests.chaos.ledger import TERMINAL, Json, Ledger, Turn
from tests.chaos.pollers import Historian
from tests.chaos.view import Shown, View
from tests.chaos.world import Room


@dataclass
class Log:
    """What a conversation's file says: who is in view, how each turn ended, the title."""

    starts: dict[str, Json] = field(default_factory=dict)
    ends: dict[str, Json] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    title: str | None = None


Logs = dict[tuple[str, str], Log]


def find_cleared(data: Path, ledger: Ledger, marks: list[str]) -> None:
    """Look for the marks of what was cleared in every file."""
    for path in _files(data):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # the server runs on
        for mark in marks:
            if mark.encode() in content:
                ledger.violate(7, f"{mark} was cleared, and is in {path.name}")


def _files(folder: Path) -> list[Path]:
    """Return all files below a folder, of which some may go meanwhile, folders too."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def audit(data: Path, ledger: Ledger, rooms: list[Room]) -> Logs:
    """Check every file of a stopped server; return what the logs say."""
    turns = list(ledger.turns.values())
    cleared = [turn.marker for turn in turns if turn.cleared_at is not None]
    erased = [opinion.comments for opinion in ledger.opinions if opinion.erased]
    find_cleared(data, ledger, cleared + erased)
    logs: Logs = {}
    kept: set[str] = set()
    for path in data.glob("users/*/*.jsonl"):
        if path.name.startswith("+"):
            kept |= _audit_feedback(path, ledger)
        else:
            where = (unquote(path.parent.name), unquote(path.stem))
            logs[where] = _audit_log(path, ledger)
    for left in [*data.glob("users/*/*.live"), *data.glob("intents/*")]:
        ledger.violate(0, f"{left.name} is left over")
    for turn in turns:
        if turn.acked and turn.cleared_at is None:
            if turn.turn_id not in logs.get((turn.user, turn.conversation), Log()).ends:
                ledger.violate(2, f"{turn.turn_id} was acknowledged, and is not in the log")
    for opinion in ledger.opinions:
        if opinion.acked and not opinion.erased and opinion.comments not in kept:
            ledger.violate(2, f"{opinion.comments} was acknowledged, and is not kept")
    for room in rooms:
        title = room.titles[-1] if room.titles else None
        if (found := logs.get((room.user, room.name), Log()).title) != title:
            ledger.violate(2, f"{room.name} was named {title!r}, and its log says {found!r}")
    return logs


def audit_views(logs: Logs, ledger: Ledger, views: list[tuple[str, View]]) -> None:
    """Check what the readers of whole conversations show."""
    for user, view in views:
        log = logs.get((user, view.conversation), Log())
        if log.ends != view.ended:
            missed = sorted(set(log.ends) ^ set(view.ended))
            ledger.violate(1, f"{view.who} does not show what the log has: {missed}")
        if log.shown.turns != view.shown.turns:
            ledger.violate(1, f"{view.who} has in view what the log has not, or not in order")
        if log.title != view.title:
            ledger.violate(1, f"{view.who} shows {view.title!r} for {log.title!r}")


def audit_answers(logs: Logs, ledger: Ledger, historian: Historian) -> None:
    """Check what the server said in the end of each history, and of each user's conversations."""
    stands = {o.turn_id: o for o in ledger.opinions if o.turn_id and not o.erased}
    for where, found in historian.histories.items():
        log = logs.get(where, Log())
        expected = [m for turn_id in log.shown.turns for m in _messages(log, turn_id)]
        for (role, event, text), message in zip(expected, found, strict=False):
            told = message["role"], message["id"], message["turn_id"], message["message"]
            if told != (role, event["id"], event["turn_id"], text):
                ledger.violate(1, f"the history of {where} has {told[:3]} for {event['id']}")
            opinion = stands.get(event["turn_id"]) if role == "assistant" else None
            rating = opinion and {"rating": opinion.rating, "comments": opinion.comments}
            if message["feedback"] != rating:
                ledger.violate(2, f"{event['turn_id']} was rated {rating}: {message['feedback']}")
        if len(expected) != len(found):
            ledger.violate(1, f"the history of {where} has {len(found)} of {len(expected)}")
    if set(historian.listed) != set(logs):
        ledger.violate(2, f"listed are {sorted(historian.listed)}, there are {sorted(logs)}")
    for where, entry in historian.listed.items():
        log = logs.get(where, Log())
        if entry["turns"] != len(log.starts) or log.title not in (None, entry["title"]):
            ledger.violate(2, f"{where} is listed as {entry}")


def _messages(log: Log, turn_id: str) -> list[tuple[str, Json, str]]:
    started, end = log.starts[turn_id], log.ends.get(turn_id, {})
    own = ("user", started, started["message"]["content"])
    return [own, ("assistant", end, end["text"])] if end.get("text") else [own]


def _audit_log(path: Path, ledger: Ledger) -> Log:
    last = ""
    log = Log()
    for line in path.read_bytes().splitlines():
        record = orjson.loads(line)
        kind, identifier = record["type"], record["id"]
        if identifier <= last:
            ledger.violate(3, f"{path.name}: {identifier} after {last}")
        last = identifier
        if kind == "conversation.renamed":
            log.title = record["title"]
        turn_id = record.get("turn_id", "")
        if kind != "log":
            ledger.stands_for(identifier, (record["conversation_id"], turn_id, kind))
        if kind == "turn.started":
            ledger.started(turn_id, identifier)
            log.starts[turn_id] = record
            log.shown.start(record)
        elif turn_id:
            _audit_end(path, ledger, log, record)
    for turn_id in set(log.starts) - set(log.ends):
        ledger.violate(1, f"{path.name}: {turn_id} has no end")
    return log


def _audit_end(path: Path, ledger: Ledger, log: Log, record: Json) -> None:
    kind, turn_id = record["type"], record["turn_id"]
    if turn_id in log.ends or turn_id not in log.starts or kind not in TERMINAL:
        ledger.violate(1, f"{path.name}: {kind} of {turn_id} out of place")
        return
    log.ends[turn_id] = _public(record)
    ledger.ended(log.ends[turn_id], path.name)
    turn = ledger.turns[turn_id]
    if len(record["text"]) < turn.shown and not turn.torn:
        ledger.violate(2, f"{turn_id}: {turn.shown} were shown, and are not in its end")


def _audit_feedback(path: Path, ledger: Ledger) -> set[str]:
    kept = set()
    for line in path.read_bytes().splitlines():
        entry = orjson.loads(line)
        if entry["type"] == "feedback":
            ledger.stands_for(entry["id"], ("feedback", entry["comments"]))
            kept.add(entry["comments"])
    return kept


def _public(record: Json) -> Json:
    names = list(record)
    return {name: record[name] for name in names[: names.index("turns")]}


def asked_once(asked: list[Json], ledger: Ledger) -> None:
    """Check that the provider was asked once for each turn; after a clear, a start is new."""
    may_ask: dict[str, list[Turn]] = {}
    for turn in ledger.turns.values():
        may_ask.setdefault(turn.message, []).append(turn)
    counts = dict.fromkeys(may_ask, 0)
    for request in asked:
        # Behind it is, where an answer goes on, what there was of it.
        counts[
            next(m["content"] for m in reversed(request["body"]["messages"]) if _is_ours(m))
        ] += 1
    for message, turns in may_ask.items():
        if counts[message] > sum(1 + turn.clear_asked for turn in turns):
            ledger.violate(6, f"{turns[0].turn_id} was asked {counts[message]} times")


def _is_ours(message: Json) -> bool:
    return bool(message["role"] == "user" and message["content"].startswith("!"))
