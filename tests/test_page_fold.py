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
    state = run(module_page, "page/fold.js", FOLD, {"events": events, "history": history})
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
    # Without an id a reset follows, until which the old place stands.
    assert (
        fold(module_page, [*events, {"type": "ready", "last_id": ident(2)}])["lastId"]
        == (events[-1]["id"])
    )


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
        "page/fold.js",
        "return module.withOlder(module.withHistory(module.EMPTY, argument[0]), argument[1]).turns",
        [newer, older],
    )

    assert [(turn["message"], turn["text"]) for turn in turns] == [("first", ""), ("ask", "reply")]


def test_a_message_that_was_not_sent_stays_when_the_history_is_loaded_again(
    module_page: Page,
) -> None:
    turns = run(
        module_page,
        "page/fold.js",
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


def test_a_continued_turn_shows_what_was_there_until_its_first_delta_has_it(
    module_page: Page,
) -> None:
    first = turn_events("a", 1, ["Hel", "lo"])[:-1]
    died = {"type": "turn.interrupted", "turn_id": "a", "id": ident(5), "text": "Hello"}
    went_on = turn_events("b", 10, ["Hello", " you"], replaces="a", kind="continue")
    begun = [*first, died, went_on[0]]

    assert texts(fold(module_page, begun)) == [("b", "", "running")]
    assert fold(module_page, begun)["turns"][0]["begun"] == "Hello"
    unseen = fold(module_page, went_on[:3])["turns"][0]
    assert (unseen["text"], unseen["begun"]) == ("Hello", "Hello")
    assert texts(fold(module_page, [*first, died, *went_on])) == [("b", "Hello you", "completed")]


ASKING = """
const { EMPTY, fold, sending, unsent, withdrawn, withHistory } = module;
const { events, body, then, after } = argument;
const ended = events.reduce(fold, EMPTY);
let state = sending(ended, body);
const steps = { unsent, withdrawn, withHistory };
for (const [name, ...given] of then) state = steps[name](state, ...given);
const same = state.turns.length === ended.turns.length && state.turns[0] === ended.turns[0];
return { turns: after.reduce(fold, state).turns, same };
"""


def ask(
    module_page: Page, body: dict[str, Any], then: list[Any], after: list[dict[str, Any]]
) -> dict[str, Any]:
    """Ask something of an ended turn "a" whose text is "x"; return what is in view `then`."""
    events = turn_events("a", 1, ["x"])
    argument = {"events": events, "body": body, "then": then, "after": after}
    found = run(module_page, "page/fold.js", ASKING, argument)
    assert isinstance(found, dict)
    return found


REGENERATE = {"turnId": "b", "replaces": "a", "kind": "regenerate"}
CONTINUE = REGENERATE | {"kind": "continue"}
EDIT = {"turnId": "b", "replaces": "a", "message": "other"}
ERROR = {"message": "no network"}


def views(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(turn["status"], turn["message"], turn["text"]) for turn in found["turns"]]


def test_a_turn_that_is_to_be_done_again_looks_as_it_will(module_page: Page) -> None:
    assert views(ask(module_page, REGENERATE, [], [])) == [("sending", "ask a", "")]
    assert views(ask(module_page, CONTINUE, [], [])) == [("sending", "ask a", "x")]
    assert views(ask(module_page, EDIT, [], [])) == [("sending", "other", "")]


def test_a_turn_that_could_not_be_done_again_keeps_its_answer_and_an_edit_its_text(
    module_page: Page,
) -> None:
    failed = [["unsent", "b", ERROR]]
    assert views(ask(module_page, REGENERATE, failed, [])) == [("unsent", "ask a", "x")]
    assert views(ask(module_page, CONTINUE, failed, [])) == [("unsent", "ask a", "x")]
    assert views(ask(module_page, EDIT, failed, [])) == [("unsent", "other", "")]
    for body in (REGENERATE, CONTINUE, EDIT):
        assert ask(module_page, body, [*failed, ["withdrawn", "b"]], [])["same"]


def test_what_is_asked_of_a_turn_outlives_a_reset_unless_it_has_gone_from_view(
    module_page: Page,
) -> None:
    def row(turn_id: str) -> dict[str, Any]:
        ended = {"status": "completed", "role": "user", "message": "m", "id": ident(1)}
        return {"history": [{"turn_id": turn_id, **ended}], "cursor": ident(9)}

    kept = ask(module_page, EDIT, [["unsent", "b", ERROR], ["withHistory", row("a")]], [])
    gone = ask(module_page, EDIT, [["withHistory", row("c")]], [])

    assert views(kept) == [("unsent", "other", "")]
    assert [turn["turnId"] for turn in gone["turns"]] == ["c"]


def test_what_was_asked_stands_in_the_turns_place_once_it_has_begun(module_page: Page) -> None:
    events = turn_events("b", 10, ["y"], replaces="a", kind="regenerate")

    found = ask(module_page, REGENERATE, [], events)

    assert texts(found) == [("b", "y", "completed")]
    assert found["turns"][0]["again"] is None
