"""Turns over real sockets: starting, following, resuming, stopping; and every way that they end."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from chatstream.errors import ProviderError, ProviderTimeout, StorageFailed
from chatstream.events import BEGINNING, Address, event_id, place
from chatstream.log.files.live_turn import LiveTurn
from chatstream.providers import Finish, Reasoning, Text, Usage
from chatstream.providers.adapters.scripted import Scripted, Step
from chatstream.turns.runner import EndedTurn, TurnRunner
from chatstream.web import turns as turns_edge
from chatstream.web.finite import FiniteStream
from tests.running import EVENT_STREAM, Frame, Gate, Running, Stream, fold, kinds

TURN = "turn-0001"
ALL = ["ready", "turn.started", "turn.answering", "delta", "caught_up", "turn.completed"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path, Scripted("Hello ", Usage(3, 2), "world")) as server:
        yield server


def started(server: Running, **body: Any) -> str:
    """Start a turn; returns the path of its events."""
    answer = server.http.post("/turns", json={"message": "q", "turn_id": TURN, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["events"])


def ended(server: Running, **body: Any) -> dict[str, Any]:
    """Run a turn to its end; returns its terminal event."""
    return server.events(started(server, **body))[-1].data


# ---- starting


def test_chat_answers_json_with_every_field(server: Running) -> None:
    answer = server.http.post("/chat", json={"message": "hi", "turn_id": TURN})

    assert answer.status_code == 200
    assert answer.json() == {
        "reply": "Hello world",
        "status": "completed",
        "turn_id": TURN,
        "conversation_id": "default",
        "provider": "scripted",
        "model": "scripted",
        "finish_reason": "stop",
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "cached": False,
    }
    where = answer.headers["location"]
    assert where == f"/turns/{TURN}?user_id=default&conversation_id=default"
    assert server.http.get(where).json()["status"] == "completed"


def test_chat_streams_its_turn_and_ends_after_the_terminal_event(server: Running) -> None:
    with server.stream("POST", "/chat", json={"message": "hi"}, headers=EVENT_STREAM) as stream:
        frames = list(stream)
        headers = stream.response.headers

    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in headers
    assert len(stream.retries) == 1
    assert headers["location"].startswith(f"/turns/{frames[-1].data['turn_id']}?")
    assert frames[0].type == "ready"
    assert frames[-1].type == "turn.completed"
    assert [f.data["id"] for f in frames if f.id] == [f.id for f in frames if f.id]
    ids = [f.id for f in frames if f.id]
    assert ids == sorted(set(ids))


def test_turns_answers_202_with_a_path_that_carries_the_user_and_the_conversation(
    server: Running,
) -> None:
    user = "\N{GRINNING FACE}" * 254 + "/&"
    body = {"message": "q", "user_id": user, "conversation_id": "%2e+ ä"}

    answer = server.http.post("/turns", json=body)

    assert answer.status_code == 202
    told = answer.json()
    assert told["conversation_id"] == "%2e+ ä"
    assert answer.headers["location"] == told["events"].replace("/events", "", 1)
    assert fold(server.events(told["events"]))[told["turn_id"]]["text"] == "Hello world"


def test_the_events_have_the_fields_of_the_table(server: Running) -> None:
    body = {"temperature": 1, "max_tokens": 5, "system": "be brief", "model": "m"}
    with server.stream(
        "POST", "/chat", json={"message": "hi", **body}, headers=EVENT_STREAM
    ) as stream:
        frames = list(stream)

    first = next(f.data for f in frames if f.type == "turn.started")
    last = frames[-1].data
    assert set(first) == {
        "type", "id", "conversation_id", "turn_id", "message", "request", "created_at"
    }  # fmt: skip
    assert first["message"] == {"role": "user", "content": "hi"}
    assert first["request"] == {"provider": "scripted", **body}
    assert set(last) == {
        "type", "id", "conversation_id", "turn_id", "started_id", "text", "usage", "provider",
        "model", "ended_at", "ttft_ms", "duration_ms", "finish_reason", "cached",
    }  # fmt: skip
    assert last["started_id"] == first["id"]
    assert last["text"] == "Hello world"
    assert last["model"] == "m"
    assert isinstance(last["ttft_ms"], int)
    assert isinstance(last["duration_ms"], int)
    assert last["ended_at"].endswith("Z")
    assert len(last["ended_at"]) == len("2025-11-24T16:00:00.123Z")


def test_a_turn_that_is_running_shows_who_answers_and_its_thoughts(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted(Reasoning("hm "), Reasoning("so"), "Hel", gate, "lo")
    with Running(tmp_path, provider) as server:
        path = started(server)
        gate.reached()
        with server.stream("GET", path) as stream:
            frames = stream.until("caught_up")
            now = server.http.get(path.replace("/events", "")).json()
            gate.open()
            frames += list(stream)

    answering = next(f.data for f in frames if f.type == "turn.answering")
    assert {k: answering[k] for k in ("provider", "model", "attempt")} == {
        "provider": "scripted", "model": "scripted", "attempt": 1,
    }  # fmt: skip
    thoughts = [f for f in frames if f.data.get("kind") == "reasoning"]
    assert "".join(f.data["text"] for f in thoughts) == "hm so"
    assert (now["status"], now["text"], now["reasoning"]) == ("running", "Hel", "hm so")
    assert now["last_id"] == next(f for f in frames if f.type == "caught_up").data["last_id"]
    assert frames[-1].data["reasoning"] == "hm so"
    assert fold(frames)[TURN] == {"text": "Hello", "reasoning": "hm so", "status": "completed"}


# ---- ids and idempotency


def test_the_same_body_attaches_and_asks_the_provider_once(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("a", gate, "b")
    body = {"message": "q", "turn_id": TURN, "model": None}
    with Running(tmp_path, provider) as server:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(server.http.post, "/chat", json=body) for _ in range(8)]
            gate.reached()
            gate.open()
            answers = [future.result() for future in waiting]
        del body["model"]
        answers.append(server.http.post("/chat", json={**body, "user_id": "default"}))
        answers.append(server.http.post("/chat", json={"message": "q"}, headers=key(TURN)))

    assert {(a.status_code, a.json()["reply"]) for a in answers} == {(200, "ab")}
    assert len(provider.requests) == 1


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


def test_a_repeated_stream_of_an_ended_turn_is_its_start_and_its_end(server: Running) -> None:
    body = {"message": "q", "turn_id": TURN}
    told = []
    for accept in ("text/event-stream", "application/json, Text/Event-Stream;q=0.9"):
        with server.stream("POST", "/chat", json=body, headers={"Accept": accept}) as stream:
            told.append(list(stream))

    assert kinds(told[1]) == ["ready", "turn.started", "turn.completed"]
    assert fold(told[0]) == fold(told[1]) == fold(told[0] + told[1])


def test_another_body_is_409_and_not_to_be_retried(server: Running) -> None:
    ended(server)

    for body in ({"message": "other"}, {"message": "q", "temperature": 1}):
        answer = server.http.post("/chat", json={"turn_id": TURN, **body})
        assert answer.status_code == 409
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["turn_id"] == TURN


def test_a_repeated_start_attaches_after_a_restart_and_a_failure_is_given_again(
    tmp_path: Path,
) -> None:
    provider = Scripted("part", ProviderError("it broke"))
    body = {"message": "q", "turn_id": TURN}
    with Running(tmp_path, provider) as server:
        first = server.http.post("/chat", json=body)
        server.stop()
        server.start()
        again = server.http.post("/chat", json=body)

    assert first.status_code == again.status_code == 502
    own = ("request_id",)
    assert without(first.json(), own) == without(again.json(), own)
    assert len(provider.requests) == 1


def without(body: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in names}


def test_an_idempotency_key_of_any_form_is_a_turn_id(server: Running) -> None:
    for given in ("abcd1234", "short", "with spaces, and: more", "x" * 255):
        first = server.http.post("/chat", json={"message": "q"}, headers=key(given)).json()
        again = server.http.post("/chat", json={"message": "q"}, headers=key(given)).json()
        assert first == again
        assert 8 <= len(first["turn_id"]) <= 64

    for given, body in (("x" * 256, {}), ("", {}), ("abcd1234", {"turn_id": "abcd12345"})):
        answer = server.http.post("/chat", json={"message": "q", **body}, headers=key(given))
        assert answer.status_code == 422, given


def test_the_same_turn_id_in_another_conversation_or_of_another_user_is_another_turn(
    tmp_path: Path,
) -> None:
    provider = Scripted("1").then("2").then("3")
    with Running(tmp_path, provider) as server:
        texts = [
            ended(server, **where)["text"]
            for where in ({}, {"conversation_id": "DEFAULT"}, {"user_id": "b"})
        ]

    assert texts == ["1", "2", "3"]


def test_a_refused_start_uses_no_id_up(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("a", gate).then("b")
    with Running(tmp_path, provider, max_turns=1) as server:
        started(server)
        gate.reached()
        body = {"message": "q", "turn_id": "turn-0002"}
        refused = server.http.post("/turns", json=body)
        attached = server.http.post("/turns", json={"message": "q", "turn_id": TURN})
        gate.open()
        assert server.events(f"/turns/{TURN}/events")[-1].type == "turn.completed"
        accepted = server.http.post("/chat", json={**body, "message": "another"})

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert attached.status_code == 202
    assert accepted.json()["reply"] == "b"


def test_starts_at_once_never_exceed_a_users_limit(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("a", gate)
    with Running(tmp_path, provider, max_turns_per_user=2) as server:
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: server.http.post("/turns", json={"message": "q"}),
                                    range(10)))  # fmt: skip
        gate.open()

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 8
    for name in ("retry-after", "ratelimit", "ratelimit-policy"):
        assert name in refused[0].headers


# ---- ends


@pytest.mark.parametrize(
    ("steps", "status", "code", "text"),
    [
        (("par", ProviderError("it broke", code="provider_busy")), 502, "provider_busy", "par"),
        (("par", ProviderTimeout("slow")), 504, "provider_timeout", "par"),
        ((ProviderError("refused", upstream_status=401),), 502, "provider_error", ""),
        ((ProviderError("long", code="context_too_long"),), 400, "context_too_long", ""),
        ((ValueError("/secret/path"),), 502, "provider_error", ""),
        (("\ud800",), 502, "provider_error", ""),
    ],
)
def test_a_failed_turn_is_a_problem_with_its_turn_and_what_had_come(
    tmp_path: Path, steps: tuple[Step, ...], status: int, code: str, text: str
) -> None:
    with Running(tmp_path, Scripted(*steps)) as server:
        answer = server.http.post("/chat", json={"message": "q", "turn_id": TURN})
        terminal = server.events(f"/turns/{TURN}/events")[-1].data

    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["code"], body["text"]) == (status, code, text)
    assert body["turn_id"] == TURN
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert answer.headers["location"].startswith(f"/turns/{TURN}?")
    assert terminal["type"] == "turn.failed"
    assert set(terminal["error"]) == {"code", "message", "retryable"}
    assert "secret" not in answer.text + str(terminal)


def test_a_stream_without_its_end_mark_is_a_failure(tmp_path: Path) -> None:
    class Cut(Scripted):
        async def reply(self, request: Any) -> Any:
            yield Text("par")

    with Running(tmp_path, Cut()) as server:
        terminal = ended(server)

    assert (terminal["type"], terminal["text"]) == ("turn.failed", "par")
    assert terminal["error"]["code"] == "provider_cut"


@pytest.mark.parametrize("reason", ["stop", "length", "filter", "tool", "other"])
def test_the_finish_reason_is_the_providers(tmp_path: Path, reason: Any) -> None:
    with Running(tmp_path, Scripted("a", Finish(reason))) as server:
        assert ended(server)["finish_reason"] == reason


def test_a_reply_over_the_limit_is_cut_and_completes_with_length(tmp_path: Path) -> None:
    provider = Scripted("x" * 1000, "\N{GRINNING FACE}\n" * 100)
    with Running(tmp_path, provider, max_reply_bytes=1024) as server:
        terminal = ended(server)

    assert (terminal["type"], terminal["finish_reason"]) == ("turn.completed", "length")
    assert terminal["text"] == "x" * 1000 + "\N{GRINNING FACE}\n" * 4
    assert provider.running == 0


@pytest.mark.parametrize(
    ("setting", "steps", "code"),
    [
        ("first_token_timeout", (), "first_token_timeout"),
        ("start_timeout", (), "first_token_timeout"),
        ("token_timeout", ("a",), "token_timeout"),
        ("turn_timeout", ("a",), "turn_timeout"),
    ],
)
def test_a_deadline_fails_the_turn_with_504(
    tmp_path: Path, setting: str, steps: tuple[Step, ...], code: str
) -> None:
    provider = Scripted(*steps, Gate())
    with Running(tmp_path, provider, **{setting: 0.05}) as server:
        answer = server.http.post("/chat", json={"message": "q"})

    assert (answer.status_code, answer.json()["code"]) == (504, code)
    assert answer.json()["text"] == "".join(map(str, steps))
    assert provider.running == 0


def test_without_readers_a_turn_is_cancelled_as_an_orphan_and_with_one_it_is_not(
    tmp_path: Path,
) -> None:
    provider = Scripted("a", Gate())
    with Running(tmp_path, provider, orphan_timeout=0.1) as server:
        alone = started(server)
        with server.stream("GET", "/events?conversation_id=read") as watching:
            started(server, turn_id="turn-read", conversation_id="read")
            watching.until("delta")
            wait_for_end(server, alone)
            read = server.http.get("/turns/turn-read?conversation_id=read").json()
        orphan = server.http.get(alone.replace("/events", "")).json()
        left = server.http.get("/turns/turn-read?conversation_id=read").json()
        wait_for_end(server, "/turns/turn-read/events?conversation_id=read")

    assert (orphan["status"], orphan["reason"], orphan["text"]) == ("cancelled", "orphan", "a")
    assert read["status"] == left["status"] == "running"


def wait_for_end(server: Running, path: str) -> None:
    """Wait for a turn's end without being a reader of it."""
    while server.http.get(path.replace("/events", "")).json()["status"] == "running":
        threading.Event().wait(0.01)


