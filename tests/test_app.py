"""The application as a part of others: two in one process, mounted, and its lifespan."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from websockets.sync.client import connect

import chatstream
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.settings import Settings
from tests.running import Running


def made(data: Path, says: str = "Hello") -> chatstream.Chatstream:
    settings = Settings(data_dir=data)
    return chatstream.create_app(
        settings, providers=Providers({"scripted": Scripted(says)}, "scripted")
    )


@contextmanager
def served(app: Any) -> Iterator[httpx.Client]:
    """Serve any application, as a foreign program would."""
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen()  # so that who comes before the server is ready waits, and is not refused
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),))
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


def mounted(chat: chatstream.Chatstream) -> Starlette:
    async def home(request: Request) -> PlainTextResponse:
        return PlainTextResponse("home")

    # The line that chatstream.app documents.
    return Starlette(routes=[Route("/", home), Mount("/chat", chat)], lifespan=chat.lifespan)


def test_mounted_it_hands_out_paths_under_where_it_is(tmp_path: Path) -> None:
    with served(mounted(made(tmp_path))) as client:
        assert client.get("/").text == "home"
        page = client.get("/chat", follow_redirects=True)
        part = client.get("/chat/static/page/app.js")
        started = client.post("/chat/turns", json={"message": "Hi"})
        events = client.get(started.json()["events"])
        turn = client.get(started.headers["Location"])
        url = str(client.base_url).replace("http", "ws").rstrip("/") + "/chat/ws"
        with connect(url, proxy=None) as ws:
            ws.send('{"type":"send","message":"Hi"}')
            ack = ws.recv(timeout=10)

    assert page.status_code == 200 and page.url.path == "/chat/"
    assert 'src="static/page/app.js"' in page.text
    assert part.status_code == 200
    assert started.status_code == 202
    assert started.json()["events"].startswith("/chat/turns/")
    assert '"text":"Hello"' in events.text
    assert turn.json()["status"] == "completed"
    assert '"type":"ack"' in str(ack)


def test_two_in_one_process_share_nothing(tmp_path: Path) -> None:
    one, other = made(tmp_path / "1", "One"), made(tmp_path / "2", "Other")
    with served(mounted(one)) as first, served(mounted(other)) as second:
        for client, says in ((first, "One"), (second, "Other")):
            body = {"message": "Hi", "turn_id": "turn-0001"}
            assert client.post("/chat/chat", json=body).json()["reply"] == says
            assert len(client.get("/chat/history").json()["history"]) == 2


def test_its_lifespan_can_be_entered_again(tmp_path: Path) -> None:
    server = Running(tmp_path)
    for expected in (2, 4):
        with server:
            assert server.http.post("/chat", json={"message": "Hi"}).status_code == 200
            assert len(server.http.get("/history").json()["history"]) == expected


def test_without_its_lifespan_the_log_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(Starlette(routes=[Mount("/chat", made(tmp_path))])) as client:
        answer = client.get("/chat/history")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "lifespan was not entered" in caplog.text


def test_every_answer_has_an_id_a_timing_and_no_guessed_type(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        own = server.http.get("/nothing", headers={"X-Request-ID": "abc-1"})
        bad = server.http.get("/healthz", headers={"X-Request-ID": "a b"})
        with server.stream("GET", "/events") as stream:
            streamed = stream.response.headers

    assert own.headers["x-request-id"] == own.json()["request_id"] == "abc-1"
    assert (own.status_code, own.json()["code"]) == (404, "not_found")
    assert len(bad.headers["x-request-id"]) == 32
    for headers in (own.headers, bad.headers, streamed):
        assert headers["server-timing"].startswith("app;dur=")
        assert headers["x-content-type-options"] == "nosniff"


def test_a_body_over_the_limit_is_refused_however_it_is_sent(tmp_path: Path) -> None:
    with Running(tmp_path, max_body_bytes=2000) as server:
        whole = server.http.post("/chat", json={"message": "x" * 2000})
        pieces = server.http.post(
            "/chat",
            content=iter([b'{"message":"', *[b"x" * 500] * 5, b'"}']),
            headers={"Content-Type": "application/json"},
        )

    assert (whole.status_code, whole.json()["code"]) == (413, "body_too_large")
    assert (pieces.status_code, pieces.json()["code"]) == (413, "body_too_large")
