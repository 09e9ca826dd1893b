"""Log records as lines: text for people, JSON for machines. Fields, never users' text."""

from __future__ import annotations

import atexit
import io
import logging
import sys
from typing import Literal, TextIO

import orjson

from chatstream.events import timestamp
from chatstream.providers.http.said import CONTENT
from chatstream.server.outlet import Outlet, OutletStream
from chatstream.server.repeats import Repeats

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

Form = Literal["text", "json"]


class Lines(logging.Formatter):
    """One line a record; a traceback follows, in JSON as a field."""

    def __init__(self, form: Form) -> None:
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


class Handler(logging.Handler):
    """Writes records to an outlet: no thread that logs waits for the reader of the lines."""

    def __init__(self, outlet: Outlet, form: Form) -> None:
        super().__init__()
        self.setFormatter(Lines(form))
        self._outlet = outlet
        self._repeats = Repeats()

    @property
    def dropped(self) -> int:
        """How many lines were not written."""
        return self._outlet.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless a client repeats it, and the lines that report repeated ones."""
        try:
            for summary in self._repeats.over():
                self._outlet.put(f"{self.format(summary)}\n")
            if self._repeats.admits(record):
                self._outlet.put(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait for the reader, within the bound of an exit: `logging.shutdown` asks for it."""
        self._outlet.flush()


def set_up(level: str, form: Form, content: bool = False) -> None:
    """
    Write all records to standard error, from a level on; with `content` also quoted content.

    From now on printing, there or on standard output, does not wait for its reader; an exit waits
    for a second.
    """
    sys.stdout, _ = _freed(sys.stdout, form)
    sys.stderr, outlet = _freed(sys.stderr, form)
    handler: logging.Handler
    if outlet is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Lines(form))
    else:
        handler = Handler(outlet, form)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs every request with its address, which may hold a key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Below, it logs all that it sends, which is users' text.
    logging.getLogger("sse_starlette").setLevel(logging.WARNING)
    CONTENT.disabled = not content


def dropped() -> int:
    """Return how many lines were not written, since nothing read them."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, Handler))


def _freed(stream: TextIO, form: Form) -> tuple[TextIO, Outlet | None]:
    """Return what stands for a stream, and its outlet; the same where it has no descriptor."""
    try:
        fd = stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return stream, None
    stream.flush()
    outlet = Outlet(fd, Told(form))
    atexit.register(outlet.flush)
    return OutletStream(outlet, fd, stream.encoding), outlet  # type: ignore[return-value]


class Told:
    """The line that stands where others were dropped."""

    def __init__(self, form: Form) -> None:
        self._lines = Lines(form)

    def __call__(self, count: int) -> str:
        """Return it, for so many."""
        record = logging.LogRecord(
            __name__, logging.WARNING, "", 0, "nobody read: lines dropped", None, None
        )
        vars(record)["count"] = count
        return f"{self._lines.format(record)}\n"
