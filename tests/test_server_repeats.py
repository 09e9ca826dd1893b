"""What a client can cause again and again: a line a minute, and how many it was."""

import logging
import socket
from pathlib import Path

import orjson
import pytest
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from chatstream.server import repeats
from chatstream.server.repeats import Repeats
from tests.test_server import Program


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def warning(message: str, name: str = "uvicorn.error", **fields: object) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.WARNING, "", 0, message, None, None)
    vars(record).update(fields)
    return record


def raised(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception as caught:
        told = (type(caught), caught, caught.__traceback__)
        return warning("request failed", "chatstream.web.problems", exc_info=told)


def test_a_line_a_minute_says_how_many_were_held_back() -> None:
    seen = Repeats(clock := Clock())

    assert seen.admits(warning("bad"))
    assert not any(seen.admits(warning("bad")) for _ in range(5))
    clock.now += 61
    assert seen.admits(again := warning("bad"))
    assert vars(again)["held_back"] == 5


def test_what_was_held_back_is_told_too_when_it_does_not_come_again() -> None:
    seen = Repeats(clock := Clock())
    for _ in range(4):
        seen.admits(warning("bad", address="192.0.2.1"))
    assert not list(seen.over())
    clock.now += 61
    (summary,) = seen.over()

    assert (summary.getMessage(), summary.levelno) == ("bad", logging.WARNING)
    assert (vars(summary)["held_back"], vars(summary)["address"]) == (3, "192.0.2.1")
    assert not list(seen.over())


def test_kinds_addresses_and_defects_are_told_apart() -> None:
    seen = Repeats(Clock())

    assert seen.admits(warning("bad", address="192.0.2.1"))
    assert seen.admits(warning("bad", address="192.0.2.2"))
    assert seen.admits(warning("worse", address="192.0.2.1"))
    assert seen.admits(raised(ValueError()))
    assert seen.admits(raised(KeyError()))
    assert not seen.admits(raised(ValueError()))


def test_what_no_client_causes_is_never_held_back() -> None:
    seen = Repeats(Clock())

    for _ in range(3):
        assert seen.admits(warning("sync failed", "chatstream.log.files.journal"))
        info = warning("listening", "uvicorn.error", levelno=logging.INFO)
        assert seen.admits(info)


def test_the_table_is_bounded_however_many_addresses_there_are() -> None:
    seen = Repeats(Clock())
    for number in range(3 * repeats.MOST_KINDS):
        list(seen.over())
        seen.admits(warning("bad", address=f"2001:db8::{number:x}"))

    assert len(seen._seen) <= repeats.MOST_KINDS + 1


def test_a_bad_request_flood_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    with Program(tmp_path / "data", LOG_FORMAT="json") as program:
        address = "127.0.0.1", int(program.url.rpartition(":")[2])
        for _ in range(20):
            with socket.create_connection(address, timeout=10) as client:
                client.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
                while client.recv(4096):
                    pass
            with connect(program.url.replace("http", "ws") + "/ws", proxy=None) as ws:
                ws.socket.sendall(Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True))
                with pytest.raises(Exception, match="1007"):
                    ws.recv(timeout=10)
        program.signal()
        program.end()
        assert program.process.stderr is not None
        lines = [orjson.loads(line) for line in program.process.stderr]

    bad = [line for line in lines if line["level"] in ("warning", "error")]
    assert len(bad) <= 2, bad
    assert not [line for line in lines if "trace" in line]
