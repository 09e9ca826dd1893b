"""HTTP/1 on the wire: bounds on heads, time and pipelines, places, and what HTTP/1.0 gets."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import orjson
import pytest
from websockets.sync.client import connect

from chatstream.providers.adapters.scripted import Scripted
from chatstream.server import connections, http_protocol, received_requests
from chatstream.server.connections import Turns
from chatstream.server.descriptors import places, raise_limit
from chatstream.server.http_protocol import HttpProtocol
from chatstream.settings import Settings
from chatstream.web import heartbeats, requests
from tests.log_steps import until
from tests.running import Gate, Running

SECONDS = 10.0
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
OPEN = b"POST /feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = OPEN + b"Transfer-Encoding: chunked\r\n\r\n"
RATING = b'{"rating":5}'


class Raw:
    """A client down to its bytes."""

    def __init__(self, server: Running) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
        self.data = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Raw:
        """Send bytes; a server that has hung up meanwhile may have answered."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            pass
        return self

    def until(self, mark: bytes) -> bytes:
        """Read until something has come."""
        while mark not in self.data:
            data = self.socket.recv(65536)
            assert data, self.data
            self.data += data
        return self.data

    def all(self) -> bytes:
        """Read to the end."""
        while data := self.socket.recv(65536):
            self.data += data
        return self.data

    def answer(self) -> Answer:
        """Read one answer that has a length, and take it away."""
        head, _, rest = self.until(b"\r\n\r\n").partition(b"\r\n\r\n")
        answer = Answer(head)
        length = int(answer.headers.get("content-length", "0"))
        while len(rest) < length:
            rest += self.socket.recv(65536)
        answer.body, self.data = rest[:length], rest[length:]
        return answer


class Answer:
    """An answer's head and body."""

    def __init__(self, head: bytes) -> None:
        line, *headers = head.decode().split("\r\n")
        self.status = int(line.split()[1])
        self.headers = httpx.Headers([header.partition(": ")[::2] for header in headers])
        self.body = b""

    def check_problem(self, status: int) -> None:
        """See that it is a problem, as every error is."""
        assert self.status == status
        assert self.headers["content-type"] == "application/problem+json"
        problem = orjson.loads(self.body)
        assert problem["status"] == status and problem["detail"] and problem["code"]
        assert problem["request_id"] == self.headers["x-request-id"] != ""
        assert self.headers["server-timing"].startswith("app;dur=")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("data")) as server:
        yield server


@contextmanager
def small(server: Running) -> Iterator[None]:
    """Let the kernel keep little of what the server does not read."""
    for listening in server._server._sockets:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_000)
    yield


def protocol_of(server: Running) -> HttpProtocol:
    """Return the one connection's protocol."""
    (found,) = [c for c in server._server.server_state.connections if isinstance(c, HttpProtocol)]
    return found


# ---- heads


TOO_LONG = {
    "201 headers": (GET[:-2] + b"a: b\r\n" * 200 + b"\r\n", 431),
    "10,000 headers": (GET[:-2] + b"a: b\r\n" * 10_000 + b"\r\n", 431),
    "a header of 1 MB": (GET[:-2] + b"a: " + b"b" * 1_000_000 + b"\r\n\r\n", 431),
    "a header without end": (GET[:-2] + b"a: " + b"b" * 80_000, 431),
    "a header's name without end": (GET[:-2] + b"a" * 80_000, 431),
    "a URL without end": (b"GET /" + b"a" * 80_000, 414),
    "a query without end": (b"GET /history?user_id=" + b"a" * 80_000, 414),
    "trailers": (CHUNKED + b"c\r\n" + RATING + b"\r\n0\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
    "a trailer without end": (CHUNKED + b"c\r\n" + RATING + b"\r\n0\r\na: " + b"b" * 300_000, 431),
    "a chunk's extension": (CHUNKED + b"c;" + b"b" * 300_000, 431),
    "a handshake's header": (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"a: " + b"b" * 20_000 + b"\r\n\r\n",
        431,
    ),
}


@pytest.mark.parametrize(("data", "status"), TOO_LONG.values(), ids=TOO_LONG)
def test_what_is_too_long_is_refused_as_a_problem(
    shared: Running, data: bytes, status: int
) -> None:
    with Raw(shared) as client:
        client.send(data).answer().check_problem(status)
        assert client.all() == b""


def test_heads_that_are_long_but_not_too_long_are_taken(shared: Running) -> None:
    with Raw(shared) as client:
        for head in (b"a: b\r\n" * 199, b"a: " + b"b" * 60_000 + b"\r\n"):
            assert client.send(GET[:-2] + head + b"\r\n").answer().status == 200
        long = b"GET /healthz?" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert client.send(long).answer().status == 200


def test_a_head_may_come_in_any_pieces(shared: Running) -> None:
    with Raw(shared) as client:
        for byte in GET * 2:
            client.send(bytes([byte]))
        assert [client.answer().status, client.answer().status] == [200, 200]


def test_trailers_are_no_headers(shared: Running) -> None:
    trailers = b"X-Request-ID: trailer\r\nHost: evil.example\r\n\r\n"
    with Raw(shared) as client:
        answer = client.send(CHUNKED + b"c\r\n" + RATING + b"\r\n0\r\n" + trailers).answer()
        assert answer.status == 200
        assert answer.headers["x-request-id"] != "trailer"
        assert client.send(GET).answer().status == 200


def test_a_body_in_chunks_of_one_byte_is_taken(shared: Running) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in RATING)
    with Raw(shared) as client:
        assert client.send(CHUNKED + chunks + b"0\r\n\r\n").answer().status == 200


