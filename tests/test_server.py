"""The program: its start, its signals, its end, and what a killed one leaves."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.running import Running
from tests.upstream import Upstream, text_of

CHATSTREAM = str(Path(sys.executable).parent / "chatstream")


class Program:
    """`chatstream serve` as a process, on a free port."""

    def __init__(self, data: Path, upstream: Upstream | None = None, **settings: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "OPEN"))}
        self.data = data
        clean |= {"CHATSTREAM_DATA_DIR": str(data), "CHATSTREAM_PORT": "0"}
        clean |= {f"CHATSTREAM_{name}": value for name, value in settings.items()}
        if upstream is None:
            clean |= {"CHATSTREAM_PROVIDER": "offline"}
        else:
            clean |= {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": upstream.openai_url}
        self._environment = clean

    def start(self) -> "subprocess.Popen[str]":
        """Start it, and wait for nothing."""
        return subprocess.Popen(
            [CHATSTREAM, "serve"],
            env=self._environment,
            cwd=self.data.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.process = self.start()
        self.said: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if "open http://" in line:
                self.url = line.split()[2].rstrip("/")
                break
        else:
            raise AssertionError(self.process.communicate())
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.process.kill()
        self.process.communicate()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def draining(self) -> None:
        """Wait until it says that it drains."""
        assert self.process.stderr is not None
        assert any("draining" in line for line in self.process.stderr)

    def end(self, seconds: float = 15) -> int:
        """Wait for its end; return its status."""
        return self.process.wait(seconds)

    def begin(self, message: str, tokens: int) -> "Answer":
        """Start a turn, and read until so many tokens have come."""
        answer = Answer(self, message)
        answer.read(len(text_of(tokens)))
        return answer


class Answer:
    """A turn's stream, read as far as one wants."""

    def __init__(self, program: Program, message: str) -> None:
        self.client = httpx.Client(base_url=program.url, timeout=15, trust_env=False)
        started = self.client.post("/turns", json={"message": message}).json()
        self.path = started["events"]
        self._open = self.client.stream("GET", self.path)
        self._lines = self._open.__enter__().iter_lines()
        self.text, self.last_id, self.end = "", "", ""

    def read(self, characters: int = 1 << 30) -> Self:
        """Take events until so much text is there, or the end."""
        while len(self.text) < characters and not self.end:
            line = next(self._lines)
            if not line.startswith("data: "):
                continue
            event: Any = orjson.loads(line[6:])
            self.last_id = event.get("id", self.last_id)
            if event["type"] == "delta":
                self.text += event["text"]
            elif "started_id" in event:
                self.text, self.end = event["text"], event["type"]
        return self

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def refused(program: Program) -> str:
    """Start what cannot start; return the only line that it says."""
    process = program.start()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("chatstream: "), err
    return err


def test_it_says_where_to_look_and_who_answers_and_why(data: Path) -> None:
    with Program(data) as program:
        page = program.http.get("/")
        assert program.http.get("/readyz").status_code == 200

    first, second = program.said
    assert first == "chatstream: offline (offline-script) answers: CHATSTREAM_PROVIDER says so\n"
    assert second.startswith("chatstream: open http://127.0.0.1:")
    assert page.status_code == 200


def test_a_second_process_on_the_folder_is_refused_with_the_first_ones_id(data: Path) -> None:
    with Program(data) as program:
        line = refused(Program(data, PORT=program.url.rpartition(":")[2]))

        assert str(program.process.pid) in line
        assert program.http.get("/healthz").status_code == 200


def test_an_address_in_use_is_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(Program(data, PORT=str(taken.getsockname()[1])))

    assert "CHATSTREAM_PORT" in line
    with Program(data):
        pass  # the folder was let go


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "CHATSTREAM_DATA_DIR" in refused(Program(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "x"), ("FSYNC", "maybe"), ("ALLOWED_ORIGINS", "*"), ("HOST", "0.0.0.0")],
)
def test_a_wrong_setting_is_named_in_one_line(data: Path, name: str, value: str) -> None:
    assert f"CHATSTREAM_{name}" in refused(Program(data, None, **{name: value}))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_an_idle_server_stops_at_once(data: Path, number: int, status: int) -> None:
    with Program(data) as program:
        program.signal(number)

        assert program.end(5) == status


