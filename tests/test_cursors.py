"""`protocol.md`, section 2, "Cursors", sentence by sentence, on every transport that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from chatstream.events import event_id, place
from chatstream.providers.adapters.scripted import Scripted
from tests.running import EVENT_STREAM, Frame, Gate, Running, kinds
from tests.test_web_websocket import Socket

TURN = "turn-0001"
LATER = "turn-0002"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with two turns that have ended."""
    with Running(tmp_path_factory.mktemp("data"), Scripted("Hello")) as server:
        for turn_id in (TURN, LATER):
            chat(server, turn_id)
        yield server


def chat(server: Running, turn_id: str, **fields: str) -> httpx.Response:
    answer = server.http.post("/chat", json={"message": "Hi", "turn_id": turn_id, **fields})
    assert answer.status_code == 200
    return answer


def snapshot(server: Running, turn_id: str = TURN) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"/turns/{turn_id}").json()
    return found


def follow(server: Running, query: str = "", headers: dict[str, str] | None = None) -> list[Frame]:
    with server.stream("GET", f"/events{query}", headers=headers) as stream:
        assert stream.response.status_code == 200
        return stream.until("caught_up")


def back(
    server: Running,
    turn_id: str | None = TURN,
    headers: dict[str, str] | None = None,
    query: str = "",
    **fields: str,
) -> list[Frame] | httpx.Response:
    """Come back by a `POST /chat`; returns what is streamed, or the refusal."""
    body = {"message": "Hi", **({"turn_id": turn_id} if turn_id else {}), **fields}
    asked = EVENT_STREAM | (headers or {})
    with server.stream("POST", f"/chat{query}", json=body, headers=asked) as stream:
        if stream.response.status_code == 200:
            return list(stream)
        stream.response.read()
        return stream.response


# ---- where they come from


@pytest.mark.parametrize("name", ["after", "lastEventId"])
def test_a_cursor_in_the_query_counts_under_both_names(server: Running, name: str) -> None:
    started = snapshot(server)["started_id"]

    everything = follow(server, f"?{name}={started}")
    of_turn = server.events(f"/turns/{TURN}/events?{name}={started}")

    assert kinds(everything) == [
        "ready", "turn.completed", "turn.started", "turn.completed", "caught_up",
    ]  # fmt: skip
    assert kinds(of_turn) == ["ready", "turn.completed"]


@pytest.mark.parametrize(
    "query",
    [
        "after=0&lastEventId={}", "lastEventId=0&after={}", "after=0&after={}",
        "lastEventId=x&lastEventId={}", "after=x&after=0&lastEventId=y&after={}",
        "after={}&lastEventId=", "after={}&after=", "lastEventId={}&after=",
    ],
)  # fmt: skip
def test_of_several_the_last_counts_and_an_empty_one_is_none(server: Running, query: str) -> None:
    query = query.format(snapshot(server)["started_id"])

    assert kinds(follow(server, f"?{query}"))[:2] == ["ready", "turn.completed"]
    assert kinds(server.events(f"/turns/{TURN}/events?{query}")) == ["ready", "turn.completed"]


def test_the_header_wins_and_of_several_headers_the_last_one_counts(server: Running) -> None:
    started = snapshot(server)["started_id"]
    path = f"/turns/{TURN}/events?after=0&lastEventId=0"

    for headers in (
        [("Last-Event-ID", started)],
        [("Last-Event-ID", "0"), ("Last-Event-ID", started)],
        [("Last-Event-ID", started), ("Last-Event-ID", "")],
    ):
        with server.stream("GET", path, headers=headers) as stream:
            assert kinds(stream) == ["ready", "turn.completed"]


@pytest.mark.parametrize("query", ["", "?after=", "?lastEventId=", "?after=&lastEventId=&after="])
def test_an_empty_cursor_is_none_on_every_stream(server: Running, query: str) -> None:
    none = {"Last-Event-ID": ""}

    assert kinds(follow(server, query, none)) == ["ready", "caught_up"]
    whole = server.events(f"/turns/{TURN}/events{query}", headers=none)
    assert kinds(whole) == ["ready", "turn.started", "turn.completed"]
    assert kinds(back(server, headers=none, query=query)) == [  # type: ignore[arg-type]
        "ready", "turn.started", "turn.completed",
    ]  # fmt: skip


