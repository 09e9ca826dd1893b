"""Turns done again from the page: continued, regenerated, edited; and their versions."""

from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import (
    OpenPage,
    ServerProcess,
    answer,
    asked,
    browser,
    complaints,
    ident,
    module_page,
    new_page,
    run,
    say,
    server,
    shown,
    stop_button,
    turns,
    upstream,
)
from tests.upstream import Upstream, text_of

__all__ = ["browser", "complaints", "module_page", "new_page", "server", "upstream"]

PART = "The first half"
REST = ", and the second."
GONE_ON = f"fake-small!gate say={quote(REST)}"
"""A model that waits, and then says the rest; a message with a script goes before."""


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def start(server: ServerProcess, message: str, model: str = GONE_ON) -> None:
    """Start a turn beside the page; to go on, the model's own script is played."""
    server.call("POST", "turns", json={"message": message, "model": model})


def interrupt(page: Page, server: ServerProcess, model: str = GONE_ON) -> None:
    """Have an answer's first half, and the server killed and started again."""
    start(server, f"!say={quote(PART)} hang", model)
    expect(answer(page)).to_have_text(PART)
    server.kill()
    server.start()
    expect(turns(page, "interrupted")).to_have_count(1, timeout=15_000)


def abort(route: Route) -> None:
    route.abort()


WATCH = """
() => {
  window.seen = [];
  const look = () => window.seen.push(document.querySelector(".answer").innerText.trim());
  new MutationObserver(look).observe(document.querySelector(".turns"), {
    subtree: true, childList: true, characterData: true, attributes: true,
  });
}
"""


