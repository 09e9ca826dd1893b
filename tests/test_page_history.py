"""What lies further up on the page, and what one does with answers that are there."""

import re
from urllib.parse import quote

from playwright.sync_api import Route, expect

from tests.browser import (
    OpenPage,
    ServerProcess,
    answer,
    ask,
    browser,
    complaints,
    new_page,
    say,
    server,
    turns,
    upstream,
)
from tests.upstream import Upstream

__all__ = ["browser", "complaints", "new_page", "server", "upstream"]


def test_older_messages_come_on_scrolling_up_and_nothing_moves(
    new_page: OpenPage, server: ServerProcess
) -> None:
    for number in range(50):
        ask(server, f"!tokens={number} say=%0A%0A-%20one%0A-%20two")
    page = new_page(server.url)
    expect(turns(page)).to_have_count(20)
    expect(turns(page).last).to_be_in_viewport()
    held: list[Route] = []
    page.route(re.compile(r"history\?.*before="), lambda route: held.append(route))
    oldest = turns(page).first.locator(".bubble")
    expect(oldest).to_have_text("!tokens=30 say=%0A%0A-%20one%0A-%20two")
    page.locator(".scroller").evaluate("scroller => scroller.scrollTo(0, 0)")
    expect(page.get_by_text("Loading older messages")).to_be_visible()
    mark = page.get_by_text("!tokens=30 say", exact=False)
    before = mark.bounding_box()

    held.pop().continue_()

    expect(turns(page)).to_have_count(40)
    after = mark.bounding_box()
    assert before and after
    assert abs(before["y"] - after["y"]) <= 2
    page.locator(".scroller").evaluate("scroller => scroller.scrollTo(0, 0)")
    expect(page.get_by_text("Loading older messages")).to_be_visible()
    held.pop().continue_()
    expect(turns(page)).to_have_count(50)
    expect(turns(page).first.locator(".bubble")).to_contain_text("!tokens=0 ")
    expect(page.locator(".older")).to_be_hidden()


def test_reading_further_up_is_left_alone_while_an_answer_grows(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    lines = quote("line\n\n" * 40)
    say(page, f"!say={lines} gate say={lines} say=bottom")
    scroller = page.locator(".scroller")
    expect(answer(page).locator("p")).to_have_count(40)
    scroller.hover()
    page.mouse.wheel(0, -300)
    expect(page.get_by_role("button", name="Jump to the latest")).to_be_visible()
    scroller.evaluate("scroller => scroller.scrollTo(0, 500)")

    upstream.open_gate()

    expect(turns(page, "completed")).to_have_count(1)
    assert scroller.evaluate("scroller => scroller.scrollTop") == 500
    page.get_by_role("button", name="Jump to the latest").click()
    expect(page.get_by_text("bottom", exact=True)).to_be_in_viewport()
    expect(page.get_by_role("button", name="Jump to the latest")).to_be_hidden()


def test_clearing_empties_every_tab_after_a_question(
    new_page: OpenPage, server: ServerProcess
) -> None:
    ask(server, "!tokens=3")
    first, second = new_page(server.url), new_page(server.url)
    expect(turns(second)).to_have_count(1)

    # Chromium draws a tab in the background seldom, and clicks wait for it.
    first.bring_to_front()
    first.get_by_role("button", name="Clear this conversation").click()
    first.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(turns(first)).to_have_count(1)
    first.get_by_role("button", name="Clear this conversation").click()
    first.get_by_role("dialog").get_by_role("button", name="Clear").click()

    for page in (first, second):
        expect(turns(page)).to_have_count(0)
        expect(page.locator(".welcome")).to_be_visible()
    assert server.call("GET", "history")["history"] == []


def test_thumbs_are_kept_with_their_comment(new_page: OpenPage, server: ServerProcess) -> None:
    ask(server, "!tokens=3")
    page = new_page(server.url)

    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("What was wrong with it?").fill("It was <b>wrong</b>.")
    page.get_by_role("button", name="Send comment").click()

    expect(page.get_by_text("Your comment was kept")).to_be_visible()
    feedback = server.call("GET", "history")["history"][-1]["feedback"]
    assert (feedback["rating"], feedback["comments"]) == (1, "It was <b>wrong</b>.")
    page.reload()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "false")
