"""What a client leaves behind is freed at once: no circles that wait for the collector."""

import gc
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from chatstream.log.files import store
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers, build
from chatstream.settings import Settings
from tests.running import Running
from tests.upstream import Upstream

TIMES = 10


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(store, "QUIET_CONVERSATIONS", 0)
    with Running(tmp_path / "data", Scripted("Hello", " you")) as running:
        yield running


def call(server: Running, method: str, path: str, **body: object) -> dict[str, object]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    given = {"Content-Type": "application/json"} if body else {}
    connection.request(method, path, json.dumps(body) if body else None, given)
    answer = connection.getresponse().read()
    connection.close()
    found: dict[str, object] = json.loads(answer)
    return found


def stream(server: Running, query: str, until: bytes) -> None:
    """Read so far, and hang up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        came = b""
        while until not in came:
            came += client.recv(65536)


def left(server: Running, act: Callable[[int], object]) -> Counter[str]:
    """Act some times; return what of the server waits for the collector then."""

    async def settled() -> None:
        """Come round once, after what the connection's end has set going."""

    act(-1)
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        for number in range(TIMES):
            act(number)
        while server.app.services.runner.running or server.app.services.pulse.readers:
            server.call(settled())
        for _ in range(50):
            server.call(settled())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        names = [type(thing).__module__ for thing in gc.garbage]
        return Counter(name for name in names if name.startswith("chatstream"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        if was:
            gc.enable()


def test_streams_of_one_and_of_many_conversations(server: Running) -> None:
    many = [f"conversation_id=m{{0}}-{number}" for number in range(20)]

    assert not left(server, lambda n: stream(server, f"conversation_id=o{n}", b"caught_up"))
    assert not left(server, lambda n: stream(server, "&".join(many).format(n), b"caught_up"))


def test_turns_that_end_fail_are_stopped_and_are_cleared(server: Running) -> None:
    def ends(number: int) -> None:
        call(server, "POST", "/chat", message="x", conversation_id=f"e{number}")

    def stopped(number: int) -> None:
        name = f"s{number}"
        turn = call(server, "POST", "/turns", message="x", conversation_id=name)
        call(server, "POST", f"/turns/{turn['turn_id']}/cancel", conversation_id=name)

    def cleared(number: int) -> None:
        name = f"c{number}"
        call(server, "POST", "/turns", message="x", conversation_id=name)
        call(server, "POST", "/history/clear", conversation_id=name)

    assert not left(server, ends)
    assert not left(server, stopped)
    assert not left(server, cleared)


def test_what_is_refused(server: Running) -> None:
    assert not left(server, lambda n: call(server, "POST", "/chat", message=""))
    assert not left(server, lambda n: call(server, "GET", f"/turns/unknown-{n}"))
    assert not left(
        server, lambda n: call(server, "POST", "/chat", message="x", provider="no") and None
    )


def test_sockets_that_follow_and_send(server: Running) -> None:
    def follows(number: int) -> None:
        with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as ws:
            for each in range(10):
                ws.send(json.dumps({"type": "subscribe", "conversation_id": f"w{number}-{each}"}))
                while "caught_up" not in str(ws.recv(timeout=10)):
                    pass
            ws.send(json.dumps({"type": "send", "message": "x", "conversation_id": f"w{number}"}))
            while "turn.completed" not in str(ws.recv(timeout=10)):
                pass

    assert not left(server, follows)


def test_answers_of_a_provider_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "QUIET_CONVERSATIONS", 0)
    with Upstream() as upstream:
        given = {"openai_api_key": "k", "openai_base_url": upstream.openai_url}
        providers = build(Settings(provider="openai", **given))
        with Running(tmp_path / "data", providers) as server:
            found = left(server, lambda n: call(server, "POST", "/chat", message="x"))

    assert not found


def test_many_names_leave_as_many_conversations_as_the_cache_holds(tmp_path: Path) -> None:
    providers = Providers({"scripted": Scripted("Hello")}, "scripted")
    with Running(tmp_path / "data", providers) as server:
        for number in range(6):
            names = [f"conversation_id=m{number}-{each}" for each in range(200)]
            stream(server, "&".join(names), b"caught_up")
        while server.app.services.pulse.readers:
            threading.Event().wait(0.01)

        async def known() -> int:
            return len(server.app.services.log._known)

        while server.call(known()) > store.QUIET_CONVERSATIONS:
            threading.Event().wait(0.01)


def test_too_many_conversations_at_once_are_refused_and_the_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_CONVERSATIONS", 3)
    with Running(tmp_path / "data") as server:
        names = "&".join(f"conversation_id={number}" for number in range(5))
        with server.stream("GET", f"/events?{names}") as events:
            seen = [next(events).data for _ in range(8)]
        assert [e["code"] for e in seen if e["type"] == "error"] == ["overloaded"] * 2
        assert len([e for e in seen if e["type"] == "ready"]) == 3


def test_a_turns_stream_that_finds_no_place_is_cut_and_never_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(tmp_path / "data") as server:
        monkeypatch.setattr(store, "MOST_CONVERSATIONS", 0)
        with (
            server.http.stream("GET", "/turns/turn-0001/events?conversation_id=other") as answer,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            answer.read()
    assert answer.status_code == 200
