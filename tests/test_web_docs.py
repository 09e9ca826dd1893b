"""The protocol: the page that shows it, and that it names what is there."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from chatstream.app import create_app
from chatstream.errors import ChatstreamError, DataFolderError, SettingsError
from chatstream.events import TERMINAL_TYPES
from chatstream.settings import Settings, variable
from chatstream.web.docs import POLICY, SOURCE, render
from chatstream.web.routes import CALLS
from tests.browser import browser
from tests.running import Running

__all__ = ["browser"]

ROOT = Path(__file__).parent.parent
PROTOCOL = SOURCE.read_text(encoding="utf-8")
NEVER_SENT = {"forbidden", "conflict", "unavailable", "turn_ended"}
"""Codes of kinds of errors: each error of that kind has one that says more."""
SAID_ELSEWHERE = {
    *("provider_quota", "provider_auth", "provider_rate_limited", "provider_unavailable"),
    *("model_not_found", "context_too_long", "content_refused", "cleared", "orphan"),
    *("request_timeout", "uri_too_long", "head_too_large", "too_many_connections"),
}
"""Codes that stand in tables."""


def test_the_protocol_is_served_as_a_page(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        answer = server.http.get("/docs")
        again = server.http.get("/docs", headers={"If-None-Match": answer.headers["etag"]})
        head = server.http.head("/docs")
        posted = server.http.post("/docs")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))
    assert posted.status_code == 405


def test_the_page_loads_nothing_foreign_and_has_nothing_inline(tmp_path: Path) -> None:
    page = render(PROTOCOL)

    assert re.findall(r"<script|<style|\sstyle=|\son\w+=", page) == []
    for address in re.findall(r'(?:href|src)="([^"]*)"', page):
        assert re.match(r"static/|#", address), address
    with Running(tmp_path) as server:
        for address in re.findall(r'href="(static/[^"]*)"', page):
            assert server.http.get("/" + address).status_code == 200


def test_the_page_lies_where_the_application_is_mounted(tmp_path: Path) -> None:
    chat = create_app(Settings(data_dir=tmp_path))
    app = Starlette(routes=[Mount("/chat", chat)], lifespan=chat.lifespan)
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/chat/docs").status_code == 200
        assert client.get("/chat/static/docs.css").status_code == 200


def test_each_heading_has_an_anchor_of_its_own_and_stands_in_the_contents() -> None:
    page = render(PROTOCOL)

    ids = re.findall(r'<h[2-6] id="([^"]+)"', page)
    assert ids == re.findall(r'href="#([^"]+)"', page)
    assert len(set(ids)) == len(ids) == len(re.findall(r"^##", PROTOCOL, re.M))
    assert {"section-1", "section-5", "promises"} <= set(ids)


def test_markup_in_the_document_is_text_on_the_page() -> None:
    page = render("# A <script>\n\n## B `<b>`\n\n<img src=x onerror=alert(1)>\n")

    assert "<script>" not in page and "<img" not in page and "<b>" not in page
    assert '<li class="h2"><a href="#b-b">B <code>&lt;b&gt;</code></a></li>' in page


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone_and_on_a_screen(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    complaints: list[str] = []
    with Running(tmp_path) as server:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]  # playwright wants the literal
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"{server.base_url}/docs")
        wide = page.evaluate("document.documentElement.scrollWidth")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("link", name="4. WebSocket").click()
        shown = page.locator("#section-4").bounding_box()
        context.close()

    assert complaints == []
    assert wide <= width
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 24, 29)")
    assert shown is not None and 0 <= shown["y"] < 800


# ---- what it says is what is there


def test_it_names_every_call_and_no_other() -> None:
    rows = re.findall(r"^\| (`(?:GET|POST|PATCH|DELETE) /.*?) \|", PROTOCOL, re.M)
    named: set[tuple[str, str]] = set()
    for row in rows:
        method, first, *others = re.findall(r"[^`, ]+", row)
        named.add((method.lower(), first))
        for other in others:
            of_turn = first.startswith("/turns/")
            named.add((method.lower(), first.rpartition("/")[0] + other if of_turn else other))

    assert named == {(call.method, call.path) for call in CALLS}


def kinds(of: type[ChatstreamError] = ChatstreamError) -> set[type[ChatstreamError]]:
    return {of}.union(*map(kinds, of.__subclasses__()))


def test_it_names_every_code_and_type() -> None:
    own = [kind for kind in kinds() if kind.__module__ == "chatstream.errors"]
    names = {kind.code for kind in own if kind not in (DataFolderError, SettingsError)}
    for path in (ROOT / "chatstream").rglob("*.py"):
        names |= set(re.findall(r'\bcode="([a-z_]+)"', path.read_text()))
    frames = (ROOT / "chatstream/web/frames.py").read_text()
    names |= (
        SAID_ELSEWHERE
        | TERMINAL_TYPES
        | set(re.findall(r'^ +"([a-z]+)": self\._[a-z]+,$', frames, re.MULTILINE))
    )

    assert {name for name in names - NEVER_SENT if f"`{name}`" not in PROTOCOL} == set()


def test_the_settings_that_it_names_are_there() -> None:
    settings = {variable(name) for name in Settings.model_fields}
    assert set(re.findall(r"CHATSTREAM_[A-Z_]+", PROTOCOL)) <= settings