def test_a_client_of_chat_that_has_left_is_no_reader(tmp_path: Path) -> None:
    gate = Gate()
    body = orjson.dumps({"message": "q", "turn_id": TURN})
    head = f"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with Running(tmp_path, Scripted("a", gate), orphan_timeout=0.2) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            gate.reached()
        wait_for_end(server, f"/turns/{TURN}")
        assert server.http.get(f"/turns/{TURN}").json()["reason"] == "orphan"


# ---- stopping


def test_a_cancelled_turn_keeps_its_text_and_answers_its_json_client(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("par", gate, "t")
    with Running(tmp_path, provider) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.http.post, "/chat", json={"message": "q", "turn_id": TURN})
        gate.reached()
        with server.stream("GET", f"/turns/{TURN}/events") as stream:
            stream.until("delta")
            cancelled = server.http.post(f"/turns/{TURN}/cancel")
            assert provider.running == 0
            terminal = list(stream)[-1].data
        again = server.http.post(f"/turns/{TURN}/cancel", json={})
        answer = waiting.result()

    assert cancelled.status_code == 200
    assert cancelled.json() == again.json()
    assert (terminal["type"], terminal["reason"]) == ("turn.cancelled", "user")
    assert terminal["text"] == cancelled.json()["text"] == "par"
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["reply"]) == ("cancelled", "par")


