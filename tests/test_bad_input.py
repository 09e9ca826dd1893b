"""Cursors that lead nowhere, and what else callers send that is wrong, over real sockets."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatstream.errors import StorageFailed, StorageFull
from chatstream.events import event_id, place
from chatstream.providers import Provider
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.web import websocket
from chatstream.web.frames import Frames
from tests.running import Frame, Gate, Running, kinds
from tests.test_web_websocket import Socket

TURN = "turn-0001"
# {} stands for an id that would be good.
MALFORMED = [
    " ", "abc", "null", "-1", "00", "0.0", "0x0", "0-0", "1", "\0", "0\0", "😀", "9" * 20_000,
    "%00", "../../etc/passwd", "1764000000000", "1764000000000-", "1764000000000-7",
    "{} ", " {}", "{}\n", "{}\0", "+{}", "-{}", "{}0", "0{}", "{},{}", "{}٣", "３{}",
]  # fmt: skip
FUTURE = ["9999999999999-9999", "8000000000000-0000"]
ANCIENT = ["0000000000000-0000", "0000000000000-0001", "1000000000000-0000"]
NOWHERE = MALFORMED + FUTURE + ANCIENT


def shown(cursor: str) -> str:
    return ascii(cursor[:24])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with a turn of alice's, one of bob's after it, and a second of alice's after that."""
    with Running(tmp_path_factory.mktemp("data"), Scripted("Hello")) as server:
        for user, turn in (("alice", TURN), ("bob", "turn-0002"), ("alice", "turn-0003")):
            body = {"message": "Hi", "user_id": user, "turn_id": turn}
            assert server.http.post("/chat", json=body).status_code == 200
        yield server


def written(server: Running, cursor: str) -> str:
    return cursor.replace("{}", turn(server, TURN)["last_id"])


def turn(server: Running, turn_id: str, user_id: str = "alice") -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"/turns/{turn_id}", params={"user_id": user_id}).json()
    return found


def follow(server: Running, headers: dict[str, str] | None = None, **query: str) -> list[Frame]:
    """Return what `GET /events` sends until it is caught up."""
    query.setdefault("user_id", "alice")
    with server.stream("GET", "/events", params=query, headers=headers) as stream:
        assert stream.response.status_code == 200
        return stream.until("caught_up")


# ---- cursors


@pytest.mark.parametrize("cursor", NOWHERE, ids=shown)
def test_a_cursor_that_leads_nowhere_is_answered_by_a_reset_on_every_stream(
    server: Running, cursor: str
) -> None:
    cursor = written(server, cursor)
    end = server.http.get("/history?user_id=alice").json()["cursor"]

    frames = follow(server, after=cursor)
    assert kinds(frames) == ["ready", "reset", "caught_up"]
    assert [(f.id, f.data.get("id")) for f in frames] == [(None, None)] * 3
    assert frames[0].data["last_id"] == end

    query = {"user_id": "alice", "after": cursor}
    whole = server.events(f"/turns/{TURN}/events", params=query)
    assert kinds(whole) == ["ready", "reset", "turn.started", "turn.completed"]

    with Socket(server, "?user_id=alice") as ws:
        ws.send("subscribe", after=cursor)
        answered = ws.until("caught_up")
    assert [frame["type"] for frame in answered] == ["ready", "reset", "caught_up"]
    assert "id" not in answered[0]
    assert answered[0]["last_id"] == end


@pytest.mark.parametrize(
    "cursor",
    [c for c in NOWHERE if c and c == c.strip() and c.isascii() and c.isprintable()],
    ids=shown,
)
def test_a_header_that_leads_nowhere_resets_although_the_query_is_good(
    server: Running, cursor: str
) -> None:
    headers = {"Last-Event-ID": written(server, cursor)}
    after = turn(server, TURN)["started_id"]

    assert kinds(follow(server, headers, after=after))[:2] == ["ready", "reset"]
    query = {"user_id": "alice", "after": after}
    frames = server.events(f"/turns/{TURN}/events", params=query, headers=headers)
    assert kinds(frames) == ["ready", "reset", "turn.started", "turn.completed"]


