"""Retries, fallbacks and breakers, as the clients of a real server see them."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from chatstream.errors import ProviderError
from chatstream.providers import Finish
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from tests.running import EVENT_STREAM, Running

BROKEN = ProviderError("broken", retryable=True)
AUTH = ProviderError("refused", code="provider_auth")


def serve(tmp_path: Path, *providers: Scripted, **settings: Any) -> Running:
    given = Providers({p.name: p for p in providers}, providers[0].name)
    names = tuple(p.name for p in providers[1:])
    return Running(tmp_path, given, **({"fallbacks": names} | settings))


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return [orjson.loads(line[6:]) for line in lines]


def chat(server: Running, **fields: Any) -> list[dict[str, Any]]:
    return events(server.http.post("/chat", json={"message": "hi"} | fields, headers=EVENT_STREAM))


def one(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (event,) = [event for event in found if event["type"] == kind]
    return event


def metrics(server: Running, turns: str) -> str:
    """Return the metrics once a line counts the turn: that comes after its terminal event."""
    deadline = time.monotonic() + 5
    while turns not in (text := server.http.get("/metrics").text):
        assert time.monotonic() < deadline, text
    return text


def test_a_turn_says_who_really_answers(tmp_path: Path) -> None:
    first = Scripted(BROKEN, name="first", model="a")
    second = Scripted("hello", name="second", model="b")
    with serve(tmp_path, first, second, retries=1) as server:
        found = chat(server)
        history = server.http.get("/history").json()["history"]

    answering, completed = one(found, "turn.answering"), one(found, "turn.completed")
    assert [answering[name] for name in ("provider", "model", "attempt")] == ["second", "b", 3]
    assert (completed["provider"], completed["model"]) == ("second", "b")
    assert one(found, "turn.started")["request"]["provider"] == "first"
    assert (history[1]["provider"], history[1]["model"]) == ("second", "b")


def test_an_attempt_that_says_nothing_is_given_up_for_the_next(tmp_path: Path) -> None:
    provider = Scripted(asyncio.Event()).then("hello")
    with serve(tmp_path, provider, first_token_timeout=0.1) as server:
        found = chat(server)

    assert one(found, "turn.answering")["attempt"] == 2
    assert one(found, "turn.completed")["text"] == "hello"
    assert provider.running == 0


def test_all_attempts_together_have_one_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.route.plan.backoff", lambda *_: 0.0)
    provider = Scripted(asyncio.Event())
    with serve(
        tmp_path, provider, first_token_timeout=0.1, start_timeout=0.25, retries=10
    ) as server:
        failed = one(chat(server), "turn.failed")

    assert failed["error"]["code"] == "first_token_timeout"
    assert 200 <= failed["duration_ms"] < 1500
    assert len(provider.requests) in (2, 3)
    assert provider.running == 0


def test_content_after_an_attempt_that_was_given_up_has_its_own_deadline(tmp_path: Path) -> None:
    provider = Scripted(asyncio.Event()).then("hel", asyncio.Event())
    with serve(tmp_path, provider, first_token_timeout=0.1, token_timeout=0.2) as server:
        failed = one(chat(server), "turn.failed")

    assert (failed["text"], failed["error"]["code"]) == ("hel", "token_timeout")


def test_a_turn_that_nobody_would_answer_is_refused_and_uses_no_id_up(tmp_path: Path) -> None:
    provider = Scripted("old").then(AUTH)
    with serve(tmp_path, provider) as server:
        old = {"message": "hi", "turn_id": "turn-old-1"}
        assert server.http.post("/chat", json=old).json()["reply"] == "old"
        assert server.http.post("/chat", json={"message": "hi"}).status_code == 502

        refused = server.http.post("/turns", json={"message": "hi", "turn_id": "turn-new-1"})
        known = server.http.post("/chat", json=old)
        gone = server.http.get("/turns/turn-new-1")
        shown = server.http.get("/providers").json()["providers"]
        told = metrics(server, 'chatstream_turns_total{provider="scripted",status="failed"} 1.0')

    assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert known.json()["reply"] == "old"
    assert gone.status_code == 404
    assert shown[0]["state"] == "open"
    assert 'chatstream_breaker{provider="scripted"} 2.0' in told
    assert 'chatstream_attempts_total{provider="scripted"} 2.0' in told
    assert 'chatstream_turns_running{provider="scripted"} 0.0' in told


def test_a_provider_that_works_is_shown_closed(tmp_path: Path) -> None:
    with serve(tmp_path, Scripted(Finish("filter"))) as server:
        chat(server)
        (shown,) = server.http.get("/providers").json()["providers"]

    assert shown["state"] == "closed"


def test_the_running_turns_are_counted_for_who_was_asked(tmp_path: Path) -> None:
    with serve(tmp_path, Scripted(AUTH, name="a"), Scripted("x", name="b")) as server:
        chat(server)
        told = metrics(server, 'chatstream_turns_total{provider="b",status="completed"} 1.0')

    assert 'chatstream_turns_running{provider="a"} 0.0' in told
    assert 'chatstream_turns_running{provider="b"}' not in told


@pytest.mark.parametrize("names", [("nobody",), ("other", "nobody")])
def test_a_fallback_that_is_not_there_is_passed_over(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    provider = Scripted(AUTH)
    with serve(tmp_path, provider, fallbacks=names) as server:
        failed = one(chat(server), "turn.failed")

    assert failed["error"]["code"] == "provider_auth"
