"""How the page reads streams, and what it calls things, inside the browser."""

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import browser, ident, module_page, run

__all__ = ["browser", "module_page"]


def test_a_stream_reads_the_same_wherever_it_is_cut(module_page: Page) -> None:
    stream = (
        "retry: 1500\n\n: a comment\n"
        'id: 1\ndata: {"a": "é☃"}\n\n'
        "data: one\r\ndata: two\r\n\r\n"
        "data:three\rdata\r\revent: x\ndata: four\n\n"
        "data: never ended\n"
    )

    found = run(
        module_page,
        "client/event-stream-parser.js",
        """
        const cut = (...parts) => {
          const parser = new module.EventStreamParser();
          return [parts.flatMap((part) => parser.push(part)), parser.retry];
        };
        const found = [cut(...argument)];
        for (let at = 0; at <= argument.length; at++) {
          found.push(cut(argument.slice(0, at), argument.slice(at)));
        }
        return found;
        """,
        stream,
    )

    assert found == [[['{"a": "é☃"}', "one\ntwo", "three\n", "four"], 1500]] * len(found)


SUBSCRIBE = """
const { Subscription } = await import(new URL("static/client/subscription.js", document.baseURI));
const streams = argument;
const asked = [], events = [], states = [], loads = [];
const text = new TextEncoder();
const answer = ({ status = 200, type = "text/event-stream", events = [] }, signal) => {
  const body = new ReadableStream({
    start(controller) {
      const lines = events.map((event) => `data: ${JSON.stringify(event)}\\n\\n`);
      controller.enqueue(text.encode(lines.join("")));
      if (streams.length) controller.close();
      else signal.addEventListener("abort", () => controller.error(signal.reason));
    },
  });
  return new Response(status === 200 ? body : "{}", { status, headers: { "Content-Type": type } });
};
await new Promise((resolve) => {
  const access = {
    fetch: async (where, { after }, { signal }) => {
      asked.push(...after);
      return answer(streams.shift(), signal);
    },
  };
  const line = new module.Line(access, "default", "sse", 40_000);
  const subscription = new Subscription(line, "default", {
      load: async () => {
        loads.push(asked.length);
        return "1764000000000-0000";
      },
      onEvent: (event) => {
        if (event.type !== "end") return events.push([event.type, event.id]);
        subscription.close();
        resolve();
      },
      onState: (state) => {
        states.push(state);
        if (state === "refused") setTimeout(() => subscription.wake());
      },
    });
});
return { asked, events, states, loads };
"""


def follow(module_page: Page, *streams: dict[str, Any]) -> dict[str, Any]:
    """Let a subscription read these answers one after another; all but the last are cut off."""
    streams[-1]["events"].append(event(9999, "end"))
    found = run(module_page, "client/line.js", SUBSCRIBE, list(streams))
    assert isinstance(found, dict)
    return found


def event(number: int, type: str = "delta") -> dict[str, Any]:
    return {"type": type, "id": ident(number)}


def test_a_subscription_comes_back_after_what_it_has_and_passes_nothing_on_twice(
    module_page: Page,
) -> None:
    found = follow(
        module_page,
        {"events": [event(0, "ready"), event(1), event(2)]},
        {"events": [event(2, "ready"), event(1), event(2), event(3), {"type": "heartbeat"}]},
    )

    assert found["asked"] == [ident(0), ident(2)]
    assert found["events"] == [
        ["ready", ident(0)],
        ["delta", ident(1)],
        ["delta", ident(2)],
        ["ready", ident(2)],
        ["delta", ident(3)],
    ]


def test_a_reset_loads_again_and_goes_on_after_the_new_cursor(module_page: Page) -> None:
    found = follow(
        module_page,
        {"events": [event(5, "ready"), {"type": "reset"}, event(6)]},
        {"events": [event(0, "ready"), event(1)]},
    )

    assert found["loads"] == [0, 1]
    assert found["asked"] == [ident(0), ident(0)]
    assert ["delta", ident(6)] not in found["events"]


@pytest.mark.parametrize("trouble", [{"status": 503}, {"type": "text/html", "events": []}])
def test_a_subscription_outlives_what_ends_an_event_source(
    module_page: Page, trouble: dict[str, Any]
) -> None:
    found = follow(module_page, trouble, {"events": [event(0, "ready"), event(1)]})

    assert found["events"][-1] == ["delta", ident(1)]
    assert "refused" not in found["states"]


def test_a_subscription_that_is_refused_says_so(module_page: Page) -> None:
    found = follow(module_page, {"status": 403}, {"events": [event(0, "ready")]})

    assert found["states"] == ["connecting", "refused", "live"]


def test_more_conversations_than_an_address_holds_are_asked_for_by_several_requests(
    module_page: Page,
) -> None:
    asked = run(
        module_page,
        "client/line.js",
        """
        const { Access } = await import(new URL("static/client/access.js", document.baseURI));
        const access = new Access({ base: document.baseURI });
        const asked = [];
        access.fetch = (where, query) => {
          asked.push(access.url(where, query).href);
          return new Promise(() => {});
        };
        const line = new module.Line(access, "default", "sse", 40_000);
        const { signal } = new AbortController();
        const last = () => "1764000000000-0007";
        for (let n = 0; n < 60; n++) line.follow(`${n}`.padEnd(250, "é"), last, () => {}, signal);
        await new Promise((resolve) => setTimeout(resolve));
        return asked;
        """,
    )

    assert sum(address.count("conversation_id=") for address in asked) == 60
    assert sum(address.count("after=1764000000000-0007") for address in asked) == 60
    assert max(map(len, asked)) < 8_000


def test_turn_ids_are_sorted_by_time_and_of_the_form_that_the_server_takes(
    module_page: Page,
) -> None:
    first, second = run(
        module_page,
        "client/chatstream-client.js",
        """
        const first = module.newTurnId();
        await new Promise((resolve) => setTimeout(resolve, 2));
        return [first, module.newTurnId()];
        """,
    )

    assert first < second
    assert len(first) == 36 and first[14] == "7" and first[19] in "89ab"


def test_the_clients_old_address_gives_the_same_client_which_finds_its_server(
    module_page: Page,
) -> None:
    found = run(
        module_page,
        "client/chatstream-client.js",
        """
        const old = await import(new URL("static/chatstream-client.js", document.baseURI));
        const same = Object.keys(module).filter((name) => old[name] === module[name]);
        const { history } = await new old.ChatstreamClient({ conversationId: "none" }).history();
        return [Object.keys(old), same, history];
        """,
    )

    assert found[0] == found[1]
    assert "ChatstreamClient" in found[0]
    assert found[2] == []


def test_links_keep_the_user_and_leave_out_the_default(module_page: Page) -> None:
    links = run(
        module_page,
        "page/place.js",
        """
        const { linkTo, placeOf } = module;
        return argument.map((place) => [linkTo(place), placeOf(linkTo(place))]);
        """,
        [
            {"userId": "default", "conversationId": "default"},
            {"userId": "a/ü&b", "conversationId": "x y"},
        ],
    )

    assert [link[0] for link in links] == [
        "?conversation_id=default",
        "?user_id=a%2F%C3%BC%26b&conversation_id=x+y",
    ]
    assert links[1][1] == {"userId": "a/ü&b", "conversationId": "x y"}
