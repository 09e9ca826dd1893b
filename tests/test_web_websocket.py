"""The WebSocket over real sockets, with the `websockets` client; and in process with httpx-ws."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import httpx
import orjson
import pytest
from httpx_ws import AsyncWebSocketSession, aconnect_ws
from httpx_ws.transport import ASGIWebSocketTransport
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from chatstream.app import create_app
from chatstream.events import Address, Json
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.settings import Settings
from chatstream.web import heartbeats
from chatstream.web.feed import Subscription
from chatstream.web.frames import Frames
from tests.log_steps import unreadable
from tests.running import Gate, Running


class Socket:
    """A client that speaks JSON."""

    def __init__(self, server: Running, query: str = "", **given: Any) -> None:
        url = server.base_url.replace("http", "ws") + "/ws" + query
        self._open = ExitStack()
        self.connection: ClientConnection = self._open.enter_context(
            connect(url, proxy=None, **given)
        )

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, and wait for the other side's close."""
        self._open.close()

    def vanish(self) -> None:
        """End the connection without a word."""
        self.connection.socket.shutdown(SHUT_RDWR)
        self.close()

    def send(self, kind: str, **fields: Any) -> None:
        """Send a frame."""
        self.connection.send(orjson.dumps({"type": kind, **fields}).decode())

    def next(self) -> Json:
        """Return the next frame."""
        data = self.connection.recv(timeout=10)
        assert isinstance(data, str) and len(data.encode()) <= 1_000_000
        frame: Json = orjson.loads(data)
        return frame

    def until(self, kind: str, **fields: Any) -> list[Json]:
        """Return the frames up to one of a type that has these fields."""
        found = []
        while True:
            found.append(frame := self.next())
            if frame["type"] == kind and frame.items() >= fields.items():
                return found

    def ask(self, kind: str, **fields: Any) -> Json:
        """Send a frame and return the one that answers it."""
        self.send(kind, ref=f"{kind}-{id(fields)}", **fields)
        while True:
            frame = self.next()
            if frame.get("ref") == f"{kind}-{id(fields)}":
                return frame

    def closed(self) -> int:
        """Read to the end; return the close code."""
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.connection.recv(timeout=10)
        return closed.value.rcvd.code if closed.value.rcvd else 1006


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as running:
        yield running


def types(frames: list[Json]) -> list[str]:
    return [frame["type"] for frame in frames]


def readers(server: Running, count: int) -> None:
    """Wait until so many sockets are looked after, and watch the default conversation."""

    async def look() -> tuple[int, int]:
        services = server.app.services
        address = Address("default", "default")
        return services.pulse.readers, (await services.log.conversation(address)).readers

    until = time.monotonic() + 10
    while (found := server.call(look())) != (count, count):
        assert time.monotonic() < until, f"{found}, not {count}"


def test_a_send_is_acknowledged_before_its_turn_and_subscribes_from_there(server: Running) -> None:
    with Socket(server) as socket:
        socket.send("send", ref=7, message="Hi", conversation_id="c")
        frames = socket.until("turn.completed")

    assert types(frames)[:3] == ["ack", "ready", "turn.started"]
    assert frames[0] == {
        "type": "ack",
        "ref": 7,
        "turn_id": frames[2]["turn_id"],
        "conversation_id": "c",
    }
    assert frames[1]["id"] < frames[2]["id"]
    assert {frame["conversation_id"] for frame in frames} == {"c"}
    assert frames[-1]["text"] == "Hello"


def test_each_of_many_sends_at_once_is_acknowledged_before_its_own_turn(server: Running) -> None:
    with Socket(server) as socket:
        assert socket.ask("subscribe")["type"] == "ready"
        for number in range(20):
            socket.send("send", ref=number, message="Hi")
        seen: list[str] = []
        done = 0
        acknowledged: set[str] = set()
        while done < 20:
            frame = socket.next()
            if frame["type"] == "ack":
                acknowledged.add(frame["turn_id"])
            elif "turn_id" in frame:
                assert frame["turn_id"] in acknowledged, frame
            done += frame["type"] == "turn.completed"
            seen += [frame["id"]] if "id" in frame else []

    assert seen == sorted(set(seen))