def test_a_cancel_that_races_the_end_leaves_one_end_that_both_agree_on(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted(*["x"] * 20)) as server, ThreadPoolExecutor(2) as pool:
        for number in range(30):
            turn = f"turn-{number:04}"
            chat = pool.submit(server.http.post, "/chat", json={"message": "q", "turn_id": turn})
            stop = pool.submit(server.http.post, f"/turns/{turn}/cancel")
            answer, cancel = chat.result(), stop.result()
            assert answer.status_code == 200
            if cancel.status_code == 200:
                assert cancel.json()["status"] == answer.json()["status"]
                assert cancel.json()["text"] == answer.json()["reply"]
            else:
                assert cancel.status_code == 404  # it came first
            ends = [k for k in kinds(server.events(f"/turns/{turn}/events?after=0")) if k in ENDS]
            assert len(ends) == 1


ENDS = ("turn.completed", "turn.cancelled", "turn.failed", "turn.interrupted")


def test_a_clear_ends_a_waiting_chat_with_409_and_its_turn_is_gone(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("secret", gate).then("new")) as server:
        body = {"message": "q", "turn_id": TURN}
        with (
            ThreadPoolExecutor(1) as pool,
            server.stream("POST", "/chat", json=body, headers=EVENT_STREAM) as stream,
        ):
            stream.until("delta")
            waiting = pool.submit(server.http.post, "/chat", json=body)
            while server.call(readers(server)) < 2:
                pass
            assert server.http.post("/history/clear", json={}).json() == {"status": "success"}
            rest = list(stream)
            answer = waiting.result()
        gone = server.http.get(f"/turns/{TURN}/events", headers={"Last-Event-ID": "0"})
        new = server.http.post("/chat", json=body)

    assert kinds(rest)[-2:] == ["turn.cancelled", "history.cleared"]
    assert rest[-2].data["reason"] == "cleared"
    assert not rest[-2].data.get("text")
    assert answer.status_code == 409
    assert (answer.json()["code"], answer.json()["text"]) == ("cleared", "")
    assert answer.json()["turn_id"] == TURN
    assert gone.status_code == 404
    assert new.json()["reply"] == "new"