def test_an_answer_goes_on_after_the_servers_death_and_is_whole(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page, other = new_page(server.url), new_page(server.url)
    interrupt(page, server)
    page.evaluate(WATCH)

    press(page, "Continue")

    expect(page.locator("#announcements")).to_have_text("Generating the answer…")
    expect(page.locator(".waiting")).to_be_visible()
    expect(answer(page)).to_have_text(PART)
    upstream.open_gate()
    for tab in (page, other):
        expect(turns(tab, "completed")).to_have_count(1)
        expect(turns(tab)).to_have_count(1)
        assert shown(tab) == PART + REST
    expect(page.locator("#announcements")).to_have_text("The answer is complete.")
    expect(page.get_by_role("button", name="Continue")).to_be_hidden()
    seen = page.evaluate("window.seen")
    assert all(text.startswith(PART) for text in seen)
    history = server.call("GET", "history")["history"]
    assert [row["message"] for row in history[1:]] == [PART + REST]


TRANSCRIPT = """
const { fold, EMPTY } = await import(new URL("static/page/fold.js", document.baseURI));
const transcript = new module.Transcript({ versions: async () => [] });
const shown = [];
let state = EMPTY;
for (const event of argument) {
  state = fold(state, event);
  transcript.update(state.turns);
  transcript.paint();
  shown.push(transcript.element.querySelector(".answer").textContent.trim());
}
return shown;
"""


def test_a_continued_answer_never_shows_less_than_what_was_there(module_page: Page) -> None:
    message = {"role": "user", "content": "q"}
    started: dict[str, Any] = {"type": "turn.started", "message": message}
    events = [
        started | {"turn_id": "a"},
        {"type": "delta", "turn_id": "a", "text": "Hello"},
        {"type": "turn.interrupted", "turn_id": "a", "text": "Hello"},
        started | {"turn_id": "b", "replaces": "a", "kind": "continue"},
        {"type": "delta", "turn_id": "b", "text": "Hello"},
        {"type": "delta", "turn_id": "b", "text": " you"},
    ]
    numbered = [event | {"id": ident(number)} for number, event in enumerate(events, 1)]

    shown = run(module_page, "page/transcript.js", TRANSCRIPT, numbered)

    assert shown == ["", "Hello", "Hello", "Hello", "Hello", "Hello you"]


def test_a_reload_in_the_middle_of_a_continued_answer_shows_all_of_it(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    interrupt(page, server)
    press(page, "Continue")
    expect(turns(page, "running")).to_have_count(1)

    page.reload()

    expect(answer(page)).to_have_text(PART)
    expect(page.locator(".waiting")).to_be_visible()
    expect(stop_button(page)).to_be_enabled()
    upstream.open_gate()
    expect(turns(page, "completed")).to_have_count(1)
    assert shown(page) == PART + REST
    expect(page.locator(".versions .count")).to_have_text("2/2")


def test_a_stopped_and_a_failed_answer_go_on_too(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    upstream.open_gate()
    for script, status in (("hang", "running"), ("cut", "failed")):
        start(server, f"!say={quote(PART)} {script}")
        expect(turns(page, status)).to_have_count(1)
        expect(answer(page)).to_have_text(PART)
        if status == "running":
            stop_button(page).click()
            expect(turns(page, "cancelled")).to_have_count(1)

        press(page, "Continue")

        expect(answer(page)).to_have_text(PART + REST)
        expect(turns(page, "completed").last).to_have_class("turn last")


def test_an_answer_that_reached_its_longest_length_goes_on(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    upstream.open_gate()
    start(server, f"!say={quote(PART)} end=length")
    expect(page.locator(".ending")).to_contain_text("longest length")

    press(page, "Continue")

    expect(answer(page)).to_have_text(PART + REST)


def test_a_double_click_starts_one_turn(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    interrupt(page, server)
    before = asked(upstream)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url.rpartition("/")[2]))

    page.get_by_role("button", name="Continue").evaluate("it => { it.click(); it.click(); }")

    upstream.open_gate()
    expect(turns(page, "completed")).to_have_count(1)
    assert shown(page) == PART + REST
    assert (asked(upstream) - before, sent.count("continue")) == (1, 1)


def test_an_answer_is_regenerated_and_its_versions_can_be_looked_through(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page, other = new_page(server.url), new_page(server.url)
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)
    page.get_by_role("button", name="Edit the message").click()
    say(page, "!tokens=7")
    expect(answer(page)).to_have_text(text_of(7).strip())
    expect(page.locator(".versions .count")).to_have_text("2/2")

    with page.expect_request("**/regenerate"):
        press(page, "Regenerate")

    for tab in (page, other):
        expect(tab.locator(".versions .count")).to_have_text("3/3")
        expect(turns(tab)).to_have_count(1)
    assert asked(upstream) == 3
    page.reload()
    back = page.get_by_role("button", name="Previous version")
    back.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Version 1 of 3 of this answer")).to_be_visible()
    expect(page.locator(".versions [role=status]")).to_have_text("Version 1 of 3")
    expect(answer(page)).to_have_text(text_of(3).strip())
    expect(page.locator(".bubble")).to_have_text("!tokens=3")
    expect(page.locator(".ending")).to_contain_text("An earlier version")
    expect(page.get_by_role("button", name="Regenerate")).to_be_hidden()
    expect(page.get_by_role("button", name="Edit the message")).to_be_hidden()
    expect(back).to_be_focused()
    expect(back).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text(text_of(3).strip())
    page.get_by_role("button", name="Next version").click()
    expect(page.locator(".bubble")).to_have_text("!tokens=7")
    page.get_by_role("button", name="Next version").click()
    expect(page.locator(".ending")).to_be_hidden()
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    assert asked(upstream) == 3


def test_an_older_version_in_view_gives_way_to_what_takes_the_turns_place(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page, other = new_page(server.url), new_page(server.url)
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)
    press(page, "Regenerate")
    press(page, "Previous version")
    expect(page.locator(".versions .count")).to_have_text("1/2")

    press(other, "Regenerate")

    expect(page.locator(".versions .count")).to_have_text("3/3")
    expect(page.locator(".ending")).to_be_hidden()


def test_the_latest_version_is_in_view_where_its_message_is_edited_beside_an_older_one(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)
    press(page, "Regenerate")
    press(page, "Previous version")
    page.route("**/turns", abort)
    page.get_by_label("Message", exact=True).press("ArrowUp")
    say(page, "!tokens=7")
    expect(turns(page, "sending")).to_have_count(1)
    expect(page.locator(".bubble")).to_have_text("!tokens=7")
    expect(turns(page, "unsent")).to_have_count(1, timeout=15_000)

    page.get_by_role("button", name="Edit", exact=True).click()

    expect(page.locator(".versions .count")).to_have_text("2/2")
    expect(page.locator(".ending")).to_be_hidden()


def test_an_earlier_message_can_be_edited_and_what_came_after_it_goes(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)
    for number, script in enumerate(("!tokens=1", "!tokens=2", "!tokens=3"), 1):
        say(page, script)
        expect(turns(page, "completed")).to_have_count(number)

    page.get_by_role("button", name="Edit the message").nth(1).click()
    expect(page.locator(".revising")).to_contain_text("what came after it leaves")
    say(page, "!tokens=9")

    expect(page.locator(".bubble")).to_have_text(["!tokens=1", "!tokens=9"])
    expect(answer(page)).to_have_text(text_of(9).strip())


def test_a_turn_that_failed_without_text_is_tried_again(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    say(page, "!status=400")
    expect(turns(page, "failed")).to_have_count(1)
    expect(page.get_by_role("button", name="Continue")).to_be_hidden()
    expect(page.get_by_role("button", name="Regenerate")).to_be_hidden()
    before = asked(upstream)

    with page.expect_request("**/regenerate"):
        press(page, "Retry")

    upstream.wait(lambda: asked(upstream) > before)
    expect(turns(page, "failed")).to_have_count(1)
    expect(page.locator(".versions")).to_be_hidden()


@pytest.mark.parametrize(
    ("code", "notice"),
    [
        ("turn_running", "it is still being written. Stop it first."),
        ("nothing_to_continue", "it has no text to go on from."),
    ],
)
def test_a_refusal_is_told_and_the_answer_stays_as_it_was(
    new_page: OpenPage, server: ServerProcess, complaints: list[str], code: str, notice: str
) -> None:
    page = new_page(server.url)
    interrupt(page, server)
    problem: dict[str, Any] = {"code": code, "status": 409, "detail": "no"}
    page.route("**/continue", lambda route: route.fulfill(status=409, json=problem))

    press(page, "Continue")

    expect(page.get_by_role("alert")).to_have_text(f"The answer was not continued: {notice}")
    expect(turns(page, "interrupted")).to_have_count(1)
    expect(answer(page)).to_have_text(PART)
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    assert ["409" in complaint for complaint in complaints] == [True]
    complaints.clear()


def test_what_was_asked_without_a_network_is_sent_later_and_once(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    interrupt(page, server)
    before = asked(upstream)
    upstream.open_gate()
    page.route("**/continue", abort)
    press(page, "Continue")
    expect(turns(page, "unsent")).to_have_count(1, timeout=15_000)
    expect(answer(page)).to_have_text(PART)
    expect(page.locator(".ending")).to_contain_text("Not sent. The server cannot be reached.")
    expect(page.locator("#announcements")).to_have_text("The message was not sent.")
    press(page, "Cancel")
    expect(turns(page, "interrupted")).to_have_count(1)
    press(page, "Continue")
    expect(turns(page, "sending")).to_have_count(1)
    page.unroute("**/continue")

    page.reload()

    expect(turns(page, "completed")).to_have_count(1)
    assert shown(page) == PART + REST
    assert asked(upstream) - before == 1


def test_an_edited_message_without_a_network_is_kept(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)
    page.route("**/turns", abort)
    page.get_by_role("button", name="Edit the message").click()
    say(page, "!tokens=7")
    expect(turns(page, "unsent")).to_have_count(1, timeout=15_000)
    expect(page.locator(".bubble")).to_have_text("!tokens=7")

    page.get_by_role("button", name="Edit", exact=True).click()

    box = page.get_by_label("Message", exact=True)
    expect(page.locator(".bubble")).to_have_text("!tokens=3")
    expect(box).to_have_value("!tokens=7")
    page.unroute("**/turns")
    box.press("Enter")
    expect(answer(page)).to_have_text(text_of(7).strip())
    assert asked(upstream) == 2


def test_an_edit_of_a_message_that_has_gone_meanwhile_is_kept(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page, other = new_page(server.url), new_page(server.url)
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)
    page.get_by_role("button", name="Edit the message").click()
    press(other, "Regenerate")
    expect(page.locator(".versions .count")).to_have_text("2/2")

    say(page, "!tokens=7")

    expect(page.locator(".bubble")).to_have_text(["!tokens=3", "!tokens=7"])
    expect(page.locator(".delivery").last).to_contain_text("is gone")
    press(page, "Retry")
    expect(answer(page)).to_have_text(text_of(7).strip())


def test_the_last_answer_goes_on_while_an_older_turn_still_runs(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    start(server, "!tokens=1 gate tokens=2", "fake-small")
    start(server, f"!say={quote(PART)} cut", f"fake-small!say={quote(REST)}")
    expect(turns(page, "failed")).to_have_count(1)
    expect(turns(page, "running")).to_have_count(1)

    press(page, "Continue")

    expect(answer(page)).to_have_text(PART + REST)
    expect(turns(page, "running")).to_have_count(1)
    upstream.open_gate()
    expect(turns(page, "completed")).to_have_count(2)


def test_the_focus_stays_where_one_can_go_on(new_page: OpenPage, server: ServerProcess) -> None:
    page = new_page(server.url)
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)
    button = page.get_by_role("button", name="Regenerate")
    button.focus()

    page.keyboard.press("Enter")

    expect(page.get_by_label("Message", exact=True)).to_be_focused()
