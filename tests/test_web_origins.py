"""Where requests may come from: Hosts, Origins, and what CORS allows."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from chatstream.errors import Forbidden, SettingsError
from chatstream.settings import Settings
from chatstream.web.origins import Origins
from tests.running import Running

FRIEND = "https://friend.example"


def origins(**settings: object) -> Origins:
    return Origins(Settings(**settings))


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8000",
        "LOCALHOST",
        "127.0.0.1:1",
        "[::1]:8000",
        "192.0.2.1:80",
        "127.0.0.1:",
        "[::1]:",
    ],
)
def test_loopback_and_addresses_are_the_servers_own(host: str) -> None:
    origins().check_host(Headers({"host": host}))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.example:80@localhost",
        "[::1].evil.example",
        "localhost:x",
        "",
        "127.0.0.1.evil.example",
    ],
)
def test_a_foreign_name_is_refused_so_that_none_can_be_rebound(host: str) -> None:
    with pytest.raises(Forbidden) as refused:
        origins().check_host(Headers({"host": host}))

    assert refused.value.code == "foreign_host"
    origins(allowed_hosts="*").check_host(Headers({"host": host}))


def test_names_can_be_allowed() -> None:
    allowed = origins(allowed_hosts="Chat.example, other.example")

    allowed.check_host(Headers({"host": "chat.example:443"}))
    with pytest.raises(Forbidden):
        allowed.check_host(Headers({"host": "x.chat.example"}))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:8000"},
        {"origin": "https://localhost:8000"},  # a proxy has ended TLS
        {"origin": FRIEND},
        {},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
def test_the_own_page_friends_and_programs_may_ask(headers: dict[str, str]) -> None:
    allowed = origins(allowed_origins=FRIEND)
    for scheme in ("http", "ws"):
        allowed.check_origin(scheme, Headers({"host": "localhost:8000", **headers}))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:9000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:8000@evil.example"},
        {"origin": "file://"},
        {"origin": "evil://localhost:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_a_foreign_page_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden) as refused:
        origins().check_origin("http", Headers({"host": "localhost:8000", **headers}))

    assert refused.value.code == "foreign_origin"


@pytest.mark.parametrize("value", ["*", "null", "friend.example", f"{FRIEND}/", f"{FRIEND}/x"])
def test_what_is_no_origin_cannot_be_allowed(value: str) -> None:
    with pytest.raises(SettingsError, match="CHATSTREAM_ALLOWED_ORIGINS"):
        origins(allowed_origins=value)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "chat.example", "origin": "https://chat.example:443"},
        {"host": "chat.example:443", "origin": "https://chat.example"},
        {"host": "chat.example:80", "origin": "http://chat.example"},
        {"host": "chat.example:8443", "origin": "https://chat.example:8443"},
        {"host": "chat.example:", "origin": "http://chat.example"},
    ],
    ids=str,
)
def test_the_usual_port_may_be_told_or_left_out(headers: dict[str, str]) -> None:
    origins(allowed_hosts="chat.example").check_origin("http", Headers(headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "chat.example:8080", "origin": "http://chat.example"},
        {"host": "chat.example", "origin": "http://chat.example:8080"},
        {"host": "chat.example:443", "origin": "http://chat.example"},
        {"host": "chat.example", "origin": "http://"},
        {"host": "", "origin": "http://"},
        {"host": "[bad", "origin": "http://[bad2"},
    ],
    ids=str,
)
def test_another_port_is_another_origin(headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden):
        origins().check_origin("http", Headers(headers))


@given(
    st.one_of(st.text(), st.from_regex(r"https?://[\[\]:/@%a-z0-9.-]*", fullmatch=True)),
    st.one_of(st.text(), st.from_regex(r"[\[\]:/@%a-z0-9.-]*", fullmatch=True)),
    st.sampled_from(["http", "https", "ws", "wss"]),
)
def test_whatever_an_origin_or_a_host_is_it_is_taken_or_refused(
    origin: str, host: str, scheme: str
) -> None:
    sent = [(name, text.encode()) for name, text in ((b"host", host), (b"origin", origin))]
    headers = Headers(raw=sent)
    for allowed in (origins(), origins(allowed_hosts="*", allowed_origins=FRIEND)):
        with suppress(Forbidden):
            allowed.check_host(headers)
        with suppress(Forbidden):
            allowed.check_origin(scheme, headers)


UNREADABLE = [
    "http://[bad", "http://[::1", "http://]", "http://a]b", "[", "://", "http:///", "//x",
    "http://[v1.x]", "http://a:b:c", "http://[::1%25]", "\xff", "http://\xdf\xff",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("data"), allowed_origins=FRIEND) as server:
        yield server


def status(server: Running, *lines: str) -> bytes:
    """Ask over a raw socket, since clients will not send such headers; returns the status."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = b""
        while b"\r\n" not in answer:
            data = raw.recv(65536)
            assert data, "closed without an answer"
            answer += data
    return answer.split(b" ")[1]