def test_the_same_send_again_attaches_to_the_same_turn(server: Running) -> None:
    given = {"message": "Hi", "turn_id": "turn-0001"}
    with Socket(server) as one, Socket(server) as other:
        assert one.ask("send", **given)["turn_id"] == "turn-0001"
        one.until("turn.completed")
        other.send("send", ref=1, **given)
        frames = other.until("turn.completed")
        refused = other.ask("send", message="else", turn_id="turn-0001")

    assert types(frames) == ["ack", "ready", "turn.started", "turn.completed"]
    assert (refused["type"], refused["code"]) == ("error", "turn_id_used")


def test_subscribing_goes_on_after_a_cursor_and_again_replaces(server: Running) -> None:
    with Socket(server) as socket:
        socket.send("send", message="Hi")
        started = socket.until("turn.started")[-1]
        socket.until("turn.completed")
        socket.ask("ping")  # the first subscription's `caught_up` may have come after the end
        socket.send("subscribe", ref="a", after="0")
        whole = socket.until("caught_up")
        socket.send("subscribe", ref="b", after=started["id"])
        rest = socket.until("caught_up")
        socket.send("subscribe", ref="c", after="no id")
        reset = socket.until("caught_up")
        socket.send("send", message="again")
        new = socket.until("turn.completed")

    assert types(whole) == ["ready", "turn.started", "turn.completed", "caught_up"]
    assert types(rest) == ["ready", "turn.completed", "caught_up"]
    assert (rest[0]["ref"], rest[0]["id"]) == ("b", started["id"])
    assert types(reset) == ["ready", "reset", "caught_up"]
    assert types(new).count("turn.started") == 1


def test_unsubscribing_ends_a_conversation_and_no_other(server: Running) -> None:
    with Socket(server) as socket:
        socket.ask("subscribe", conversation_id="a")
        socket.ask("subscribe", conversation_id="b")
        assert socket.ask("unsubscribe", conversation_id="a")["type"] == "ack"
        for name in "ab":
            body = {"message": "Hi", "conversation_id": name}
            assert server.http.post("/chat", json=body).status_code == 200
        frames = socket.until("turn.completed")

    assert {frame["conversation_id"] for frame in frames} == {"b"}


def test_a_long_backlog_keeps_no_other_conversation_waiting(tmp_path: Path) -> None:
    text = "x" * 60_000
    with Running(tmp_path, Scripted(text)) as server:
        for _ in range(20):
            body = {"message": "Hi", "conversation_id": "long"}
            assert server.http.post("/chat", json=body).status_code == 200
        body["conversation_id"] = "short"
        assert server.http.post("/chat", json=body).status_code == 200
        with Socket(server) as socket:
            socket.send("subscribe", conversation_id="long", after="0")
            socket.send("subscribe", conversation_id="short", after="0")
            frames = socket.until("caught_up", conversation_id="short")
            done = types(frames).count("turn.completed")
            frames += socket.until("caught_up", conversation_id="long")

    assert done < 15
    assert types(frames).count("turn.completed") == 21


def test_history_feedback_and_clear_are_answered(server: Running) -> None:
    with Socket(server, "?user_id=b%C3%B6b") as socket:
        turn_id = socket.ask("send", message="Hi", user_id="böb")["turn_id"]
        socket.until("turn.completed")
        page = socket.ask("history", limit=1)
        rated = socket.ask("feedback", rating=5, turn_id=turn_id)
        cleared = socket.ask("clear")
        after = socket.ask("history")
        server.http.post("/chat", json={"message": "Hi", "user_id": "böb"})
        socket.until("turn.completed")  # the subscription goes on

    assert [item["message"] for item in page["history"]] == ["Hello"]
    assert (page["has_more"], page["conversation_id"]) == (True, "default")
    assert (rated["type"], cleared["type"]) == ("ack", "ack")
    assert after["history"] == []


def test_a_cancel_is_acknowledged_once_the_turn_has_ended(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate())) as server, Socket(server) as socket:
        turn_id = socket.ask("send", message="Hi")["turn_id"]
        gate.reached()
        ack = socket.ask("cancel", turn_id=turn_id)
        turn = server.http.get(f"/turns/{turn_id}").json()
        missing = socket.ask("cancel", turn_id="not-there")

    assert (ack["type"], ack["turn_id"]) == ("ack", turn_id)
    assert (turn["status"], turn["text"]) == ("cancelled", "Hel")
    assert (missing["type"], missing["code"]) == ("error", "not_found")


