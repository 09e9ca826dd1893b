"""Readers of a log: one cursor, every event once, in order."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from chatstream.events import BEGINNING, EventId, before, event_id, place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.records import Encoded
from chatstream.log.files.store import JsonlLog, open_log
from chatstream.providers.adapters.scripted import Scripted
from chatstream.views.subscriber import (
    Signal,
    Start,
    Subscriber,
    is_good,
    start_of_conversation,
    start_of_turn,
)
from tests.log_steps import HeldSync, until
from tests.logged import ADDRESS, asked, finish, run_with, say

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


def nothing() -> None:
    return


async def take_all(conversation: Conversation, after: str, limit: int = 1) -> list[Encoded]:
    reader = Subscriber(conversation, Start(EventId(after)), nothing)
    found: list[Encoded] = []
    try:
        while events := await reader.take(limit):
            found += events
        assert reader.caught_up
    finally:
        reader.close()
    return found


async def test_a_signal_is_kept_while_nobody_waits() -> None:
    signal = Signal()
    signal.set()
    signal.set()
    await signal.wait()
    waiting = asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.set()
    await waiting


async def test_what_comes_after_every_cursor_is_the_rest(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("a", "b"), tmp_path)
    for number in range(5):
        await say(runner, "x" * 20_000, f"turn-{number:04}")
    conversation = await log.conversation(ADDRESS)

    whole = await take_all(conversation, "0")

    assert [event.type for event in whole] == ["turn.started", "turn.completed"] * 5
    for limit in (1, 30_000, 10**6):
        for index, event in enumerate(whole):
            assert await take_all(conversation, event.id, limit) == whole[index + 1 :]
            assert await take_all(conversation, before(event.id), limit) == whole[index:]


async def test_a_live_reader_gets_each_event_once_in_order(log: JsonlLog, tmp_path: Path) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a", gate, "b", "c"), tmp_path)
    conversation = await log.conversation(ADDRESS)
    signal = Signal()
    reader = Subscriber(conversation, Start(conversation.resume_from()), signal.set)
    found: list[Encoded] = []
    turn = await runner.start(asked())
    while not any(event.type == "turn.completed" for event in found):
        events = await reader.take()
        found += events
        if any(event.type == "delta" for event in events):
            gate.set()
        if not events:
            await signal.wait()
    reader.close()
    await finish(runner, turn)

    ids = [event.id for event in found]
    assert ids == sorted(set(ids))
    assert conversation.readers == 0
    assert orjson.loads(found[-1].json)["text"] == "abc"


async def test_a_reader_that_comes_in_the_middle_has_turn_answering_too(
    log: JsonlLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a", gate), tmp_path)
    turn = await runner.start(asked())
    conversation = await log.conversation(ADDRESS)
    while not turn.text():  # type: ignore[union-attr]
        await asyncio.sleep(0)
    turn.flush()  # type: ignore[union-attr]

    for _ in range(3):  # each leaving lets the log forget what the file has
        found = await take_all(conversation, "0")
        assert [event.type for event in found] == ["turn.started", "turn.answering", "delta"]
    gate.set()
    await finish(runner, turn)


async def test_a_turns_reader_sees_its_own_turn_only(log: JsonlLog, tmp_path: Path) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    provider = Scripted("a", gates[0], "A").then("b", gates[1], "B")
    runner = run_with(log, provider, tmp_path)
    conversation = await log.conversation(ADDRESS)
    await say(run_with(log, Scripted("old"), tmp_path), "q", "turn-0000")
    turns = [await runner.start(asked(turn_id=f"turn-000{n}")) for n in (1, 2)]
    signal = Signal()
    reader = Subscriber(conversation, Start(BEGINNING), signal.set, turns[0])  # type: ignore[arg-type]
    found: list[Encoded] = []
    for gate in reversed(gates):
        gate.set()
    while not reader.ended:
        events = await reader.take()
        found += events
        if not events:
            await signal.wait()
    reader.close()

    assert {event.turn_id for event in found} == {"turn-0001"}
    assert (found[0].type, found[-1].type) == ("turn.started", "turn.completed")
    for turn in turns:
        await finish(runner, turn)


async def test_a_reader_passes_over_nothing_that_is_not_durable_yet(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    await say(runner, "q", "turn-0001")
    conversation = await log.conversation(ADDRESS)
    reader = Subscriber(conversation, Start(conversation.last_id), nothing)
    held = HeldSync(monkeypatch)
    starting = asyncio.ensure_future(runner.start(asked(turn_id="turn-0002")))
    await until(lambda: bool(conversation.running))
    assert await reader.take() == []
    reader.close()  # the last one: memory lets go of what the file has
    assert await reader.take() == []
    held.go.set()
    await finish(runner, await starting)

    assert [event.type for event in await reader.take()] == ["turn.started", "turn.completed"]


async def test_of_turns_that_run_a_new_reader_comes_in_before_the_oldest(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a", asyncio.Event()), tmp_path)
    first = await runner.start(asked())
    assert isinstance(first, LiveTurn)
    await runner.start(asked(turn_id="turn-0002"))
    conversation = await log.conversation(ADDRESS)
    assert conversation.resume_from() == before(first.started_id)

    await runner.cancel(ADDRESS, "turn-0001")
    assert first.started_id < conversation.resume_from()
    await runner.cancel(ADDRESS, "turn-0002")


async def test_a_reader_is_woken_when_a_clear_is_over(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    await say(runner, "q", "turn-0001")
    conversation = await log.conversation(ADDRESS)
    signal = Signal()
    reader = Subscriber(conversation, Start(conversation.last_id), signal.set)
    assert await reader.take() == []
    waiting = asyncio.ensure_future(signal.wait())
    await log.clear(conversation)
    await asyncio.wait_for(waiting, 5)
    assert [event.type for event in await reader.take()] == ["history.cleared"]
    reader.close()


async def test_cursors_are_good_from_the_logs_creation_to_the_newest_id_ever_given(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    conversation = await log.conversation(ADDRESS)
    assert is_good(conversation, "0", log.last_id)
    assert not is_good(conversation, "", log.last_id)
    await say(runner, "q", "turn-0001")
    created, last = conversation.created, log.last_id
    assert created is not None

    for cursor in ("0", created, last, conversation.last_id):
        assert is_good(conversation, cursor, last), cursor
    later = event_id(place(last) + 1)
    for cursor in (before(created), later, "x", "00", created + " ", created[:-1] + "٣"):
        assert not is_good(conversation, cursor, last), cursor


async def test_after_an_erasure_only_its_last_id_is_good(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    old = (await say(runner, "q", "turn-0001")).terminal["id"]
    conversation = await log.conversation(ADDRESS)
    await log.erase(conversation)

    assert not is_good(conversation, old, log.last_id)
    assert is_good(conversation, conversation.last_id, log.last_id)
    await say(runner, "q", "turn-0002")
    assert not is_good(conversation, old, log.last_id)


async def test_after_an_erasure_and_a_restart_no_old_cursor_is_good(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        runner = run_with(log, Scripted("a"), tmp_path)
        old = (await say(runner, "q", "turn-0001")).terminal["id"]
        conversation = await log.conversation(ADDRESS)
        await log.erase(conversation)
        seen = conversation.last_id

    async with open_log(tmp_path, "terminal") as log:
        conversation = await log.conversation(ADDRESS)
        for cursor in (old, seen):
            start = start_of_conversation(conversation, cursor, log.last_id)
            assert start == Start(BEGINNING, reset=True)
        assert is_good(conversation, BEGINNING, log.last_id)


async def test_streams_start_where_they_must(log: JsonlLog, tmp_path: Path) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a").then("b", gate), tmp_path)
    conversation = await log.conversation(ADDRESS)
    end = (await say(runner, "q", "turn-0001")).terminal["id"]
    assert start_of_conversation(conversation, None, log.last_id) == Start(end)
    turn = await runner.start(asked(turn_id="turn-0002"))
    started_id = turn.started_id  # type: ignore[union-attr]
    just_before = before(started_id)

    assert start_of_conversation(conversation, None, log.last_id) == Start(just_before)
    assert start_of_conversation(conversation, "0", log.last_id) == Start(BEGINNING)
    assert start_of_conversation(conversation, "x", log.last_id) == Start(just_before, reset=True)
    assert start_of_turn(conversation, started_id, None, log.last_id) == Start(just_before)
    assert start_of_turn(conversation, started_id, end, log.last_id) == Start(end)
    assert start_of_turn(conversation, started_id, "x", log.last_id) == Start(just_before, True)
    gate.set()
    await finish(runner, turn)
