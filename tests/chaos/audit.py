"""What is in the data folder after a run, against all that anybody was told."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import orjson

from tests.chaos.ledger import TERMINAL, Json, Ledger, Turn
from tests.chaos.view import View


def find_cleared(data: Path, ledger: Ledger, turns: list[Turn]) -> None:
    """Look for the marks of cleared turns in every file."""
    marks = [turn.marker.encode() for turn in turns]
    for path in data.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue  # the server runs on
        for mark in marks:
            if mark in content:
                ledger.violate(7, f"{mark.decode()} was cleared, and is in {path.name}")


def audit(data: Path, ledger: Ledger, views: list[tuple[str, View]]) -> None:
    """Check every log of a stopped server, and the readers' views of them."""
    find_cleared(data, ledger, [t for t in ledger.turns.values() if t.cleared_at is not None])
    logs: dict[tuple[str, str], dict[str, Json]] = {}
    for path in data.glob("users/*/*.jsonl"):
        if not path.name.startswith("+"):
            where = (unquote(path.parent.name), unquote(path.stem))
            logs[where] = _audit_log(path, ledger)
    for left in [*data.glob("users/*/*.live"), *data.glob("intents/*")]:
        ledger.violate(0, f"{left.name} is left over")
    for turn in ledger.turns.values():
        if turn.acked and turn.cleared_at is None:
            if turn.turn_id not in logs.get((turn.user, turn.conversation), {}):
                ledger.violate(2, f"{turn.turn_id} was acknowledged, and is not in the log")
    for user, view in views:
        found = logs.get((user, view.conversation), {})
        if found != view.ended:
            missed = sorted(set(found) ^ set(view.ended))
            ledger.violate(1, f"{view.who} does not show what the log has: {missed}")


def _audit_log(path: Path, ledger: Ledger) -> dict[str, Json]:
    last = ""
    started: set[str] = set()
    ends: dict[str, Json] = {}
    for line in path.read_bytes().splitlines():
        record = orjson.loads(line)
        kind, identifier = record["type"], record["id"]
        if identifier <= last:
            ledger.violate(3, f"{path.name}: {identifier} after {last}")
        last = identifier
        turn_id = record.get("turn_id")
        if turn_id is None:
            continue
        ledger.stands_for(identifier, (record["conversation_id"], turn_id, kind))
        if kind == "turn.started":
            ledger.started(turn_id, identifier)
            started.add(turn_id)
        elif turn_id in ends or turn_id not in started or kind not in TERMINAL:
            ledger.violate(1, f"{path.name}: {kind} of {turn_id} out of place")
        else:
            ends[turn_id] = _public(record)
            ledger.ended(ends[turn_id], path.name)
            turn = ledger.turns[turn_id]
            if len(record["text"]) < turn.shown and not turn.torn:
                ledger.violate(2, f"{turn_id}: {turn.shown} were shown, and are not in its end")
    for turn_id in started - set(ends):
        ledger.violate(1, f"{path.name}: {turn_id} has no end")
    return ends


def _public(record: Json) -> Json:
    names = list(record)
    return {name: record[name] for name in names[: names.index("turns")]}


def asked_once(asked: list[Json], ledger: Ledger) -> None:
    """Check that the provider was asked once for each turn; after a clear, a start is new."""
    counts: dict[str, int] = {}
    for request in asked:
        message = request["body"]["messages"][-1]["content"]
        counts[message] = counts.get(message, 0) + 1
    for turn in ledger.turns.values():
        if counts.get(turn.message, 0) > 1 + turn.clear_asked:
            ledger.violate(6, f"{turn.turn_id} was asked {counts[turn.message]} times")