@pytest.mark.parametrize("value", [b"\xff\xfe", "１-٣".encode(), b"0\t0", b"x" * 60_000])
def test_bytes_that_no_browser_sends_as_last_event_id_reset_too(
    server: Running, value: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        head = b"GET /events?user_id=alice&after=0 HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: "
        raw.sendall(head + value + b"\r\n\r\n")
        got = b""
        while b"caught_up" not in got:
            assert (data := raw.recv(65536)), got
            got += data

    assert got.startswith(b"HTTP/1.1 200 ")
    assert b'"type":"reset"' in got and b"turn.started" not in got


def test_a_good_header_wins_over_a_bad_query_and_an_empty_one_is_none(server: Running) -> None:
    started, ended = turn(server, "turn-0003")["started_id"], turn(server, "turn-0003")["last_id"]

    frames = follow(server, {"Last-Event-ID": started}, after="abc")
    assert kinds(frames) == ["ready", "turn.completed", "caught_up"]
    frames = follow(server, {"Last-Event-ID": ""}, after=started)
    assert kinds(frames) == ["ready", "turn.completed", "caught_up"]
    path, query = "/turns/turn-0003/events", {"user_id": "alice", "after": "abc"}
    assert server.http.get(path, params=query, headers={"Last-Event-ID": ended}).status_code == 204


def test_the_beginning_and_every_id_since_the_logs_creation_are_gone_on_from(
    server: Running,
) -> None:
    whole = ["ready"] + 2 * ["turn.started", "turn.completed"] + ["caught_up"]
    first = turn(server, TURN)

    assert kinds(follow(server, after="0")) == whole
    assert kinds(follow(server, after=event_id(place(first["started_id"]) - 1))) == whole
    for number in range(place(first["started_id"]), place(first["last_id"]), 2_000):
        assert kinds(follow(server, after=event_id(number))) == ["ready", *whole[2:]]


def test_anothers_id_is_a_place_like_any_other_and_shows_nothing_of_theirs(
    server: Running,
) -> None:
    bobs, alices = turn(server, "turn-0002", "bob"), turn(server, "turn-0003")

    for cursor in (bobs["started_id"], bobs["last_id"]):
        frames = follow(server, after=cursor)
        assert kinds(frames) == ["ready", "turn.started", "turn.completed", "caught_up"]
        assert {f.data["turn_id"] for f in frames[1:-1]} == {"turn-0003"}
        query = {"user_id": "alice", "after": cursor}
        assert server.http.get(f"/turns/{TURN}/events", params=query).status_code == 204
        with Socket(server, "?user_id=alice") as ws:
            ws.send("subscribe", after=cursor)
            answered = ws.until("caught_up")
        assert [frame.get("turn_id") for frame in answered[1:-1]] == 2 * ["turn-0003"]
    # Older than the log that it is used on.
    first = turn(server, TURN)["last_id"]
    assert kinds(follow(server, user_id="bob", after=first))[:2] == ["ready", "reset"]
    assert kinds(follow(server, user_id="bob", after=alices["last_id"])) == ["ready", "caught_up"]


@pytest.mark.parametrize("cursor", ["abc", FUTURE[0], ANCIENT[1]])
def test_a_bad_cursor_on_a_turn_of_anothers_is_404_all_the_same(
    server: Running, cursor: str
) -> None:
    query = {"user_id": "bob", "after": cursor}

    assert server.http.get(f"/turns/{TURN}/events", params=query).status_code == 404


@pytest.mark.parametrize("cursor", ["abc", "9" * 13 + "-9999", "0" * 13 + "-0001"])
def test_a_running_turn_is_sent_whole_after_a_bad_cursor(tmp_path: Path, cursor: str) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("a", gate, "b")) as server:
        path = server.http.post("/turns", json={"message": "q"}).json()["events"]
        gate.reached()
        with server.stream("GET", f"{path}&after={cursor}") as stream:
            frames = stream.until("caught_up")
            gate.open()
            frames += list(stream)

    assert kinds(frames)[:3] == ["ready", "reset", "turn.started"]
    assert "".join(f.data.get("text", "") for f in frames if f.type == "delta") == "ab"
    assert frames[-1].data["text"] == "ab"


