"""What the server refuses, and how: statuses and problems, over real sockets."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatstream.errors import StorageFull
from chatstream.providers.adapters.scripted import Scripted
from tests.running import Gate, Running

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("data")
    with Running(folder, Scripted("Hello"), max_message_chars=100) as server:
        yield server


def check_problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Check what every problem has; returns its body."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(body)
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert code in (None, body["code"])
    return body


# ---- bodies


@pytest.mark.parametrize("data", [b"{", b"", b"nonsense", b'{"message":"\\ud800"}', b"\xff", b"NaN",
                                  b'{"message": NaN}', b"[" * 100_000])  # fmt: skip
def test_what_is_no_json_is_400(server: Running, data: bytes) -> None:
    check_problem(server.http.post("/chat", content=data, headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"5", b"true"])
def test_json_that_is_no_object_is_422(server: Running, data: bytes) -> None:
    body = check_problem(server.http.post("/chat", content=data, headers=JSON), 422)
    assert body["errors"][0]["field"] == "body"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"]
)
def test_what_does_not_say_that_it_is_json_is_415(server: Running, kind: str) -> None:
    answer = server.http.post("/chat", content=b'{"message":"q"}', headers={"Content-Type": kind})
    check_problem(answer, 415, "not_json")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON",
                                  "application/vnd.api+json"])  # fmt: skip
def test_every_json_is_json(server: Running, kind: str) -> None:
    answer = server.http.post("/chat", content=b'{"message":"q"}', headers={"Content-Type": kind})
    assert answer.status_code == 200


def test_a_body_over_the_limit_is_413_whether_its_length_is_told_or_not(server: Running) -> None:
    big = b'{"message":"' + b"x" * 600_000 + b'"}'

    def chunks() -> Iterator[bytes]:
        for _ in range(600):
            yield b"x" * 1000

    check_problem(server.http.post("/chat", content=big, headers=JSON), 413, "body_too_large")
    check_problem(server.http.post("/chat", content=chunks(), headers=JSON), 413)


def test_a_client_that_leaves_inside_its_body_does_no_harm(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"mess'
        )
    assert server.http.get("/healthz").status_code == 200


# ---- messages


@pytest.mark.parametrize("message", ["", " ", "\n\t \u2003"])
def test_an_empty_message_is_400(server: Running, message: str) -> None:
    body = check_problem(server.http.post("/chat", json={"message": message}), 400)
    assert body["detail"] == "Message cannot be empty."


def test_a_long_message_is_400_and_counts_code_points(server: Running) -> None:
    fits = "\N{GRINNING FACE}" * 100
    assert server.http.post("/chat", json={"message": fits}).status_code == 200
    body = check_problem(server.http.post("/chat", json={"message": fits + "x"}), 400)
    assert body["detail"] == "Message too long. Please keep it under 100 characters."


def test_markup_is_refused_only_where_that_is_set(server: Running, tmp_path: Path) -> None:
    body = {"message": "<script>alert(1)</script>"}
    assert server.http.post("/chat", json=body).status_code == 200

    with Running(tmp_path, Scripted("x"), reject_markup=True) as strict:
        refused = check_problem(strict.http.post("/chat", json=body), 400)
        assert refused["detail"] == "Message contains potentially unsafe content."
        assert strict.http.post("/chat", json={"message": "1 < 2 && 3 > 2"}).status_code == 200


def test_an_unknown_provider_is_400_and_names_those_that_there_are(server: Running) -> None:
    body = check_problem(server.http.post("/chat", json={"message": "q", "provider": "none"}), 400)
    assert (body["code"], "scripted" in body["detail"]) == ("unknown_provider", True)


# ---- fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message", None), ("message", 5), ("message", ["q"]),
        ("user_id", ""), ("user_id", "."), ("user_id", ".."), ("user_id", "a\nb"),
        ("user_id", "\x00"), ("user_id", "\x85"), ("user_id", "x" * 257), ("user_id", 5),
        ("conversation_id", ""), ("conversation_id", "\x7f"), ("conversation_id", {}),
        ("turn_id", "short"), ("turn_id", "x" * 65), ("turn_id", "with space"),
        ("turn_id", "turn-0001\n"), ("turn_id", "türn-0001"), ("turn_id", 12345678),
        ("temperature", "1"), ("temperature", -0.1), ("temperature", 2.1), ("temperature", True),
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", "5"), ("max_tokens", 10**30),
        ("provider", ""), ("model", ""), ("model", 5), ("system", 5),
    ],
)  # fmt: skip
def test_a_wrong_field_is_422_and_named(server: Running, field: str, value: object) -> None:
    answer = server.http.post("/chat", json={"message": "q", field: value})

    body = check_problem(answer, 422, "invalid_request")
    assert [error["field"] for error in body["errors"]] == [field]
    assert all(error["message"] for error in body["errors"])


def test_every_wrong_field_is_named_at_once(server: Running) -> None:
    answer = server.http.post("/chat", json={"user_id": "", "turn_id": "x", "max_tokens": 0})
    fields = {error["field"] for error in answer.json()["errors"]}
    assert fields == {"message", "user_id", "turn_id", "max_tokens"}


def test_unknown_fields_are_ignored_and_null_is_absent(server: Running) -> None:
    body: dict[str, object] = {"message": "q", "user_id": None, "temperature": None, "x": {}}
    assert server.http.post("/chat", json=body).status_code == 200


@pytest.mark.parametrize("path", ["/history", "/events", "/conversations", "/turns/turn-0001",
                                  "/turns/turn-0001/events"])  # fmt: skip
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("user_id=", "user_id"),
        ("user_id=%00", "user_id"),
        ("user_id=..", "user_id"),
        ("user_id=%ff", "query"),
        ("user_id=%ed%a0%80", "query"),
        ("user_id=a&user_id=b", "user_id"),
        ("user_id=" + "x" * 257, "user_id"),
    ],
)
def test_a_wrong_query_is_422(server: Running, path: str, query: str, field: str) -> None:
    body = check_problem(server.http.get(f"{path}?{query}"), 422)
    assert [error["field"] for error in body["errors"]] == [field]


# ---- refusals of their own kind


def test_what_is_not_there_is_a_problem_too(server: Running) -> None:
    check_problem(server.http.get("/nothing"), 404, "not_found")
    answer = server.http.get("/chat")
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/conversations", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/history", {"GET", "HEAD"}),
        ("/users", {"DELETE"}),
        ("/static/page/app.js", {"GET", "HEAD"}),
        ("/", {"GET", "HEAD"}),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE"])
def test_a_405_names_all_that_is_for_its_path(
    server: Running, path: str, methods: set[str], method: str
) -> None:
    answer = server.http.request(method, path)

    check_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == methods


def test_a_slash_too_much_is_404_and_no_address_made_of_the_host(tmp_path: Path) -> None:
    headers = {"Host": "chat.example", "X-Forwarded-Proto": "https"}
    with Running(tmp_path, allowed_hosts="chat.example") as server:
        for path in ("/chat/", "/history/", "/ws/", "/static", "/nothing//", "/turns/turn-0001/"):
            for method in ("GET", "POST", "PATCH"):
                answer = server.http.request(method, path, headers=headers)
                check_problem(answer, 404, "not_found")
                assert "location" not in answer.headers


def test_a_full_disk_is_507_and_attaching_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise StorageFull("The disk is full; nothing was started.")

    with Running(tmp_path, Scripted("x")) as server:
        body = {"message": "q", "turn_id": "turn-0001"}
        server.http.post("/chat", json=body)
        monkeypatch.setattr(server.app.services.log._disk, "admit", full)
        check_problem(server.http.post("/turns", json={"message": "q"}), 507, "storage_full")
        check_problem(server.http.post("/feedback", json={"rating": 5}), 507, "storage_full")
        assert server.http.post("/chat", json=body).json()["reply"] == "x"


def test_too_many_requests_are_429_but_no_stream_is(tmp_path: Path) -> None:
    rates = {"rate_limit_chat": "2/hour", "rate_limit_default": "3/hour"}
    with Running(tmp_path, Scripted("x"), **rates) as server:
        chats = [server.http.post("/chat", json={"message": "q"}) for _ in range(3)]
        reads = [server.http.get("/history") for _ in range(4)]
        for _ in range(5):
            with server.stream("GET", "/events") as stream:
                assert stream.response.status_code == 200
                stream.until("caught_up")
            assert server.http.get("/healthz").status_code == 200

    assert [a.status_code for a in chats] == [200, 200, 429]
    assert [a.status_code for a in reads] == [200, 200, 200, 429]
    for answer in (chats[-1], reads[-1]):
        check_problem(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1
        assert {"ratelimit", "ratelimit-policy"} <= set(answer.headers)


COUNTED: list[tuple[str, str, Any, int]] = [
    ("POST", "/chat", {"message": "q"}, 200), ("POST", "/chat", {}, 422),
    ("POST", "/chat", {"message": ""}, 400), ("POST", "/turns", {"message": "q"}, 202),
    ("POST", "/turns", {"message": "q", "provider": "x"}, 400),
    ("GET", "/turns/turn-0001", None, 200), ("GET", "/turns/turn-9999", None, 404),
    ("POST", "/turns/turn-0001/cancel", {}, 200), ("POST", "/turns/turn-9999/cancel", {}, 404),
    ("POST", "/turns/turn-0001/regenerate", {}, 202), ("POST", "/turns/x/regenerate", {}, 404),
    ("POST", "/turns/turn-0001/continue", {}, 202), ("POST", "/turns/x/continue", {}, 404),
    ("GET", "/turns/turn-0001/versions", None, 200), ("GET", "/turns/x/versions", None, 404),
    ("GET", "/history", None, 200), ("GET", "/history?before=x", None, 422),
    ("POST", "/history/clear", {"conversation_id": "b"}, 200), ("POST", "/history/clear", [], 422),
    ("POST", "/feedback", {"rating": 5}, 200), ("POST", "/feedback", {}, 422),
    ("GET", "/conversations", None, 200), ("GET", "/conversations?limit=0", None, 422),
    ("PATCH", "/conversations", {"title": "t"}, 200), ("PATCH", "/conversations", {}, 422),
    ("DELETE", "/conversations?conversation_id=x", None, 404),
    ("DELETE", "/users?user_id=x", None, 200), ("DELETE", "/users?user_id=", None, 422),
    ("GET", "/usage", None, 200), ("GET", "/usage?from=x", None, 422),
    ("GET", "/providers", None, 200),
]  # fmt: skip


def test_every_counted_answer_tells_what_is_left_and_nothing_else_does(tmp_path: Path) -> None:
    rates = {"rate_limit_chat": "1000/hour", "rate_limit_default": "1000/hour"}
    with Running(tmp_path, Scripted("x"), **rates) as server:
        server.http.post("/chat", json={"message": "q", "turn_id": "turn-0001"})
        left: dict[str, int] = {}
        for method, path, body, status in COUNTED:
            answer = server.http.request(method, path, json=body)
            assert answer.status_code == status, (method, path, answer.text)
            kind, _, rest = answer.headers["ratelimit"].partition(";r=")
            now = int(rest.partition(";")[0])
            assert now == left.get(kind, now + 1) - 1
            left[kind] = now
            assert answer.headers["ratelimit-policy"] == f"{kind};q=1000;w=3600"
        paths = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/static/", "/x")
        uncounted = [server.http.get(path) for path in paths]
        uncounted.append(server.http.put("/history"))
        for path in ("/events", "/turns/turn-0001/events"):
            with server.stream("GET", path) as stream:
                uncounted.append(stream.response)

    assert set(left) == {'"chat"', '"default"'}
    assert not any("ratelimit" in answer.headers for answer in uncounted)


def test_a_defect_is_500_and_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("/secret/path")

    with Running(tmp_path, Scripted("x")) as server:
        monkeypatch.setattr(server.app.services.log, "list", broken)
        answer = server.http.get("/conversations")

    check_problem(answer, 500, "internal")
    assert "secret" not in answer.text


# ---- what every answer has


def test_every_answer_has_an_id_and_its_timing(server: Running) -> None:
    paths = ("/history", "/nothing", "/healthz", "/", "/history?limit=x", "/metrics")
    answers = [server.http.get(path) for path in paths]
    for method in ("HEAD", "OPTIONS", "PUT"):
        answers += [server.http.request(method, path) for path in (*paths, "/static/", "/chat/")]
    with server.stream("GET", "/events") as stream:
        answers.append(stream.response)

    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert all("dur=" in answer.headers["server-timing"] for answer in answers)


def test_a_sane_request_id_is_kept_and_another_is_not(server: Running) -> None:
    def told(given: str) -> str:
        answer = server.http.get("/nothing", headers={"X-Request-ID": given})
        return str(answer.json()["request_id"])

    assert told("my-id.1:2_3") == "my-id.1:2_3"
    for given in ("", "x" * 200, "<script>", "a b"):
        assert told(given) != given


def test_many_callers_at_once_with_one_new_conversation_make_one_log(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted(gate, "x")) as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: server.http.post("/turns", json={"message": "q"}), range(16)))
        gate.open()
        with server.stream("GET", "/events?after=0") as stream:
            ends = 0
            while ends < 16:
                ends += next(stream).type == "turn.completed"
        assert server.http.get("/conversations").json()["conversations"][0]["turns"] == 16
