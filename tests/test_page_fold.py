"""The page's fold over events, inside the browser that it runs in."""

from typing import Any

from playwright.sync_api import Page

from tests.browser import browser, ident, module_page, run

__all__ = ["browser", "module_page"]


def turn_events(turn_id: str, first: int, parts: list[str], **more: Any) -> list[dict[str, Any]]:
    """Return the events of a whole turn, with ids from `first` on."""
    events = [
        {"type": "turn.started", "message": {"role": "user", "content": f"ask {turn_id}"}, **more},
        {"type": "turn.answering", "provider": "p", "model": "m", "attempt": 1},
        *({"type": "delta", "text": part} for part in parts),
        {"type": "turn.completed", "text": "".join(parts), "finish_reason": "stop"},
    ]
    return [event | {"turn_id": turn_id, "id": ident(first + n)} for n, event in enumerate(events)]


FOLD = """
const { fold, withHistory, EMPTY } = module;
const { history, events } = argument;
const begin = history ? withHistory(EMPTY, history) : EMPTY;
const state = events.reduce(fold, begin);
return { turns: state.turns, stale: state.stale, lastId: state.lastId };
"""


def fold(module_page: Page, events: list[dict[str, Any]], history: Any = None) -> dict[str, Any]:
    state = run(module_page, "fold.js", FOLD, {"events": events, "history": history})
    assert isinstance(state, dict)
    return state


def texts(state: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(turn["turnId"], turn["text"], turn["status"]) for turn in state["turns"]]


def test_deltas_append_and_the_end_replaces_what_they_made(module_page: Page) -> None:
    events = turn_events("a", 1, ["Hel", "lo"])

    assert texts(fold(module_page, events[:-1])) == [("a", "Hello", "running")]
    assert texts(fold(module_page, [*events[:-1], events[-1] | {"text": "Hi"}])) == [
        ("a", "Hi", "completed")
    ]


def test_reasoning_is_no_part_of_the_answer(module_page: Page) -> None:
    events = turn_events("a", 1, ["hm", "yes"])
    events[2]["kind"] = "reasoning"

    (turn,) = fold(module_page, events[:-1])["turns"]

    assert (turn["reasoning"], turn["text"]) == ("hm", "yes")


def test_events_that_come_again_change_nothing(module_page: Page) -> None:
    events = turn_events("a", 1, ["x", "y", "z"]) + turn_events("b", 10, ["1", "2"])[:-1]
    once = fold(module_page, events)
    assert texts(once) == [("a", "xyz", "completed"), ("b", "12", "running")]

    for cut in range(len(events)):
        assert fold(module_page, events[:cut] + events[max(0, cut - 3) :]) == once
        assert (
            fold(module_page, [event for event in events[:cut] for _ in "12"] + events[cut:])
            == once
        )


def test_a_history_and_what_follows_its_cursor_make_the_whole(module_page: Page) -> None:
    first, second = turn_events("a", 1, ["x"]), turn_events("b", 10, ["1", "2"])
    row = {"turn_id": "a", "status": "completed"}
    history = {
        "history": [
            {"role": "user", "message": "ask a", "id": ident(1), **row},
            {"role": "assistant", "message": "x", "id": ident(4), **row},
            {"role": "user", "message": "ask b", "id": ident(10), "turn_id": "b"}
            | {"status": "running"},
        ],
        "cursor": ident(9),
    }

    state = fold(module_page, first + second, history)

    assert texts(state) == texts(fold(module_page, first + second))
    assert not state["stale"]


def test_a_replacement_takes_what_it_replaces_and_what_lies_between_out_of_view(
    module_page: Page,
) -> None:
    events = (
        turn_events("a", 1, ["x"])
        + turn_events("b", 10, ["y"])
        + turn_events("c", 20, ["z"])
        + turn_events("d", 30, ["w"], replaces="b")
        + turn_events("e", 40, ["v"], replaces="b")
    )

    assert [turn[0] for turn in texts(fold(module_page, events))] == ["a", "e"]


def test_a_replacement_of_what_was_never_seen_asks_for_the_history(module_page: Page) -> None:
    assert fold(module_page, turn_events("d", 30, ["w"], replaces="gone"))["stale"]


def test_a_replacement_that_the_history_knows_asks_for_nothing(module_page: Page) -> None:
    row = {"role": "user", "turn_id": "d", "message": "?", "id": ident(30), "status": "running"}

    state = fold(
        module_page,
        turn_events("d", 30, ["w"], replaces="gone"),
        {"history": [row], "cursor": ident(29)},
    )

    assert not state["stale"]


def test_clearing_takes_everything_before_it(module_page: Page) -> None:
    cleared = [{"type": "history.cleared", "id": ident(10)}]

    state = fold(module_page, turn_events("a", 1, ["x"]) + cleared + turn_events("b", 20, ["y"]))

    assert [turn[0] for turn in texts(state)] == ["b"]


def test_a_place_that_goes_back_is_taken(module_page: Page) -> None:
    events = turn_events("a", 1, ["x"])

    state = fold(module_page, [*events, {"type": "ready", "id": ident(2)}])

    assert state["lastId"] == ident(2)


def test_an_older_page_joins_a_turn_that_was_cut_in_two(module_page: Page) -> None:
    row = {"turn_id": "a", "status": "completed"}
    newer = {
        "history": [{"role": "assistant", "message": "reply", "id": ident(5), **row}],
        "has_more": True,
        "before": "p1",
        "cursor": ident(9),
    }
    older = {
        "history": [
            {
                "role": "user",
                "message": "first",
                "id": ident(1),
                "turn_id": "z",
                "status": "failed",
            },
            {"role": "user", "message": "ask", "id": ident(3), **row},
        ],
        "has_more": False,
    }

    turns = run(
        module_page,
        "fold.js",
        "return module.withOlder(module.withHistory(module.EMPTY, argument[0]), argument[1]).turns",
        [newer, older],
    )

    assert [(turn["message"], turn["text"]) for turn in turns] == [("first", ""), ("ask", "reply")]


def test_a_message_that_was_not_sent_stays_when_the_history_is_loaded_again(
    module_page: Page,
) -> None:
    turns = run(
        module_page,
        "fold.js",
        """
        const { EMPTY, fold, sending, unsent, withHistory } = module;
        let state = sending(EMPTY, { turnId: "mine", message: "hello" });
        state = unsent(state, "mine", { message: "no network" });
        state = withHistory(state, { history: [], cursor: "0" });
        return argument.reduce(fold, state).turns;
        """,
        turn_events("a", 1, ["x"]),
    )

    assert [(turn["turnId"], turn["status"]) for turn in turns] == [
        ("a", "completed"),
        ("mine", "unsent"),
    ]