@pytest.mark.parametrize("after", [0, 7, True, [], {}, ["0"]])
def test_a_cursor_that_is_no_text_is_a_bad_frame_and_the_socket_goes_on(
    server: Running, after: object
) -> None:
    with Socket(server, "?user_id=alice") as ws:
        answer = ws.ask("subscribe", after=after)
        assert (answer["type"], answer["code"]) == ("error", "invalid_request")
        assert answer["errors"][0]["field"] == "after"
        assert ws.ask("subscribe", after="0")["type"] == "ready"


@pytest.mark.parametrize("query", ["after=0&user_id=%ed%a0%80", "x=%ff", "%ff=x"])
def test_a_query_that_cannot_be_read_is_422_not_a_guess(server: Running, query: str) -> None:
    assert server.http.get(f"/events?{query}").status_code == 422


# ---- floods


def test_a_flood_of_frames_leaves_everybody_else_a_turn_between_any_two(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    take = Frames.take

    async def counted(frames: Frames, text: str) -> None:
        nonlocal taken
        taken += 1
        await take(frames, text)

    async def most_between_two_turns() -> int:
        most = 0
        while taken < 500:
            before = taken
            await asyncio.sleep(0)
            most = max(most, taken - before)
        return most

    monkeypatch.setattr(Frames, "take", counted)
    with Socket(server, "?user_id=alice", max_queue=None) as ws:
        looking = asyncio.run_coroutine_threadsafe(most_between_two_turns(), server._server.loop)
        for _ in range(500):
            ws.send("subscribe", after="0")
        assert looking.result(10) == 1


def test_a_socket_that_asks_without_end_is_read_more_slowly_and_misses_no_answer(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "FRAMES_AT_ONCE", 5)
    monkeypatch.setattr(websocket, "FRAMES_PER_SECOND", 20)
    with Socket(server, "?user_id=alice") as ws:
        began = time.monotonic()
        for number in range(11):
            ws.send("ping", ref=number)
        assert [ws.next()["ref"] for _ in range(11)] == list(range(11))

    assert time.monotonic() - began > 5 / 20


# ---- what is asked again, or cannot be had now


def test_a_repeated_start_attaches_although_its_provider_is_configured_no_more(
    tmp_path: Path,
) -> None:
    both: dict[str, Provider] = {
        "scripted": Scripted("Hello"),
        "other": Scripted("Hi", name="other"),
    }
    body = {"message": "q", "turn_id": TURN, "provider": "other"}
    with Running(tmp_path, Providers(both, "scripted")) as server:
        first = server.http.post("/chat", json=body).json()
    with Running(tmp_path, Scripted("never asked")) as server:
        again = server.http.post("/chat", json=body)
        attached = server.http.post("/turns", json=body)
        changed = server.http.post("/turns", json={**body, "message": "another"})
        new = server.http.post("/turns", json={**body, "turn_id": "turn-0002"})

    assert (again.status_code, again.json()) == (200, first)
    assert (attached.status_code, attached.json()["turn_id"]) == (202, TURN)
    assert (changed.status_code, changed.json()["turn_id"]) == (409, TURN)
    assert (new.status_code, new.json()["code"]) == (400, "unknown_provider")


@pytest.mark.parametrize("error", [StorageFailed("bad"), StorageFull("full")])
def test_a_stream_that_cannot_begin_is_cut_so_that_the_client_comes_back(
    server: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(server.app.services.log, "conversation", refuse)
    for path in ("/events?user_id=alice", f"/turns/{TURN}/events?user_id=alice"):
        with server.stream("GET", path) as stream:
            assert stream.response.status_code == 200
            assert stream.response.headers["content-type"].startswith("text/event-stream")
            with pytest.raises(httpx.RemoteProtocolError):
                list(stream)
        assert len(stream.retries) == 1
    assert server.http.get(f"/turns/{TURN}?user_id=alice").status_code in (503, 507)


def test_any_copy_of_a_history_is_fresh_enough_for_a_star(server: Running) -> None:
    path = "/history?user_id=alice"
    tag = server.http.get(path).headers["etag"]

    for known in ("*", tag, f'"x", {tag}'):
        answer = server.http.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
    assert server.http.get(path, headers={"If-None-Match": '"*"'}).status_code == 200