@pytest.mark.parametrize("after", ["", None])
def test_an_empty_cursor_is_none_on_a_socket(server: Running, after: str | None) -> None:
    with Socket(server) as ws:
        ws.send("subscribe", after=after)
        assert [frame["type"] for frame in ws.until("caught_up")] == ["ready", "caught_up"]


def test_of_several_conversations_each_has_the_cursor_at_its_place(server: Running) -> None:
    end = server.http.get("/history").json()["cursor"]
    path = f"/events?conversation_id=default&conversation_id=b&after={end}&after=0"

    with server.stream("GET", f"{path}&lastEventId=x", headers={"Last-Event-ID": "x"}) as stream:
        frames = [next(stream) for _ in range(4)]

    assert sorted(kinds(frames)) == ["caught_up", "caught_up", "ready", "ready"]


# ---- which are good


def test_0_is_the_beginning(server: Running) -> None:
    assert kinds(follow(server, "?after=0"))[:3] == ["ready", "turn.started", "turn.completed"]


def test_any_id_is_a_good_one_whether_or_not_its_event_is_there(server: Running) -> None:
    chat(server, "turn-0003", conversation_id="other")
    elsewhere = server.http.get("/history?conversation_id=other").json()["cursor"]
    between = event_id(place(snapshot(server)["started_id"]) + 1)

    assert kinds(follow(server, f"?after={elsewhere}")) == ["ready", "caught_up"]
    assert kinds(follow(server, f"?after={between}"))[:2] == ["ready", "turn.completed"]


def bad_cursors(server: Running) -> list[str]:
    created = place(snapshot(server)["started_id"]) - 10_000 * 3_600_000
    future = place(snapshot(server, LATER)["last_id"]) + 10_000 * 3_600_000
    return ["malformed", "\x80", "null", event_id(future), event_id(created)]


def test_one_that_is_malformed_too_late_or_too_early_is_reset(server: Running) -> None:
    for cursor in bad_cursors(server):
        frames = follow(server, f"?after={quote(cursor)}")
        assert kinds(frames) == ["ready", "reset", "caught_up"]
        of_turn = server.events(f"/turns/{TURN}/events?after={quote(cursor)}")
        assert kinds(of_turn) == ["ready", "reset", "turn.started", "turn.completed"]
        assert kinds(back(server, query=f"?after={quote(cursor)}")) == kinds(of_turn)  # type: ignore[arg-type]


@pytest.mark.parametrize("cursor", ["%ff", "%ed%a0%80", "0%ff", "%00"])
def test_one_that_is_not_even_utf_8_is_malformed_and_no_refusal(
    server: Running, cursor: str
) -> None:
    for name in ("after", "lastEventId"):
        assert kinds(follow(server, f"?{name}={cursor}")) == ["ready", "reset", "caught_up"]


