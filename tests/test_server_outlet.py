"""Output that nobody reads: nothing waits for it, what is lost is counted, an exit comes."""

import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from chatstream.server import logs, outlet
from chatstream.server.outlet import Outlet, OutletStream
from tests.running import SECONDS
from tests.test_server import Program

LINE = "a line of the log, as long as such lines usually are, with some fields=1 number=%06d\n"


class Pipe:
    """A pipe that is read when the test says so."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def lines(self, until: str) -> list[str]:
        """Read up to a line that has this in it."""
        data = b""
        while until.encode() not in data or not data.endswith(b"\n"):
            data += os.read(self.read_end, 1 << 16)
        return data.decode().splitlines(keepends=True)

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def told(count: int) -> str:
    return f"dropped {count}\n"


def test_lines_come_in_order(pipe: Pipe) -> None:
    out = Outlet(pipe.write_end, told)
    sent = [LINE % number for number in range(300)]
    for line in sent:
        out.put(line)

    assert out.flush(SECONDS)
    assert pipe.lines("000299") == sent
    assert out.dropped == 0


def test_a_full_pipe_blocks_nobody_and_what_is_lost_is_told_where_it_is_missing(pipe: Pipe) -> None:
    out = Outlet(pipe.write_end, told)
    sent = [LINE % number for number in range(30_000)]
    began = time.monotonic()
    for line in sent:
        out.put(line)
    took = time.monotonic() - began
    lost = out.dropped
    assert lost > 10_000
    assert took < 2

    found = pipe.lines("dropped")
    out.put("after\n")
    found += pipe.lines("after")

    assert found[-2:] == [told(lost), "after\n"]
    assert found[:-2] == sent[: len(sent) - lost]


def test_what_waits_is_bounded(pipe: Pipe) -> None:
    out = Outlet(pipe.write_end, told)
    for number in range(30_000):
        out.put(LINE % number)
    lost = out.dropped

    kept = sum(map(len, pipe.lines("dropped")[:-1]))
    assert kept < outlet.MOST_BYTES + 2 * outlet.AT_ONCE
    assert lost * len(LINE % 0) + kept == 30_000 * len(LINE % 0)


def test_a_flush_waits_for_a_while_and_then_never_again(pipe: Pipe) -> None:
    out = Outlet(pipe.write_end, told)
    for number in range(3000):
        out.put(LINE % number)
    began = time.monotonic()

    assert not out.flush(0.1)
    assert not out.flush(SECONDS)
    assert time.monotonic() - began < SECONDS / 2
    pipe.lines("002999")


def test_a_descriptor_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_end, False)
    out = Outlet(pipe.write_end, told)
    sent = [LINE % number for number in range(3000)]
    for line in sent:
        out.put(line)

    assert pipe.lines("002999") == sent


def test_a_reader_that_is_gone_ends_nothing_and_is_counted(pipe: Pipe) -> None:
    reader, pipe.read_end = pipe.read_end, os.open(os.devnull, os.O_RDONLY)
    os.close(reader)
    out = Outlet(pipe.write_end, told)
    out.put("one\ntwo\n")
    assert out.flush(SECONDS)
    out.put("three\n")
    assert out.flush(SECONDS)

    assert out.dropped == 3


def test_putting_from_within_putting_does_not_stand_still(pipe: Pipe) -> None:
    # What the collector frees may log while a line is put.
    out = Outlet(pipe.write_end, told)
    with out._lock:
        out.put("inner\n")
    thread = threading.Thread(target=out.put, args=("other\n",))
    thread.start()
    thread.join(SECONDS)

    assert out.flush(SECONDS)
    assert pipe.lines("other") == ["inner\n", "other\n"]


def test_what_is_printed_goes_the_same_way_in_whole_lines(pipe: Pipe) -> None:
    stream = OutletStream(Outlet(pipe.write_end, told), pipe.write_end, "utf-8")
    print("Grüße", 1, file=stream, end="")
    print(" and\nthe rest", file=stream)

    assert pipe.lines("rest") == ["Grüße 1 and\n", "the rest\n"]
    assert (stream.fileno(), stream.isatty()) == (pipe.write_end, False)


CRASHES = """
import logging
from chatstream.server.logs import set_up
set_up("info", "text")
for number in range(500):
    logging.getLogger("x").info("line %d", number)
print("printed")
raise ValueError("the last words")
"""


def test_the_last_lines_of_a_crash_are_there() -> None:
    done = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True)

    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split()[-1] for line in lines[:500]] == [str(number) for number in range(500)]
    assert lines[-1] == "ValueError: the last words"
    assert done.stdout == "printed\n"


class Unread(Program):
    """A server whose output goes to a descriptor of the test's."""

    def __init__(self, data: Path, output: int, *, whole: bool = False, **settings: str) -> None:
        super().__init__(data, None, DRAIN_TIMEOUT="1", LOG_LEVEL="debug", **settings)
        self._output = output
        self._stdout = output if whole else subprocess.PIPE

    def start(self) -> "subprocess.Popen[str]":
        """Start it."""
        return subprocess.Popen(
            [sys.executable, "-m", "chatstream", "serve"],
            env=self._environment,
            cwd=self.data.parent,
            stdout=self._stdout,
            stderr=self._output,
            text=True,
        )


@contextmanager
def full_pipe() -> Iterator[int]:
    """Yield a pipe's end that takes nothing more: it is full, and nobody reads it."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write_end, True)
    try:
        yield write_end
    finally:
        os.close(read_end)
        os.close(write_end)


@contextmanager
def held_terminal() -> Iterator[int]:
    """Yield a terminal under Ctrl-S."""
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    try:
        yield slave
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("unread", [full_pipe, held_terminal])
def test_a_log_that_nobody_reads_stops_neither_turns_nor_the_end(
    tmp_path: Path, unread: Callable[[], AbstractContextManager[int]]
) -> None:
    with unread() as output, Unread(tmp_path / "data", output) as program:
        for _ in range(20):
            assert program.http.post("/chat", json={"message": "x"}).status_code == 200
        assert program.http.get("/healthz").status_code == 200
        assert "chatstream_log_lines_dropped_total 0.0" in program.http.get("/metrics").text
        program.signal()
        program.end(6)


def test_a_server_that_hangs_ends_although_nobody_reads_what_it_says(tmp_path: Path) -> None:
    with full_pipe() as output:
        process = subprocess.Popen([sys.executable, "-c", HANGS], stderr=output)
        try:
            assert process.wait(15) == 1
        finally:
            process.kill()


HANGS = """
import threading
from chatstream.server import server
from chatstream.server.logs import set_up
set_up("info", "text")
threading.Timer(0.1, server._exit_now).start()
threading.Event().wait()
"""


def test_a_terminal_that_holds_the_address_back_does_not_hold_the_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with held_terminal() as output:
        program = Unread(tmp_path / "data", output, whole=True, PORT=str(port))
        process = program.start()
        try:
            assert answers(f"http://127.0.0.1:{port}/healthz")
            process.send_signal(signal.SIGTERM)
            process.wait(6)
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Wait until a server answers."""
    end = time.monotonic() + 3 * SECONDS
    while time.monotonic() < end:
        try:
            return httpx.get(url, trust_env=False).status_code == 200
        except httpx.ConnectError:
            time.sleep(0.02)
    return False


def test_what_was_dropped_is_counted_for_the_metrics(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Outlet(pipe.write_end, told)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers, logs.Handler(out, "text")])
    before = logs.dropped()
    out.dropped += 7

    assert logs.dropped() == before + 7
