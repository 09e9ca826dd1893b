"""An SSE answer on a raw socket: its bytes, its two kinds of end, and what a reader costs."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from chatstream.errors import StorageFailed
from chatstream.events import Address
from chatstream.log.files.conversation import Conversation
from chatstream.metrics import Metrics
from chatstream.providers.adapters.scripted import Scripted
from chatstream.web import heartbeats
from chatstream.web.finite import FiniteStream
from tests.running import EVENT_STREAM, Gate, Running

LAST_CHUNK = b"\r\n0\r\n\r\n"
NOBODY = Address("default", "default")


class Raw:
    """A reader of its own, byte by byte."""

    def __init__(self, server: Running, path: str, method: str = "GET", body: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + body)
        self.data = b""

    def until(self, mark: bytes) -> bytes:
        """Read until a mark has come."""
        while mark not in self.data:
            data = self.socket.recv(65536)
            assert data, f"ended without {mark!r}: {self.data!r}"
            self.data += data
        return self.data

    def rest(self) -> bytes:
        """Read to the connection's end."""
        while data := self.socket.recv(65536):
            self.data += data
        self.socket.close()
        return self.data

    def leave(self) -> None:
        """Hang up."""
        self.socket.close()


@contextmanager
def reader(*given: Any, **more: Any) -> Iterator[Raw]:
    raw = Raw(*given, **more)
    try:
        yield raw
    finally:
        raw.leave()


def chat(server: Running) -> Raw:
    return Raw(server, "/chat", "POST", b'{"message":"Hi"}')


def wait_for_readers(server: Running, count: int) -> None:
    """Wait until so many streams are looked after, and watch the conversation."""

    async def watchers() -> tuple[int, int]:
        services = server.app.services
        conversation = await services.log.conversation(NOBODY)
        return services.pulse.readers, conversation.readers

    until = time.monotonic() + 5
    while (found := server.call(watchers())) != (count, count):
        assert time.monotonic() < until, f"{found} readers, not {count}"


def test_a_whole_answer_has_its_last_chunk(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        raw = chat(server)
        data = raw.until(b"turn.completed")
        data = raw.until(LAST_CHUNK)
        raw.leave()

    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream" in head.lower()
    assert b"cache-control: no-cache, no-transform" in head.lower()
    assert b"x-accel-buffering: no" in head.lower()
    assert b"content-encoding" not in head.lower()
    assert body.endswith(LAST_CHUNK)


def test_a_turn_that_has_ended_is_sent_whole_with_the_same_headers(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        begun = server.http.post("/chat", json={"message": "Hi"}, headers=EVENT_STREAM)
        path = begun.headers["location"].replace("?", "/events?")
        again = server.http.get(path)
        with reader(server, path) as raw:
            data = raw.until(LAST_CHUNK)
        opened = 'chatstream_streams_open{transport="sse"} 0.0'
        assert opened in server.http.get("/metrics").text

    names = ("content-type", "cache-control", "x-accel-buffering", "connection")
    assert [again.headers[name] for name in names] == [begun.headers[name] for name in names]
    assert b"turn.completed" in data
    assert b"ping" not in data


def test_a_client_that_takes_nothing_of_a_turn_that_has_ended_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeats, "STUCK_SECONDS", 0.05)
    sent: list[Any] = []
    metrics = Metrics()

    async def never() -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await never()

    async def answer() -> None:
        stream = FiniteStream(metrics, b"data: {}\n\n")
        await stream({"type": "http", "method": "GET"}, never, send)

    asyncio.run(answer())

    assert [message.get("more_body") for message in sent] == [None, True]
    assert b'chatstream_streams_open{transport="sse"} 0.0' in metrics.text()


def test_a_stream_cut_by_the_stop_has_no_last_chunk_but_all_that_is_visible(
    tmp_path: Path,
) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate(), "lo")) as server:
        following = Raw(server, "/events")
        following.until(b"caught_up")
        raw = chat(server)
        raw.until(b'"text":"Hel"')
        gate.reached()
    data, seen = raw.rest(), following.rest()

    # The turn's own stream has the turn's end, so it is whole; the conversation's has none.
    assert b"turn.interrupted" in data
    assert data.endswith(LAST_CHUNK)
    assert b"turn.interrupted" in seen
    assert not seen.endswith(LAST_CHUNK)


def test_a_stream_that_begins_while_the_server_stops_is_told_when_to_come_back(
    tmp_path: Path,
) -> None:
    with Running(tmp_path) as server:

        async def close() -> None:
            server.app.services.pulse.close()

        server.call(close())
        with reader(server, "/events") as raw:
            data = raw.rest()

    assert b"HTTP/1.1 200 OK" in data
    assert b"retry: " in data
    assert not data.endswith(LAST_CHUNK)


@pytest.mark.parametrize("error", [StorageFailed("no"), OSError(5, "no")], ids=["ours", "system's"])
def test_a_disk_that_cannot_be_read_cuts_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def broken(*_: object) -> None:
        raise error

    with Running(tmp_path) as server:
        assert server.http.post("/chat", json={"message": "Hi"}).status_code == 200
        monkeypatch.setattr(Conversation, "read_file", broken)
        with reader(server, "/events?after=0") as raw:
            data = raw.rest()
        wait_for_readers(server, 0)

    assert b"HTTP/1.1 200 OK" in data
    assert not data.endswith(LAST_CHUNK)


