"""uvicorn's WebSocket made light: what it inherits, what it sends at once, what it keeps."""

import asyncio
import gc
import inspect
import logging
import re
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from chatstream.providers.adapters.scripted import Scripted
from chatstream.server.mailbox import Gate, Mailbox
from chatstream.server.websocket_protocol import (
    EXTRAS_AT_ONCE,
    EXTRAS_PER_SECOND,
    OWN,
    SLICE,
    SocketProtocol,
)
from chatstream.web import websocket
from chatstream.web.websocket import FRAMES
from tests.log_steps import until
from tests.running import Running
from tests.test_web_websocket import Socket, readers

SECONDS = 10.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("data")) as server:
        yield server


class Served:
    """
    One ASGI application behind one protocol of uvicorn, in the test's loop.

    Attributes:
        url: Where it is.
        protocols: The protocol of each connection.
        writes: What each `write` of any connection was given.
    """

    def __init__(self, app: ASGIApp, kind: Any = SocketProtocol, **given: Any) -> None:
        given = {"ws_ping_interval": None, "ws_per_message_deflate": False, **given}
        self._config = uvicorn.Config(
            app, ws=SocketProtocol, log_config=None, lifespan="off", proxy_headers=False, **given
        )
        self._config.load()
        self._kind = kind
        self._state = ServerState()
        self.protocols: list[Any] = []
        self.writes: list[bytes] = []
        self.url = ""

    def make(self) -> Any:
        """Return a protocol for a connection that comes."""
        served, kind = self, self._kind

        class Recorded(kind):  # type: ignore[misc, valid-type]
            __slots__ = ()

            def connection_made(self, transport: Any) -> None:
                served.protocols.append(weakref.proxy(self))
                super().connection_made(_Recording(transport, served.writes))

        return Recorded(self._config, self._state, {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Served"]:
        """Serve until the block's end."""
        server = await asyncio.get_running_loop().create_server(self.make, "127.0.0.1", 0)
        _small(server.sockets[0])
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*self._state.tasks, return_exceptions=True)

    @asynccontextmanager
    async def client(self, **given: Any) -> AsyncIterator[ClientConnection]:
        """Connect a client to it."""
        async with self.running(), connect(self.url, proxy=None, **given) as client:
            yield client


def _small(listening: Any) -> None:
    """Let the kernel keep little of what a client does not read yet."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_000)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_000)


class _Recording:
    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def accepted(receive: Receive, send: Send) -> None:
    """Shake hands."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each message back, as one of two frames."""
    await accepted(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "frames": [b"echo", message["text"].encode()]})


# ---- what is inherited


@pytest.mark.anyio
async def test_uvicorn_s_protocol_has_exactly_the_attributes_that_are_given_slots() -> None:
    served = Served(echo, WebSocketsSansIOProtocol)
    async with served.running(), connect(served.url, proxy=None) as client:
        (protocol,) = served.protocols
        found = set(vars(protocol))
        await client.close()

    assert found | set(OWN) == set(SocketProtocol.__slots__), (
        "uvicorn has changed: see socket_protocol"
    )


def test_uvicorn_uses_no_more_of_its_queue_and_its_event_than_is_there() -> None:
    source = inspect.getsource(WebSocketsSansIOProtocol)
    for name, ours in (("queue", Mailbox), ("writable", Gate)):
        used = set(re.findall(rf"self\.{name}\.(\w+)", source))
        assert used, f"uvicorn has no {name} any more: see socket_protocol"
        assert used <= set(dir(ours)), f"uvicorn asks more of its {name}: see socket_protocol"


@pytest.mark.anyio
async def test_a_socket_keeps_neither_its_handshake_nor_a_dict_of_its_own() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        assert dict(scope["headers"])[b"x-own"] == b"1"
        await echo(scope, receive, send)

    served = Served(app)
    async with served.client(additional_headers={"x-own": "1"}) as client:
        await client.send("Hi")
        assert await client.recv() == "echo"
        (protocol,) = served.protocols

        assert vars(protocol) == {}
        assert scopes[0]["headers"] == []
        assert FRAMES in scopes[0]["extensions"]
        assert not hasattr(protocol, "request") and not hasattr(protocol, "response")


@pytest.mark.anyio
async def test_what_took_the_request_is_gone_once_it_has_become_a_socket() -> None:
    gc.collect()
    gc.disable()
    try:
        served = Served(echo, HttpToolsProtocol)
        async with served.client() as client:
            await client.send("Hi")
            assert [await client.recv(), await client.recv()] == ["echo", "Hi"]
            (http,) = served.protocols
            with pytest.raises(ReferenceError):
                vars(http)
    finally:
        gc.enable()


