"""Log lines: one a record, whatever is in it."""

import logging
import sys

import orjson
import pytest

from chatstream.server.logs import Lines


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"msg": message, "levelname": "WARNING", "name": "x", "created": 0}
    )
    vars(made).update(fields)
    return made


def test_text_is_a_line_with_its_fields() -> None:
    line = Lines("text").format(record("turn ended", ms=5, status="completed"))

    assert line == "1970-01-01T00:00:00.000Z warning turn ended ms=5 status=completed"


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_client_sent_begins_no_line_of_its_own(form: str) -> None:
    forged = "x\n1970-01-01T00:00:00.000Z error forged"
    line = Lines(form).format(record(f"bad\n{forged}", turn=forged))  # type: ignore[arg-type]

    assert "\n" not in line


def test_json_has_the_fields_and_the_trace() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        line = Lines("json").format(record("failed", ms=5, exc_info=sys.exc_info()))
    data = orjson.loads(line)

    assert (data["event"], data["level"], data["ms"]) == ("failed", "warning", 5)
    assert "ValueError: no" in data["trace"]