@pytest.mark.parametrize("way", ["start", "get"])
def test_a_turn_that_is_cleared_just_before_its_stream_begins_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("secret", gate)) as server:
        if way == "get":
            started(server)
        real = getattr(TurnRunner, way)

        async def then_cleared(runner: TurnRunner, *given: Any) -> object:
            turn = await real(runner, *given)
            await server.app.state.services.log.clear(turn.conversation)
            return turn

        monkeypatch.setattr(TurnRunner, way, then_cleared)
        if way == "get":
            frames = server.events(f"/turns/{TURN}/events")
        else:
            body = {"message": "q", "turn_id": TURN}
            with server.stream("POST", "/chat", json=body, headers=EVENT_STREAM) as stream:
                frames = list(stream)  # it ends with its last chunk, or this raises

    (end,) = [frame.data for frame in frames if frame.type == "turn.cancelled"]
    assert (end["turn_id"], end["reason"]) == (TURN, "cleared")
    assert "secret" not in str(frames)


def test_a_turn_whose_end_was_lost_and_that_cannot_be_read_is_cut_off_and_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("text", gate)) as server:
        path = started(server)
        real = TurnRunner.get
        found: list[LiveTurn | EndedTurn] = []

        async def lost(runner: TurnRunner, address: Address, turn_id: str) -> object:
            if found:
                raise StorageFailed("The file cannot be read.")
            found.append(turn := await real(runner, address, turn_id))
            assert isinstance(turn, LiveTurn)
            turn.close(None)
            return turn

        monkeypatch.setattr(TurnRunner, "get", lost)
        with server.stream("GET", path) as stream:
            with pytest.raises(httpx.RemoteProtocolError):
                list(stream)
            assert stream.response.status_code == 200
            assert stream.retries
        gate.open()


