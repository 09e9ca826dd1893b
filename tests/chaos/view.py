"""A client's fold (`protocol.md`, section 2), which checks everything that it is given."""

from __future__ import annotations

import time

from tests.chaos.ledger import TERMINAL, Json, Ledger, Turn


class Shown:
    """The turns in view, in order: a turn that replaces another takes some out of it."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        self.turns: list[str] = []

    def start(self, event: Json) -> None:
        """Take a turn's start."""
        first = self._places.get(event.get("replaces", ""))
        if first is not None:
            self.turns = [turn for turn in self.turns if self._places[turn] < first]
        self._places[event["turn_id"]] = event["id"]
        self.turns.append(event["turn_id"])


class View:
    """
    What one client knows of a conversation, or of one turn of it.

    Attributes:
        last_id: Its cursor; empty before the first `ready`.
        texts: What it has of each turn.
        shown: The turns in view.
        title: The title that it was last told.
        ended: The terminal events that it has.
        must_rewind: The conversation was erased: it has to be read anew.
    """

    def __init__(
        self, ledger: Ledger, who: str, conversation: str, *, erasable: bool = False
    ) -> None:
        self.who = who
        self.conversation = conversation
        self.last_id = ""
        self.texts: dict[str, str] = {}
        self.thoughts: dict[str, str] = {}
        self.ended: dict[str, Json] = {}
        self.shown = Shown()
        self.title: str | None = None
        self.cleared = False
        self.must_rewind = False
        self._erasable = erasable
        self._unmended: str | None = None
        self._ledger = ledger
        self._ready = False
        self._connected_at = 0.0

    def connecting(self, *, rewind: bool = False) -> None:
        """Take note of a new connection: from the cursor, or from the beginning again."""
        self._connected_at = time.monotonic()
        self._ready = False
        self._unmended = None
        if rewind or self.must_rewind:
            self.must_rewind = False
            self.last_id = ""
            self._forget()

    def join(self, snapshot: Json) -> None:
        """Begin with a turn as it is at some place; what follows is read from there."""
        turn_id, text = snapshot["turn_id"], snapshot["text"]
        thoughts = snapshot.get("reasoning", "")
        turn = self._ledger.turns[turn_id]
        if not (turn.text.startswith(text) and turn.reasoning.startswith(thoughts)):
            self._violate(1, f"{turn_id} is joined at {text[-30:]!r}, {thoughts[-30:]!r}")
        self.texts[turn_id], self.thoughts[turn_id] = text, thoughts
        self.last_id = snapshot["last_id"]
        turn.show(len(text))

    def _forget(self) -> None:
        for held in (self.texts, self.thoughts, self.ended):
            held.clear()
        self.shown = Shown()
        self.title = None

    def take(self, event: Json) -> None:
        """Fold one event, as it came over whatever transport."""
        kind = event["type"]
        if kind == "heartbeat":
            return
        if event.get("conversation_id") != self.conversation:
            self._violate(8, f"an event of {event.get('conversation_id')}")
        elif kind == "ready":
            self._open(event)
        elif not self._ready:
            self._violate(1, f"{kind} before ready")
        elif kind == "reset" and self._erasable:
            self.must_rewind, self._unmended = True, None
        elif kind == "reset":
            self._violate(1, f"reset after {self.last_id}")
        elif self._unmended:
            self._violate(1, self._unmended)
            self._unmended = None
        elif kind != "caught_up":
            self._fold(kind, event)

    def _open(self, event: Json) -> None:
        self._ready = True
        if "id" not in event:
            # A cursor that is no good stays until the `reset`: a cut between the two mends nothing.
            self._unmended = f"asked for {self.last_id}, not gone on, and not reset"
            return
        if self.last_id and event["id"] != self.last_id:
            self._violate(1, f"asked for {self.last_id}, given {event['id']}")
        self.last_id = event["id"]

    def _fold(self, kind: str, event: Json) -> None:
        identifier = event["id"]
        if identifier <= self.last_id:
            self._violate(1, f"{kind} {identifier} after {self.last_id}")
            return
        self.last_id = identifier
        if kind == "history.cleared":
            self._forget()
            self.cleared = True
            return
        if kind == "conversation.renamed":
            self._ledger.stands_for(identifier, (self.conversation, "", kind))
            self.title = event["title"]
            return
        turn_id = event["turn_id"]
        turn = self._ledger.turns[turn_id]
        if event.get("reason") == "cleared":
            # Without text, and before `history.cleared`: it may be told to who has not seen it.
            self._end(turn_id, event)
            return
        if turn.cleared_at is not None and turn.cleared_at < self._connected_at:
            self._violate(7, f"{kind} of {turn_id}, which was cleared before")
        if turn_id in self.ended:
            self._violate(1, f"{kind} {identifier} after the end of {turn_id}")
        if kind == "delta":
            self._append(turn_id, event)
            return
        self._ledger.stands_for(identifier, (self.conversation, turn_id, kind))
        if kind == "turn.started":
            self._ledger.started(turn_id, identifier)
            if event["message"]["content"] != turn.message or turn_id in self.texts:
                self._violate(1, f"{turn_id} starts again, or otherwise")
            self._start(turn, event)
        elif turn_id not in self.texts:
            self._violate(1, f"{kind} of {turn_id} without its start")
        elif kind in TERMINAL:
            self._end(turn_id, event)

    def _start(self, turn: Turn, event: Json) -> None:
        told = event.get("replaces"), event.get("kind")
        if told != (turn.base and turn.base.turn_id, turn.kind):
            self._violate(1, f"{turn.turn_id} is told to be {told}")
        self.texts[turn.turn_id] = self.thoughts[turn.turn_id] = ""
        self.shown.start(event)

    def _append(self, turn_id: str, event: Json) -> None:
        turn, text = self._ledger.turns[turn_id], event["text"]
        reasoning = event.get("kind") == "reasoning"
        folds = self.thoughts if reasoning else self.texts
        if turn_id not in self.texts:
            self._violate(1, f"delta of {turn_id} without its start")
            return
        before = len(folds[turn_id])
        after = before + len(text)
        if (turn.reasoning if reasoning else turn.text)[before:after] != text:
            self._violate(1, f"{turn_id} goes on after {folds[turn_id][-30:]!r} with {text[:30]!r}")
        folds[turn_id] += text
        self._ledger.stands_for(event["id"], (self.conversation, turn_id, reasoning, after))
        self._ledger.figures["tokens delivered"] += text.count("t")
        if not reasoning:
            turn.show(after)

    def _end(self, turn_id: str, event: Json) -> None:
        self.ended[turn_id] = event
        self._ledger.ended(event, self.who)
        turn = self._ledger.turns[turn_id]
        text: str | None = event.get("text")
        if event.get("reason") == "cleared":
            if text:
                self._violate(7, f"{turn_id} was cleared, and ends with its text")
            return
        if turn.torn:
            return
        if text is None or not text.startswith(self.texts[turn_id]):
            self._violate(2, f"{turn_id} ends without what was shown")
            return
        self.texts[turn_id] = text

    def _violate(self, promise: int, detail: str) -> None:
        self._ledger.violate(promise, f"{self.who}: {detail}")
