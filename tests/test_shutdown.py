"""The end of the program: what readers see of it, in which order, and that it always comes."""

import signal
import socket
import subprocess
import sys
import threading
import time
from asyncio import Transport
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode
from websockets.sync.client import connect

from chatstream.app import create_app
from chatstream.server.server import Server
from chatstream.server.websocket_protocol import SocketProtocol
from chatstream.settings import Settings
from chatstream.web.wire import RETRY_MS
from tests.running import Running
from tests.test_server import Program
from tests.upstream import Upstream, text_of


class Reader:
    """One idle `GET /events`, down to its bytes."""

    def __init__(self, program: Program) -> None:
        self.address = "127.0.0.1", int(program.url.rpartition(":")[2])
        self.socket = socket.create_connection(self.address, timeout=15)
        self.socket.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.data = b""
        while b"caught_up" not in self.data:
            self.data += self.socket.recv(65536)

    def to_the_end(self) -> bool:
        """Read until it is cut off; say whether somebody still listens at that moment."""
        while data := self.socket.recv(65536):
            self.data += data
        self.socket.close()
        try:
            socket.create_connection(self.address, timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    @property
    def retry(self) -> int:
        """When it is to come back, in milliseconds."""
        return int(self.data.partition(b"retry: ")[2].split(b"\n")[0])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_idle_streams_delay_no_end_and_are_cut_after_the_listener_is_closed(data: Path) -> None:
    with Program(data, DRAIN_TIMEOUT="60") as program, ExitStack() as stack:
        readers = [Reader(program) for _ in range(16)]
        url = program.url.replace("http", "ws") + "/ws"
        sockets = [stack.enter_context(connect(url, proxy=None)) for _ in range(4)]
        for ws in sockets:
            ws.send('{"type":"subscribe"}')
            assert '"ready"' in str(ws.recv(timeout=10))
        with ThreadPoolExecutor(len(readers)) as pool:
            began = time.monotonic()
            ends = [pool.submit(reader.to_the_end) for reader in readers]
            program.signal()
            assert program.end(10) == 0
            took = time.monotonic() - began
            listened = [end.result() for end in ends]
        for ws in sockets:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    ws.recv(timeout=10)
            assert closed.value.rcvd is not None and closed.value.rcvd.code in (1001, 1012)

    assert took < 5
    assert not any(listened)
    for reader in readers:
        assert b"transfer-encoding: chunked" in reader.data.lower()
        assert not reader.data.endswith(b"0\r\n\r\n")
        assert RETRY_MS <= reader.retry <= 3 * RETRY_MS
    assert len({reader.retry for reader in readers}) > 1


def test_a_socket_that_says_goodbye_and_reads_nothing_breaks_no_stop(data: Path) -> None:
    with Running(data) as server:
        for _ in range(40):  # more than what lies between takes
            server.http.post("/chat", json={"message": 30_000 * "\N{PILE OF POO}"})
        url = f"ws://127.0.0.1:{server.port}/ws"
        with connect(url, proxy=None, max_queue=1, close_timeout=0) as ws:
            ws.send('{"type":"subscribe","after":"0"}')
            (transport,) = server.transports(SocketProtocol)
            while not server.call(_waiting(transport)):
                pass
            ws.socket.sendall(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=True))
            while not transport.is_closing():
                server.http.get("/healthz")
            server.stop()


async def _waiting(transport: Transport) -> bool:
    """Say whether the client does not take what it is sent."""
    return transport.get_write_buffer_size() > 0


def test_while_turns_end_readers_of_every_kind_come_go_and_read_on(data: Path) -> None:
    with Upstream() as upstream, Program(data, upstream) as program:
        answer = program.begin("!tokens=3 gate tokens=2", 3)
        program.signal()
        program.draining()
        assert program.http.get("/history").status_code == 200
        assert program.http.get(answer.path.replace("/events", "")).json()["status"] == "running"
        assert program.http.post("/feedback", json={"rating": 5}).status_code == 200
        with connect(program.url.replace("http", "ws") + "/ws", proxy=None) as ws:
            ws.send('{"type":"send","message":"late","ref":1}')
            assert '"code":"draining"' in str(ws.recv(timeout=10))
            ws.send('{"type":"subscribe","after":"0"}')
            late = Reader(program)  # comes after the signal, and is served like any other
            upstream.open_gate()
            seen = ""
            with pytest.raises(ConnectionClosed):
                while True:
                    seen += str(ws.recv(timeout=10))
        late.to_the_end()
        answer.read()
        assert program.end(10) == 0
        answer.close()

    assert (answer.end, answer.text) == ("turn.completed", text_of(3) + text_of(2))
    assert '"turn.completed"' in seen
    assert b'"turn.completed"' in late.data


NEVER_ENDING = """
import asyncio, sys
from pathlib import Path
from chatstream.server import server
from chatstream.app import create_app
from chatstream.providers.registry import Providers
from chatstream.providers.adapters.scripted import Scripted
from chatstream.settings import Settings

async def deaf():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

server.EXIT_SECONDS = 0.5
settings = Settings(_env_file=None, port=0, data_dir=Path(sys.argv[1]), drain_timeout=0)
provider = Scripted("a", deaf)
app = create_app(settings, providers=Providers({provider.name: provider}, provider.name))
server.serve(app, lambda url: print(url, flush=True))
"""


def test_a_stop_that_hangs_exits_all_the_same_and_the_next_start_has_the_text(data: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NEVER_ENDING, str(data)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().rstrip("/")
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            path = client.post("/turns", json={"message": "q"}).json()["events"]
            with client.stream("GET", path) as stream:
                assert any('"type":"delta"' in line for line in stream.iter_lines())
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 1
    finally:
        process.kill()
        process.communicate()
    with Program(data) as program:
        turn = program.http.get(path.replace("/events", "")).json()

    assert (turn["status"], turn["text"]) == ("interrupted", "a")


def test_a_start_that_hangs_exits_all_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exited = threading.Event()
    monkeypatch.setattr("chatstream.server.server.EXIT_SECONDS", 0.01)
    monkeypatch.setattr("chatstream.server.server._exit_now", exited.set)
    app = create_app(Settings(_env_file=None, data_dir=data, provider="offline"))

    Server(app, print).handle_exit(signal.SIGINT, None)

    assert exited.wait(5)


def test_a_third_and_a_fourth_signal_change_nothing(data: Path) -> None:
    with Upstream() as upstream, Program(data, upstream, DRAIN_TIMEOUT="60") as program:
        answer = program.begin("!tokens=3 hang", 3)
        program.signal()
        program.draining()
        for _ in range(3):
            program.signal()
        answer.read()
        assert program.end(10) == 0
        answer.close()

    assert (answer.end, answer.text) == ("turn.interrupted", text_of(3))