HANDSHAKE = [
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
]  # fmt: skip


@pytest.mark.parametrize("origin", UNREADABLE, ids=ascii)
def test_an_origin_that_cannot_be_read_is_refused_over_http_and_at_the_handshake(
    server: Running, origin: str
) -> None:
    for first in ("POST /history/clear", "GET /history", "DELETE /users", "OPTIONS /chat"):
        lines = [f"{first} HTTP/1.1", "Host: localhost", f"Origin: {origin}", "Content-Length: 0"]
        assert status(server, *lines) in (b"403", b"400")
    lines = ["GET /ws HTTP/1.1", "Host: localhost", f"Origin: {origin}", *HANDSHAKE]
    assert status(server, *lines) in (b"403", b"400")


@pytest.mark.parametrize(
    "host",
    ["[bad", "[::1", "]", "a b", "a/b", "@", "\xff", "localhost:99999", "[::1]x", "1.2.3.4.5"],
    ids=ascii,
)  # fmt: skip
def test_a_host_that_cannot_be_read_is_refused(server: Running, host: str) -> None:
    assert status(server, "GET /history HTTP/1.1", f"Host: {host}") in (b"403", b"400")
    assert status(server, "GET /ws HTTP/1.1", f"Host: {host}", *HANDSHAKE) in (b"403", b"400")


