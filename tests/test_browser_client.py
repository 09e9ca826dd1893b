"""The browser client in real Chromium: whatever breaks, nothing is lost or repeated."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from chatstream.providers.adapters.scripted import Scripted
from tests.browser import ServerProcess, browser, server, upstream
from tests.doorman import Doorman, closed_socket, refusal
from tests.following import context, follow, has_all, has_text, live, seen, settles, start
from tests.running import Gate, Running
from tests.upstream import Upstream, text_of

__all__ = ["browser", "context", "server", "upstream"]

TRANSPORTS = ("websocket", "sse")
FIRST, SECOND = text_of(40), "and the end"


def halves(gate: Gate) -> Scripted:
    return Scripted(*[f"t{n} " for n in range(40)], gate, SECOND)


WHOLE = ("turn.completed", FIRST + SECOND)


def everywhere(context: BrowserContext, base: str) -> list[Page]:
    """Follow over every transport, and a second conversation over the stream of another tab."""
    pages = [follow(context, base, transport=transport) for transport in TRANSPORTS]
    return [*pages, follow(context, base, transport="sse", conversationId="other")]


def test_a_server_that_is_killed_mid_answer_is_found_again(
    context: BrowserContext, server: ServerProcess, upstream: Upstream
) -> None:
    pages = everywhere(context, server.url)
    for name in ("default", "other"):
        turn = {"message": "!tokens=40 hang", "conversation_id": name}
        server.call("POST", "turns", json=turn)
    for page in pages:
        has_text(page, FIRST)

    server.kill()
    server.start()

    for page in pages:
        has_all(page, ("turn.interrupted", FIRST))
    for name in ("default", "other"):
        server.call("POST", "turns", json={"message": "!tokens=3", "conversation_id": name})
    for page in pages:
        has_all(page, ("turn.interrupted", FIRST), ("turn.completed", text_of(3)))
        assert seen(page)["readies"] == 2


def test_an_answer_that_was_given_while_the_network_was_off_is_there_when_it_is_on(
    context: BrowserContext, tmp_path: Path
) -> None:
    gate = Gate()
    with Running(tmp_path, halves(gate)) as server, Doorman(server.port) as doorman:
        pages = everywhere(context, doorman.url)
        turn = start(server)
        start(server, "other")
        for page in pages:
            has_text(page, FIRST)

        context.set_offline(True)
        doorman.answer = lambda head: b""  # what is open already the browser leaves open
        doorman.cut()
        for page in pages:
            page.wait_for_function("seen.states.at(-1) === 'offline'")
        gate.open()
        path = f"/turns/{turn}"
        settles(lambda: bool(server.http.get(path).json()["status"] == "completed"))
        doorman.answer = lambda head: None
        context.set_offline(False)

        for page in pages:
            has_all(page, WHOLE)
            live(page)


def is_stream(head: str) -> bool:
    return head.startswith(("GET /events?", "GET /ws?"))


def test_a_proxy_that_says_502_or_503_is_outlived(context: BrowserContext, tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, halves(gate)) as server, Doorman(server.port) as doorman:
        pages = [follow(context, doorman.url, transport=transport) for transport in TRANSPORTS]
        start(server)
        for page in pages:
            has_text(page, FIRST)

        refused: list[str] = []

        def refuse(head: str) -> bytes | None:
            path = head.split("?")[0]
            if not is_stream(head) or refused.count(path) == 2:
                return None
            refused.append(path)
            status = 501 + refused.count(path)
            return refusal(status, headers="Retry-After: 0\r\n")

        doorman.answer = refuse
        doorman.cut()
        gate.open()

        for page in pages:
            has_all(page, WHOLE)
        assert sorted(refused) == ["GET /events", "GET /events", "GET /ws", "GET /ws"]


@pytest.mark.parametrize("code", [1001, 1012, 1013])
def test_a_socket_that_is_closed_for_now_is_opened_again(
    context: BrowserContext, tmp_path: Path, code: int
) -> None:
    with Running(tmp_path, Scripted(FIRST)) as server, Doorman(server.port) as doorman:
        closed: list[float] = []

        def close(head: str) -> bytes | None:
            if not is_stream(head):
                return None
            closed.append(time.monotonic())
            return closed_socket(head, code) if len(closed) == 1 else None

        doorman.answer = close
        page = follow(context, doorman.url)
        start(server)

        has_all(page, ("turn.completed", FIRST))
        assert "refused" not in seen(page)["states"]
        assert closed[1] - closed[0] > (4.9 if code == 1013 else 0)


def test_a_connection_that_is_dead_without_a_word_is_noticed_by_its_missed_heartbeats(
    context: BrowserContext, tmp_path: Path
) -> None:
    gate = Gate()
    with (
        Running(tmp_path, halves(gate), heartbeat=0.4) as server,
        Doorman(server.port) as doorman,
    ):
        pages = [
            follow(context, doorman.url, transport=transport, heartbeat=0.4, share=False)
            for transport in TRANSPORTS
        ]
        start(server)
        for page in pages:
            has_text(page, FIRST)

        doorman.stall()
        gate.open()

        for page in pages:
            has_all(page, WHOLE)
            assert seen(page)["readies"] == 2


def signed_in(head: str) -> bool:
    return "session=new" in head


def guard(head: str) -> bytes | None:
    """Answer as a server that wants a cookie."""
    if signed_in(head) or head.startswith(("GET /static", "GET /healthz")):
        return None
    return closed_socket(head, 4401) if head.startswith("GET /ws") else refusal(401)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_401_is_mended_by_one_refresh(
    context: BrowserContext, tmp_path: Path, transport: str
) -> None:
    with Running(tmp_path, Scripted(FIRST)) as server, Doorman(server.port) as doorman:
        doorman.answer = guard
        page = follow(context, doorman.url, transport=transport, cookie="session=new; path=/")
        live(page)
        assert seen(page)["refreshes"] == 1
        page.evaluate("document.cookie = 'session=old; path=/'")

        page.evaluate(
            "Promise.all([chat.send({ message: 'Hi' }), chat.history(), chat.providers()])"
        )

        has_all(page, ("turn.completed", FIRST))
        assert seen(page)["refreshes"] == 2
        assert "refused" not in seen(page)["states"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_401_that_stays_is_told_once_and_not_asked_for_again(
    context: BrowserContext, tmp_path: Path, transport: str
) -> None:
    with Running(tmp_path, Scripted(FIRST)) as server, Doorman(server.port) as doorman:
        doorman.answer = guard
        page = follow(context, doorman.url, transport=transport, cookie="session=wrong; path=/")

        page.wait_for_function("seen.error === 401")

        assert seen(page)["refreshes"] == 1
        assert sum(map(is_stream, doorman.seen)) == 2
        page.evaluate("document.cookie = 'session=new; path=/'")
        page.evaluate("subscription.wake()")
        live(page)


def test_calls_and_streams_carry_the_pages_headers_and_sockets_a_ticket_for_them(
    context: BrowserContext, tmp_path: Path
) -> None:
    def check(head: str) -> bytes | None:
        if head.startswith("POST /tickets") and "authorization: bearer x" in head.lower():
            return refusal(200, '{"ticket": "a/b"}')
        if head.startswith("GET /ws"):
            return None if "ticket=a%2Fb" in head else closed_socket(head, 4401)
        if head.startswith(("GET /static", "GET /healthz")):
            return None
        return None if "authorization: bearer x" in head.lower() else refusal(401)

    headers = {"Authorization": "Bearer x"}
    with Running(tmp_path, Scripted(FIRST)) as server, Doorman(server.port) as doorman:
        doorman.answer = check
        pages = [
            follow(context, doorman.url, transport=transport, headers=headers)
            for transport in TRANSPORTS
        ]

        pages[0].evaluate("chat.send({ message: 'Hi' })")

        for page in pages:
            has_all(page, ("turn.completed", FIRST))


def test_where_no_websocket_comes_through_events_come_over_sse(
    context: BrowserContext, tmp_path: Path
) -> None:
    with Running(tmp_path, Scripted(FIRST)) as server, Doorman(server.port) as doorman:
        doorman.answer = lambda head: refusal(400) if head.startswith("GET /ws") else None
        page = follow(context, doorman.url, transport="websocket")
        start(server)

        has_all(page, ("turn.completed", FIRST))
        assert sum(line.startswith("GET /ws") for line in doorman.seen) == 2


NOWHERE = "8000000000000-0000"
"""A cursor later than any id: it is answered by a reset."""


@pytest.mark.parametrize("share", [True, False])
def test_a_cursor_that_is_no_good_is_reset_and_what_comes_then_is_missed_by_nobody(
    context: BrowserContext, tmp_path: Path, share: bool
) -> None:
    with Running(tmp_path, Scripted("Hello")) as server:
        url = f"{server.base_url}/"
        pages = [
            follow(context, url, transport=transport, after=NOWHERE, share=share)
            for transport in (*TRANSPORTS, *TRANSPORTS)
        ]
        for page in pages:
            live(page)
        start(server)

        for page in pages:
            has_all(page, ("turn.completed", "Hello"))


def test_one_cut_off_between_ready_and_reset_keeps_its_cursor_and_is_reset_again(
    context: BrowserContext, tmp_path: Path
) -> None:
    ready = b'data: {"type":"ready","conversation_id":"default","last_id":"0"}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1\n\n"
    cuts = [head + ready, head + ready]
    with Running(tmp_path, Scripted("Hello")) as server, Doorman(server.port) as doorman:
        doorman.answer = lambda asked: cuts.pop() if cuts and is_stream(asked) else None
        page = follow(context, doorman.url, transport="sse", after=NOWHERE)
        settles(lambda: not cuts)
        page.wait_for_function("seen.readies >= 3")
        start(server)
        has_all(page, ("turn.completed", "Hello"))

    asked = [line for line in doorman.seen if is_stream(line)]
    assert len(asked) >= 3
    assert all(f"after={NOWHERE}" in line for line in asked[:3])
