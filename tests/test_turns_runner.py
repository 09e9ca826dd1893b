"""Turns are started once and ended once: a real log, scripted providers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatstream.errors import (
    BadRequest,
    Conflict,
    NotFound,
    StorageFailed,
    StorageFull,
    TooManyRequests,
    Unavailable,
)
from chatstream.events import Address, Json, TurnId, place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log
from chatstream.metrics import Metrics
from chatstream.providers import Message, Reasoning
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.settings import Settings
from chatstream.turns.runner import EndedTurn, TurnRunner
from chatstream.turns.terminal import Why
from chatstream.views.turn import find_records
from tests.log_steps import HeldSync, everything, home, until
from tests.logged import ADDRESS, asked, finish, run_with, say

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def test_a_turn_of_one_id_is_started_once_however_many_ask(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("a")
    runner = run_with(log, provider, tmp_path)

    turns = await asyncio.gather(*(runner.start(asked()) for _ in range(20)))

    assert len({id(turn) for turn in turns}) == 1
    ended = await finish(runner, turns[0])
    assert await runner.start(asked()) == ended
    assert len(provider.requests) == 1


async def test_of_two_bodies_at_once_one_is_the_turn_and_the_other_a_conflict(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("a")
    runner = run_with(log, provider, tmp_path)

    first, second = await asyncio.gather(
        runner.start(asked("one")), runner.start(asked("two")), return_exceptions=True
    )

    assert isinstance(first, LiveTurn)
    assert isinstance(second, Conflict)
    assert second.turn_id == "turn-0001"
    assert (await finish(runner, first)).started["message"]["content"] == "one"


async def test_a_caller_that_leaves_while_it_starts_leaves_a_turn_that_runs(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    caller = asyncio.ensure_future(runner.start(asked()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    ended = await finish(runner, await runner.start(asked()))
    assert ended.terminal["text"] == "a"


async def test_a_caller_that_leaves_while_its_message_is_written_leaves_no_turn_that_nobody_runs(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    await say(runner, "q", "turn-0000")
    conversation = await log.conversation(ADDRESS)
    held = HeldSync(monkeypatch)
    caller = asyncio.ensure_future(runner.start(asked()))
    await until(lambda: conversation.live("turn-0001") is not None)
    caller.cancel()
    await asyncio.wait([caller])
    held.go.set()

    turn = await runner.get(ADDRESS, "turn-0001")
    assert (await asyncio.wait_for(finish(runner, turn), 5)).terminal["text"] == "a"


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancel_at_any_moment_ends_the_turn(
    log: JsonlLog, tmp_path: Path, steps: int
) -> None:
    runner = run_with(log, Scripted("a", asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    for _ in range(steps):
        await asyncio.sleep(0)

    ended = await runner.cancel(ADDRESS, "turn-0001")

    assert isinstance(ended, EndedTurn)
    assert ended.terminal["type"] == "turn.cancelled"
    assert not runner.running or turn.done.done()  # type: ignore[union-attr]


async def test_cancelling_what_has_ended_changes_nothing(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    ended = await say(runner, "q", "turn-0001")

    assert await runner.cancel(ADDRESS, "turn-0001") == ended
    with pytest.raises(NotFound):
        await runner.cancel(Address("other", "default"), "turn-0001")


async def test_cancels_at_once_are_one_end(log: JsonlLog, tmp_path: Path) -> None:
    provider = Scripted("a", asyncio.Event())
    runner = run_with(log, provider, tmp_path)
    await runner.start(asked())

    ends = await asyncio.gather(*(runner.cancel(ADDRESS, "turn-0001") for _ in range(5)))

    assert all(end == ends[0] for end in ends)
    assert provider.running == 0


async def test_starts_at_once_take_no_more_places_than_there_are(
    log: JsonlLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted(gate), tmp_path, max_turns=3)

    turns = await asyncio.gather(
        *(runner.start(asked(turn_id=f"turn-{n:04}")) for n in range(10)), return_exceptions=True
    )

    running = [turn for turn in turns if isinstance(turn, LiveTurn)]
    refused = [turn for turn in turns if isinstance(turn, Unavailable)]
    assert (len(running), len(refused)) == (3, 7)
    gate.set()
    for turn in running:
        await finish(runner, turn)
    await say(runner, "q", "turn-9999")


async def test_a_users_places_are_his_own(log: JsonlLog, tmp_path: Path) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted(gate), tmp_path, max_turns_per_user=1)
    await runner.start(asked())

    with pytest.raises(TooManyRequests) as caught:
        await runner.start(asked(turn_id="turn-0002", conversation_id="other"))
    assert {"RateLimit", "RateLimit-Policy"} == set(caught.value.headers)
    assert isinstance(await runner.start(asked(user_id="b")), LiveTurn)
    assert isinstance(await runner.start(asked()), LiveTurn)  # attaching takes no place
    gate.set()


async def test_a_refused_start_makes_no_file(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)

    def full() -> None:
        raise StorageFull("full")

    monkeypatch.setattr(log._disk, "admit", full)
    with pytest.raises(StorageFull):
        await runner.start(asked())
    monkeypatch.undo()
    assert (await log.conversation(ADDRESS)).created is None
    await say(runner, "another", "turn-0001")


async def test_what_is_refused_cancels_nothing(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted(gate), tmp_path)
    first = await runner.start(asked())

    def full() -> None:
        raise StorageFull("full")

    monkeypatch.setattr(log._disk, "admit", full)
    with pytest.raises(StorageFull):
        await runner.start(asked(turn_id="turn-0002", replaces="turn-0001"))
    assert not first.done.done()  # type: ignore[union-attr]
    gate.set()


async def test_replacing_cancels_what_runs_from_there_on_first(
    log: JsonlLog, tmp_path: Path
) -> None:
    stays = asyncio.Event()
    provider = Scripted(stays).then(asyncio.Event()).then(asyncio.Event()).then("new")
    runner = run_with(log, provider, tmp_path)
    for number in range(3):
        await runner.start(asked(turn_id=f"turn-000{number}"))

    new = await say(runner, "edited", "turn-0009", replaces="turn-0001")

    for number, status in ((0, "running"), (1, "cancelled"), (2, "cancelled")):
        found = await runner.get(ADDRESS, f"turn-000{number}")
        assert runner.snapshot(found)["status"] == status
    assert (new.started["kind"], new.started["replaces"]) == ("edit", "turn-0001")
    again = await runner.start(asked("edited", "turn-0009", replaces="turn-0001"))
    assert again == new
    stays.set()


async def test_draining_waits_for_what_runs_and_refuses_what_is_new(
    log: JsonlLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a", gate), tmp_path)
    turn = await runner.start(asked())
    draining = asyncio.ensure_future(runner.drain(10))
    await asyncio.sleep(0)

    with pytest.raises(Unavailable):
        await runner.start(asked(turn_id="turn-0002"))
    assert await runner.start(asked()) is turn
    gate.set()
    await draining
    assert (await finish(runner, turn)).terminal["type"] == "turn.completed"


async def test_at_the_end_turns_are_interrupted_also_one_that_is_just_starting(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a", asyncio.Event()), tmp_path)
    await runner.start(asked())
    starting = asyncio.ensure_future(runner.start(asked(turn_id="turn-0002")))
    while (await log.conversation(ADDRESS)).live("turn-0002") is None:
        await asyncio.sleep(0)

    await runner.drain(0)

    assert not runner.running
    for turn in ("turn-0001", "turn-0002"):
        found = await runner.get(ADDRESS, turn)
        assert isinstance(found, EndedTurn)
        assert found.terminal["type"] == "turn.interrupted"
    await starting


async def test_a_snapshot_is_the_fold_up_to_its_last_id(log: JsonlLog, tmp_path: Path) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a", "b", gate, "c"), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    conversation = await log.conversation(ADDRESS)
    woken = asyncio.Event()
    conversation.watch(woken.set)
    while turn.text("text", conversation.visible) != b"ab":
        await woken.wait()
        woken.clear()
    conversation.unwatch(woken.set)

    now = runner.snapshot(turn)
    assert (now["status"], now["last_id"]) == ("running", conversation.last_id)
    gate.set()
    ended = runner.snapshot(await finish(runner, turn))

    assert (ended["status"], ended["text"]) == ("completed", "abc")
    assert ended["last_id"] > now["last_id"]
    assert ended["message"] == now["message"] == {"role": "user", "content": "q"}


async def test_a_turn_whose_end_is_damaged_reads_as_interrupted_and_whose_start_as_missing(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    await say(runner, "q", "turn-0001")
    await say(runner, "q", "turn-0002")
    (path,) = tmp_path.rglob("users/*/*.jsonl")
    lines = path.read_bytes().split(b"\n")
    for index in (2, 3):  # the end of the first, the start of the second
        lines[index] = b"#" * len(lines[index])
    path.write_bytes(b"\n".join(lines))

    found = await runner.get(ADDRESS, "turn-0001")
    assert runner.snapshot(found)["status"] == "interrupted"
    with pytest.raises(NotFound):
        await runner.get(ADDRESS, "turn-0002")


async def test_a_start_that_was_taken_stands_when_its_provider_is_gone(
    log: JsonlLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    own = Scripted("a", gate, name="own")
    providers = Providers({"own": own, "scripted": Scripted("b")}, "scripted")
    settings = Settings(data_dir=tmp_path)
    runner = TurnRunner(log, providers, settings, Metrics())
    turn = await runner.start(asked(provider="own"))
    del providers.by_name["own"]

    assert await runner.start(asked(provider="own")) is turn
    gate.set()
    ended = await finish(runner, turn)
    assert await runner.start(asked(provider="own")) == ended
    assert len(own.requests) == 1
    with pytest.raises(Conflict):
        await runner.start(asked("another", provider="own"))


async def test_a_start_with_an_unknown_provider_uses_no_id_up_and_cancels_nothing(
    log: JsonlLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a", gate), tmp_path)
    with pytest.raises(BadRequest) as caught:
        await runner.start(asked(turn_id="turn-0002", provider="gone"))
    assert (caught.value.status, caught.value.code) == (400, "unknown_provider")
    assert (await log.conversation(ADDRESS)).created is None
    first = await runner.start(asked())

    with pytest.raises(BadRequest):
        await runner.start(asked(turn_id="turn-0002", provider="gone", replaces="turn-0001"))

    assert not first.done.done()  # type: ignore[union-attr]
    gate.set()
    await finish(runner, first)
    assert (await say(runner, "now", "turn-0002")).terminal["type"] == "turn.completed"


@pytest.mark.parametrize("way", ["cancel", "wait"])
async def test_who_leaves_while_waiting_for_an_end_takes_nobody_along_and_is_no_reader(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    runner = run_with(log, Scripted("a", gate := asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    held = HeldSync(monkeypatch)

    def waiting() -> asyncio.Future[object]:
        waits = runner.wait(turn) if way == "wait" else runner.cancel(ADDRESS, turn.turn_id)
        return asyncio.ensure_future(waits)

    leaving, staying = waiting(), waiting()
    if way == "wait":
        gate.set()
        await until(lambda: turn.conversation.readers == 2)
    await until(lambda: turn.ended)
    leaving.cancel()
    await asyncio.wait([leaving])
    if way == "wait":
        assert turn.conversation.readers == 1
    held.go.set()

    await staying
    assert turn.conversation.readers == 0
    assert (await finish(runner, turn)).terminal["text"] == "a"


async def test_a_snapshot_shows_no_more_than_its_last_id_says(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    provider = Scripted("a", Reasoning("A"), gate, "b", Reasoning("B"), asyncio.Event()).then("c")
    runner = run_with(log, provider, tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.text("reasoning", turn.conversation.visible) == b"A")
    held = HeldSync(monkeypatch)
    later = asyncio.ensure_future(runner.start(asked(turn_id="turn-0002")))
    await until(lambda: len(home(turn).running) == 2)
    gate.set()
    await until(lambda: turn.size == 4)
    await asyncio.sleep(0)

    now = orjson.loads(orjson.dumps(runner.snapshot(turn)))
    assert (now["text"], now["reasoning"]) == ("a", "A")
    events = await everything(turn.conversation, place(now["last_id"]))
    assert events == []
    held.go.set()
    await later
    after = orjson.loads(orjson.dumps(runner.snapshot(turn)))
    assert (after["text"], after["reasoning"]) == ("ab", "AB")
    await runner.cancel(ADDRESS, "turn-0001")


async def test_a_replacement_that_is_asked_for_again_cancels_nothing_that_came_after_it(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("old").then("new").then("later", gate := asyncio.Event())
    runner = run_with(log, provider, tmp_path)
    await say(runner, "q", "turn-0001")
    replaced = await say(runner, "edited", "turn-0002", replaces="turn-0001")
    later = await runner.start(asked(turn_id="turn-0003"))

    assert await runner.start(asked("edited", "turn-0002", replaces="turn-0001")) == replaced
    gate.set()
    assert (await finish(runner, later)).terminal["type"] == "turn.completed"


async def test_of_what_begins_beside_a_replacement_only_what_came_before_it_is_cancelled(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("old").then(asyncio.Event()), tmp_path)
    await say(runner, "q", "turn-0001")
    real = Conversation.start
    before: list[LiveTurn | EndedTurn] = []

    async def just_after_another(
        self: Conversation, turn_id: TurnId, *given: Any, **named: Any
    ) -> Any:
        if turn_id == "turn-0003":
            before.append(await runner.start(asked(turn_id="turn-0002")))
        return await real(self, turn_id, *given, **named)

    monkeypatch.setattr(Conversation, "start", just_after_another)
    await runner.start(asked("edited", "turn-0003", replaces="turn-0001"))
    await runner.start(asked(turn_id="turn-0004"))

    assert (await finish(runner, before[0])).terminal["type"] == "turn.cancelled"
    for turn_id in ("turn-0003", "turn-0004"):
        assert runner.snapshot(await runner.get(ADDRESS, turn_id))["status"] == "running"
        await runner.cancel(ADDRESS, turn_id)


@pytest.mark.parametrize("steps", range(8))
async def test_what_is_replaced_stops_even_as_it_begins(
    log: JsonlLog, tmp_path: Path, steps: int
) -> None:
    runner = run_with(log, Scripted("old", asyncio.Event()).then("new"), tmp_path)
    first = asyncio.ensure_future(runner.start(asked()))
    await until(lambda: bool(runner.running))
    for _ in range(steps):
        await asyncio.sleep(0)
    await say(runner, "edited", "turn-0002", replaces="turn-0001")

    assert (await finish(runner, await first)).terminal["type"] == "turn.cancelled"


async def test_a_turn_that_ends_while_its_records_are_read_is_what_it_became(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    ended = await say(runner, "q", "turn-0001")
    looks = 0

    async def as_it_was(conversation: Conversation, turn_id: str) -> list[Json]:
        nonlocal looks
        looks += 1
        return (await find_records(conversation, turn_id))[: 1 if looks == 1 else None]

    monkeypatch.setattr("chatstream.turns.runner.find_records", as_it_was)
    assert await runner.get(ADDRESS, "turn-0001") == ended
    looks = 0
    monkeypatch.setattr("chatstream.turns.runner.find_records", cleared_after(as_it_was, log))
    with pytest.raises(NotFound):
        await runner.get(ADDRESS, "turn-0001")


def cleared_after(find: Any, log: JsonlLog) -> Any:
    async def found(conversation: Conversation, turn_id: str) -> list[Json]:
        records: list[Json] = await find(conversation, turn_id)
        await log.clear(conversation)
        return records

    return found


async def test_a_turn_that_begins_while_it_is_looked_for_is_found(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a", asyncio.Event()), tmp_path)
    live = Conversation.live
    looks = 0

    def not_yet(conversation: Conversation, turn_id: str) -> LiveTurn | None:
        nonlocal looks
        looks += 1
        return None if looks == 1 else live(conversation, turn_id)

    turn = await runner.start(asked())
    monkeypatch.setattr(Conversation, "live", not_yet)
    assert await runner.get(ADDRESS, "turn-0001") is turn
    await runner.cancel(ADDRESS, "turn-0001")


@pytest.mark.parametrize("steps", range(4))
async def test_what_was_wanted_first_is_how_it_ends(
    log: JsonlLog, tmp_path: Path, steps: int
) -> None:
    runner = run_with(log, Scripted("a", asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    runner.running[turn].stop(Why("turn.cancelled", "user"))
    for _ in range(steps):
        await asyncio.sleep(0)
    await runner.interrupt()

    ended = (await finish(runner, turn)).terminal
    assert (ended["type"], ended["reason"]) == ("turn.cancelled", "user")


async def test_a_place_that_was_taken_for_a_start_that_failed_is_free_again(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Scripted("a")
    runner = run_with(log, provider, tmp_path, max_turns=1, max_turns_per_user=1)
    await say(runner, "q", "turn-0000")
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(5, "broken")
        held.go.set()
        for _ in range(3):
            with pytest.raises(StorageFailed):
                await runner.start(asked())

    assert (await say(runner, "q", "turn-0001")).terminal["type"] == "turn.completed"
    await asyncio.wait_for(runner.drain(1), 5)


async def test_a_turn_that_has_started_holds_its_place_at_the_provider_from_then_on(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Scripted("a")
    provider.concurrency = 1  # type: ignore[attr-defined]
    runner = run_with(log, provider, tmp_path, max_queued=0)
    read = asyncio.Event()

    async def slowly(*_: object) -> list[Message]:
        await read.wait()
        return []

    monkeypatch.setattr("chatstream.turns.runner.context", slowly)
    turn = await runner.start(asked())
    with pytest.raises(Unavailable):
        await runner.start(asked(turn_id="turn-0002"))
    read.set()
    assert (await finish(runner, turn)).terminal["text"] == "a"
    await say(runner, "q", "turn-0002")


async def test_a_turn_that_ends_before_its_provider_was_asked_holds_no_place_there(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Scripted("a")
    provider.concurrency = 1  # type: ignore[attr-defined]
    runner = run_with(log, provider, tmp_path, max_queued=0)

    async def unreadable(*_: object) -> list[Message]:
        raise StorageFailed("The file cannot be read.")

    with monkeypatch.context() as patch:
        patch.setattr("chatstream.turns.runner.context", unreadable)
        failed = await say(runner, "q", "turn-0001")
    assert (failed.terminal["type"], provider.requests) == ("turn.failed", [])

    assert (await say(runner, "q", "turn-0002")).terminal["text"] == "a"
