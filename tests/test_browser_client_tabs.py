"""One connection for all tabs of a browser, whoever of them leaves, crashes, freezes or hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from chatstream.providers.adapters.scripted import Scripted
from tests.browser import answer, browser, say, shown, turns
from tests.doorman import Doorman
from tests.following import (
    context,
    follow,
    has_all,
    has_text,
    live,
    readers,
    seen,
    settles,
    start,
    streams,
)
from tests.running import Gate, Running

__all__ = ["browser", "context"]

TRANSPORTS = ("websocket", "sse")
PARTS = [" ".join(f"{part}{n}" for n in range(12)) + " " for part in "abcdef"]

LEADS = """
() => navigator.locks.request(`probe ${Math.random()}`, async ({ name }) => {
  const { held } = await navigator.locks.query();
  const own = held.find((lock) => lock.name === name).clientId;
  return held.some((lock) => /^chatstream( [^ ]+){3}$/.test(lock.name) && lock.clientId === own);
})
"""


def leader(pages: list[Page]) -> Page:
    """Take the tab that leads out of the list."""
    (found,) = (page for page in pages if page.evaluate(LEADS))
    pages.remove(found)
    return found


def scripted(gates: list[Gate]) -> Scripted:
    """Answer part by part, with a gate before each part but the first."""
    steps: list[str | Gate] = []
    for part, gate in zip(PARTS, [None, *gates], strict=False):
        steps += [gate] if gate else []
        steps += [f"{word} " for word in part.split()]
    return Scripted(*steps)


def close(page: Page) -> None:
    page.close()


def crash(page: Page) -> None:
    page.on("crash", lambda page: page.close())
    with pytest.raises(Exception, match="crash|closed"):
        page.goto("chrome://crash")


def freeze(page: Page) -> None:
    """Say what the browser says before it freezes a tab; a visible one it never does."""
    page.evaluate("document.dispatchEvent(new Event('freeze'))")


def leave_for_the_back_button(page: Page) -> None:
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")


HANG = "setTimeout(() => { for (const end = Date.now() + 4000; Date.now() < end; ); })"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_eight_tabs_have_one_stream_its_leader_may_go_and_none_misses_a_word(
    context: BrowserContext, tmp_path: Path, transport: str
) -> None:
    gates = [Gate() for _ in PARTS[1:]]
    with Running(tmp_path, scripted(gates)) as server:
        pages = [
            follow(context, f"{server.base_url}/", transport=transport, heartbeat=2)
            for _ in range(8)
        ]
        for page in pages:
            live(page)
        start(server)
        for page in pages:
            has_text(page, PARTS[0])
        settles(lambda: streams(server) == 1)

        gone = []
        ways = (close, crash, freeze, leave_for_the_back_button)
        for count, (leave, gate) in enumerate(zip(ways, gates, strict=False), 2):
            gone.append(leader(pages))
            leave(gone[-1])
            gate.open()
            for page in pages:
                has_text(page, "".join(PARTS[:count]))
            settles(lambda: streams(server) == 1)

        gone[2].evaluate("document.dispatchEvent(new Event('resume'))")
        gone[3].evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        for page in (*pages, *gone[2:]):
            has_text(page, "".join(PARTS[:5]))
        settles(lambda: streams(server) == 1)
        gates[-1].open()
        for page in (*pages, *gone[2:]):
            has_all(page, ("turn.completed", "".join(PARTS)))
            assert "reconnecting" not in seen(page)["states"]


def test_a_leader_that_hangs_is_replaced(context: BrowserContext, tmp_path: Path) -> None:
    gates = [Gate() for _ in PARTS[1:]]
    with Running(tmp_path, scripted(gates), heartbeat=0.3) as server:
        pages = [follow(context, f"{server.base_url}/", heartbeat=0.3) for _ in range(4)]
        start(server)
        for page in pages:
            has_text(page, PARTS[0])

        hanging = leader(pages)
        hanging.evaluate(HANG)
        settles(lambda: any(page.evaluate(LEADS) for page in pages))
        gates[0].open()
        for page in pages:
            has_text(page, PARTS[0] + PARTS[1])
        settles(lambda: streams(server) == 2)  # the hanging tab's, and the new leader's

        for gate in gates[1:]:
            gate.open()
        for page in (*pages, hanging):
            has_all(page, ("turn.completed", "".join(PARTS)))
        settles(lambda: streams(server) == 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tab_that_joins_with_an_older_cursor_gets_what_it_lacks_and_nobody_else_does(
    context: BrowserContext, tmp_path: Path, transport: str
) -> None:
    gates = [Gate() for _ in PARTS[1:]]
    with Running(tmp_path, scripted(gates)) as server:
        base = f"{server.base_url}/"
        pages = [follow(context, base, transport=transport) for _ in range(2)]
        start(server)
        for page in pages:
            has_text(page, PARTS[0])
        before = [seen(page) for page in pages]

        pages.append(follow(context, base, transport=transport))
        has_text(pages[-1], PARTS[0])
        gates[0].open()

        for page in pages:
            has_text(page, PARTS[0] + PARTS[1])
        assert [seen(page)["readies"] for page in pages] == [was["readies"] for was in before] + [1]
        settles(lambda: streams(server) == 1)
        for gate in gates[1:]:
            gate.open()
        for page in pages:
            has_all(page, ("turn.completed", "".join(PARTS)))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tabs_that_come_and_go_while_an_answer_runs_all_show_it(
    context: BrowserContext, tmp_path: Path, transport: str
) -> None:
    words = [f"w{n} " for n in range(900)]
    pauses = [lambda: asyncio.sleep(0.002)] * len(words)
    steps = [step for pair in zip(words, pauses, strict=True) for step in pair]
    with Running(tmp_path, Scripted(*steps)) as server:
        base = f"{server.base_url}/"
        pages = [follow(context, base, transport=transport)]
        start(server)

        for _ in range(3):
            pages += [follow(context, base, transport=transport) for _ in range(2)]
            pages.pop(0).close()

        for page in pages:
            has_all(page, ("turn.completed", "".join(words)))
        settles(lambda: streams(server) == 1)


DROPPED = """
async (base) => {
  const { SharedLine } = await import(`${base}static/client/shared-line.js`);
  const lead = (done) => navigator.locks.request("shared", () => (done(), new Promise(() => {})));
  await new Promise(lead);
  const channel = new BroadcastChannel("shared");
  const tell = (message) => channel.postMessage({ conversationId: "c", ...message });
  let joins;
  channel.onmessage = ({ data }) => data.join && joins(data.join);
  const join = () => new Promise((resolve) => (joins = resolve));
  let alone;
  const follow = () => new Promise(() => alone());
  const shared = new SharedLine("shared", { follow, revive() {} }, 60_000);
  shared.enter(() => {});

  let place = "1";
  const joined = join();
  const take = (event) => (place = event.id);
  shared.follow("c", () => place, take, new AbortController().signal).catch(() => {});
  const { follower } = await joined;
  const isAlone = new Promise((resolve) => (alone = resolve));
  tell({ to: follower, before: "5", at: "5" });
  await isAlone;
  tell({ down: { message: "The stream was cut." } });
  place = "5";
  const again = join();
  tell({ event: { type: "delta", id: "6" }, before: "5", at: "6" });
  const late = new Promise((resolve) => setTimeout(resolve, 5_000, {}));
  return (await Promise.race([again, late])).after;
}
"""


def test_a_tab_that_steps_in_line_behind_a_stream_that_was_cut_meanwhile_is_counted_again(
    context: BrowserContext, tmp_path: Path
) -> None:
    with Running(tmp_path) as server:
        page = context.new_page()
        page.goto(f"{server.base_url}/healthz")
        assert page.evaluate(DROPPED, f"{server.base_url}/") == "6"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("missing", ["navigator.locks", "BroadcastChannel"])
def test_where_tabs_cannot_share_each_has_a_connection(
    context: BrowserContext, tmp_path: Path, transport: str, missing: str
) -> None:
    owner = "Navigator.prototype" if "." in missing else "window"
    name = missing.removeprefix("navigator.")
    context.add_init_script(f"Object.defineProperty({owner}, '{name}', {{ value: undefined }})")
    gates = [Gate() for _ in PARTS[1:]]
    with Running(tmp_path, scripted(gates)) as server:
        pages = [follow(context, f"{server.base_url}/", transport=transport) for _ in range(2)]
        start(server)
        for page in pages:
            has_text(page, PARTS[0])

        assert streams(server) == 2
        pages[0].close()
        for gate in gates:
            gate.open()
        has_all(pages[1], ("turn.completed", "".join(PARTS)))


LATE_LOCKS = """
const { request } = LockManager.prototype;
let own = true;  // the first of a tab's locks is the one that tells that it is there
LockManager.prototype.request = async function (...given) {
  if (own) {
    own = false;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  return request.apply(this, given);
};
"""


def conversations(doorman: Doorman) -> list[int]:
    """How many conversations each request for events was for, in order."""
    lines = [line for line in doorman.seen if line.startswith("GET /events?")]
    return [line.count("conversation_id=") for line in lines]


def test_eight_tabs_on_eight_conversations_have_one_stream_and_none_notices_who_comes_and_goes(
    context: BrowserContext, tmp_path: Path
) -> None:
    context.add_init_script(LATE_LOCKS)
    gates = [Gate() for _ in PARTS[1:]]
    names = [f"c{number}" for number in range(8)]
    with Running(tmp_path, scripted(gates)) as server, Doorman(server.port) as doorman:
        pages: list[Page] = []
        for name in names:
            start(server, name)
            pages.append(follow(context, doorman.url, transport="sse", conversationId=name))
            has_text(pages[-1], PARTS[0])
        settles(lambda: streams(server) == 1)
        assert conversations(doorman) == [1, 2, 3, 4, 5, 6, 7, 8]

        lost = pages.pop(1 if pages[0].evaluate(LEADS) else 0)
        crash(lost)
        settles(lambda: sorted(readers(server, *names)) == [0] + [1] * 7)
        gates[0].open()
        for page in pages:
            has_text(page, PARTS[0] + PARTS[1])
            assert seen(page)["readies"] == 1
        assert streams(server) == 1

        leader(pages).close()
        for gate in gates[1:]:
            gate.open()
        for page in pages:
            has_all(page, ("turn.completed", "".join(PARTS)))
            assert seen(page)["states"] == ["connecting", "live"]
        settles(lambda: streams(server) == 1)


def test_eight_tabs_of_the_page_on_four_conversations_have_one_connection(
    context: BrowserContext, tmp_path: Path
) -> None:
    gates = [Gate() for _ in PARTS[1:]]
    with Running(tmp_path, scripted(gates)) as server:
        pages = []
        for number in range(8):
            page = context.new_page()
            page.goto(f"{server.base_url}/?conversation_id=c{number % 4}")
            expect(page.locator(".connection")).to_have_attribute("data-state", "live")
            pages.append(page)
        for page in pages[:4]:
            say(page, "Hi")
        for page in pages:
            expect(answer(page)).to_have_text(PARTS[0].strip())
        settles(lambda: streams(server) == 1)

        leader(pages).close()
        for gate in gates:
            gate.open()

        for page in pages:
            expect(turns(page, "completed")).to_have_count(1)
            assert shown(page) == "".join(PARTS).strip()
        settles(lambda: streams(server) == 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_conversations_of_one_page_share_a_connection(
    context: BrowserContext, tmp_path: Path, transport: str
) -> None:
    with Running(tmp_path, Scripted("Hello")) as server, Doorman(server.port) as doorman:
        page = follow(context, doorman.url, share=False, transport=transport)
        live(page)
        page.evaluate(
            """() => {
              window.others = [];
              window.following = ["x", "y", "z"].map((id) => {
                const onEvent = ({ type, text }) => others.push([id, type, text]);
                return chat.at(id).subscribe({ after: "0", onEvent });
              });
            }"""
        )
        page.wait_for_function("others.length === 3")
        page.evaluate("following[2].close()")

        page.evaluate("chat.at('y').send({ message: 'Hi' })")

        page.wait_for_function("others.some(([, type]) => type === 'turn.completed')")
        assert ["y", "turn.completed", "Hello"] in page.evaluate("others")
        assert [type for id, type, _ in page.evaluate("others") if id == "x"] == ["ready"]
        settles(lambda: readers(server, "default", "x", "y", "z") == [1, 1, 1, 0])
        assert streams(server) == 1
        assert seen(page)["ids"] == []
        assert seen(page)["readies"] == 1
        assert conversations(doorman) == ([1, 4, 3] if transport == "sse" else [])


def test_the_page_reaches_its_socket_under_a_path(context: BrowserContext, tmp_path: Path) -> None:
    with (
        Running(tmp_path, Scripted("Hello")) as server,
        Doorman(server.port, "/deep/chat") as doorman,
    ):
        page = context.new_page()
        page.goto(f"{doorman.url}deep/chat/")
        expect(page.locator(".connection")).to_have_attribute("data-state", "live")
        say(page, "Hi")

        expect(answer(page)).to_have_text("Hello")
        assert any(line.startswith("GET /deep/chat/ws?") for line in doorman.seen)
        assert not any(line.startswith("GET /deep/chat/events") for line in doorman.seen)
