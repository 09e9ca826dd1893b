"""The chat page in a real browser, against a real server process and a scripted provider."""

from urllib.parse import quote

import pytest
from playwright.sync_api import Route, expect

from tests.browser import (
    OpenPage,
    ServerProcess,
    answer,
    asked,
    browser,
    complaints,
    new_page,
    say,
    server,
    shown,
    stop_button,
    turns,
    upstream,
)
from tests.upstream import Upstream, text_of

__all__ = ["browser", "complaints", "new_page", "server", "upstream"]


def test_an_answer_arrives_word_by_word(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()

    say(page, "!tokens=5 gate say=the%20end")

    expect(answer(page)).to_have_text(text_of(5).strip())
    expect(page.locator(".bubble")).to_have_text("!tokens=5 gate say=the%20end")
    expect(stop_button(page)).to_be_visible()
    upstream.open_gate()
    expect(answer(page)).to_have_text(f"{text_of(5)}the end")
    expect(turns(page, "completed")).to_have_count(1)
    expect(page.locator(".speaker")).to_have_text("openai · fake-small")
    expect(stop_button(page)).to_be_hidden()
    expect(page.locator("#announcements")).to_have_text("The answer is complete.")


def test_stopping_keeps_what_came_and_closes_the_connection_to_the_provider(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=5 hang")
    expect(answer(page)).to_have_text(text_of(5).strip())

    stop_button(page).click()

    expect(turns(page, "cancelled")).to_have_count(1)
    expect(answer(page)).to_have_text(text_of(5).strip())
    expect(page.locator(".ending")).to_contain_text("Stopped.")
    upstream.wait(lambda: upstream.broken_off == 1)


def test_escape_stops(new_page: OpenPage, server: ServerProcess, upstream: Upstream) -> None:
    page = new_page(server.url)
    say(page, "!tokens=5 hang")
    expect(answer(page)).to_be_visible()

    page.keyboard.press("Escape")

    expect(turns(page, "cancelled")).to_have_count(1)


def test_a_reload_in_the_middle_of_an_answer_shows_all_of_it_once(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=200 gate say=the%20end")
    expect(answer(page)).to_have_text(text_of(200).strip())

    page.reload()

    expect(answer(page)).to_have_text(text_of(200).strip())
    expect(stop_button(page)).to_be_visible()
    upstream.open_gate()
    expect(turns(page, "completed")).to_have_count(1)
    assert shown(page) == f"{text_of(200)}the end"
    assert asked(upstream) == 1


def test_a_second_tab_sees_the_same_answer_arrive(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    first, second = new_page(server.url), new_page(server.url)
    expect(second.locator(".connection")).to_have_attribute("data-state", "live")

    say(first, "!tokens=20 gate tokens=3")

    for page in (first, second):
        expect(answer(page)).to_have_text(text_of(20).strip())
        expect(page.locator(".bubble")).to_have_count(1)
    third = new_page(server.url)
    expect(answer(third)).to_have_text(text_of(20).strip())
    upstream.open_gate()
    for page in (first, second, third):
        expect(turns(page, "completed")).to_have_count(1)
        assert shown(page) == (text_of(20) + text_of(3)).strip()


def test_a_second_tab_can_stop_the_answer(new_page: OpenPage, server: ServerProcess) -> None:
    first, second = new_page(server.url), new_page(server.url)
    say(first, "!tokens=5 hang")

    stop_button(second).click()

    expect(turns(first, "cancelled")).to_have_count(1)


def test_the_server_may_be_killed_and_started_again(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=20 hang")
    expect(answer(page)).to_have_text(text_of(20).strip())

    server.kill()
    expect(page.locator(".connection")).to_have_attribute("data-state", "reconnecting")
    server.start()

    expect(turns(page, "interrupted")).to_have_count(1, timeout=15_000)
    assert shown(page) == text_of(20).strip()
    expect(page.locator(".connection")).to_have_attribute("data-state", "live")
    say(page, "!tokens=3")
    expect(turns(page, "completed")).to_have_count(1)


def test_the_page_says_who_answers_and_that_a_small_model_is_often_wrong(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)
    expect(page.locator(".note")).to_contain_text("Answers come from openai.")
    local = {"name": "local", "models": ["tiny"], "default": True, "state": "closed"}
    away = {"name": "openai", "models": ["fake-large"], "default": False, "state": "open"}
    page.route("**/providers", lambda route: route.fulfill(json={"providers": [local, away]}))

    page.reload()

    expect(page.locator(".note")).to_contain_text("It is often wrong")
    choice = page.get_by_label("Who answers")
    expect(choice.locator("option")).to_have_text(
        ["local · tiny", "openai · fake-large (not reachable)"]
    )
    choice.select_option(index=1)
    expect(page.locator(".note")).to_contain_text("Answers come from openai.")
    say(page, "!tokens=1")
    expect(page.locator(".speaker")).to_have_text("openai · fake-large")


def test_hostile_markdown_is_harmless(new_page: OpenPage, server: ServerProcess) -> None:
    hostile = (
        "[x](javascript:alert(1)) <img src=x onerror=alert(1)> ![p](https://evil.example/?q=1)\n\n"
        "<svg><style>*{display:none}</style></svg><script>alert(1)</script>\n\n"
        "[honest](https://good.example/)\n"
    )
    page = new_page(server.url)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))

    say(page, f"!say={quote(hostile)}")

    expect(turns(page, "completed")).to_have_count(1)
    expect(answer(page)).to_contain_text("<img src=x onerror=alert(1)>")
    expect(answer(page).locator("img, svg, script, style, iframe")).to_have_count(0)
    links = answer(page).locator("a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://evil.example/?q=1",
        "https://good.example/",
    ]
    expect(links.last).to_have_attribute("rel", "noopener noreferrer nofollow")
    assert all(url.startswith(server.url) for url in requested)


def test_the_users_own_message_is_shown_as_it_was_written(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)

    say(page, "!tokens=1 \n<b>no</b> **markup**")

    expect(page.locator(".bubble")).to_have_text("!tokens=1 \n<b>no</b> **markup**")
    expect(page.locator(".bubble *")).to_have_count(0)


def test_a_failed_answer_says_so_and_can_be_tried_again(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=3 cut")
    expect(turns(page, "failed")).to_have_count(1)
    expect(answer(page)).to_have_text(text_of(3).strip())
    expect(page.locator(".ending")).not_to_be_empty()
    before = asked(upstream)

    page.get_by_role("button", name="Regenerate").click()

    upstream.wait(lambda: asked(upstream) > before)
    expect(turns(page, "failed")).to_have_count(1)
    expect(turns(page)).to_have_count(1)


def test_the_last_message_can_be_edited_and_is_answered_anew(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    first, second = new_page(server.url), new_page(server.url)
    say(first, "!tokens=3")
    expect(turns(first, "completed")).to_have_count(1)
    box = first.get_by_label("Message", exact=True)

    box.press("ArrowUp")
    expect(box).to_have_value("!tokens=3")
    box.press("Escape")
    expect(box).to_have_value("")
    first.get_by_role("button", name="Edit the message").click()
    box.fill("!tokens=7")
    box.press("Enter")

    for page in (first, second):
        expect(answer(page)).to_have_text(text_of(7).strip())
        expect(page.locator(".bubble")).to_have_text(["!tokens=7"])
    assert asked(upstream) == 2


def test_a_failure_is_explained_after_a_reload_too(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)
    say(page, "!tokens=3 cut")
    expect(turns(page, "failed")).to_have_count(1)
    explained = page.locator(".ending span").inner_text()

    page.reload()

    expect(page.locator(".ending span")).to_have_text(explained)


def test_a_message_that_the_server_refuses_can_be_edited(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)

    say(page, "x" * 32_001)

    expect(page.locator(".delivery")).to_contain_text("Please keep it under 32000 characters.")
    page.get_by_role("button", name="Edit").click()
    expect(turns(page)).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("x" * 32_001)


def test_a_message_sent_without_a_network_is_sent_later_and_once(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream
) -> None:
    page = new_page(server.url)
    expect(page.locator(".connection")).to_have_attribute("data-state", "live")
    page.route("**/turns", lambda route: route.abort())
    say(page, "!tokens=3")
    expect(turns(page, "sending")).to_have_count(1)
    page.unroute("**/turns")

    page.reload()

    expect(turns(page, "completed")).to_have_count(1)
    expect(answer(page)).to_have_text(text_of(3).strip())
    assert asked(upstream) == 1


def test_enter_that_ends_a_composition_sends_nothing(
    new_page: OpenPage, server: ServerProcess
) -> None:
    page = new_page(server.url)
    box = page.get_by_label("Message", exact=True)
    box.fill("にほん")
    for key in ({"isComposing": True}, {"keyCode": 229}, {"shiftKey": True}):
        box.dispatch_event("keydown", {"key": "Enter", "bubbles": True, "cancelable": True, **key})

    expect(turns(page)).to_have_count(0)
    expect(box).to_have_value("にほん")


def test_a_draft_outlives_a_reload(new_page: OpenPage, server: ServerProcess) -> None:
    page = new_page(server.url)
    page.get_by_label("Message", exact=True).fill("half a thou")

    page.reload()

    expect(page.get_by_label("Message", exact=True)).to_have_value("half a thou")


def test_the_page_works_under_a_path(new_page: OpenPage, server: ServerProcess) -> None:
    page = new_page("about:blank")
    stray: list[str] = []
    page.on("request", lambda request: stray.append(request.url))

    def strip_prefix(route: Route) -> None:
        route.continue_(url=route.request.url.replace("/deep/chat/", "/"))

    page.route(f"{server.url}deep/chat/**", strip_prefix)
    page.goto(f"{server.url}deep/chat/")
    say(page, "!tokens=3")

    expect(turns(page, "completed")).to_have_count(1)
    expect(page.locator(".conversations a")).to_have_count(1)
    assert all(url.startswith(f"{server.url}deep/chat/") for url in stray)


def test_the_page_forbids_markup_that_nobody_has_checked(
    new_page: OpenPage, server: ServerProcess, complaints: list[str]
) -> None:
    page = new_page(server.url)

    refused = page.evaluate(
        """() => {
          try {
            document.createElement("div").innerHTML = "<img src=x onerror=alert(1)>";
            return "";
          } catch (error) {
            return error.name;
          }
        }"""
    )

    assert refused == "TypeError"
    assert ["TrustedHTML" in complaint for complaint in complaints] == [True]
    complaints.clear()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("end=stop", "The model ended without an answer."),
        ("reason=3 end=stop", "The model ended without an answer."),
        ("say=%0A%0A end=stop", "The model ended without an answer."),
        ("say=%20%20%20%0A%20 end=stop", "The model ended without an answer."),
        ("say=%E2%80%8B%26nbsp%3B end=stop", "The model ended without an answer."),
        ("say=%0A end=length", "The model reached its longest length before it began its answer."),
        ("end=length", "The model reached its longest length before it began its answer."),
        ("end=content_filter", "The provider's filter kept this answer back."),
    ],
)
def test_an_answer_without_text_is_told_calmly_and_can_be_asked_again(
    new_page: OpenPage, server: ServerProcess, upstream: Upstream, script: str, told: str
) -> None:
    page = new_page(server.url)
    say(page, f"!{script}")
    turn = turns(page, "completed")
    ending = turn.locator(".ending")

    expect(ending).to_contain_text(told)
    quiet = ending.evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert quiet == "rgba(0, 0, 0, 0)"
    page.get_by_role("button", name="Ask again").click()
    expect(turns(page, "completed")).to_have_count(1)
    expect(ending).to_contain_text(told)
    assert asked(upstream) == 2
    page.reload()
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()
