"""The page's list of conversations."""

import re

from playwright.sync_api import expect

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
from tests.upstream import text_of

__all__ = ["browser", "complaints", "new_page", "server", "upstream"]


def test_conversations_are_listed_opened_renamed_and_deleted(
    new_page: OpenPage, server: ServerProcess
) -> None:
    ask(server, "!tokens=1", conversation_id="one")
    ask(server, "!tokens=2", conversation_id="two")
    page = new_page(f"{server.url}?conversation_id=one")
    listed = page.get_by_role("navigation").locator(".conversations a")
    expect(listed).to_have_text(["!tokens=2", "!tokens=1"])
    expect(answer(page)).to_have_text(text_of(1).strip())

    listed.first.click()
    expect(page).to_have_url(re.compile("conversation_id=two"))
    expect(answer(page)).to_have_text(text_of(2).strip())
    page.get_by_role("button", name="Rename !tokens=2").click()
    page.get_by_label("Title").fill("Second <i>")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Second <i>")
    expect(page).to_have_title("Second <i> · chatstream")
    page.get_by_role("button", name="Delete Second <i>").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(listed).to_have_text(["!tokens=1"])
    expect(turns(page)).to_have_count(0)
    page.go_back()
    page.go_back()
    expect(answer(page)).to_have_text(text_of(1).strip())


def test_a_new_conversation_has_an_address_of_its_own(
    new_page: OpenPage, server: ServerProcess
) -> None:
    ask(server, "!tokens=1")
    page = new_page(server.url)
    expect(turns(page)).to_have_count(1)

    page.get_by_role("link", name="New conversation").click()
    expect(turns(page)).to_have_count(0)
    say(page, "!tokens=2")
    expect(turns(page, "completed")).to_have_count(1)

    other = new_page(page.url)
    expect(answer(other)).to_have_text(text_of(2).strip())
    expect(other.locator(".conversations a")).to_have_text(["!tokens=2", "!tokens=1"])


def test_each_user_has_conversations_of_his_own(new_page: OpenPage, server: ServerProcess) -> None:
    ask(server, "!tokens=1", user_id="ada")

    ada, anyone = new_page(f"{server.url}?user_id=ada"), new_page(server.url)

    expect(turns(ada)).to_have_count(1)
    expect(anyone.locator(".welcome")).to_be_visible()
    expect(anyone.locator(".conversations a")).to_have_count(0)


def test_a_narrow_screen_has_the_list_in_a_drawer(
    new_page: OpenPage, server: ServerProcess
) -> None:
    ask(server, "!tokens=1")
    page = new_page(server.url)
    page.set_viewport_size({"width": 380, "height": 700})
    expect(page.get_by_role("navigation")).to_be_hidden()

    page.get_by_role("button", name="Conversations").click()
    expect(page.locator(".conversations a")).to_be_visible()
    page.keyboard.press("Escape")

    expect(page.get_by_role("navigation")).to_be_hidden()
    expect(page.get_by_role("button", name="Conversations")).to_be_focused()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 380
