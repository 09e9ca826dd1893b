"""Log records as lines: text for people, JSON for machines. Fields, never users' text."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

import orjson

from chatstream.events import timestamp

CONTENT: Final = logging.getLogger("chatstream.content")
"""What providers said, which may be users' text: off, unless the operator asks for it."""
CONTENT.disabled = True

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class Lines(logging.Formatter):
    """One line a record; a traceback follows, in JSON as a field."""

    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        time = timestamp(int(record.created * 1000))
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            line = {"time": time, "level": record.levelname.lower(), "logger": record.name}
            line |= {"event": record.getMessage().strip(), **fields}
            return orjson.dumps(line | ({"trace": trace} if trace else {}), default=str).decode()
        shown = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        message = record.getMessage().strip().replace("\n", " ")
        text = f"{time} {record.levelname.lower():7} {message}{shown}"
        return f"{text}\n{trace}" if trace else text


def _shown(value: object) -> str:
    """Return a field's value as one word: what a client sent cannot begin a line of its own."""
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


def set_up(level: str, form: Literal["text", "json"], content: bool = False) -> None:
    """Write everybody's records to standard error, from a level on; `content` as well, or not."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs every request with its address, which may hold a key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    CONTENT.disabled = not content