# ---- what is no HTTP, or says two things


TWICE = {
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "two origins": OPEN + b"Origin: http://a\r\nOrigin: http://b\r\nContent-Length: 0\r\n\r\n",
    "another host": b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another port": b"GET http://localhost:1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a user": b"GET http://me@localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another scheme": b"GET ftp://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a handshake for another": b"GET http://evil.example/ws HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "two hosts of a handshake": b"GET /ws HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "two lengths": OPEN + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n",
    "a length and chunks": OPEN + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a tunnel": b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\r\n\r\n",
    "no method": b"SEND /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no path": b"GET \xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a bad chunk": CHUNKED + b"zz\r\n",
}


@pytest.mark.parametrize("data", TWICE.values(), ids=TWICE)
def test_what_is_no_request_is_a_problem(shared: Running, data: bytes) -> None:
    with Raw(shared) as client:
        client.send(data).answer().check_problem(400)


def test_the_whole_address_may_be_given_if_it_is_ours(shared: Running) -> None:
    with Raw(shared) as client:
        for host in (b"localhost", b"LOCALHOST:%d" % shared.port, b"[::1]:81"):
            head = b"GET http://%s/healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % (host, host.lower())
            assert client.send(head).answer().status == 200


def test_a_request_that_is_refused_keeps_its_id(shared: Running) -> None:
    with Raw(shared) as client:
        head = b"GET / HTTP/1.1\r\nX-Request-ID: mine-1\r\nHost: a\r\nHost: b\r\n\r\n"
        assert client.send(head).answer().headers["x-request-id"] == "mine-1"


