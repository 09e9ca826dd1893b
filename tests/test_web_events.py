"""Several conversations in one SSE answer: each exactly once, in turn, whatever befalls another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from chatstream.events import Address
from chatstream.providers.adapters.scripted import Scripted
from chatstream.schemas import MAX_FOLLOWED
from tests.log_steps import unreadable
from tests.running import Gate, Running, Stream
from tests.test_web_sse import Raw

NAMES = [f"c{n}" for n in range(6)]
LAST_CHUNK = b"0\r\n\r\n"


def path(*names: str, after: list[str] | None = None) -> str:
    query = [("conversation_id", name) for name in names]
    return "/events?" + urlencode(query + [("after", cursor) for cursor in after or []])


def ask(server: Running, name: str, turn: str = "turn-0001") -> None:
    body = {"message": "Hi", "conversation_id": name, "turn_id": turn}
    assert server.http.post("/turns", json=body).status_code == 202


def answered(server: Running, name: str) -> None:
    body = {"message": "Hi", "conversation_id": name}
    assert server.http.post("/chat", json=body).status_code == 200


def about(stream: Stream, name: str, kind: str) -> list[tuple[str, str]]:
    """Read up to an event of a conversation; return whose and what came, that one included."""
    found: list[tuple[str, str]] = []
    for frame in stream:
        assert frame.id is None, "one cursor cannot stand for several conversations"
        found.append((frame.data.get("conversation_id", ""), frame.type))
        if found[-1] == (name, kind):
            return found
    raise AssertionError(f"ended without {kind} of {name}: {found}")


def first_of(found: list[tuple[str, str]], name: str) -> list[str]:
    return [kind for whose, kind in found if whose == name]


class Reader:
    """Folds what it gets of each conversation; an event out of place fails."""

    def __init__(self, names: list[str]) -> None:
        self.last = dict.fromkeys(names, "")
        self.texts = dict.fromkeys(names, "")
        self.ends: dict[str, str] = {}

    def take(self, event: dict[str, Any]) -> None:
        name, kind = event.get("conversation_id", ""), event["type"]
        if kind == "ready":
            assert event["id"] == (self.last[name] or event["id"])
        if "id" not in event:
            return
        assert kind == "ready" or event["id"] > self.last[name]
        self.last[name] = event["id"]
        if kind == "delta":
            self.texts[name] += event["text"]
        elif kind == "turn.completed":
            assert name not in self.ends
            self.ends[name] = event["text"]


def read(server: Running, reader: Reader, most: int, done: Callable[[], bool]) -> None:
    """Read over one connection that is cut after so many bytes, or when all is there."""
    target = path(*reader.last, after=list(reader.last.values()))
    with server.stream("GET", target) as stream:
        rest = b""
        for chunk in stream.response.iter_raw():
            *blocks, rest = (rest + chunk[:most]).split(b"\n\n")
            for block in blocks:
                if block.startswith(b"data: "):
                    reader.take(orjson.loads(block[6:]))
            most -= len(chunk)
            if most <= 0 or done():
                return


def test_each_event_of_each_comes_once_however_often_the_connection_is_cut(tmp_path: Path) -> None:
    gates = [Gate() for _ in range(5)]
    parts = [f"{n} " * 40 for n in range(len(gates))]
    steps = [step for pair in zip(parts, gates, strict=True) for step in pair]
    dice = random.Random(7)
    reader = Reader(NAMES)
    cuts = 0

    def comes(server: Running, done: Callable[[], bool]) -> None:
        nonlocal cuts
        while not done():
            read(server, reader, dice.randrange(600, 3000), done)
            cuts += 1

    with Running(tmp_path, Scripted(*steps)) as server:
        for name in NAMES:
            ask(server, name)
        for count, gate in enumerate(gates, 1):
            text = "".join(parts[:count])
            comes(server, lambda text=text: set(reader.texts.values()) == {text})  # type: ignore[misc]
            gate.open()
        comes(server, lambda: len(reader.ends) == len(NAMES))

    assert cuts > 10
    assert reader.ends == dict.fromkeys(NAMES, "".join(parts))


def test_a_long_backlog_keeps_no_other_waiting(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("x" * 60_000)) as server:
        for _ in range(10):
            answered(server, "long")
        answered(server, "short")
        with server.stream("GET", path("long", "short", after=["0", "0"])) as stream:
            found = about(stream, "long", "caught_up")

    ends = [index for index, event in enumerate(found) if event == ("long", "turn.completed")]
    assert len(ends) == 10
    assert found.index(("short", "caught_up")) < ends[3]
    for name in ("long", "short"):
        assert first_of(found, name)[:2] == ["ready", "turn.started"]


def test_cursors_are_each_ones_own_and_an_empty_one_is_none(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        for name in ("a", "b", "c"):
            answered(server, name)
        last = server.http.get("/history?conversation_id=b").json()["cursor"]
        with server.stream("GET", path("a", "b", "c", after=["0", last, ""])) as stream:
            found = about(stream, "c", "caught_up")
        with server.stream("GET", path("a", "b")) as stream:
            without = about(stream, "b", "caught_up")

    assert first_of(found, "a") == ["ready", "turn.started", "turn.completed", "caught_up"]
    assert first_of(found, "b") == first_of(found, "c") == ["ready", "caught_up"]
    assert first_of(without, "a") == first_of(without, "b") == ["ready", "caught_up"]


def test_a_reset_is_one_conversations_only(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        answered(server, "a")
        answered(server, "b")
        with server.stream("GET", path("a", "b", after=["nonsense", "0"])) as stream:
            found = about(stream, "b", "caught_up")

    assert first_of(found, "a") == ["ready", "reset", "caught_up"]
    assert "reset" not in first_of(found, "b")


@pytest.mark.parametrize("erase", ["clear", "delete"])
def test_one_that_is_erased_says_so_and_the_others_go_on(tmp_path: Path, erase: str) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate(), "lo")) as server:
        ask(server, "a")
        gate.reached()
        with server.stream("GET", path("a", "b")) as stream:
            about(stream, "b", "caught_up")
            if erase == "clear":
                server.http.post("/history/clear", json={"conversation_id": "a"})
            else:
                server.http.delete("/conversations?conversation_id=a")
            gone = about(stream, "a", "history.cleared")
            gate.open()
            ask(server, "b")
            about(stream, "b", "turn.completed")
            ask(server, "a", "turn-0002")
            about(stream, "a", "turn.completed")

    assert ("a", "turn.cancelled") in gone


def test_what_is_wrong_with_one_is_told_by_an_event_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(tmp_path) as server:
        for name in ("good", "bad"):
            answered(server, name)
        unreadable(monkeypatch, "bad")
        with server.stream("GET", path("..", "bad", "good", after=["0"] * 3)) as stream:
            found = [next(stream).data for _ in range(6)]
            ask(server, "good")
            about(stream, "good", "turn.completed")

    errors = {event["conversation_id"]: event for event in found if event["type"] == "error"}
    assert set(errors) == {"..", "bad"}
    assert errors[".."]["errors"][0]["field"] == "conversation_id"
    assert errors["bad"]["code"] == "storage_failed"


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        (path("a", "b", after=["0"]), "after", "must be given 2 times"),
        (path("a", "b", after=["0"] * 3), "after", "must be given 2 times"),
        (path("a", "b", "a"), "conversation_id", "each conversation once"),
        (path(*map(str, range(MAX_FOLLOWED + 1))), "conversation_id", f"most {MAX_FOLLOWED} items"),
        (path("a", "b") + "&user_id=x&user_id=y", "user_id", "given once"),
        (path("a", "b") + "&user_id=", "user_id", "at least 1"),
    ],
)
def test_a_wrong_query_is_refused_by_name(
    server: Running, query: str, field: str, says: str
) -> None:
    answer = server.http.get(query)

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert says in error["message"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("data"), heartbeat=0.4) as server:
        yield server


def test_as_many_as_are_allowed_fit_a_request_and_are_one_stream(server: Running) -> None:
    names = [f"n{n}" for n in range(MAX_FOLLOWED)]
    with server.stream("GET", path(*names, after=["0"] * MAX_FOLLOWED)) as stream:
        found = about(stream, names[-1], "caught_up")
        assert 'chatstream_streams_open{transport="sse"} 1.0' in server.http.get("/metrics").text
        assert [readers(server, name) for name in (names[0], names[-1])] == [1, 1]
        quiet_since = time.monotonic()
        (beat,) = about(stream, "", "heartbeat")
        assert time.monotonic() - quiet_since < 2

    assert {name for name, _ in found} == set(names)
    until = time.monotonic() + 5
    while any(readers(server, name) for name in names):
        assert time.monotonic() < until, "it left, and is still a reader"


def readers(server: Running, name: str) -> int:
    async def count() -> int:
        log = server.app.services.log
        return (await log.conversation(Address("default", name))).readers

    return int(server.call(count()))


def test_at_the_servers_end_all_is_sent_that_is_visible_and_the_stream_is_cut(
    tmp_path: Path,
) -> None:
    with Running(tmp_path, Scripted("Hel", gate := Gate(), "lo")) as server:
        raw = Raw(server, path("a", "b"))
        raw.until(b'"caught_up","conversation_id":"b"')
        ask(server, "a")
        gate.reached()
    data = raw.rest()

    assert b"turn.interrupted" in data
    assert data.count(b"retry: ") == 1
    assert b"\nid: " not in data
    assert not data.endswith(LAST_CHUNK)
