"""
Log records that a client can cause as often as it likes: one a minute of each kind and address.

What was held back is counted: the next record of its kind says how many, or a line of its own once
the minute is over and anything is logged.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

SECONDS = 60.0
MOST_KINDS = 1000
"""Kinds and addresses that are remembered at once; the oldest one is forgotten, and logged anew."""

EDGE: tuple[str, ...] = (
    "uvicorn",
    "websockets",
    "asyncio",
    "chatstream.web",
    "chatstream.web.frames",
)
EDGE += (
    "chatstream.web.websocket",
    "chatstream.server.websocket_protocol",
    "chatstream.server.http_protocol",
)
EDGE += ("chatstream.server.connections",)
"""Loggers of what speaks to clients: their records from `WARNING` on are limited."""

CLIENTS_FAULTS = ("Invalid UTF-8 sequence", "Invalid HTTP request", "Unsupported upgrade")
"""How records begin that are the client's fault: a traceback would tell nothing."""


class Kind(NamedTuple):
    """What counts as the same: logger, beginning of the message, place of the error, address."""

    logger: str
    message: str
    raised: str
    address: str
    status: int | None


@dataclass(slots=True)
class _Seen:
    until: float
    level: int
    held_back: int = 0


class Repeats:
    """Counts records by their kind. For one thread at a time: a handler's lock does that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[Kind, _Seen] = OrderedDict()

    def admits(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record, with `held_back` where earlier ones were not."""
        if record.levelno < logging.WARNING or not _is_edge(record.name):
            return True
        if str(record.msg).startswith(CLIENTS_FAULTS):
            record.exc_info = None
        now, kind = self._clock(), _kind(record)
        seen = self._seen.get(kind)
        if seen is not None and now < seen.until:
            seen.held_back += 1
            return False
        if seen is not None and seen.held_back:
            vars(record)["held_back"] = seen.held_back
        self._seen[kind] = _Seen(now + SECONDS, record.levelno)
        self._seen.move_to_end(kind)
        return True

    def over(self) -> Iterator[logging.LogRecord]:
        """Forget what is over, or too much; yields the records that report those held back."""
        now = self._clock()
        while self._seen:
            kind, seen = next(iter(self._seen.items()))
            if now < seen.until and len(self._seen) <= MOST_KINDS:
                return
            del self._seen[kind]
            if seen.held_back:
                yield _summary(kind, seen)


def _is_edge(name: str) -> bool:
    return any(name == edge or name.startswith(f"{edge}.") for edge in EDGE)


def _kind(record: logging.LogRecord) -> Kind:
    first = str(record.msg).strip().partition("\n")[0][:80]
    address = str(getattr(record, "address", ""))[:80]
    return Kind(record.name, first, _raised(record), address, getattr(record, "status", None))


def _raised(record: logging.LogRecord) -> str:
    """Return which exception it was and where, so that one defect does not hide another."""
    if not isinstance(record.exc_info, tuple) or record.exc_info[0] is None:
        return ""
    trace = record.exc_info[2]
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{record.exc_info[0].__name__} {where}"


def _summary(kind: Kind, seen: _Seen) -> logging.LogRecord:
    record = logging.LogRecord(kind.logger, seen.level, "", 0, kind.message, None, None)
    fields = {"address": kind.address, "status": kind.status, "held_back": seen.held_back}
    vars(record).update({name: value for name, value in fields.items() if value})
    return record