@pytest.mark.parametrize("erase", ["conversations", "users"])
def test_a_conversation_that_is_erased_goes_on(server: Running, erase: str) -> None:
    with Socket(server) as socket:
        socket.ask("send", message="Hi")
        socket.until("turn.completed")
        assert server.http.delete(f"/{erase}").status_code == 200
        socket.until("history.cleared")
        assert server.http.post("/chat", json={"message": "anew"}).status_code == 200
        frames = socket.until("turn.completed")

    assert [f["message"]["content"] for f in frames if f["type"] == "turn.started"] == ["anew"]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("[1]", "invalid_json"),
        ('{"type":"dance"}', "unknown_type"),
        ('{"type":["send"]}', "unknown_type"),
        ('{"type":"send"}', "invalid_request"),
        ('{"type":"send","message":" "}', "empty_message"),
        ('{"type":"send","message":"Hi","user_id":"other"}', "invalid_request"),
        ('{"type":"history","before":"x"}', "invalid_request"),
        ('{"type":"subscribe","conversation_id":".."}', "invalid_request"),
        ('{"type":"cancel","turn_id":5}', "invalid_request"),
        ('{"type":"ping","ref":{}}', "invalid_request"),
    ],
)
def test_a_bad_frame_is_answered_and_the_socket_goes_on(
    server: Running, frame: str, code: str
) -> None:
    with Socket(server) as socket:
        socket.connection.send(frame)
        error = socket.next()
        pong = socket.ask("ping")

    assert (error["type"], error["code"]) == ("error", code)
    assert error["message"]
    assert pong["type"] == "pong"


def test_a_refused_frame_is_told_with_its_ref_and_its_conversation(server: Running) -> None:
    with Socket(server) as socket:
        error = socket.ask("send", message="", conversation_id="c")

    assert (error["type"], error["conversation_id"]) == ("error", "c")


def test_a_defect_is_answered_as_internal_and_the_socket_goes_on(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Frames, "_history", broken)
    with Socket(server) as socket:
        error = socket.ask("history")
        pong = socket.ask("ping")

    assert (error["type"], error["code"]) == ("error", "internal")
    assert "secret" not in error["message"]
    assert pong["type"] == "pong"


def test_a_conversation_that_cannot_be_read_is_told_and_the_others_go_on(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.http.post("/chat", json={"message": "Hi", "conversation_id": "bad"})
    unreadable(monkeypatch, "bad")
    with Socket(server) as socket:
        socket.send("subscribe", conversation_id="bad", after="0")
        error = socket.until("error")[-1]
        assert socket.ask("send", message="Hi", conversation_id="good")["type"] == "ack"
        socket.until("turn.completed", conversation_id="good")

    assert (error["code"], error["conversation_id"]) == ("storage_failed", "bad")


def test_binary_and_over_long_frames_close_the_socket(tmp_path: Path) -> None:
    with Running(tmp_path, max_body_bytes=2000) as server:
        with Socket(server) as socket:
            socket.connection.send(b"{}")
            assert socket.closed() == 1003
        with Socket(server) as socket:
            socket.send("send", message="x" * 2001)
            assert socket.closed() == 1009


def test_a_wrong_user_is_refused_as_by_a_query(server: Running) -> None:
    for query in ("?user_id=", "?user_id=%FF", "?user_id=%00", "?user_id=.."):
        with Socket(server, query) as socket:
            assert socket.next()["code"] == "invalid_request"
            assert socket.closed() == 1008


@pytest.mark.parametrize(
    "given",
    [
        {"origin": Origin("https://evil.example")},
        {"origin": Origin("null")},
        {"additional_headers": {"Sec-Fetch-Site": "cross-site"}},
    ],
    ids=["foreign", "null", "fetch-site"],
)
def test_a_foreign_page_is_refused_at_the_handshake(server: Running, given: Any) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Socket(server, **given)

    assert refused.value.response.status_code == 403


def test_the_own_page_and_programs_may_connect(server: Running) -> None:
    origin = Origin(server.base_url)
    with Socket(server, origin=origin, subprotocols=[Subprotocol("chatstream.v1")]) as socket:
        assert socket.connection.subprotocol == "chatstream.v1"
        assert socket.ask("ping")["type"] == "pong"


def test_a_socket_is_told_to_come_back_after_the_last_events(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate())) as server:
        socket = Socket(server)
        socket.ask("send", message="Hi")
        gate.reached()
    frames = socket.until("turn.interrupted")

    assert frames[-1]["text"] == "Hel"
    assert socket.closed() == 1012
    socket.close()