def test_after_an_erase_and_a_new_beginning_the_old_ones_are_reset(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        chat(server, TURN)
        old = snapshot(server)["last_id"]
        server.http.delete("/conversations?conversation_id=default")
        chat(server, LATER)
        again = kinds(follow(server, f"?after={old}"))

    assert again == ["ready", "reset", "caught_up"]


# ---- cut between `ready` and `reset`


def test_a_ready_that_a_reset_follows_has_no_id_so_that_a_cut_between_them_is_mended(
    server: Running,
) -> None:
    """The browser keeps its bad cursor, and is reset the next time."""
    for path in ("/events?after=x", f"/turns/{TURN}/events?after=x"):
        with server.stream("GET", path) as stream:
            ready, reset = next(stream), next(stream)
        assert (ready.type, ready.id, "id" in ready.data) == ("ready", None, False)
        assert (reset.type, reset.id, "id" in reset.data) == ("reset", None, False)
        assert ready.data["last_id"] == event_id(place(ready.data["last_id"]))
        with server.stream("GET", path.partition("?")[0] + "?after=0") as stream:
            ready = next(stream)
        assert ready.id == ready.data["id"] == ready.data["last_id"] == "0"


def test_so_it_is_for_each_of_several_conversations(server: Running) -> None:
    path = "/events?conversation_id=default&conversation_id=b&after=x&after=0"
    with server.stream("GET", path) as stream:
        frames = stream.until("caught_up") + stream.until("caught_up")

    readies = {f.data["conversation_id"]: "id" in f.data for f in frames if f.type == "ready"}
    assert readies == {"default": False, "b": True}


def test_and_on_a_socket(server: Running) -> None:
    with Socket(server) as ws:
        for after, has_id in (("x", False), ("0", True)):
            ws.send("subscribe", after=after)
            assert ("id" in ws.until("caught_up")[0]) is has_id


# ---- coming back by a POST, as fetch-event-source does


def test_a_post_for_a_known_turn_goes_on_strictly_after_the_cursor(tmp_path: Path) -> None:
    provider = Scripted("a", first := Gate(), "b", last := Gate(), "c")
    with Running(tmp_path, provider) as server:
        body = {"message": "Hi", "turn_id": TURN}
        with server.stream("POST", "/chat", json=body, headers=EVENT_STREAM) as stream:
            seen = stream.until("delta")
            first.open()
            seen += stream.until("delta")
        headers = EVENT_STREAM | {"Last-Event-ID": str(seen[-1].id)}
        with server.stream("POST", "/chat", json=body, headers=headers) as stream:
            (ready, *rest) = stream.until("caught_up")
            last.open()
            rest += list(stream)
        (listed,) = server.http.get("/conversations").json()["conversations"]

    assert listed["turns"] == 1
    assert ready.id == seen[-1].id
    assert kinds(rest) == ["caught_up", "delta", "turn.completed"]
    assert all(frame.id > str(seen[-1].id) for frame in rest if frame.id)
    deltas = [frame.data["text"] for frame in seen + rest if frame.type == "delta"]
    assert "".join(deltas) == "abc"


def test_a_post_by_one_who_has_it_all_ends_cleanly(server: Running) -> None:
    """Not by 204, as for EventSource: fetch-event-source takes that for a failure, for ever."""
    last = snapshot(server)["last_id"]

    frames = back(server, headers={"Last-Event-ID": last})

    assert kinds(frames) == ["ready"]  # type: ignore[arg-type]
    assert server.http.get(f"/turns/{TURN}/events?after={last}").status_code == 204


@pytest.mark.parametrize("turn_id", ["turn-9999", None])
@pytest.mark.parametrize("cursor", ["0", "x", "1764000000000-0007"])
def test_a_post_with_a_cursor_starts_nothing(
    server: Running, turn_id: str | None, cursor: str
) -> None:
    before = server.http.get("/history").json()

    streamed = back(server, turn_id, {"Last-Event-ID": cursor})
    waited = server.http.post(
        "/chat", json={"message": "Hi", "turn_id": turn_id}, headers={"Last-Event-ID": cursor}
    )

    started = server.http.post(
        "/turns", json={"message": "Hi", "turn_id": turn_id}, headers={"Last-Event-ID": cursor}
    )

    for refused in (streamed, waited, started):
        assert isinstance(refused, httpx.Response)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert server.http.get("/history").json() == before


def test_a_post_to_turns_with_a_cursor_tells_of_a_known_turn(server: Running) -> None:
    told = server.http.post(
        "/turns", json={"message": "Hi", "turn_id": TURN}, headers={"Last-Event-ID": "0"}
    )

    assert (told.status_code, told.json()["turn_id"]) == (202, TURN)


def test_a_post_with_a_cursor_and_another_body_is_a_conflict(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("a", gate := Gate(), "b")) as server:
        server.http.post("/turns", json={"message": "Hi", "turn_id": TURN})
        gate.reached()
        running = back(server, headers={"Last-Event-ID": "0"}, message="other")
        gate.open()
        chat(server, TURN)
        over = back(server, headers={"Last-Event-ID": "0"}, message="other")

    for refused in (running, over):
        assert isinstance(refused, httpx.Response)
        assert (refused.status_code, refused.json()["code"]) == (409, "turn_id_used")


def test_an_idempotency_key_names_the_turn_of_one_who_comes_back(server: Running) -> None:
    key = {"Idempotency-Key": "a key of another form"}
    server.http.post("/chat", json={"message": "Hi"}, headers=key)

    frames = back(server, None, key | {"Last-Event-ID": "0"})

    assert kinds(frames) == ["ready", "turn.started", "turn.completed"]  # type: ignore[arg-type]


def test_a_draining_server_still_lets_one_come_back(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("a")) as server:
        chat(server, TURN)
        server.call(server.app.services.runner.drain(0))
        frames = back(server, headers={"Last-Event-ID": "0"})
        reply = server.http.post(
            "/chat", json={"message": "Hi", "turn_id": TURN}, headers={"Last-Event-ID": "0"}
        )

    assert kinds(frames) == ["ready", "turn.started", "turn.completed"]  # type: ignore[arg-type]
    assert reply.json()["reply"] == "a"