def test_draining_refuses_new_turns_and_lets_running_ones_end(
    data: Path, upstream: Upstream
) -> None:
    with Program(data, upstream) as program:
        answer = program.begin("!tokens=3 gate tokens=2", 3)
        program.signal()
        program.draining()
        unready = program.http.get("/readyz")
        assert (unready.status_code, unready.headers["retry-after"]) == (503, "2")
        late = program.http.post("/chat", json={"message": "late"})
        assert (late.status_code, late.json()["code"]) == (503, "draining")
        assert int(late.headers["retry-after"]) >= 1
        with program.http.stream("GET", f"{answer.path}&after=0") as again:
            assert again.status_code == 200
            assert any(line.startswith("data: ") for line in again.iter_lines())
        upstream.open_gate()
        answer.read()
        status = program.end()
        answer.close()

    assert answer.end == "turn.completed"
    assert status == 0


def test_what_does_not_end_in_time_is_interrupted_with_its_text(
    data: Path, upstream: Upstream
) -> None:
    with Program(data, upstream, DRAIN_TIMEOUT="0.5") as program:
        answer = program.begin("!tokens=3 hang", 3)
        with connect(program.url.replace("http", "ws") + "/ws", proxy=None) as ws:
            ws.send('{"type":"subscribe","after":"0"}')
            program.signal()
            answer.read()
            seen = ""
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    seen = str(ws.recv(timeout=10))
        program.end(6)
        answer.close()

    assert (answer.end, answer.text) == ("turn.interrupted", text_of(3))
    assert "turn.interrupted" in seen
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1001, 1012)


def test_a_second_signal_ends_it_now(data: Path, upstream: Upstream) -> None:
    with Program(data, upstream, DRAIN_TIMEOUT="60") as program:
        answer = program.begin("!tokens=3 hang", 3)
        program.signal()
        program.draining()
        program.signal(signal.SIGINT)
        answer.read()
        program.end(6)
        answer.close()

    assert answer.end == "turn.interrupted"


def test_open_streams_and_stuck_clients_keep_no_server_alive(
    data: Path, upstream: Upstream
) -> None:
    with Program(data, upstream, DRAIN_TIMEOUT="0", MAX_REPLY_BYTES="900000") as program:
        port = int(program.url.rpartition(":")[2])
        stuck = []
        for _ in range(3):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"GET /events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stuck.append(client)
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        for _ in range(9):
            assert program.http.post("/chat", json={"message": "!huge=800000"}).status_code == 200
        program.signal()
        began = time.monotonic()
        program.end(10)
        for client in [*stuck, half]:
            client.close()

    assert time.monotonic() - began < 7


def test_a_killed_server_keeps_every_token_that_was_delivered(
    data: Path, upstream: Upstream
) -> None:
    with Program(data, upstream) as program:
        answer = program.begin("!pace=200 tokens=1000", 100)
        program.process.kill()
        with pytest.raises(httpx.HTTPError):
            answer.read()
        answer.close()
    with Program(data, upstream) as program:
        turn = program.http.get(answer.path.replace("/events", "")).json()
        rest = program.http.get(answer.path, headers={"Last-Event-ID": answer.last_id}).text

    assert turn["status"] == "interrupted"
    assert turn["text"].startswith(answer.text)
    assert text_of(1000).startswith(turn["text"])
    assert "reset" not in rest
    assert '"type":"turn.interrupted"' in rest


def test_logs_can_be_json_and_hold_no_text(data: Path, upstream: Upstream) -> None:
    with Program(data, upstream, LOG_FORMAT="json") as program:
        program.http.post("/chat", json={"message": "!say=secret", "user_id": "somebody"})
        with connect(program.url.replace("http", "ws") + "/ws?user_id=somebody", proxy=None):
            pass
        program.signal()
        _, err = program.process.communicate(timeout=10)
    records = [orjson.loads(line) for line in err.splitlines()]

    assert [record["event"] for record in records] == ["listening", "turn ended", "draining"]
    assert "secret" not in err and "somebody" not in err


def test_clients_that_come_all_at_once_are_taken_together(tmp_path: Path) -> None:
    async def rounds(server: Running) -> int:
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(64)]
        count = 0
        while len(server._server.server_state.connections) < len(clients):
            await asyncio.sleep(0)
            count += 1
        for client in clients:
            client.close()
        return count

    with Running(tmp_path) as server:
        assert server.call(rounds(server)) < 20