def test_a_reader_that_leaves_is_forgotten_at_once_and_the_turn_goes_on(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate(), "lo")) as server:
        raw = chat(server)
        raw.until(b'"text":"Hel"')
        wait_for_readers(server, 1)
        raw.leave()
        wait_for_readers(server, 0)
        gate.open()
        with reader(server, "/events?after=0") as other:
            data = other.until(b"turn.completed")

    assert b'"text":"Hello"' in data


def test_head_is_answered_by_headers_alone(tmp_path: Path) -> None:
    with Running(tmp_path) as server, reader(server, "/events", "HEAD") as raw:
        head = raw.until(b"\r\n\r\n")
        wait_for_readers(server, 0)
        # The connection goes on: the next request on it is answered.
        raw.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = raw.until(b'{"status":"ok"}')

    assert b"text/event-stream" in head
    assert data.startswith(head)


def test_a_heartbeat_comes_only_after_silence(tmp_path: Path) -> None:
    with Running(tmp_path, heartbeat=0.4) as server, reader(server, "/events") as raw:
        raw.until(b"caught_up")
        quiet_since = time.monotonic()
        raw.until(b'data: {"type":"heartbeat"}\n\n')
        first = time.monotonic() - quiet_since
        assert raw.data.count(b"heartbeat") == 1

    assert 0.3 < first < 2


def test_a_reader_that_takes_nothing_is_dropped_and_its_connection_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "STUCK_SECONDS", 0.5)
    text = "x" * 60_000
    with Running(
        tmp_path, Scripted(*[text] * 130), heartbeat=0.4, max_reply_bytes=900_000
    ) as server:
        stuck = socket.create_connection(("127.0.0.1", server.port))
        port = stuck.getsockname()[1]
        stuck.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for_readers(server, 1)
        for _ in range(20):  # a writer waits for nobody
            assert server.http.post("/chat", json={"message": "Hi"}).status_code == 200
        wait_for_readers(server, 0)
        until = time.monotonic() + 10
        while port in clients_of(server):
            assert time.monotonic() < until, "the kernel holds the connection still"
        stuck.close()


def clients_of(server: Running) -> set[int]:
    return {
        connection.raddr.port
        for connection in psutil.Process().net_connections("tcp")
        if connection.raddr and connection.laddr.port == server.port
    }


def test_many_readers_get_the_same_bytes_at_the_cost_of_one_write_each(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted(gate := Gate(), "Hello")) as server:
        readers = [Raw(server, "/events") for _ in range(20)]
        for raw in readers:
            raw.until(b"caught_up")
        asked = chat(server)
        gate.reached()
        gate.open()
        answers = {
            tuple(
                orjson.loads(line[6:])["id"]
                for line in raw.until(b"turn.completed").split(b"\n")
                if line.startswith(b'data: {"type":"turn.')
            )
            for raw in readers
        }
        for raw in [*readers, asked]:
            raw.leave()

    assert len(answers) == 1


def lines_of(server: Running, method: str, path: str, **given: Any) -> list[dict[str, Any]]:
    """Read a stream as httpx cuts it into lines; returns the events until all but b's are there."""
    found = []
    with httpx.stream(method, server.base_url + path, trust_env=False, **given) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(orjson.loads(line[6:]))
                about = found[-1]["conversation_id"]
                if found[-1]["type"] in ("caught_up", "error") and about != "b":
                    break
            else:
                assert line == "" or line.startswith(("id: ", "retry: ")), ascii(line)
    return found


def test_separators_that_some_readers_take_for_line_ends_leave_escaped(tmp_path: Path) -> None:
    """httpx's `iter_lines`, and httpx-sse up to 0.4.1, end a line there."""
    text, name = "a\u2028b\u2029c\x85d", "n\u2028n"
    with Running(tmp_path, Scripted(text, gate := Gate())) as server:
        body = {"message": text, "conversation_id": name, "turn_id": "turn-0001"}
        server.http.post("/turns", json=body)
        gate.reached()
        several = "/events?conversation_id=b&after="
        of_turn = f"/turns/turn-0001/events?conversation_id={name}"
        running = lines_of(server, "GET", of_turn)
        gate.open()
        streams = [
            lines_of(server, "POST", "/chat", json=body, headers=EVENT_STREAM),
            lines_of(server, "GET", of_turn),
            lines_of(server, "GET", f"/events?conversation_id={name}&after=0"),
            lines_of(server, "GET", f"{several}&conversation_id={name}&after=0"),
        ]
        long = "x" * 300 + name
        refused = lines_of(server, "GET", f"{several}&conversation_id={long}&after=0")

    assert [e["text"] for e in running if e["type"] == "delta"] == [text]
    for events in streams:
        shown = [e for e in events if e.get("conversation_id") == name]
        assert shown[1]["message"]["content"] == text
        assert next(e["text"] for e in shown if e["type"] == "turn.completed") == text
    assert refused[-1]["type"] == "error"
