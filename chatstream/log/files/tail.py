"""
The newest part of a conversation in memory: what live readers are given.

Pure: no file, no loop. It holds every event above its `after`, in order: permanent ones, and the
deltas of running turns, whose text lies here once, already escaped, with the places of its ids.
A reader's share is a slice; readers keep nothing here but their cursor.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

import orjson

from chatstream.events import DeltaKind, EventId, TurnId, event_id, place
from chatstream.log.files.records import Encoded

PIECE = 64 * 1024
"""Most bytes of text in one delta that joins others."""


class DeltaRun:
    """Neighbouring deltas of one turn and one kind: one text, and where each id ends in it."""

    __slots__ = ("turn_id", "kind", "text", "_before_id", "_after_id", "_places", "_ends", "_last")

    def __init__(self, conversation_id: str, turn_id: TurnId, kind: DeltaKind) -> None:
        self.turn_id = turn_id
        self.kind = kind
        self.text = bytearray()
        self._before_id = b'{"type":"delta","id":"'
        told = b',"kind":"reasoning"' if kind == "reasoning" else b""
        self._after_id = (
            b'","conversation_id":%s,"turn_id":%s%s,"text":"'
            % (orjson.dumps(conversation_id), orjson.dumps(turn_id), told)
        )  # fmt: skip
        self._places = array("Q")
        self._ends = array("L")
        # The newest delta, encoded once for its file and for every reader at the live edge.
        self._last = b""

    @property
    def first(self) -> int:
        """The place of the first delta."""
        return self._places[0]

    @property
    def last(self) -> int:
        """The place of the newest delta."""
        return self._places[-1]

    def add(self, identifier: EventId, escaped: bytes, json: bytes) -> None:
        """Append a delta that was encoded, and written where it must survive."""
        self.text += escaped
        self._places.append(place(identifier))
        self._ends.append(len(self.text))
        self._last = json

    def read(self, after: int, upto: int) -> tuple[list[Encoded], int]:
        """Return the deltas between two places, joined into pieces, and how many bytes they are."""
        places, ends = self._places, self._ends
        begin = bisect_right(places, after)
        stop = bisect_right(places, upto)
        if begin == stop:
            return [], 0
        if begin == stop - 1 == len(places) - 1:
            identifier = event_id(places[-1])
            return [Encoded(identifier, self.turn_id, "delta", self._last)], len(self._last)
        found = []
        total = 0
        while begin < stop:
            start = ends[begin - 1] if begin else 0
            end = max(begin + 1, bisect_right(ends, start + PIECE, begin, stop))
            identifier = event_id(places[end - 1])
            json = self.encode(identifier, self.text[start : ends[end - 1]])
            found.append(Encoded(identifier, self.turn_id, "delta", json))
            total += len(json)
            begin = end
        return found, total

    def until(self, upto: int) -> bytearray:
        """Return the text of the deltas up to a place."""
        count = bisect_right(self._places, upto)
        return self.text[: self._ends[count - 1]] if count else bytearray()

    def encode(self, identifier: EventId, escaped: bytes | bytearray) -> bytes:
        """Return the JSON of a delta."""
        return b"".join((self._before_id, identifier.encode(), self._after_id, escaped, b'"}'))


class _Permanent:
    """One event that is in the file too."""

    __slots__ = ("first", "event")

    def __init__(self, event: Encoded) -> None:
        self.first = place(event.id)
        self.event = event

    @property
    def last(self) -> int:
        return self.first


class _Passing:
    """A running turn's `turn.answering`: readers find it only here, as the turn's deltas."""

    __slots__ = ("first", "event", "turn_id")

    def __init__(self, event: Encoded) -> None:
        self.first = place(event.id)
        self.event = event
        self.turn_id = event.turn_id

    @property
    def last(self) -> int:
        return self.first


class Tail:
    """
    Events above `after`, in order, until they are trimmed. For one thread.

    Promises that a reader whose cursor is not below `after` needs nothing else. A turn's deltas
    go with `drop`, when its terminal event has taken their place.
    """

    __slots__ = ("after", "_conversation_id", "_segments", "_bytes")

    def __init__(self, conversation_id: str, after: int) -> None:
        self.after = after
        self._conversation_id = conversation_id
        self._segments: list[DeltaRun | _Permanent | _Passing] = []
        self._bytes = 0

    def add(self, event: Encoded) -> None:
        """Append a permanent event, or `turn.answering`."""
        if event.type == "turn.answering":
            self._segments.append(_Passing(event))
        else:
            self._segments.append(_Permanent(event))
            self._bytes += len(event.json)

    def run(self, turn_id: TurnId, kind: DeltaKind) -> DeltaRun:
        """Return the run that the next delta of a turn belongs to; a new one is not yet here."""
        run = self._segments[-1] if self._segments else None
        if isinstance(run, DeltaRun) and run.turn_id == turn_id and run.kind == kind:
            return run
        return DeltaRun(self._conversation_id, turn_id, kind)

    def extend(self, run: DeltaRun, identifier: EventId, escaped: bytes, json: bytes) -> None:
        """Append a delta, in the run that `run` returned."""
        run.add(identifier, escaped, json)
        if not self._segments or self._segments[-1] is not run:
            self._segments.append(run)

    def remove(self, identifier: EventId) -> None:
        """Take back an event whose write failed; no reader has seen it."""
        number = place(identifier)
        self._keep([s for s in self._segments if s.first != number])

    def drop(self, turn_id: TurnId) -> None:
        """Forget a turn's deltas and its `turn.answering`: its terminal event says all of it."""
        self._keep([s for s in self._segments if isinstance(s, _Permanent) or s.turn_id != turn_id])

    def trim(self, keep_from: int, keep_bytes: int) -> None:
        """Forget the oldest permanent events below `keep_from`, but not the newest bytes."""
        count = 0
        for segment in self._segments:
            if (
                not isinstance(segment, _Permanent)
                or segment.first >= keep_from
                or self._bytes <= keep_bytes
            ):
                break
            self.after = segment.first
            self._bytes -= len(segment.event.json)
            count += 1
        del self._segments[:count]

    def clear(self, after: int) -> None:
        """Forget everything up to `after`, which is gone from the file too."""
        self._keep([s for s in self._segments if s.first > after])
        self.after = max(self.after, after)

    def _keep(self, segments: list[DeltaRun | _Permanent | _Passing]) -> None:
        self._segments = segments
        self._bytes = sum(len(s.event.json) for s in segments if isinstance(s, _Permanent))

    def read(
        self, after: int, upto: int, limit: int, turn_id: TurnId | None = None
    ) -> list[Encoded]:
        """
        Return the events between two places, oldest first, some `limit` bytes at a time.

        `after` is not below `self.after`. Neighbouring deltas come joined, under the last one's id.
        With `turn_id`, the deltas of other turns are left out.
        """
        segments = self._segments
        index = len(segments)
        # Readers are nearly always at the live edge, so the search begins there.
        while index and segments[index - 1].last > after:
            index -= 1
        found: list[Encoded] = []
        total = 0
        while index < len(segments) and total < limit:
            segment = segments[index]
            if segment.first > upto:
                break
            if not isinstance(segment, DeltaRun):
                found.append(segment.event)
                total += len(segment.event.json)
            elif turn_id is None or segment.turn_id == turn_id:
                deltas, size = segment.read(after, upto)
                found += deltas
                total += size
            index += 1
        return found
