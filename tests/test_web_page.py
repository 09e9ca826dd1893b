"""The page and its parts: policies, validators, and nothing outside their folder."""

import socket
from pathlib import Path

import pytest

from tests.running import Running

PATHS = ["/", "/static/page/app.js", "/static/chat.css", "/static/icon.svg"]


@pytest.mark.parametrize("path", PATHS)
def test_the_page_and_its_parts_carry_a_strict_policy(tmp_path: Path, path: str) -> None:
    with Running(tmp_path) as server:
        answer = server.http.get(path)
        again = server.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        head = server.http.head(path)

    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../pyproject.toml",
        "/static/%2e%2e/pyproject.toml",
        "/static/..%2fpyproject.toml",
        "/static/%2e%2e%2f%2e%2e%2fetc/passwd",
        "/static//etc/passwd",
        "/static/..\\pyproject.toml",
        "/static/%00",
        "/static/",
        "/static/vendor",
        "/static/" + "a" * 5000,
        "/static/none.js",
    ],
)
def test_nothing_outside_the_folder_is_served(tmp_path: Path, path: str) -> None:
    with Running(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = raw.recv(65536)

    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer
    assert b"chatstream" not in answer.partition(b"\r\n\r\n")[2].replace(b"urn:chatstream", b"")


def test_parts_take_no_other_method(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        answer = server.http.post("/static/page/app.js", json={})

    assert answer.status_code == 405
    assert answer.json()["code"] == "method_not_allowed"
