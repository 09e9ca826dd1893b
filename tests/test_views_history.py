"""Pages of history and contexts, read from a real log."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from chatstream.errors import InvalidRequest, ProviderError
from chatstream.events import EventId, Json
from chatstream.log.files.feedback import Ratings
from chatstream.log.files.store import JsonlLog, open_log
from chatstream.providers.adapters.scripted import Scripted
from chatstream.turns.context import context
from chatstream.views.history import MAX_PAGE_BYTES, Page, page, public, read_place
from tests import log_steps
from tests.log_steps import HeldSync, home, until
from tests.logged import ADDRESS, asked, finish, run_with, say

END = EventId("9999999999999-9999")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def pages(log: JsonlLog, limit: int) -> list[list[Json]]:
    """Return all pages, the newest last."""
    conversation = await log.conversation(ADDRESS)
    found: list[list[Json]] = []
    before: str | None = None
    while True:
        one = await page(conversation, Ratings(), limit, read_place(before))
        found.insert(0, items(one))
        if one.before is None:
            return found
        before = one.before


def items(page: Page) -> list[Json]:
    return [orjson.loads(orjson.dumps(item)) for item in page.messages]


def texts(messages: list[Json]) -> list[str]:
    return [message["message"] for message in messages]


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_pages_join_to_the_whole_also_where_turns_were_replaced_and_overlapped(
    log: JsonlLog, tmp_path: Path, limit: int
) -> None:
    gate = asyncio.Event()
    provider = (
        Scripted("1").then("2").then("long", gate, "er").then(ProviderError("x")).then("5")
        .then("6").then("7")
    )  # fmt: skip
    runner = run_with(log, provider, tmp_path)
    await say(runner, "a", "turn-000a")
    await say(runner, "b", "turn-000b")
    slow = await runner.start(asked("slow", "turn-slow"))
    await until(lambda: len(provider.requests) == 3)  # the script is in the order of the asking
    await say(runner, "failed", "turn-fail")
    await say(runner, "c", "turn-000c")
    await say(runner, "C", "turn-00cc", replaces="turn-000c")
    await say(runner, "d", "turn-000d")
    gate.set()
    await finish(runner, slow)

    found = await pages(log, limit)

    assert all(len(one) <= limit for one in found)
    joined = [item for one in found for item in one]
    assert texts(joined) == ["a", "1", "b", "2", "slow", "longer", "failed", "C", "6", "d", "7"]
    assert [await pages(log, 1000)] == [[joined]]


@pytest.mark.anyio
async def test_a_page_is_bounded_in_bytes(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("x" * 200_000), tmp_path)
    for number in range(6):
        await say(runner, "q", f"turn-{number:04}")

    found = await pages(log, 1000)

    assert len(found) > 1
    assert all(len(orjson.dumps(one)) <= MAX_PAGE_BYTES + 2 for one in found)
    assert sum(map(len, found)) == 12


@pytest.mark.anyio
async def test_superseded_turns_stay_out_however_often_a_message_is_edited(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("1").then("2").then("3").then("4").then("5")
    runner = run_with(log, provider, tmp_path)
    await say(runner, "a", "turn-000a")
    await say(runner, "b", "turn-000b")
    await say(runner, "B", "turn-00b2", replaces="turn-000b")
    await say(runner, "A", "turn-00a2", replaces="turn-000a")
    await say(runner, "c", "turn-000c")

    assert texts((await pages(log, 1000))[0]) == ["A", "4", "c", "5"]
    assert [m.content for m in provider.requests[2].messages] == ["a", "1", "B"]
    assert [m.content for m in provider.requests[3].messages] == ["A"]
    assert [m.content for m in provider.requests[4].messages] == ["A", "4", "c"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limit", "expected"),
    [(0, []), (1, []), (2, ["c", "3"]), (3, ["c", "3"]), (4, ["b", "2", "c", "3"]),
     (100, ["a", "1", "b", "2", "c", "3"])],
)  # fmt: skip
async def test_a_context_is_the_newest_whole_turns(
    log: JsonlLog, tmp_path: Path, limit: int, expected: list[str]
) -> None:
    runner = run_with(log, Scripted("1").then("2").then("3"), tmp_path)
    for letter in "abc":
        await say(runner, letter, f"turn-000{letter}")
    conversation = await log.conversation(ADDRESS)

    found = await context(conversation, END, limit, None)

    assert [message.content for message in found] == expected
    assert [message.role for message in found] == ["user", "assistant"] * (len(expected) // 2)


@pytest.mark.anyio
async def test_a_context_is_of_turns_that_had_ended_when_the_turn_started(
    log: JsonlLog, tmp_path: Path
) -> None:
    gate, asked_late = asyncio.Event(), asyncio.Event()
    provider = Scripted("1", gate).then(asked_late, "2").then("3")
    runner = run_with(log, provider, tmp_path)
    slow = await runner.start(asked("a", "turn-000a"))
    late = await runner.start(asked("b", "turn-000b"))
    gate.set()
    await finish(runner, slow)
    asked_late.set()
    await finish(runner, late)
    await say(runner, "c", "turn-000c")

    assert [m.content for m in provider.requests[1].messages] == ["b"]
    assert [m.content for m in provider.requests[2].messages] == ["a", "1", "b", "2", "c"]


@pytest.mark.parametrize("text", ["", "x", "1764000000000-0007", "1764000000000-0007x"])
def test_a_place_is_what_an_earlier_page_gave(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_place(text)
    good = "1764000000000-0007m9999999999999-9999"
    assert str(read_place(good)) == good


def test_our_own_bookkeeping_is_not_shown() -> None:
    assert public({"type": "x", "text": "y", "turns": 1, "running": [], "body": "z"}) == {
        "type": "x", "text": "y",
    }  # fmt: skip


@pytest.mark.anyio
async def test_nothing_that_is_not_durable_is_in_the_history_nor_in_a_context(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await log_steps.start(log)
    await log_steps.say(first, "answer")
    await first.end("turn.completed", {})
    conversation = home(first)
    held = HeldSync(monkeypatch)
    second = asyncio.ensure_future(log_steps.start(log, "turn-0002", "unsynced"))
    await until(lambda: bool(conversation.running))

    shown = await page(conversation, Ratings(), 10, None)
    found = await conversation.find("turn-0002")
    along = await context(conversation, END, 10, None)
    held.go.set()
    turn = await second

    assert texts(items(shown)) == ["hi", "answer"]
    assert found == []
    assert [message.content for message in along] == ["hi", "answer"]
    held.go.clear()
    await log_steps.say(turn, "unsynced end")
    ending = asyncio.ensure_future(turn.end("turn.completed", {}))
    await until(lambda: bool(turn.ended))
    shown = await page(conversation, Ratings(), 10, None)
    found = await conversation.find("turn-0002")
    held.go.set()
    await ending

    last = items(shown)[-1]
    assert (last["message"], last["status"]) == ("unsynced", "running")
    assert [record["type"] for record in found] == ["turn.started"]
