"""Where requests may come from: Hosts, Origins, and what CORS allows."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from chatstream.auth import Origins
from chatstream.errors import Forbidden, SettingsError
from chatstream.settings import Settings
from tests.running import Running

FRIEND = "https://friend.example"


def origins(**settings: object) -> Origins:
    return Origins(Settings(_env_file=None, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", "192.0.2.1:80"]
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
                "Access-Control-Request-Headers": "content-type,idempotency-key,last-event-id",
            },
        )
        answer = server.http.post("/chat", json={"message": "Hi"}, headers={"Origin": FRIEND})
        with server.stream("GET", "/events", headers={"Origin": FRIEND}) as stream:
            streamed = stream.response.headers["access-control-allow-origin"]

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == FRIEND
    assert method in preflight.headers["access-control-allow-methods"]
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "Location" in answer.headers["access-control-expose-headers"]
    assert streamed == FRIEND