def test_beyond_loopback_names_are_refused_all_the_same(tmp_path: Path) -> None:
    """Else any web page would read everything, by DNS rebinding: its name would be our Host."""
    evil = {"Host": "evil.example", "Origin": "http://evil.example"}
    container = {"Host": "192.168.1.7:9000", "Origin": "http://192.168.1.7:9000"}
    with Running(tmp_path, host="0.0.0.0", insecure=True) as server:
        refused = [
            server.http.get("/history", headers={"Host": "evil.example:8000"}),
            server.http.get("/history", headers=evil),
            server.http.post("/history/clear", json={}, headers=evil),
            server.http.get("/history", headers={"Origin": "http://evil.example"}),
        ]
        taken = [
            server.http.post("/history/clear", json={}, headers=container),
            server.http.get("/history", headers={"Host": "192.168.1.7:9000"}),
            server.http.get("/history", headers={"Host": "[2001:db8::7]"}),
            server.http.get("/history", headers={"Host": "localhost:1234"}),
        ]
        lines = [f"{name}: {value}" for name, value in evil.items()]
        handshake = status(server, "GET /ws HTTP/1.1", *lines, *HANDSHAKE)

    assert [answer.status_code for answer in refused] == [403] * 4
    assert [answer.status_code for answer in taken] == [200] * 4
    assert handshake == b"403"


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/ws", {"Origin": "http://evil.example"}, (403, "foreign_origin")),
        ("/nothing", {}, (404, "not_found")),
        ("/chat", {}, (404, "not_found")),
    ],
)
def test_a_refused_handshake_says_why_as_every_answer_does(
    server: Running, path: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(
            f"ws://127.0.0.1:{server.port}{path}",
            additional_headers={"X-Request-ID": "my-id", **headers},
            proxy=None,
        )

    answer = refused.value.response
    problem = orjson.loads(answer.body or b"{}")
    assert (answer.status_code, problem["code"]) == expected
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == problem["request_id"] == "my-id"
    assert "dur=" in answer.headers["server-timing"]


def test_a_foreign_page_can_change_nothing_and_read_nothing(tmp_path: Path) -> None:
    evil = {"Origin": "https://evil.example"}
    with Running(tmp_path) as server:
        posted = server.http.post("/chat", json={"message": "Hi"}, headers=evil)
        erased = server.http.delete("/users", headers=evil)
        read = server.http.get("/history", headers=evil)
        rebound = server.http.get("/history", headers={"Host": "evil.example"})
        preflight = server.http.options(
            "/chat", headers=evil | {"Access-Control-Request-Method": "POST"}
        )
        left = server.http.get("/history").json()

    for refused in (posted, erased, rebound):
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["x-request-id"] == refused.json()["request_id"]
    assert "access-control-allow-origin" not in read.headers
    assert "access-control-allow-origin" not in preflight.headers
    assert left["history"] == []


def test_forwarded_headers_are_not_believed(tmp_path: Path) -> None:
    forged = {
        "Host": "evil.example",
        "X-Forwarded-Host": "localhost",
        "Origin": "https://evil.example",
        "X-Forwarded-Proto": "https",
    }
    with Running(tmp_path) as server:
        assert server.http.post("/history/clear", json={}, headers=forged).status_code == 403


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_an_allowed_page_may_use_every_method(tmp_path: Path, method: str) -> None:
    with Running(tmp_path, allowed_origins=FRIEND) as server:
        preflight = server.http.options(
            "/conversations",
            headers={
                "Origin": FRIEND,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "content-type,last-event-id,x-of-their-own",
            },
        )
        answer = server.http.post("/chat", json={"message": "Hi"}, headers={"Origin": FRIEND})
        with server.stream("GET", "/events", headers={"Origin": FRIEND}) as stream:
            streamed = stream.response.headers["access-control-allow-origin"]

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert preflight.headers["access-control-allow-origin"] == FRIEND
    assert method in preflight.headers["access-control-allow-methods"]
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "x-of-their-own" in preflight.headers["access-control-allow-headers"]
    assert "Location" in answer.headers["access-control-expose-headers"]
    assert streamed == FRIEND


EXPOSED = {
    "location", "retry-after", "x-request-id", "etag", "ratelimit", "ratelimit-policy",
    "x-resumable-stream-id", "x-vercel-ai-ui-message-stream",
}  # fmt: skip


def test_a_friends_page_can_read_every_answer_errors_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError

    friend = {"Origin": FRIEND}
    with Running(tmp_path, allowed_origins=FRIEND, rate_limit_default="8/hour") as server:
        http = server.http
        monkeypatch.setattr(server.app.services.log, "list", broken)
        answers = [
            http.get("/history", headers=friend),
            http.head("/history", headers=friend),
            http.get("/history", headers=friend | {"If-None-Match": "*"}),
            http.get("/history?limit=x", headers=friend),
            http.get("/turns/turn-0001", headers=friend),
            http.get("/nothing", headers=friend),
            http.get("/static/nothing", headers=friend),
            http.get("/static/page/app.js", headers=friend),
            http.put("/history", headers=friend),
            http.options("/history", headers=friend),
            http.get("/conversations", headers=friend),
            http.get("/history", headers=friend | {"Host": "evil.example"}),
            http.post("/feedback", content=b"{", headers=friend),
            http.post("/feedback", content=b"{", headers=friend),
            http.post("/feedback", content=b"{", headers=friend),
        ]
        stranger = http.get("/healthz")
    statuses = [answer.status_code for answer in answers]

    assert statuses == [200, 200, 304, 422, 404, 404, 404, 200, 405, 405, 500, 403, 415, 415, 429]
    for answer in answers:
        headers = answer.headers
        assert headers["access-control-allow-origin"] == FRIEND
        assert headers["access-control-allow-credentials"] == "true"
        assert "Origin" in headers["vary"]
        told = headers["access-control-expose-headers"].lower().split(", ")
        assert set(told) == EXPOSED
    assert "access-control-allow-origin" not in stranger.headers
    assert stranger.headers["vary"] == "Origin"  # what is kept of it is not shown to a friend


def test_preflights_are_not_counted_and_a_strangers_is_refused(tmp_path: Path) -> None:
    asks = {"Access-Control-Request-Method": "POST"}
    with Running(tmp_path, allowed_origins=FRIEND, rate_limit_default="1/hour") as server:
        friends = [
            server.http.options("/feedback", headers=asks | {"Origin": FRIEND}) for _ in range(3)
        ]
        stranger = server.http.options("/feedback", headers=asks | {"Origin": "http://e.example"})
        counted = server.http.get("/history")

    assert {answer.status_code for answer in (*friends, counted)} == {200}
    assert stranger.status_code == 403
    assert "access-control-allow-origin" not in stranger.headers
    assert "ratelimit" not in friends[0].headers


def test_without_friends_no_answer_speaks_of_origins(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        answer = server.http.get("/history", headers={"Origin": server.base_url})

    assert answer.status_code == 200
    assert not {"vary", "access-control-allow-origin"} & set(answer.headers)