def test_silence_is_filled_by_heartbeats(tmp_path: Path) -> None:
    with Running(tmp_path, heartbeat=0.2) as server, Socket(server) as socket:
        assert socket.next() == {"type": "heartbeat"}


def test_an_abrupt_end_leaves_nothing_behind_and_the_turn_goes_on(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate(), "lo")) as server:
        socket = Socket(server)
        turn_id = socket.ask("send", message="Hi")["turn_id"]
        readers(server, 1)
        socket.vanish()
        readers(server, 0)
        gate.open()
        done = server.events(f"/turns/{turn_id}/events")

    assert done[-1].data["text"] == "Hello"


def test_what_a_socket_asked_for_is_carried_out_although_it_leaves(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, done = Gate(), threading.Event()

    async def slow(*_: object) -> None:
        await gate()
        done.set()

    monkeypatch.setattr(Frames, "_clear", slow)
    socket = Socket(server)
    socket.send("clear")
    gate.reached()
    socket.vanish()
    gate.open()

    assert done.wait(10)
    readers(server, 0)


def test_what_a_socket_asked_for_is_carried_out_although_the_server_says_goodbye(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    async def slow(frames: Frames, data: Json, ref: object) -> None:
        await gate()
        done.set()

    async def goodbye() -> None:
        (session,) = server.app.services.pulse._readers
        session.end()

    done = threading.Event()
    monkeypatch.setattr(Frames, "_clear", slow)
    with Socket(server) as socket:
        socket.send("clear")
        gate.reached()
        server.call(goodbye())
        readers(server, 0)
        gate.open()
        assert done.wait(10)
        assert socket.closed() == 1012


def test_what_was_read_for_a_socket_that_broke_the_rules_meanwhile_is_not_sent(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    async def slow(_: Subscription) -> list[bytes]:
        await gate()
        return [b"{}", b"{}"]

    async def left() -> bool:
        (session,) = server.app.services.pulse._readers
        return bool(session._left)  # type: ignore[attr-defined]

    monkeypatch.setattr(Subscription, "frames", slow)
    with Socket(server) as socket:
        socket.send("subscribe")
        gate.reached()
        socket.connection.send(b"binary")
        until = time.monotonic() + 10
        while not server.call(left()):
            assert time.monotonic() < until
        gate.open()
        with pytest.raises(ConnectionClosed) as closed:
            socket.next()

    assert closed.value.rcvd and closed.value.rcvd.code == 1003


def test_a_defect_in_sending_is_logged_and_closes_the_socket(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Subscription) -> list[bytes]:
        raise TypeError("secret")

    monkeypatch.setattr(Subscription, "frames", broken)
    with Socket(server) as socket:
        socket.send("subscribe")
        assert socket.closed() == 1011
    readers(server, 0)

    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "socket failed"
    ]


def test_a_client_that_does_not_read_is_asked_no_more_and_then_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "STUCK_SECONDS", 1.0)
    with Running(tmp_path, Scripted("x" * 200_000), heartbeat=0.4) as server:
        assert server.http.post("/chat", json={"message": "Hi"}).status_code == 200
        socket = Socket(server, max_queue=1)
        socket.send("subscribe")
        readers(server, 1)
        held: list[int] = []

        async def look() -> int:
            (session,) = server.app.services.pulse._readers
            return len(session._answers)  # type: ignore[attr-defined]

        for _ in range(60):
            socket.send("history")
            held.append(server.call(look()))
        readers(server, 0)
        socket.vanish()

    assert max(held) <= 1


@pytest.mark.anyio
async def test_httpx_ws_is_served_in_process(tmp_path: Path) -> None:
    app = create_app(
        Settings(data_dir=tmp_path),
        providers=Providers({"scripted": Scripted("Hello")}, "scripted"),
    )
    socket: AsyncWebSocketSession
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=ASGIWebSocketTransport(app=app), base_url="http://localhost"
        ) as client,
        aconnect_ws("http://localhost/ws", client) as socket,
    ):
        await socket.send_json({"type": "send", "message": "Hi", "ref": 1})
        frames = [await socket.receive_json()]
        while frames[-1]["type"] != "turn.completed":
            frames.append(await socket.receive_json())

    assert types(frames)[:3] == ["ack", "ready", "turn.started"]
    assert frames[-1]["text"] == "Hello"
