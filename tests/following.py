"""Tabs that follow a conversation with the browser client, and note exactly what they got."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from chatstream.events import Address
from tests.running import Running

FOLLOW = """
async ({ base, options, cookie, after }) => {
  const { ChatstreamClient } = await import(`${base}static/client/chatstream-client.js`);
  const seen = { text: "", ended: [], ids: [], readies: 0, states: [], refreshes: 0, error: null };
  if (cookie !== null) {
    options.refresh = async () => {
      seen.refreshes++;
      document.cookie = cookie;
    };
  }
  if (options.headers) {
    const { headers } = options;
    options.headers = async () => headers;
  }
  const chat = new ChatstreamClient(options);
  const onEvent = (event) => {
    if (event.type === "ready") return seen.readies++;
    seen.ids.push(event.id);
    if (event.type === "turn.started") seen.text = "";
    if (event.type === "delta") seen.text += event.text;
    if (event.started_id) seen.ended.push([event.type, event.text]);
  };
  const onState = (state, error) => {
    seen.states.push(state);
    if (state === "refused") seen.error = error.status;
  };
  Object.assign(window, { chat, seen, subscription: chat.subscribe({ after, onEvent, onState }) });
}
"""


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser of the test's own; its pages are tabs."""
    context = browser.new_context()
    context.set_default_timeout(20_000)
    yield context
    context.close()


def follow(
    context: BrowserContext,
    base: str,
    *,
    after: str | None = "0",
    cookie: str | None = None,
    **options: Any,
) -> Page:
    """Open a tab that follows a conversation, beside the bundled page."""
    page = context.new_page()
    page.goto(f"{base}healthz")
    page.evaluate(FOLLOW, {"base": base, "after": after, "cookie": cookie, "options": options})
    return page


def seen(page: Page) -> Any:
    """What a tab has got so far."""
    return page.evaluate("seen")


def live(page: Page) -> None:
    """Wait until a tab is connected."""
    page.wait_for_function("seen.states.at(-1) === 'live'")


def has_text(page: Page, text: str) -> None:
    """Wait until the parts that came are this text: a part too few or too many never is."""
    try:
        page.wait_for_function("(text) => seen.text === text", arg=text)
    except PlaywrightTimeout:
        pytest.fail(f"the tab has {seen(page)}")


def has_all(page: Page, *ends: tuple[str, str]) -> None:
    """Wait for the ends of turns; check that no event came twice or out of order."""
    page.wait_for_function("(count) => seen.ended.length >= count", arg=len(ends))
    found = seen(page)
    assert found["ended"] == [list(end) for end in ends]
    assert found["ids"] == sorted(set(found["ids"]))
    assert ends[-1][1].startswith(found["text"])


def streams(server: Running) -> int:
    """How many streams and sockets the server has open."""
    text = server.http.get("/metrics").text
    return sum(
        int(float(count))
        for count in re.findall(r"^chatstream_streams_open\{.*\} (\S+)$", text, re.M)
    )


def readers(server: Running, *conversation_ids: str) -> list[int]:
    """How many read each conversation."""

    async def count() -> list[int]:
        log = server.app.services.log
        found = [await log.conversation(Address("default", name)) for name in conversation_ids]
        return [conversation.readers for conversation in found]

    return list(server.call(count()))


def settles(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait for what the server tells."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def start(server: Running, conversation_id: str = "default") -> str:
    """Begin a turn beside the tabs; return its id."""
    answer = server.http.post("/turns", json={"message": "Hi", "conversation_id": conversation_id})
    assert answer.status_code == 202
    return str(answer.json()["turn_id"])