HANDSHAKES = {
    "no key": (b"", 400),
    "a bad key": (b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n", 400),
    "another version": (b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400),
    "a body": (b"Content-Length: 5\r\n", 400),
}


@pytest.mark.parametrize(("more", "status"), HANDSHAKES.values(), ids=HANDSHAKES)
def test_a_handshake_that_fails_is_a_problem(shared: Running, more: bytes, status: int) -> None:
    head = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    with Raw(shared) as client:
        client.send(head + more + b"X-Request-ID: mine-2\r\n\r\n")
        answer = client.answer()
        answer.check_problem(status)
        assert answer.headers["x-request-id"] == "mine-2"
        assert client.all() == b""


# ---- many requests on one connection


def test_many_requests_at_once_are_answered_in_order(shared: Running) -> None:
    paths = [b"/healthz", b"/nothing", b"/readyz", b"/history"]
    many = b"".join(GET.replace(b"/healthz", path) for path in paths) * 250
    with Raw(shared) as client:
        client.send(many + GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n"))
        found = [client.answer().status for _ in range(1000)]
        assert found == [200, 404, 200, 200] * 250
        assert b"\r\nconnection: close\r\n" in client.all()


def test_who_reads_no_answers_is_not_read(tmp_path: Path) -> None:
    with Running(tmp_path) as server, small(server), Raw(server) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_000)
        client.socket.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += client.socket.send((GET * 100)[sent % len(GET) :])
        protocol = protocol_of(server)
        assert len(protocol.pipeline) <= 1
        assert len(protocol._data) <= 1 << 18
        assert protocol.transport.get_write_buffer_size() < 1 << 18
        client.socket.settimeout(SECONDS)
        for _ in range(sent // len(GET)):
            assert client.answer().status == 200


def test_while_a_stream_goes_on_no_more_than_one_request_waits(tmp_path: Path) -> None:
    with Running(tmp_path) as server, Raw(server) as client:
        client.send(EVENTS).until(b"caught_up")
        client.send(GET * 2000)
        protocol = protocol_of(server)
        server.call(until(lambda: len(protocol.pipeline) == 1))
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.until(b'"status":"ok"')
        assert len(protocol.pipeline) == 1


def test_a_stream_ends_with_its_client_also_where_more_requests_wait(tmp_path: Path) -> None:
    with Running(tmp_path, heartbeat=0.2) as server:
        with Raw(server) as client:
            client.send(EVENTS).until(b"caught_up")
            client.send(GET * 3)
            server.call(until(lambda: bool(protocol_of(server).pipeline)))
        server.call(until(lambda: server.app.services.pulse.readers == 0))


def test_what_is_wrong_behind_an_answer_is_told_behind_it(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("Hel", gate, "lo")) as server, Raw(server) as client:
        body = b'{"message":"Hi"}'
        head = b"Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.send(OPEN.replace(b"/feedback", b"/chat") + head + body).until(b'"Hel"')
        client.send(b"garbage\r\n\r\n")
        gate.open()
        client.until(b"\r\n0\r\n\r\n")
        client.data = client.data.partition(b"\r\n0\r\n\r\n")[2]
        client.answer().check_problem(400)


def test_a_bad_body_ends_only_its_own_request(shared: Running) -> None:
    with Raw(shared) as client:
        client.send(GET + CHUNKED + b"zz\r\n")
        assert client.answer().status == 200
        client.answer().check_problem(400)


def test_an_upgrade_waits_for_no_answer(tmp_path: Path) -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    with Running(tmp_path) as server, Raw(server) as client:
        client.send(EVENTS).until(b"caught_up")
        client.send(upgrade + b"\x81\x80\0\0\0\0")
        server.call(until(lambda: protocol_of(server)._refusal is not None))


def test_who_asks_for_a_continue_gets_it_and_a_head_has_no_body(shared: Running) -> None:
    with Raw(shared) as client:
        client.send(OPEN + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(RATING))
        client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.data = b""
        assert client.send(RATING).answer().status == 200
        client.send(GET.replace(b"GET", b"HEAD"))
        client.until(b"\r\n\r\n")
        client.data = b""
        assert client.send(GET).answer().body == b'{"status":"ok"}'


REFUSED_BY_HEAD = {
    "too long": (b"Content-Type: application/json\r\nContent-Length: 900000000\r\n", 413),
    "no JSON": (b"Content-Type: text/plain\r\nContent-Length: 5\r\n", 415),
    "no JSON, in chunks": (b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n", 415),
    "nothing said": (b"Content-Length: 5\r\n", 415),
}


@pytest.mark.parametrize("expects", [b"Expect: 100-continue\r\n", b""], ids=["expects", "sends"])
@pytest.mark.parametrize(("head", "status"), REFUSED_BY_HEAD.values(), ids=REFUSED_BY_HEAD)
def test_a_body_that_will_be_refused_is_not_asked_for(
    shared: Running, head: bytes, status: int, expects: bytes
) -> None:
    with Raw(shared) as client:
        client.send(b"POST /turns HTTP/1.1\r\nHost: localhost\r\n" + head + expects + b"\r\n")
        client.answer().check_problem(status)


def test_http_1_0_gets_no_continue(shared: Running) -> None:
    with Raw(shared) as client:
        head = OPEN.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\n"
        client.send(head + b"Content-Length: %d\r\n\r\n" % len(RATING)).send(RATING)
        assert client.answer().status == 200


def test_http_1_0_need_name_no_host(shared: Running) -> None:
    for version, status in ((b"1.0", 200), (b"1.1", 403)):
        with Raw(shared) as client:
            client.send(b"GET /healthz HTTP/%b\r\n\r\n" % version)
            assert client.answer().status == status


def test_another_protocol_that_is_offered_is_passed_over(shared: Running) -> None:
    offered = GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    with Raw(shared) as client:
        client.send(offered + GET)
        assert [client.answer().status, client.answer().status] == [200, 200]


BODIES = {
    "a length": b"Content-Length: %d\r\n\r\n%b" % (len(RATING), RATING),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(RATING), RATING),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("pieces", [1, 2, 1000], ids=["whole", "two pieces", "byte by byte"])
def test_an_offer_of_another_protocol_takes_no_body_away(
    shared: Running, body: bytes, pieces: int
) -> None:
    offered = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    data = (OPEN + offered + body) * 2 + GET
    with Raw(shared) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each = len(data) // pieces + 1
        for at in range(0, len(data), each):
            client.send(data[at : at + each])
        assert [client.answer().status for _ in range(3)] == [200, 200, 200]


def test_frames_that_come_with_the_handshake_are_not_lost(shared: Running) -> None:
    head = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    frame = b'{"type":"ping","ref":1}'
    with Raw(shared) as client:
        client.send(head + bytes((0x81, 0x80 | len(frame))) + b"\0\0\0\0" + frame)
        assert b'"pong"' in client.until(b"}")


# ---- time


@contextmanager
def quick(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> Iterator[None]:
    """Let deadlines pass soon."""
    for name, value in {"LOOK_SECONDS": 0.05, **seconds}.items():
        for module in (connections, http_protocol, received_requests):
            monkeypatch.setattr(module, name, value, raising=False)
    yield


HALVES = {
    "a head": b"GET / HTTP/1.1\r\nHost: local",
    "a method": b"GE",
    "an upgrade": b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
}


@pytest.mark.parametrize("begun", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("kept", [False, True], ids=["first", "later"])
def test_half_a_head_is_answered_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes, kept: bool
) -> None:
    with quick(monkeypatch, HEAD_SECONDS=0.3), Running(tmp_path) as server, Raw(server) as client:
        if kept:
            assert client.send(GET).answer().status == 200
        client.send(begun).answer().check_problem(408)
        assert client.all() == b""


def test_a_head_that_trickles_is_answered_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick(monkeypatch, HEAD_SECONDS=0.5), Running(tmp_path) as server, Raw(server) as client:
        client.socket.settimeout(0.05)
        for byte in GET[:-1] * 10:
            client.send(bytes([byte]))
            try:
                client.data += client.socket.recv(65536)
            except TimeoutError:
                continue
            break
        client.answer().check_problem(408)


def test_who_says_nothing_is_closed_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick(monkeypatch, HEAD_SECONDS=0.2), Running(tmp_path) as server, Raw(server) as client:
        assert client.all() == b""


def test_a_kept_connection_that_is_not_used_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick(monkeypatch, KEPT_SECONDS=0.2), Running(tmp_path) as server, Raw(server) as client:
        client.send(GET).answer()
        assert client.all() == b""


def test_who_takes_no_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "STUCK_SECONDS", 1.0)
    with Running(tmp_path) as server, Raw(server) as client:
        client.socket.settimeout(0.3)
        with pytest.raises((TimeoutError, ConnectionError)):
            while True:
                client.socket.sendall(GET * 100)
        server.call(until(lambda: not server._server.server_state.connections))


def test_half_a_body_is_answered_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    with quick(monkeypatch, REST_SECONDS=0.2), Running(tmp_path) as server, Raw(server) as client:
        client.send(OPEN + b"Content-Length: 100\r\n\r\n{").answer().check_problem(408)
        assert client.all() == b""


def test_half_a_body_that_nobody_reads_ends_soon_after_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick(monkeypatch, REST_SECONDS=0.2), Running(tmp_path) as server, Raw(server) as client:
        client.send(GET[:-2] + b"Content-Length: 100\r\n\r\n{")
        assert client.answer().status == 200
        assert client.all() == b""


def test_a_body_that_comes_whole_after_the_answer_leaves_the_connection_good(
    shared: Running,
) -> None:
    with Raw(shared) as client:
        client.send(GET[:-2] + b"Content-Length: 5\r\n\r\n{")
        assert client.answer().status == 200
        assert client.send(b"1234" + GET).answer().status == 200


def test_streams_have_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = {"HEAD_SECONDS": 0.1, "KEPT_SECONDS": 0.1, "REST_SECONDS": 0.1}
    with (
        quick(monkeypatch, **soon),
        Running(tmp_path, heartbeat=0.1) as server,
        Raw(server) as client,
        connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as ws,
    ):
        client.send(EVENTS).until(b"caught_up")
        for _ in range(5):
            client.data = b""
            client.until(b"heartbeat")
            assert "heartbeat" in str(ws.recv(timeout=SECONDS))


# ---- places


def busy(server: Running, stack: ExitStack, count: int) -> None:
    """Take places with streams, which leave none."""
    for _ in range(count):
        stack.enter_context(Raw(server)).send(EVENTS).until(b"caught_up")


def test_where_all_places_are_busy_health_checks_pass_and_all_else_is_503(tmp_path: Path) -> None:
    with Running(tmp_path, max_connections=3) as server, ExitStack() as stack:
        busy(server, stack, 3)
        with Raw(server) as client:
            answer = client.send(GET.replace(b"/healthz", b"/history")).answer()
            answer.check_problem(503)
            assert int(answer.headers["retry-after"]) >= 1
            assert client.all() == b""
        for path in (b"/healthz", b"/readyz"):
            with Raw(server) as client:
                assert client.send(GET.replace(b"/healthz", path)).answer().status == 200
                assert client.all() == b""
        with pytest.raises(Exception, match="503"):
            connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None)


def test_where_all_places_are_busy_an_event_source_is_told_to_come_back(tmp_path: Path) -> None:
    accepts = EVENTS[:-2] + b"Accept: text/event-stream\r\n\r\n"
    with Running(tmp_path, max_connections=1) as server, ExitStack() as stack:
        busy(server, stack, 1)
        with Raw(server) as client:
            found = client.send(accepts).all()
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b"retry: " in found and not found.endswith(b"0\r\n\r\n")


PAGE = b"Origin: http://app.example\r\n\r\n"
ASKED = {
    "a stream": (EVENTS[:-2] + b"Accept: text/event-stream\r\n", 200),
    "a stream of whoever accepts anything": (EVENTS[:-2], 200),
    "history": (GET[:-2].replace(b"/healthz", b"/history"), 503),
    "a turn": (OPEN.replace(b"/feedback", b"/turns") + b"Content-Length: 0\r\n", 503),
    "whether a turn may start": (
        b"OPTIONS /turns HTTP/1.1\r\nHost: localhost\r\nAccess-Control-Request-Method: POST\r\n",
        200,
    ),
    "a foreign host": (b"GET /history HTTP/1.1\r\nHost: evil.example\r\n", 403),
    "a bad request": (b"GET /history HTTP/1.1\r\nHost: localhost\r\nA b: 1\r\n", 400),
}


@pytest.mark.parametrize(("head", "status"), ASKED.values(), ids=ASKED)
def test_where_all_places_are_busy_an_allowed_page_may_read_the_answer(
    tmp_path: Path, head: bytes, status: int
) -> None:
    friends = ("http://app.example",)
    # What is wrong with a head is told before what follows it is read: the origin comes first.
    line, rest = head.split(b"\r\n", 1)
    asked = line + b"\r\n" + PAGE[:-2] + rest + b"\r\n"
    with (
        Running(tmp_path, max_connections=1, allowed_origins=friends) as server,
        ExitStack() as stack,
    ):
        busy(server, stack, 1)
        with Raw(server) as client:
            found = Answer(client.send(asked).until(b"\r\n\r\n").partition(b"\r\n\r\n")[0])
            assert client.all()
    assert found.status == status
    assert found.headers["access-control-allow-origin"] == "http://app.example"
    assert found.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in found.headers["vary"]
    assert found.headers["x-request-id"] and found.headers["server-timing"]
    if head.startswith(b"GET /events"):
        assert found.headers["x-accel-buffering"] == "no"
        assert "no-transform" in found.headers["cache-control"]


def test_a_place_that_is_left_is_free(tmp_path: Path) -> None:
    with Running(tmp_path, max_connections=2) as server:
        for _ in range(3):
            with ExitStack() as stack:
                busy(server, stack, 1)
                with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None):
                    pass
            server.call(until(lambda: len(server._server._connections) == 0))


def test_who_has_been_idle_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    with Running(tmp_path, max_connections=3) as server, ExitStack() as stack:
        busy(server, stack, 1)
        first, second, third = (stack.enter_context(Raw(server)) for _ in range(3))
        assert second.send(GET).answer().status == 200
        assert third.send(GET).answer().status == 200
        assert first.all() == b""
        assert second.send(GET).answer().status == 200


def test_those_that_say_nothing_keep_no_health_check_away(tmp_path: Path) -> None:
    with Running(tmp_path, max_connections=1) as server, ExitStack() as stack:
        busy(server, stack, 1)
        silent = [stack.enter_context(Raw(server)) for _ in range(connections.SPARES + 5)]
        with Raw(server) as client:
            assert client.send(GET).answer().status == 200
        assert silent[0].all() == b""


def test_an_address_has_its_own_bound(tmp_path: Path) -> None:
    with Running(tmp_path, max_connections_per_address=2) as server, ExitStack() as stack:
        busy(server, stack, 2)
        with Raw(server) as client:
            client.send(GET.replace(b"/healthz", b"/history")).answer().check_problem(503)


def test_on_loopback_an_address_has_no_bound_unless_it_is_set(tmp_path: Path) -> None:
    assert not Settings().limited("max_connections_per_address")
    assert Settings(host="0.0.0.0", insecure=True).limited("max_connections_per_address")


def test_the_limit_of_descriptors_is_raised_and_some_are_kept_back() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert raise_limit() == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    settings = Settings()
    assert places(settings, 1024) == 512
    assert 18_000 < places(settings, 20_000) < 19_500
    assert places(Settings(max_connections=50), 20_000) == 50
    assert places(Settings(max_connections=5000), 1024) == 512


# ---- HTTP/1.0, and answers that are the last


def old(path: str, body: bytes = b"") -> bytes:
    """Return a request of HTTP/1.0 for an event stream."""
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
    head += "Connection: keep-alive\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def test_http_1_0_gets_no_chunks_and_one_connection_header(shared: Running) -> None:
    with Raw(shared) as client:
        head, _, body = client.send(old("/chat", b'{"message":"Hi"}')).all().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert head.lower().count(b"\r\nconnection: ") == 1
    assert b"\r\nconnection: close" in head.lower()
    assert body.startswith(b"retry: ") and body.endswith(b"\n\n")
    assert b'"turn.completed"' in body


def test_http_1_0_has_its_json_and_its_heads(shared: Running) -> None:
    with Raw(shared) as client:
        answer = client.send(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").answer()
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
        assert client.all() == b""
    with Raw(shared) as client:
        found = client.send(b"HEAD /events HTTP/1.0\r\nHost: localhost\r\n\r\n").all()
        assert found.startswith(b"HTTP/1.1 200 ") and found.endswith(b"\r\n\r\n")


def test_a_stream_of_http_1_0_that_is_cut_looks_cut(tmp_path: Path) -> None:
    with Running(tmp_path) as server, Raw(server) as client:
        client.send(old("/events")).until(b"caught_up")
        server.stop()
        with pytest.raises(ConnectionResetError):
            client.all()


def test_the_last_answer_of_a_connection_has_one_connection_header(tmp_path: Path) -> None:
    with Running(tmp_path) as server, Raw(server) as client:
        client.send(EVENTS[:-2] + b"Connection: close\r\n\r\n")
        head = client.until(b"caught_up").partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"\r\nconnection: ") == 1 and b"\r\nconnection: close" in head
    assert b"transfer-encoding: chunked" in head


# ---- what is left behind


def test_connections_leave_no_circles_however_they_end(shared: Running) -> None:
    ends = [GET[:-2] + b"Connection: close\r\n\r\n", *(data for data, _ in TOO_LONG.values())]
    ends += [*TWICE.values(), old("/healthz")]
    for warm in (True, False):
        gc.collect()
        gc.disable()
        try:
            for data in ends:
                with Raw(shared) as client:
                    client.send(data).all()
            shared.call(until(lambda: len(shared._server._connections) == 0))
            found = [o for o in gc.get_objects() if isinstance(o, HttpProtocol)]
            assert warm or found == []
        finally:
            gc.enable()


def test_work_in_slices_goes_round_and_lets_others_in(shared: Running) -> None:
    async def run() -> tuple[list[str], int]:
        loop = asyncio.get_running_loop()
        turns, done, beats = Turns(loop), [], 0
        work = {"a": 200, "b": 200}

        def step(name: str) -> bool:
            time.sleep(0.0002)
            done.append(name)
            work[name] -= 1
            return work[name] > 0

        turns.add(lambda: step("a"))
        turns.add(lambda: step("b"))
        while any(work.values()):
            beats += 1
            await asyncio.sleep(0)
        return done, beats

    done, beats = shared.call(run())
    assert done == ["a", "b"] * 200
    assert beats > 10
