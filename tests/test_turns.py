"""Turns are started once and ended once: a real log, scripted providers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatstream.errors import (
    BadRequest,
    Conflict,
    NotFound,
    StorageFull,
    TooManyRequests,
    Unavailable,
)
from chatstream.events import Address
from chatstream.log.jsonl import JsonlLog, open_log
from chatstream.log.live_turn import LiveTurn
from chatstream.metrics import Metrics
from chatstream.providers.routing import Providers
from chatstream.providers.scripted import Scripted
from chatstream.settings import Settings
from chatstream.turns import EndedTurn, TurnRunner
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
    settings = Settings(_env_file=None, data_dir=tmp_path)
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