# ---- sending


@pytest.mark.anyio
async def test_many_frames_leave_in_one_write_and_come_one_by_one() -> None:
    texts = [f"{number} \u20ac {'x' * number}" for number in range(100)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accepted(receive, send)
        frames = [text.encode() for text in texts]
        await send({"type": "websocket.send", "frames": frames})
        await send({"type": "websocket.send", "text": "last"})
        await receive()

    served = Served(app)
    async with served.client() as client:
        found = [await client.recv() for _ in range(101)]

    assert found == [*texts, "last"]
    handshake, batch, last, *_ = served.writes
    assert handshake.startswith(b"HTTP/1.1 101") and last.endswith(b"last")
    assert len(batch) > sum(len(text.encode()) for text in texts)


@pytest.mark.anyio
@pytest.mark.parametrize("resets", [True, False], ids=["resets", "closes"])
async def test_who_sends_to_a_client_that_has_left_is_told_so(resets: bool) -> None:
    told: list[type[BaseException]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accepted(receive, send)
        assert (await receive())["type"] == "websocket.disconnect"
        for _ in range(2):
            with pytest.raises(ClientDisconnected) as caught:
                await send({"type": "websocket.send", "frames": [b"1", b"2"]})
            told.append(caught.type)
            await asyncio.sleep(0)

    served = Served(app)
    async with served.client() as client:
        if resets:
            client.transport.abort()
        await client.close()

    assert len(told) == 2
    assert len(served.writes) == 1 if resets else served.writes[1:] == [b"\x88\x02\x03\xe8"]


@pytest.mark.anyio
@pytest.mark.parametrize("leaves", [False, True], ids=["reads again", "leaves"])
async def test_who_reads_nothing_is_waited_for_and_then_gets_everything(leaves: bool) -> None:
    piece, pieces = b"x" * 32_000, 60
    sent: list[int] = []
    told: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accepted(receive, send)
        try:
            for number in range(pieces):
                frames = [b"%d" % number, piece]
                await send({"type": "websocket.send", "frames": frames})
                sent.append(number)
        except ClientDisconnected as error:
            told.append(error)

    served = Served(app)
    async with served.client(max_queue=1) as client:
        (protocol,) = served.protocols
        await until(lambda: protocol.writable._opened is not None)
        await asyncio.sleep(0.05)
        held = len(sent)
        assert held < pieces
        assert protocol.transport.get_write_buffer_size() < 200_000
        if leaves:
            client.transport.abort()
            await until(lambda: bool(told))
        else:
            for number in range(pieces):
                assert await client.recv() == str(number)
                assert await client.recv() == piece.decode()

    assert len(sent) == held if leaves else sent == list(range(pieces))


@pytest.mark.anyio
async def test_a_send_that_is_broken_off_while_it_waits_sends_nothing_of_its_frames() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accepted(receive, send)
        (protocol,) = served.protocols
        protocol.pause_writing()
        sending = asyncio.ensure_future(
            send({"type": "websocket.send", "frames": [b"1", b"2", b"3"]})
        )
        await asyncio.sleep(0)
        sending.cancel()
        assert await asyncio.gather(sending, return_exceptions=True)
        protocol.resume_writing()
        await send({"type": "websocket.send", "text": "4"})
        await receive()

    served = Served(app)
    async with served.client() as client:
        assert await client.recv() == "4"


# ---- receiving


@pytest.mark.anyio
async def test_pings_are_answered_and_fragments_are_joined() -> None:
    async with Served(echo).client() as client:
        async with asyncio.timeout(SECONDS):
            await (await client.ping(b"here"))
        await client.send(["a", "b", "c"])

        assert [await client.recv(), await client.recv()] == ["echo", "abc"]


@pytest.mark.anyio
async def test_its_own_pings_go_on_as_long_as_they_are_answered() -> None:
    served = Served(echo, ws_ping_interval=0.01)
    async with served.client():
        (protocol,) = served.protocols
        for _ in range(2):
            protocol.last_ping_rtt = 0.0
            await until(lambda: protocol.last_ping_rtt > 0)


@pytest.mark.anyio
async def test_a_frame_that_is_too_big_closes_the_socket() -> None:
    async with Served(echo, ws_max_size=1000).client() as client:
        await client.send("x" * 1000)
        assert [await client.recv(), len(await client.recv())] == ["echo", 1000]
        await client.send("x" * 1001)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()

    assert closed.value.rcvd and closed.value.rcvd.code == 1009


def masked(first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame of at most 125 bytes, as it is on the wire."""
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


PING, PONG, TEXT_BEGUN, CONTINUED, ENDED = 0x89, 0x8A, 0x01, 0x00, 0x80
GLUED = {
    "bad UTF-8": (masked(0x81, b"\xff\xfe"), 1007),
    "RSV": (masked(0xC1, b"Hi"), 1002),
    "not masked": (b"\x81\x02Hi", 1002),
    "a reserved opcode": (masked(0x83, b"Hi"), 1002),
    "a long ping": (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),
    "half a message, then another": (masked(TEXT_BEGUN) * 2, 1002),
    "too much": (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4), 1009),
    "a close": (masked(0x88, b"\x03\xe8"), 1000),
    "a message and a close": (masked(0x81, b"Hi") + masked(0x88, b"\x03\xe9"), 1001),
}
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(("frames", "code"), GLUED.values(), ids=GLUED)
def test_frames_that_come_with_the_handshake_are_judged_after_its_answer(
    shared: Running, caplog: pytest.LogCaptureFixture, frames: bytes, code: int
) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=SECONDS) as client:
        client.sendall(HANDSHAKE + frames)
        found = b"".join(iter(partial(client.recv, 65536), b""))
    assert found.startswith(b"HTTP/1.1 101 ")
    assert b"\x88" in found and code.to_bytes(2, "big") in found.rpartition(b"\x88")[2]
    assert [record for record in caplog.records if record.levelno > logging.ERROR] == []
    assert not any("Fatal" in record.getMessage() for record in caplog.records)


@pytest.mark.anyio
async def test_frames_that_come_before_a_handshake_is_refused_are_dropped() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await send({"type": "websocket.close"})

    served = Served(app, HttpToolsProtocol)
    async with served.running():
        port = int(served.url.rpartition(":")[2].strip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await asyncio.sleep(0.02)
        writer.write(masked(0x81, b"\xff"))
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
        writer.close()


FLOODS = {
    "pings": masked(PING, b"p" * 125),
    "empty pings": masked(PING),
    "pongs": masked(PONG),
    "empty fragments": masked(CONTINUED),
    "fragments of one byte": masked(CONTINUED, b"x"),
    "messages in two": masked(CONTINUED | ENDED) + masked(TEXT_BEGUN),
}


@pytest.mark.anyio
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_control_frames_and_fragments_are_read_at_a_bounded_pace(flood: bytes) -> None:
    served = Served(echo)
    async with served.client() as client:
        (protocol,) = served.protocols
        taken = 0
        counted = protocol._count_extras

        def count() -> None:
            nonlocal taken
            taken += len(protocol.conn.events)
            counted()

        client.transport.write(masked(TEXT_BEGUN))
        with patch.object(SocketProtocol, "_count_extras", lambda _: count()):
            for _ in range(20):
                client.transport.write(flood * 1000)
            await until(lambda: protocol.throttled is not None)
            await asyncio.sleep(0.2)
        assert EXTRAS_AT_ONCE <= taken < EXTRAS_AT_ONCE + 2 * SLICE // 6 + EXTRAS_PER_SECOND
        assert len(protocol.rest) <= 1 << 18
        protocol.transport.abort()


@pytest.mark.anyio
async def test_while_a_client_takes_nothing_only_the_last_ping_waits_for_its_answer() -> None:
    pongs: list[bytes] = []
    served = Served(echo)
    async with served.client() as client:
        (protocol,) = served.protocols
        protocol.pause_writing()
        for number in range(50):
            client.transport.write(masked(PING, b"%d" % number))
        await until(lambda: protocol.pong == b"\x8a\x0249")
        assert len(served.writes) == 1 + served.writes.count(b"")
        protocol.resume_writing()
        await client.send("Hi")
        assert await client.recv() == "echo"
        pongs += [data for data in served.writes if data.startswith(b"\x8a")]
    assert pongs == [b"\x8a\x0249"]


@pytest.mark.anyio
async def test_a_close_is_answered_also_to_a_client_that_takes_nothing() -> None:
    served = Served(echo)
    async with served.client() as client:
        (protocol,) = served.protocols
        protocol.pause_writing()
        client.transport.write(masked(PING, b"1") + masked(0x88, b"\x03\xe8"))
        await until(lambda: b"\x88\x02\x03\xe8" in served.writes)


@pytest.mark.anyio
async def test_a_message_in_many_fragments_takes_what_it_is_long() -> None:
    served = Served(echo)
    async with served.client() as client:
        (protocol,) = served.protocols
        client.transport.write(masked(TEXT_BEGUN, b"a") + masked(CONTINUED, b"b") * 500)
        await until(lambda: len(protocol.frames) == 1 and len(protocol.frames[0]) == 501)
        client.transport.write(masked(CONTINUED | ENDED, b"c"))
        assert [await client.recv(), await client.recv()] == ["echo", "a" + "b" * 500 + "c"]


@pytest.mark.anyio
async def test_many_messages_in_one_piece_come_one_by_one_and_all() -> None:
    served = Served(echo)
    async with served.client() as client:
        client.transport.write(b"".join(masked(0x81, b"%d" % n) for n in range(3000)))
        found = [await client.recv() for _ in range(6000)]
    assert found == [text for n in range(3000) for text in ("echo", str(n))]


@pytest.mark.anyio
async def test_a_message_as_long_as_it_may_be_is_taken_in_slices() -> None:
    served = Served(echo, ws_max_size=500_000)
    async with served.client() as client:
        text = "\u20ac" * 160_000
        await client.send(text)
        assert [await client.recv(), await client.recv()] == ["echo", text]


# ---- mailbox and gate


@pytest.mark.anyio
async def test_a_mailbox_gives_every_message_once_in_order_also_after_a_broken_off_wait() -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    assert mailbox.empty()
    for broken_off in (False, True):
        waiting = asyncio.ensure_future(mailbox.get())
        await asyncio.sleep(0)
        mailbox.put_nowait(1)
        mailbox.put_nowait(2)
        if broken_off:
            waiting.cancel()  # its message is there, but it has not taken it
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await mailbox.get() == 1
        else:
            assert await waiting == 1
        assert not mailbox.empty()
        assert await mailbox.get() == 2
        assert mailbox.empty()


@pytest.mark.anyio
async def test_a_gate_is_open_at_first_and_lets_all_who_wait_go_on_together() -> None:
    gate = Gate(asyncio.get_running_loop())
    await gate.wait()
    gate.clear()
    gate.clear()
    one, other, left = (asyncio.ensure_future(gate.wait()) for _ in range(3))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    assert not one.done() and not other.done() and left.cancelled()
    gate.set()
    gate.set()
    await asyncio.gather(one, other)
    await gate.wait()


# ---- a session on it

TEXT = "x" * 60_000
TURNS = 30
"""More than any buffer between the two takes."""


def backlog(server: Running) -> Socket:
    """Return a client that has asked for a long backlog, and reads none of it."""
    _small(server._server._sockets[0])
    for _ in range(TURNS):
        assert server.http.post("/chat", json={"message": "Hi"}).status_code == 200
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", server.port))
    client = Socket(server, sock=small, max_queue=1)
    client.send("subscribe", after="0")
    server.call(until(partial(_held_back, server)))
    return client


def _held_back(server: Running) -> bool:
    sessions = list(server.app.services.pulse._readers)
    return any(session.sending for session in sessions)


@pytest.mark.parametrize("leaves", ["resets", "closes", "breaks the rules"])
def test_a_session_whose_client_leaves_in_the_middle_of_a_send_ends_without_a_word(
    tmp_path: Path,
    leaves: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.1)
    with Running(tmp_path, Scripted(TEXT), fsync="never") as server:
        caplog.set_level(logging.WARNING, "uvicorn.error")
        client = backlog(server)
        connection = client.connection.socket
        if leaves == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        elif leaves == "closes":
            connection.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        else:
            client.connection.send(b"binary")
        readers(server, 0)
        server.call(until(lambda: not server._server.server_state.tasks))
        if leaves == "resets":
            client.close()
        else:
            client.vanish()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_session_whose_client_reads_late_sends_everything_once(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted(TEXT), fsync="never") as server, backlog(server) as client:
        (protocol,) = (p for p in server._server.server_state.connections if hasattr(p, "queue"))
        assert protocol.transport.get_write_buffer_size() < 400_000
        found = client.until("caught_up")

    events = [frame["id"] for frame in found if frame["type"] != "ready" and "id" in frame]
    assert len(events) == 2 * TURNS
    assert events == sorted(set(events))


def test_a_session_that_is_cancelled_from_outside_ends_so_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    messages: list[Any] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"type":"subscribe"}'},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    async def cancelled(server: Running) -> bool:
        scope = {"type": "websocket", "app": server.app, "query_string": b"", "headers": []}
        task = asyncio.ensure_future(websocket.Sockets()(scope, receive, send))
        await until(lambda: len(sent) == 3)  # accepted, ready, caught up
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    with Running(tmp_path) as server:
        assert server.call(cancelled(server))
        readers(server, 0)