async def readers(server: Running) -> int:
    conversation = await server.app.services.log.conversation(Address("default", "default"))
    return conversation.readers


def test_a_stop_of_the_server_interrupts_turns_and_cuts_their_streams_or_tells_the_end(
    tmp_path: Path,
) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("par", gate)) as server, ThreadPoolExecutor(1) as pool:
        path = started(server)
        gate.reached()
        waiting = pool.submit(server.http.post, "/chat", json={"message": "q", "turn_id": TURN})
        while server.call(readers(server)) < 1:
            pass
        server.call(server.app.services.runner.drain(0))
        answer = waiting.result()
        refused = server.http.post("/turns", json={"message": "q"})
        ready = server.http.get("/readyz")
        server.stop()
        server.start()
        terminal = server.events(path)[-1].data

    assert (answer.status_code, answer.json()["code"]) == (502, "interrupted")
    assert (answer.json()["text"], answer.json()["turn_id"]) == ("par", TURN)
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert "retry-after" in refused.headers
    assert ready.status_code == 503
    assert (terminal["type"], terminal["text"]) == ("turn.interrupted", "par")


# ---- following and resuming


def test_resuming_after_every_event_gives_the_same_fold(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted(Reasoning("hm"), "a", gate, "b", "c")
    with Running(tmp_path, provider) as server:
        path = started(server)
        gate.reached()
        with server.stream("GET", path) as stream:
            whole = stream.until("caught_up")
            cursors = [frame.id for frame in whole if frame.id]
            streams = [server.stream("GET", f"{path}&after={cursor}") for cursor in cursors]
            for number, cut in enumerate(streams):
                with cut as again:
                    resumed = again.until("caught_up")
                    assert resumed[0].id == cursors[number]
                    seen = [f for f in whole if f.id and f.id <= cursors[number]]
                    assert fold(seen + resumed) == fold(whole)
            gate.open()
            whole += list(stream)
        for index, frame in enumerate(whole):
            if frame.id and frame is not whole[-1]:
                resumed = server.events(path, headers={"Last-Event-ID": frame.id})
                assert fold(whole[: index + 1] + resumed) == fold(whole)
        done = server.http.get(path, headers={"Last-Event-ID": str(whole[-1].id)})

    assert done.status_code == 204


def test_resuming_after_a_cut_at_any_byte_gives_the_same_fold(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("a\n\nb", gate, "ö", Finish("stop"))) as server:
        path = started(server)
        gate.reached()
        with server.stream("GET", path) as stream:
            whole = stream.until("caught_up")
            with server.stream("GET", path) as other:
                raw = read_until(other, b"caught_up")
            parts = [frames_of(raw[:cut]) for cut in range(0, len(raw), 7)]
            gate.open()
            whole += list(stream)
        for part in parts:
            last = next((frame.id for frame in reversed(part) if frame.id), None)
            headers = {"Last-Event-ID": last} if last else {}
            assert fold(part + server.events(path, headers=headers)) == fold(whole)

    assert fold(whole)[TURN]["text"] == "a\n\nbö"


def read_until(stream: Stream, mark: bytes) -> bytes:
    raw = b""
    for chunk in stream.response.iter_raw():
        raw += chunk
        if mark in raw:
            break
    return raw


def frames_of(raw: bytes) -> list[Frame]:
    """Return what an EventSource has of a stream that was cut: whole events only."""
    whole = raw[: raw.rfind(b"\n\n") + 2] if b"\n\n" in raw else b""
    return list(Stream(httpx.Response(200, stream=httpx.ByteStream(whole))))


def test_a_stream_is_opened_by_retry_then_ready_then_the_backlog(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("a", gate)) as server:
        path = started(server)
        gate.reached()
        with server.stream("GET", path) as stream:
            frames = stream.until("caught_up")
        with server.stream("GET", f"{path}&after=nonsense") as other:
            reset = other.until("caught_up")
        gate.open()

    assert kinds(frames) == ["ready", "turn.started", "turn.answering", "delta", "caught_up"]
    ready = frames[0]
    assert ready.id == ready.data["id"] == ready.data["last_id"]
    assert str(ready.id) < str(frames[1].id)
    assert kinds(reset) == ["ready", "reset", "turn.started", "turn.answering", "delta",
                            "caught_up"]  # fmt: skip
    assert [f.id for f in reset if f.type in ("reset", "caught_up")] == [None, None]


def test_the_header_wins_over_the_query(server: Running) -> None:
    terminal = ended(server)
    path = f"/turns/{TURN}/events?after=0"

    assert server.http.get(path, headers={"Last-Event-ID": terminal["id"]}).status_code == 204
    path = f"/turns/{TURN}/events?after={terminal['id']}"
    assert kinds(server.events(path, headers={"Last-Event-ID": "0"}))[1] == "turn.started"


def test_a_bad_cursor_of_a_turn_resets_and_sends_the_whole_turn(server: Running) -> None:
    terminal = ended(server)
    future = event_id(place(terminal["id"]) + 10_000 * 3_600_000)
    ancient = event_id(1)

    for cursor in ("x", "1", "-1", future, ancient, terminal["id"] + "0", "9" * 13 + "-9999"):
        frames = server.events(f"/turns/{TURN}/events", params={"after": cursor})
        assert kinds(frames) == ["ready", "reset", "turn.started", "turn.completed"], cursor
    for cursor in (BEGINNING, event_id(place(terminal["started_id"]) - 1)):
        frames = server.events(f"/turns/{TURN}/events", params={"after": cursor})
        assert kinds(frames) == ["ready", "turn.started", "turn.completed"]


def test_an_id_of_another_conversation_is_a_cursor_like_any_other(server: Running) -> None:
    ended(server)
    later = ended(server, conversation_id="other")

    assert server.http.get(f"/turns/{TURN}/events?after={later['id']}").status_code == 204


def test_a_turn_goes_on_without_its_client(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("a", gate, "b")) as server:
        with server.stream("POST", "/chat", json={"message": "q", "turn_id": TURN},
                           headers=EVENT_STREAM) as stream:  # fmt: skip
            stream.until("delta")
        gate.open()
        assert server.events(f"/turns/{TURN}/events")[-1].data["text"] == "ab"


def test_a_stream_whose_server_goes_away_has_no_last_chunk(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("a")) as server:
        with server.stream("GET", "/events") as stream:
            stream.until("caught_up")
            server.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                list(stream)
        server.start()


def test_many_readers_of_one_turn_see_the_same(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("a", gate, *["x"] * 200)) as server:
        path = started(server)
        gate.reached()
        with ThreadPoolExecutor(30) as pool:
            waiting = [pool.submit(server.events, path) for _ in range(30)]
            while server.call(readers(server)) < 30:
                pass
            gate.open()
            folds = [fold(future.result()) for future in waiting]

    assert all(found == folds[0] for found in folds)
    assert folds[0][TURN]["text"] == "a" + "x" * 200


def test_a_reader_that_reads_nothing_does_not_hold_the_turn_up(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("x" * 240_000)) as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.1 200 OK"
        for number in range(25):  # more than all buffers on the way hold
            path = started(server, turn_id=f"turn-{number:04}")
            assert len(server.events(path)[-1].data["text"]) == 240_000


def test_a_silent_stream_gets_heartbeats_without_an_id(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("a"), heartbeat=0.1) as server:
        with server.stream("GET", "/events") as stream:
            beats = [frame for frame in (stream.until("heartbeat"))[-1:]]

    assert beats == [Frame(None, {"type": "heartbeat"})]


# ---- whose


def test_a_turn_that_is_not_the_callers_does_not_exist(server: Running) -> None:
    ended(server)

    for method, path in (
        ("GET", f"/turns/{TURN}?user_id=b"),
        ("GET", f"/turns/{TURN}/events?user_id=b"),
        ("GET", f"/turns/{TURN}/events?conversation_id=b"),
        ("GET", "/turns/none-0001"),
        ("GET", "/turns/x"),
        ("GET", "/turns/%2e%2e"),
    ):
        answer = server.http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    for body in ({"user_id": "b"}, {"conversation_id": "b"}):
        assert server.http.post(f"/turns/{TURN}/cancel", json=body).status_code == 404
        answer = server.http.post("/feedback", json={"rating": 5, "turn_id": TURN, **body})
        assert answer.status_code == 404


# ---- replacing


def test_a_turn_that_was_found_is_not_told_after_an_erasure_that_takes_it(server: Running) -> None:
    ended(server)
    where = Address("default", "default")

    async def answer() -> object:
        services = server.app.state.services
        turn = await services.runner.get(where, TURN)
        # An erasure of the user begins just then, and takes longer than this test.
        services.log._erasing["default"] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(2):
                return await turns_edge._stream(services, turn, None)
        finally:
            services.log._erasing.pop("default").set_result(None)

    assert isinstance(server.call(answer()), FiniteStream)


def test_an_edited_message_takes_the_old_turn_and_later_ones_out_of_view(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("1").then("2", gate).then("3").then("4")
    with Running(tmp_path, provider) as server:
        ended(server)
        started(server, message="second", turn_id="turn-0002")
        gate.reached()
        with server.stream("GET", "/events?after=0") as stream:
            frames = stream.until("caught_up")
            edit = started(server, message="edited", turn_id="turn-0003", replaces=TURN)
            server.events(edit)
            shown = server.http.get("/history").json()["history"]
            ended(server, message="next", turn_id="turn-0004")
            while frames[-1].type != "turn.completed" or frames[-1].data["text"] != "4":
                frames.append(next(stream))
        superseded = server.http.get("/turns/turn-0002").json()

    assert [item["message"] for item in shown] == ["edited", "3"]
    new = next(f.data for f in frames if f.data.get("replaces"))
    assert (new["replaces"], new["kind"]) == (TURN, "edit")
    assert superseded["status"] == "cancelled"
    assert list(fold(frames)) == ["turn-0003", "turn-0004"]
    assert [m.content for m in provider.requests[2].messages] == ["edited"]
    assert [m.content for m in provider.requests[3].messages] == ["edited", "3", "next"]


def test_replacing_what_is_not_there_is_404_and_what_is_refused_cancels_nothing(
    tmp_path: Path,
) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("1", gate)) as server:
        started(server)
        gate.reached()
        none = server.http.post("/turns", json={"message": "q", "replaces": "none-0001"})
        chat = server.http.post("/turns", json={"message": "q", "turn_id": TURN, "replaces": TURN})
        running = server.http.get(f"/turns/{TURN}").json()["status"]
        gate.open()

    assert (none.status_code, chat.status_code, running) == (404, 409, "running")
